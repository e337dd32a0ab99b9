"""What the model reads of a customer, in operations that ONNX has: the dense twin of `pp_model.features`.

The formulas are those of `pp_model.feature_columns`, whose docstrings and names they follow; a table of baskets padded
to one length takes the place of places and groups. All sums are of float64, as there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from client.onnx_baskets import DenseBaskets
from pp_model.feature_columns import RECENT_HORIZONS
from pp_model.feature_history import CATEGORY_BUCKETS, LEAST_BASKET_CENTS, NEWCOMER_BASKET_CENTS
from pp_model.features import AMOUNT_TOKENS, FEATURE_BOUND, FEATURE_NAMES, GAP_TOKENS
from pp_model.schema import EventType


class History(NamedTuple):
    """What some customers did before a cutoff; columns [customers, lines], figures [customers]."""

    horizon: float
    baskets: DenseBaskets
    bought: Tensor
    returned: Tensor
    browsed: Tensor
    bought_number: Tensor
    visit: Tensor
    visit_age: Tensor
    visit_day: Tensor
    visits: Tensor
    paid: Tensor
    latest_paid: Tensor
    gross: Tensor
    refunds: Tensor
    spend: Tensor
    tenure: Tensor
    recency: Tensor
    mean_visit: Tensor
    expected_visits: Tensor


def history(baskets: DenseBaskets, *, horizon_days: int) -> History:
    """The sums that features are made of."""
    horizon = float(horizon_days)
    bought = baskets.present & (baskets.kind == EventType.PURCHASE.value)
    returned = baskets.present & (baskets.kind == EventType.RETURN.value)
    places, purchase = _moved_right(bought)
    purchase_day = baskets.day.gather(1, places)
    # A visit is a day with at least one purchase; its time is that of the first one.
    new_day = torch.cat([purchase[:, :1], ~purchase[:, :-1] | (purchase_day[:, 1:] != purchase_day[:, :-1])], dim=1)
    visit_places, visit = _moved_right(purchase & new_day)
    visit_places = places.gather(1, visit_places)
    visits = _count(visit)
    visit_age = torch.where(visit, baskets.age.gather(1, visit_places), 0.0)
    paid = torch.where(bought, baskets.spend_cents, 0.0)
    gross = paid.sum(dim=1)
    refunds = 0.0 - torch.where(returned, baskets.spend_cents, 0.0).sum(dim=1)
    spend = gross - refunds
    tenure = baskets.age.amax(dim=1).clamp(min=1.0)
    per_visit = torch.maximum(spend, 0.25 * gross) / visits.clamp(min=1.0)
    return History(
        horizon=horizon,
        baskets=baskets,
        bought=bought,
        returned=returned,
        browsed=baskets.present & (baskets.kind > EventType.RETURN.value),
        bought_number=_count(bought),
        visit=visit,
        visit_age=visit_age,
        visit_day=baskets.day.gather(1, visit_places),
        visits=visits,
        paid=paid,
        latest_paid=baskets.spend_cents.gather(1, places)[:, -1],
        gross=gross,
        refunds=refunds,
        spend=spend,
        tenure=tenure,
        recency=torch.where(visits > 0, visit_age[:, -1], tenure),
        mean_visit=torch.where(visits > 0, per_visit, NEWCOMER_BASKET_CENTS).clamp(min=LEAST_BASKET_CENTS),
        expected_visits=visits * horizon / (tenure + 0.5 * horizon),
    )


def log_anchor(h: History) -> Tensor:
    """[customers] float32."""
    rate = h.expected_visits.clamp(min=1e-3)
    return torch.log(h.mean_visit * rate / -torch.expm1(-rate)).float()


def features(h: History, cutoff_day: Tensor) -> Tensor:
    """[customers, len(FEATURE_NAMES)] float32, each bounded."""
    horizon = h.horizon
    columns = {
        "log_recency": torch.log((h.recency + 0.5) / horizon),
        "recency": (h.recency / horizon).clamp(max=8.0) / 2,
        "log_tenure": torch.log((h.tenure + 0.5) / horizon),
        "log_visits": torch.log1p(h.visits),
        "log_expected_visits": torch.log(h.expected_visits + 0.02),
        "buying_probability_at_own_rate": -torch.expm1(-h.expected_visits) * 2 - 1,
        "no_visit": (h.visits == 0).double(),
        "one_visit": (h.visits == 1).double(),
        "two_visits": (h.visits == 2).double(),
        "log_mean_visit": (torch.log(h.mean_visit) - math.log(NEWCOMER_BASKET_CENTS)) / 2,
        "log_baskets_per_visit": torch.log((h.bought_number + 0.1) / (h.visits + 0.1)),
    }
    columns |= _trend_columns(h)
    columns |= _gap_columns(h)
    columns |= _basket_columns(h)
    columns |= _calendar_columns(h, cutoff_day)
    columns |= _browsing_columns(h)
    columns |= _category_columns(h)
    found = torch.stack([columns[name] for name in FEATURE_NAMES], dim=1).float()
    return torch.where(torch.isnan(found), 0.0, found).clamp(-FEATURE_BOUND, FEATURE_BOUND)


def sequence(h: History, length: int) -> Tensor:
    """[customers, length, 4] int64: tokens (category, amount, gap, event type), newest last, 0 = padding."""
    baskets = h.baskets
    gap = torch.where(_with_one_before(baskets.present), _before(baskets.age) - baskets.age, 0.0)
    spend = baskets.spend_cents.abs()
    amount = _logarithmic(spend / h.mean_visit[:, None] + 1e-9, steps=2, middle=9, least=2, most=AMOUNT_TOKENS - 1)
    pause = _logarithmic((gap + 0.05) / h.horizon, steps=1.5, middle=12, least=1, most=GAP_TOKENS - 1)
    tokens = torch.stack([baskets.category_token, torch.where(spend == 0, 1, amount), pause, baskets.kind + 1], dim=2)
    tokens = torch.where(baskets.present[:, :, None], tokens, 0)
    return functional.pad(tokens, (0, 0, length, 0))[:, -length:]


def _trend_columns(h: History) -> dict[str, Tensor]:
    columns = {}
    for share in RECENT_HORIZONS:
        visits = _count(h.visit & (h.visit_age <= share * h.horizon))
        columns[f"log_visits_last_{share:g}"] = torch.log1p(visits)
        if share >= 1:
            columns[f"visit_trend_{share:g}"] = torch.log((visits + 0.3) / (h.expected_visits * share + 0.3))
    spend_rate = h.spend.clamp(min=LEAST_BASKET_CENTS) / (h.tenure + 0.5 * h.horizon)
    for share in (2.0, 4.0):
        lately = (h.bought | h.returned) & (h.baskets.age <= share * h.horizon)
        spend = torch.where(lately, h.baskets.spend_cents, 0.0).sum(dim=1).clamp(min=0.0)
        typical = spend_rate * share * h.horizon
        columns[f"spend_trend_{share:g}"] = torch.log((spend + 0.3 * h.mean_visit) / (typical + 0.3 * h.mean_visit))
    return columns


def _gap_columns(h: History) -> dict[str, Tensor]:
    """How regular the customer is, and how unusual the present silence is for it."""
    number = (h.visits - 1).clamp(min=0.0)
    some = number > 0
    between = _with_one_before(h.visit)
    gap = torch.where(between, _before(h.visit_age) - h.visit_age, 0.0)
    log_gap = torch.where(between, torch.log(gap + 0.5), 0.0)
    mean_log = log_gap.sum(dim=1) / number.clamp(min=1.0)
    deviation = torch.where(between, log_gap - mean_log[:, None], 0.0)
    variance = (deviation * deviation).sum(dim=1) / (number - 1).clamp(min=1.0)
    mean = gap.sum(dim=1) / number.clamp(min=1.0)
    longest, latest = gap.amax(dim=1), gap[:, -1]
    longer = _count(gap > h.recency[:, None])
    usual = torch.where(some, mean, h.horizon)
    silence = h.recency + 0.5
    return {
        "log_usual_gap": torch.log((usual + 0.5) / h.horizon),
        "log_silence_in_gaps": torch.log(silence / (usual + 0.5)),
        "log_silence_in_typical_gaps": torch.where(some, torch.log(silence) - mean_log, 0.0) / 2,
        "gap_spread": torch.where(number > 1, torch.sqrt(variance), 1.0),
        "log_longest_gap": torch.where(some, torch.log((longest + 0.5) / (mean + 0.5)), 0.0),
        "log_latest_gap": torch.where(some, torch.log((latest + 0.5) / (mean + 0.5)), 0.0),
        "silence_rank": torch.where(some, (longer + 0.5) / (number + 1.0), 0.5) * 2 - 1,
        "log_silence_in_longest_gap": torch.where(some, torch.log(silence / (longest + 0.5)), 0.0) / 2,
    }


def _basket_columns(h: History) -> dict[str, Tensor]:
    log_paid = torch.where(h.bought, torch.log(h.paid.clamp(min=LEAST_BASKET_CENTS)), 0.0)
    number = h.bought_number.clamp(min=1.0)
    mean_log = log_paid.sum(dim=1) / number
    deviation = torch.where(h.bought, log_paid - mean_log[:, None], 0.0)
    variance = (deviation * deviation).sum(dim=1) / (h.bought_number - 1).clamp(min=1.0)
    latest = torch.log(h.latest_paid.clamp(min=LEAST_BASKET_CENTS))
    lines = torch.where(h.bought, h.baskets.lines, 0.0).sum(dim=1)
    quantity = torch.where(h.bought, h.baskets.quantity, 0.0).sum(dim=1)
    any_bought, log_mean = h.visits > 0, torch.log(h.mean_visit)
    returned_share = h.refunds / h.gross.clamp(min=LEAST_BASKET_CENTS)
    return {
        "basket_spread": torch.where(h.bought_number > 1, torch.sqrt(variance), 0.7),
        "log_typical_basket": torch.where(any_bought, mean_log - log_mean, 0.0),
        "log_latest_basket": torch.where(any_bought, latest - log_mean, 0.0),
        "log_largest_basket": torch.log((h.paid.amax(dim=1) + h.mean_visit) / (2 * h.mean_visit)),
        "log_lines": torch.log((lines + 1) / (number + 1)) / 2,
        "log_quantity": torch.log((quantity.clamp(min=0.0) + 1) / (number + 1)) / 2,
        "returned_share": returned_share.clamp(max=1.0) * 2,
        "returns_per_basket": (_count(h.returned) / number).clamp(max=2.0),
    }


def _calendar_columns(h: History, cutoff_day: Tensor) -> dict[str, Tensor]:
    day = h.visit_day + 3  # since a Monday: 1970-01-01 was a Thursday
    weekend = _count(h.visit & (day - torch.floor(day / 7) * 7 >= 5))
    last_year = _count(h.visit & (h.visit_age <= 365.25) & (h.visit_age > 365.25 - h.horizon))
    known = ((h.tenure - 365.25) / h.horizon + 1).clamp(0.0, 1.0)
    middle = torch.ones_like(h.tenure) * cutoff_day + h.horizon / 2
    angle = 2 * math.pi * middle / 365.25
    strength = max(0.0, 1 - h.horizon / 365.25)
    return {
        # Not every runtime has a cosine of doubles.
        "season_cosine": strength * torch.sin(angle + math.pi / 2),
        "season_sine": strength * torch.sin(angle),
        "weekend_share": weekend / h.visits.clamp(min=1.0) - 2 / 7,
        "log_visits_same_season": torch.log((last_year + 0.3) / (h.expected_visits + 0.3)) * known,
        "same_season_known": known,
    }


def _browsing_columns(h: History) -> dict[str, Tensor]:
    return {
        f"log_browsing_last_{share:g}": torch.log1p(_count(h.browsed & (h.baskets.age <= share * h.horizon))) / 2
        for share in (0.125, 1.0)
    }


def _category_columns(h: History) -> dict[str, Tensor]:
    counts = [_count(h.bought & (h.baskets.category_token == bucket + 2)) for bucket in range(CATEGORY_BUCKETS)]
    named = torch.stack(counts).sum(dim=0) + 1e-9
    return {f"category_share_{bucket}": count / named for bucket, count in enumerate(counts)}


def _logarithmic(values: Tensor, *, steps: float, middle: int, least: int, most: int) -> Tensor:
    """Tokens of so many steps an octave; `middle` is that of 1."""
    octaves = torch.log(values) / math.log(2)  # the exporter's own log2 has the constant in float32
    return (torch.round(octaves * steps) + middle).clamp(least, most).long()


def _count(mask: Tensor) -> Tensor:
    return mask.double().sum(dim=1)


def _moved_right(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the chosen columns in their order, the last one in the last column; and where there is one at all."""
    places, _ = torch.sort(torch.where(mask, torch.arange(mask.shape[1]), -1), dim=1)
    return places.clamp(min=0), places >= 0


def _with_one_before(present: Tensor) -> Tensor:
    """Which of the present columns, which stand at the right, are not the first."""
    return present & torch.cat([torch.zeros_like(present[:, :1]), present[:, :-1]], dim=1)


def _before(column: Tensor) -> Tensor:
    """The value one column to the left; the first column is its own."""
    return torch.cat([column[:, :1], column[:, :-1]], dim=1)
