"""Every text of the reports is there in both languages, with its values."""

from __future__ import annotations

from pathlib import Path

import pytest

import client.insight
from client.insight import REPORTS
from client.insight.made import said
from client.reasons import CODES
from pp_model.schema import EventType
from tests.support.insight import bought, data_of, hand_scores, phrases
from web.words import LANGUAGES, Phrase, Words

FOLDER = Path(client.insight.__file__).parent
MINE = ("portraits", "churn", "campaigns", "demand", "newcomers")


@pytest.fixture(scope="module")
def words():
    """The catalogues of the reports, without those of the pages."""
    return Words([FOLDER / "words"])


def full_shop():
    """Customers of every kind, so that a report has all its parts."""
    orders = [bought(c, n, 900 + 7 * c, "tea" if c % 2 else "") for c in range(60) for n in range(1 + c % 7, 200, 9)]
    quiet = [bought(60 + c, 26 + 7 * n, 700, "pots") for c in range(5) for n in range(9)]
    return data_of([*orders, *quiet, bought(65, 4, 500, "cups")])


def empty_shop():
    """One customer who looked and bought nothing."""
    return data_of([bought(0, 4, 0, event_type=EventType.VIEW)], scores=hand_scores(1))


@pytest.mark.parametrize("shop", [full_shop, empty_shop])
@pytest.mark.parametrize("name", MINE)
def test_every_phrase_of_a_report_can_be_said_in_every_language(name, shop, words):
    report = REPORTS[name](shop()).report

    for language in LANGUAGES:
        for found in phrases(report.to_json()):
            assert words.say(language, Phrase.from_json(found)).strip()
        for key in (f"{name}.title", f"{name}.about"):
            assert words.say(language, key).strip()


@pytest.mark.parametrize("code", CODES)
def test_every_reason_has_its_words(code, words):
    for language in LANGUAGES:
        assert words.say(language, said("reason_1", code)).strip()


@pytest.mark.parametrize("name", MINE)
def test_every_report_says_what_it_must_not_be_used_for(name):
    keys = {note.key for note in REPORTS[name](empty_shop()).report.notes}

    assert {"insight.refused.credit", "insight.refused.fraud", "insight.refused.pricing"} <= keys


def test_no_text_is_left_over(words):
    """What nothing says is either a mistake or a rest."""
    sources = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py"))
    own = Words([]).keys
    made_up = ("insight.tier.", "insight.churn.", "insight.reason.", "insight.column.")
    left = [
        key
        for key in words.keys - own
        if f'"{key}"' not in sources and not key.startswith(made_up) and not key.endswith((".title", ".about"))
    ]
    assert left == []
