"""The certificate behind which an address is served that others reach."""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from daemons.files import check_private
from pp_model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate with its chain, and its key, in PEM, usable today.

    Attributes:
        certificate_file, key_file: where they are.
    """

    certificate_file: Path
    key_file: Path
    certificate: bytes
    key: bytes = field(repr=False)


def read_certificate(certificate_file: Path, key_file: Path, *, now: dt.datetime) -> Certificate:
    """The pair in the files.

    Raises:
        ConfigError: not a pair, not valid now, or it cannot be read; says what to do.
        PrivateFileError: the key is missing, or open to others.
    """
    check_private(key_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate_file, key_file, password=lambda: b"")  # asked for by an encrypted key alone
        pem = certificate_file.read_bytes()
        leaf = x509.load_pem_x509_certificate(pem)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{key_file} is not the key of {certificate_file}; give the pair that belongs together"
            ) from None
        raise ConfigError(
            f"{certificate_file} or {key_file} cannot be used; give a certificate and its private key in PEM, without "
            "a password"
        ) from None
    except (OSError, ValueError):
        raise ConfigError(f"{certificate_file} cannot be read as a certificate in PEM; check the path") from None
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        raise ConfigError(
            f"{certificate_file} is valid from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and not now; renew it, or check this machine's clock"
        )
    return Certificate(certificate_file=certificate_file, key_file=key_file, certificate=pem, key=key_file.read_bytes())
