"""What a person looks at after a run: one HTML file with its charts, its price in privacy, and a sentence on each.

The file asks for nothing: no network, no script, no font, no image. Every sentence about the numbers is computed
from the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from simulations import charts
from simulations.compare import (
    METRIC,
    METRICS,
    UNDEFINED,
    delta_text,
    epsilon_of,
    epsilon_text,
    finite,
    gain,
    metric_text,
    number_text,
    plain,
)

Result = Mapping[str, Any]

CARDS = ("auc", "log_loss", "gini", "mae", "decile_mape")
CODES = {
    "bad_task": "the task was not of this version, or not of the plan's model",
    "policy": "the merchant's policy did not allow the plan",
    "budget": "the charge would have passed the merchant's budget",
    "ledger": "the ledger could not vouch for what was spent",
    "already_answered": "answered before, and the sealed reply was no longer kept",
    "unavailable": "anything else; the reason is in the merchant's own log",
}
_MEANING = {
    "auc": "a buyer is placed before a non-buyer",
    "log_loss": "error of the purchase probability",
    "gini": "how well spend is ranked",
    "mae": "mean error of spend, currency units",
    "decile_mape": "mean relative error of a tenth's spend",
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its sentence, and its numbers as a table. Where `svg` is "" the sentence says what is missing."""

    title: str
    note: str
    svg: str
    takeaway: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def write_report(result: Result, path: Path) -> None:
    """`render_report` into a file whose folder exists."""
    path.write_text(render_report(result), encoding="utf-8")


def render_report(result: Result) -> str:
    """The report of a run, from what the run wrote as `result.json`. Equal results give equal text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        result=result,
        facts=_facts(result),
        private=_is_private(result),
        headline=[gained(result), price(result)],
        cards=[_card(key, result) for key in CARDS],
        epsilon=epsilon_text(result["epsilon"]),
        epsilon_two=epsilon_text(result["epsilon_two_merchants"]),
        quality=[_quality(key, result) for key in ("log_loss", "auc")],
        comparison=_comparison(result),
        spend=[_deciles(result), _calibration(result)],
        merchants=[_merchants(key, result) for key in ("auc", "log_loss")],
        merchant_table=_merchant_table(result),
        tiers=_tiers(result),
        epsilon_chart=_epsilon(result),
        privacy=_privacy(result),
        left_out=_left_out(result),
        sources=[(title, _source(result.get(key))) for title, key in (("Configuration", "config"), ("Plan", "plan"))],
        versions=sorted((result.get("versions") or {}).items()),
    )


def gained(result: Result) -> str:
    """One sentence on what was gained over each merchant's own model, or what was reached where that is unknown."""
    alone = _baselines(result).get("local_only", {})
    merchants = f"{len(result['merchants'])} merchants" if len(result["merchants"]) > 1 else "one merchant"
    for key in ("auc", "gini"):
        ours, theirs = finite(result.get(key)), finite(alone.get(key))
        if ours is None:
            continue
        what = f"{'an' if key == 'auc' else 'a'} {METRIC[key].label} of {metric_text(key, ours)}"
        if theirs is None:
            continue
        better = gain(key, ours, theirs) or 0.0
        how = {1: "better than", -1: "worse than", 0: "just as well as"}[_sign(key, better)]
        return (
            f"The model that {merchants} trained together ranks their customers {how} each merchant alone: "
            f"{what} against {metric_text(key, theirs)}."
        )
    return (
        f"The model that {merchants} trained together reaches an AUC of {metric_text('auc', result.get('auc'))} and a "
        f"log loss of {metric_text('log_loss', result.get('log_loss'))}; this run has no model of each merchant alone "
        "to compare with."
    )


def price(result: Result) -> str:
    """One sentence on what it cost in privacy."""
    if not _is_private(result):
        return "It cost all privacy: epsilon is infinite, and nothing that a customer did is protected."
    return (
        f"It cost epsilon {epsilon_text(result['epsilon'])} for a customer of one shop and "
        f"{epsilon_text(result['epsilon_two_merchants'])} for a person who shops at two, at a delta of "
        f"{delta_text(result['delta'])}."
    )


