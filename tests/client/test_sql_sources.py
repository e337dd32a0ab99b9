import datetime as dt
import sqlite3
import sys
from decimal import Decimal
from uuid import UUID

import pytest

from client.orders import read_orders
from client.sources import DataContract, SqlSource
from client.sources.cells import as_text, hundredths, is_textual
from client.sources.sql import _array, database_url
from pp_model.errors import BadOrdersError, ConfigError
from pp_model.schema import Window
from tests.support.orders import row, write_sqlite

ALL = "SELECT * FROM orders ORDER BY rowid"
SECRETS = ("hunter2", "s3cret", "scott", "db.internal")
JANUARY = Window(start=dt.date(2025, 1, 1), end=dt.date(2025, 2, 1))


def source(tmp_path, rows=None, *, query=ALL, **contract):
    url = write_sqlite(tmp_path / "orders.sqlite", rows or [row()])
    return SqlSource(url=url, query=query, contract=DataContract(**contract))


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM orders",
        "SELECT 1; DELETE FROM orders",
        "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone",
        "SELECT * INTO copy FROM orders",
        "SELECT * FROM orders FOR UPDATE",
        "SELECT/**/1;/**/DROP TABLE orders",
        "-- SELECT\nDROP TABLE orders",
        "PRAGMA query_only = OFF",
        "",
    ],
)
def test_only_a_single_statement_that_reads_is_accepted(query):
    with pytest.raises(ConfigError, match="query"):
        SqlSource(url="sqlite://", query=query, contract=DataContract())


@pytest.mark.parametrize(
    "query",
    [
        f"{ALL};",
        f"  -- delete; nothing\n{ALL} ;\n",
        "with o as (select * from orders) select * from o",
        "SELECT *, 'insert; into' AS \"update\" FROM orders",
    ],
)
def test_words_in_quotes_and_comments_do_not_matter(query, tmp_path):
    assert len(read_orders(source(tmp_path, query=query), window=None).log) == 1


def test_the_database_itself_refuses_to_write(tmp_path):
    reading = source(tmp_path)

    with reading._connection() as connection:
        assert connection.exec_driver_sql("PRAGMA query_only").scalar() == 1


def test_the_window_is_bound_to_the_query_by_whole_days(tmp_path):
    days = ["2024-12-31 23:59:59", "2025-01-01", "2025-01-31 23:59:59", "2025-02-01"]
    query = "SELECT * FROM orders WHERE timestamp >= :start AND timestamp < :end"
    reading = source(tmp_path, [row(timestamp=day) for day in days], query=query)

    january, always = read_orders(reading, window=JANUARY), read_orders(reading, window=None)

    assert (january.report.rows, january.report.used) == (2, 2)
    assert always.report.rows == 4


def test_a_query_without_parameters_that_gives_nothing_is_an_error(tmp_path):
    nothing = source(tmp_path, query="SELECT * FROM orders WHERE amount = 'x'")
    bound = SqlSource(url=nothing.url, query="SELECT * FROM orders WHERE timestamp < :start", contract=DataContract())

    with pytest.raises(BadOrdersError, match="no row"):
        read_orders(nothing, window=None)
    assert len(read_orders(bound, window=JANUARY).log) == 0


def test_an_unknown_parameter_is_refused_before_anything_is_asked():
    with pytest.raises(ConfigError, match=":customer"):
        SqlSource(url="sqlite://", query="SELECT * FROM orders WHERE id = :customer", contract=DataContract())


def test_a_missing_database_is_an_error_and_is_not_created(tmp_path):
    reading = SqlSource(url=f"sqlite:///{tmp_path}/none.sqlite", query=ALL, contract=DataContract())

    with pytest.raises(BadOrdersError, match="no such file"):
        read_orders(reading, window=None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"not a database" * 100, b"\x00" * 4096])
def test_a_file_that_is_not_a_database_is_our_error(content, tmp_path):
    (tmp_path / "x.sqlite").write_bytes(content)

    with pytest.raises(BadOrdersError, match="database"):
        read_orders(SqlSource(url=f"sqlite:///{tmp_path}/x.sqlite", query=ALL, contract=DataContract()), window=None)


def test_what_the_database_says_about_a_row_is_not_repeated(tmp_path):
    reading = source(tmp_path)
    connection = sqlite3.connect(tmp_path / "orders.sqlite")
    connection.execute("UPDATE orders SET customer_id = CAST(x'6d616c6c6f7279ff' AS TEXT)")  # "mallory" and a bad byte
    connection.commit()
    connection.close()

    with pytest.raises(BadOrdersError) as caught:
        read_orders(reading, window=None)

    assert "mallory" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://scott:hunter2@db.internal/shop",
        "mysql+pymysql://scott:hunter2@db.internal/shop",
        "postgresql://scott@db.internal/shop?password=s3cret",
        "postgresql://scott:$hunter2@db.internal/shop",
        "scott hunter2 s3cret db.internal",
        "postgresql://db.internal:hunter2",
        "postgresql://scott@db.internal:s3cret/shop",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError) as caught:
        SqlSource(url=url, query="SELECT 1", contract=DataContract())

    assert not any(secret in str(caught.value) for secret in SECRETS)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_driver_that_is_missing_is_named_and_no_secret_is(monkeypatch):
    monkeypatch.setenv("SHOP_PASSWORD", "hunter2")
    url = "mysql+no_such_driver://scott:${SHOP_PASSWORD}@db.internal/shop"
    reading = SqlSource(url=url, query="SELECT 1", contract=DataContract())

    with pytest.raises(BadOrdersError, match="no_such_driver") as caught:
        read_orders(reading, window=None)

    texts = [str(caught.value), repr(reading), reading.place]
    assert not any(secret in text for text in texts for secret in SECRETS)
    assert "shop" in reading.place


