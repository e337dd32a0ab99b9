"""Who is likely to send goods back, by what is known and no more: an estimate for stock and sizes, no accusation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import optimize, special, stats

from client.insight.data import InsightData
from client.insight.intervals import LEVEL, Estimate, Floats, share_of
from client.insight.made import Made, list_file, made, plain_rows, shown_rows
from pp_model.baskets import basket_blocks
from pp_model.schema import NO_CATEGORY, EventType
from web.charts import Chart, Series
from web.report import MOST_ROWS, Column, Figure, Table
from web.words import Kind, Phrase, phrase

NAME = "returns"
MOST_DRAWN = 20  # categories
RATES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # the ends of the bars
_LARGEST_SHARE = 0.95  # of what is bought that may come back: a net spend above zero is expected
_LEAST, _MOST = 1e-3, 1e4  # of the two counts of a prior
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Prior:
    """How return rates are spread over this shop's customers: a beta distribution.

    Attributes:
        returned, kept: its two counts; their sum says after how many baskets a customer's own rate counts as much.
    """

    returned: float
    kept: float

    @property
    def mean(self) -> float:
        """The rate of a customer of whom nothing is known."""
        return self.returned / (self.returned + self.kept)

    def rate(self, returned: Ints, baskets: Ints) -> tuple[Floats, Floats, Floats]:
        """Mean and both ends of the interval of customers' rates, given what they bought and sent back."""
        first, second = self.returned + returned, self.kept + (baskets - returned)
        low, high = (np.asarray(stats.beta.ppf(0.5 + side * LEVEL / 2, first, second)) for side in (-1, 1))
        return first / (first + second), low, high


def prior_of(returned: Ints, baskets: Ints) -> Prior:
    """The prior under which the shop's returns are most likely.

    Args:
        returned, baskets: [customers], at least one basket each.

    Source: the beta-binomial by maximum likelihood, "empirical Bayes" (Casella 1985, "An introduction to empirical
    Bayes data analysis", The American Statistician 39).
    """
    pairs, count = np.unique(baskets << 31 | returned, return_counts=True)  # few: most customers are alike
    all_of, back = pairs >> 31, pairs & (1 << 31) - 1

    def unlikely(at: Floats) -> float:
        rate, size = special.expit(at[0]), math.exp(at[1])
        first, second = rate * size, (1 - rate) * size
        return -float(
            count @ (special.betaln(first + back, second + all_of - back) - special.betaln(first, second))
        ) / float(count.sum())

    common = float((count @ back + 0.5) / (count @ all_of + 1))
    found = optimize.minimize(
        unlikely,
        np.array([special.logit(common), math.log(10.0)]),
        method="L-BFGS-B",
        bounds=[(special.logit(1e-6), special.logit(1 - 1e-6)), (math.log(_LEAST), math.log(_MOST))],
    )
    rate, size = float(special.expit(found.x[0])), math.exp(float(found.x[1]))
    return Prior(returned=rate * size, kept=(1 - rate) * size)


@dataclass(frozen=True, kw_only=True)
class _Customers:
    """Baskets and money by customer code, bought and sent back."""

    baskets: Ints
    returned: Ints
    bought_cents: Ints
    refund_cents: Ints


def build(data: InsightData) -> Made:
    """The report; empty where the orders have no returns."""
    customers = _customers(data)
    if not customers.returned.any():
        return made(data, NAME, empty=phrase("returns.empty"))
    some = np.flatnonzero(customers.baskets > 0)
    prior = prior_of(customers.returned[some], customers.baskets[some])
    people = _list(data, customers, prior)
    kinds: dict[str, Kind] = {"customer_id": "text", "baskets": "count", "returned_baskets": "count"}
    kinds |= dict.fromkeys(("rate", "rate_low", "rate_high", "value_share"), "share")
    kinds |= dict.fromkeys(("expected_returned_cents", "expected_returned_low_cents"), "money")
    kinds["expected_returned_high_cents"] = "money"
    return made(
        data,
        NAME,
        figures=_figures(customers, prior, people),
        charts=(_by_category(data), _spread(people)),
        tables=(
            shown_rows(
                people,
                kinds,
                title=phrase("returns.table.people"),
                file=list_file(NAME, "customers"),
                words="returns.column",
            ),
            _category_table(data),
        ),
        notes=(
            phrase("returns.note.no_accusation"),
            phrase("returns.note.shrunk", baskets=round(prior.returned + prior.kept, 1)),
            phrase("returns.note.value"),
            phrase("returns.note.late"),
        ),
        lists={"customers": people},
    )


