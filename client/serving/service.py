"""The one service behind both doors: a request of `schemas` to an answer of `schemas`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from client.insight.portraits import INTERESTS, portrait_of
from client.reasons import average_customer
from client.score_file import TIERS
from client.scoring import REASON_COLUMNS, Scorer, score_block
from client.serving.faults import Code, ServingError
from client.serving.ranking import Candidate, Taste, ranked, weight_used
from client.serving.schemas import (
    AskPortrait,
    Basis,
    Interest,
    Portrait,
    PostedOrder,
    RankedItem,
    Rerank,
    Reranked,
    Score,
    ScoreCustomer,
    ScoreOrders,
)
from client.serving.snapshot import Snapshot, taste_of
from pp_model.baskets import baskets_of
from pp_model.loss import tiers
from pp_model.schema import EventType, Order, OrderLog, category_code, day_start, order_log

# With so many equal rows, and no fewer, the matrix products of PyTorch go the way that they go for a whole shop, and a
# customer's figures are the bits of `pp-client score`.
COPIES = 16
_FIGURES = (
    *("purchase_probability", "expected_spend_cents", "spend_low_cents", "spend_high_cents", "score", "churn_risk"),
    *("orders_seen", "newcomer"),
)
_OWN = ("spend_so_far_cents", "first_order", "last_order", "usual_gap_days")
_WORDS: Mapping[Basis, str] = {
    "own_orders": "the figures rest on this customer's own orders",
    "few_orders": "a newcomer: fewer than two orders are known, and the figures rest on what the model knows of such",
    "newcomers_of_this_shop": "nothing that this customer did before the cutoff is known: the figures are those of the "
    "middle newcomer of this shop, and say nothing of this customer",
}
_RANK_WORDS = {
    True: "by relevance and by how well each item fits what this customer pays and buys",
    False: "no purchase of this customer before the cutoff is known: the order is that of relevance",
}


class Service:
    """Answers from the snapshot of the moment; a request that has begun keeps the one it began with.

    Args:
        current: None until there is one.
    """

    def __init__(self, current: Callable[[], Snapshot | None]) -> None:
        self._current = current

    def score_customer(self, asked: ScoreCustomer) -> Score:
        """The same figures as the customer's line in the file of `pp-client score`; a newcomer's for an unknown id."""
        shop = self._snapshot()
        code = shop.code_of(asked.customer_id)
        return _score(shop, shop.newcomer() if code is None else shop.row_of(code), known=code is not None)

    def score_orders(self, asked: ScoreOrders) -> Score:
        """What `pp-client score` would say of a customer with these orders; only those before the cutoff count."""
        shop = self._snapshot()
        scorer = shop.data.scorer
        if asked.cutoff not in (None, scorer.cutoff):
            scorer = replace(scorer, cutoff=asked.cutoff, average=average_customer(scorer.features, asked.cutoff))
        row = _scored(scorer, log_of(asked.orders), shop.cuts)
        return _score(shop, row or shop.newcomer(), known=row is not None, cutoff=scorer.cutoff)

    def rerank(self, asked: Rerank) -> Reranked:
        """The candidates in their new order."""
        shop = self._snapshot()
        taste, newcomer = _taste(shop, asked)
        candidates = [
            Candidate(relevance=i.relevance, price_cents=i.price_cents, category=category_code(i.category))
            for i in asked.items
        ]
        used = weight_used(taste, asked.weight)
        items = [
            RankedItem(
                item_id=asked.items[each.candidate].item_id,
                place=place,
                relevance_place=each.relevance_place + 1,
                value=each.value,
                relevance=candidates[each.candidate].relevance,
                fit=each.fit.total if each.fit else None,
                price_fit=each.fit.price if each.fit else None,
                category_interest=each.fit.category if each.fit else None,
                why=list(each.fit.why) if each.fit else [],
            )
            for place, each in enumerate(ranked(candidates, taste, weight=asked.weight), start=1)
        ]
        return Reranked(
            cutoff=shop.data.cutoff,
            model_id=shop.data.model_id,
            known=taste is not None,
            newcomer=newcomer,
            words=_RANK_WORDS[taste is not None and taste.purchases > 0],
            weight=asked.weight,
            weight_used=used,
            purchases_known=0 if taste is None else taste.purchases,
            items=items,
        )

    def portrait(self, asked: AskPortrait) -> Portrait:
        """What `pp-client insight` says of the customer.

        Raises:
            ServingError: nothing is known of it.
        """
        shop = self._snapshot()
        code = shop.code_of(asked.customer_id)
        if code is None:
            raise ServingError(Code.UNKNOWN_CUSTOMER)
        found = portrait_of(shop.alone(code), 0)
        assert found is not None  # everybody with a code has a score
        return Portrait(
            score=_score(shop, shop.row_of(code), known=True),
            **{name: found[name] for name in _OWN},
            interests=[
                Interest(category=found[f"category_{place}"], share=found[f"share_{place}"])
                for place in range(1, INTERESTS + 1)
                if found[f"category_{place}"] is not None
            ],
        )

    def _snapshot(self) -> Snapshot:
        found = self._current()
        if found is None:
            raise ServingError(Code.NOT_READY)
        return found


def log_of(orders: Sequence[PostedOrder]) -> OrderLog:
    """The orders of one customer, read as the sources read theirs."""
    return order_log([_order(each) for each in orders], num_customers=1)


def _order(posted: PostedOrder) -> Order:
    kind = EventType[posted.event_type.upper()]
    sign = {EventType.PURCHASE: 1, EventType.RETURN: -1}.get(kind, 0)
    return Order(
        customer=0,
        timestamp=posted.timestamp,
        spend_cents=sign * posted.amount_cents,
        order_id=posted.order_id,
        quantity=posted.quantity,
        category=posted.category,
        event_type=kind,
    )


def _scored(scorer: Scorer, log: OrderLog, cuts: tuple[float, float]) -> dict[str, Any] | None:
    """The row of a log's only customer; None where it did nothing before the cutoff."""
    number = len(log)
    copies = log.select(np.tile(np.arange(number), COPIES)).with_customers(
        np.repeat(np.arange(COPIES, dtype=np.int32), number), num_customers=COPIES
    )
    block = score_block(scorer, baskets_of(copies))
    if not block.num_rows:
        return None
    row: dict[str, Any] = block.slice(0, 1).to_pylist()[0]
    place = int(tiers(np.array([row["score"]]), cuts=cuts)[0])
    return row | {"tier": TIERS[place], "change": None}


