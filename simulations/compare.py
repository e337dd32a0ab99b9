"""Runs side by side: what the figures are called, which way is better, how they print, and one table of many runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from pp_model.errors import PurchasePowerError

RESULT_FILE = "result.json"
UNDEFINED = "n/a"


class ResultError(PurchasePowerError):
    """A run's `result.json` that is missing, damaged or of another shape; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure of quality. `label` is its name inside a sentence; `unit` is "" (a pure number) or "currency"."""

    key: str
    label: str
    higher_is_better: bool
    unit: str = ""

    @property
    def title(self) -> str:
        """The label as it opens a sentence, a column or a chart."""
        return self.label[0].upper() + self.label[1:]


METRICS = (
    Metric(key="gini", label="Gini", higher_is_better=True),
    Metric(key="spearman", label="Spearman", higher_is_better=True),
    Metric(key="auc", label="AUC", higher_is_better=True),
    Metric(key="average_precision", label="average precision", higher_is_better=True),
    Metric(key="log_loss", label="log loss", higher_is_better=False),
    Metric(key="brier", label="Brier", higher_is_better=False),
    Metric(key="mae", label="MAE", higher_is_better=False, unit="currency"),
    Metric(key="rmse", label="RMSE", higher_is_better=False, unit="currency"),
    Metric(key="decile_mape", label="decile MAPE", higher_is_better=False),
)
METRIC = {metric.key: metric for metric in METRICS}
COMPARED = ("gini", "auc", "log_loss", "mae", "decile_mape")

_REQUIRED = (
    *("name", "encoder", "algorithm", "parameters", "seconds", "customers", "orders", "horizon_days", "cutoff"),
    *("epsilon", "delta", "epsilon_two_merchants", "noise_multiplier", "sample_rate", "rounds", "steps_per_round"),
    *("synthetic_orders", "merchants"),
)


def finite(value: object) -> float | None:
    """The number, or None for everything that is not a finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def epsilon_of(value: object) -> float:
    """The epsilon of a result; infinite for "inf" and for everything that is not a finite number >= 0."""
    number = finite(value)
    return number if number is not None and number >= 0 else math.inf


def epsilon_text(value: object) -> str:
    """Epsilon with two decimals, rounded up: a bound is never printed smaller than it is."""
    epsilon = epsilon_of(value)
    return f"{math.ceil(epsilon * 100 - 1e-6) / 100:,.2f}" if math.isfinite(epsilon) else "infinite"


def delta_text(value: float) -> str:
    """Delta with two digits, as people write it: 1e-5, not 1e-05."""
    return f"{value:.2g}".replace("e-0", "e-")


def number_text(value: object, *, decimals: int) -> str:
    """The number with thousands separated, or "n/a" for everything that is not a finite number."""
    number = finite(value)
    return UNDEFINED if number is None else f"{number:,.{decimals}f}"


def metric_text(key: str, value: object) -> str:
    """A metric as it is printed everywhere: three decimals, money with two."""
    return number_text(value, decimals=2 if METRIC[key].unit == "currency" else 3)


def gain(key: str, ours: object, theirs: object) -> float | None:
    """How much better `ours` is than `theirs`: positive is better, whichever way the metric points."""
    a, b = finite(ours), finite(theirs)
    if a is None or b is None:
        return None
    return a - b if METRIC[key].higher_is_better else b - a


def plain(text: object) -> str:
    """Text for a screen: control characters become spaces: a name can neither move a cursor nor break a line."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def load_result(directory: Path) -> dict[str, Any]:
    """The `result.json` of one run.

    Raises:
        ResultError: the file is missing, is not JSON, or lacks a key that this version writes.
    """
    path = directory / RESULT_FILE
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ResultError(
            f"{directory} holds no {RESULT_FILE}; expected the folder of a finished run, like runs/demo."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ResultError(f"{path} is damaged: it is not JSON{where}. Run it again, or restore the file.") from None
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}. Check the file and its permissions.") from None
    _require_shape(result, path)
    return result  # type: ignore[no-any-return]


