"""The platform's own certificate authority, its server certificate, and what must be true of any other."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pp_model.errors import ConfigError, PurchasePowerError

AUTHORITY_DAYS, CERTIFICATE_DAYS, WARN_DAYS = 3650, 825, 30
_EARLY = dt.timedelta(hours=1)  # for merchants whose clocks are behind
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


class CertificateError(PurchasePowerError):
    """A certificate that a merchant would not, or soon no longer, trust."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes


def new_authority(name: str, *, now: dt.datetime) -> Pair:
    """A certificate authority of its own, for ten years: ECDSA on P-256, for server certificates and nothing below."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name[:50]} CA")])
    builder = (
        _builder(subject, subject, key.public_key(), now=now, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), _pem(key))


def read_authority(certificate: bytes, key: bytes) -> Pair:
    """The authority in two files, able to sign.

    Raises:
        ConfigError: they are not an ECDSA authority's.
    """
    try:
        x509.load_pem_x509_certificate(certificate)
        loaded = load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        loaded = None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ConfigError("keys/ca.crt and keys/ca.key are not the authority that init made; restore them")
    return Pair(certificate, key)


def new_certificate(authority: Pair, names: Sequence[str], *, now: dt.datetime) -> Pair:
    """A server certificate of the authority for 825 days.

    Args:
        names: DNS names and IP addresses, the first of them in the subject.

    Raises:
        CertificateError: one that is neither.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = load_pem_private_key(authority.key, password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [_general_name(name) for name in dict.fromkeys(names)]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    builder = (
        _builder(subject, issuer.subject, key.public_key(), now=now, days=CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    return Pair(builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM), _pem(key))


def check_certificate(*, ca: Path, certificate: Path, key: Path, host: str) -> None:
    """Returns if a merchant that trusts `ca` would connect to `host` with TLS now.

    It does what the merchant would do: a handshake, in memory, with OpenSSL's checks of chain, dates and name.

    Raises:
        CertificateError: says which file, what is wrong, and what to do.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        server.load_cert_chain(certificate, key, password=lambda: b"")  # asked for only by an encrypted key
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(
                f"{key} is not the key of {certificate}; give the pair that belongs together"
            ) from None
        raise CertificateError(
            f"{certificate} or {key} cannot be used; give a certificate and its private key in PEM, without a password"
        ) from None
    except OSError as error:
        raise CertificateError(f"{certificate} or {key} cannot be read ({error.strerror}); check the paths") from None
    try:
        client.load_verify_locations(ca)
    except (OSError, ssl.SSLError):
        raise CertificateError(f"{ca} holds no certificate in PEM; give the file of the authority") from None
    try:
        _handshake(server, client, host=host.strip("[]"))
    except ssl.SSLCertVerificationError as error:
        raise CertificateError(
            f"{certificate} would not be trusted as {host}: {error.verify_message}. It must be valid now, have {host} "
            f"as a subject alternative name, and lead to {ca}; put certificates between the two behind the first"
        ) from None
    except ssl.SSLError as error:
        raise CertificateError(f"{certificate} cannot serve TLS ({error.reason}); get another one") from None


def names_of(certificate: bytes) -> list[str]:
    """The DNS names and IP addresses that a certificate is for."""
    try:
        found = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (ValueError, x509.ExtensionNotFound):
        return []
    addresses = found.value.get_values_for_type(x509.IPAddress)
    return [*found.value.get_values_for_type(x509.DNSName), *map(str, addresses)]


def days_left(certificate: bytes, *, now: dt.datetime) -> int:
    """Whole days until the first certificate of the file expires; below 0 when it has.

    Raises:
        CertificateError: not a certificate.
    """
    try:
        return (x509.load_pem_x509_certificate(certificate).not_valid_after_utc - now).days
    except ValueError:
        raise CertificateError("the certificate is not one in PEM; restore it from its backup") from None


def usual_names(host: str, others: Sequence[str] = ()) -> list[str]:
    """The names that a server certificate needs: the public host, those asked for, and this machine's own."""
    return list(dict.fromkeys([host.strip("[]"), *others, "localhost", "127.0.0.1", "::1"]))


def own_host(certificate: bytes, *, loopback: str, public_host: str) -> str:
    """The host under which this machine reaches its own TLS port, so that the certificate fits.

    Raises:
        CertificateError: it names no address of this machine's own, and its host is not one here; says how to mend it.
    """
    names = names_of(certificate)
    for host in (loopback, "localhost"):
        if host.strip("[]") in names:
            return host
    try:
        found = {info[4][0] for info in socket.getaddrinfo(public_host.strip("[]"), None, type=socket.SOCK_STREAM)}
    except OSError:
        found = set()
    if found and all(ipaddress.ip_address(address).is_loopback for address in found):
        return public_host
    raise CertificateError(
        "the server's certificate names no address of this machine alone, under which the platform talks to itself. "
        f"Get one that names localhost, or put this line into /etc/hosts: {loopback.strip('[]')} {public_host}"
    )


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, *, host: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(name) or len(name) > 253:
        raise CertificateError(f"{name!r:.80} is neither a host's name nor an IP address; a certificate cannot name it")
    return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
