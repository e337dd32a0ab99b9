import datetime as dt
import sqlite3

import pytest

from client.orders import read_orders
from client.sources import DataContract, SqlSource
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


def test_no_secret_of_the_url_is_in_any_text():
    url = "postgresql+no_such_driver://scott:hunter2@db.internal/shop?password=s3cret"
    reading = SqlSource(url=url, query="SELECT 1", contract=DataContract())

    with pytest.raises(BadOrdersError) as caught:
        read_orders(reading, window=None)
    with pytest.raises(ConfigError) as not_a_url:
        SqlSource(url="scott hunter2 s3cret db.internal", query="SELECT 1", contract=DataContract())

    texts = [str(caught.value), repr(reading), reading.place, str(not_a_url.value)]
    assert not any(secret in text for text in texts for secret in SECRETS)
    assert "shop" in reading.place


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
