"""pp-client export as a merchant calls it, and what a program that knows only the file gets from it."""

from __future__ import annotations

import hashlib
import json
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import client.onnx_export as onnx_export
from client.cli import main
from client.onnx_check import LIMIT, MADE_UP_CUTOFF, difference, log_of, loss, made_up_truth, run_in_parts
from client.onnx_graph import INPUTS, OUTPUTS
from client.scoring import new_scorer, score_block
from daemons.exit_codes import Exit
from pp_model.baskets import basket_blocks
from pp_model.features import rows_at
from pp_model.model_spec import ENCODERS
from pp_model.schema import order_log
from pp_model.train import predict
from tests.support.examples import CUTOFF, bought, shop_log
from tests.support.graph_inputs import graph_inputs
from tests.support.scored import ScoredShop, scored_shop, shipped

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[..., Path]:
    """The file that `pp-client export` makes of a shipped model; each is made once."""
    made: dict[tuple[str, bool], Path] = {}

    def of(encoder: str, *, int8: bool = False) -> Path:
        if (encoder, int8) not in made:
            shop = _shop(tmp_path_factory.mktemp(encoder), encoder)
            out = shop.config.parent / "model.onnx"
            assert main([*_command(shop, out), *(["--int8"] if int8 else [])]) == Exit.DONE
            made[encoder, int8] = out
        return made[encoder, int8]

    return of


def _shop(folder: Path, encoder: str) -> ScoredShop:
    shop = scored_shop(folder, model=False)
    shop.keep_model(*shipped(encoder))
    return shop


def _command(shop: ScoredShop, out: Path) -> list[str]:
    return ["export", "--config", str(shop.config), "--onnx", str(out)]


