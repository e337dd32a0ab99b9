"""Whom to write to: audiences by tier and churn risk, and which of them a budget goes to.

Nobody can read from orders what a contact does; it takes an experiment. So the uplift is what the merchant states in
insight.toml, by churn risk: a contacted customer spends so much more than expected within the horizon. From it follows
    expected return = uplift x margin x expected spend - cost per contact
of each customer. Contacted are only customers whose own return is above 0; audiences are taken by return per contact,
until the budget is used, and of the last one those with the highest return.

For an audience without a stated uplift the page shows the uplift at which a contact of all its customers pays for
itself, cost per contact x customers / (margin x their expected spend), and nobody of it is picked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.insight.customers import summed
from client.insight.data import InsightData
from client.insight.groups import BAND_NAMES, TIER_NAMES, churn_band, few_note, tier_of
from client.insight.made import Made, list_file, made, shown_rows
from client.insight.options import CHURN_BANDS, CampaignOptions
from client.score_file import TIERS
from web.charts import Chart, Series
from web.report import Column, Figure, Table
from web.words import Kind, phrase

NAME = "campaigns"
AUDIENCES = len(TIERS) * len(CHURN_BANDS)
_SHOWN: Mapping[str, Kind] = {
    "customer_id": "text",
    "tier": "text",
    "churn_risk": "share",
    "expected_spend_cents": "money",
    "expected_return_cents": "money",
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Who is contacted.

    Attributes:
        audience: [rows], tier and churn band in one number.
        expected_return: [rows], in cents, of a contact; NaN without a stated uplift.
        contacted: [rows].
    """

    audience: NDArray[np.int64]
    expected_return: NDArray[np.float64]
    contacted: NDArray[np.bool_]


def build(data: InsightData) -> Made:
    """The report, and everybody with audience and, where an uplift is stated, return; those to contact first."""
    options, scores = data.options.campaigns, data.scores
    expected = scores["expected_spend_cents"].to_numpy().astype(np.float64)
    band = churn_band(scores["churn_risk"].to_numpy())
    choice = chosen(expected, tier_of(scores), band, options)
    everybody = _list(scores, band, choice)
    audiences = _audiences(expected, choice, options)
    tables = [audiences]
    if options.uplift:
        picked = everybody.slice(0, int(choice.contacted.sum()))
        title, file = phrase("campaigns.table.picked"), list_file(NAME, "customers")
        tables.append(shown_rows(picked, _SHOWN, title=title, file=file, words="insight.column"))
    return made(
        data,
        NAME,
        figures=_figures(choice, options),
        charts=(_reach(choice),),
        tables=tables,
        notes=(
            phrase("campaigns.note.stated" if options.uplift else "campaigns.note.no_uplift"),
            phrase("campaigns.note.experiment"),
            *few_note(np.bincount(choice.audience, minlength=AUDIENCES)),
        ),
        lists={"customers": everybody},
    )


def chosen(
    expected: NDArray[np.float64], tier: NDArray[np.int64], band: NDArray[np.int64], options: CampaignOptions
) -> Choice:
    """Whom the budget reaches; equal customers in their order.

    Args:
        expected: [rows], cents.
        tier, band: [rows], places in `TIERS` and `CHURN_BANDS`.
    """
    audience = tier * len(CHURN_BANDS) + band
    uplift = np.array([options.uplift.get(name, np.nan) for name in CHURN_BANDS])[band]
    gain = uplift * options.margin * expected - 100 * options.cost_per_contact
    pays = gain > 0  # false without a stated uplift
    number = np.bincount(audience[pays], minlength=AUDIENCES)
    mean = summed(audience[pays], gain[pays], AUDIENCES) / np.maximum(number, 1)
    rows = np.flatnonzero(pays)
    order = rows[np.lexsort((rows, -gain[rows], audience[rows], -mean[audience[rows]]))]
    contacted = np.zeros(len(expected), np.bool_)
    contacted[order[: affordable(options)]] = True
    return Choice(audience=audience, expected_return=gain, contacted=contacted)


def affordable(options: CampaignOptions) -> int:
    """How many contacts the budget pays for."""
    return int(options.budget / options.cost_per_contact + 1e-9)


