"""One scoring of all customers, from the pulled model and the orders to the file; nothing leaves the machine."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from client.drift import STALE_DAYS, KeptRun, days_old, histogram, keep_run, run_before, stability_index
from client.models import newest_kept
from client.orders import Orders, read_orders
from client.own_readout import with_own_readout
from client.progress import Advance, Begin
from client.score_file import TIERS, Parts, finished, open_parts, score_file, scoring_key, tier_cuts
from client.scoring import DRIFT_FEATURES, NEWCOMER_ORDERS, Scorer, new_scorer, score_block
from client.settings import MerchantSettings
from client.sources import DataContract, OrderChunk, OrderSource
from pp_model.baskets import basket_blocks
from pp_model.config import to_mapping
from pp_model.errors import ConfigError
from pp_model.plan import TrainingPlan
from pp_model.schema import SECONDS_PER_DAY, OrderLog, Window
from pp_model.serialization import Arrays

FIRST_DAY, _EPOCH = dt.date(1900, 1, 1), dt.date(1970, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a scoring says of itself; for the merchant's eyes only, since counts are data too.

    Attributes:
        model: SHA-256 of its file.
        tiers: customers by tier.
        days_without_order: before the cutoff.
        drift: population stability index of the score and of some features against the run of `compared_with`.
        resumed: whether finished parts of an interrupted run were used.
        orders: what became of the rows of the source, as sentences.
    """

    out: str
    cutoff: dt.date
    horizon_days: int
    model_id: int
    model: str
    customers: int
    newcomers: int
    newcomer_orders: int
    tiers: Mapping[str, int]
    newest_order: dt.date
    days_without_order: int
    compared_with: dt.date | None
    model_changed: bool
    drift: Mapping[str, float]
    resumed: bool
    orders: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """The summary for programs."""
        mapping: dict[str, Any] = to_mapping(self)
        return mapping


def score_all(
    settings: MerchantSettings,
    *,
    cutoff: dt.date,
    out: Path,
    models: Path,
    force: bool,
    stale: bool,
    progress: Begin,
) -> Summary:
    """Scores every customer who did something before the cutoff, and keeps the scores for the next comparison.

    Args:
        models: the folder of `pull_newest`.
        force: replaces `out`; else it must not be there.
        stale: allows orders that end long before the cutoff.

    Raises:
        ConfigError: no model, no order before the cutoff, or none near it.
        SignatureError: the model is not what the platform signed.
        BadOrdersError: the source breaks its contract.
        ScoreFileError: the disk is full; the same call goes on.
    """
    model = newest_kept(models, settings.plan_key)
    source = WatchedSource(source=settings.source(), moved=progress("reading orders", None))
    orders = read_orders(source, window=Window(start=FIRST_DAY, end=cutoff))
    newest = newest_day(orders, cutoff, stale=stale)
    before = run_before(settings.paths.scores, cutoff)
    compared = f"{before.cutoff} {before.model}" if before else ""
    key = scoring_key(orders, model=model.manifest.sha256, cutoff=cutoff, compared_with=compared)
    parts = open_parts(out, key)
    advance = progress("scoring customers", orders.log.num_customers)
    scorer = own_scorer(model.plan, model.arrays, orders.log, cutoff=cutoff, newest=newest)
    with one_thread():
        number, scores, counts = _make_parts(scorer, orders, parts, advance)
    ids = pa.array(orders.customer_ids, pa.string())
    tiers = _write(parts, number, out, ids=ids, scores=scores, before=before, force=force)
    histograms = {name: count.tolist() for name, count in counts.histograms.items()}
    keep_run(
        settings.paths.scores,
        KeptRun(
            cutoff=cutoff,
            model=model.manifest.sha256,
            customer_ids=ids.filter(pa.array(~np.isnan(scores))),
            score=scores[~np.isnan(scores)],
            histograms=histograms,
        ),
    )
    parts.remove()
    return Summary(
        out=str(out),
        cutoff=cutoff,
        horizon_days=model.plan.features.horizon_days,
        model_id=model.manifest.model_id,
        model=model.manifest.sha256,
        customers=int(np.count_nonzero(~np.isnan(scores))),
        newcomers=counts.newcomers,
        newcomer_orders=NEWCOMER_ORDERS,
        tiers={name: tiers[name] for name in reversed(TIERS)},
        newest_order=newest,
        days_without_order=days_old(newest, cutoff),
        compared_with=before.cutoff if before else None,
        model_changed=bool(before and before.model != model.manifest.sha256),
        drift={name: round(stability_index(histograms[name], before.histograms[name]), 6) for name in histograms}
        if before
        else {},
        resumed=parts.resumed,
        orders=tuple(orders.report.lines()),
    )


