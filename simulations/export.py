"""Synthetic orders as a merchant's own export would be: a CSV file with a header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from pp_model.schema import NO_CATEGORY, EventType, OrderLog


def write_orders_csv(log: OrderLog, path: Path) -> Path:
    """One line per event: customer_id, timestamp, amount, order_id, quantity, category and event_type.

    Amounts are in currency units with two digits. Categories are named by their code: the log does not keep the name.
    """
    named = np.char.add("category ", log.category.astype(str))
    names = np.array([kind.name.lower() for kind in sorted(EventType)])
    table = pa.table(
        {
            "customer_id": np.char.add("c", log.customer.astype(str)),
            "timestamp": log.timestamp.astype("datetime64[s]").astype(str),
            "amount": np.char.mod("%.2f", log.spend_cents / 100),
            "order_id": np.char.add(np.char.add(log.customer.astype(str), "-"), log.order.astype(str)),
            "quantity": log.quantity,
            "category": np.where(log.category == NO_CATEGORY, "", named),
            "event_type": names[log.event_type],
        }
    )
    csv.write_csv(table, path, csv.WriteOptions(quoting_style="needed"))
    return path
