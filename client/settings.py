"""A merchant's configuration, merchant.toml, read and checked; and what is opened with it. No secret is in it."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import ec

from agreement.node_keys import load_private
from agreement.signing import VerifyKey
from client.home import MerchantPaths, merchant_paths, slug
from client.ledger import Lineage, PrivacyLedger, open_ledger
from client.loopback import is_loopback
from client.policy import Policy
from client.sources import CsvSource, DataContract, OrderSource, ParquetSource, SqlSource
from daemons.files import check_private
from pp_model.config import from_mapping
from pp_model.errors import ConfigError, PurchasePowerError

BLANK = "FILL-IN"  # what pp-client init writes where only the merchant knows


@dataclass(frozen=True, kw_only=True)
class PlatformSettings:
    """The one platform that this merchant talks to, and how it is recognised.

    Attributes:
        address: host:port.
        plan_key: the pinned plan-signing key, as text.
        ca_certificate: file with the authority's certificate in PEM, relative to merchant.toml.
    """

    name: str
    address: str
    plan_key: str
    ca_certificate: str

    def __post_init__(self) -> None:
        VerifyKey.from_text(self.plan_key)
        host, colon, port = self.address.rpartition(":")
        if not (host and colon and _is_port(port)):
            raise ConfigError(f"platform.address is {self.address!r}; expected host:port, like pp.example.org:8443")


@dataclass(frozen=True, kw_only=True)
class OrdersSettings:
    """Where the orders are and how they are read.

    Attributes:
        file: of a CSV or Parquet, relative to merchant.toml.
        url: of a database, as SQLAlchemy writes it, without a password; see `client.sources.sql.database_url`.
        query: a single SELECT.
        password_file: holds the database's password and nothing else; mode 600; relative to merchant.toml.
    """

    kind: Literal["csv", "parquet", "sql"]
    file: str = ""
    url: str = ""
    query: str = ""
    password_file: str = ""
    contract: DataContract = field(default_factory=DataContract)

    def __post_init__(self) -> None:
        wanted = ("url", "query") if self.kind == "sql" else ("file",)
        others = {"file", "url", "query", "password_file"} - {*wanted, *(["password_file"] * (self.kind == "sql"))}
        for name in wanted:
            if not getattr(self, name):
                raise ConfigError(f"orders.{name} is empty; orders of kind {self.kind!r} need it")
        for name in sorted(others):
            if getattr(self, name):
                raise ConfigError(f"orders.{name} is set, and orders of kind {self.kind!r} have none; leave it out")
        if self.kind == "sql":
            open_orders(self, home=Path())  # a password in the url, or a query that writes, is refused here and now


@dataclass(frozen=True, kw_only=True)
class Period:
    """The time that one budget is for. Outside of it no task is taken; another period is another ledger.

    Attributes:
        starts, ends: first and last day, in UTC.
    """

    name: str
    starts: dt.date
    ends: dt.date

    def __post_init__(self) -> None:
        slug(self.name)
        if not self.starts <= self.ends:
            raise ConfigError(f"period.ends is {self.ends}; it must not come before period.starts, {self.starts}")

    def contains(self, day: dt.date) -> bool:
        """Whether the budget may be spent on `day`, in UTC."""
        return self.starts <= day <= self.ends


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """What this machine gives to the daemon. All of it is on loopback: nothing is reached from outside.

    Attributes:
        health_http, health_grpc: host:port of the status endpoints.
        supernode_port: where the runner finds the SuperNode.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        poll_seconds: how often the platform is asked for offers.
    """

    health_http: str = "127.0.0.1:8470"
    health_grpc: str = "127.0.0.1:8471"
    supernode_port: int = 9094
    device: str = "auto"
    poll_seconds: float = 5.0

    def __post_init__(self) -> None:
        for name in ("health_http", "health_grpc"):
            address: str = getattr(self, name)
            if not is_loopback(address) or not _is_port(address.rpartition(":")[2]):
                raise ConfigError(f"local.{name} is {address!r}; expected a loopback address, like 127.0.0.1:8470")
        if not _is_port(str(self.supernode_port)):
            raise ConfigError(f"local.supernode_port is {self.supernode_port}; allowed: 1 to 65535")
        if not 1 <= self.poll_seconds <= 3600:
            raise ConfigError(f"local.poll_seconds is {self.poll_seconds:g}; allowed: 1 to 3600")


@dataclass(frozen=True, kw_only=True)
class _File:
    merchant: str
    population: str
    platform: PlatformSettings
    orders: OrdersSettings
    policy: Policy
    period: Period
    local: LocalSettings = field(default_factory=LocalSettings)

    def __post_init__(self) -> None:
        for name in ("merchant", "population"):
            if not getattr(self, name).strip():
                raise ConfigError(f"{name} is empty; the budget belongs to it, so say whose customers they are")


@dataclass(frozen=True, kw_only=True)
class MerchantSettings(_File):
    """All of merchant.toml. Paths in it are relative to its folder.

    Attributes:
        merchant: the merchant's name, as the platform knows it.
        population: which customers the budget is for, in words, such as "customers of the web shop".
        home: the folder of merchant.toml.
    """

    home: Path

    @cached_property
    def paths(self) -> MerchantPaths:
        """Every file of this merchant."""
        return merchant_paths(self.home, period=self.period.name, ca_certificate=self.platform.ca_certificate)

    @property
    def lineage(self) -> Lineage:
        """What the budget belongs to."""
        return Lineage(merchant=self.merchant, population=self.population, period=self.period.name)

    @property
    def plan_key(self) -> VerifyKey:
        """The platform's pinned key."""
        return VerifyKey.from_text(self.platform.plan_key)

    def node_key(self) -> ec.EllipticCurvePrivateKey:
        """The key that signs this merchant's connections and requests.

        Raises:
            PrivateFileError: not there, or open to others.
            ConfigError: not such a key.
        """
        check_private(self.paths.node_key)
        return load_private(self.paths.node_key.read_bytes())

    def open_ledger(self) -> PrivacyLedger:
        """The ledger of the period; made where there is none.

        Raises:
            LedgerError: see `PrivacyLedger`.
        """
        return open_ledger(
            self.paths.ledger, lineage=self.lineage, budget=self.policy.epsilon_budget, delta=self.policy.delta
        )

    def source(self) -> OrderSource:
        """The orders; nothing is read yet.

        Raises:
            ConfigError: the database's URL or query cannot be used.
        """
        return open_orders(self.orders, home=self.home)


