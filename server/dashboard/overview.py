"""The first page: is all well, what runs, and how good the newest model is."""

from __future__ import annotations

import datetime as dt
from typing import Any

from server.dashboard.access import MEMBERS, Address, Ask
from server.dashboard.charts import quality_of_models
from server.dashboard.pages import page
from server.dashboard.reading import RunView, plan_files, registry_of, roster_of, run_view, status_of
from server.registry import ModelRecord
from web.words import Phrase, phrase

AWAY_SECONDS = 86_400
RECENT_RUNS = 5


def read(ask: Ask) -> dict[str, Any]:
    """All that the page shows."""
    now, nodes = dt.datetime.now(dt.UTC), ask.desk.nodes.now()
    with registry_of(ask.desk) as registry:
        records = registry.run_records()
        recent = [run_view(registry, record, now=now) for record in records[::-1][:RECENT_RUNS]]
        older = [record for record in records[:-RECENT_RUNS] if record.state == "running"]
        running = [run for run in recent if run.live] + [run_view(registry, record, now=now) for record in older]
        models = registry.models()
    with roster_of(ask.desk) as roster:
        merchants = roster.merchants()
    states = [status_of(merchant, nodes) for merchant in merchants]
    open_plans = [plan for plan in plan_files(ask.desk, now=now) if plan.state == "open"]
    newest = next((model for model in reversed(models) if model.signed), None)
    return {
        "platform": ask.desk.config.name,
        "down": nodes is None and ask.desk.nodes.known,
        "merchants": len(merchants),
        "online": states.count("online") if nodes is not None else None,
        "open_plans": len(open_plans),
        "running": running,
        "recent": recent,
        "newest": newest,
        "charts": quality_of_models(models),
        "notices": _notices(recent, models),
        "empty": not (merchants or records or open_plans),
    }


def _notices(recent: list[RunView], models: list[ModelRecord]) -> list[tuple[str, Phrase, str]]:
    """What asks for attention: tone, text, and the page that says more."""
    found = []
    for run in recent:
        where = f"/runs/{run.record.id}"
        if run.state == "overdue":
            found.append(("bad", phrase("overview.overdue", run=run.record.id), where))
        if run.live and run.last is not None and run.last.finding in ("bad", "collapsed"):
            found.append(("bad", phrase("overview.bad_check", run=run.record.id, round=run.last.round), where))
        if run.live and run.last is not None and run.last.void:
            found.append(("warning", phrase("overview.void_round", run=run.record.id, round=run.last.round), where))
    if recent and recent[0].state in ("failed", "void"):
        found.append(
            ("warning", phrase(f"overview.{recent[0].state}", run=recent[0].record.id), f"/runs/{recent[0].record.id}")
        )
    if models and not models[-1].signed:
        found.append(("warning", phrase("overview.unsigned", model=models[-1].id), f"/models/{models[-1].id}"))
    return found


ADDRESSES = (
    Address(path="/", roles=MEMBERS, answer=page("overview.html.j2", read)),
    Address(path="/live", roles=MEMBERS, answer=page("overview_live.html.j2", read), part=True),
)