def _customers(data: InsightData) -> _Customers:
    """What each customer bought and sent back; a customer has no more returned baskets than it has baskets."""
    number = data.log.num_customers
    baskets, returned = np.zeros(number, np.int64), np.zeros(number, np.int64)
    bought_cents, refund_cents = np.zeros(number, np.int64), np.zeros(number, np.int64)
    for block in basket_blocks(data.log):
        for kind, counts, cents in (
            (EventType.PURCHASE, baskets, bought_cents),
            (EventType.RETURN, returned, refund_cents),
        ):
            rows = block.event_type == kind
            np.add.at(counts, block.customer[rows], 1)
            np.add.at(cents, block.customer[rows], np.abs(block.spend_cents[rows]))
    return _Customers(
        baskets=baskets,
        returned=np.minimum(returned, baskets),
        bought_cents=bought_cents,
        refund_cents=np.minimum(refund_cents, bought_cents),
    )


def _list(data: InsightData, customers: _Customers, prior: Prior) -> pa.Table:
    """Everybody who bought and has a score, the most expected value of returns first.

    The model expects spend net of returns. Where a share v of what is bought comes back, v / (1 - v) of the net does.
    v is the customer's rate of baskets, times what a returned basket takes of its value in this shop as a whole.
    """
    codes, net = data.scores["customer"].to_numpy(), data.scores["expected_spend_cents"].to_numpy()
    bought = customers.baskets[codes] > 0
    codes, net = codes[bought], net[bought]
    rates = prior.rate(customers.returned[codes], customers.baskets[codes])
    value_of_one = _value_of_a_returned_basket(customers)
    shares = [np.minimum(rate * value_of_one, _LARGEST_SHARE) for rate in rates]
    expected, low, high = (np.rint(net * share / (1 - share)).astype(np.int64) for share in shares)
    order = np.lexsort((codes, -expected))
    table = pa.table(
        {
            "customer_id": data.customer_ids.take(pa.array(codes)),
            "baskets": customers.baskets[codes],
            "returned_baskets": customers.returned[codes],
            "rate": rates[0].round(6),
            "rate_low": rates[1].round(6),
            "rate_high": rates[2].round(6),
            "value_share": (customers.refund_cents[codes] / np.maximum(customers.bought_cents[codes], 1)).round(6),
            "expected_returned_cents": expected,
            "expected_returned_low_cents": low,
            "expected_returned_high_cents": high,
        }
    )
    return table.take(pa.array(order))


def _value_of_a_returned_basket(customers: _Customers) -> float:
    """Share of value returned over share of baskets returned, over the whole shop: 1 where whole baskets come back."""
    by_value = customers.refund_cents.sum() / max(1, customers.bought_cents.sum())
    by_baskets = customers.returned.sum() / max(1, customers.baskets.sum())
    return float(by_value / by_baskets)


def _figures(customers: _Customers, prior: Prior, people: pa.Table) -> tuple[Figure, ...]:
    by_baskets = share_of(float(customers.returned.sum()), float(customers.baskets.sum()))
    by_value = float(customers.refund_cents.sum() / max(1, customers.bought_cents.sum()))
    expected = int(people["expected_returned_cents"].to_numpy().sum())
    return (
        Figure(label=phrase("returns.figure.baskets"), value=by_baskets.shown, kind="share", band=by_baskets.band),
        Figure(label=phrase("returns.figure.value"), value=by_value, kind="share"),
        Figure(label=phrase("returns.figure.prior"), value=prior.mean, kind="share"),
        Figure(label=phrase("returns.figure.expected"), value=expected, kind="money"),
    )