def running(file: Path):
    """Runs the file with nothing but onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2  # warnings are shown, and none may come
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda events: dict(zip(OUTPUTS, session.run(list(OUTPUTS), dict(events)), strict=True))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_ten_thousand_customers_get_from_the_file_what_they_get_from_the_model(exported, encoder):
    plan, arrays = shipped(encoder)
    truth = made_up_truth(plan, arrays)
    said = run_in_parts(running(exported(encoder)), truth.events)
    found = difference(truth, said)
    assert found.customers >= 10_000
    assert found.largest <= LIMIT
    # And as pp-client score gives them, rounded to the cent and to six digits.
    scorer = new_scorer(plan, arrays, MADE_UP_CUTOFF)
    blocks = [score_block(scorer, baskets).to_pydict() for baskets in basket_blocks(log_of(truth.events))]
    scored = {name: np.concatenate([block[name] for block in blocks]) for name in ("customer", *OUTPUTS)}
    rows = scored["customer"]
    assert len(rows) == found.customers
    for name in ("purchase_probability", "churn_risk"):
        np.testing.assert_allclose(said[name][rows], scored[name], rtol=0, atol=LIMIT)
    np.testing.assert_allclose(said["expected_spend_cents"][rows], scored["expected_spend_cents"], rtol=LIMIT, atol=0.5)
    np.testing.assert_allclose(said["score"][rows], scored["score"], rtol=0, atol=0.0051)
    for name in ("orders_seen", "newcomer"):
        np.testing.assert_array_equal(said[name][rows], scored[name])


def test_any_number_of_customers_and_lines_may_be_asked_about(exported):
    plan, arrays = shipped("transformer")
    run = running(exported("transformer"))
    log = shop_log(60)
    together = run(graph_inputs(log, CUTOFF))
    for customers, padding in ((1, 0), (7, 3), (3, 600)):
        few = replace(log.select(log.customer < customers), num_customers=customers)
        for name, alone in run(graph_inputs(few, CUTOFF, padding=padding)).items():
            np.testing.assert_allclose(alone, together[name][:customers], rtol=1e-5)
    one = run(graph_inputs(order_log([bought(-3)], num_customers=1), CUTOFF))
    examples = rows_at(next(basket_blocks(order_log([bought(-3)], num_customers=1))), CUTOFF, plan.features)
    said = predict(plan.model, arrays, examples)
    assert one["purchase_probability"] == pytest.approx(said.buying_probability, abs=LIMIT)


def test_the_file_says_what_it_is_and_what_it_is_not_for(exported):
    file = exported("mlp")
    proto = onnx.load(file)
    onnx.checker.check_model(proto, full_check=True)
    facts = {prop.key: prop.value for prop in proto.metadata_props}
    plan, _ = shipped("mlp")
    assert facts["plan_fingerprint"] == plan.fingerprint
    assert (facts["model_id"], len(facts["model_sha256"])) == ("1", 64)
    assert (facts["horizon_days"], facts["encoder"], facts["precision"]) == ("28", "mlp", "float32")
    assert float(facts["epsilon"]) > 0
    assert float(facts["delta"]) == plan.delta
    for use in ("credit", "fraud", "prices for one person"):
        assert use in facts["refused_uses"]
        assert use in proto.doc_string
    assert {value.name: value.doc_string for value in proto.graph.input} == INPUTS
    assert {value.name: value.doc_string for value in proto.graph.output} == OUTPUTS


def test_nothing_of_the_machine_that_made_it_is_in_the_file(exported):
    for encoder in ENCODERS:
        data = exported(encoder).read_bytes()
        for trace in (b".py", b"site-packages", str(Path.home()).encode(), b"Traceback", b"customer-"):
            assert trace not in data


def test_the_file_needs_no_orders_is_its_owners_alone_and_is_replaced_by_force_alone(exported, tmp_path, capsys):
    shop = _shop(tmp_path, "linear")
    shop.orders.unlink()
    out = tmp_path / "model.onnx"
    out.write_text("mine", encoding="utf-8")
    assert main(_command(shop, out)) == Exit.BAD_INPUT
    assert out.read_text(encoding="utf-8") == "mine"
    assert main([*_command(shop, out), "--force", "--json"]) == Exit.DONE
    summary = json.loads(capsys.readouterr().out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert summary["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert summary["bytes"] == out.stat().st_size
    assert (summary["precision"], summary["loss"]) == ("float32", None)
    assert summary["difference"]["customers"] >= 10_000
    assert out.read_bytes() == exported("linear").read_bytes()  # the same model is the same file


def test_eight_bits_lose_what_the_summary_says(tmp_path, capsys):
    shop = _shop(tmp_path, "mlp")
    out = tmp_path / "model.onnx"
    assert main([*_command(shop, out), "--int8", "--json"]) == Exit.DONE
    summary = json.loads(capsys.readouterr().out)
    truth = made_up_truth(*shipped("mlp"))
    lost = loss(truth, run_in_parts(running(out), truth.events))
    assert summary["precision"] == "int8"
    assert summary["loss"]["largest"] == pytest.approx(lost.largest, rel=1e-3)
    assert summary["loss"]["mean"] == pytest.approx(lost.mean, rel=1e-3)
    assert LIMIT < lost.mean < 0.005
    assert abs(lost.auc_lost) < 0.002
    facts = {prop.key: prop.value for prop in onnx.load(out).metadata_props}
    assert facts["precision"] == "int8"
    assert "AUC" in facts["int8_loss"]


def test_a_graph_that_says_something_else_is_not_written(exported, tmp_path, monkeypatch, capsys):
    shop, out = _shop(tmp_path, "linear"), tmp_path / "model.onnx"

    def slightly_off(model):
        graph = onnx.load(exported("linear"))
        for tensor in graph.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.size > 100:
                tensor.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1.001), tensor.name))
        return graph

    monkeypatch.setattr(onnx_export, "onnx_graph", slightly_off)
    assert main(_command(shop, out)) == Exit.BAD_INPUT
    assert "Nothing was written" in capsys.readouterr().err
    assert list(tmp_path.glob("*.onnx")) == []


def test_a_model_without_layers_has_nothing_for_eight_bits(tmp_path, capsys):
    shop = _shop(tmp_path, "linear")
    assert main([*_command(shop, tmp_path / "model.onnx"), "--int8"]) == Exit.BAD_INPUT
    assert "without --int8" in capsys.readouterr().err


def test_no_number_of_the_formulas_lost_its_last_digits(exported):
    """The exporter's own way with a number in the code is through float32: 0.3 would come out as 0.30000001192."""
    graph = onnx.load(exported("mlp")).graph
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    numbers = {float(array) for array in arrays if array.dtype == np.float64 and array.size == 1}
    rounded = {number for number in numbers if number == float(np.float32(number)) and (number * 64) % 1 > 0}
    assert {0.001, 0.02, 0.1, 0.3, 0.7, 1e-12, 365.25, -2_208_988_800.0} <= numbers
    assert rounded == set()


def test_without_its_packages_the_command_says_how_to_get_them(tmp_path, monkeypatch, capsys):
    shop = _shop(tmp_path, "linear")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(_command(shop, tmp_path / "model.onnx")) == Exit.BAD_INPUT
    assert "pip install 'purchase-power[onnx]'" in capsys.readouterr().err


def test_without_a_model_it_says_where_to_get_one(tmp_path, capsys):
    shop = scored_shop(tmp_path, model=False)
    assert main(_command(shop, tmp_path / "model.onnx")) == Exit.BAD_INPUT
    assert "pp-client pull" in capsys.readouterr().err
