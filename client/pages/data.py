"""Data health: what was read, skipped and why, how fresh it is, how far scores have moved, and what doctor says."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from client.daemon import python
from client.drift import CHANGED, MOVED, STALE_DAYS, stability_index
from client.pages.app import Pages
from client.pages.examine import FORMAT
from client.pages.faults import attempt
from client.pages.findings import shown_findings
from client.pages.merchant import Merchant
from client.sources.refusals import Reason
from daemons.files import check_private
from pp_model.errors import ConfigError
from web.charts import Chart, Series
from web.sessions import Session
from web.words import Phrase, Words, phrase

KIND = "examine"
_SCORE_BIN = 5  # points of the score, as `client.drift` counts them
_REASONS = {reason.name.lower() for reason in Reason}


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How far one histogram is from that of the run before.

    Attributes:
        tone: of its badge.
    """

    name: Phrase
    index: float
    words: Phrase
    tone: str


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The newest scoring against the one before.

    Attributes:
        before: None where there is none to compare with.
    """

    cutoff: dt.date
    before: dt.date | None
    model_changed: bool
    moved: tuple[Moved, ...]
    chart: Chart


def routes(pages: Pages) -> list[Route]:
    """The page, and its one button."""

    def show(request: Request, session: Session) -> Response:
        looked = attempt(lambda: looked_at(pages.merchant, pages.site.words))
        drift = attempt(lambda: drift_of(pages.merchant))
        jobs = [job for job in pages.jobs.all if job.kind == KIND]
        failed = jobs[0] if jobs and jobs[0].state == "failed" else None
        return pages.page(request, session, "data.html.j2", looked=looked, drift=drift, failed=failed, kind=KIND)

    def look(_request: Request, _session: Session, _form: dict[str, str]) -> Response:
        merchant = pages.merchant
        out = _file(merchant)
        out.parent.mkdir(mode=0o700, exist_ok=True)
        pages.jobs.start(KIND, python("client.pages.examine", "--config", str(merchant.config), "--out", str(out)))
        return RedirectResponse("/data", 303)

    return [pages.shows("/data", show), pages.acts("/data/look", look)]


def looked_at(merchant: Merchant, words: Words) -> dict[str, Any] | None:
    """What was found when it was last looked, made ready for the page; None where that was never done.

    Raises:
        ConfigError: the file cannot be read.
        PrivateFileError: it is open to others.
    """
    path = _file(merchant)
    if not path.exists():
        return None
    check_private(path)
    try:
        found = json.loads(path.read_bytes())
        if found["format"] != FORMAT:
            return None
        orders = found["orders"]
        return {
            "made": dt.datetime.fromisoformat(found["made"]),
            "findings": shown_findings(found["findings"], words),
            "orders": orders and _orders(orders),
        }
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} cannot be read; delete it and look through the orders again") from None


def drift_of(merchant: Merchant) -> Drift | None:
    """The newest scoring that was kept against the one before; None where nothing was scored yet.

    Raises:
        ConfigError: a kept scoring cannot be read.
    """
    kept = sorted(merchant.settings.paths.scores.glob("[0-9]*-[0-9]*-[0-9]*.parquet"), reverse=True)[:2]
    if not kept:
        return None
    (now, *before), notes = kept, [_note(path) for path in kept]
    histograms = [json.loads(note["histograms"]) for note in notes]
    return Drift(
        cutoff=dt.date.fromisoformat(now.stem),
        before=dt.date.fromisoformat(before[0].stem) if before else None,
        model_changed=len(notes) > 1 and notes[0]["model"] != notes[1]["model"],
        moved=tuple(
            _moved(name, stability_index(histograms[0][name], histograms[1][name]))
            for name in (histograms[0] if before else ())
            if name in histograms[1]
        ),
        chart=_scores([(path.stem, each["score"]) for path, each in zip(kept, histograms, strict=True)]),
    )


def _note(path: Path) -> dict[str, str]:
    check_private(path)
    try:
        metadata = pq.read_schema(path).metadata or {}
        note = {key.decode(): value.decode() for key, value in metadata.items()}
        json.loads(note["histograms"])["score"]
        return note
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        raise ConfigError(f"{path}, the scores kept of an earlier run, cannot be read; delete it") from None


def _moved(name: str, index: float) -> Moved:
    if not index < CHANGED:
        words, tone = "drift.changed", "bad"
    else:
        words, tone = ("drift.moved", "warning") if index >= MOVED else ("drift.steady", "good")
    known = ("score", "recency", "visits", "basket")
    named = phrase(f"drift.name.{name}") if name in known else phrase("drift.name.other", name=name)
    return Moved(name=named, index=index, words=phrase(words), tone=tone)


def _scores(runs: list[tuple[str, list[int]]]) -> Chart:
    """Shares of the customers by score, a line for each run, the older one dashed."""
    bins = len(runs[0][1])
    return Chart(
        kind="line",
        title=phrase("data.scores_chart"),
        x=phrase("data.score"),
        y=phrase("data.share"),
        categories=tuple(f"{_SCORE_BIN * at}" for at in range(bins)),
        series=tuple(
            Series(
                label=phrase("data.run_of", cutoff=cutoff),
                values=tuple(count / max(1, sum(counts)) for count in counts),
                shape="dashed" if at else None,
            )
            for at, (cutoff, counts) in enumerate(runs)
        ),
        kind_of_value="share",
    )


def _orders(found: dict[str, Any]) -> dict[str, Any]:
    last = dt.date.fromisoformat(found["last"]) if found["last"] else None
    age = (dt.datetime.now(dt.UTC).date() - last).days if last else None
    months = found["months"]
    return {
        **found,
        "last": last,
        "first": dt.date.fromisoformat(found["first"]) if found["first"] else None,
        "age": age,
        "stale": age is not None and age > STALE_DAYS,
        "left_out": sum(each["count"] for each in found["skipped"]),
        "skipped": [
            (phrase(f"skipped.{each['reason']}"), int(each["count"]), int(each["line"]))
            for each in found["skipped"]
            if each["reason"] in _REASONS
        ],
        "chart": Chart(
            kind="bar",
            title=phrase("data.months_chart"),
            x=phrase("data.month"),
            y=phrase("data.rows"),
            categories=tuple(str(name) for name, _ in months),
            series=(Series(label=phrase("data.rows"), values=tuple(float(count) for _, count in months)),),
            kind_of_value="count",
        ),
    }


def _file(merchant: Merchant) -> Path:
    return merchant.state / "pages" / "examined.json"
