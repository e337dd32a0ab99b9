"""Orders from a real PostgreSQL server: what only a server can show. The contract suite runs against it too."""

import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from client.orders import read_orders
from client.sources import DataContract, SqlSource, sql
from pp_model.errors import BadOrdersError

pytest_plugins = ("tests.support.postgres",)

CANARY = "mallory@example.org"


def select(amount="1.00", *, customer="'ann'"):
    return f"SELECT {customer} AS customer_id, timestamp '2025-01-02 03:04:05' AS timestamp, {amount} AS amount"


def shown_with(error):
    """The error that a traceback would show with this one; it may quote a row."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def refusal(source):
    with pytest.raises(BadOrdersError) as caught:
        read_orders(source, window=None)
    assert not shown_with(caught.value)
    return caught.value


@pytest.fixture
def orders(postgres):
    """A table that its reader may change, emptied of what other tests left."""
    postgres.execute(
        "DROP TABLE IF EXISTS kept CASCADE; CREATE TABLE kept AS " + select() + " FROM generate_series(1, 5)"
    )
    return "SELECT * FROM kept"


# Only reading.


def test_the_test_server_would_let_the_reader_write(orders, postgres):
    postgres.execute("DELETE FROM kept")

    assert postgres.execute("SELECT count(*) FROM kept") == [(0,)]


@pytest.mark.parametrize(
    "statement",
    [
        "WITH gone AS (DELETE FROM kept RETURNING *) SELECT count(*) FROM gone",
        "WITH new AS (INSERT INTO kept SELECT * FROM kept RETURNING *) SELECT count(*) FROM new",
        "UPDATE kept SET amount = 0",
        "TRUNCATE kept",
        "CREATE TABLE more (x integer)",
    ],
)
def test_the_session_refuses_to_write(statement, orders, postgres):
    source = postgres.source(orders)

    with source._connection() as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.connection.driver_connection.execute(statement)  # past the check of the query's words

    assert postgres.execute("SELECT count(*), sum(amount) FROM kept") == [(5, 5)]


def test_a_query_that_writes_through_a_function_is_refused_and_changes_nothing(orders, postgres):
    postgres.execute("CREATE SEQUENCE IF NOT EXISTS counter")  # which no rollback would take back
    postgres.execute(
        "CREATE OR REPLACE FUNCTION tidy() RETURNS SETOF kept LANGUAGE sql AS 'DELETE FROM kept RETURNING *'"
    )
    before = postgres.execute("SELECT last_value, is_called FROM counter")

    deleted = refusal(postgres.source("SELECT * FROM tidy()"))
    counted = refusal(postgres.source(select("nextval('counter')")))

    assert "the query writes" in str(deleted)
    assert "the query writes" in str(counted)
    assert postgres.execute("SELECT count(*) FROM kept") == [(5,)]
    assert postgres.execute("SELECT last_value, is_called FROM counter") == before


def test_a_query_cannot_make_itself_a_writing_one(orders, postgres):
    postgres.execute("CREATE SEQUENCE IF NOT EXISTS counter")
    before = postgres.execute("SELECT last_value, is_called FROM counter")

    for only_here in ("true", "false"):
        allowed = f"(SELECT set_config('transaction_read_only', 'off', {only_here}) AS state OFFSET 0) AS allowed"
        refusal(postgres.source(select("nextval('counter')") + f" FROM {allowed} WHERE state = 'off'"))

    assert postgres.execute("SELECT last_value, is_called FROM counter") == before


def test_a_second_statement_behind_a_quote_is_not_run(orders, postgres):
    hidden = r"SELECT *, E'\'' AS a FROM kept; COMMIT; DELETE FROM kept; --'"

    refusal(postgres.source(hidden))

    assert postgres.execute("SELECT count(*) FROM kept") == [(5,)]


def test_everything_is_read_in_one_snapshot(orders, postgres):
    with postgres.source(orders)._connection() as connection:
        before = connection.exec_driver_sql("SELECT count(*) FROM kept").scalar()
        postgres.execute("DELETE FROM kept")
        after = connection.exec_driver_sql("SELECT count(*) FROM kept").scalar()

    assert (before, after) == (5, 5)


# Streaming, and its end.


def test_the_first_orders_of_a_billion_come_at_once_and_stopping_there_leaves_no_connection(postgres, monkeypatch):
    monkeypatch.setattr("client.sources.sql.BATCH_ROWS", 10)
    source = postgres.source(select("generate_series(1, 1000000000)"), statement_timeout_seconds=0.5)

    chunks = source.read(None)
    first = next(chunks)
    chunks.close()

    assert first.rows_read == 10
    busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%1000000000%' AND pid <> pg_backend_pid()"
    deadline = time.monotonic() + 10
    while postgres.execute(busy, user="admin") != [(0,)]:
        assert time.monotonic() < deadline, "the connection is still open"


READ_ALL = """
import resource, sys
from pathlib import Path
from client.sources import DataContract, SqlSource
from client.sources.rows import BATCH_ROWS

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

