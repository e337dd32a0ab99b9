"""A plausible result of a run, as `result.json` holds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

SHOPS = ("Bakery", "Florist", "Bookshop", "Garden centre", "Toys and games", "Wine cellar", "Kitchenware", "Lighting")
BASELINES = ("local_only", "central_non_private", "fedavg_non_private", "synthetic_only")
LABELS = {
    "local_only": "Each merchant alone",
    "central_non_private": "All orders in one place, no privacy (what no merchant could do in reality)",
    "fedavg_non_private": "Federated averaging, no privacy",
    "synthetic_only": "Trained on synthetic shops only",
}
AUCS = {"local_only": 0.771, "central_non_private": 0.804, "fedavg_non_private": 0.791, "synthetic_only": 0.782}


def metrics(*, auc: float, log_loss: float) -> dict[str, float | None]:
    """All nine figures, moving with the AUC and the log loss."""
    return {
        "gini": round(auc + 0.033, 6),
        "spearman": round(auc - 0.2, 6),
        "auc": auc,
        "average_precision": round(auc - 0.03, 6),
        "log_loss": log_loss,
        "brier": round(log_loss / 2.9, 6),
        "mae": round(1000 * log_loss - 160, 2),
        "rmse": round(5000 * log_loss - 160, 2),
        "decile_mape": round(log_loss / 2, 6),
    }


def plausible_result(
    *,
    epsilon: float | str = 2.984,
    merchant_names: Sequence[str] = SHOPS,
    baselines: Sequence[str] = BASELINES,
    rounds: int = 60,
    synthetic_orders: bool = True,
) -> dict[str, Any]:
    """A fresh result: 0.796 AUC and 0.548 log loss after `rounds`, every third merchant losing by joining."""
    final = metrics(auc=0.796, log_loss=0.548)
    private = epsilon != "inf"
    return {
        "name": "demo",
        **final,
        "epsilon": epsilon,
        "delta": 1e-5,
        "epsilon_two_merchants": round(float(epsilon) * 1.37, 4) if private else "inf",
        "noise_multiplier": 1.2345 if private else 0.0,
        "sample_rate": 0.1,
        "rounds": rounds,
        "steps_per_round": 1,
        "seconds": 93.4,
        "parameters": 12_345,
        "encoder": "mlp",
        "algorithm": "fedsgd",
        "customers": 24_310,
        "orders": 412_876,
        "horizon_days": 90,
        "cutoff": "2025-06-01",
        "synthetic_orders": synthetic_orders,
        "merchants": {name: _merchant(index, joined=True) for index, name in enumerate(merchant_names)},
        "baselines": {key: _baseline(key, merchant_names) for key in baselines},
        "history": [{"round": r, **_at_round(r, rounds)} for r in range(1, rounds + 1)],
        "epsilon_by_round": [
            {"round": r, "epsilon": float(epsilon) * math.sqrt(r / rounds) if private else "inf"}
            for r in range(1, rounds + 1)
        ],
        "budget": 3.0 if private else "inf",
        "deciles": _deciles(),
        "calibration": _calibration(),
        "tiers": {
            "high": {"customers": 4862, "share_of_spend": 0.612},
            "middle": {"customers": 9724, "share_of_spend": 0.301},
            "low": {"customers": 9724, "share_of_spend": 0.087},
        },
        "privacy": _privacy(epsilon),
        "refusals": {"budget": 2, "unavailable": 1},
        "rejected": {"norm_too_large": 1},
        "skipped_orders": {"future_date": 17, "duplicate_order_id": 5},
        "config": {"seed": 7, "run": {"device": "auto", "encoder": "mlp"}},
        "plan": {"dp": {"sample_rate": 0.1, "max_grad_norm": 1.5}, "rounds": rounds},
        "versions": {"torch": "2.13.0", "flwr": "1.41.0", "python": "3.11.9"},
    }


def _at_round(number: int, rounds: int) -> dict[str, float | None]:
    left = math.exp(-5 * number / rounds)
    wave = 0.004 * left * math.sin(number)
    return metrics(auc=round(0.796 - 0.14 * left + wave, 5), log_loss=round(0.548 + 0.13 * left - wave, 5))


def _merchant(index: int, *, joined: bool) -> dict[str, Any]:
    base = 0.76 + 0.006 * (index * 5 % 8)
    step = (-0.011 if index % 3 == 2 else 0.012 + 0.005 * (index % 4)) if joined else 0.0
    figures = metrics(auc=round(base + step, 4), log_loss=round(0.575 - 0.004 * (index % 5) - step, 4))
    return {**figures, "customers": 900 + 731 * (index * 3 % 8)}


def _baseline(key: str, merchant_names: Sequence[str]) -> dict[str, Any]:
    auc = AUCS[key]
    return {
        **metrics(auc=auc, log_loss=round(1.35 - auc, 4)),
        "label": LABELS[key],
        "seconds": 21.5,
        "merchants": {name: _merchant(index, joined=False) for index, name in enumerate(merchant_names)},
    }


def _deciles() -> list[dict[str, float]]:
    actual = [4.1, 9.8, 17.2, 28.9, 44.0, 66.3, 101.7, 158.2, 287.5, 1214.6]
    off = [1.6, 1.3, 1.18, 1.1, 1.05, 0.97, 0.95, 0.9, 0.93, 0.88]
    return [{"predicted": round(a * o, 2), "actual": a, "customers": 2431} for a, o in zip(actual, off, strict=True)]


def _calibration() -> list[dict[str, float]]:
    customers = [5210, 4333, 3120, 2604, 2240, 1987, 1720, 1380, 1026, 690]
    centres = [0.05 + 0.1 * i for i in range(10)]
    return [
        {"predicted": round(p, 3), "observed": round(p + 0.06 * math.sin(3 * p), 3), "customers": n}
        for p, n in zip(centres, customers, strict=True)
    ]


def _privacy(epsilon: float | str) -> dict[str, Any]:
    factors = {"1": 1.0, "2": 1.37, "3": 1.675, "5": 2.185, "10": 3.195}
    scaled = {k: round(float(epsilon) * f, 4) if epsilon != "inf" else "inf" for k, f in factors.items()}
    paragraphs = [
        ["Who is protected", "One customer of one merchant, with all their orders and events, whatever their number."],
        ["What is promised", "Whoever sees everything that leaves the merchant learns almost the same, whether that "
         "customer is in the data or not. Neighbouring data sets differ by adding or removing one customer."],
        ["How it is done", "Every step draws each customer with the same public probability, bounds each customer's "
         "gradient, sums, and adds Gaussian noise drawn from a cryptographic generator."],
        ["What leaves the merchant", "The noisy sum of each step, and nothing else: no order, no count, no loss."],
        ["What is assumed", "One person is one customer id at a merchant, and the noise stays secret."],
        ["What is not covered", "What the merchant does with its own scores, and who takes part in the federation."],
    ]  # fmt: skip
    return {"paragraphs": paragraphs, "epsilon_by_merchants": scaled, "delta": 1e-5}
