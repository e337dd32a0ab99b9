"""The graph as a module of PyTorch: baskets, features and figures equal those of the model's own code."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from client.onnx_baskets import Lines, dense_baskets
from client.onnx_check import difference, made_up_truth, run_in_parts
from client.onnx_features import features, history, log_anchor, sequence
from client.onnx_graph import INPUTS, OUTPUTS, ScoringGraph, normal_quantile
from pp_model.baskets import baskets_of
from pp_model.features import FeatureSpec, build_examples
from pp_model.model import load_model
from pp_model.model_spec import ENCODERS
from pp_model.schema import EventType, Order, OrderLog, order_log
from tests.support.documents import ROOT
from tests.support.examples import CUTOFF, bought, event, order_lists, shop_log
from tests.support.graph_inputs import graph_inputs
from tests.support.scored import shipped

horizons = st.sampled_from([1, 7, 28, 90, 400])


def dense(log: OrderLog):
    """The log's baskets as the graph has them, and the day of the cutoff."""
    given = {name: torch.from_numpy(array) for name, array in graph_inputs(log, CUTOFF).items()}
    cutoff_day = given.pop("cutoff_day")
    return dense_baskets(Lines(**given), cutoff_day), cutoff_day


def assert_same_rows(log: OrderLog, spec: FeatureSpec) -> None:
    """The graph's features, tokens and anchors are those of `build_examples`, bit by bit but for the last digit."""
    truth = build_examples(log, [CUTOFF], spec)
    baskets, cutoff_day = dense(log)
    past = history(baskets, horizon_days=spec.horizon_days)
    rows = truth.customer
    assert np.flatnonzero(baskets.present.any(dim=1).numpy()).tolist() == rows.tolist()
    np.testing.assert_allclose(features(past, cutoff_day).numpy()[rows], truth.features, rtol=3e-7, atol=1e-7)
    np.testing.assert_array_equal(sequence(past, spec.sequence_length).numpy()[rows], truth.sequence)
    np.testing.assert_allclose(log_anchor(past).numpy()[rows], truth.log_anchor, rtol=2e-7)


@settings(deadline=None)
@given(order_lists(), horizons)
def test_features_tokens_and_anchor_are_those_of_the_model(orders, horizon):
    assert_same_rows(order_log(orders, num_customers=3), FeatureSpec(horizon_days=horizon, sequence_length=5))


def test_a_whole_shop_has_the_same_features_tokens_and_anchors():
    assert_same_rows(shop_log(300), FeatureSpec(horizon_days=28, sequence_length=32))


def test_the_lines_of_an_order_are_one_basket_of_its_day_and_kind():
    lines = [
        bought(-3, 500, second=100, order_id="x", category="bread", quantity=2),
        bought(-3, 900, second=50, order_id="x", category="cake"),
        bought(-2, 700, second=0, order_id="x"),
        bought(-3, 400, second=200, order_id="y"),
        event(EventType.RETURN, -3, -100, second=300),
    ]
    log = order_log(lines, num_customers=1)
    baskets, _ = dense(log)
    truth = baskets_of(log)
    assert baskets.present.tolist() == [[False, True, True, True, True]]
    for name in ("spend_cents", "quantity", "lines", "kind"):
        there = {"kind": "event_type"}.get(name, name)
        assert getattr(baskets, name)[0, 1:].tolist() == getattr(truth, there).tolist()
    assert baskets.lines[0, 1:].tolist() == [2, 1, 1, 1]


def test_two_lines_without_an_order_are_two_baskets():
    given = graph_inputs(order_log([bought(-3, 500), bought(-3, 700)], num_customers=1), CUTOFF)
    given["order"][:] = 0
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    baskets = dense_baskets(Lines(**{name: tensors[name] for name in Lines._fields}), tensors["cutoff_day"])
    assert baskets.lines.tolist() == [[1, 1]]


def test_baskets_of_one_second_stand_in_the_order_of_their_fingerprints():
    orders = [bought(-1, 100 * number, order_id=f"id {number}", category=str(number)) for number in range(1, 9)]
    assert_same_rows(order_log(orders, num_customers=1), FeatureSpec(horizon_days=28, sequence_length=8))


NULLED = [
    pytest.param({"timestamp": np.nan}, [0], id="no time"),
    pytest.param({"timestamp": np.inf}, [0], id="endless time"),
    pytest.param({"spend_cents": np.nan}, [0], id="no amount"),
    pytest.param({"spend_cents": -np.inf}, [0], id="endless amount"),
    pytest.param({"event_type": -1}, [0], id="no event type"),
    pytest.param({"event_type": 5}, [0], id="unknown event type"),
    pytest.param({"quantity": 2.0**31}, [0], id="absurd quantity"),
    pytest.param({"quantity": np.nan}, [0, 1], id="no quantity"),
    pytest.param({"category": -1}, [0, 1], id="no category"),
    pytest.param({"category": -(2**40)}, [0, 1], id="category below every code"),
    pytest.param({"order": 0}, [0, 1], id="no order"),
]


