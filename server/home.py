"""The platform's folder: where each file is, server.toml, and who may read what. Private files 600, folders 700."""

from __future__ import annotations

import fcntl
import os
import re
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agreement.signing import SigningKey, VerifyKey
from daemons.files import check_private
from pp_model.config import from_mapping
from pp_model.errors import ConfigError

LISTEN_LOOPBACK = {"0.0.0.0": "127.0.0.1", "127.0.0.1": "127.0.0.1", "[::]": "[::1]", "[::1]": "[::1]"}
"""Addresses that the platform may listen on, and where it then reaches itself."""

_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_FOLDERS = ("keys", "secrets", "state", "plans", "runs", "log", "flower")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """server.toml.

    Attributes:
        name: of the platform, as merchants read it.
        address: host:port that merchants connect to.
        listen: host:port of the one TLS port.
        health_http, health_grpc: host:port on loopback.
    """

    name: str
    address: str
    listen: str
    health_http: str = "127.0.0.1:8480"
    health_grpc: str = "127.0.0.1:8481"

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= 80 or not self.name.isprintable() or any(c in self.name for c in '"\\'):
            raise ConfigError(f"name is {self.name!r}; allowed: 1 to 80 printable characters, no quotes or backslashes")
        host_and_port(self.address, key="address")
        if host_and_port(self.listen, key="listen")[0] not in LISTEN_LOOPBACK:
            raise ConfigError(
                f"listen is {self.listen!r}; allowed hosts: {', '.join(LISTEN_LOOPBACK)}. The platform reaches its own "
                "port over loopback, so it listens on every interface or on loopback alone; a firewall chooses others"
            )
        for key in ("health_http", "health_grpc"):
            if host_and_port(getattr(self, key), key=key)[0] not in ("127.0.0.1", "[::1]", "localhost"):
                raise ConfigError(
                    f"{key} is {getattr(self, key)!r}; it must be a loopback address, like 127.0.0.1:8480"
                )

    @property
    def loopback(self) -> str:
        """The host under which this machine reaches the TLS port."""
        return LISTEN_LOOPBACK[host_and_port(self.listen, key="listen")[0]]

    @property
    def port(self) -> int:
        """The TLS port on this machine."""
        return host_and_port(self.listen, key="listen")[1]


@dataclass(frozen=True)
class PlatformHome:
    """Every file of one platform, below `root`."""

    root: Path

    @property
    def config_file(self) -> Path:
        """Settings; nothing secret."""
        return self.root / "server.toml"

    @property
    def invitation(self) -> Path:
        """What a merchant needs; nothing secret."""
        return self.root / "invitation.toml"

    @property
    def ca_certificate(self) -> Path:
        """PEM of the authority behind the server's certificate."""
        return self.root / "keys" / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The authority's key; missing where the certificates came from elsewhere."""
        return self.root / "keys" / "ca.key"

    @property
    def certificate(self) -> Path:
        """PEM of the server's certificate, and of those between it and the authority."""
        return self.root / "keys" / "server.crt"

    @property
    def certificate_key(self) -> Path:
        """Its private key."""
        return self.root / "keys" / "server.key"

    @property
    def plan_key_file(self) -> Path:
        """The plan-signing key."""
        return self.root / "keys" / "plan-signing.key"

    @property
    def plan_key_public(self) -> Path:
        """Its public half, which merchants pin."""
        return self.root / "keys" / "plan-signing.pub"

    @property
    def superexec_secret(self) -> Path:
        """Shared by the SuperLink and the one program that may take its server tasks."""
        return self.root / "secrets" / "superexec"

    @property
    def operator_secret(self) -> Path:
        """Who has it may register merchants and start runs."""
        return self.root / "secrets" / "operator"

    @property
    def superlink_database(self) -> Path:
        """Flower's own state."""
        return self.root / "state" / "superlink.db"

    @property
    def registry(self) -> Path:
        """Runs, rounds, models, merchants, offers."""
        return self.root / "state" / "registry.sqlite"

    @property
    def lock(self) -> Path:
        """Held by the one `pp-server up` of this folder."""
        return self.root / "state" / "up.lock"

    @property
    def plans(self) -> Path:
        """Plans, their starting points and their signed offers."""
        return self.root / "plans"

    @property
    def log(self) -> Path:
        """One JSON line an event."""
        return self.root / "log" / "server.jsonl"

    @property
    def flower(self) -> Path:
        """FLWR_HOME."""
        return self.root / "flower"

    def run_folder(self, plan_id: str) -> Path:
        """Everything of the runs of one plan.

        Raises:
            ConfigError: the id cannot be the name of a folder.
        """
        return self.root / "runs" / checked_name(plan_id)

    def make_folders(self) -> None:
        """All folders, for their owner alone."""
        for folder in (self.root, *(self.root / name for name in _FOLDERS)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)  # the umask took nothing away that is needed, and what was there may be too open

    def load_config(self) -> ServerConfig:
        """server.toml, read and checked.

        Raises:
            ConfigError: no such file, not TOML, or the key that is missing, unknown or wrong.
            PrivateFileError: the folder is open to others.
        """
        try:
            table = tomllib.loads(self.config_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{self.root} is no platform's folder (no server.toml); name it with --home DIR, or make one with "
                "pp-server init DIR"
            ) from None
        except OSError as error:
            raise ConfigError(f"{self.config_file} cannot be read ({error.strerror}); check its mode") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.config_file} is not TOML in UTF-8: {error}; correct it there") from None
        self.check_private()
        try:
            return from_mapping(ServerConfig, table)
        except ConfigError as error:
            raise ConfigError(f"{self.config_file}: {error}") from None

    def check_private(self) -> None:
        """Returns if nobody but the owner can enter a folder of ours, or read a key, a secret or the state.

        Raises:
            PrivateFileError: names the first that is open to others or missing, and the command that mends it.
        """
        wanted = [self.certificate_key, self.plan_key_file, self.superexec_secret, self.operator_secret]
        there = [self.ca_key, self.superlink_database, self.registry]
        folders = [self.root, *(self.root / name for name in _FOLDERS)]
        for path in (*folders, *wanted, *(path for path in there if path.exists())):
            check_private(path)

    def signing_key(self) -> SigningKey:
        """The plan-signing key.

        Raises:
            ConfigError: not such a key.
            PrivateFileError: missing, or open to others.
        """
        check_private(self.plan_key_file)
        return SigningKey.from_pem(self.plan_key_file.read_bytes())

    def verify_key(self) -> VerifyKey:
        """What this platform's offers and models are checked with."""
        return self.signing_key().public

    def read_operator_secret(self) -> str:
        """The operator secret.

        Raises:
            PrivateFileError: missing, or open to others.
        """
        check_private(self.operator_secret)
        return self.operator_secret.read_text(encoding="ascii").strip()