@dataclass(frozen=True, kw_only=True)
class _Categories:
    """Lines and money by category, the most money sent back first."""

    names: list[str | Phrase]
    lines: Ints
    returned: Ints
    bought_cents: Ints
    refund_cents: Ints


def _categories(data: InsightData) -> _Categories:
    log = data.log
    money = np.flatnonzero(np.isin(log.event_type, (EventType.PURCHASE, EventType.RETURN)))
    codes, place = np.unique(log.category[money], return_inverse=True)
    cents, back = np.abs(log.spend_cents[money]), log.event_type[money] == EventType.RETURN
    sums = [
        np.bincount(place, weights, minlength=len(codes)).astype(np.int64)
        for weights in (~back, back, cents * ~back, cents * back)
    ]
    order = np.lexsort((codes, -sums[3]))
    names = [
        phrase("returns.no_category") if code == NO_CATEGORY else data.category_names.get(int(code), str(code))
        for code in codes[order]
    ]
    lines, returned, bought_cents, refund_cents = (each[order] for each in sums)
    return _Categories(
        names=names, lines=lines, returned=returned, bought_cents=bought_cents, refund_cents=refund_cents
    )


def _by_category(data: InsightData) -> Chart:
    of = _categories(data)
    shares = [_line_share(of, at) for at in range(min(MOST_DRAWN, len(of.names)))]
    return Chart(
        kind="bar",
        title=phrase("returns.chart.category"),
        x=phrase("returns.axis.category"),
        y=phrase("returns.axis.rate"),
        categories=tuple(of.names[:MOST_DRAWN]),
        series=(
            Series(
                label=phrase("returns.axis.rate"),
                values=tuple(share.shown for share in shares),
                band=tuple(share.ends for share in shares),
            ),
        ),
        kind_of_value="share",
    )


def _line_share(of: _Categories, at: int) -> Estimate:
    return share_of(float(min(of.returned[at], of.lines[at])), float(of.lines[at]))


def _spread(people: pa.Table) -> Chart:
    """How many customers have which rate."""
    rates = people["rate"].to_numpy()
    place = np.searchsorted(RATES[1:-1], rates, side="right")
    counts = np.bincount(place, minlength=len(RATES) - 1)
    return Chart(
        kind="bar",
        title=phrase("returns.chart.spread"),
        x=phrase("returns.axis.rate"),
        y=phrase("returns.axis.customers"),
        categories=tuple(f"{100 * low:g} to {100 * high:g} %" for low, high in pairwise(RATES)),
        series=(Series(label=phrase("returns.axis.customers"), values=tuple(map(float, counts))),),
        kind_of_value="count",
    )


def _category_table(data: InsightData) -> Table:
    of = _categories(data)
    shares = [_line_share(of, at) for at in range(len(of.names))]
    kinds: dict[str, Kind] = {"category": "text", "lines": "count", "returned_lines": "count"}
    kinds |= dict.fromkeys(("rate", "rate_low", "rate_high", "value_share"), "share")
    kinds["refund_cents"] = "money"
    rows = plain_rows(
        (
            of.names,
            of.lines,
            of.returned,
            [share.shown for share in shares],
            [share.ends[0] for share in shares],
            [share.ends[1] for share in shares],
            np.minimum(of.refund_cents / np.maximum(of.bought_cents, 1), 1.0),
            of.refund_cents,
        )
    )
    columns = tuple(Column(label=phrase(f"returns.column.{name}"), kind=kind) for name, kind in kinds.items())
    return Table(title=phrase("returns.table.categories"), columns=columns, rows=rows[:MOST_ROWS])