def test_without_the_driver_for_postgresql_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(BadOrdersError, match=r"pip install 'purchase-power\[postgres\]'"):
        read_orders(SqlSource(url="postgresql://db/shop", query="SELECT 1", contract=DataContract()), window=None)


def test_another_driver_for_postgresql_is_refused():
    with pytest.raises(ConfigError, match=r"postgresql\+psycopg$"):
        SqlSource(url="postgresql+pg8000://db/shop", query="SELECT 1", contract=DataContract())


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_limit_is_a_time(seconds):
    with pytest.raises(ConfigError, match="statement_timeout_seconds"):
        SqlSource(
            url="postgresql://db/shop", query="SELECT 1", contract=DataContract(), statement_timeout_seconds=seconds
        )


def private_file(tmp_path, content, mode=0o600):
    path = tmp_path / "password"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"hun ter:2/@", b"hun ter:2/@\n", b"hun ter:2/@\r\nsecond line\n"])
def test_a_password_file_gives_its_first_line_as_it_is(content, tmp_path):
    url = database_url("postgresql://scott@db/shop", password_file=private_file(tmp_path, content))

    assert url.password == "hun ter:2/@"
    assert "hun ter" not in f"{url} {url!r}"


@pytest.mark.parametrize(
    ("mode", "allowed"), [(0o600, True), (0o400, True), (0o640, True), (0o604, False), (0o660, False)]
)
def test_a_password_file_that_others_may_read_or_change_is_refused(mode, allowed, tmp_path):
    path = private_file(tmp_path, b"hunter2", mode)

    if allowed:
        assert database_url("postgresql://db/shop", password_file=path).password == "hunter2"
    else:
        with pytest.raises(ConfigError, match="chmod 600"):
            database_url("postgresql://db/shop", password_file=path)


@pytest.mark.parametrize("content", [None, b"", b"\nhunter2", b"hunter2\xff"])
def test_a_password_that_cannot_be_had_is_our_error(content, tmp_path):
    path = tmp_path / "none" if content is None else private_file(tmp_path, content)

    with pytest.raises(ConfigError, match="password_file") as caught:
        database_url("postgresql://db/shop", password_file=path)

    assert "hunter2" not in str(caught.value)


def test_a_password_of_the_environment_is_looked_up_when_it_is_needed(monkeypatch):
    url = "mysql+pymysql://scott:${SHOP_PASSWORD}@db/shop"
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)

    with pytest.raises(ConfigError, match="variable SHOP_PASSWORD"):
        database_url(url, password_file=None)
    monkeypatch.setenv("SHOP_PASSWORD", "a@b/c")
    assert database_url(url, password_file=None).password == "a@b/c"


def test_two_passwords_are_one_too_many(tmp_path):
    with pytest.raises(ConfigError, match="both"):
        SqlSource(
            url="postgresql://scott:${SHOP_PASSWORD}@db/shop", password_file=tmp_path / "password", query="SELECT 1",
            contract=DataContract(),
        )  # fmt: skip


@pytest.mark.parametrize("last", [Decimal("9.999"), Decimal("NaN"), Decimal("Infinity"), UUID(int=7), b"1\xff"])
def test_no_value_of_a_driver_stops_the_reading_of_its_column(last):
    column = _array([Decimal("9.999"), None, Decimal("1E-7"), last])

    cents, is_number = hundredths(as_text(column)[0] if is_textual(column) else column)

    assert cents.tolist()[:3] == [1000, 0, 0]
    assert is_number.tolist() == [True, False, True, last.is_finite() if isinstance(last, Decimal) else False]


def test_a_column_of_mixed_types_is_read_cell_by_cell(tmp_path):
    reading = source(tmp_path)
    connection = sqlite3.connect(tmp_path / "orders.sqlite")
    connection.execute("DROP TABLE orders")
    connection.execute("CREATE TABLE orders (customer_id, timestamp, amount)")
    cells = [(7, "2025-01-01", 1.5), ("7", "2025-01-01", "1.50"), (b"7", "2025-01-01", 2), (7.0, "2025-01-01", None)]
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", cells)
    connection.commit()
    connection.close()

    with pytest.raises(BadOrdersError) as caught:
        read_orders(reading, window=None)
    orders = read_orders(SqlSource(url=reading.url, query=ALL, contract=DataContract(bad_rows="skip")), window=None)

    assert (caught.value.line, caught.value.column) == (4, "amount")
    assert orders.customer_ids == ("7",)
    assert orders.log.spend_cents.tolist() == [150, 150, 200]
