"""The report's charts: numbers in, one inline SVG out, whose colours and font come from the page around it.

Same numbers, same bytes. Ids carry the chart's key, so that charts on one page cannot collide. Each function gives ""
where there is nothing to draw. Widths are chosen so that a chart scaled down to a phone can still be read.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from scipy.optimize import isotonic_regression

from simulations.compare import epsilon_of, epsilon_text, finite, gain, metric_text, plain

COLOURS = {
    "ink": "#1c2733",
    "muted": "#5a6775",
    "grid": "#e1e7ed",
    "paper": "#fefefe",
    "bar": "#b3c0cc",
    "model": "#0a62b0",
    "loss": "#b94a06",
    "alone": "#7a4f9a",
    "central": "#4f5b66",
    "fedavg": "#00766a",
    "synthetic": "#8a6200",
}
WIDTH = 480  # of a chart, in the units of its viewBox; text is 12 units high
MAX_MERCHANTS = 40  # in one chart; the table below it has them all
_ROLE_OF = {value: name for name, value in COLOURS.items()}
_BASELINE_STYLE: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "local_only": ("each alone", "alone", (6, 2)),
    "central_non_private": ("in one place", "central", (1, 2)),
    "fedavg_non_private": ("fedavg", "fedavg", (8, 2, 1, 2)),
    "synthetic_only": ("synthetic only", "synthetic", (3, 2)),
}
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12,
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "legend.labelcolor": COLOURS["ink"],
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-9, 12),
}

Entries = Sequence[Mapping[str, Any]]


def quality_by_round(key: str, history: Entries, baselines: Mapping[str, Mapping[str, Any]], *, about: str) -> str:
    """One metric by round, every baseline a labelled horizontal line."""
    points = [(e["round"], value) for e in history if (value := finite(e.get(key))) is not None]
    if not points:
        return ""

    def draw(figure: Figure) -> None:
        axes = _axes(figure, left=52, right=138, top=12, bottom=44)
        labels = [(points[-1][1], f"this run {metric_text(key, points[-1][1])}", "model")]
        for name, entry in baselines.items():
            if (value := finite(entry.get(key))) is not None:
                label, colour, dashes = _BASELINE_STYLE.get(name, (_short(name, 16), "muted", (2, 2)))
                axes.axhline(value, color=COLOURS[colour], linewidth=1.4, dashes=dashes)
                labels.append((value, f"{label} {metric_text(key, value)}", colour))
        _round_line(axes, points)
        axes.margins(y=0.08)
        _end_labels(axes, labels, height=300 - 56)

    return _svg(f"round-{key}", (WIDTH, 300), about, draw)


def epsilon_by_round(entries: Entries, budget: float, *, about: str) -> str:
    """Epsilon after each round, and the budget where there is one; nothing where an epsilon is infinite."""
    points = [(e["round"], epsilon_of(e.get("epsilon"))) for e in entries]
    if not points or any(math.isinf(epsilon) for _, epsilon in points):
        return ""

    def draw(figure: Figure) -> None:
        axes = _axes(figure, left=44, right=118, top=12, bottom=44)
        labels = [(points[-1][1], f"spent {epsilon_text(points[-1][1])}", "model")]
        if math.isfinite(budget):
            axes.axhline(budget, color=COLOURS["loss"], linewidth=1.4, dashes=(6, 2))
            labels.append((budget, f"budget {epsilon_text(budget)}", "loss"))
        rounds, spent = zip(*points, strict=True)
        axes.fill_between(rounds, spent, color=COLOURS["model"], alpha=0.12, linewidth=0)
        _round_line(axes, points)
        axes.set_ylim(0, 1.12 * max(value for value, _, _ in labels) or 1)
        _end_labels(axes, labels, height=260 - 56)

    return _svg("epsilon", (WIDTH, 260), about, draw)


def deciles(entries: Entries, *, about: str) -> str:
    """Predicted (diamonds) and actual (bars) spend per customer, tenth by tenth."""
    if not entries:
        return ""
    places = range(1, len(entries) + 1)

    def draw(figure: Figure) -> None:
        axes = _axes(figure, left=56, right=10, top=34, bottom=44)
        bars = axes.bar(places, [e["actual"] for e in entries], width=0.66, color=COLOURS["bar"], label="actual")
        (marks,) = axes.plot(
            places, [e["predicted"] for e in entries], "D", color=COLOURS["model"], markersize=7, label="predicted",
            markeredgecolor=COLOURS["paper"], linestyle="none",
        )  # fmt: skip
        for place, entry in zip(places, entries, strict=True):
            if entry["actual"] > 0:
                top = max(entry["actual"], entry["predicted"])
                off = f"{entry['predicted'] / entry['actual'] - 1:+.0%}".replace("-", "\N{MINUS SIGN}")
                axes.annotate(
                    off,
                    (place, top),
                    (0, 8),
                    textcoords="offset points",
                    ha="center",
                    fontsize=10,
                    color=COLOURS["muted"],
                )
        axes.margins(y=0.1)
        axes.set_xticks(list(places))
        axes.set_xlabel("tenth of customers, lowest prediction first", color=COLOURS["muted"])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend(axes, [marks, bars])

    return _svg("deciles", (WIDTH, 340), about, draw)


def calibration(entries: Entries, *, about: str) -> str:
    """Observed against predicted probability, dots growing with their customers, and the customers as a strip below."""
    if not entries:
        return ""
    predicted = [e["predicted"] for e in entries]
    customers = [e["customers"] for e in entries]
    most = max([*customers, 1])

    def draw(figure: Figure) -> None:
        axes = _axes(figure, left=62, right=24, top=34, bottom=92)
        (diagonal,) = axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1.2, dashes=(4, 3), label="perfect")
        axes.plot(predicted, [e["observed"] for e in entries], color=COLOURS["model"], linewidth=1, alpha=0.5)
        dots = axes.scatter(
            predicted, [e["observed"] for e in entries], s=[16 + 150 * n / most for n in customers], label="observed",
            color=COLOURS["model"], edgecolors=COLOURS["paper"], linewidths=1, zorder=3, clip_on=False,
        )  # fmt: skip
        strip = _axes(figure, left=62, right=24, top=340 - 80, bottom=44)
        strip.bar(predicted, customers, width=0.6 / max(len(entries), 8), color=COLOURS["bar"])
        strip.grid(visible=False)
        strip.set_yticks([])
        strip.set_ylabel("customers", rotation=0, ha="right", va="center", color=COLOURS["muted"], fontsize=10)
        strip.set_xlabel("predicted probability of buying", color=COLOURS["muted"])
        strip.set_ylim(0, most)
        axes.set_xticks([])
        axes.set_ylim(0, 1)
        for each in (axes, strip):
            each.set_xlim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol="%"))
        strip.xaxis.set_major_formatter(PercentFormatter(1, symbol="%"))
        _legend(axes, [dots, diagonal])

    return _svg("calibration", (WIDTH, 340), about, draw)


def merchant_gains(key: str, pairs: Sequence[tuple[str, float, float]], *, about: str) -> str:
    """One line per merchant from its own model (ring) to the federated one (triangle), most gained first.

    Gain and loss differ in colour, in the direction of the triangle and in the words at the right.

    Args:
        pairs: merchant, metric of its own model, metric of the federated model; sorted, most gained first.
    """
    if not pairs:
        return ""
    half = MAX_MERCHANTS // 2
    shown = list(pairs) if len(pairs) <= MAX_MERCHANTS else [*pairs[:half], *pairs[-half:]]
    height = 84 + 24 * len(shown)

    def draw(figure: Figure) -> None:
        axes = _axes(figure, left=128, right=104, top=40, bottom=30)
        for place, (name, alone, joined) in enumerate(shown):
            colour, marker, words = _verdict(key, joined, alone)
            axes.plot([alone, joined], [place, place], color=COLOURS[colour], linewidth=2.2, alpha=0.55)
            axes.plot(alone, place, "o", markersize=7, color=COLOURS["paper"], markeredgecolor=COLOURS["muted"])
            axes.plot(joined, place, marker, markersize=9, color=COLOURS[colour], markeredgecolor=COLOURS["paper"])
            axes.text(-0.03, place, _short(name, 17), transform=axes.get_yaxis_transform(), ha="right", va="center")
            axes.text(
                1.04, place, words, transform=axes.get_yaxis_transform(), va="center", color=COLOURS[colour]
            )  # fmt: skip
        axes.set_yticks([])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x", color=COLOURS["grid"])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.06)
        ring, up, down = (
            axes.plot([], [], shape, color=COLOURS[colour], markeredgecolor=COLOURS[edge], label=label, markersize=8)[0]
            for shape, colour, edge, label in (
                ("o", "paper", "muted", "alone"),
                ("^", "model", "paper", "joined: gains"),
                ("v", "loss", "paper", "joined: loses"),
            )
        )
        _legend(axes, [ring, up, down], gap=10)

    return _svg(f"merchants-{key}", (WIDTH, height), about, draw)


def tiers(entries: Mapping[str, Mapping[str, Any]], *, about: str) -> str:
    """Each tier's share of customers and share of spend."""
    total = sum(entry["customers"] for entry in entries.values())
    if not total:
        return ""

    def draw(figure: Figure) -> None:
        axes = _axes(figure, left=70, right=54, top=34, bottom=12)
        for place, entry in enumerate(entries.values()):
            shares = [(entry["customers"] / total, "bar"), (finite(entry["share_of_spend"]) or 0.0, "model")]
            for offset, (share, colour) in zip((-0.19, 0.19), shares, strict=True):
                axes.barh(place + offset, share, height=0.34, color=COLOURS[colour])
                axes.text(max(share, 0) + 0.012, place + offset, f"{100 * share:.0f}%", va="center")
        axes.set_yticks(range(len(entries)), [_short(name, 10) for name in entries])
        axes.tick_params(axis="y", labelsize=13, labelcolor=COLOURS["ink"])
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.grid(visible=False)
        handles = [axes.barh(0, 0, color=COLOURS["bar"], label="share of customers")]
        handles.append(axes.barh(0, 0, color=COLOURS["model"], label="share of spend"))
        _legend(axes, handles)

    return _svg("tiers", (WIDTH, 250), about, draw)


