"""Scores of a log: those of the model, from the past alone, for newcomers too."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from client.scoring import new_scorer, score_block
from pp_model.baskets import basket_blocks, baskets_of
from pp_model.features import build_examples
from pp_model.model_spec import ENCODERS
from pp_model.schema import EventType, Order, order_log
from pp_model.train import predict
from tests.support.scored import shipped
from tests.support.shops import tiny_orders

CUTOFF = dt.date(2024, 6, 1)
BEFORE, AFTER = dt.datetime(2024, 5, 1, 12), dt.datetime(2024, 6, 1, 0)


def event(customer: int, day: dt.datetime, kind: EventType = EventType.PURCHASE, cents: int = 2_000) -> Order:
    return Order(customer=customer, timestamp=day, spend_cents=cents, event_type=kind)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_scores_are_those_of_the_model(encoder):
    plan, arrays = shipped(encoder)
    log = tiny_orders(customers=40)
    said = predict(plan.model, arrays, build_examples(log, [CUTOFF], plan.features))
    block = score_block(new_scorer(plan, arrays, CUTOFF), baskets_of(log)).to_pydict()
    np.testing.assert_allclose(block["purchase_probability"], said.buying_probability, atol=2e-6)
    np.testing.assert_allclose(block["churn_risk"], said.churn_risk, atol=2e-6)
    np.testing.assert_allclose(block["score"], said.score, atol=0.0051)
    for name, truth in (
        ("expected_spend_cents", said.expected_spend_cents),
        ("spend_low_cents", said.spend_quantile_cents(0.1)),
        ("spend_high_cents", said.spend_quantile_cents(0.9)),
    ):
        np.testing.assert_allclose(block[name], truth, rtol=1e-5, atol=0.51)


def test_four_fifths_of_what_the_model_expects_lies_in_the_interval():
    plan, arrays = shipped("mlp")
    log = tiny_orders(customers=8)
    said = predict(plan.model, arrays, build_examples(log, [CUTOFF], plan.features))
    block = score_block(new_scorer(plan, arrays, CUTOFF), baskets_of(log)).to_pydict()
    rng, draws = np.random.default_rng(1), 40_000
    for row in range(8):
        bought = rng.random(draws) < said.buying_probability[row]
        spend = bought * np.exp(said.log_location[row] + said.log_spread[row] * rng.standard_normal(draws))
        above = np.mean(spend > block["spend_high_cents"][row])
        below = np.mean(spend < block["spend_low_cents"][row])
        # Six standard deviations of a share of 0.1 in 40,000 draws; a false alarm in 1e-8 of the seeds.
        assert abs(above - 0.1) < 6 * (0.09 / draws) ** 0.5
        assert below < 0.1 + 6 * (0.09 / draws) ** 0.5
        assert (block["spend_low_cents"][row] == 0) == (said.churn_risk[row] >= 0.1)


def test_newcomers_are_scored_and_say_so():
    orders = [
        event(0, BEFORE, EventType.VIEW, cents=0),
        event(1, BEFORE),
        *(event(2, BEFORE + dt.timedelta(days=day)) for day in range(2)),
        event(3, BEFORE),
        event(3, BEFORE + dt.timedelta(days=1), EventType.RETURN, cents=-2_000),
    ]
    scorer = new_scorer(*shipped("mlp"), CUTOFF)
    block = score_block(scorer, baskets_of(order_log(orders, num_customers=4))).to_pydict()
    assert block["orders_seen"] == [0, 1, 2, 1]
    assert block["newcomer"] == [True, True, False, True]
    assert np.isfinite(block["score"]).all()
    assert (np.array(block["expected_spend_cents"]) > 0).all()


def test_what_happened_from_the_cutoff_on_changes_nothing():
    past = [event(customer, BEFORE + dt.timedelta(days=customer)) for customer in range(5)]
    future = [event(customer, AFTER, cents=900_000) for customer in range(6)]
    scorer = new_scorer(*shipped("gru"), CUTOFF)
    without, with_future = (
        score_block(scorer, baskets_of(order_log(orders, num_customers=6))) for orders in (past, [*past, *future])
    )
    assert without.equals(with_future)
    assert with_future["customer"].to_pylist() == [0, 1, 2, 3, 4]


def test_blocks_give_the_same_scores_as_the_log_at_once():
    log, scorer = tiny_orders(customers=60), new_scorer(*shipped("mlp"), CUTOFF)
    whole = score_block(scorer, baskets_of(log)).to_pylist()
    blocks = list(basket_blocks(log, lines_per_block=50))
    assert len(blocks) > 3
    in_blocks = [row for block in blocks for row in score_block(scorer, block).to_pylist()]
    for one, other in zip(whole, in_blocks, strict=True):
        assert one["reason_1"] == other["reason_1"]
        assert one["customer"] == other["customer"]
        assert one["score"] == pytest.approx(other["score"], abs=0.011)
