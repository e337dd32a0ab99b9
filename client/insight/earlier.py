"""What the model would have said of customers on an earlier day, knowing only what was known then."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.reasons import outputs_at, points_read
from client.score_run import one_thread
from client.scoring import Scorer
from pp_model.baskets import basket_blocks
from pp_model.features import rows_at
from pp_model.loss import prediction
from pp_model.schema import OrderLog

_ROWS_AT_ONCE = 4_096
_EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Said:
    """Customers who had done something before the day, ascending by code, and what the model said of them."""

    customer: NDArray[np.int64]
    buying_probability: NDArray[np.float64]
    expected_spend_cents: NDArray[np.float64]


def said_at(scorer: Scorer, log: OrderLog, cutoff: dt.date) -> Said:
    """What is said of everybody at one cutoff; what the log has from then on is not looked at."""
    customer, probability, expected = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0)]
    with one_thread():
        for baskets in basket_blocks(log):
            rows = rows_at(baskets, cutoff, scorer.features)
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = rows.select(np.arange(start, min(start + _ROWS_AT_ONCE, len(rows))))
                points = points_read(scorer.model, part)
                said = prediction(outputs_at(scorer.model, points, torch.from_numpy(part.log_anchor)))
                customer.append(part.customer)
                probability.append(said.buying_probability)
                expected.append(said.expected_spend_cents)
    return Said(
        customer=np.concatenate(customer),
        buying_probability=np.concatenate(probability),
        expected_spend_cents=np.concatenate(expected),
    )


def buying_probability_on(
    scorer: Scorer, log: OrderLog, customers: NDArray[np.int64], days: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[customers]: the probability to buy that each would have been given on a day of its own; NaN with no past then.

    Args:
        days: [customers], cutoffs in days since 1970.
    """
    day_of, found = np.full(log.num_customers, -1), np.full(log.num_customers, np.nan)
    day_of[customers] = days
    rows = np.flatnonzero(day_of[log.customer] >= 0)
    rows = rows[np.argsort(day_of[log.customer[rows]], kind="stable")]
    row_days = day_of[log.customer[rows]]
    for day in np.unique(days).tolist():
        first, end = np.searchsorted(row_days, [day, day + 1])
        said = said_at(scorer, log.select(rows[first:end]), _EPOCH + dt.timedelta(days=day))
        found[said.customer] = said.buying_probability
    return found[customers]