def _is_private(result: Result) -> bool:
    return math.isfinite(epsilon_of(result["epsilon"]))


def _baselines(result: Result) -> Mapping[str, Mapping[str, Any]]:
    return result.get("baselines") or {}


def _sign(key: str, better: float) -> int:
    """1, 0 or -1; 0 for what prints as zero."""
    return 0 if not float(metric_text(key, abs(better)).replace(",", "")) else (1 if better > 0 else -1)


def _facts(result: Result) -> list[str]:
    merchants = len(result["merchants"])
    return [
        f"{merchants} merchant{'s' * (merchants != 1)}",
        f"{result['customers']:,} customers",
        f"{result['orders']:,} orders",
        f"{result['horizon_days']} days after {result['cutoff']}",
        f"{result['rounds']:,} rounds of {result['algorithm']}",
        f"{result['encoder']} model, {result['parameters']:,} parameters",
        f"{result['seconds']:,.0f} seconds",
    ]


def _card(key: str, result: Result) -> dict[str, str]:
    better = gain(key, result.get(key), _baselines(result).get("local_only", {}).get(key))
    against = ""
    if better is not None:
        against = {1: "\u25b2 {} better than alone", -1: "\u25bc {} worse than alone", 0: "the same as alone{}"}[
            _sign(key, better)
        ].format(metric_text(key, abs(better)) if _sign(key, better) else "")
    tone = "" if better is None else {1: "gain", -1: "loss", 0: ""}[_sign(key, better)]
    value = metric_text(key, result.get(key))
    return {"label": METRIC[key].title, "value": value, "meaning": _MEANING[key], "against": against, "tone": tone}


def _quality(key: str, result: Result) -> Figure:
    history, metric = result.get("history") or [], METRIC[key]
    title = f"{metric.title} by round"
    note = "Higher is better." if metric.higher_is_better else "Lower is better."
    first = next((v for e in history if (v := finite(e.get(key))) is not None), None)
    last = next((v for e in reversed(history) if (v := finite(e.get(key))) is not None), None)
    if first is None or last is None:
        missing = f"There is no {metric.label} by round to show: this run was not measured round by round."
        return Figure(title=title, note="", svg="", takeaway=missing)
    better = gain(key, last, first) or 0.0
    how = {1: "better", -1: "worse", 0: "no better"}[_sign(key, better)]
    beaten = [k for k, e in _baselines(result).items() if (gain(key, last, e.get(key)) or 0) > 0]
    count = len(_baselines(result))
    of = f"; it ends ahead of {len(beaten)} of {count} baseline{'s' * (count != 1)}" if count else ""
    takeaway = f"From {metric_text(key, first)} to {metric_text(key, last)}, {how} than after its first round{of}."
    svg = charts.quality_by_round(key, history, _baselines(result), about=f"{title}. {takeaway}")
    return Figure(title=title, note=note, svg=svg, takeaway=takeaway)


def _comparison(result: Result) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, Mapping[str, Any]]] = [("This run", result)]
    rows += [(entry.get("label") or key, entry) for key, entry in _baselines(result).items()]
    return [(plain(name), [metric_text(m.key, entry.get(m.key)) for m in METRICS]) for name, entry in rows]


def _deciles(result: Result) -> Figure:
    title = "Spend by tenth of customers"
    entries = [e for e in result.get("deciles") or [] if finite(e["actual"]) is not None and e["customers"]]
    if not entries:
        return Figure(title=title, note="", svg="", takeaway="This run has no spend by tenth to show.")
    top = entries[-1]
    closeness = "over" if top["predicted"] > top["actual"] else "under"
    share = f" ({abs(top['predicted'] / top['actual'] - 1):.0%} {closeness})" if top["actual"] > 0 else ""
    takeaway = (
        f"The tenth predicted to spend most was predicted {top['predicted']:,.2f} a customer and spent "
        f"{top['actual']:,.2f}{share}; over all tenths the mean relative error is "
        f"{metric_text('decile_mape', result.get('decile_mape'))}."
    )
    rows = [
        [str(i), f"{e['predicted']:,.2f}", f"{e['actual']:,.2f}", f"{e['customers']:,}"]
        for i, e in enumerate(entries, 1)
    ]
    return Figure(
        title=title,
        note="Mean spend per customer in the horizon, in currency units.",
        svg=charts.deciles(entries, about=f"{title}. {takeaway}"),
        takeaway=takeaway,
        columns=("Tenth", "Predicted", "Actual", "Customers"),
        rows=rows,
    )


