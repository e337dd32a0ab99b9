"""What every source promises of the columns that no feature reads: none of them unasked, all of them when asked."""

from __future__ import annotations

import ast
import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.orders import MOST_SLICE_VALUES, read_orders
from client.shop import read_examples
from client.sources import DataContract, MemorySource, ParquetSource
from client.sources.refusals import Reason
from pp_model.errors import BadOrdersError
from pp_model.schema import Window, category_code
from tests.support import orders as support
from tests.support.orders import row
from tests.support.plans import tiny_plan
from tests.support.shops import tiny_orders

pytest_plugins = ("tests.support.postgres",)

ROOT = Path(__file__).parents[2]
CANARY = "mallory@example.org"
EVERY_SOURCE = pytest.mark.parametrize("kind", [*support.ALL_KINDS, "postgres", "postgres-native"])
EVERY_TEXT_SOURCE = pytest.mark.parametrize("kind", [*support.TEXT_KINDS, "postgres"])
CONTRACT = DataContract(discount="discount", slices={"land": "country", "way in": "channel"})
SKIP = DataContract(discount="discount", slices={"land": "country"}, bad_rows="skip")

ROWS = [
    row("ann", "2025-01-01 10:00:00", category=" Tea ", discount="2.50", country="GB", channel="web"),
    row("bob", "2025-01-02 10:00:00", category="", discount="", country="", channel="shop"),
    row("ann", "2025-02-03 10:00:00", category="tea", discount="0", country="FR", channel="web"),
    row("cid", "2025-02-04 10:00:00", category="Pots", discount="0.075", country="GB", channel=""),
]


@pytest.fixture
def source_of(request):
    """`support.source_of`, for the kinds of PostgreSQL too; its server is started only for them."""

    def build(kind, folder, rows, contract=None):
        if not kind.startswith("postgres"):
            return support.source_of(kind, folder, rows, contract)
        return request.getfixturevalue("postgres").source_of(rows, contract, native=kind == "postgres-native")

    return build


@EVERY_SOURCE
def test_asked_for_extras_every_source_gives_the_same(kind, source_of, tmp_path):
    extras = read_orders(source_of(kind, tmp_path, ROWS, CONTRACT), window=None, extras=True).extras

    assert extras.category_names == {category_code("tea"): "Tea", category_code("pots"): "Pots"}
    assert extras.discount_cents.tolist() == [250, 0, 0, 8]
    (lands, land_names), (ways, way_names) = extras.slices["land"], extras.slices["way in"]
    assert [*lands.tolist(), *land_names] == [0, -1, 1, 0, "GB", "FR"]
    assert [*ways.tolist(), *way_names] == [0, 1, 0, -1, "web", "shop"]


@EVERY_SOURCE
def test_unasked_no_source_gives_any(kind, source_of, tmp_path):
    source = source_of(kind, tmp_path, ROWS, CONTRACT)

    (chunk,) = source.read(None)

    assert chunk.extras is None
    assert read_orders(source, window=None).extras is None


@EVERY_SOURCE
def test_the_orders_are_the_same_with_and_without_extras(kind, source_of, tmp_path):
    source = source_of(kind, tmp_path, ROWS, CONTRACT)

    without, asked = read_orders(source, window=None), read_orders(source, window=None, extras=True)

    assert asked.customer_ids == without.customer_ids
    assert asked.log.spend_cents.tolist() == without.log.spend_cents.tolist()
    assert asked.log.category.tolist() == without.log.category.tolist()


@EVERY_SOURCE
def test_extras_are_those_of_the_rows_inside_the_window(kind, source_of, tmp_path):
    source = source_of(kind, tmp_path, ROWS, CONTRACT)

    extras = read_orders(source, window=Window(start=dt.date(2025, 2, 1), end=dt.date(2025, 3, 1)), extras=True).extras

    assert extras.discount_cents.tolist() == [0, 8]
    assert extras.slices["land"][1] == ("FR", "GB")
    assert extras.category_names[category_code("tea")] == "tea"


@EVERY_SOURCE
def test_extras_of_chunks_of_any_size_are_the_same(kind, source_of, tmp_path, monkeypatch):
    source = source_of(kind, tmp_path, ROWS, CONTRACT)
    whole = read_orders(source, window=None, extras=True).extras
    for module in ("csv", "parquet", "sql", "memory"):
        monkeypatch.setattr(f"client.sources.{module}.BATCH_ROWS", 1)

    parts = read_orders(source, window=None, extras=True).extras

    assert parts.category_names == whole.category_names
    assert parts.discount_cents.tolist() == whole.discount_cents.tolist()
    assert {label: (codes.tolist(), names) for label, (codes, names) in parts.slices.items()} == {
        label: (codes.tolist(), names) for label, (codes, names) in whole.slices.items()
    }


@EVERY_SOURCE
def test_a_repeated_order_that_is_skipped_takes_its_extras_with_it(kind, source_of, tmp_path):
    rows = [{**ROWS[0], "order_id": "a"}, {**ROWS[3], "order_id": "a"}, {**ROWS[2], "order_id": "b"}]
    contract = DataContract(discount="discount", slices={"land": "country"}, duplicates="skip")

    orders = read_orders(source_of(kind, tmp_path, rows, contract), window=None, extras=True)

    assert len(orders.log) == len(orders.extras.discount_cents) == len(orders.extras.slices["land"][0]) == 2
    assert orders.extras.discount_cents.tolist() == [250, 0]


BAD_DISCOUNTS = [
    pytest.param(CANARY, id="letters"),
    pytest.param("-0.01", id="negative"),
    pytest.param("1,50", id="comma"),
    pytest.param("nan", id="not-a-number"),
    pytest.param("1e3", id="exponent"),
    pytest.param("1000000.01", id="absurd"),
]


