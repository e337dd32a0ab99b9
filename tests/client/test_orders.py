import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from client.orders import read_orders
from client.sources import DataContract, ParquetSource, open_source
from client.sources.refusals import Reason
from pp_model.errors import BadOrdersError
from tests.support.orders import row, source_of, write_csv


def parquet(tmp_path, columns):
    path = tmp_path / "orders.parquet"
    pq.write_table(pa.table(columns), path)
    return ParquetSource(path=str(path), contract=DataContract())


def test_the_kind_of_a_file_is_told_by_its_name(tmp_path):
    write_csv(tmp_path / "ORDERS.CSV", [row()])

    orders = read_orders(open_source(str(tmp_path / "ORDERS.CSV"), DataContract()), window=None)

    assert len(orders.log) == 1
    assert isinstance(open_source("x.parquet", DataContract()), ParquetSource)


def test_a_file_of_no_known_kind_is_refused_with_the_kinds_that_are():
    with pytest.raises(BadOrdersError, match=r"\.csv, .*\.parquet"):
        open_source("orders.xlsx", DataContract())


@pytest.mark.parametrize("content", [b"", b"customer_id,timestamp,amount\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_not_parquet_is_our_error(content, tmp_path):
    (tmp_path / "orders.parquet").write_bytes(content)

    with pytest.raises(BadOrdersError, match="not Parquet"):
        read_orders(open_source(str(tmp_path / "orders.parquet"), DataContract()), window=None)


def test_a_parquet_damaged_in_the_middle_is_our_error(tmp_path):
    rng = np.random.default_rng(1)
    columns = {
        "customer_id": [str(n) for n in rng.integers(0, 10**9, 5_000)],
        "timestamp": ["2025-01-01"] * 5_000,
        "amount": [1.0] * 5_000,
    }
    source = parquet(tmp_path, columns)
    content = bytearray((tmp_path / "orders.parquet").read_bytes())
    content[4:2_000] = b"\xff" * 1_996
    (tmp_path / "orders.parquet").write_bytes(content)

    with pytest.raises(BadOrdersError):
        read_orders(source, window=None)


def test_a_parquet_without_a_row_or_a_file_is_our_error(tmp_path):
    with pytest.raises(BadOrdersError, match="no order"):
        read_orders(
            parquet(tmp_path, {name: pa.array([], pa.string()) for name in ("customer_id", "timestamp", "amount")}),
            window=None,
        )
    with pytest.raises(BadOrdersError, match="no such file"):
        read_orders(ParquetSource(path=str(tmp_path / "none.parquet"), contract=DataContract()), window=None)


@pytest.mark.parametrize(
    "ids", [[17.5, 18.0], [[17], [18]], [{"id": 17}, {"id": 18}]], ids=["fraction", "list", "struct"]
)
def test_a_column_that_cannot_hold_ids_is_refused_by_name(ids, tmp_path):
    source = parquet(tmp_path, {"customer_id": ids, "timestamp": ["2025-01-01"] * 2, "amount": [1, 2]})

    with pytest.raises(BadOrdersError) as caught:
        read_orders(source, window=None)

    assert caught.value.column == "customer_id"
    assert "17" not in str(caught.value).removeprefix(source.place)


def test_a_return_with_the_order_id_of_its_purchase_is_not_a_repetition(tmp_path):
    rows = [
        row(order_id="a", event_type="purchase"),
        row(order_id="a", event_type="return"),
        row(order_id="a", event_type="return"),
    ]

    orders = read_orders(source_of("csv", tmp_path, rows, DataContract(duplicates="skip")), window=None)

    assert orders.log.spend_cents.tolist() == [1010, -1010]
    assert orders.report.skipped[Reason.REPEATED_ORDER].first_line == 4


def test_an_order_id_seen_again_much_later_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("client.sources.csv.BATCH_ROWS", 3)
    rows = [row(order_id=str(number % 10)) for number in range(20)]

    orders = read_orders(source_of("csv", tmp_path, rows, DataContract(duplicates="skip")), window=None)

    assert len(orders.log) == 10
    assert orders.report.skipped[Reason.REPEATED_ORDER].count == 10


def test_the_report_says_in_sentences_what_became_of_every_row(tmp_path, monkeypatch):
    monkeypatch.setattr("client.sources.csv.BATCH_ROWS", 2)
    rows = [row(), row(amount="?"), row(customer_id=""), row(amount=""), row("bob", timestamp="2030-01-01")]
    contract = DataContract(bad_rows="skip", max_order_cents=1_010)

    report = read_orders(source_of("csv", tmp_path, rows, contract), window=None).report

    assert report.lines() == [
        f"{tmp_path}/orders.csv: 5 rows read, 2 used.",
        "1 row skipped: no customer id; the first is line 4.",
        "2 rows skipped: unreadable amount; the first is line 3.",
    ]


ROWS = 10_000_000
READ = """
import resource, sys
from client.orders import read_orders
from client.sources import DataContract, open_source
extras = sys.argv[3] == "extras"
contract = DataContract(discount="discount", slices={"way in": "channel"})
orders = read_orders(open_source(sys.argv[1], contract), window=None, extras=extras)
assert (orders.extras is not None) == extras
assert (len(orders.log), orders.report.shared_order_ids.count) == (int(sys.argv[2]), 0)
sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


def write_many(path):
    """Ten million orders of a quarter of a million customers, written in pieces."""
    rng, writer, piece = np.random.default_rng(0), None, 1_000_000
    for start in range(0, ROWS, piece):
        table = pa.table(
            {
                "customer_id": rng.integers(0, 250_000, piece),
                "timestamp": pa.array(1_600_000_000 + rng.integers(0, 10**8, piece)).cast(pa.timestamp("s")),
                "amount": rng.integers(1, 100_000, piece) / 100,
                "order_id": np.arange(start, start + piece),
                "category": pa.array(["tea", "pots", "cups", "kettles"] * (piece // 4)),
                "event_type": pa.array(["purchase"] * piece),
                "discount": rng.integers(0, 500, piece) / 100,
                "channel": pa.array(["web", "shop"] * (piece // 2)),
            }
        )
        make = pq.ParquetWriter if path.suffix == ".parquet" else pa_csv.CSVWriter
        writer = writer or make(path, table.schema)
        writer.write(table)
    writer.close()


@pytest.mark.slow
@pytest.mark.parametrize(("extras", "gigabytes"), [("none", 2), ("extras", 4)], ids=["training", "insight"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_ten_million_orders_need_less_than_two_gigabytes_and_four_with_extras(suffix, extras, gigabytes, tmp_path):
    path = tmp_path / f"orders.{suffix}"
    write_many(path)

    command = [sys.executable, "-c", READ, path, str(ROWS), extras]
    reader = subprocess.run(command, capture_output=True, text=True, check=True)

    kilobytes = int(reader.stdout)
    assert kilobytes < gigabytes * 1_000_000
