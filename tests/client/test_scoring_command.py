"""pp-client score as a merchant calls it: what is written and said, what is refused, and that nothing leaves."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agreement.signing import SigningKey
from client.cli import main
from client.models import MANIFEST_FILE, MODEL_FILE
from client.orders import read_orders
from client.own_readout import with_own_readout
from client.reasons import CODES
from daemons.exit_codes import Exit
from pp_model.features import build_examples
from pp_model.train import predict
from tests.support.merchant_home import TODAY
from tests.support.orders import row, write_csv
from tests.support.scored import ScoredShop, rows_of, scored_shop, shipped

DAY = dt.timedelta(days=1)
COLUMNS = [
    *("customer_id", "purchase_probability", "expected_spend_cents", "spend_low_cents", "spend_high_cents", "score"),
    *("tier", "churn_risk", "change", "reason_1", "reason_2", "reason_3", "orders_seen", "newcomer"),
]
_sockets: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event.startswith("socket."):
        _sockets.append(event)


sys.addaudithook(_watch)


@pytest.fixture
def shop(tmp_path) -> ScoredShop:
    return scored_shop(tmp_path)


@pytest.fixture
def score(shop, tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; its exit code and what it printed."""

    def run(*more: str, cutoff: dt.date = TODAY, out: str = "scores.parquet") -> tuple[int, str, str]:
        arguments = ["--config", str(shop.config), "--cutoff", str(cutoff), "--out", str(tmp_path / out)]
        code = main(["score", *arguments, *more])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_every_customer_has_a_row_that_makes_sense(score, tmp_path):
    code, out, err = score()
    rows = rows_of(tmp_path / "scores.parquet")
    assert (code, err) == (Exit.DONE, "")
    assert "Scored: 300 customers" in out
    assert list(rows[0]) == COLUMNS
    assert {row["customer_id"] for row in rows} == {f"customer-{number}" for number in range(300)}
    by_score = {tier: [row["score"] for row in rows if row["tier"] == tier] for tier in ("low", "middle", "high")}
    assert max(by_score["low"]) <= min(by_score["middle"]) <= max(by_score["middle"]) <= min(by_score["high"])
    assert 25 <= len(by_score["high"]) <= 45
    for each in rows:
        assert 0 <= each["score"] <= 100
        assert each["purchase_probability"] + each["churn_risk"] == pytest.approx(1, abs=2e-6)
        assert each["spend_low_cents"] <= each["spend_high_cents"]
        assert each["change"] is None
        assert (each["orders_seen"], each["newcomer"]) == (2, False)
        assert {each[name] for name in ("reason_1", "reason_2", "reason_3")} <= {*CODES, None}
    assert {each["reason_1"] for each in rows} & {"spend:+", "spend:-", "recency:+", "frequency:-"}


def test_the_summary_for_programs_says_the_same(score, tmp_path):
    code, out, _ = score("--json")
    summary = json.loads(out)
    rows = rows_of(tmp_path / "scores.parquet")
    assert code == Exit.DONE
    assert (summary["customers"], summary["newcomers"], summary["model_id"]) == (300, 0, 1)
    assert summary["tiers"] == {tier: sum(row["tier"] == tier for row in rows) for tier in ("high", "middle", "low")}
    assert (summary["newest_order"], summary["days_without_order"]) == (str(TODAY - DAY), 0)
    assert (summary["compared_with"], summary["drift"], summary["resumed"]) == (None, {}, False)


def test_orders_from_the_cutoff_on_are_not_read(score):
    summary = json.loads(score("--json", cutoff=TODAY - 3 * DAY)[1])
    assert summary["newest_order"] == str(TODAY - 4 * DAY)
    assert any("outside the window" in line for line in summary["orders"])


def test_the_second_scoring_has_changes_and_drift_and_newcomers_have_no_change(score, shop, tmp_path):
    score(cutoff=TODAY - 3 * DAY, out="first.parquet")
    with shop.orders.open("a", encoding="utf-8") as file:
        file.write(",".join(row("just-come", f"{TODAY - DAY} 09:00:00", "20.00").values()) + "\n")
    code, out, _ = score(out="second.csv")
    before = {row["customer_id"]: row["score"] for row in rows_of(tmp_path / "first.parquet")}
    assert code == Exit.DONE
    for each in rows_of(tmp_path / "second.csv"):
        earlier = before.get(each["customer_id"])
        if earlier is None:
            assert each["change"] is None
        else:
            assert each["change"] == pytest.approx(each["score"] - earlier, abs=1e-6)
    assert "just-come" not in before
    assert f"population stability against {TODAY - 3 * DAY}: score 0." in out
    assert "steady" in out


def test_scoring_a_day_twice_gives_the_same_file_twice(score, tmp_path):
    score(cutoff=TODAY - 3 * DAY, out="earlier.parquet")
    for name in ("first.parquet", "again.parquet"):
        assert score(out=name)[0] == Exit.DONE
    first, again = (tmp_path / name for name in ("first.parquet", "again.parquet"))
    assert first.read_bytes() == again.read_bytes()
    assert any(each["change"] for each in rows_of(again))


def test_another_model_and_a_shop_that_changed_are_said(score, shop):
    score(cutoff=TODAY - 20 * DAY, out="first.parquet")
    shop.keep_model(*shipped("linear"), model_id=2)
    text = shop.orders.read_text(encoding="utf-8")
    shop.orders.write_text(text.replace(".50,", "9999.50,").replace(".50\n", "9999.50\n"), encoding="utf-8")
    _, out, _ = score(out="second.parquet")
    assert "with another model: score" in out
    assert "changed: before you act on it" in out


