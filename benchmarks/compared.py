"""Private training beside what others do without privacy, on the same customers: `python -m benchmarks.compared`.

Secure sums at epsilon 3, with the default recipe and real masks, against each merchant alone without privacy, and
against BG/NBD and LightGBM with all orders in one place and without privacy. Differences come with the interval of a
paired bootstrap. Needs the shared data folder (PP_SHARED, default ../shared). LightGBM is measured where it is
installed; the figures that were quoted when the bars were set stand beside it.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from benchmarks.bootstrap import LEVEL, RESAMPLES, Flags, Floats, Gain, aucs, log_losses, paired_gains
from benchmarks.judged import ALONE, BGNBD, LIGHTGBM, OURS, Judged, judged
from benchmarks.quality import DATA, SHARED
from pp_model.errors import ConfigError, PurchasePowerError
from simulations.scenario import resolve

EPSILON, DELTA = 3.0, 1e-5
RESAMPLING_SEED = 0
FIGURES = ("log_loss", "auc")
AHEAD, SURELY_AHEAD, NOT_BEHIND = "> 0", "interval > 0", ">= 0"
BARS = {
    ("uk", ALONE, "log_loss"): AHEAD,
    ("uk", ALONE, "auc"): AHEAD,
    ("grocery", ALONE, "log_loss"): SURELY_AHEAD,
    ("grocery", ALONE, "auc"): SURELY_AHEAD,
    **{(data, BGNBD, "log_loss"): AHEAD for data in DATA},
    **{(data, other, "auc"): NOT_BEHIND for data in DATA for other in (BGNBD, LIGHTGBM)},
}
# As the reading matter beside the data has them, to three digits, for the same cutoffs: log loss, AUC.
QUOTED = {
    "uk": {BGNBD: (0.554, 0.799), LIGHTGBM: (0.549, 0.800)},
    "grocery": {BGNBD: (0.369, 0.926), LIGHTGBM: (0.311, 0.938)},
}

COLUMNS = ("Data", "Against", "Figure", "Ours", "Theirs", "Gain", "Interval", "Bar on the gain", "Verdict")
SETTING = """Default recipe, real masks; scored with the readout of each merchant's
own, as the product scores. All others are without privacy. Mean over seeds; in brackets the deviation between them."""
METHOD = """A resample draws customers once, and what all models of every
seed say of a customer comes with it; its gain is the mean over seeds. So an interval says what other customers of the
same kind would have changed, not what other noise would. A row without an interval is against the figure that was
quoted when the bar was set. BG/NBD is fitted to all histories before the cutoff; Gamma-Gamma adds what is spent, which
neither figure judges. LightGBM has the features of the product at the five newest training cutoffs, of which the newest
decides how many trees; its other settings are not tuned."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of ours and of another; the gain is above 0 where ours is better."""

    data: str
    other: str
    figure: str
    ours: float
    theirs: float
    gain: Gain

    @property
    def bar(self) -> str:
        """What the gain has to be; "" where nothing was asked."""
        return BARS.get((self.data, self.other, self.figure), "")

    @property
    def verdict(self) -> str:
        """Whether it is; a gain that is no number is not."""
        reached = {AHEAD: self.gain.mean > 0, SURELY_AHEAD: self.gain.low > 0, NOT_BEHIND: self.gain.mean >= 0}
        return "" if not self.bar else "met" if reached[self.bar] else "missed"


def compared(data: str, seeds: Sequence[Judged], *, resamples: int = RESAMPLES) -> list[Row]:
    """Ours against every other model of these seeds; one that only the first seed has serves for all.

    Raises:
        ConfigError: the seeds judge different customers, or customers who cannot be told apart.
    """
    first = seeds[0]
    for each in seeds[1:]:
        if not (np.array_equal(each.customer, first.customer) and np.array_equal(each.bought, first.bought)):
            raise ConfigError("the seeds judge different customers; compare runs of the same orders and cutoff")
    if len(seeds) > 1 and len(np.unique(first.customer)) < len(first.customer):
        raise ConfigError("customers share an order, so seeds cannot be put side by side; choose --seeds 1")
    ours, rows = stacked(seeds, OURS), []
    for other in first.buying:
        if other == OURS:
            continue
        theirs, rng = stacked(seeds, other), np.random.default_rng(RESAMPLING_SEED)
        gains = paired_gains(first.bought, ours, theirs, rng=rng, resamples=resamples)
        our_figures, their_figures = figures(first.bought, ours), figures(first.bought, theirs)
        rows += [
            Row(
                data=data,
                other=other,
                figure=figure,
                ours=float(our_figures[figure].mean()),
                theirs=float(their_figures[figure].mean()),
                gain=gains[figure],
            )
            for figure in FIGURES
        ]
    return rows


