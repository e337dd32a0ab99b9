"""The models: where each comes from, how good it is on made-up customers, and back to an earlier one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from pp_model.errors import PurchasePowerError
from server.dashboard.access import MEMBERS, OPERATORS, Address, Ask
from server.dashboard.audit import Action
from server.dashboard.charts import distances, quality_of_models
from server.dashboard.pages import download, page
from server.dashboard.reading import moment, registry_of
from server.model_compare import compare_models
from server.registry import ModelRecord


def read_all(ask: Ask) -> dict[str, Any]:
    """All models, the newest first."""
    with registry_of(ask.desk) as registry:
        models = registry.models()
        plans = {run.id: run.plan_id for run in registry.run_records()}
    return {
        "models": models[::-1],
        "plans": plans,
        "newest": _newest(models),
        "charts": quality_of_models(models),
    }


def read_one(ask: Ask) -> dict[str, Any]:
    """One model, its lineage and its card."""
    with registry_of(ask.desk) as registry:
        models = registry.models()
        model = _model(models, ask.request.path_params["model"])
        card = registry.published_file(model.sha256, "card") if model.signed else None
        run = next(run for run in registry.run_records() if run.id == model.run)
    newest = _newest(models)
    return {
        "model": model,
        "published": moment(model.published),
        "run": run,
        "line": lineage({each.id: each for each in models}, model),
        "card": _text(card),
        "newest": newest,
        "can_go_back": model.signed and newest is not None and newest.sha256 != model.sha256,
        "done": ask.request.query_params.get("done") == "rollback",
    }


def read_comparison(ask: Ask) -> dict[str, Any]:
    """Two models beside each other; the two newest where none were chosen."""
    with registry_of(ask.desk) as registry:
        models = registry.models()
        newest = [model.id for model in models[::-1]]
        first, second = (_chosen(ask, name, newest, at) for at, name in enumerate(("first", "second")))
        there = first in newest and second in newest
        comparison = compare_models(registry, first, second) if there else None
    chart = distances(comparison) if comparison else None
    return {"models": models[::-1], "first": first, "second": second, "comparison": comparison, "chart": chart}


def card_file(ask: Ask) -> Response:
    """The card of a published model, as merchants get it."""
    with registry_of(ask.desk) as registry:
        model = _model(registry.models(), ask.request.path_params["model"])
        text = _text(registry.published_file(model.sha256, "card") if model.signed else None)
    if text is None:
        raise HTTPException(404)
    return download(ask, f"model-{model.id}-card.md", lambda: text, media_type="text/markdown")


def go_back(ask: Ask) -> Response:
    """Publishes an earlier model once more, as the newest: merchants get it with their next pull."""
    from server.rollback import roll_back  # it may load PyTorch

    wanted = ask.request.path_params["model"]
    with registry_of(ask.desk) as registry:
        _model(registry.models(), wanted)
    ask.note(Action.ROLLBACK_ASKED, f"model {wanted}")
    try:
        again = roll_back(ask.desk.home, wanted)
    except (PurchasePowerError, OSError):
        ask.note(Action.ROLLBACK_FAILED, f"model {wanted}")
        raise
    ask.note(Action.ROLLBACK_DONE, f"model {wanted} as model {again.id}")
    return RedirectResponse(f"/models/{again.id}?done=rollback", 303)


def lineage(models: Mapping[int, ModelRecord], model: ModelRecord) -> list[ModelRecord]:
    """The model, what it was rolled back to or started from, and so on to the first."""
    line = [model]
    while (before := line[-1].rollback_of or line[-1].parent) in models and len(line) <= len(models):
        assert before is not None
        line.append(models[before])
    return line


def _newest(models: Sequence[ModelRecord]) -> ModelRecord | None:
    """What merchants get now."""
    return next((model for model in reversed(models) if model.signed), None)


def _model(models: Sequence[ModelRecord], wanted: int) -> ModelRecord:
    for model in models:
        if model.id == wanted:
            return model
    raise HTTPException(404)


def _chosen(ask: Ask, name: str, newest: Sequence[int], at: int) -> int:
    text = ask.request.query_params.get(name, "")
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return int(text)
    return newest[1 - at] if len(newest) > 1 else 0


def _text(file: Path | None) -> str | None:
    try:
        return None if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


ADDRESSES = (
    Address(path="/models", roles=MEMBERS, answer=page("models.html.j2", read_all)),
    Address(path="/models/{model:int}", roles=MEMBERS, answer=page("model.html.j2", read_one)),
    Address(path="/models/{model:int}/card.md", roles=MEMBERS, answer=card_file),
    Address(path="/models/{model:int}/rollback", roles=OPERATORS, answer=go_back, posts=True),
    Address(path="/compare", roles=MEMBERS, answer=page("compare.html.j2", read_comparison)),
)
