"""The token that every request shows: in a file of its owner's alone, made when there is none."""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from daemons.files import check_private, write_private
from pp_model.errors import ConfigError

_BYTES = 32
_TOKEN = re.compile(rb"[A-Za-z0-9_-]{43,512}")


@dataclass(frozen=True, kw_only=True)
class Bearer:
    """A token that is never shown."""

    token: bytes = field(repr=False)

    def allows(self, authorization: bytes) -> bool:
        """Whether this is `Bearer` and the token; in a time that says nothing of the token."""
        return hmac.compare_digest(authorization, b"Bearer " + self.token)


def open_bearer(path: Path) -> Bearer:
    """The token in the file; a new one of 256 bits where there is no file.

    Raises:
        PrivateFileError: the file, or its folder, is open to others.
        ConfigError: the file holds something else.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(path.parent)
        write_private(path, secrets.token_urlsafe(_BYTES).encode() + b"\n")
    check_private(path)
    token = path.read_bytes().strip()
    if not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"{path} does not hold a token of at least 43 letters, digits, - and _; delete it, and a new one is made"
        )
    return Bearer(token=token)
