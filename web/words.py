"""The texts of pages in English and Chinese: a page names a text by its key and never writes one itself."""

from __future__ import annotations

import datetime as dt
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pp_model.errors import ConfigError

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
LANGUAGE_NAMES: Mapping[Language, str] = {"en": "English", "zh": "中文"}
OWN_FOLDER = Path(__file__).parent / "words"
NOTHING = "–"  # what is shown in place of a value that is not there  # noqa: RUF001
_PLACEHOLDER = re.compile(r"\{(\w+)\}")

Kind = Literal["text", "count", "number", "share", "money", "epsilon", "date", "time"]


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A text to be said in the reader's language.

    Attributes:
        key: in the catalogues, "churn.title" say.
        values: for its placeholders; numbers are said as counts, dates as dates, a `Phrase` is said itself.
    """

    key: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"key": self.key, "values": {name: _plain(value) for name, value in self.values.items()}}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Phrase:
        """What `to_json` gave."""
        values = {name: cls.from_json(v) if isinstance(v, Mapping) else v for name, v in table["values"].items()}
        return cls(key=str(table["key"]), values=values)


def phrase(key: str, **values: Any) -> Phrase:
    """A `Phrase` in fewer signs."""
    return Phrase(key=key, values=values)


class Words:
    """All texts of one program, by language.

    Raises:
        ConfigError: the catalogues of the languages differ in their keys or placeholders, or one is missing.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._texts = {language: _catalogue([OWN_FOLDER, *folders], language) for language in LANGUAGES}
        first, *others = LANGUAGES
        for other in others:
            _check_alike(self._texts[first], self._texts[other], of=other)

    @property
    def keys(self) -> frozenset[str]:
        """Every key, the same in all languages."""
        return frozenset(self._texts[LANGUAGES[0]])

    def say(self, language: Language, text: str | Phrase, **values: Any) -> str:
        """The text of a key or a phrase; its placeholders are filled, nothing is escaped.

        Raises:
            KeyError: no such key, or a placeholder without a value: a mistake of ours.
        """
        if isinstance(text, Phrase):
            values, text = {**text.values, **values}, text.key
        said = {name: self._said(language, value) for name, value in values.items()}
        return _PLACEHOLDER.sub(lambda found: said[found[1]], self._texts[language][text])

    def phrase_of(self, text: str, *, under: str) -> Phrase | None:
        """The phrase whose English text this is, the inverse of `say`; None where there is none.

        Of several it is the one with the most words of its own. "(s)" in an English text stands for a plural or none.

        Args:
            under: how its key begins.
        """
        found = [
            (len(_PLACEHOLDER.sub("", english)), key, match.groupdict())
            for key, english in self._texts["en"].items()
            if key.startswith(under) and (match := _pattern(english).fullmatch(text))
        ]
        if not found:
            return None
        _, key, values = max(found, key=lambda each: each[:2])
        return Phrase(key=key, values=values)

    def _said(self, language: Language, value: Any) -> str:
        return self.say(language, value) if isinstance(value, Phrase) else shown(value)


def shown(value: Any, kind: Kind | None = None) -> str:
    """A value as pages show it, in every language alike; `NOTHING` where there is none.

    Args:
        kind: None takes it from the type. Money is in cents, a share in 0 to 1.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, bool | str | dt.date):
        return str(value)
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    match kind:
        case "money":
            return f"{value / 100:,.2f}" if abs(value) < 1e8 else f"{value / 100:,.0f}"
        case "share":
            return f"{100 * value:.1f} %"
        case "epsilon":
            return f"{math.ceil(value * 1000) / 1000:g}"  # never less than was spent
        case "number":
            return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        case _:
            return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


@cache
def _pattern(english: str) -> re.Pattern[str]:
    """What a text can look like once its placeholders are filled."""
    pattern, seen = "", set[str]()
    for at, part in enumerate(_PLACEHOLDER.split(english)):
        if at % 2 == 0:
            pattern += re.escape(part).replace(re.escape("(s)"), "s?")
        else:
            pattern += f"(?P={part})" if part in seen else f"(?P<{part}>.+?)"
            seen.add(part)
    return re.compile(pattern, re.DOTALL)


def _plain(value: Any) -> Any:
    if isinstance(value, Phrase):
        return value.to_json()
    return value.isoformat() if isinstance(value, dt.date) else value


def _catalogue(folders: Sequence[Path], language: Language) -> dict[str, str]:
    texts: dict[str, str] = {}
    for folder in folders:
        path = folder / f"{language}.toml"
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"the texts in {path} cannot be read ({error}); install the program again") from None
        found = dict(_flat(table, ""))
        if twice := sorted(set(found) & set(texts)):
            raise ConfigError(f"{path} has texts that another catalogue has already: {', '.join(twice[:5])}")
        texts |= found
    return texts


def _flat(table: Mapping[str, Any], before: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in table.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else [(before + name, str(value))]
    return found


def _check_alike(first: Mapping[str, str], other: Mapping[str, str], *, of: Language) -> None:
    if odd := sorted(set(first) ^ set(other)):
        raise ConfigError(f"texts that only one language has ({LANGUAGES[0]} or {of}): {', '.join(odd[:8])}")
    places = {key: set(_PLACEHOLDER.findall(text)) for key, text in first.items()}
    if odd := sorted(key for key, text in other.items() if set(_PLACEHOLDER.findall(text)) != places[key]):
        raise ConfigError(f"texts of {of} with other placeholders: {', '.join(odd[:8])}")
