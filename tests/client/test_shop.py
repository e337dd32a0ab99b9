import datetime as dt

import numpy as np
import pytest

from pp_model.errors import BadOrdersError
from pp_model.model_spec import ModelSpec
from pp_model.schema import Order, Window, concatenate, order_log
from tests.support.shops import CANARIES, WatchedSource, moved_encoder, raiser, tiny_orders, tiny_shop, tiny_task

EVERYTHING = ModelSpec(encoder="mlp", hidden=(4,), trainable="all")


def columns(rows) -> list[np.ndarray]:
    return [*(tensor.numpy() for tensor in rows.inputs), rows.spend_cents.numpy(), rows.first]


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(columns(first), columns(second), strict=True))


def test_orders_are_read_once_for_all_rounds_of_a_plan(tmp_path):
    source = WatchedSource()
    shop = tiny_shop(tmp_path, source=source)
    first = shop.rows(tiny_task(round=1))
    assert shop.rows(tiny_task(round=2)) is first
    assert len(source.windows) == 1


def test_the_holdout_is_not_even_asked_for(tmp_path):
    source = WatchedSource()
    tiny_shop(tmp_path, source=source).rows(tiny_task())
    assert source.windows == [Window(start=dt.date(1900, 1, 1), end=dt.date(2024, 7, 1))]


def test_orders_in_the_holdout_change_nothing(tmp_path):
    log = tiny_orders()
    everybody = log.num_customers + 1  # and one who comes for the first time
    spree = [Order(customer=c, timestamp=dt.datetime(2024, 7, 1), spend_cents=9_999_999) for c in range(everybody)]
    later = concatenate([log, order_log(spree, num_customers=everybody)], num_customers=everybody)
    rows = []
    for number, orders in enumerate((log, later)):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows.append(tiny_shop(folder, source=WatchedSource(log=orders)).rows(tiny_task()))
    assert same(*rows)


def test_a_customer_more_leaves_every_other_customers_rows_bit_identical(tmp_path):
    """Nothing is fitted to the shop: no mean, no maximum, no list of categories."""
    log = tiny_orders()
    outlier = [Order(customer=12, timestamp=dt.datetime(2024, 5, 1), spend_cents=900_000_000, category="yacht")] * 500
    more = concatenate([log, order_log(outlier, num_customers=13)], num_customers=13)
    rows = []
    for number, orders in enumerate((log, more)):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows.append(tiny_shop(folder, source=WatchedSource(log=orders)).rows(tiny_task(model=EVERYTHING)))
    without, with_outlier = rows
    kept = without.first[-1]
    assert np.array_equal(without.first, with_outlier.first[:-1])
    assert all(
        np.array_equal(a, b[:kept]) for a, b in zip(columns(without)[:-1], columns(with_outlier)[:-1], strict=True)
    )


def test_another_plan_is_read_for_itself(tmp_path):
    source = WatchedSource()
    shop = tiny_shop(tmp_path, source=source)
    first = shop.rows(tiny_task())
    earlier = shop.rows(tiny_task(cutoffs=(dt.date(2024, 3, 1),), holdout_start=dt.date(2024, 4, 1)))
    assert [window.end for window in source.windows] == [dt.date(2024, 7, 1), dt.date(2024, 4, 1)]
    assert not np.array_equal(first.spend_cents.numpy(), earlier.spend_cents.numpy())


def test_another_frozen_encoder_sees_the_customers_anew_without_reading_them_again(tmp_path):
    source = WatchedSource()
    shop, task = tiny_shop(tmp_path, source=source), tiny_task()
    first, second = shop.rows(task), shop.rows(moved_encoder(task, by=0.5))
    assert not np.array_equal(first.inputs[0].numpy(), second.inputs[0].numpy())
    assert same(second, tiny_shop(tmp_path).rows(moved_encoder(task, by=0.5)))
    assert len(source.windows) == 1


def test_a_trained_encoder_leaves_the_rows_as_they_are(tmp_path):
    shop, task = tiny_shop(tmp_path), tiny_task(model=EVERYTHING)
    assert same(shop.rows(task), shop.rows(moved_encoder(task, by=0.5)))


def test_a_source_that_fails_is_read_from_its_start_the_next_time(tmp_path):
    source = WatchedSource(on_read=raiser(BadOrdersError("broken", place="orders.csv")))
    shop = tiny_shop(tmp_path, source=source)
    with pytest.raises(BadOrdersError):
        shop.rows(tiny_task())
    source.on_read = lambda: None
    assert same(shop.rows(tiny_task()), tiny_shop(tmp_path).rows(tiny_task()))


def test_a_printed_shop_shows_no_order_and_no_customer(tmp_path):
    shop = tiny_shop(tmp_path)
    shop.rows(tiny_task())
    assert [word for word in ("tensor", "array", "customer=", *CANARIES) if word in repr(shop)] == []
