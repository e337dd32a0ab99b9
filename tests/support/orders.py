"""The same rows as a CSV, a Parquet file, a database and a log in memory."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from client.sources import CsvSource, DataContract, MemorySource, OrderSource, ParquetSource, RowExtras, SqlSource
from pp_model.schema import EventType, Order, order_log

Row = Mapping[str, str]

TEXT_KINDS = ("csv", "csv.gz", "parquet", "sql")  # can hold any text in any cell, so also hostile ones
ALL_KINDS = (*TEXT_KINDS, "parquet-native", "sql-native", "memory")


def row(
    customer_id: str = "ann", timestamp: str = "2025-01-02 03:04:05", amount: str = "10.10", **cells: str
) -> dict[str, str]:
    """A good row, unless told otherwise."""
    return {"customer_id": customer_id, "timestamp": timestamp, "amount": amount, **cells}


def source_of(kind: str, folder: Path, rows: Sequence[Row], contract: DataContract | None = None) -> OrderSource:
    """The rows, all with the same columns, as a source of that kind below `folder`."""
    contract = contract or DataContract()
    match kind:
        case "csv" | "csv.gz":
            return CsvSource(path=write_csv(folder / f"orders.{kind}", rows), contract=contract)
        case "parquet":
            return ParquetSource(path=_write_parquet(folder, _text_columns(rows)), contract=contract)
        case "parquet-native":
            return ParquetSource(path=_write_parquet(folder, _native_columns(rows)), contract=contract)
        case "sql" | "sql-native":
            url = write_sqlite(folder / "orders.sqlite", rows, native=kind == "sql-native")
            return SqlSource(url=url, query="SELECT * FROM orders ORDER BY rowid", contract=contract)
        case "memory":
            return _memory(rows, contract)
    raise ValueError(kind)


def write_csv(path: Path, rows: Sequence[Row], *, delimiter: str = ",", encoding: str = "utf-8") -> str:
    """A CSV with a header, gzipped if the name says so; its path."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return write_bytes(path, text.getvalue().encode(encoding, "surrogateescape"))


def write_bytes(path: Path, content: bytes) -> str:
    """Exactly these bytes, gzipped if the name says so; the path."""
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def write_sqlite(path: Path, rows: Sequence[Row], *, native: bool = False) -> str:
    """A table "orders" in an SQLite file; its URL."""
    names = list(rows[0])
    kinds = {"amount": "REAL", "quantity": "INTEGER", "discount": "REAL"} if native else {}
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (" + ", ".join(f"{name} {kinds.get(name, 'TEXT')}" for name in names) + ")")
    marks = ", ".join("?" * len(names))
    connection.executemany(f"INSERT INTO orders VALUES ({marks})", [tuple(r.values()) for r in rows])
    connection.commit()
    connection.close()
    return f"sqlite:///{path}"


def _text_columns(rows: Sequence[Row]) -> dict[str, pa.Array]:
    return {name: pa.array([r[name].encode("utf-8", "surrogateescape") for r in rows], pa.binary()) for name in rows[0]}


def _native_columns(rows: Sequence[Row]) -> dict[str, pa.Array]:
    columns = {name: pa.array([r[name] for r in rows]).dictionary_encode() for name in rows[0]}
    columns["timestamp"] = pa.array([dt.datetime.fromisoformat(r["timestamp"]) for r in rows], pa.timestamp("ns"))
    columns["amount"] = pa.array([float(r["amount"]) for r in rows], pa.float32())
    if "quantity" in columns:
        columns["quantity"] = pa.array([int(r["quantity"]) for r in rows], pa.int16())
    if "discount" in columns:
        columns["discount"] = pa.array([float(r["discount"] or "nan") for r in rows], pa.float64(), from_pandas=True)
    return columns


def _write_parquet(folder: Path, columns: Mapping[str, pa.Array]) -> str:
    path = folder / "orders.parquet"
    pq.write_table(pa.table(dict(columns)), path)
    return str(path)


def _memory(rows: Sequence[Row], contract: DataContract) -> MemorySource:
    customers = list(dict.fromkeys(r["customer_id"] for r in rows))
    merchants = list(dict.fromkeys(r["merchant"] for r in rows)) if "merchant" in rows[0] else []
    orders = [
        Order(
            customer=customers.index(r["customer_id"]),
            timestamp=dt.datetime.fromisoformat(r["timestamp"]),
            spend_cents=round(float(r["amount"]) * 100),
            order_id=r.get("order_id", ""),
            quantity=int(r.get("quantity", "1")),
            category=r.get("category", ""),
            event_type=EventType[r.get("event_type", "purchase").upper()],
        )
        for r in rows
    ]
    return MemorySource(
        log=order_log(orders, num_customers=len(customers)),
        customer_ids=customers,
        merchant=pa.array([merchants.index(r["merchant"]) for r in rows], pa.int32()).to_numpy() if merchants else None,
        merchant_names=merchants,
        contract=contract,
        extras=_extras(rows, contract),
    )


def _extras(rows: Sequence[Row], contract: DataContract) -> RowExtras:
    discounts = [round(float(r["discount"] or 0) * 100) for r in rows] if contract.discount else None
    return RowExtras(
        category=pa.array([r["category"] for r in rows]) if "category" in rows[0] else None,
        discount_cents=None if discounts is None else np.array(discounts, np.int64),
        slices={label: pa.array([r[theirs] for r in rows]) for label, theirs in contract.slices.items()},
    )