def checked_name(name: str) -> str:
    """`name`, which can be the name of a plan and of its files.

    Raises:
        ConfigError: it cannot.
    """
    if not _SLUG.fullmatch(name):
        raise ConfigError(f"{name!r:.80} is not a name for a plan; use up to 64 of a-z, 0-9, '-' and '_'")
    return name


@contextmanager
def exclusive(path: Path, *, busy: str, patience_seconds: float = 0.0) -> Iterator[None]:
    """While in it, nobody else on this machine is in one of the same file. It ends with its process, however that does.

    Args:
        busy: the message where somebody is; `{pid}` in it becomes the process's number.
        patience_seconds: how long to wait for somebody to leave.

    Raises:
        ConfigError: somebody is.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        deadline = time.monotonic() + patience_seconds
        while not _locked(file):
            if time.monotonic() >= deadline:
                raise ConfigError(busy.replace("{pid}", file.read().strip() or "unknown"))
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def is_held(path: Path) -> bool:
    """Whether somebody is in the `exclusive` of this file right now."""
    try:
        with os.fdopen(os.open(path, os.O_RDWR), "r+") as file:
            return not _locked(file)  # closing lets go again
    except FileNotFoundError:
        return False


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def host_and_port(address: str, *, key: str) -> tuple[str, int]:
    """The two parts of host:port; an IPv6 host keeps its brackets.

    Raises:
        ConfigError: names `key`.
    """
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ConfigError(f"{key} is {address!r}; expected host:port, like pp.example.org:8443")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigError(f"{key} is {address!r}; put an IPv6 address in brackets, like [::1]:8443")
    return host, int(port)


def server_toml(config: ServerConfig) -> str:
    """The commented text of server.toml; every key is in it."""
    return f'''\
# A platform for training with merchants. Settings only: keys and secrets are in their own folders.

# As merchants read it in every offer.
name = "{config.name}"

# Where merchants connect to: host:port. The server's certificate must name the host.
address = "{config.address}"

# Where this machine listens, with TLS: every interface (0.0.0.0 or [::]) or this machine alone (127.0.0.1 or [::1]).
# Others reach only Flower's routes for merchants' nodes, /health, and /pp/v1 (signed requests of merchants).
listen = "{config.listen}"

# Health, for this machine alone: HTTP (/health, /metrics) and gRPC.
health_http = "{config.health_http}"
health_grpc = "{config.health_grpc}"
'''
