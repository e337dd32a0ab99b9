"""The privacy statement in Chinese: every phrase is there, and it says the same numbers and names as in English."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from client.cli import main
from client.settings import load_settings
from client.spending import Spending
from client.statement import WORDS, privacy_statement
from client.statement_page import MerchantStatement, merchant_statement, statement_html, statement_text
from pp_model.accounting import PrivacyEvent
from pp_model.plan import TrainingPlan
from pp_model.protocol import RefusalCode
from tests.support.merchant_home import new_shop
from tests.support.merchant_pages import offered
from tests.support.plans import tiny_dp, tiny_plan
from tests.support.scored import scored_shop
from tests.support.statements import BARE, PLAN, SPENT, SUM, spending_of
from tests.support.sum_town import sum_plan
from web.words import LANGUAGES, Phrase

CHINESE = re.compile(r"[\u4e00-\u9fff]")
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?")
ENGLISH_SENTENCE = re.compile(r"(?:\b[A-Za-z]+ ){3,}")
PLANS = {
    "private": PLAN,
    "secure sum": SUM,
    "no noise": BARE,
    "secure sum without noise": sum_plan(merchants=3, threshold=3, dp=tiny_dp(noise_multiplier=0.0)),
    "loud": tiny_plan(rounds=50, dp=tiny_dp(sample_rate=1.0, noise_multiplier=0.2)),
    "coarse time": tiny_plan(answer_every_seconds=30.0),
}
SPENDINGS = {"nothing": (), "spent": SPENT, "spent without noise": (*SPENT, BARE.dp.event)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return load_settings(new_shop(tmp_path_factory.mktemp("home") / "shop").config)


def numbers(text: str) -> Counter[str]:
    return Counter(NUMBER.findall(text))


def inside(value: object) -> Iterator[Phrase]:
    """The phrase, and every one that stands in its place."""
    if isinstance(value, Phrase):
        yield value
        for each in value.values.values():
            yield from inside(each)


def english_and_chinese(plan: TrainingPlan, spent: tuple[PrivacyEvent, ...]) -> list[tuple[str, str]]:
    """Headings and texts in turn, each in both languages."""
    statement = privacy_statement(plan, spent_events=spent)
    english, chinese = (statement.paragraphs(language) for language in LANGUAGES)
    return [pair for both in zip(english, chinese, strict=True) for pair in zip(*both, strict=True)]


@pytest.mark.parametrize("spent", SPENDINGS.values(), ids=SPENDINGS)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_each_number_of_the_english_text_is_in_the_chinese_one_and_the_other_way_round(plan, spent):
    for english, chinese in english_and_chinese(plan, spent):
        assert numbers(english) == numbers(chinese), (english, chinese)
        assert CHINESE.search(chinese)
        assert not ENGLISH_SENTENCE.search(chinese), chinese


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_no_chinese_paragraph_has_an_epsilon_without_its_delta(plan):
    """Checklist D56."""
    with_epsilon = [text for _, text in privacy_statement(plan, spent_events=SPENT).paragraphs("zh") if "ε" in text]
    assert len(with_epsilon) >= 3
    for text in with_epsilon:
        assert "δ" in text or "较大的 ε" in text


def test_names_stay_as_they_are():
    text = " ".join(text for _, text in privacy_statement(SUM, spent_events=SPENT).paragraphs("zh"))
    promise = privacy_statement(SUM, spent_events=()).secure_sum
    assert promise is not None
    for name in (SUM.plan_id, promise.roster, "secure_sum", "dp-accounting", *(code.value for code in RefusalCode)):
        assert name in text


def test_every_text_of_the_catalogue_is_said_somewhere_and_is_chinese_in_chinese(settings):
    """A text that nobody says is not looked after."""
    said = set()
    for plan in PLANS.values():
        for spent in SPENDINGS.values():
            for pair in privacy_statement(plan, spent_events=spent).phrases():
                said |= {found.key for each in pair for found in inside(each)}
    keys = {key for key in WORDS.keys if key.startswith("statement.")}
    of_the_merchant = ("statement.page.", "statement.charged.", "statement.heading.charged")
    alone = {"statement.title", "statement.of", "statement.span"}
    assert {key for key in keys - said - alone if not key.startswith(of_the_merchant)} == set()
    blank = {name: "" for key in keys for name in re.findall(r"\{(\w+)\}", WORDS._texts["en"][key])}
    unsaid = {key for key in keys if not CHINESE.search(WORDS.say("zh", key, **blank))}
    assert unsaid == {"statement.then", "statement.listed", "statement.page.delta"}
    for key in keys:
        assert numbers(WORDS.say("en", key, **blank)) == numbers(WORDS.say("zh", key, **blank)), key


def statement_of(settings, plan: TrainingPlan, *, rounds: int) -> MerchantStatement:
    spending: Spending = spending_of(plan, rounds=rounds)
    return merchant_statement(settings, plan, spending)


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_merchants_statement_says_the_same_numbers_in_both_languages(settings, plan, rounds):
    statement = statement_of(settings, plan, rounds=rounds)
    for english, chinese in zip(*map(statement.paragraphs, LANGUAGES), strict=True):
        assert numbers(english[1]) == numbers(chinese[1])
    assert numbers(statement_text(statement)) == numbers(statement_text(statement, "zh"))
    pages = [unescape(statement_html(statement, language)) for language in LANGUAGES]
    assert numbers(pages[0]) == numbers(pages[1])
    assert 'lang="zh-Hans"' in pages[1]
    words = (
        re.sub(r"(?s)<style>.*</style>|<[^>]*>", " ", pages[1])
        .replace(settings.population, "")
        .replace(settings.platform.name, "")
    )
    assert not ENGLISH_SENTENCE.search(words)
    assert ("没有隐私。" in pages[1]) is not statement.promise.private


def test_the_command_says_it_in_the_language_asked_for(tmp_path, capsys):
    shop = scored_shop(tmp_path, model=False)
    offered(shop, serial=1, plan_id="spring")
    page = tmp_path / "statement.html"
    commands = (["--language", "zh"], ["--language", "zh", "--json"], ["--language", "zh", "--html", str(page)], [])
    printed = []
    for more in commands:
        assert main(["statement", "--config", str(shop.config), *more]) == 0
        printed.append(capsys.readouterr().out)
    text, mapping, _, usual = printed
    assert text.startswith("bakery（customers of the web shop）的隐私声明\n")
    assert [each["text"] in text for each in json.loads(mapping)["paragraphs"]] == [True] * 9
    assert "什么会离开商户" in Path(page).read_text(encoding="utf-8")
    assert usual.startswith("Privacy statement of bakery (customers of the web shop)\n")
    with pytest.raises(SystemExit):
        main(["statement", "--config", str(shop.config), "--language", "fr"])
    assert "invalid choice: 'fr'" in capsys.readouterr().err
