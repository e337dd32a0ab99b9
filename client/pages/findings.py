"""What the checks of this machine found, as the data page shows it: in English as doctor says it, else translated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from client.sources.refusals import WORDS as REASONS
from web.words import Phrase, Words, phrase

_TONES = {"ok": "good", "warning": "warning", "fault": "bad", "skipped": ""}
_CHECKS = (
    *("configuration", "files", "node key", "plan key", "authority", "versions", "disk", "device", "orders"),
    *("freshness", "customers", "period", "ledger", "reports"),
)
_SKIPPED = {words.skipped: reason.name.lower() for reason, words in REASONS.items()}


@dataclass(frozen=True, kw_only=True)
class ShownFinding:
    """A line of the table.

    Attributes:
        tone: of its badge.
        text: as doctor says it.
        said: the same as a phrase; None where doctor passes on somebody else's words.
    """

    check: Phrase
    level: Phrase
    tone: str
    text: str
    said: Phrase | None


def shown_findings(found: Iterable[Mapping[str, str]], words: Words) -> list[ShownFinding]:
    """The findings of `client.pages.examine`, in their order.

    Raises:
        KeyError: one has no check, level or text, or a level that there is not.
    """
    return [
        ShownFinding(
            check=_check(each["check"]),
            level=phrase(f"level.{each['level']}"),
            tone=_TONES[each["level"]],
            text=each["text"],
            said=finding_phrase(each["text"], words),
        )
        for each in found
    ]


def finding_phrase(text: str, words: Words) -> Phrase | None:
    """The phrase of a finding's text; None where the catalogue has none."""
    found = words.phrase_of(text, under="finding.")
    if found is None or found.values.get("reason") not in _SKIPPED:
        return found
    reason = phrase(f"skipped.{_SKIPPED[found.values['reason']]}")
    return replace(found, values={**found.values, "reason": reason})


def _check(name: str) -> Phrase:
    return phrase(f"check.{name.replace(' ', '_')}") if name in _CHECKS else phrase("check.other", name=name)
