"""A shop at one cutoff under one model, ready to be asked: made beside the one that serves, and never changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.insight.customers import interests_of
from client.insight.data import InsightData
from client.score_file import tier_cuts
from client.serving.ranking import USUAL_SPREAD, Taste
from pp_model.errors import ConfigError
from pp_model.schema import SECONDS_PER_DAY, EventType, OrderLog, day_start

ENOUGH_NEWCOMERS = 20  # fewer, and the middle one says more of a person than of the shop
_SPREAD_PRIOR = 5.0  # lines paid for, as if there were so many of the usual spread
_EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """See the file.

    Attributes:
        codes: customer code of each of the merchant's own ids.
        lines, starts: the places in the log of each customer's lines; those of code c from starts[c] to starts[c + 1].
        rows: [customers], the place of each code in `data.scores`; -1 where it did nothing before the cutoff.
        cuts: where this shop's middle and high tier begin.
        newcomer_row: the place in `data.scores` of the middle newcomer, who stands for whom nothing is known of.
        newest_order: the day of the newest order read.
    """

    data: InsightData
    codes: Mapping[str, int]
    lines: NDArray[np.int32]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    cuts: tuple[float, float]
    newcomer_row: int
    newest_order: dt.date

    def code_of(self, customer_id: str) -> int | None:
        """The code of a customer who did something before the cutoff; None for anybody else."""
        code = self.codes.get(customer_id.strip())
        return code if code is not None and self.rows[code] >= 0 else None

    def row_of(self, code: int) -> dict[str, Any]:
        """The scores of a known customer, as its line in the file of `pp-client score` has them."""
        return self._row(int(self.rows[code]))

    def newcomer(self) -> dict[str, Any]:
        """The scores of the middle newcomer."""
        return self._row(self.newcomer_row)

    def log_of(self, code: int) -> OrderLog:
        """A customer's own lines, as the only customer of a log."""
        own = self.data.log.select(self.lines[self.starts[code] : self.starts[code + 1]].astype(np.intp))
        return own.with_customers(np.zeros(len(own), np.int32), num_customers=1)

    def alone(self, code: int) -> InsightData:
        """A known customer as the only one of the shop, with the code 0: what is made of it takes no time."""
        scores = self.data.scores.slice(int(self.rows[code]), 1)
        place = scores.schema.get_field_index("customer")
        return replace(
            self.data, log=self.log_of(code), scores=scores.set_column(place, "customer", pa.array([0], pa.int64()))
        )

    def _row(self, place: int) -> dict[str, Any]:
        found: dict[str, Any] = self.data.scores.slice(place, 1).to_pylist()[0]
        return found


def snapshot_of(data: InsightData) -> Snapshot:
    """The snapshot of a shop.

    Raises:
        ConfigError: nobody is scored, or the model says something that is no number.
    """
    scores = data.scores.combine_chunks()  # in one piece, of which a row is taken in no time
    if not scores.num_rows:
        raise ConfigError(f"no customer did anything before {data.cutoff}; check the orders and the cutoff")
    _check(scores)
    customers, score = scores["customer"].to_numpy(), scores["score"].to_numpy()
    rows = np.full(data.log.num_customers, -1, np.int64)
    rows[customers] = np.arange(len(customers))
    return Snapshot(
        data=replace(data, scores=scores),
        codes={customer_id: code for code, customer_id in enumerate(data.customer_ids.to_pylist())},
        lines=np.argsort(data.log.customer, kind="stable").astype(np.int32),
        starts=np.append(0, np.cumsum(np.bincount(data.log.customer, minlength=data.log.num_customers))),
        rows=rows,
        cuts=tier_cuts(score),
        newcomer_row=_middle_newcomer(data, scores, customers, score),
        newest_order=_EPOCH + dt.timedelta(days=int(data.log.timestamp.max()) // SECONDS_PER_DAY),
    )


def taste_of(log: OrderLog, row: Mapping[str, Any], *, cutoff: dt.date) -> Taste:
    """What the only customer of a log pays and buys.

    Args:
        row: its scores at the cutoff; the log ends there.
    """
    paid = (log.event_type == EventType.PURCHASE) & (log.spend_cents > 0)
    log_price = np.log(np.maximum(log.spend_cents[paid] / np.maximum(log.quantity[paid], 1), 1.0))
    lines = len(log_price)
    mean = float(log_price.mean()) if lines else 0.0
    square = float(((log_price - mean) ** 2).sum())
    interests = interests_of(log, cutoff=cutoff)
    codes = interests.codes[interests.category].tolist()
    named = {code: share for code, share in zip(codes, interests.share.tolist(), strict=True) if code >= 0}
    first = max(named.values(), default=1.0)
    return Taste(
        purchases=lines,
        price_cents=float(np.exp(mean)),
        spread=float(np.sqrt((_SPREAD_PRIOR * USUAL_SPREAD**2 + square) / (_SPREAD_PRIOR + lines))),
        means_cents=max(row["expected_spend_cents"] / max(row["purchase_probability"], 1e-6), 1.0),
        interest={code: share / first for code, share in named.items()},
    )


def _middle_newcomer(data: InsightData, scores: pa.Table, customers: Any, score: NDArray[np.float64]) -> int:
    """Of those who came within the last horizon and bought less than twice; of all newcomers or customers, if few."""
    newcomer = scores["newcomer"].to_numpy()
    first = np.full(data.log.num_customers, np.iinfo(np.int64).max)
    np.minimum.at(first, data.log.customer, data.log.timestamp)
    since = day_start(data.cutoff - dt.timedelta(days=data.horizon_days))
    lately = newcomer & (first[customers] >= since)
    everybody = np.ones(len(score), np.bool_)
    chosen = next((each for each in (lately, newcomer) if each.sum() >= ENOUGH_NEWCOMERS), everybody)
    places = np.flatnonzero(chosen)
    return int(places[np.argsort(score[places], kind="stable")[len(places) // 2]])


def _check(scores: pa.Table) -> None:
    """Raises `ConfigError` unless all figures are numbers that they can be."""
    for name, most in (("purchase_probability", 1.0), ("churn_risk", 1.0), ("score", 100.0)):
        values = scores[name].to_numpy()
        if not (np.all(values >= 0) and np.all(values <= most)):
            raise ConfigError(f"the model gives a {name} that is not between 0 and {most:g}; tell the platform")
