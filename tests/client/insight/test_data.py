import datetime as dt

import numpy as np
import pytest

from client.insight.data import load_data, newest_said
from client.score_run import score_all
from pp_model.errors import ConfigError
from pp_model.schema import category_code, order_log
from tests.support.insight import bought
from tests.support.merchant_home import TODAY
from tests.support.orders import row, write_csv
from tests.support.scored import rows_of, scored_shop

CONTRACT = '\ndiscount = "rebate"\n\n[orders.contract.slices]\nland = "country"\n\n[orders.contract.columns]'


def shop_with_extras(folder, *, rows=None):
    """A merchant whose orders have a category, a discount and a country."""
    shop = scored_shop(folder)
    text = shop.config.read_text()
    head, columns = text.split("[orders.contract.columns]")
    shop.config.write_text(head.rstrip() + "\n" + CONTRACT + columns)
    write_csv(shop.orders, rows or [_row(number) for number in range(300)])
    return shop


def _row(number, **cells):
    day = TODAY - dt.timedelta(days=1 + number % 90)
    extras = {"category": ["Tea", "Pots"][number % 2], "rebate": "0.50", "country": ["GB", "FR"][number % 2]}
    return row(f"customer-{number % 50}", f"{day} 10:00:00", "12.50", **{**extras, **cells})


def load(shop, **changes):
    fields = {"cutoff": TODAY, "models": shop.settings.paths.models, "progress": lambda *_: lambda _: None}
    return load_data(shop.settings, **{**fields, **changes})


def test_the_data_have_orders_scores_and_extras(tmp_path):
    data = load(shop_with_extras(tmp_path))

    assert len(data.log) == len(data.discount_cents) == 300
    assert data.category_names == {category_code("tea"): "Tea", category_code("pots"): "Pots"}
    assert set(data.discount_cents.tolist()) == {50}
    codes, names = data.slices["land"]
    assert (codes.tolist(), names) == ([0, 1] * 25, ("GB", "FR"))
    assert data.scores["customer"].to_pylist() == list(range(50))
    assert data.plan.features.horizon_days == data.horizon_days


def test_scores_are_those_of_the_score_command(tmp_path):
    shop = shop_with_extras(tmp_path)
    out = tmp_path / "scores.parquet"

    data = load(shop)
    score_all(
        shop.settings,
        cutoff=TODAY,
        out=out,
        models=shop.settings.paths.models,
        force=False,
        stale=False,
        progress=lambda *_: lambda _: None,
    )

    mine = sorted(data.scores.drop(["customer"]).to_pylist(), key=lambda each: each["customer_id"])
    assert mine == rows_of(out)


def test_a_change_is_against_the_scores_of_an_earlier_cutoff(tmp_path):
    shop = shop_with_extras(tmp_path)
    assert load(shop).scores["change"].null_count == 50
    earlier = TODAY - dt.timedelta(days=5)
    score_all(
        shop.settings,
        cutoff=earlier,
        out=tmp_path / "before.csv",
        models=shop.settings.paths.models,
        force=False,
        stale=False,
        progress=lambda *_: lambda _: None,
    )

    assert load(shop).scores["change"].null_count == 0


def test_nothing_on_or_after_the_cutoff_is_read(tmp_path):
    rows = [_row(0), _row(1, country="XX") | {"timestamp": f"{TODAY} 00:00:00"}]

    data = load(shop_with_extras(tmp_path, rows=rows))

    assert len(data.log) == 1
    assert data.slices["land"][1] == ("GB",)


def test_without_orders_near_the_cutoff_the_merchant_is_told(tmp_path):
    shop = shop_with_extras(tmp_path)

    with pytest.raises(ConfigError, match="--stale"):
        load(shop, cutoff=TODAY + dt.timedelta(days=30))
    with pytest.raises(ConfigError, match="no order before"):
        load(shop, cutoff=dt.date(1990, 1, 1))
    assert load(shop, cutoff=TODAY + dt.timedelta(days=30), stale=True).scores.num_rows == 50


def test_a_mistake_in_insight_toml_is_told_before_the_orders_are_read(tmp_path):
    shop = shop_with_extras(tmp_path)
    (shop.config.parent / "insight.toml").write_text("[campaigns]\nbugdet = 1\n")
    shop.orders.unlink()

    with pytest.raises(ConfigError, match="bugdet"):
        load(shop)


def test_a_customer_is_what_its_newest_row_says_and_unknown_where_none_does():
    log = order_log([bought(0, 5), bought(0, 9), bought(1, 3), bought(1, 2), bought(2, 4)], num_customers=4)

    said = newest_said(log, np.array([1, 0, 2, -1, -1], np.int16))

    assert said.tolist() == [1, 2, -1, -1]
