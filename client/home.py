"""The merchant's folder: where each file is. Private files have mode 600, folders 700."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pp_model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MerchantPaths:
    """Every file of one merchant.

    Attributes:
        root: the folder of merchant.toml.
        ca: certificates of the authority behind the platform's certificate, in PEM.
        node_key, node_public: the key pair in OpenSSH's formats; the public half is what the platform registers.
        runtime_secret: what the runner shows to the SuperNode of this machine.
        ledger: of the configured period; each period has a file of its own.
        market: the federation's quantiles, signed; not there where the platform published none.
        insight: the reports, a folder a cutoff.
        insight_options: what the merchant states for them; it need not be there.
    """

    root: Path
    ca: Path
    node_key: Path
    node_public: Path
    runtime_secret: Path
    ledger: Path
    agreements: Path
    models: Path
    scores: Path
    market: Path
    insight: Path
    insight_options: Path
    log: Path
    flower_home: Path

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that hold them, outer ones first."""
        names = ("keys", "secrets", "state", "log")
        return (self.root, *(self.root / name for name in names), self.models, self.flower_home)


def merchant_paths(root: Path, *, period: str, ca_certificate: str = "keys/ca.crt") -> MerchantPaths:
    """The files below `root`.

    Args:
        period: name of the budget's period.
        ca_certificate: relative to `root`, or absolute.

    Raises:
        ConfigError: the period's name has neither letter nor digit.
    """
    return MerchantPaths(
        root=root,
        ca=root / ca_certificate,
        node_key=root / "keys" / "node.key",
        node_public=root / "keys" / "node.pub",
        runtime_secret=root / "secrets" / "runtime",
        ledger=root / "state" / f"ledger-{slug(period)}.sqlite",
        agreements=root / "state" / "agreements.sqlite",
        models=root / "state" / "models",
        scores=root / "state" / "scores",
        market=root / "state" / "market.json",
        insight=root / "state" / "insight",
        insight_options=root / "insight.toml",
        log=root / "log" / "client.jsonl",
        flower_home=root / "flower",
    )


def slug(name: str) -> str:
    """`name` as a part of a file's name: lower-case letters, digits and hyphens.

    Raises:
        ConfigError: nothing of it is left.
    """
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not text:
        raise ConfigError(f"period.name is {name!r}; expected a name with letters a to z or digits, such as 2026-h1")
    return text