def own_scorer(plan: TrainingPlan, arrays: Arrays, log: OrderLog, *, cutoff: dt.date, newest: dt.date) -> Scorer:
    """The scorer of a pulled model with the readout moved towards this merchant's customers.

    Where the orders end long before the cutoff, the newest window would teach that nobody buys any more: then the
    readout stays the shared one.

    Args:
        newest: the day of the newest order.

    Raises:
        ArraysError: the arrays are not the plan's model.
    """
    with one_thread():
        if days_old(newest, cutoff) <= STALE_DAYS:
            arrays = with_own_readout(plan, arrays, log, cutoff=cutoff)
    return new_scorer(plan, arrays, cutoff)


@contextmanager
def one_thread() -> Iterator[None]:
    """For batches this small, a second thread of PyTorch waits more than it works: four times, on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(kw_only=True)
class _Counts:
    newcomers: int
    histograms: dict[str, NDArray[np.int64]]


def _make_parts(
    scorer: Scorer, orders: Orders, parts: Parts, advance: Advance
) -> tuple[int, NDArray[np.float64], _Counts]:
    """Makes the parts that are missing; how many there are, each customer's score (NaN without) and sums over all."""
    scores = np.full(orders.log.num_customers, np.nan)
    names = ("score", *DRIFT_FEATURES)
    counts = _Counts(newcomers=0, histograms={name: histogram(name, np.empty(0)) for name in names})
    number = 0
    for baskets in basket_blocks(orders.log):
        part = parts.read(number)
        if part is None:
            part = parts.write(number, score_block(scorer, baskets))
        scores[part["customer"].to_numpy()] = part["score"].to_numpy()
        counts.newcomers += int(np.count_nonzero(part["newcomer"].to_numpy()))
        for name in names:
            counts.histograms[name] += histogram(name, part[name].to_numpy())
        advance(part.num_rows)
        number += 1
    return number, scores, counts


def _write(
    parts: Parts,
    number: int,
    out: Path,
    *,
    ids: Any,
    scores: NDArray[np.float64],
    before: KeptRun | None,
    force: bool,
) -> Counter[str]:
    """Writes the file; customers by tier."""
    previous = before.scores_of(ids) if before else np.full(len(ids), np.nan)
    cuts, tiers = tier_cuts(scores[~np.isnan(scores)]), Counter[str]()
    with score_file(out, parts, force=force) as file:
        for part in _read_again(parts, number):
            table = finished(part, ids=ids, previous=previous, cuts=cuts)
            tiers.update({entry["values"]: entry["counts"] for entry in table["tier"].value_counts().to_pylist()})
            file.write_table(table)
    return tiers


def _read_again(parts: Parts, number: int) -> Iterator[pa.Table]:
    for place in range(number):
        part = parts.read(place)
        if part is None:
            raise ConfigError(f"a part in {parts.folder} is gone; do not touch that folder, and give the command again")
        yield part


def newest_day(orders: Orders, cutoff: dt.date, *, stale: bool) -> dt.date:
    """The day of the newest order.

    Args:
        stale: allows that it lies long before the cutoff.

    Raises:
        ConfigError: there is none, or none near the cutoff.
    """
    if not len(orders.log):
        raise ConfigError(f"there is no order before the cutoff {cutoff}; choose a later one with --cutoff DATE")
    newest = _EPOCH + dt.timedelta(days=int(orders.log.timestamp.max()) // SECONDS_PER_DAY)
    if days_old(newest, cutoff) > STALE_DAYS and not stale:
        raise ConfigError(
            f"the orders end more than {STALE_DAYS} days before the cutoff {cutoff}, so every customer would look "
            "silent. Export them again up to the cutoff, choose an earlier --cutoff, or say --stale if the shop was "
            "closed"
        )
    return newest


@dataclass(frozen=True, kw_only=True)
class WatchedSource:
    """A source whose rows are counted while they are read."""

    source: OrderSource
    moved: Advance

    @property
    def place(self) -> str:
        return self.source.place

    @property
    def contract(self) -> DataContract:
        return self.source.contract

    def read(self, window: Window | None, *, extras: bool = False) -> Iterator[OrderChunk]:
        for chunk in self.source.read(window, extras=extras):
            self.moved(chunk.rows_read)
            yield chunk
