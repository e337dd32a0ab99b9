"""The texts of the pages: alike in both languages, said with their values, and never escaped twice."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest

from pp_model.errors import ConfigError
from web.words import LANGUAGES, NOTHING, Phrase, Words, phrase, shown

ROOT = Path(__file__).parents[2]
CLIENT = [ROOT / "client/pages/words", ROOT / "client/insight/words", ROOT / "client/insight/words_more"]
PROGRAMS = {"client": CLIENT, "server": [ROOT / "server/dashboard/words"]}
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def catalogue(folder: Path, **texts: str) -> Path:
    """A folder with a catalogue for each language: the TOML of each."""
    folder.mkdir(exist_ok=True)
    for language in LANGUAGES:
        (folder / f"{language}.toml").write_text(texts.get(language, ""), encoding="utf-8")
    return folder


@pytest.mark.parametrize("program", PROGRAMS)
def test_both_languages_have_the_same_texts_with_the_same_placeholders(program):
    words = Words(PROGRAMS[program])  # raises where they do not
    assert len(words.keys) > 50


def test_every_text_of_the_merchants_pages_is_chinese_in_chinese():
    words = Words(CLIENT)
    same = {
        key
        for key in words.keys
        if not CHINESE.search(words._texts["zh"][key]) and words._texts["zh"][key] == words._texts["en"][key]
    }
    assert {key for key in same if not re.fullmatch(r"(\{\w+\}|\W|[A-Z]{2,5})*", words._texts["en"][key])} == set()


def test_a_text_that_one_language_lacks_is_refused(tmp_path):
    folder = catalogue(tmp_path / "w", en='hello = "Hello"\nbye = "Bye"', zh='hello = "你好"')
    with pytest.raises(ConfigError, match="bye"):
        Words([folder])


def test_a_text_whose_placeholders_differ_is_refused(tmp_path):
    folder = catalogue(tmp_path / "w", en='hello = "Hello {name}"', zh='hello = "你好 {who}"')
    with pytest.raises(ConfigError, match="hello"):
        Words([folder])


def test_a_text_that_two_catalogues_have_is_refused(tmp_path):
    folder = catalogue(tmp_path / "w", en='[page]\nskip = "x"', zh='[page]\nskip = "x"')
    with pytest.raises(ConfigError, match=r"page\.skip"):
        Words([folder])


def test_a_missing_catalogue_is_told_and_no_traceback(tmp_path):
    with pytest.raises(ConfigError, match="install"):
        Words([tmp_path])


def test_a_phrase_says_its_phrases_dates_and_counts(tmp_path):
    texts = '[a]\nouter = "{n} {inner} {day}"\ninner = "of {what}"'
    words = Words([catalogue(tmp_path / "w", en=texts, zh=texts)])
    said = phrase("a.outer", n=12345, inner=phrase("a.inner", what="<b>"), day=dt.date(2026, 6, 1))
    assert words.say("en", said) == "12,345 of <b> 2026-06-01"
    with pytest.raises(KeyError):
        words.say("en", "a.nothing")


def test_a_phrase_survives_json():
    first = phrase("a", n=1, inner=phrase("b", x="y"))
    assert Phrase.from_json(first.to_json()) == first


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, None, NOTHING),
        (float("nan"), "money", NOTHING),
        (float("inf"), "epsilon", "∞"),
        (0.12345, "epsilon", "0.124"),
        (1.0, "epsilon", "1"),
        (123456, "money", "1,234.56"),
        (0.6071, "share", "60.7 %"),
        (1234567, "count", "1,234,567"),
        (dt.date(2026, 1, 2), "date", "2026-01-02"),
        ("<x>", "text", "<x>"),
    ],
)
def test_values_are_written_alike_everywhere(value, kind, text):
    assert shown(value, kind) == text


def test_an_epsilon_is_never_written_smaller_than_it_is():
    for thousandths in range(1, 400):
        value = thousandths / 997
        assert float(shown(value, "epsilon")) >= value