def stacked(seeds: Sequence[Judged], model: str) -> Floats:
    """[seeds, customers]: what a model says in each seed, or in the first where it is of no seed."""
    return np.stack([each.buying.get(model, seeds[0].buying[model]) for each in seeds])


def figures(bought: Flags, buying: Floats) -> dict[str, Floats]:
    """Log loss and AUC of each seed, [seeds], from probabilities [seeds, customers]."""
    everybody = np.ones((1, len(bought)), np.int64)
    return {
        "log_loss": log_losses(bought, buying).mean(axis=1),
        "auc": np.array([aucs(bought, probability, everybody)[0] for probability in buying]),
    }


def quoted(data: str, ours: Mapping[str, float]) -> list[Row]:
    """Ours against the figures that were quoted when the bars were set: without an interval."""
    rows = []
    for other, (log_loss, auc) in QUOTED[data].items():
        gains = {"log_loss": log_loss - ours["log_loss"], "auc": ours["auc"] - auc}
        for figure, theirs in zip(FIGURES, (log_loss, auc), strict=True):
            gain = Gain(mean=gains[figure], low=math.nan, high=math.nan)
            rows.append(Row(data=data, other=other, figure=figure, ours=ours[figure], theirs=theirs, gain=gain))
    return rows


def measured(data: str, *, seeds: int) -> tuple[list[str], list[Row]]:
    """Lines of a table with every model of one data set, and ours against each of the others."""
    runs = []
    for seed in range(seeds):
        table = {**DATA[data], "epsilon": EPSILON, "delta": DELTA, "seed": seed, "recipe": {"trust": "secure_sum"}}
        runs.append(judged(resolve({"name": f"compared-{data}", **table}), central=seed == 0))
        print(data, "seed", seed, "done", file=sys.stderr, flush=True)
    lines = []
    for model in runs[0].buying:
        of_seeds = figures(runs[0].bought, stacked(runs, model))
        cells = [_mean_and_spread(of_seeds[figure]) for figure in FIGURES]
        lines.append(f"| {data} | {model} | {' | '.join(cells)} |")
    rows = compared(data, runs)
    ours = {row.figure: row.ours for row in rows}
    return lines, rows + quoted(data, ours)


def page_of(lines: Sequence[str], rows: Iterable[Row], *, seeds: int) -> str:
    """Markdown: every model, then ours against the others, then how it was done."""
    parts = [
        "# Private training beside what others do without privacy",
        f"Secure sum: epsilon {EPSILON:g}, delta {DELTA:g}. {SETTING}",
        "\n".join(["| Data | Model | log loss | AUC |", "| --- " * 4 + "|", *lines]),
        f"Ours against each, with the {LEVEL:.0%} interval; a gain is above 0 where ours is better.",
        "\n".join([f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|", *(_line(row) for row in rows)]),
        f"Paired bootstrap over customers, {RESAMPLES:,} resamples. {METHOD}",
        f"Seeds: {seeds}; {platform.machine()}, {os.cpu_count()} cores; {_versions()}",
    ]
    return "\n\n".join(parts) + "\n"


def _mean_and_spread(values: Floats) -> str:
    spread = f" ({statistics.stdev(values.tolist()):.4f})" if len(np.unique(values)) > 1 else ""
    return f"{values.mean():.4f}{spread}"


def _line(row: Row) -> str:
    has_interval = not math.isnan(row.gain.low)
    interval = f"[{row.gain.low:+.4f}, {row.gain.high:+.4f}]" if has_interval else "-"
    other = row.other if has_interval else f"{row.other}, as quoted"
    gain = f"{row.gain.mean:+.4f}"
    cells = [row.data, other, row.figure, f"{row.ours:.4f}", f"{row.theirs:.4f}", gain, interval, row.bar, row.verdict]
    return f"| {' | '.join(cells)} |"


def _versions() -> str:
    named = []
    for package in ("purchase-power", "torch", "numpy", "scipy", "lightgbm"):
        try:
            named.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            named.append(f"{package} not installed, so not measured")
    return ", ".join(named)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the page, and write it; 2 where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="default: 5")
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA), help="default: all")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/compared.md"))
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}; at least 1 is needed")
    if not SHARED.exists():
        print(f"{SHARED} is missing: set PP_SHARED to the folder that holds data/", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    lines: list[str] = []
    rows: list[Row] = []
    try:
        for data in args.data:
            more_lines, more_rows = measured(data, seeds=args.seeds)
            lines += more_lines
            rows += more_rows
    except PurchasePowerError as error:
        print(error, file=sys.stderr)
        return 2
    page = page_of(lines, rows, seeds=args.seeds)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
