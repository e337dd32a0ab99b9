"""Customers by tier and by churn risk, as several reports have them; and how a category is named."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from client.insight.options import CHURN_BANDS
from client.score_file import TIERS
from web.words import Phrase, phrase

CHURN_CUTS = (1 / 3, 2 / 3)  # where the middle and the high band of churn risk begin
TIER_NAMES = tuple(phrase(f"insight.tier.{name}") for name in TIERS)
BAND_NAMES = tuple(phrase(f"insight.churn.{name}") for name in CHURN_BANDS)
FEW = 30  # customers: with fewer, a group's figures say little, and the page says so


def tier_of(scores: pa.Table) -> NDArray[np.int64]:
    """[rows]: the place of each one's tier in `TIERS`."""
    places: NDArray[np.int32] = pc.index_in(scores["tier"], value_set=pa.array(TIERS)).to_numpy()
    return places.astype(np.int64)


def churn_band(churn_risk: NDArray[np.float64]) -> NDArray[np.int64]:
    """[rows]: the place of each one's band in `CHURN_BANDS`."""
    return np.searchsorted(CHURN_CUTS, churn_risk, side="right").astype(np.int64)


def category_name(code: int, names: Mapping[int, str]) -> str | Phrase:
    """The merchant's own word for a category; a phrase for money spent in none."""
    return names.get(code, str(code)) if code >= 0 else phrase("insight.no_category")


def few_note(counts: NDArray[np.int64]) -> tuple[Phrase, ...]:
    """That some of these groups are small, where one is: shown to the merchant all the same, for it is its own data."""
    small = int(np.count_nonzero((counts > 0) & (counts < FEW)))
    return (phrase("insight.few", groups=small, least=FEW),) if small else ()
