"""What pp-client doctor looks at, part one: how a check reports, the configuration, its files and keys, this machine.

Each check is a function of its own. It writes nothing, and what goes wrong in it is a finding, never the end of the
others. Nothing that a check says has a cell of the orders in it.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from packaging.requirements import Requirement

from agreement.node_keys import fingerprint_of, load_private, load_public
from agreement.signing import VerifyKey
from client.home import MerchantPaths, merchant_paths
from client.orders import Orders
from client.policy import Policy
from client.preflight import ServerIdentity
from client.settings import (
    BLANK,
    SECTIONS,
    LocalSettings,
    MerchantSettings,
    OrdersSettings,
    Period,
    PlatformSettings,
    blanks,
    load_settings,
    read_section,
    read_table,
)
from daemons.files import check_private
from pp_model.errors import ConfigError, PurchasePowerError

PACKAGE = "purchase-power"
LEAST_FREE_BYTES, USUAL_FREE_BYTES = 200 * 2**20, 2 * 2**30
SOON = dt.timedelta(days=30)


class Level(StrEnum):
    """How a finding stands. `SKIPPED`: not looked at, since something before it has to be mended first."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report: what was found, and, unless all is well, what to do."""

    check: str
    level: Level
    text: str


class SkippedError(Exception):
    """A check that cannot be made before something else is mended."""


@dataclass(kw_only=True)
class Examination:
    """What is examined, and what the checks before have found out for the ones after.

    Attributes:
        now: in UTC.
        identity: the platform, once it proved who it is.
        offers: signed offers of the platform, once it gave them.
        orders: once they were read.
    """

    config: Path
    now: dt.datetime
    quick: bool = False
    identity: ServerIdentity | None = None
    offers: list[bytes] | None = None
    orders: Orders | None = field(default=None, repr=False)

    @cached_property
    def table(self) -> Mapping[str, Any]:
        """The configuration's tables; empty where the file cannot be read."""
        try:
            return read_table(self.config)
        except ConfigError:
            return {}

    @cached_property
    def settings(self) -> MerchantSettings:
        """The whole configuration; asking for one with a fault skips the check."""
        try:
            return load_settings(self.config)
        except PurchasePowerError:
            raise SkippedError("mend the configuration first") from None

    @property
    def platform(self) -> PlatformSettings:
        """The table [platform]."""
        found: PlatformSettings = self._section("platform")
        return found

    @property
    def order_settings(self) -> OrdersSettings:
        """The table [orders]."""
        found: OrdersSettings = self._section("orders")
        return found

    @property
    def local(self) -> LocalSettings:
        """The table [local]."""
        found: LocalSettings = self._section("local")
        return found

    @property
    def policy(self) -> Policy:
        """The table [policy]."""
        found: Policy = self._section("policy")
        return found

    @property
    def period(self) -> Period:
        """The table [period]."""
        found: Period = self._section("period")
        return found

    @property
    def home(self) -> Path:
        """The merchant's folder."""
        return self.config.absolute().parent

    @property
    def paths(self) -> MerchantPaths:
        """The merchant's files, as far as the configuration can be read."""
        table = self.table.get("period")
        name = table.get("name") if isinstance(table, Mapping) else None
        try:
            return merchant_paths(self.home, period=str(name), ca_certificate=self.platform.ca_certificate)
        except (SkippedError, PurchasePowerError):
            return merchant_paths(self.home, period="unnamed")

    def node_key(self) -> ec.EllipticCurvePrivateKey:
        """The node key, whoever can read it: that has a line of its own.

        Raises:
            ConfigError: not there, or no key.
        """
        try:
            return load_private(self.paths.node_key.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{self.paths.node_key} cannot be read ({error.strerror}). Restore it from your backup, or make a new "
                "folder with pp-client init and have its keys/node.pub registered."
            ) from None

    def _section(self, name: str) -> Any:
        try:
            return read_section(self.table, name)
        except PurchasePowerError:
            raise SkippedError(f"mend [{name}] of the configuration first") from None


Check = Callable[[Examination], Iterable[Finding]]


def findings(name: str, check: Check, examination: Examination) -> Iterator[Finding]:
    """What one check finds; whatever it raises is a finding too."""
    try:
        yield from check(examination)
    except SkippedError as reason:
        yield Finding(check=name, level=Level.SKIPPED, text=f"not checked: {reason}")
    except PurchasePowerError as error:
        yield Finding(check=name, level=Level.FAULT, text=str(error))
    except OSError as error:
        yield Finding(
            check=name,
            level=Level.FAULT,
            text=f"{error.filename or 'the system'}: {error.strerror}. Check path and mode.",
        )
    except Exception as error:  # its text may quote a cell
        text = (
            f"could not be checked: {type(error).__name__}. Please report it; the other checks are not touched by it."
        )
        yield Finding(check=name, level=Level.FAULT, text=text)


def check_configuration(examination: Examination) -> Iterator[Finding]:
    """merchant.toml: a line for each of its tables that has a fault."""
    table = read_table(examination.config)
    faults = [f"to fill in, where it says {BLANK}: {name}" for name in blanks(table) if "." not in name]
    for name in SECTIONS:
        try:
            read_section(table, name)
        except PurchasePowerError as error:
            faults.append(str(error))
    if not faults:
        load_settings(examination.config)  # what is between the tables
    for text in faults:
        yield fault("configuration", f"{examination.config}: {text}")
    if not faults:
        yield ok("configuration", f"{examination.config} has every key, and none that is not known")


