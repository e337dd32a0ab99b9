"""The model put to the test on the shop's own orders: scored one horizon ago, and compared with what happened since."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from client.drift import STALE_DAYS, days_old
from client.insight.data import InsightData
from client.insight.replay import ReadoutRows
from client.reasons import outputs_at, points_read
from client.score_run import one_thread
from client.scoring import Scorer
from pp_model.baskets import basket_blocks
from pp_model.features import Examples, rows_at
from pp_model.loss import Prediction, prediction
from pp_model.schema import SECONDS_PER_DAY, OrderLog

LEAST_CUSTOMERS = 30  # with fewer, no figure says anything
_ROWS_AT_ONCE = 4_096
_EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """Everybody who did something before `cutoff`: what the model said of them then, and what they spent.

    Attributes:
        ends: the first day after the horizon that was looked at.
        seen: whether the training of this model may have read orders of that horizon.
        customer: int64 [rows], ascending.
        probability, expected_cents, score: [rows], predicted.
        spend_cents: int64 [rows], net of returns, at least 0.
    """

    cutoff: dt.date
    ends: dt.date
    seen: bool
    customer: NDArray[np.int64]
    probability: NDArray[np.float64]
    expected_cents: NDArray[np.float64]
    score: NDArray[np.float64]
    spend_cents: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.customer)

    @property
    def bought(self) -> NDArray[np.bool_]:
        """[rows]: whether net spend was above 0."""
        return self.spend_cents > 0


def last_whole_day(data: InsightData) -> dt.date:
    """The cutoff, or the day after the newest order where orders end long before it: no silence is made up."""
    newest = _EPOCH + dt.timedelta(days=int(data.log.timestamp.max()) // SECONDS_PER_DAY)
    return data.cutoff if days_old(newest, data.cutoff) <= STALE_DAYS else newest + dt.timedelta(days=1)


def backtest(data: InsightData) -> Backtest | None:
    """The test over the newest horizon that the orders cover; None with fewer than `LEAST_CUSTOMERS` before it."""
    ends = last_whole_day(data)
    cutoff = ends - dt.timedelta(days=data.horizon_days)
    parts = list(_predicted(data.shared, data.log, cutoff))
    if sum(len(examples) for examples, _ in parts) < LEAST_CUSTOMERS:
        return None
    return Backtest(
        cutoff=cutoff,
        ends=ends,
        seen=cutoff < data.plan.holdout_start,
        customer=np.concatenate([examples.customer for examples, _ in parts]),
        probability=np.concatenate([said.buying_probability for _, said in parts]),
        expected_cents=np.concatenate([said.expected_spend_cents for _, said in parts]),
        score=np.concatenate([said.score for _, said in parts]),
        spend_cents=np.concatenate([examples.spend_cents for examples, _ in parts]),
    )


def readout_rows(
    scorer: Scorer, log: OrderLog, cutoff: dt.date, customers: NDArray[np.int64]
) -> tuple[ReadoutRows, NDArray[np.int64]]:
    """What the readout reads of these customers at a cutoff, and who of them was there: [rows]."""
    wanted = np.zeros(log.num_customers, np.bool_)
    wanted[customers] = True
    parts = [
        (scorer.model.represent(torch.from_numpy(part.features), torch.from_numpy(part.sequence)), part)
        for part in _examples(log.select(wanted[log.customer]), cutoff, scorer)
    ]
    rows = ReadoutRows(
        inputs=torch.cat([read for read, _ in parts]),
        log_anchor=torch.cat([torch.from_numpy(part.log_anchor) for _, part in parts]),
        spend_cents=torch.cat([torch.from_numpy(part.spend_cents) for _, part in parts]),
    )
    return rows, np.concatenate([part.customer for _, part in parts])


def some_of(customers: NDArray[np.int64], most: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """All of them, or `most` drawn by lot, in their order."""
    return customers if len(customers) <= most else np.sort(rng.choice(customers, most, replace=False))


def _predicted(scorer: Scorer, log: OrderLog, cutoff: dt.date) -> Iterator[tuple[Examples, Prediction]]:
    with one_thread():
        for examples in _examples(log, cutoff, scorer):
            points = points_read(scorer.model, examples)
            yield examples, prediction(outputs_at(scorer.model, points, torch.from_numpy(examples.log_anchor)))


def _examples(log: OrderLog, cutoff: dt.date, scorer: Scorer) -> Iterator[Examples]:
    """Rows at the cutoff with what was spent in the horizon after it, some thousands at a time, at least one part."""
    for baskets in basket_blocks(log):
        examples = rows_at(baskets, cutoff, scorer.features)
        for start in range(0, max(len(examples), 1), _ROWS_AT_ONCE):
            yield examples.select(np.arange(start, min(start + _ROWS_AT_ONCE, len(examples))))
