"""Generated orders: the same for a seed, of the shape that is said, in both forms."""

import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from benchmarks.generated_shop import CUTOFF, FIRST_DAY, make_shop, write_orders
from client.models import newest_kept
from client.orders import read_orders
from client.settings import load_settings
from pp_model.schema import Window


def orders(path, **fields):
    write_orders(path, **{"orders": 5_000, "customers": 500, **fields})
    return pq.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)


def test_a_seed_gives_the_same_orders_and_another_one_others(tmp_path):
    first, again = orders(tmp_path / "a.parquet"), orders(tmp_path / "b.parquet")
    assert first.equals(again)
    assert not first.equals(orders(tmp_path / "c.parquet", seed=1))


def test_as_csv_they_are_the_same_orders(tmp_path):
    parquet, csv = orders(tmp_path / "a.parquet"), orders(tmp_path / "a.csv")
    assert csv.column_names == parquet.column_names
    assert csv["customer_id"].to_pylist() == parquet["customer_id"].to_pylist()
    assert csv["amount"].to_pylist() == parquet["amount"].to_pylist()


def test_a_discount_is_never_more_than_was_paid_and_a_customer_has_one_country(tmp_path):
    found = orders(tmp_path / "a.parquet", extras=True)
    assert pc.all(pc.less_equal(found["discount"], pc.abs(found["amount"]))).as_py()
    countries = found.group_by("customer_id").aggregate([("country", "count_distinct")])
    assert set(countries["country_count_distinct"].to_pylist()) == {1}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("extras", [False, True])
def test_a_shop_is_one_that_pp_client_reads_with_its_extras_and_a_verified_model(tmp_path, kind, extras):
    config = make_shop(tmp_path / "shop", customers=50, orders=500, encoder="mlp", kind=kind, extras=extras)
    settings = load_settings(config)
    found = read_orders(settings.source(), window=Window(start=FIRST_DAY, end=CUTOFF), extras=True)
    assert len(found.log.customer) == 500
    assert (found.extras.discount_cents is not None) == extras
    assert set(found.extras.slices) == ({"country"} if extras else set())
    assert newest_kept(settings.paths.models, settings.plan_key).plan.plan_id == "benchmark"