def test_nothing_opens_a_socket(score):
    global _watching
    _watching = True
    try:
        code, _, _ = score()
    finally:
        _watching = False
    assert (code, _sockets) == (Exit.DONE, [])


def test_the_watch_on_sockets_would_see_one():
    global _watching
    import socket

    _watching = True
    try:
        with socket.socket():
            pass
    finally:
        _watching = False
    assert _sockets
    _sockets.clear()


def test_without_a_model_it_says_where_to_get_one(tmp_path, capsys):
    shop = scored_shop(tmp_path, model=False)
    out = tmp_path / "scores.parquet"
    assert main(["score", "--config", str(shop.config), "--cutoff", str(TODAY), "--out", str(out)]) == Exit.BAD_INPUT
    assert "pp-client pull" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("how", ["another file", "another signer", "another manifest"])
def test_a_kept_model_that_is_not_what_the_platform_signed_is_refused(score, shop, tmp_path, how):
    (place,) = shop.settings.paths.models.iterdir()
    if how == "another file":
        data = bytearray((place / MODEL_FILE).read_bytes())
        data[-1] ^= 1
        (place / MODEL_FILE).write_bytes(data)
    if how == "another signer":
        shop.keep_model(*shipped("linear"), model_id=2, key=SigningKey.generate())
    if how == "another manifest":
        text = (place / MANIFEST_FILE).read_bytes()
        (place / MANIFEST_FILE).write_bytes(text.replace(b'"model_id":1', b'"model_id":3'))
    code, _, _ = score()
    assert code == Exit.INTEGRITY
    assert not (tmp_path / "scores.parquet").exists()


def test_a_model_pulled_without_its_signature_is_refused_with_what_to_do(score, shop):
    (place,) = shop.settings.paths.models.iterdir()
    (place / MANIFEST_FILE).unlink()
    code, _, err = score()
    assert (code, "pp-client pull" in err) == (Exit.BAD_INPUT, True)


def test_a_cutoff_long_after_the_newest_order_is_refused_unless_told_otherwise(score):
    assert score(cutoff=TODAY + 7 * DAY)[0] == Exit.DONE
    code, _, err = score(cutoff=TODAY + 8 * DAY, out="late.parquet")
    assert (code, "--stale" in err, str(TODAY - DAY) in err) == (Exit.BAD_INPUT, True, False)
    code, out, _ = score("--stale", cutoff=TODAY + 8 * DAY, out="late.parquet")
    assert (code, "8 days without an order" in out) == (Exit.DONE, True)


@pytest.mark.parametrize(("days", "own"), [(7, True), (8, False)], ids=["up to date", "stale"])
def test_the_shop_s_own_readout_is_used_unless_the_orders_are_stale(score, shop, tmp_path, days, own):
    cutoff, (plan, arrays) = TODAY + days * DAY, shipped("mlp")
    score("--stale", cutoff=cutoff)
    log = read_orders(shop.settings.source(), window=None).log
    rows = build_examples(log, [cutoff], plan.features)
    moved = with_own_readout(plan, arrays, log, cutoff=cutoff)
    said = [predict(plan.model, each, rows).buying_probability.mean() for each in (arrays, moved)]
    found = np.mean([each["purchase_probability"] for each in rows_of(tmp_path / "scores.parquet")])
    assert abs(said[0] - said[1]) > 1e-4
    assert found == pytest.approx(said[own], abs=2e-6)


def test_a_cutoff_before_every_order_is_refused(score):
    code, _, err = score(cutoff=TODAY - 1000 * DAY)
    assert (code, "no order before the cutoff" in err) == (Exit.BAD_INPUT, True)


@pytest.mark.parametrize(
    ("out", "says"),
    [("scores.xlsx", ".parquet or .csv"), ("nowhere/scores.csv", "make it first"), ("folder.csv", "is a folder")],
)
def test_an_out_that_cannot_be_is_refused_before_anything_is_read(score, shop, tmp_path, out, says):
    (tmp_path / "folder.csv").mkdir()
    shop.orders.unlink()
    code, _, err = score(out=out)
    assert (code, says in err) == (Exit.BAD_INPUT, True)


CANARY = "quetzal.vandersloot@canary.example"


@pytest.mark.parametrize(
    "broken",
    [
        {"amount": f"{CANARY} 719384.65"},
        {"timestamp": f"{CANARY} 719384.65"},
        {"customer_id": ""},
    ],
    ids=["amount", "timestamp", "no customer"],
)
def test_a_bad_row_is_named_by_line_and_column_and_never_by_a_cell(score, shop, broken):
    good = row(CANARY, f"{TODAY - DAY} 09:00:00", "719384.65")
    write_csv(shop.orders, [good, {**good, **broken}])
    code, out, err = score()
    assert code == Exit.BAD_INPUT
    assert "line 3" in err
    for cell in (CANARY, "719384.65"):
        assert cell not in out + err


def test_a_missing_column_is_named(score, shop):
    text = shop.orders.read_text(encoding="utf-8")
    shop.orders.write_text(text.replace("amount", "sum", 1), encoding="utf-8")
    code, _, err = score()
    assert (code, "'amount'" in err) == (Exit.BAD_INPUT, True)


def test_a_date_that_is_none_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["score", "--cutoff", "soon", "--out", str(Path(tmp_path) / "scores.csv")])
    assert end.value.code == Exit.BAD_INPUT
