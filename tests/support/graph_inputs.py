"""An order log as the exported graph takes it: lines in rows, padded."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pp_model.schema import OrderLog

NULLS: dict[str, tuple[float, type]] = {
    "timestamp": (np.nan, np.float64),
    "spend_cents": (np.nan, np.float64),
    "quantity": (np.nan, np.float64),
    "category": (-1, np.int64),
    "event_type": (-1, np.int64),
    "order": (0, np.int64),
}


def graph_inputs(log: OrderLog, cutoff: dt.date, *, padding: int = 0) -> dict[str, NDArray[Any]]:
    """The graph's inputs for every customer of the log, each with its lines in the log's order."""
    by_customer = np.argsort(log.customer, kind="stable")
    customer = log.customer[by_customer]
    number = np.bincount(customer, minlength=log.num_customers)
    place = np.arange(len(log)) - np.repeat(np.cumsum(number) - number, number)
    shape = (log.num_customers, max(int(number.max(initial=0)), 1) + padding)
    inputs = {}
    for name, (null, dtype) in NULLS.items():
        inputs[name] = np.full(shape, null, dtype)
        inputs[name][customer, place] = getattr(log, name)[by_customer]
    return {**inputs, "cutoff_day": np.array((cutoff - dt.date(1970, 1, 1)).days)}