SECTIONS: Mapping[str, type] = {
    "platform": PlatformSettings,
    "orders": OrdersSettings,
    "policy": Policy,
    "period": Period,
    "local": LocalSettings,
}


def load_settings(path: Path) -> MerchantSettings:
    """The configuration in the file.

    Raises:
        ConfigError: no such file, not TOML, blanks not filled in, or the key that is missing, unknown or wrong.
    """
    table = read_table(path)
    if left := blanks(table):
        raise ConfigError(f"{path}: to fill in, where it says {BLANK}: {', '.join(left)}")
    try:
        read = from_mapping(_File, table)
        return MerchantSettings(home=path.absolute().parent, **{f.name: getattr(read, f.name) for f in fields(_File)})
    except PurchasePowerError as error:
        raise ConfigError(f"{path}: {error}") from None


def open_orders(orders: OrdersSettings, *, home: Path) -> OrderSource:
    """See `MerchantSettings.source`.

    Args:
        home: what the paths are relative to.
    """
    if orders.kind == "sql":
        password_file = home / orders.password_file if orders.password_file else None
        return SqlSource(url=orders.url, query=orders.query, contract=orders.contract, password_file=password_file)
    path = str(home / orders.file)
    if orders.kind == "parquet":
        return ParquetSource(path=path, contract=orders.contract)
    return CsvSource(path=path, contract=orders.contract)


def read_section(table: Mapping[str, Any], name: str) -> Any:
    """One of `SECTIONS`, whatever is wrong with the others.

    Raises:
        ConfigError: missing, with blanks, or a key that is missing, unknown or wrong.
    """
    found = table.get(name, {} if name == "local" else None)
    if not isinstance(found, Mapping):
        raise ConfigError(f"missing table [{name}]; add it, as pp-client init writes it")
    if left := blanks(found, path=f"{name}."):
        raise ConfigError(f"to fill in, where it says {BLANK}: {', '.join(left)}")
    return from_mapping(SECTIONS[name], found, path=name)


def read_table(path: Path) -> dict[str, Any]:
    """The file's tables, unchecked.

    Raises:
        ConfigError: no such file, or not TOML (with line and column).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {path}; name it with --config FILE, or make one with pp-client init DIR"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check its path and mode") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}; correct it there") from None


def blanks(table: Mapping[str, Any], *, path: str = "") -> list[str]:
    """The keys whose value `pp-client init` left to the merchant, with their tables; `path` goes before them."""
    left = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            left += blanks(value, path=f"{path}{name}.")
        elif value == BLANK:
            left.append(f"{path}{name}")
    return left


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536
