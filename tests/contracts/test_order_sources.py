"""What every source of orders promises, whatever it reads."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from client.orders import Orders, read_orders
from client.sources import DataContract
from client.sources.refusals import Reason
from pp_model.errors import BadOrdersError
from pp_model.schema import COLUMNS, EventType, Order, Window, order_log
from tests.support import orders as support
from tests.support.orders import row

pytest_plugins = ("tests.support.postgres",)

CANARY = "mallory@example.org"
EVERY_SOURCE = pytest.mark.parametrize("kind", [*support.ALL_KINDS, "postgres", "postgres-native"])
EVERY_TEXT_SOURCE = pytest.mark.parametrize("kind", [*support.TEXT_KINDS, "postgres"])
SKIP = DataContract(bad_rows="skip")

ROWS = [
    row("17", "2025-01-31 23:59:59", "10.10", order_id="a1", quantity="2", category="Tea", event_type="purchase"),
    row("17", "2025-01-31 23:59:59", "0.29", order_id="a1", quantity="1", category="", event_type="purchase"),
    row("042", "2025-02-01 00:00:00", "-5.55", order_id="b7", quantity="-1", category="Tea", event_type="return"),
    row("17", "2025-02-28 12:00:00", "0", order_id="", quantity="1", category="Pots", event_type="view"),
    row("zoë", "2025-03-01 00:00:00", "999.99", order_id="c3", quantity="300", category="Tea", event_type="purchase"),
]
CUSTOMER_IDS = ("17", "042", "zoë")
EXPECTED = order_log(
    [
        Order(
            customer=CUSTOMER_IDS.index(r["customer_id"]),
            timestamp=dt.datetime.fromisoformat(r["timestamp"]),
            spend_cents=cents,
            order_id=r["order_id"],
            quantity=int(r["quantity"]),
            category=r["category"],
            event_type=EventType[r["event_type"].upper()],
        )
        for r, cents in zip(ROWS, [1010, 29, -555, 0, 99_999], strict=True)
    ],
    num_customers=3,
)


@pytest.fixture
def source_of(request):
    """`support.source_of`, for the kinds of PostgreSQL too; its server is started only for them."""

    def build(kind, folder, rows, contract=None):
        if not kind.startswith("postgres"):
            return support.source_of(kind, folder, rows, contract)
        return request.getfixturevalue("postgres").source_of(rows, contract, native=kind == "postgres-native")

    return build


def same(left: Orders, right: Orders) -> bool:
    return left.customer_ids == right.customer_ids and all(
        np.array_equal(getattr(left.log, name), getattr(right.log, name)) for name in COLUMNS
    )


def reasons(orders: Orders) -> dict[Reason, tuple[int, int]]:
    return {reason: (skip.count, skip.first_line) for reason, skip in orders.report.skipped.items()}


@EVERY_SOURCE
def test_the_same_orders_give_the_same_log(kind, source_of, tmp_path):
    orders = read_orders(source_of(kind, tmp_path, ROWS), window=None)

    assert orders.customer_ids == CUSTOMER_IDS
    for name, dtype in COLUMNS.items():
        column = getattr(orders.log, name)
        assert column.dtype == dtype
        assert column.tolist() == getattr(EXPECTED, name).tolist(), name


@EVERY_SOURCE
def test_a_window_takes_its_first_day_and_leaves_the_day_after_its_last(kind, source_of, tmp_path):
    source = source_of(kind, tmp_path, ROWS)

    orders = read_orders(source, window=Window(start=dt.date(2025, 2, 1), end=dt.date(2025, 3, 1)))

    assert orders.customer_ids == ("042", "17")
    assert orders.log.timestamp.tolist() == EXPECTED.timestamp[2:4].tolist()
    assert (orders.report.rows, orders.report.used, orders.report.outside_window) == (5, 2, 3)


@EVERY_SOURCE
def test_reading_twice_gives_the_same(kind, source_of, tmp_path):
    source = source_of(kind, tmp_path, ROWS)

    assert same(read_orders(source, window=None), read_orders(source, window=None))


@EVERY_SOURCE
def test_merchants_are_named_where_the_source_names_them(kind, source_of, tmp_path):
    rows = [row("ann", merchant="bakery"), row("ann", merchant="florist"), row("bob", merchant="bakery")]

    orders = read_orders(source_of(kind, tmp_path, rows), window=None)

    assert orders.merchant_names == ("bakery", "florist")
    assert orders.merchant.tolist() == [0, 1, 0]


@EVERY_SOURCE
def test_rows_that_share_an_order_id_are_lines_of_one_order_unless_the_contract_says_otherwise(
    kind, source_of, tmp_path
):
    rows = [row(order_id="a"), row(order_id="b"), row(order_id="a", amount="2.00"), row(order_id=""), row(order_id="")]

    lines = read_orders(source_of(kind, tmp_path, rows), window=None)

    assert len(lines.log) == 5
    assert len(np.unique(lines.log.order)) == 4


@EVERY_SOURCE
def test_repeated_orders_are_skipped_and_counted_or_stop_the_reading_as_the_contract_says(kind, source_of, tmp_path):
    rows = [row(order_id="a"), row(order_id="b"), row(order_id="a", amount="2.00"), row(order_id=""), row(order_id="")]
    third = 4 if kind.startswith("csv") else 3

    skipped = read_orders(source_of(kind, tmp_path, rows, DataContract(duplicates="skip")), window=None)
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(BadOrdersError, match="duplicates") as caught:
        read_orders(source_of(kind, again, rows, DataContract(duplicates="error")), window=None)

    assert reasons(skipped) == {Reason.REPEATED_ORDER: (1, third)}
    assert skipped.log.spend_cents.tolist() == [1010] * 4
    assert (caught.value.line, caught.value.column) == (third, "order_id")


@EVERY_SOURCE
def test_an_order_id_of_two_customers_is_used_and_reported(kind, source_of, tmp_path):
    rows = [row("ann", order_id="a"), row("ann", order_id="b"), row("bob", order_id="a"), row("ann", order_id="b")]

    report = read_orders(source_of(kind, tmp_path, rows), window=None).report

    assert report.used == 4
    assert (report.shared_order_ids.count, report.shared_order_ids.first_line) == (1, 4 if "csv" in kind else 3)
    assert "1 order id of two customers" in " ".join(report.lines())


@EVERY_SOURCE
def test_two_merchants_may_use_the_same_order_ids(kind, source_of, tmp_path):
    rows = [row("ann", order_id="1", merchant="bakery"), row("bob", order_id="1", merchant="florist")]

    orders = read_orders(source_of(kind, tmp_path, rows, DataContract(duplicates="skip")), window=None)

    assert orders.report.used == 2
    assert orders.report.shared_order_ids.count == 0


HOSTILE = [
    pytest.param({"timestamp": f"soon {CANARY}"}, Reason.BAD_TIMESTAMP, "timestamp", id="no-date"),
    pytest.param({"timestamp": "2025-02-30"}, Reason.BAD_TIMESTAMP, "timestamp", id="no-such-day"),
    pytest.param({"timestamp": "2025-01-01 24:00:00"}, Reason.BAD_TIMESTAMP, "timestamp", id="no-such-hour"),
    pytest.param({"timestamp": ""}, Reason.BAD_TIMESTAMP, "timestamp", id="no-time"),
    pytest.param({"timestamp": "0001-01-01"}, Reason.BAD_TIMESTAMP, "timestamp", id="year-one"),
    pytest.param({"timestamp": "1609459200"}, Reason.BAD_TIMESTAMP, "timestamp", id="epoch-seconds"),
    pytest.param({"amount": CANARY}, Reason.BAD_AMOUNT, "amount", id="amount-of-letters"),
    pytest.param({"amount": ""}, Reason.BAD_AMOUNT, "amount", id="no-amount"),
    pytest.param({"amount": "nan"}, Reason.BAD_AMOUNT, "amount", id="nan"),
    pytest.param({"amount": "-inf"}, Reason.BAD_AMOUNT, "amount", id="infinite"),
    pytest.param({"amount": "1e3"}, Reason.BAD_AMOUNT, "amount", id="exponent"),
    pytest.param({"amount": "1,234.50"}, Reason.BAD_AMOUNT, "amount", id="thousands-separator"),
    pytest.param({"amount": "1000000.01"}, Reason.ABSURD_AMOUNT, "amount", id="absurd"),
    pytest.param({"amount": "-" + "9" * 40}, Reason.ABSURD_AMOUNT, "amount", id="more-than-64-bits"),
    pytest.param({"customer_id": "  "}, Reason.EMPTY_CUSTOMER, "customer_id", id="no-customer"),
    pytest.param({"event_type": CANARY}, Reason.UNKNOWN_EVENT, "event_type", id="unknown-event"),
    pytest.param({"quantity": CANARY}, Reason.BAD_QUANTITY, "quantity", id="quantity-of-letters"),
    pytest.param({"quantity": "2147483648"}, Reason.BAD_QUANTITY, "quantity", id="quantity-over-32-bits"),
    pytest.param({"customer_id": f"{CANARY}\udcff"}, Reason.UNDECODABLE, "customer_id", id="undecodable-customer"),
    pytest.param({"amount": f"{CANARY}\udcff"}, Reason.UNDECODABLE, "amount", id="undecodable-amount"),
]


def hostile_source(source_of, kind, folder, bad, contract):
    good = row("ann@home", quantity="1", event_type="purchase")
    if kind in ("sql", "postgres") and any("\udcff" in cell for cell in bad.values()):
        pytest.skip("the driver decodes by itself; see test_sql_sources and test_postgres_source")
    return source_of(kind, folder, [good, {**good, **bad}, good, {**good, **bad}], contract)


@EVERY_TEXT_SOURCE
@pytest.mark.parametrize(("bad", "reason", "column"), HOSTILE)
def test_a_bad_row_stops_the_reading_and_the_error_names_its_place_and_no_cell(
    kind, bad, reason, column, source_of, tmp_path
):
    source = hostile_source(source_of, kind, tmp_path, bad, DataContract())

    with pytest.raises(BadOrdersError) as caught:
        read_orders(source, window=None)

    assert caught.value.place == source.place
    assert caught.value.line == (3 if kind.startswith("csv") else 2)
    assert caught.value.column == column
    message = str(caught.value).removeprefix(source.place)
    assert not any(cell.strip() and cell in message for cell in [*bad.values(), "ann@home", "03:04:05", "10.10"])


@EVERY_TEXT_SOURCE
@pytest.mark.parametrize(("bad", "reason", "column"), HOSTILE)
def test_a_bad_row_can_be_skipped_and_is_counted_by_reason(kind, bad, reason, column, source_of, tmp_path):
    orders = read_orders(hostile_source(source_of, kind, tmp_path, bad, SKIP), window=None)

    assert reasons(orders) == {reason: (2, 3 if kind.startswith("csv") else 2)}
    assert orders.log.spend_cents.tolist() == [1010, 1010]
    assert orders.customer_ids == ("ann@home",)
    assert (orders.report.rows, orders.report.used) == (4, 2)
    assert any("2 rows skipped" in line for line in orders.report.lines())
    assert CANARY not in " ".join(orders.report.lines())


@EVERY_TEXT_SOURCE
def test_a_bad_row_outside_the_window_stops_the_reading_too(kind, source_of, tmp_path):
    source = source_of(kind, tmp_path, [row(), row(timestamp="2020-01-01", amount="x")])

    with pytest.raises(BadOrdersError, match="amount"):
        read_orders(source, window=Window(start=dt.date(2025, 1, 1), end=dt.date(2026, 1, 1)))


@EVERY_TEXT_SOURCE
def test_a_row_of_another_currency_is_skipped_and_counted(kind, source_of, tmp_path):
    rows = [row(currency="GBP"), row(currency="JPY", amount="9000000"), row(currency=" gbp "), row(currency="")]

    orders = read_orders(source_of(kind, tmp_path, rows, DataContract(currency="GBP")), window=None)

    assert reasons(orders) == {Reason.UNKNOWN_CURRENCY: (2, 3 if kind.startswith("csv") else 2)}
    assert len(orders.log) == 2


@EVERY_TEXT_SOURCE
def test_currencies_are_never_added_up_unasked(kind, source_of, tmp_path):
    source = source_of(kind, tmp_path, [row(currency="GBP"), row(currency="GBP"), row(currency="JPY")], SKIP)

    with pytest.raises(BadOrdersError, match="more than one currency") as caught:
        read_orders(source, window=None)

    assert (caught.value.line, caught.value.column) == (4 if kind.startswith("csv") else 3, "currency")


@EVERY_TEXT_SOURCE
def test_a_row_after_the_last_day_is_skipped_and_counted(kind, source_of, tmp_path):
    rows = [row(timestamp="2025-06-30 23:59:59"), row(timestamp="2025-07-01 00:00:00")]

    orders = read_orders(source_of(kind, tmp_path, rows, DataContract(no_later_than=dt.date(2025, 6, 30))), window=None)

    assert reasons(orders) == {Reason.FUTURE: (1, 3 if kind.startswith("csv") else 2)}
    assert len(orders.log) == 1


@EVERY_TEXT_SOURCE
@pytest.mark.parametrize(
    ("choice", "cents"), [("return", [1010, -250]), ("skip", [1010]), ("error", None)], ids=["return", "skip", "error"]
)
def test_a_negative_purchase_is_what_the_contract_says(kind, choice, cents, source_of, tmp_path):
    source = source_of(kind, tmp_path, [row(), row(amount="-2.50")], DataContract(negative_amounts=choice))

    if cents is None:
        with pytest.raises(BadOrdersError, match="negative_amounts") as caught:
            read_orders(source, window=None)
        assert "2.5" not in str(caught.value).removeprefix(source.place)
    else:
        log = read_orders(source, window=None).log
        assert log.spend_cents.tolist() == cents
        assert log.event_type.tolist() == [EventType.PURCHASE, EventType.RETURN][: len(cents)]


@EVERY_TEXT_SOURCE
def test_only_purchases_and_returns_carry_money(kind, source_of, tmp_path):
    events = [("Purchase", "1"), ("RETURN", "2"), ("return", "-3"), ("view", "4"), ("cart", ""), ("search", "n/a")]
    rows = [row(event_type=name, amount=amount) for name, amount in events]

    log = read_orders(source_of(kind, tmp_path, rows), window=None).log

    assert log.spend_cents.tolist() == [100, -200, -300, 0, 0, 0]


@EVERY_TEXT_SOURCE
def test_a_missing_column_is_named_with_those_that_exist_and_the_remedy(kind, source_of, tmp_path):
    rows = [{"CustomerID": "ann", "timestamp": "2025-01-01", "amount": "1"}]

    with pytest.raises(BadOrdersError) as caught:
        read_orders(source_of(kind, tmp_path, rows, SKIP), window=None)

    assert "the columns are: CustomerID, timestamp, amount" in str(caught.value)
    assert "--column customer_id=TheirName" in str(caught.value)


@EVERY_TEXT_SOURCE
def test_columns_are_found_under_the_names_the_contract_gives(kind, source_of, tmp_path):
    rows = [{"Kunde": "ann", "Zeit": "2025-01-01", "Preis": "1", "quantity": "4"}]
    contract = DataContract(columns={"customer_id": "Kunde", "timestamp": "Zeit", "amount": "Preis"})

    log = read_orders(source_of(kind, tmp_path, rows, contract), window=None).log

    assert (log.spend_cents.tolist(), log.quantity.tolist()) == ([100], [4])


@EVERY_TEXT_SOURCE
def test_free_text_is_never_loaded(kind, source_of, tmp_path):
    source = source_of(kind, tmp_path, [row(text=CANARY)], DataContract(columns={"text": "text"}))

    (chunk,) = source.read(None)

    assert CANARY not in repr(chunk)


@EVERY_TEXT_SOURCE
def test_nothing_is_read_when_a_late_row_is_bad(kind, source_of, tmp_path, monkeypatch):
    for module in ("csv", "parquet", "sql"):
        monkeypatch.setattr(f"client.sources.{module}.BATCH_ROWS", 2)
    source = source_of(kind, tmp_path, [*[row()] * 6, row(amount="?")])

    with pytest.raises(BadOrdersError) as caught:
        read_orders(source, window=None)

    assert caught.value.line == (8 if kind.startswith("csv") else 7)


@EVERY_SOURCE
def test_chunks_of_any_size_give_the_same_orders(kind, source_of, tmp_path, monkeypatch):
    source = source_of(kind, tmp_path, ROWS, SKIP)
    whole = read_orders(source, window=None)
    for module in ("csv", "parquet", "sql", "memory"):
        monkeypatch.setattr(f"client.sources.{module}.BATCH_ROWS", 2)

    assert len(list(source.read(None))) == 3
    assert same(read_orders(source, window=None), whole)
