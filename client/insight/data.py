"""All that the reports are made of, in memory: orders with their extras, scores of everybody, the model."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agreement.market import Market, read_market
from client.drift import run_before
from client.insight.customers import Facts, Interests, facts_of, interests_of
from client.insight.options import InsightOptions, read_options
from client.models import KeptModel, newest_kept
from client.orders import read_orders
from client.progress import Advance, Begin
from client.score_file import finished, tier_cuts
from client.score_run import FIRST_DAY, WatchedSource, newest_day, one_thread, own_scorer
from client.scoring import Scorer, new_scorer, score_block
from client.settings import MerchantSettings
from pp_model.baskets import basket_blocks
from pp_model.plan import TrainingPlan
from pp_model.schema import OrderLog, Window

Slice = tuple[NDArray[np.int32], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class InsightData:
    """A shop at a cutoff. It never leaves the machine, and nothing of it is written but by `store`.

    Attributes:
        log: orders before the cutoff.
        customer_ids: pyarrow string Array, the merchant's own id of each customer code.
        category_names: category code -> the merchant's own word, as it was first written.
        discount_cents: [rows of log], at least 0; None where the contract names no discount column.
        slices: the declared columns by label: a code per customer, -1 where unknown, and the names of the codes. A
            customer is what its newest row says.
        scores: the columns of `score_file.SCHEMA` and `customer`, int64, the code, ascending: everybody scored.
        scorer: what the scores were made with. Its readout was fitted to the orders before the cutoff, so whatever
            looks back at how well the model foretold them takes `shared`.
        shared: the model as it was published.
        model: SHA-256 of the model's file.
        plan: of the model; it trained on nothing from `plan.holdout_start` on.
        currency: of the contract, such as "GBP"; "" where it names none.
        market: what the platform published of the federation; None where it published nothing.
        made: when, in UTC.
    """

    log: OrderLog
    customer_ids: pa.Array
    category_names: Mapping[int, str]
    discount_cents: NDArray[np.int64] | None
    slices: Mapping[str, Slice]
    scores: pa.Table
    scorer: Scorer
    shared: Scorer
    model_id: int
    model: str
    plan: TrainingPlan
    cutoff: dt.date
    currency: str
    market: Market | None
    made: dt.datetime
    options: InsightOptions = field(default_factory=InsightOptions)

    @property
    def horizon_days(self) -> int:
        """The days from the cutoff on that the scores are for."""
        return self.scorer.features.horizon_days

    @cached_property
    def facts(self) -> Facts:
        """What is known of each customer code without a model."""
        return facts_of(self.log)

    @cached_property
    def interests(self) -> Interests:
        """What each customer spends its money on."""
        return interests_of(self.log, cutoff=self.cutoff)


def load_data(
    settings: MerchantSettings,
    *,
    cutoff: dt.date,
    models: Path | KeptModel,
    progress: Begin,
    stale: bool = False,
) -> InsightData:
    """Reads the orders with their extras and scores everybody with the newest model that was pulled.

    Args:
        models: the folder of `pull_newest`; or the model itself, where it was read before.
        stale: allows orders that end long before the cutoff.

    Raises:
        ConfigError: no model, no order before the cutoff or none near it, or insight.toml is wrong.
        SignatureError: the model or the federation's quantiles are not what the platform signed.
        BadOrdersError: the source breaks its contract.
    """
    options = read_options(settings.paths.insight_options)
    model = models if isinstance(models, KeptModel) else newest_kept(models, settings.plan_key)
    source = WatchedSource(source=settings.source(), moved=progress("reading orders", None))
    orders = read_orders(source, window=Window(start=FIRST_DAY, end=cutoff), extras=True)
    newest = newest_day(orders, cutoff, stale=stale)
    if orders.extras is None:
        raise AssertionError("orders that were read with extras have them")
    ids, log, extras = pa.array(orders.customer_ids, pa.string()), orders.log, orders.extras
    del orders  # with a million ids as objects
    scorer = own_scorer(model.plan, model.arrays, log, cutoff=cutoff, newest=newest)
    before = run_before(settings.paths.scores, cutoff)
    previous = before.scores_of(ids) if before else np.full(len(ids), np.nan)
    advance = progress("scoring customers", log.num_customers)
    return InsightData(
        log=log,
        customer_ids=ids,
        category_names=extras.category_names,
        discount_cents=extras.discount_cents,
        slices={label: (newest_said(log, codes), names) for label, (codes, names) in extras.slices.items()},
        scores=scores_of(scorer, log, ids=ids, previous=previous, advance=advance),
        scorer=scorer,
        shared=new_scorer(model.plan, model.arrays, cutoff),
        model_id=model.manifest.model_id,
        model=model.manifest.sha256,
        plan=model.plan,
        cutoff=cutoff,
        currency=settings.orders.contract.currency or "",
        market=read_market(settings.paths.market, settings.plan_key),
        made=dt.datetime.now(dt.UTC).replace(microsecond=0),
        options=options,
    )


def scores_of(
    scorer: Scorer,
    log: OrderLog,
    *,
    ids: pa.Array,
    previous: NDArray[np.float64] | None = None,
    advance: Advance = lambda _: None,
) -> pa.Table:
    """The scores of everybody with an event before the cutoff, as `InsightData.scores` has them.

    Args:
        ids: the merchant's own id of each customer code.
        previous: [customers], the score of an earlier run, NaN without one.
    """
    parts = []
    with one_thread():
        for baskets in basket_blocks(log):
            parts.append(score_block(scorer, baskets))
            advance(parts[-1].num_rows)
    scored = pa.Table.from_batches(parts)
    cuts = tier_cuts(scored["score"].to_numpy()) if scored.num_rows else (0.0, np.inf)
    before = np.full(len(ids), np.nan) if previous is None else previous
    table: pa.Table = finished(scored, ids=ids, previous=before, cuts=cuts)
    return table.append_column("customer", scored["customer"])


def newest_said(log: OrderLog, codes: NDArray[np.int16]) -> NDArray[np.int32]:
    """[customers]: the code in the newest row of each customer that has one; -1 where none has."""
    by_time = np.argsort(log.timestamp, kind="stable")
    by_time = by_time[codes[by_time] >= 0]
    found = np.full(log.num_customers, -1, np.int32)
    found[log.customer[by_time]] = codes[by_time]  # of several the last one stays
    return found
