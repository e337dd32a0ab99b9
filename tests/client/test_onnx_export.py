"""What an export refuses, and how the difference of a graph from the model is told; graphs are made in tests/e2e."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from client.onnx_check import LIMIT, difference, log_of, loss, made_up_events, made_up_truth
from client.onnx_export import check_out, check_packages
from pp_model.errors import ConfigError
from pp_model.features import FeatureSpec
from pp_model.schema import EventType
from tests.support.scored import shipped

SPEC = FeatureSpec(horizon_days=28)


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("model.bin", "allowed: .onnx"),
        ("nowhere/model.onnx", "make it first"),
        ("folder.onnx", "is a folder"),
        ("there.onnx", "--force"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path, out, says):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "there.onnx").touch()
    with pytest.raises(ConfigError, match=says):
        check_out(tmp_path / out, force=False)


def test_a_file_that_is_there_may_be_replaced_by_force(tmp_path):
    (tmp_path / "there.onnx").touch()
    check_out(tmp_path / "there.onnx", force=True)


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"onnxscript, onnxruntime\. .*pip install 'purchase-power\[onnx\]'"):
        check_packages()


def outputs_of(truth, **changes):
    """The model's own word as a graph would give it, with `changes` to rows of customers."""
    rows, said = truth.examples.customer, truth.said
    figures = {
        "purchase_probability": said.buying_probability,
        "expected_spend_cents": said.expected_spend_cents,
        "spend_low_cents": said.spend_quantile_cents(0.1),
        "spend_high_cents": said.spend_quantile_cents(0.9),
    }
    outputs = {}
    for name, values in figures.items():
        outputs[name] = np.full(truth.examples.num_customers, np.nan)
        outputs[name][rows] = values * (1 + np.where(np.arange(len(rows)) == 7, changes.get(name, 0.0), 0.0))
    return outputs


@pytest.fixture(scope="module")
def truth():
    return made_up_truth(*shipped("mlp"), customers=400)


def test_the_models_own_word_is_no_distance_from_it(truth):
    assert difference(truth, outputs_of(truth)).largest < 1e-12
    assert loss(truth, outputs_of(truth)).largest == 0


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("purchase_probability", "probability"),
        ("expected_spend_cents", "expected_spend"),
        ("spend_high_cents", "interval"),
    ],
)
def test_one_customer_off_by_a_thousandth_is_seen(truth, name, place):
    found = difference(truth, outputs_of(truth, **{name: 1e-3}))
    assert getattr(found, place) > LIMIT
    assert found.largest == getattr(found, place)


def test_a_row_too_many_or_too_few_is_as_far_as_can_be(truth):
    few, many = outputs_of(truth), outputs_of(truth)
    few["purchase_probability"][truth.examples.customer[0]] = np.nan
    absent = np.setdiff1d(np.arange(400), truth.examples.customer)[0]
    many["purchase_probability"][absent] = 0.5
    assert difference(truth, few).largest == difference(truth, many).largest == np.inf


def test_a_figure_that_is_not_a_number_is_as_far_as_can_be(truth):
    broken = outputs_of(truth)
    broken["spend_high_cents"][truth.examples.customer[0]] = np.nan
    assert difference(truth, broken).largest == np.inf
    assert replace(difference(truth, outputs_of(truth)), probability=np.nan).largest == np.inf


def test_made_up_customers_have_every_gap_that_orders_have():
    events = made_up_events(2_000, spec=SPEC)
    log = log_of(events)
    cutoff = int(events["cutoff_day"]) * 86_400
    past = log.select(log.timestamp < cutoff)
    kinds = [set(past.event_type[past.customer == customer].tolist()) for customer in range(2_000)]
    looked = {EventType.VIEW, EventType.CART, EventType.SEARCH}
    assert sum(not kind for kind in kinds) > 40
    assert sum(kind == {EventType.RETURN} for kind in kinds) > 40
    assert sum(bool(kind) and kind <= looked for kind in kinds) > 40
    assert np.mean(log.timestamp >= cutoff) > 0.1
    for name in ("timestamp", "spend_cents", "quantity"):
        assert 0.02 < np.isnan(events[name]).mean() < 0.04
    for name, null in (("category", -1), ("order", 0), ("event_type", -1)):
        assert np.mean(events[name] == null) > 0.02