url, password_file, query, rows = sys.argv[1:]
source = SqlSource(
    url=url, password_file=Path(password_file), query=query.replace("ROWS", rows), contract=DataContract()
)
total = sum(chunk.rows_read for chunk in source.read(None))
print(total, peak_mib())
"""


@pytest.mark.slow
def test_a_million_orders_need_no_more_memory_than_one_chunk_of_them(postgres):
    text = "repeat('x', 400) AS note"  # not used, but sent: 400 MB if the whole result were fetched
    query = f"SELECT g % 5000 AS customer_id, timestamp '2025-01-01' + g * interval '1 s' AS timestamp, {text}, "
    query += "(g % 1000) / 100.0 AS amount FROM generate_series(1, ROWS) AS g"

    def read(rows):
        command = [sys.executable, "-c", READ_ALL, postgres.url(), str(postgres.password_file), query, str(rows)]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=Path.cwd())
        total, peak_mib = finished.stdout.split()
        assert int(total) == rows
        return int(peak_mib)

    two_chunks, ten_chunks = read(200_000), read(1_000_000)

    assert ten_chunks - two_chunks < 100


def test_a_query_that_takes_too_long_is_cancelled_with_advice(postgres):
    error = refusal(postgres.source(select("pg_sleep(60)::text"), statement_timeout_seconds=0.1))

    assert "statement_timeout_seconds" in str(error)


def test_a_connection_lost_in_the_middle_is_said_and_nothing_is_half_read(postgres, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("client.sources.sql.BATCH_ROWS", 10)
    billion = select("generate_series(1, 1000000000)", customer=f"'{CANARY}'")
    source = postgres.source(billion, statement_timeout_seconds=5)
    chunks = source.read(None)
    next(chunks)

    killed = postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shop' AND pid <> pg_backend_pid()",
        user="admin",
    )
    with pytest.raises(BadOrdersError, match="connection was lost while reading, and nothing") as caught:
        list(chunks)

    assert killed == [(True,)]
    assert not shown_with(caught.value)
    assert not any(
        word in caplog.text + str(caught.value) for word in (CANARY, postgres.password, str(postgres.folder))
    )


# What is never said.


@pytest.mark.parametrize(
    "query",
    [
        select("amount::integer") + f" FROM (VALUES ('{CANARY}')) AS cells (amount)",
        select("loud('%')".replace("%", CANARY)),
        select("spoilt('%')".replace("%", CANARY)),
        select(f"'{CANARY}'"),
        select("amount") + f" FROM no_such_table WHERE customer = '{CANARY}'",
    ],
    ids=["cast", "notice", "exception", "bad-row", "no-table"],
)
def test_no_cell_is_in_an_error_or_a_log(query, postgres, caplog):
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, logger="sqlalchemy.dialects")  # which logs what the server remarks
    raising = "CREATE OR REPLACE FUNCTION {}(cell text) RETURNS text LANGUAGE plpgsql AS "
    postgres.execute(raising.format("loud") + "$$BEGIN RAISE WARNING 'a cell: %', cell; RETURN cell; END$$")
    postgres.execute(raising.format("spoilt") + "$$BEGIN RAISE EXCEPTION 'a cell: %', cell; END$$")

    error = refusal(postgres.source(query))

    assert CANARY not in str(error)
    assert CANARY not in caplog.text


def test_a_refusal_by_the_database_is_named_by_its_kind(postgres):
    postgres.execute("CREATE TABLE IF NOT EXISTS secret (x integer)", user="admin")

    assert "UndefinedTable" in str(refusal(postgres.source("SELECT * FROM no_such_table")))
    assert "SyntaxError" in str(refusal(postgres.source("SELECT FROM WHERE")))
    assert "GRANT SELECT" in str(refusal(postgres.source("SELECT * FROM secret")))


def test_bytes_of_another_encoding_are_read_once_it_is_named(postgres):
    url, query = postgres.url("bytes"), select(customer="convert_from('{}', 'SQL_ASCII')")
    zoe_in_latin1, no_text_in_cp1252 = query.format(r"\x7a6feb"), query.format(r"\x7a6f81")

    errors = [
        refusal(postgres.source(zoe_in_latin1, url=url)),
        refusal(postgres.source(no_text_in_cp1252, url=f"{url}&client_encoding=win1252")),
    ]
    named = postgres.source(zoe_in_latin1, url=f"{url}&client_encoding=latin1")

    assert all("client_encoding=latin1" in str(error) for error in errors)
    assert read_orders(named, window=None).customer_ids == ("zoë",)


# The password.


def test_the_password_is_taken_from_a_file_the_environment_or_a_pgpass(postgres, monkeypatch, tmp_path):
    with_variable = postgres.url().replace("shop@", "shop:${SHOP_PASSWORD}@")
    monkeypatch.setenv("SHOP_PASSWORD", postgres.password)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))

    def rows(**settings):
        return len(read_orders(postgres.source(select(), **settings), window=None).log)

    assert rows() == 1
    assert rows(url=with_variable, password_file=None) == 1
    assert "cannot connect" in str(refusal(postgres.source(select(), password_file=None)))
    (tmp_path / "pgpass").write_text(f"*:*:*:shop:{postgres.password}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    assert rows(password_file=None) == 1


def test_a_wrong_password_is_in_no_text(postgres, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    wrong = tmp_path / "password"
    wrong.write_text("wr0ng-s3cret\n")
    wrong.chmod(0o600)
    source = postgres.source(select(), password_file=wrong)

    error = refusal(source)

    texts = [str(error), repr(error), repr(source), source.place, caplog.text]
    assert "the password" in str(error)
    assert not any(word in text for text in texts for word in ("s3cret", str(postgres.folder), "user=", '"shop"'))


def test_no_server_is_an_error_that_names_the_place_alone(tmp_path, postgres):
    source = postgres.source(select(), url=f"postgresql://shop@/orders?host={tmp_path}")

    error = refusal(source)

    assert str(error).startswith("postgresql database 'orders': cannot connect")
    assert str(tmp_path) not in str(error)


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up(monkeypatch):
    sooner = {name: "2" if name == "connect_timeout" else value for name, value in sql._POSTGRESQL_PARAMETERS.items()}
    monkeypatch.setattr(sql, "_POSTGRESQL_PARAMETERS", sooner)  # two seconds are the least that the driver allows
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://shop@127.0.0.1:{silent.getsockname()[1]}/orders"
        before = time.monotonic()
        error = refusal(SqlSource(url=url, query=select(), contract=DataContract()))

    assert "cannot connect (ConnectionTimeout)" in str(error)
    assert time.monotonic() - before < 30