def _calibration(result: Result) -> Figure:
    title = "Is a probability of 30% really 30%?"
    entries = [e for e in result.get("calibration") or [] if finite(e["observed"]) is not None and e["customers"]]
    if not entries:
        return Figure(title=title, note="", svg="", takeaway="This run has no calibration to show.")
    customers = sum(e["customers"] for e in entries)
    gap = sum(e["customers"] * abs(e["predicted"] - e["observed"]) for e in entries) / customers
    bias = sum(e["customers"] * (e["predicted"] - e["observed"]) for e in entries) / customers
    lean = "as a whole about right" if abs(bias) < 0.005 else f"as a whole too {'high' if bias > 0 else 'low'}"
    takeaway = f"A predicted probability is {100 * gap:.1f} percentage points off on average, and {lean}."
    return Figure(
        title=title,
        note="Below the diagonal, fewer bought than predicted; above it, more.",
        svg=charts.calibration(entries, about=f"{title} {takeaway}"),
        takeaway=takeaway,
        columns=("Predicted", "Observed", "Customers"),
        rows=[[f"{e['predicted']:.3f}", f"{e['observed']:.3f}", f"{e['customers']:,}"] for e in entries],
    )


def _pairs(key: str, result: Result) -> list[tuple[str, float, float]]:
    """Merchant, its own model's metric and the federated one's, most gained first."""
    alone = _baselines(result).get("local_only", {}).get("merchants") or {}
    pairs = [
        (name, own, joined)
        for name, entry in result["merchants"].items()
        if (own := finite((alone.get(name) or {}).get(key))) is not None
        and (joined := finite(entry.get(key))) is not None
    ]
    return sorted(pairs, key=lambda pair: (-(gain(key, pair[2], pair[1]) or 0.0), pair[0]))


def _merchants(key: str, result: Result) -> Figure:
    metric, pairs = METRIC[key], _pairs(key, result)
    title = f"{metric.title}: alone and joined"
    if not pairs:
        missing = (
            f"Who gains in {metric.label} by joining cannot be said: this run has no model of each merchant alone. "
            "Ask for the baseline local_only."
        )
        return Figure(title=title, note="", svg="", takeaway=missing)
    signs = [_sign(key, gain(key, joined, own) or 0.0) for _, own, joined in pairs]
    takeaway = f"{_count(signs.count(1), len(pairs))} in {metric.label} by joining{_most(key, pairs[0], signs[0], 1)}"
    losing = signs.count(-1)
    takeaway += (
        f"; {losing} lose{'s' * (losing == 1)}{_most(key, pairs[-1], signs[-1], -1)}" if losing else "; none loses"
    )
    note = "Higher is better." if metric.higher_is_better else "Lower is better."
    if len(pairs) > charts.MAX_MERCHANTS:
        note += (
            f" Only the {charts.MAX_MERCHANTS // 2} that gain most and the {charts.MAX_MERCHANTS // 2} that gain least."
        )
    svg = charts.merchant_gains(key, pairs, about=f"{title}. {takeaway}.")
    return Figure(title=title, note=note, svg=svg, takeaway=f"{takeaway}.")


def _count(gaining: int, of: int) -> str:
    return f"{gaining} of {of} merchant{'s' * (of != 1)} gain{'s' * (gaining == 1)}"


def _most(key: str, pair: tuple[str, float, float], sign: int, wanted: int) -> str:
    name, own, joined = pair
    return f" (most: {plain(name)}, by {metric_text(key, abs(joined - own))})" if sign == wanted else ""


