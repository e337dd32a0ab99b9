"""A merchant's folder, made: everything checked first, nothing replaced, the configuration last."""

from __future__ import annotations

import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agreement.node_keys import fingerprint_of, new_node_key, private_text, public_text
from client.home import MerchantPaths, merchant_paths
from client.merchant_toml import Answers, merchant_toml
from client.settings import SECTIONS, blanks, read_section
from daemons.files import write_private
from pp_model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NewMerchant:
    """What was made.

    Attributes:
        public_key: one line, for the platform.
        blanks: keys of merchant.toml that are still to be filled in.
        proposed: our column name -> the export's, guessed from the header.
    """

    config: Path
    paths: MerchantPaths
    public_key: str
    fingerprint: str
    plan_key: str
    platform: str
    blanks: tuple[str, ...]
    proposed: Mapping[str, str]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "config": str(self.config),
            "public_key_file": str(self.paths.node_public),
            "public_key": self.public_key,
            "fingerprint": self.fingerprint,
            "plan_key": self.plan_key,
            "blanks": list(self.blanks),
            "proposed_columns": dict(self.proposed),
        }

    def lines(self) -> list[str]:
        """The same for a person, with the next step."""
        steps = [
            f"Compare the platform's plan-signing key with what {self.platform} tells you by telephone or contract, "
            "not by the way the invitation came:",
            f"Send {self.paths.node_public} to {self.platform}; it is not secret. Its fingerprint, to be compared:",
            f"Check everything: pp-client doctor --config {self.config}",
        ]
        below = [self.plan_key, f"{self.fingerprint}\n     {self.public_key}", ""]
        if self.blanks:
            steps.insert(0, f"Fill in {_count(len(self.blanks), 'blank')} of {self.config}:")
            below.insert(0, ", ".join(self.blanks))
        if self.proposed:
            pairs = ", ".join(f"{ours} = {theirs}" for ours, theirs in self.proposed.items())
            steps.insert(0, f"Look at the columns that were guessed from the header of the orders ({self.config}):")
            below.insert(0, pairs)
        root = self.config.parent
        made = [
            f"Made {root}, readable by you alone:",
            f"  {self.config.name:<16}the configuration, with a comment at every key",
            "  keys/node.key   your private key; it stays here",
            "  keys/node.pub   your public key; the platform needs it",
            "  keys/ca.crt     the authority behind the platform's certificate",
            "  secrets/        between the daemon's own processes",
            "",
            "Next:",
        ]
        for number, (step, what) in enumerate(zip(steps, below, strict=True), start=1):
            made += [f"  {number}. {step}", *([f"     {what}"] if what else [])]
        return made


def make_merchant(folder: Path, answers: Answers) -> NewMerchant:
    """A new merchant's folder. Whatever can be checked is, before the first file is written.

    Raises:
        ConfigError: an answer that the configuration does not take, or a file that would be replaced.
        PrivateFileError: such a file that came in between.
    """
    text = merchant_toml(answers)
    try:
        data, table = text.encode(), tomllib.loads(text)
    except (UnicodeEncodeError, tomllib.TOMLDecodeError):
        raise ConfigError("an answer has characters that no file can hold; use letters, digits and spaces") from None
    left = blanks(table)
    for name in SECTIONS:
        if not any(blank.startswith(f"{name}.") for blank in left):
            read_section(table, name)
    config = folder / "merchant.toml"
    paths = merchant_paths(folder, period=answers.period or "unnamed")
    for path in (config, paths.node_key, paths.node_public, paths.ca, paths.runtime_secret):
        if path.exists():
            raise ConfigError(f"{path} exists and is left as it is; choose another DIR, or move it away first")
    for place in paths.folders:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = new_node_key()
    public = public_text(key.public_key())
    write_private(paths.node_key, private_text(key))
    write_private(paths.runtime_secret, secrets.token_urlsafe(32).encode())
    for path, content in ((paths.node_public, public + b"\n"), (paths.ca, _pem(answers)), (config, data)):
        write_private(path, content)
    return NewMerchant(
        config=config,
        paths=paths,
        public_key=public.decode(),
        fingerprint=fingerprint_of(key.public_key()),
        plan_key=answers.invitation.plan_key,
        platform=answers.invitation.platform,
        blanks=tuple(left),
        proposed=answers.proposed,
    )


def _pem(answers: Answers) -> bytes:
    return answers.invitation.ca_certificate.strip().encode() + b"\n"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
