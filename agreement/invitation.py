"""All that a merchant needs to know of a platform, in one file: where it is, and how to recognise it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

from agreement.signing import VerifyKey
from pp_model.config import from_mapping
from pp_model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """A platform as its merchants see it.

    Attributes:
        platform: its name.
        address: host:port.
        plan_key: the plan-signing key, to be pinned.
        ca_certificate: PEM of the authority behind the server's certificate.
    """

    platform: str
    address: str
    plan_key: str
    ca_certificate: str

    def __post_init__(self) -> None:
        VerifyKey.from_text(self.plan_key)
        host, colon, port = self.address.rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError(f"invitation.address is {self.address!r}; expected host:port, like pp.example.org:8443")
        if "BEGIN CERTIFICATE" not in self.ca_certificate:
            raise ConfigError("invitation.ca_certificate is not a certificate in PEM")


def invitation_text(invitation: Invitation) -> str:
    """The file's text; `read_invitation` is the inverse."""
    return f"""\
# An invitation to train with {invitation.platform}. Nothing in it is secret; what matters is that it is genuine:
# compare plan_key with what the platform tells you by telephone or in its contract.
platform = {_quoted(invitation.platform)}
address = {_quoted(invitation.address)}
plan_key = {_quoted(invitation.plan_key)}
ca_certificate = '''
{invitation.ca_certificate.strip()}
'''
"""


def read_invitation(text: str) -> Invitation:
    """The invitation in a file's text.

    Raises:
        ConfigError: not TOML, or a key missing or wrong.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise ConfigError("the invitation is not a readable TOML file; ask the platform for it again") from None
    return from_mapping(Invitation, table, path="invitation")


def _quoted(text: str) -> str:
    if any(character in text for character in '"\\\n'):
        raise ConfigError(f"{text!r} has quotes, backslashes or line breaks; leave them out")
    return f'"{text}"'