def check_files(examination: Examination) -> Iterator[Finding]:
    """What is private is there and private."""
    paths = examination.paths
    private = [paths.node_key.parent, paths.runtime_secret.parent, paths.agreements.parent]
    private += [paths.node_key, paths.runtime_secret]
    private += [path for path in (paths.ledger, paths.agreements, paths.log) if path.exists()]
    faults = list(_private_faults(private))
    yield from faults
    if not faults:
        yield ok("files", f"{len(private)} private files and folders, open to you alone")


def _private_faults(paths: Iterable[Path]) -> Iterator[Finding]:
    for path in paths:
        try:
            check_private(path)
        except PurchasePowerError as error:
            yield fault("files", str(error))
        except OSError as error:
            yield fault("files", f"{path}: {error.strerror}. Run this as the daemon's own user, or check the modes.")


def check_node_key(examination: Examination) -> Iterator[Finding]:
    """The node key is one, and node.pub is its other half."""
    paths = examination.paths
    fingerprint = fingerprint_of(examination.node_key().public_key())
    if fingerprint_of(load_public(paths.node_public.read_bytes())) != fingerprint:
        yield fault(
            "node key",
            f"{paths.node_public} is not the public half of {paths.node_key}. Restore both from one backup, or run: "
            f"ssh-keygen -y -f {paths.node_key} > {paths.node_public}",
        )
    else:
        yield ok("node key", fingerprint)


def check_pinned(examination: Examination) -> Iterator[Finding]:
    """What the platform is recognised by: its plan-signing key, and the authority behind its certificate."""
    settings = examination.platform
    VerifyKey.from_text(settings.plan_key)
    yield ok("plan key", f"{settings.plan_key}, to be compared with the platform's by telephone")
    authority = examination.paths.ca
    try:
        certificates = x509.load_pem_x509_certificates(authority.read_bytes())
    except ValueError:
        raise ConfigError(f"{authority} holds no certificate; take it from the platform's invitation again") from None
    ends = min(certificate.not_valid_after_utc for certificate in certificates)
    yield validity("authority", f"the certificate in {authority.name}", ends, now=examination.now)


def validity(check: str, what: str, ends: dt.datetime, *, now: dt.datetime) -> Finding:
    """How long a certificate still holds."""
    days = (ends - now).days
    if ends <= now:
        return fault(check, f"{what} ended on {ends:%Y-%m-%d}. Ask the platform for a new invitation.")
    if ends - now < SOON:
        return warning(check, f"{what} ends on {ends:%Y-%m-%d}, in {count(days, 'day')}. Ask the platform to renew it.")
    return ok(check, f"{what} is valid until {ends:%Y-%m-%d}, {count(days, 'day')}")


def check_versions(examination: Examination) -> Iterator[Finding]:
    """The installed packages are those that this one was tested with."""
    del examination
    wrong = []
    for text in importlib.metadata.requires(PACKAGE) or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found == "none" or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {requirement.specifier} (installed: {found})")
    if wrong:
        yield fault("versions", f"needed: {', '.join(wrong)}. Run: pip install --upgrade {PACKAGE}")
    else:
        known = [f"{name} {importlib.metadata.version(name)}" for name in (PACKAGE, "flwr", "torch")]
        yield ok("versions", f"Python {platform.python_version()}, {', '.join(known)}")


def check_disk(examination: Examination) -> Iterator[Finding]:
    """There is room for the ledger: a full disk stops it, safely."""
    free = shutil.disk_usage(examination.home).free
    text = f"{free / 2**30:.1f} GiB free at {examination.home}"
    if free < LEAST_FREE_BYTES:
        yield fault("disk", f"{text}; needed: 0.2. The ledger refuses every task on a full disk: free some space.")
    elif free < USUAL_FREE_BYTES:
        yield warning("disk", f"{text}; usual: 2 or more. Free some space before the ledger refuses tasks.")
    else:
        yield ok("disk", text)


def check_device(examination: Examination) -> Iterator[Finding]:
    """What trains, tried."""
    import torch

    from pp_model.train import pick_device

    wanted = examination.local.device
    try:
        device = torch.device(pick_device(wanted))
        torch.ones(8, 8, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        text = (
            f'local.device is {wanted!r}, and PyTorch cannot use it ({reason}). Set device = "cpu", or mend the driver.'
        )
        yield fault("device", text)
        return
    if device.type == "cuda":
        yield ok("device", f"{device} ({torch.cuda.get_device_name(device)})")
    elif shutil.which("nvidia-smi") and not torch.cuda.is_available() and wanted == "auto":
        yield warning(
            "device",
            "there is an NVIDIA driver, and PyTorch cannot use it: the CPU trains. Install PyTorch for your CUDA "
            'version, or set local.device = "cpu".',
        )
    else:
        yield ok("device", f"{device.type}; enough for most shops")


def count(number: int, noun: str) -> str:
    """So many, with the plural where it belongs."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check=check, level=Level.OK, text=text)


def warning(check: str, text: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding(check=check, level=Level.WARNING, text=text)


def fault(check: str, text: str) -> Finding:
    """It does not work, or must not go on."""
    return Finding(check=check, level=Level.FAULT, text=text)
