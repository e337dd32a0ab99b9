"""What a real PostgreSQL server's types become: exact money, whole seconds, ids, or a refusal with advice."""

import datetime as dt

import pytest

from client.orders import read_orders
from client.sources import DataContract
from client.sources.refusals import Reason
from pp_model.errors import BadOrdersError
from pp_model.schema import Window

pytest_plugins = ("tests.support.postgres",)

SKIP = DataContract(bad_rows="skip")


def select(amount="1.00", *, customer="'ann'", timestamp="timestamp '2025-01-02 03:04:05'"):
    return f"SELECT {customer} AS customer_id, {timestamp} AS timestamp, {amount} AS amount"


@pytest.mark.parametrize(
    ("amount", "cents"),
    [
        ("10.10::numeric(12, 4)", 1010),
        ("9.999::numeric(4, 3)", 1000),  # one digit more than the column has
        ("1.005::numeric", 100),  # a half cent, to even
        ("0.0000001::numeric", 0),
        ("-2.50::numeric", -250),
        ("0.29::double precision", 29),
        ("10.10::real", 1010),
        ("7::smallint", 700),
        ("7::bigint", 700),
        ("'3.45'::text", 345),
        ("'3.45'::char(8)", 345),
        ("'3.45'::varchar", 345),
        ("'12.34'::money::numeric", 1234),
    ],
)
def test_money_of_every_number_type_is_exact(amount, cents, postgres):
    assert read_orders(postgres.source(select(amount)), window=None).log.spend_cents.tolist() == [cents]


@pytest.mark.parametrize(
    "amount",
    [
        "'NaN'::numeric",
        "'Infinity'::numeric",
        "'NaN'::double precision",
        "'-Infinity'::real",
        "NULL::numeric",
        "NULL",
        "true",
        "date '2025-01-01'",
    ],
)
def test_an_amount_that_is_no_number_is_a_bad_row_and_not_a_failure(amount, postgres):
    mixed = f"{select('1.5')} UNION ALL {select(amount)}" if "numeric" in amount else select(amount)

    report = read_orders(postgres.source(mixed, contract=SKIP), window=None).report

    assert report.skipped[Reason.BAD_AMOUNT].count == 1


def test_an_amount_of_more_digits_than_a_number_holds_is_absurd(postgres):
    amounts = [f"{select('9' * digits + '.999')}" for digits in (30, 60, 73)]

    report = read_orders(postgres.source(" UNION ALL ".join(amounts), contract=SKIP), window=None).report

    assert report.used == 0


@pytest.mark.parametrize(
    ("customer", "expected"),
    [
        ("17::integer", "17"),
        ("17::numeric(38, 0)", "17"),
        ("'17  '::char(4)", "17"),
        ("'zoë'::varchar(9)", "zoë"),
        ("'6f1d9a1c-7c3e-4a44-8f0e-0c6e6f4b9d11'::uuid", "6f1d9a1c-7c3e-4a44-8f0e-0c6e6f4b9d11"),
        ("'view'::event", "view"),
    ],
)
def test_customers_of_every_type_that_is_an_id(customer, expected, postgres):
    assert read_orders(postgres.source(select(customer=customer)), window=None).customer_ids == (expected,)


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ("'$98,765.43'::money", "money"),
        ("'{\"total\": 98765}'::json", "json"),
        ("'98765'::jsonb", "jsonb"),
        ("ARRAY['98765']", "text[]"),
        ("ARRAY[98765]::integer[]", "integer[]"),
        ("'98765'::bytea", "bytea"),
        ("interval '98765 s'", "interval"),
        ("ROW(98765, 1)", "record"),
        ("int4range(98765, 98766)", "int4range"),
    ],
)
@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_a_type_that_is_no_single_value_is_refused_with_advice(bad_rows, amount, words, postgres):
    with pytest.raises(BadOrdersError) as caught:
        read_orders(postgres.source(select(amount), contract=DataContract(bad_rows=bad_rows)), window=None)

    error = caught.value
    assert f"of type {words} cannot be read as amount" in str(error)
    assert ("::numeric" if words == "money" else "::text") in str(error)
    assert error.column == "amount"
    assert "98" not in str(error)


def test_a_column_that_is_not_used_may_be_of_any_type(postgres):
    source = postgres.source(select() + ", '{}'::json AS notes, ARRAY[1] AS tags, '1'::money AS fee")

    assert len(read_orders(source, window=None).log) == 1


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("timestamptz '2025-07-01 00:30:00+02'", "2025-06-30 22:30:00"),
        ("timestamptz '2025-01-01 00:00:00'", "2025-01-01 05:00:00"),  # the server sits in New York
        ("timestamptz '2025-01-01 00:00:00+00' AT TIME ZONE 'Asia/Tokyo'", "2025-01-01 09:00:00"),
        ("timestamp '2025-07-01 00:30:00.999999'", "2025-07-01 00:30:00"),
        ("date '2025-07-01'", "2025-07-01 00:00:00"),
        ("'2025-07-01 00:30:00+02'::text", "2025-06-30 22:30:00"),
    ],
)
def test_a_time_with_a_zone_becomes_utc_and_one_without_stays(timestamp, expected, postgres):
    if timestamp == "timestamptz '2025-01-01 00:00:00'":
        postgres.execute(f"DROP TABLE IF EXISTS stored; CREATE TABLE stored AS SELECT {timestamp} AS at")
        source = postgres.source(select(timestamp="at") + " FROM stored")
    else:
        source = postgres.source(select(timestamp=timestamp))

    (seconds,) = read_orders(source, window=None).log.timestamp.tolist()

    assert dt.datetime.fromtimestamp(seconds, dt.UTC).replace(tzinfo=None) == dt.datetime.fromisoformat(expected)


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 BC", "20250-01-01"])
def test_a_time_beyond_all_calendars_is_one_bad_row(moment, kind, postgres):
    times = [select(timestamp=f"{kind} '{at}'") for at in ("2025-01-02", moment, "2025-01-02")]
    query = " UNION ALL ".join(times)

    report = read_orders(postgres.source(query, contract=SKIP), window=None).report

    assert report.used == 2
    assert (report.skipped[Reason.BAD_TIMESTAMP].count, report.skipped[Reason.BAD_TIMESTAMP].first_line) == (1, 2)


def test_the_window_is_bound_in_utc_wherever_the_server_sits(postgres):
    edges = ["2024-12-31 23:59:59+00", "2025-01-01 00:00:00+00", "2025-01-31 23:59:59+00", "2025-02-01 00:00:00+00"]
    values = ", ".join(f"(timestamptz '{edge}')" for edge in edges)
    bounded = f"{select(timestamp='at')} FROM (VALUES {values}) AS edges (at) WHERE at >= :start AND at < :end"

    report = read_orders(
        postgres.source(bounded), window=Window(start=dt.date(2025, 1, 1), end=dt.date(2025, 2, 1))
    ).report

    assert (report.rows, report.used) == (2, 2)
