"""A guarded SuperLink as a real process over TLS on loopback, and certificates of every kind for it."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import ipaddress
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parents[2]
DAY = dt.timedelta(days=1)
START_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate authority of a test."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def authority(name: str = "test CA") -> Authority:
    """A new certificate authority, valid today."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(key=key, certificate=_certificate(key, name, signer=None))


def server_certificate(
    folder: Path,
    issuer: Authority | None,
    *,
    hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    not_before: dt.timedelta = -DAY,
    not_after: dt.timedelta = DAY,
) -> tuple[Path, Path]:
    """Files of a new certificate for `hosts` and of its key; signed by itself without an `issuer`.

    Args:
        not_before, not_after: the ends of its validity, from now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(
        key, "platform", signer=issuer, hosts=hosts, not_before=not_before, not_after=not_after, ca=issuer is None
    )
    cert_file, key_file = folder / "server.crt", folder / "server.key"
    cert_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_file, key_file


def _certificate(
    key: ec.EllipticCurvePrivateKey,
    name: str,
    *,
    signer: Authority | None,
    hosts: Sequence[str] = (),
    not_before: dt.timedelta = -DAY,
    not_after: dt.timedelta = DAY,
    ca: bool = True,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_key = signer.key if signer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + not_before)
        .not_valid_after(now + not_after)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name_of(host) for host in hosts]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def node_key(folder: Path, name: str) -> tuple[Path, bytes]:
    """A new node key: the file that `flower-supernode` takes, and the OpenSSH line of the public half."""
    key = ec.generate_private_key(ec.SECP384R1())
    path = folder / name
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return path, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@dataclass(frozen=True, kw_only=True)
class SuperLink:
    """A running SuperLink and what belongs to it.

    Attributes:
        folder: certificates, secrets, database and logs.
        start_seconds: from its start to its first answer.
    """

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    operator_secret: str
    start_seconds: float

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def superexec_secret_file(self) -> Path:
        return self.folder / "superexec"

    @property
    def log(self) -> str:
        return (self.folder / "superlink.log").read_text()


@contextmanager
def running_superlink(folder: Path, *, guarded: bool = True) -> Iterator[SuperLink]:
    """A SuperLink over TLS that answers; `guarded=False` starts Flower's own with the same arguments."""
    issuer = authority()
    (folder / "ca.crt").write_bytes(issuer.pem)
    cert_file, key_file = server_certificate(folder, issuer)
    operator, superexec = folder / "operator", folder / "superexec"
    operator.write_text(secrets.token_urlsafe(32))
    superexec.write_text(secrets.token_urlsafe(32))
    ours = [sys.executable, "-m", "server.superlink", "--operator-secret-file", str(operator)]
    with reserved_port() as port:
        command = [
            *(ours if guarded else [flower_command("superlink")]),
            *superlink_arguments(
                ca=folder / "ca.crt",
                cert=cert_file,
                key=key_file,
                secret=superexec,
                port=port,
                database=folder / "state.db",
            ),
        ]
        began = time.monotonic()
        with started(command, log=folder / "superlink.log", home=folder / "flower") as process:
            wait_until(lambda: healthy(port, folder / "ca.crt"), process=process, timeout=START_SECONDS)
            yield SuperLink(
                process=process,
                port=port,
                folder=folder,
                operator_secret=operator.read_text(),
                start_seconds=time.monotonic() - began,
            )


def flower_command(name: str) -> str:
    """The path of one of Flower's commands, as installed beside this interpreter."""
    return str(Path(sys.executable).with_name(f"flower-{name}"))


def superlink_arguments(*, ca: Path, cert: Path, key: Path, secret: Path, port: int, database: Path) -> list[str]:
    """What `flower-superlink` must be told to be safe."""
    files = {"--ssl-ca-certfile": ca, "--ssl-certfile": cert, "--ssl-keyfile": key}
    options = {**files, "--superexec-auth-secret-file": secret, "--database": database, "--isolation": "process"}
    flags = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    return [*(str(word) for pair in options.items() for word in pair), *flags, "--host", "0.0.0.0", "--port", str(port)]


@contextmanager
def started(
    command: Sequence[str], *, log: Path, home: Path, path: Sequence[Path] = (ROOT,)
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended with the block. Its output goes to `log`, Flower's files to `home`, its modules come from
    `path` first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_")}
    environment = {
        **kept,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONPATH": os.pathsep.join(map(str, path)),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=log.parent)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(
    condition: Callable[[], bool], *, timeout: float, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Returns when the condition holds; fails when it does not in time, or when `process` ended before."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process is None or process.poll() is None, f"ended early with {process and process.returncode}"
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.02)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of the kernel's choice that it gives to nobody else within the block; a server may listen on it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("0.0.0.0", 0))
        yield int(held.getsockname()[1])


def healthy(port: int, ca_file: Path) -> bool:
    """Whether a SuperLink answers there."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return requested(port, ca_file, "GET", "/health")[0] == 200
    return False


def requested(
    port: int,
    ca_file: Path,
    method: str,
    path: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    source: str = "127.0.0.1",
    context: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """Status and body of one request that trusts `ca_file` and comes from the address `source`."""
    tls = context or ssl.create_default_context(cafile=str(ca_file))
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=tls, source_address=(source, 0))
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@dataclass(kw_only=True)
class Impostor:
    """A TLS server in the SuperLink's place.

    Attributes:
        connected: when each connection came, on the clock of `time.monotonic`.
        received: what peers said once they trusted it; b"" from those who did not.
    """

    port: int
    connected: list[float] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def impostor(certificate: tuple[Path, Path], *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Iterator[Impostor]:
    """A server with a certificate of the test's choice that speaks TLS up to `newest`, and listens to what is said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if newest < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ALL:@SECLEVEL=0")  # else it could not even offer it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = newest
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Impostor(port=listener.getsockname()[1])

        def listen() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # the test is over
                server.connected.append(time.monotonic())
                connection.settimeout(5)
                heard = b""
                with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                    heard = secure.recv(4096)
                server.received.append(heard)

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