def _merchant_table(result: Result) -> list[list[str]]:
    alone = _baselines(result).get("local_only", {}).get("merchants") or {}
    return [
        [plain(name), f"{entry['customers']:,}"]
        + [metric_text(k, e.get(k)) for k in CARDS for e in (entry, alone.get(name) or {})]
        for name, entry in sorted(result["merchants"].items())
    ]


def _tiers(result: Result) -> Figure:
    title, entries = "Purchase power in three tiers", result.get("tiers") or {}
    total = sum(entry["customers"] for entry in entries.values())
    if not total:
        return Figure(title=title, note="", svg="", takeaway="This run has no tiers to show.")
    name, first = next(iter(entries.items()))
    spend = finite(first["share_of_spend"])
    takeaway = (
        f"The {plain(name)} tier is {first['customers'] / total:.0%} of the customers and "
        f"{UNDEFINED if spend is None else f'{spend:.0%}'} of the spend."
    )
    rows = [
        [
            plain(tier),
            f"{e['customers']:,}",
            f"{e['customers'] / total:.3f}",
            number_text(e["share_of_spend"], decimals=3),
        ]
        for tier, e in entries.items()
    ]
    return Figure(
        title=title,
        note="Tiers by prediction; spend as it then was.",
        svg=charts.tiers(entries, about=f"{title}. {takeaway}"),
        takeaway=takeaway,
        columns=("Tier", "Customers", "Share of customers", "Share of spend"),
        rows=rows,
    )


def _epsilon(result: Result) -> Figure:
    title, entries, budget = "Epsilon by round", result.get("epsilon_by_round") or [], epsilon_of(result.get("budget"))
    if not _is_private(result):
        return Figure(title=title, note="", svg="", takeaway="Without privacy there is no epsilon to follow.")
    if not entries:
        return Figure(title=title, note="", svg="", takeaway="This run kept no epsilon by round.")
    spent = epsilon_of(entries[-1]["epsilon"])
    half = next((e["round"] for e in entries if epsilon_of(e["epsilon"]) >= spent / 2), entries[-1]["round"])
    limit = "no budget was set"
    if math.isfinite(budget):
        inside = "within" if spent <= budget else "OVER"
        limit = f"{inside} the budget of {epsilon_text(budget)}"
    takeaway = f"The run spent {epsilon_text(spent)} at one shop, {limit}; half of it was spent by round {half}."
    svg = charts.epsilon_by_round(entries, budget, about=f"{title}. {takeaway}")
    return Figure(title=title, note="For a customer of one shop.", svg=svg, takeaway=takeaway)


def _privacy(result: Result) -> dict[str, Any]:
    stated = result.get("privacy") or {}
    by_merchants = stated.get("epsilon_by_merchants") or {}
    return {
        "paragraphs": [(plain(heading), plain(text)) for heading, text in stated.get("paragraphs") or []],
        "by_merchants": [(int(k), epsilon_text(by_merchants[k])) for k in sorted(by_merchants, key=int)],
        "mechanism": [
            ("Delta", delta_text(result["delta"])),
            ("Noise multiplier", f"{result['noise_multiplier']:.4g}"),
            ("Sample rate", f"{result['sample_rate']:.4g}"),
            ("Rounds", f"{result['rounds']:,}"),
            ("Steps per round", f"{result['steps_per_round']:,}"),
        ],
    }


def _left_out(result: Result) -> list[dict[str, Any]]:
    sections = (
        ("Refused by merchants", "refusals", "No merchant refused a task."),
        ("Rejected by the platform", "rejected", "No reply was rejected."),
        ("Orders skipped", "skipped_orders", "No order was skipped."),
    )
    return [
        {
            "title": title,
            "none": none,
            "rows": [
                (plain(code).replace("_", " "), CODES.get(code, "") if key == "refusals" else "", f"{count:,}")
                for code, count in sorted((result.get(key) or {}).items())
            ],
        }
        for title, key, none in sections
    ]


def _source(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) if value else ""
