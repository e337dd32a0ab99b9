"""The privacy statement: everything a lawyer must find is there, and every number is the accountant's."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from client.peers import roster_fingerprint
from client.settings import MerchantSettings, load_settings
from client.statement import PrivacyStatement, privacy_statement
from client.statement_page import merchant_statement, statement_html, statement_text
from pp_model.accounting import PrivacyEvent, epsilon_spent, rdp_epsilon
from pp_model.integer_sum import secure_epsilons
from pp_model.plan import TrainingPlan
from pp_model.protocol import RefusalCode
from tests.support.merchant_home import new_shop
from tests.support.plans import tiny_dp, tiny_plan
from tests.support.statements import BARE, PLAN, SPENT, SUM, spending_of
from tests.support.sum_town import sum_plan


def texts(statement: PrivacyStatement) -> dict[str, str]:
    return dict(statement.paragraphs())


def promised(plan: TrainingPlan, *, spent: tuple[PrivacyEvent, ...] = ()) -> dict[str, str]:
    return texts(privacy_statement(plan, spent_events=spent))


def printed(epsilon: float) -> str:
    return f"{math.ceil(epsilon * 100) / 100:.2f}"


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("Who is protected", ["one customer of one merchant, with all orders", "adding or removing one such customer"]),
        ("How much is promised", ["epsilon", "at delta 2e-06", "1 / 3000^1.1", "12 steps", "plan spring"]),
        (
            "What these numbers mean",
            ["odds", "e^epsilon", "except with probability delta", "1 in 500,000", "For example"],
        ),
        ("How it is done", ["Poisson sampling", "0.03", "clipped", "C = 0.5", "1.25 x 0.5 = 0.625", "40 rounds"]),
        ("How it is done", ["Gaussian noise", "1 step(s)", "Trust mode: local", "never by a count of customers"]),
        (
            "How it is counted",
            ["privacy loss distribution (PLD)", "Renyi accountant (RDP)", "ledger", "Nothing is ever"],
        ),
        (
            "What leaves the merchant",
            [
                "noised steps",
                "refusal",
                "Nothing else",
                "anchor",
                "approved or is refused",
                *(code.value for code in RefusalCode),
            ],
        ),
        (
            "What is assumed",
            ["stay secret", "several accounts counts as several customers", "released program", "How long"],
        ),
        ("What is not covered", ["household", "staff", "itself publishes", "floating-point", "people like you"]),
    ],
)
def test_every_element_is_in_its_place(heading: str, words: list[str]) -> None:
    text = promised(PLAN, spent=SPENT)[heading]
    assert [word for word in words if word not in text] == []


def test_the_epsilons_are_the_accountants_for_one_shop_and_for_several() -> None:
    statement = privacy_statement(PLAN, spent_events=SPENT)
    text = texts(statement)["How much is promised"]
    for count in (1, 2, 3, 5, 10):
        run = epsilon_spent([event for _ in range(count) for event in PLAN.events], delta=PLAN.delta)
        spent = epsilon_spent([event for _ in range(count) for event in SPENT], delta=PLAN.delta)
        assert (statement.plan_epsilon[count], statement.spent_epsilon[count]) == (run, spent)
        for epsilon in (run, spent):
            assert (f"{printed(epsilon)} at delta" if count == 1 else f"{printed(epsilon)} for {count}") in text
    assert statement.plan_epsilon_rdp == rdp_epsilon(PLAN.events, delta=PLAN.delta)
    assert f"gives epsilon {printed(statement.plan_epsilon_rdp)}" in texts(statement)["How it is counted"]
    assert statement.private


def test_the_worked_example_is_what_bayes_says() -> None:
    """Odds of 1 to 99 times e^epsilon."""
    epsilon = math.ceil(100 * epsilon_spent(PLAN.events, delta=PLAN.delta)) / 100
    odds = math.exp(epsilon) / 99
    text = promised(PLAN)["What these numbers mean"]
    assert f"e^{epsilon:.2f} = {math.exp(epsilon):.1f}" in text
    said = re.search(r"at most ([\d.]+) in 100 afterwards", text)
    assert said
    assert 0 <= float(said[1]) - 100 * odds / (1 + odds) < 0.1


def test_no_epsilon_is_printed_smaller_than_it_is() -> None:
    for noise_multiplier in (0.9, 1.0, 1.1, 1.7):
        plan = tiny_plan(dp=tiny_dp(noise_multiplier=noise_multiplier))
        said = re.search(r"costs epsilon ([\d.]+) at", promised(plan)["How much is promised"])
        assert said
        assert 0 <= float(said[1]) - epsilon_spent(plan.events, delta=plan.delta) <= 0.01


@pytest.mark.parametrize("plan", [PLAN, BARE], ids=["private", "no privacy"])
@pytest.mark.parametrize("spent", [(), SPENT], ids=["nothing spent", "spent"])
def test_no_paragraph_has_an_epsilon_without_its_delta(plan: TrainingPlan, spent: tuple[PrivacyEvent, ...]) -> None:
    """Checklist D56."""
    with_epsilon = [text for text in promised(plan, spent=spent).values() if "epsilon" in text]
    assert len(with_epsilon) >= 3
    for text in with_epsilon:
        assert "delta" in text or "larger epsilon" in text


def test_the_numbers_are_explained_before_the_mechanism_and_after_the_unit() -> None:
    assert list(promised(PLAN)) == [
        "Who is protected",
        "How much is promised",
        "What these numbers mean",
        "How it is done",
        "How it is counted",
        "What leaves the merchant",
        "What is assumed",
        "What is not covered",
    ]


def test_a_plan_without_noise_says_no_privacy_first_and_promises_nothing() -> None:
    statement = privacy_statement(BARE, spent_events=())
    (heading, text), *others = statement.paragraphs()
    assert heading == "NO PRIVACY"
    assert "NO PRIVACY guarantee: epsilon is infinite" in text
    assert not statement.private
    rest = dict(others)
    assert rest["Who is protected"].startswith("Nobody")
    assert rest["What these numbers mean"] == "An infinite epsilon promises nothing, at any delta."
    assert "NO noise is added" in rest["How it is done"]
    assert "Gaussian" not in rest["How it is done"]
    assert "noised" not in rest["What leaves the merchant"]


def test_a_ledger_with_a_charge_without_noise_says_no_privacy_though_the_plan_has_noise() -> None:
    statement = privacy_statement(PLAN, spent_events=(*SPENT, BARE.dp.event))
    heading, text = statement.paragraphs()[0]
    assert heading == "NO PRIVACY"
    assert "the ledger holds charges" in text
    assert not statement.private


def test_a_merchant_that_has_charged_nothing_is_told_so() -> None:
    assert "has charged nothing so far" in promised(PLAN)["How much is promised"]


@pytest.mark.parametrize("plan", [PLAN, BARE], ids=["private", "no privacy"])
def test_the_mapping_is_strict_json_and_labels_every_number(plan: TrainingPlan) -> None:
    mapping = privacy_statement(plan, spent_events=SPENT).to_mapping()
    assert json.loads(json.dumps(mapping, allow_nan=False)) == mapping
    assert set(mapping) == {
        "plan_id", "plan_fingerprint", "unit", "relation", "accountant", "sampling", "trust", "secure_sum", "delta",
        "declared_customers", "sample_rate", "noise_multiplier", "max_grad_norm", "rounds", "steps_per_round",
        "answer_every_seconds", "plan_epsilon", "plan_epsilon_rdp", "spent_steps", "spent_epsilon", "private",
    }  # fmt: skip
    assert list(mapping["plan_epsilon"]) == ["1", "2", "3", "5", "10"]
    assert mapping["plan_epsilon"]["2"] == (
        "inf" if plan is BARE else epsilon_spent([PLAN.events[0].times(2)], delta=PLAN.delta)
    )
    assert mapping["private"] is (plan is PLAN)


# Secure sums.


def roster_of(plan: TrainingPlan) -> str:
    assert plan.secure_sum is not None
    return roster_fingerprint(plan.secure_sum)


def test_a_secure_sum_names_its_assumption_with_three_epsilons_each_beside_a_delta() -> None:
    text = promised(SUM)["Whose honesty this rests on"]
    alone, helped, own = (printed(epsilon) for epsilon in secure_epsilons(SUM).values())
    for words in (
        "At least 4 honest merchants must be left in each round",
        "that 2 of the 8 merchants help",
        f"epsilon {helped} at delta 2e-06",
        f"Against a platform that nobody helps it is epsilon {alone} at the same delta",
        "this merchant's own share of the noise would be all that is left",
        f"epsilon {own} at the same delta",
        roster_of(SUM),
        "another way than the platform",
    ):
        assert words in text
    assert text.count("epsilon") == text.count("delta") == 3
    assert float(alone) < float(helped) < float(own)


def test_the_promise_of_a_secure_sum_is_the_charged_one() -> None:
    statement = privacy_statement(SUM, spent_events=())
    assert statement.secure_sum is not None
    assert statement.secure_sum.epsilon["with_dishonest"] == statement.plan_epsilon[1]
    assert statement.plan_epsilon[1] == epsilon_spent(SUM.events, delta=SUM.delta)
    assert f"epsilon {printed(statement.plan_epsilon[1])} at delta 2e-06" in texts(statement)["How much is promised"]


def test_whose_noise_it_is_and_who_sees_what_is_said_as_it_is() -> None:
    text = promised(SUM)
    for words in ("sum of the shares", "whole numbers", "masks that cancel in the sum alone", "Trust mode: secure_sum"):
        assert words in text["How it is done"]
    assert "fewer than 6 of the 8 merchants left it learns nothing" in text["How it is done"]
    assert "in full" not in text["How it is done"]
    for words in ("one masked vector of whole numbers", "encrypted shares", "no single one", "none of them depends on"):
        assert words in text["What leaves the merchant"]
    assert "model update" not in text["What leaves the merchant"]
    assert "The updates are seen by the platform" not in text["What leaves the merchant"]


def test_local_trust_says_nothing_of_sums_and_relies_on_nobody() -> None:
    text = promised(PLAN)
    assert "Whose honesty this rests on" not in text
    assert "relies on nobody else" in text["How it is done"]
    assert not any(word in whole for whole in text.values() for word in ("secure sum", "share of the noise", "masked"))


def test_whose_honesty_it_rests_on_stands_before_what_is_assumed() -> None:
    headings = list(promised(SUM))
    assert headings.index("Whose honesty this rests on") == headings.index("What is assumed") - 1


@pytest.mark.parametrize("spent", [(), SPENT], ids=["nothing spent", "spent"])
def test_no_paragraph_of_a_secure_sum_has_an_epsilon_without_its_delta(spent: tuple[PrivacyEvent, ...]) -> None:
    with_epsilon = [text for text in promised(SUM, spent=spent).values() if "epsilon" in text]
    assert len(with_epsilon) >= 4
    for text in with_epsilon:
        assert "delta" in text or "larger epsilon" in text


@pytest.mark.parametrize("noise", [1.25, 0.0])
def test_the_mapping_of_a_secure_sum_is_strict_json_with_all_three(noise: float) -> None:
    plan = sum_plan(merchants=8, threshold=6, dp=tiny_dp(noise_multiplier=noise))
    mapping = privacy_statement(plan, spent_events=()).to_mapping()
    assert json.loads(json.dumps(mapping, allow_nan=False)) == mapping
    assert {key: mapping["secure_sum"][key] for key in ("merchants", "fewest_survivors", "dishonest", "roster")} == {
        "merchants": 8, "fewest_survivors": 6, "dishonest": 1, "roster": roster_of(plan)
    }  # fmt: skip
    epsilons = {who: value if noise else "inf" for who, value in secure_epsilons(plan).items()}
    assert mapping["secure_sum"]["epsilon"] == epsilons
    assert list(epsilons) == ["platform", "with_dishonest", "all_others"]
    assert privacy_statement(PLAN, spent_events=()).to_mapping()["secure_sum"] is None


def test_a_secure_sum_without_noise_says_no_privacy_and_no_finite_epsilon() -> None:
    plan = sum_plan(merchants=3, threshold=3, dp=tiny_dp(noise_multiplier=0.0))
    statement = privacy_statement(plan, spent_events=())
    assert statement.paragraphs()[0][0] == "NO PRIVACY"
    assert not re.search(r"epsilon \d", " ".join(texts(statement).values()))


def test_a_very_large_epsilon_is_still_written_down() -> None:
    plan = tiny_plan(rounds=50, dp=tiny_dp(sample_rate=1.0, noise_multiplier=0.2))
    text = promised(plan)["What these numbers mean"]
    assert "= more than a million, except" in text
    assert "100 in 100 afterwards" in text


def test_how_coarse_the_time_of_an_answer_is_stands_where_it_is_assumed() -> None:
    plan = tiny_plan(answer_every_seconds=30.0)
    assert "nothing finer than 30 seconds is visible" in promised(plan)["What is assumed"]
    assert "finer" not in promised(PLAN)["What is assumed"]


def settings_of(tmp_path: Path, **answers: Any) -> MerchantSettings:
    return load_settings(new_shop(tmp_path / "shop", **answers).config)


def test_the_merchants_statement_says_what_was_charged_beside_what_was_promised(tmp_path: Path) -> None:
    statement = merchant_statement(settings_of(tmp_path), PLAN, spending_of(PLAN, rounds=7))
    charged = epsilon_spent([PLAN.dp.event.times(7)], delta=PLAN.delta)
    assert (statement.charged_rounds, statement.charged_epsilon) == (7, charged)
    assert statement.spent == epsilon_spent([PLAN.dp.event.times(7)], delta=1e-5)
    headings = [heading for heading, _ in statement.paragraphs()]
    assert headings.index("What was really charged") == headings.index("How much is promised") + 1
    text = dict(statement.paragraphs())["What was really charged"]
    assert f"7 of the plan's 40 rounds were charged so far: epsilon {printed(charged)} at delta 2e-06" in text
    assert f"epsilon {printed(statement.spent)} of a budget of 3.00, at the ledger's delta 1e-05" in text
    assert json.loads(json.dumps(statement.to_mapping(), allow_nan=False)) == statement.to_mapping()


@pytest.mark.parametrize("plan", [PLAN, BARE], ids=["private", "no privacy"])
def test_the_page_is_complete_in_itself_and_holds_every_paragraph(tmp_path: Path, plan: TrainingPlan) -> None:
    statement = merchant_statement(settings_of(tmp_path), plan, spending_of(plan, rounds=2))
    page = statement_html(statement)
    for heading, text in statement.paragraphs():
        assert escape(heading) in page
        assert escape(text) in page
    assert re.findall(r"(?:src|href|url)\s*[=(]", page) == []
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert ("No privacy." in page) is (plan is BARE)
    assert "bakery" in statement_text(statement)


def test_no_name_of_the_merchants_becomes_markup(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, merchant="<b>bakery</b>", population="<img src=x>")
    page = statement_html(merchant_statement(settings, PLAN, spending_of(PLAN, rounds=1)))
    assert "<img" not in page
    assert "&lt;b&gt;bakery" in page
