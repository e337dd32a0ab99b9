"""What went wrong, for a page: in plain words of the reader's language, and below them what a command would say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agreement.signing import SignatureError
from client.agreements_file import AgreementsError
from client.pages.numbers import up
from client.platform import RefusedError
from client.preflight import PlatformError
from daemons.files import PrivateFileError
from pp_model.errors import (
    BadOrdersError,
    BudgetExceededError,
    ConfigError,
    ExpiredError,
    LedgerError,
    PolicyError,
    PurchasePowerError,
)
from web.words import Phrase, phrase

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that a page cannot show or do.

    Attributes:
        detail: the error's own text, which is English.
    """

    text: Phrase
    detail: str


@dataclass(frozen=True, kw_only=True)
class Part(Generic[T]):
    """A part of a page: its value, or why there is none. One part's fault leaves the others alone."""

    value: T | None = None
    fault: Fault | None = None


def attempt(read: Callable[[], T]) -> Part[T]:
    """What `read` gives, or the fault that it raises."""
    try:
        return Part(value=read())
    except PurchasePowerError as error:
        return Part(fault=fault_of(error))
    except OSError as error:
        named = f"{error.filename or 'the system'}: {error.strerror}"
        return Part(
            fault=Fault(text=phrase("fault.system"), detail=f"{named}. Check the path, its mode and the space.")
        )


def fault_of(error: PurchasePowerError) -> Fault:
    """The error for a person."""
    return Fault(text=_words(error), detail=str(error))


def _words(error: PurchasePowerError) -> Phrase:
    match error:
        case BudgetExceededError():
            return phrase("fault.budget", spent=up(error.spent), needed=up(error.needed), budget=up(error.budget))
        case LedgerError():
            return phrase("fault.ledger")
        case AgreementsError():
            return phrase("fault.agreements")
        case ExpiredError():
            return phrase("fault.expired")
        case PolicyError():
            return phrase("fault.policy")
        case SignatureError():
            return phrase("fault.signature")
        case PrivateFileError():
            return phrase("fault.private")
        case PlatformError() | RefusedError():
            return phrase("fault.platform")
        case BadOrdersError():
            return phrase("fault.orders")
        case ConfigError():
            return phrase("fault.config")
        case _:
            return phrase("fault.other")
