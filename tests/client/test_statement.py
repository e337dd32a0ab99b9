"""The privacy statement: everything a lawyer must find is there, and every number is the accountant's."""

from __future__ import annotations

import json
import math
import re

import pytest

from client.statement import PrivacyStatement, privacy_statement
from pp_model.accounting import PrivacyEvent, epsilon_spent, rdp_epsilon
from pp_model.plan import TrainingPlan
from pp_model.protocol import RefusalCode
from tests.support.plans import tiny_dp, tiny_plan

PLAN = tiny_plan(
    plan_id="spring",
    rounds=40,
    delta=2e-6,
    declared_customers=3000,
    dp=tiny_dp(sample_rate=0.03, noise_multiplier=1.25, max_grad_norm=0.5),
)
SPENT = (PLAN.dp.event.times(7), PrivacyEvent(sample_rate=0.01, noise_multiplier=2.0, num_steps=5))
BARE = tiny_plan(dp=tiny_dp(noise_multiplier=0.0))


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
            ["noised steps", "refusal", "Nothing else", *(code.value for code in RefusalCode)],
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
        "plan_id", "plan_fingerprint", "unit", "relation", "accountant", "sampling", "trust", "delta",
        "declared_customers", "sample_rate", "noise_multiplier", "max_grad_norm", "rounds", "steps_per_round",
        "plan_epsilon", "plan_epsilon_rdp", "spent_steps", "spent_epsilon", "private",
    }  # fmt: skip
    assert list(mapping["plan_epsilon"]) == ["1", "2", "3", "5", "10"]
    assert mapping["plan_epsilon"]["2"] == (
        "inf" if plan is BARE else epsilon_spent([PLAN.events[0].times(2)], delta=PLAN.delta)
    )
    assert mapping["private"] is (plan is PLAN)


def test_a_very_large_epsilon_is_still_written_down() -> None:
    plan = tiny_plan(rounds=50, dp=tiny_dp(sample_rate=1.0, noise_multiplier=0.2))
    text = promised(plan)["What these numbers mean"]
    assert "= more than a million, except" in text
    assert "100 in 100 afterwards" in text