@EVERY_TEXT_SOURCE
@pytest.mark.parametrize("cell", BAD_DISCOUNTS)
def test_a_bad_discount_stops_the_reading_by_line_and_column_and_without_the_cell(kind, cell, source_of, tmp_path):
    source = source_of(kind, tmp_path, [ROWS[0], {**ROWS[1], "discount": cell}], CONTRACT)

    with pytest.raises(BadOrdersError, match="money taken off") as caught:
        read_orders(source, window=None, extras=True)

    assert (caught.value.line, caught.value.column) == (3 if kind.startswith("csv") else 2, "discount")
    assert cell not in str(caught.value).removeprefix(source.place)


@EVERY_TEXT_SOURCE
@pytest.mark.parametrize("cell", BAD_DISCOUNTS)
def test_a_row_with_a_bad_discount_can_be_skipped_and_is_counted(kind, cell, source_of, tmp_path):
    source = source_of(kind, tmp_path, [ROWS[0], {**ROWS[1], "discount": cell}, ROWS[2]], SKIP)

    orders = read_orders(source, window=None, extras=True)

    assert {reason: skip.count for reason, skip in orders.report.skipped.items()} == {Reason.BAD_DISCOUNT: 1}
    assert orders.extras.discount_cents.tolist() == [250, 0]
    assert CANARY not in " ".join(orders.report.lines())


@EVERY_TEXT_SOURCE
def test_a_bad_discount_is_no_matter_to_who_did_not_ask(kind, source_of, tmp_path):
    source = source_of(kind, tmp_path, [ROWS[0], {**ROWS[1], "discount": CANARY}], CONTRACT)

    assert len(read_orders(source, window=None).log) == 2


def test_what_carries_no_money_has_no_discount(tmp_path):
    rows = [{**ROWS[0], "event_type": "view", "discount": "seen"}, {**ROWS[0], "event_type": "return"}]

    orders = read_orders(support.source_of("csv", tmp_path, rows, CONTRACT), window=None, extras=True)

    assert orders.extras.discount_cents.tolist() == [0, 250]


@EVERY_TEXT_SOURCE
def test_a_column_of_too_many_values_is_no_slice_and_the_error_has_none_of_them(kind, source_of, tmp_path):
    rows = [{**ROWS[0], "country": f"{CANARY}{number}"} for number in range(MOST_SLICE_VALUES + 1)]
    source = source_of(kind, tmp_path, rows, DataContract(slices={"land": "country"}, bad_rows="skip"))

    with pytest.raises(BadOrdersError, match=r"too many for slices\.land") as caught:
        read_orders(source, window=None, extras=True)

    assert caught.value.column == "country"
    assert CANARY not in str(caught.value)
    assert len(read_orders(source, window=None).log) == len(rows)


@EVERY_TEXT_SOURCE
@pytest.mark.parametrize(
    ("contract", "key"),
    [(DataContract(discount="rebate"), "discount"), (DataContract(slices={"land": "rebate"}), "slices.land")],
    ids=["discount", "slice"],
)
def test_an_extra_column_that_is_not_there_is_named_when_it_is_asked_for(kind, contract, key, source_of, tmp_path):
    source = source_of(kind, tmp_path, ROWS, contract)

    with pytest.raises(BadOrdersError, match=f"'rebate', needed as {key} of the contract"):
        read_orders(source, window=None, extras=True)
    assert len(read_orders(source, window=None).log) == len(ROWS)


def test_of_a_parquet_the_extra_columns_are_not_even_read_unasked(tmp_path):
    path = tmp_path / "orders.parquet"
    columns = {name: [r[name] for r in ROWS] for name in ROWS[0]}
    pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False)
    _destroy(path, "discount")
    _destroy(path, "country")
    source = ParquetSource(path=str(path), contract=CONTRACT)

    assert len(read_orders(source, window=None).log) == len(ROWS)
    with pytest.raises(BadOrdersError, match="damaged"):
        read_orders(source, window=None, extras=True)


def _destroy(path, name):
    """Overwrites the bytes of a column in a Parquet file, and nothing else."""
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        (chunk,) = [group.column(at) for at in range(group.num_columns) if group.column(at).path_in_schema == name]
    content = bytearray(path.read_bytes())
    end = chunk.data_page_offset + chunk.total_compressed_size
    content[chunk.data_page_offset : end] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)


def test_training_never_asks():
    asked = []

    class Watched(MemorySource):
        def read(self, window, *, extras=False):
            asked.append(extras)
            return super().read(window, extras=extras)

    log = tiny_orders()
    source = Watched(log=log, customer_ids=[str(code) for code in range(log.num_customers)])

    read_examples(source, tiny_plan())

    assert asked == [False]


def test_nothing_but_insight_and_doctor_can_ask():
    """Who says `extras=` in a call: the sources, which pass it on, the insight data and doctor, which ask."""
    asks = {
        path.relative_to(ROOT).as_posix()
        for package in ("client", "server", "simulations", "synthetic", "flower_edge")
        for path in (ROOT / package).rglob("*.py")
        if "extras" in (source := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and any(word.arg == "extras" for word in node.keywords)
    }

    passes_on = {"client/orders.py", "client/score_run.py", *(f"client/sources/{n}.py" for n in _SOURCES)}
    assert asks == {*passes_on, "client/insight/data.py", "client/checks_extras.py"}


_SOURCES = ("csv", "memory", "parquet", "rows", "sql")


def test_a_slice_fits_sixteen_bits():
    assert np.iinfo(np.int16).max >= MOST_SLICE_VALUES