def _verdict(key: str, joined: float, alone: float) -> tuple[str, str, str]:
    better = gain(key, joined, alone) or 0.0
    text = metric_text(key, abs(better))
    if not float(text.replace(",", "")):
        return "muted", "s", "the same"
    return ("model", "^", f"{text} better") if better > 0 else ("loss", "v", f"{text} worse")


def _round_line(axes: Axes, points: Sequence[tuple[int, float]]) -> None:
    axes.plot(*zip(*points, strict=True), color=COLOURS["model"], linewidth=2.4)
    axes.plot(*points[-1], "o", color=COLOURS["model"], markersize=7, markeredgecolor=COLOURS["paper"], clip_on=False)
    axes.set_xlabel("round", color=COLOURS["muted"])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    last = points[-1][0]
    axes.set_xlim(min(points[0][0], last - 1), last)


def _end_labels(axes: Axes, labels: Sequence[tuple[float, str, str]], *, height: float) -> None:
    """Labels right of the axes at their values, pushed apart where they would overlap, with a leader each."""
    low, high = axes.get_ylim()
    ordered = sorted(labels)
    places = [(value - low) / (high - low) for value, _, _ in ordered]
    for place, wanted, (_, text, colour) in zip(_apart(places, 16 / height), places, ordered, strict=True):
        axes.plot(
            [1.005, 1.04], [wanted, place], transform=axes.transAxes, color=COLOURS[colour], linewidth=1, clip_on=False
        )  # fmt: skip
        weight = "bold" if colour == "model" else "normal"
        axes.text(
            1.055, place, text, transform=axes.transAxes, va="center_baseline", color=COLOURS[colour], fontsize=11,
            fontweight=weight,
        )  # fmt: skip


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending `places` moved as little as possible, in squares, to lie `gap` apart and, where they fit, in 0 to 1."""
    steps = gap * np.arange(len(places))
    level = isotonic_regression(np.asarray(places) - steps).x
    return list(np.clip(level, 0.0, max(0.0, 1.0 - steps[-1])) + steps)


def _axes(figure: Figure, *, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes with these margins, in viewBox units, and only what is needed around them."""
    width, height = (72 * size for size in figure.get_size_inches())
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    axes = figure.add_axes(box, facecolor="none")
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["muted"])
    axes.tick_params(length=0, labelsize=11, labelcolor=COLOURS["muted"], color=COLOURS["muted"])
    axes.grid(visible=True, axis="y", color=COLOURS["grid"], linewidth=1)
    axes.set_axisbelow(True)
    return axes