def _list(scores: pa.Table, band: NDArray[np.int64], choice: Choice) -> pa.Table:
    gain = choice.expected_return
    by_return = np.where(np.isnan(gain), -np.inf, gain)
    order = np.lexsort((-scores["expected_spend_cents"].to_numpy(), -by_return, ~choice.contacted))
    table = pa.table(
        {
            "customer_id": scores["customer_id"],
            "tier": scores["tier"],
            "churn_band": pa.array(np.array(CHURN_BANDS)[band]),
            "churn_risk": scores["churn_risk"],
            "expected_spend_cents": scores["expected_spend_cents"],
            "contact": pa.array(choice.contacted),
            "expected_return_cents": pa.array(gain.round(1), mask=np.isnan(gain)),
        }
    )
    return table.take(pa.array(order))


def _figures(choice: Choice, options: CampaignOptions) -> tuple[Figure, ...]:
    contacts = int(choice.contacted.sum())
    figures = [
        Figure(label=phrase("campaigns.figure.budget"), value=100 * options.budget, kind="money"),
        Figure(label=phrase("campaigns.figure.cost"), value=100 * options.cost_per_contact, kind="money"),
        Figure(label=phrase("campaigns.figure.margin"), value=options.margin, kind="share"),
        Figure(label=phrase("campaigns.figure.affordable"), value=affordable(options), kind="count"),
    ]
    if options.uplift:
        gain = float(choice.expected_return[choice.contacted].sum())
        figures += [
            Figure(label=phrase("campaigns.figure.contacts"), value=contacts, kind="count"),
            Figure(
                label=phrase("campaigns.figure.spent"), value=100 * contacts * options.cost_per_contact, kind="money"
            ),
            Figure(label=phrase("campaigns.figure.return"), value=gain, kind="money"),
        ]
    return tuple(figures)


def _reach(choice: Choice) -> Chart:
    number = np.bincount(choice.audience, minlength=AUDIENCES).reshape(len(TIERS), -1)
    return Chart(
        kind="bar",
        title=phrase("campaigns.chart.title"),
        x=phrase("insight.column.tier"),
        y=phrase("campaigns.column.customers"),
        categories=TIER_NAMES,
        series=tuple(
            Series(label=phrase("campaigns.chart.band", band=name), values=tuple(map(float, number[:, place])))
            for place, name in enumerate(BAND_NAMES)
        ),
        stacked=True,
        kind_of_value="count",
    )


def _audiences(expected: NDArray[np.float64], choice: Choice, options: CampaignOptions) -> Table:
    """A row for each audience with customers, the one with the highest return per contact first."""
    number = np.bincount(choice.audience, minlength=AUDIENCES)
    spend = summed(choice.audience, expected, AUDIENCES)
    to = choice.contacted
    contacts = np.bincount(choice.audience[to], minlength=AUDIENCES)
    gain = summed(choice.audience[to], choice.expected_return[to], AUDIENCES)
    rows = []
    for place in np.lexsort((-spend, -gain / np.maximum(contacts, 1))):
        if not number[place]:
            continue
        tier, band = divmod(int(place), len(CHURN_BANDS))
        stated = options.uplift.get(CHURN_BANDS[band])
        worth = options.margin * spend[place]
        rows.append(
            (
                TIER_NAMES[tier],
                BAND_NAMES[band],
                int(number[place]),
                float(spend[place]),
                100 * options.cost_per_contact * int(number[place]),
                100 * options.cost_per_contact * float(number[place]) / float(worth) if worth else None,
                stated,
                int(contacts[place]) if stated is not None else None,
                float(gain[place]) if stated is not None else None,
            )
        )
    headings: tuple[tuple[str, Kind], ...] = (
        ("insight.column.tier", "text"),
        ("insight.column.churn_band", "text"),
        ("campaigns.column.customers", "count"),
        ("campaigns.column.expected", "money"),
        ("campaigns.column.cost", "money"),
        ("campaigns.column.break_even", "share"),
        ("campaigns.column.uplift", "share"),
        ("campaigns.column.contacts", "count"),
        ("campaigns.column.return", "money"),
    )
    return Table(
        title=phrase("campaigns.table.audiences"),
        columns=tuple(Column(label=phrase(key), kind=kind) for key, kind in headings),
        rows=tuple(rows),
    )