def _require_shape(result: object, path: Path) -> None:
    if not isinstance(result, dict):
        raise ResultError(f"{path} is a JSON {type(result).__name__}; expected an object. Run it again.")
    if missing := [key for key in (*_REQUIRED, *METRIC) if key not in result]:
        raise ResultError(
            f"{path} has no {missing[0]!r} ({len(missing)} keys missing): another version wrote it. Run it again."
        )
    for key in METRIC:
        if result[key] is not None and not isinstance(result[key], int | float):
            raise ResultError(f"{path}: {key!r} is {result[key]!r}; expected a number or null. Run it again.")
    for key in ("merchants", "baselines"):
        if not isinstance(result.get(key) or {}, dict):
            raise ResultError(f"{path}: {key!r} is not an object of named entries. Run it again.")


def comparison_rows(results: Sequence[Mapping[str, Any]], *, baselines: bool = False) -> list[dict[str, Any]]:
    """One flat mapping per run, and per baseline of a run where `baselines`; ready for JSON.

    An epsilon is a number or "inf"; a baseline has none (None). A metric that is not defined is None.
    """
    rows = []
    for result in results:
        epsilon = epsilon_of(result["epsilon"])
        shown = epsilon if math.isfinite(epsilon) else "inf"
        rows.append(_row(result, run=result["name"], baseline=None, epsilon=shown, encoder=result["encoder"]))
        for key, entry in (result.get("baselines") or {}).items() if baselines else ():
            rows.append(_row(entry, run=result["name"], baseline=key, epsilon=None, encoder=None))
    return rows


def _row(source: Mapping[str, Any], **names: object) -> dict[str, Any]:
    figures = {key: finite(source.get(key)) for key in (*COMPARED, "seconds")}
    return {**names, "label": source.get("label"), **figures}


def comparison_table(results: Sequence[Mapping[str, Any]], *, baselines: bool = False) -> Table:
    """The rows of `comparison_rows` for a terminal, the best run of each column marked with an asterisk.

    Baselines are yardsticks and are not marked: some of them no merchant could have. Runs on different orders, cutoffs
    or horizons are shown, but nothing is marked: their figures do not compare.
    """
    rows = comparison_rows(results, baselines=baselines)
    comparable = len({(r["customers"], r["orders"], r["cutoff"], r["horizon_days"]) for r in results}) == 1
    best = _best([row for row in rows if row["baseline"] is None]) if comparable else {}
    table = Table(
        caption=_caption(comparable=comparable, marked=bool(best)),
        caption_justify="left",
        pad_edge=False,
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("Run", overflow="fold", min_width=10)
    # Fits a terminal of 80 columns: headings may break, figures may not.
    for label in ("Epsilon", "Encoder", *(METRIC[key].title for key in COMPARED)):
        table.add_column(label, justify="left" if label == "Encoder" else "right")
    for row in rows:
        table.add_row(
            Text(plain(row["run"]) if row["baseline"] is None else f"  {plain(row['baseline'])}"),
            _cell(row, "epsilon", "" if row["epsilon"] is None else epsilon_text(row["epsilon"]), best),
            Text(plain(row["encoder"] or "")),
            *(_cell(row, key, metric_text(key, row[key]), best) for key in COMPARED),
        )
    return table


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {}
    for key in ("epsilon", *COMPARED, "seconds"):
        values = [number for row in rows if (number := finite(row[key])) is not None]
        if len(values) > 1:
            found[key] = max(values) if key in METRIC and METRIC[key].higher_is_better else min(values)
    return found


def _cell(row: Mapping[str, Any], key: str, text: str, best: Mapping[str, float]) -> Text:
    is_best = row["baseline"] is None and key in best and row[key] == best[key]
    return Text(f"* {text}" if is_best else text, style="bold" if is_best else "")


def _caption(*, comparable: bool, marked: bool) -> str:
    if not comparable:
        return "The runs differ in orders, cutoff or horizon, so no value is marked as best: they do not compare."
    money = "MAE in currency units."
    return f"* best run of its column. {money}" if marked else money
