"""The texts of the reports: every phrase that a report says is there, in both languages."""

from __future__ import annotations

import datetime as dt
import importlib
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agreement.market import Market
from client.insight.data import InsightData
from client.insight.market import COMPARED
from client.reasons import GROUPS
from pp_model.schema import EventType, Order
from tests.support.insight_shops import day_before, insight_data, phrases, regulars
from web.report import Report
from web.words import LANGUAGES, Words

FOLDER = Path(importlib.import_module("client.insight").__file__ or "").parent / "words_more"
NAMES = ("prices", "returns", "market", "quality", "fairness", "importance")


def full_shop() -> InsightData:
    """A shop of which every report has something to say."""
    orders = regulars(300)
    orders += [
        Order(customer=customer, timestamp=day_before(3), spend_cents=-700, event_type=EventType.RETURN)
        for customer in range(0, 300, 7)
    ]
    codes = (np.arange(300) % 3 - 1).astype(np.int32)
    shares = (0.25, 0.5, 0.75)
    market = Market(
        horizon_days=28,
        epsilon=0.5,
        delta=1e-6,
        mechanism="Quantiles by the exponential mechanism, one release.",
        made=dt.date(2024, 8, 1),
        quantiles={name: tuple((share, 50 * share) for share in shares) for name in COMPARED},
    )
    discounts = [100 * (place % 3 == 0) for place in range(len(orders))]
    slices = {"region": (codes, ("south", "north"))}
    return insight_data(orders, discount_cents=discounts, slices=slices, market=market)


def empty_shop() -> InsightData:
    return insight_data([Order(customer=0, timestamp=day_before(3), spend_cents=700)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shop", [full_shop, empty_shop], ids=["full", "empty"])
def test_every_text_of_a_report_is_there_in_both_languages(name, shop):
    words = Words([FOLDER])
    report = importlib.import_module(f"client.insight.{name}").build(shop()).report
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert Report.from_json(plain) == report or plain == Report.from_json(plain).to_json()
    said = [each for each in phrases(plain) if not each.key.startswith("insight.")]
    for language in LANGUAGES:
        for each in said:
            assert "{" not in words.say(language, each)
        for part in ("title", "about"):
            assert words.say(language, f"{name}.{part}")
    assert (report.empty is None) == (shop is full_shop or name == "importance")


def test_every_group_of_features_has_a_name():
    assert {f"importance.group.{group}" for group in GROUPS} <= Words([FOLDER]).keys


def test_the_two_languages_differ():
    first, second = (tomllib.loads((FOLDER / f"{language}.toml").read_text(encoding="utf-8")) for language in LANGUAGES)
    alike = [text for text in _texts(first) if text in _texts(second)]
    assert set(alike) == {"AUC"}


def _texts(table: dict[str, Any]) -> list[str]:
    return [text for each in table.values() for text in (_texts(each) if isinstance(each, dict) else [each])]
