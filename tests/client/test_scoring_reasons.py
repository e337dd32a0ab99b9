"""Reasons: complete, exact where the truth is known, equal in every repeat."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
import torch

from client.reasons import (
    CODES,
    GROUPS,
    POINTS_PER_LOG,
    average_customer,
    contributions,
    outputs_at,
    points_read,
    top_reasons,
)
from client.scoring import Scorer, new_scorer
from pp_model.features import CORE_FEATURES, FEATURE_NAMES, Examples, build_examples
from pp_model.loss import log_expected_spend
from pp_model.model import CORE_BOUND, OTHER_BOUND
from pp_model.model_spec import ENCODERS
from pp_model.train import predict
from tests.support.scored import examples_of, linear_model, shipped
from tests.support.shops import tiny_orders

CUTOFF = dt.date(2024, 6, 1)
_PLACES = {group: place for place, group in enumerate(GROUPS)}


def contributions_of(scorer: Scorer, examples: Examples) -> np.ndarray:
    return contributions(scorer.model, examples, points_read(scorer.model, examples), scorer.average)


def customers(rows: int, *, seed: int, scale: float = 1.0) -> Examples:
    """Rows of any features, at the bounds too where the scale is large, that all buy at the average rate."""
    rng = np.random.default_rng(seed)
    return examples_of(np.clip(rng.normal(0, scale, (rows, len(FEATURE_NAMES))), -6, 6), seed=seed)


def like_the_average(scorer: Scorer, rows: int) -> Examples:
    return scorer.average.select(np.zeros(rows, np.intp))


def test_every_feature_is_in_exactly_one_of_at_most_a_dozen_groups():
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(FEATURE_NAMES)
    assert len(GROUPS) <= 12
    assert len(CODES) == 2 * len(GROUPS)


# Where a customer's features are at their bounds in a way that no history makes, the quadrature misses a little more.
@pytest.mark.parametrize(("hostile", "most"), [(False, 1e-3), (True, 0.5)], ids=["customers", "hostile features"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_contributions_sum_to_the_score_less_that_of_the_average_customer(encoder, hostile, most):
    plan, arrays = shipped(encoder)
    real = build_examples(tiny_orders(customers=200), [CUTOFF], plan.features)
    scorer, examples = new_scorer(plan, arrays, CUTOFF), customers(200, seed=3, scale=2.0) if hostile else real
    scores = predict(plan.model, arrays, examples).score
    inside = (scores > 0) & (scores < 100)
    away = scores - predict(plan.model, arrays, scorer.average).score
    assert inside.sum() > 100
    np.testing.assert_allclose(contributions_of(scorer, examples).sum(axis=1)[inside], away[inside], atol=most)


@pytest.mark.parametrize("group", [group for group, names in GROUPS.items() if names])
def test_a_model_that_reads_one_feature_gives_its_group_all_of_the_difference(group):
    name = GROUPS[group][0]
    scorer = new_scorer(*linear_model(**{name: 0.8}), CUTOFF)
    examples, place = like_the_average(scorer, 3), FEATURE_NAMES.index(name)
    moved = examples.features.copy()
    moved[:, place] += np.array([-0.5, 0.25, 0.5], np.float32)
    log_anchor = examples.log_anchor + (2 * (moved[:, place] - examples.features[:, place]) if group == "spend" else 0)
    found = contributions_of(scorer, with_features(examples, moved, log_anchor.astype(np.float32)))
    bounds = CORE_BOUND if name in CORE_FEATURES else OTHER_BOUND
    logits = 0.8 * np.clip([scorer.average.features[0, place], *moved[:, place]], -bounds, bounds).astype(np.float64)
    log_probability = -np.log1p(np.exp(-logits))
    truth = np.zeros((3, len(GROUPS)))
    truth[:, _PLACES[group]] = POINTS_PER_LOG * (log_probability[1:] - log_probability[0])
    if group == "spend":  # the customer's own mean basket, which every model builds on
        truth[:, _PLACES[group]] += (
            POINTS_PER_LOG * 2 * (moved[:, place] - examples.features[:, place]) * (name == "log_mean_visit")
        )
    np.testing.assert_allclose(found, truth, atol=1e-4)


def with_features(examples: Examples, features: np.ndarray, log_anchor: np.ndarray) -> Examples:
    return Examples(
        features=features,
        sequence=examples.sequence,
        log_anchor=log_anchor,
        spend_cents=examples.spend_cents,
        customer=np.arange(len(features)),
        num_customers=len(features),
    )


def test_two_features_of_one_sum_share_what_it_does_in_the_shares_of_the_sum():
    scorer = new_scorer(*linear_model(recency=1.0, log_tenure=-2.0), CUTOFF)
    moved = scorer.average.features.copy()
    moved[:, FEATURE_NAMES.index("recency")] += 0.6
    moved[:, FEATURE_NAMES.index("log_tenure")] += 0.1
    found = contributions_of(scorer, with_features(scorer.average, moved, scorer.average.log_anchor))[0]
    assert found[_PLACES["recency"]] > 0 > found[_PLACES["tenure"]]
    assert found[_PLACES["recency"]] / found[_PLACES["tenure"]] == pytest.approx(0.6 / -0.2, rel=1e-4)


def test_a_larger_basket_and_a_faster_rate_go_to_spend_and_frequency():
    scorer = new_scorer(*linear_model(), CUTOFF)
    moved = scorer.average.features.copy()
    moved[:, FEATURE_NAMES.index("log_mean_visit")] += 0.5  # the mean basket times e
    found = contributions_of(scorer, with_features(scorer.average, moved, scorer.average.log_anchor + np.float32(1.5)))
    truth = dict.fromkeys(GROUPS, 0.0) | {"spend": POINTS_PER_LOG, "frequency": 0.5 * POINTS_PER_LOG}
    np.testing.assert_allclose(found[0], list(truth.values()), atol=1e-4)


@pytest.mark.parametrize("encoder", ["linear", "mlp"])
def test_the_quadrature_agrees_with_a_thousand_small_steps(encoder):
    plan, arrays = shipped(encoder)
    arrays = {**arrays, "mix": 0.5 * np.eye(len(FEATURE_NAMES), dtype=np.float32)}  # a feature is its own coordinate
    scorer, examples = new_scorer(plan, arrays, CUTOFF), customers(4, seed=5)
    start, ends = points_read(scorer.model, scorer.average)[0], points_read(scorer.model, examples)
    fast = contributions_of(scorer, examples)[:, _PLACES["tenure"]] / POINTS_PER_LOG
    place, shares = FEATURE_NAMES.index("log_tenure"), (torch.arange(1000)[:, None] + 0.5) / 1000
    for end, found in zip(ends, fast, strict=True):
        at = (start + shares * (end - start)).requires_grad_()
        spend = log_expected_spend(outputs_at(scorer.model, at, torch.zeros(1000))).sum()
        slope = torch.autograd.grad(spend, at)[0][:, place].double().mean()
        assert found == pytest.approx(float(slope * (end - start)[place]), abs=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_reasons_are_the_same_in_every_repeat_and_in_any_company(encoder):
    scorer = new_scorer(*shipped(encoder), CUTOFF)
    examples = customers(16, seed=7)
    first, again = (top_reasons(contributions_of(scorer, examples)) for _ in range(2))
    alone = [top_reasons(contributions_of(scorer, examples.select(np.array([row])))) for row in range(16)]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, np.concatenate(alone))


def test_the_average_customer_has_no_reasons():
    scorer = new_scorer(*shipped("mlp"), CUTOFF)
    assert top_reasons(contributions_of(scorer, scorer.average)).tolist() == [[-1, -1, -1]]


def test_the_average_customer_is_public_and_the_same_on_every_day_but_for_the_season():
    first, later = (average_customer(shipped("mlp")[0].features, day) for day in (CUTOFF, dt.date(2025, 1, 15)))
    season = [FEATURE_NAMES.index(name) for name in ("season_cosine", "season_sine", "weekend_share")]
    np.testing.assert_array_equal(np.delete(first.features, season, axis=1), np.delete(later.features, season, axis=1))
    assert first.log_anchor.tolist() == later.log_anchor.tolist()


def test_equal_reasons_stand_in_the_order_of_the_groups_and_small_ones_are_left_out():
    of_groups = np.zeros((1, len(GROUPS)))
    of_groups[0, [_PLACES["spend"], _PLACES["recency"], _PLACES["season"]]] = (1.0, -1.0 + 1e-9, 0.09)
    assert [CODES[place] if place >= 0 else "" for place in top_reasons(of_groups)[0]] == ["recency:-", "spend:+", ""]