@pytest.mark.parametrize(("null", "left"), NULLED)
def test_a_line_with_a_null_is_left_out_or_counts_as_nothing_said(null, left):
    orders = [bought(-9, 2_000, order_id="a"), bought(-2, 3_000, order_id="b")]
    given = graph_inputs(order_log(orders, num_customers=1), CUTOFF)
    for name, value in null.items():
        given[name][0, 1] = value
    kept = order_log([orders[place] for place in left], num_customers=1)
    graph = ScoringGraph(load_model(*_model("mlp")), FeatureSpec(horizon_days=28))
    for one, other in zip(_said(graph, given), _said(graph, graph_inputs(kept, CUTOFF)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_views_need_no_amount_and_a_purchase_below_zero_is_a_return():
    graph = ScoringGraph(load_model(*_model("gru")), FeatureSpec(horizon_days=28))
    orders = [bought(-9, 2_000), event(EventType.VIEW, -5), event(EventType.RETURN, -2, -700)]
    usual = graph_inputs(order_log(orders, num_customers=1), CUTOFF)
    odd = {name: array.copy() for name, array in usual.items()}
    odd["spend_cents"][0] = [2_000, np.nan, 700]
    other = {name: array.copy() for name, array in usual.items()}
    other["event_type"][0] = [0, 2, 0]
    for each in (odd, other):
        for one, two in zip(_said(graph, usual), _said(graph, each), strict=True):
            np.testing.assert_array_equal(one, two)


def test_padding_and_the_order_of_lines_mean_nothing():
    graph = ScoringGraph(load_model(*_model("gru")), FeatureSpec(horizon_days=28))
    log = shop_log(40)
    given = graph_inputs(log, CUTOFF)
    padded = graph_inputs(log, CUTOFF, padding=7)
    shuffled = {name: array[:, ::-1].copy() if array.ndim else array for name, array in padded.items()}
    for changed in (padded, shuffled):
        for one, other in zip(_said(graph, given), _said(graph, changed), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_who_did_nothing_before_the_cutoff_has_no_figures():
    orders = [bought(-1, customer=0), bought(0, customer=1, second=0)]
    graph = ScoringGraph(load_model(*_model("linear")), FeatureSpec(horizon_days=28))
    said = dict(zip(OUTPUTS, _said(graph, graph_inputs(order_log(orders, num_customers=3), CUTOFF)), strict=True))
    assert said["orders_seen"].tolist() == [1, 0, 0]
    assert said["newcomer"].tolist() == [True, True, True]
    for name in set(OUTPUTS) - {"orders_seen", "newcomer"}:
        assert np.isnan(said[name]).tolist() == [False, True, True]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_module_says_what_the_model_says_of_made_up_customers(encoder):
    plan, arrays = shipped(encoder)
    truth = made_up_truth(plan, arrays, customers=600)
    graph = ScoringGraph(load_model(plan.model, arrays), plan.features)
    said = run_in_parts(lambda events: dict(zip(OUTPUTS, _said(graph, events), strict=True)), truth.events)
    assert difference(truth, said).largest < 3e-6
    assert len(truth.examples) > 450


def test_the_quantile_of_the_normal_is_that_of_scipy():
    levels = np.concatenate([10.0 ** -np.arange(1, 13), 1 - 10.0 ** -np.arange(1, 13), np.linspace(0.001, 0.999, 999)])
    found = normal_quantile(torch.from_numpy(levels)).numpy()
    np.testing.assert_allclose(found, ndtri(levels), rtol=1e-13, atol=1e-15)


def test_the_function_on_the_page_makes_the_graphs_inputs():
    page = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def inputs" in block]
    names: dict[str, Any] = {}
    exec(code, names)
    orders = [
        bought(-9, 2_000, order_id="a", category="Bread"),
        bought(-2, 3_000, customer=1, order_id="b", quantity=3),
        event(EventType.RETURN, -1, -700),
        bought(-3, 500),
    ]
    expected = graph_inputs(order_log(orders, num_customers=2), CUTOFF)
    expected["order"][0, 1:] = 0  # without an id; a log numbers them instead
    lines = [[_line(order) for order in orders if order.customer == customer] for customer in range(2)]
    lines[0][2]["pieces"] = lines[0][1]["when"] = None
    expected["quantity"][0, 2] = expected["timestamp"][0, 1] = np.nan
    made = names["inputs"](lines, CUTOFF)
    assert list(made) == list(INPUTS)
    for name, array in expected.items():
        assert made[name].dtype == array.dtype
        np.testing.assert_array_equal(made[name], array)


def _line(order: Order) -> dict[str, Any]:
    return {
        "when": order.timestamp,
        "cents": order.spend_cents,
        "pieces": order.quantity,
        "category": order.category,
        "event": order.event_type.name.lower(),
        "order_id": order.order_id,
    }


def _model(encoder):
    plan, arrays = shipped(encoder)
    return plan.model, arrays


def _said(graph: ScoringGraph, given) -> list[np.ndarray]:
    with torch.no_grad():
        return [output.numpy() for output in graph(*(torch.from_numpy(np.asarray(given[name])) for name in INPUTS))]