def _taste(shop: Snapshot, asked: Rerank) -> tuple[Taste | None, bool]:
    """What is known of the customer, and whether it is a newcomer."""
    if asked.customer_id is not None:
        code = shop.code_of(asked.customer_id)
        if code is None:
            return None, True
        log, row = shop.log_of(code), shop.row_of(code)
        return taste_of(log, row, cutoff=shop.data.cutoff), bool(row["newcomer"])
    log = log_of(asked.orders or ())
    log = log.select(log.timestamp < day_start(shop.data.cutoff))
    posted = _scored(shop.data.scorer, log, shop.cuts)
    if posted is None:
        return None, True
    return taste_of(log, posted, cutoff=shop.data.cutoff), bool(posted["newcomer"])


def _score(shop: Snapshot, row: Mapping[str, Any], *, known: bool, cutoff: Any = None) -> Score:
    basis: Basis = "newcomers_of_this_shop" if not known else "few_orders" if row["newcomer"] else "own_orders"
    figures = {name: row[name] for name in _FIGURES}
    if not known:
        figures |= {"orders_seen": 0, "newcomer": True}
    return Score(
        cutoff=cutoff or shop.data.cutoff,
        horizon_days=shop.data.horizon_days,
        model_id=shop.data.model_id,
        known=known,
        basis=basis,
        words=_WORDS[basis],
        tier=row["tier"],
        change=row["change"] if known else None,
        reasons=[row[name] for name in REASON_COLUMNS if row[name]] if known else [],
        **figures,
    )
