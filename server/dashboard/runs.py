"""The runs, and one run with its rounds. In a secure sum nothing of one merchant but that it took part."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from server.dashboard.access import MEMBERS, Address, Ask
from server.dashboard.charts import answers_of_rounds, norm_of_rounds, quality_of_rounds, refusals_by_code
from server.dashboard.pages import download, page
from server.dashboard.reading import RunView, moment, registry_of, run_view, unusable_of
from server.registry import RoundRecord

RUNS_ON_A_PAGE, ROUNDS_ON_A_PAGE = 50, 25
_COLUMNS = (
    *("round", "void", "asked", "released", "refused", "unusable", "norm_of_sum", "seconds"),
    *("log_loss", "spend_error", "finding", "ended_utc"),
)


def read_all(ask: Ask) -> dict[str, Any]:
    """The runs, newest first, a page of them; those that go on come first."""
    now = dt.datetime.now(dt.UTC)
    before = _number(ask, "before")
    with registry_of(ask.desk) as registry:
        records = [record for record in registry.run_records()[::-1] if before is None or record.id < before]
        views = [run_view(registry, record, now=now) for record in records[:RUNS_ON_A_PAGE]]
    more = views[-1].record.id if len(records) > RUNS_ON_A_PAGE else None
    return {"runs": views, "running": [run for run in views if run.live], "more": more}


def read_one(ask: Ask) -> dict[str, Any]:
    """One run as it stands."""
    run, rounds = _played(ask)
    judged = next((played for played in reversed(rounds) if played.finding), None)
    before = _number(ask, "before")
    places = [place for place in enumerate(rounds, 1) if before is None or place[0] < before][::-1]
    return {
        "run": run,
        "started": moment(run.record.started),
        "ended": moment(run.record.ended),
        "judged": judged,
        "void": sum(played.void for played in rounds),
        "rounds": places[:ROUNDS_ON_A_PAGE],  # with its place in the run: a void round is played again
        "more": places[ROUNDS_ON_A_PAGE - 1][0] if len(places) > ROUNDS_ON_A_PAGE else None,
        "unusable": _unusable(run, rounds),
        "presence": _presence(rounds),
        "played": len(rounds),
    }


def read_charts(ask: Ask) -> dict[str, Any]:
    """One run's charts."""
    run, rounds = _played(ask)
    charts = [*quality_of_rounds(rounds), norm_of_rounds(rounds), answers_of_rounds(rounds)]
    if any(played.refusals for played in rounds):
        charts.append(refusals_by_code(rounds))
    return {"run": run, "charts": [chart for chart in charts if not chart.empty]}


def rounds_file(ask: Ask) -> Response:
    """The rounds of a run as CSV: counts and figures, no names."""
    run, rounds = _played(ask)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for played in rounds:
        counts = (played.cohort, played.completions, sum(played.refusals.values()), len(played.rejections))
        figures = (played.norm, played.seconds, played.log_loss, played.spend_error, played.finding, played.ended)
        writer.writerow((played.round, int(played.void), *counts, *figures))
    return download(ask, f"run-{run.record.id}-rounds.csv", text.getvalue, media_type="text/csv")


def _played(ask: Ask) -> tuple[RunView, Sequence[RoundRecord]]:
    with registry_of(ask.desk) as registry:
        wanted = ask.request.path_params["run"]
        record = next((record for record in registry.run_records() if record.id == wanted), None)
        if record is None:
            raise HTTPException(404)
        return run_view(registry, record, now=dt.datetime.now(dt.UTC)), registry.rounds(record.id)


def _unusable(run: RunView, rounds: Sequence[RoundRecord]) -> list[tuple[str, str, int]]:
    """(merchant, code, how often). Of a secure sum the merchant is left out: only sums of it are anybody's business."""
    if run.plan.secure_sum is not None:
        return [("", code, count) for code, count in unusable_of(rounds).most_common()]
    named = Counter((name, code) for played in rounds for name, code in played.offenders.items())
    return [(name, code, count) for (name, code), count in named.most_common(50)]


def _presence(rounds: Sequence[RoundRecord]) -> list[tuple[str, int]]:
    """In how many rounds each merchant's release was used, by name: that it took part, and nothing of what it sent."""
    counts = Counter(name for played in rounds for name in played.merchants if not played.void)
    return sorted(counts.items())


def _number(ask: Ask, name: str) -> int | None:
    text = ask.request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


ADDRESSES = (
    Address(path="/runs", roles=MEMBERS, answer=page("runs.html.j2", read_all)),
    Address(path="/runs/live", roles=MEMBERS, answer=page("runs_live.html.j2", read_all), part=True),
    Address(
        path="/runs/{run:int}", roles=MEMBERS, answer=page("run.html.j2", lambda ask: read_one(ask) | read_charts(ask))
    ),
    Address(path="/runs/{run:int}/live", roles=MEMBERS, answer=page("run_live.html.j2", read_one), part=True),
    Address(path="/runs/{run:int}/rounds", roles=MEMBERS, answer=page("run_rounds.html.j2", read_one), part=True),
    Address(path="/runs/{run:int}/charts", roles=MEMBERS, answer=page("run_charts.html.j2", read_charts), part=True),
    Address(path="/runs/{run:int}/rounds.csv", roles=MEMBERS, answer=rounds_file),
)