def _legend(axes: Axes, handles: Sequence[Any], *, gap: float = 4) -> None:
    height = axes.get_window_extent().height
    axes.legend(
        handles=list(handles), loc="lower left", bbox_to_anchor=(0, 1 + gap / height), ncols=len(handles),
        frameon=False, borderpad=0, borderaxespad=0, handletextpad=0.4, columnspacing=1.4, handlelength=1.4,
    )  # fmt: skip


def _short(name: str, length: int) -> str:
    text = plain(name)
    return text if len(text) <= length else text[: length - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _svg(key: str, size: tuple[float, float], about: str, draw: Callable[[Figure], None]) -> str:
    buffer = io.StringIO()
    silent = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**_RC, "svg.hashsalt": key}), warnings.catch_warnings():
        # Only for measuring: the reader's browser has the glyphs that the measuring font lacks.
        warnings.filterwarnings("ignore", message=".*missing from font", category=UserWarning)
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, facecolor="none")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=silent)
    return _for_page(buffer.getvalue(), key, about)


def _for_page(svg: str, key: str, about: str) -> str:
    """The drawing as a part of an HTML page: no namespaces or styles of its own, ids by key, colours by role."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        for name, value in element.attrib.items():
            if name == "style":
                value = re.sub(r"font-family: [^;]*;? ?", "", value)
                element.attrib[name] = re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{_ROLE_OF.get(m[0], 'ink')})", value)
            elif name == "id":
                element.attrib[name] = f"{key}-{value}"
            elif name in ("href", "clip-path"):
                element.attrib[name] = value.replace("#", f"#{key}-", 1)
    for parent in root.iter():
        for style in parent.findall("style"):
            parent.remove(style)
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "role": "img", "aria-label": about, "class": "chart"}
    return ElementTree.tostring(root, encoding="unicode")
