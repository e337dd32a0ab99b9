"""Work that takes long: scoring, reports, a newer model, new plans. One at a time; and the lists that came of it."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from client.daemon import python
from client.pages.app import Pages
from client.pages.jobs import Job
from client.pages.merchant import Merchant
from daemons.files import check_private
from pp_model.errors import ConfigError
from web.sessions import Session
from web.site import language_of
from web.words import Phrase, phrase

FORMATS = ("csv", "parquet")
_LIST = re.compile(r"scores-\d{4}-\d{2}-\d{2}\.(csv|parquet)")
_SAID = {  # what the commands say that they are at
    "reading orders": "work.at.reading",
    "scoring customers": "work.at.scoring",
    "making reports": "work.at.reports",
    "checking": "work.at.checking",
}
_BACK = {"examine": "/data", "plans": "/plans", "pull": "/model"}


@dataclass(frozen=True, kw_only=True)
class List:
    """A file of scores to download."""

    name: str
    made: dt.datetime
    kilobytes: int


def routes(pages: Pages) -> list[Route]:
    """The page, its buttons, the progress and the lists."""

    def show(request: Request, session: Session) -> Response:
        today = dt.datetime.now(dt.UTC).date()
        return pages.page(
            request,
            session,
            "work.html.j2",
            jobs=pages.jobs.all,
            lists=lists_of(pages.merchant),
            today=today,
            formats=FORMATS,
            models=bool(pages.merchant.model_folders()),
        )

    def start(_request: Request, _session: Session, form: dict[str, str]) -> Response:
        kind = form.get("kind", "")
        command, about = command_of(pages.merchant, kind, form)
        pages.jobs.start(kind, python("client.cli", *command), about=about)
        return RedirectResponse("/jobs", 303)

    def cancel(_request: Request, _session: Session, form: dict[str, str]) -> Response:
        job = pages.jobs.current
        pages.jobs.cancel()
        return RedirectResponse(_BACK.get(job.kind, "/jobs") if job and form.get("back") else "/jobs", 303)

    def progress(request: Request, _session: Session) -> Response:
        job = pages.jobs.current
        if job is None:
            return JSONResponse({"done": 1, "text": "", "over": True})
        text = pages.site.words.say(language_of(request), progress_of(job))
        return JSONResponse({"done": job.done, "text": text, "over": False})

    def download(request: Request, _session: Session) -> Response:
        name = request.path_params["file"]
        if name not in {each.name for each in lists_of(pages.merchant)}:
            raise HTTPException(404)
        path = pages.merchant.lists / name
        check_private(path)
        return FileResponse(path, filename=name, media_type="application/octet-stream")

    return [
        pages.shows("/jobs", show),
        pages.shows("/jobs/progress", progress),
        pages.shows("/jobs/lists/{file:str}", download),
        pages.acts("/jobs/start", start),
        pages.acts("/jobs/cancel", cancel),
    ]


def command_of(merchant: Merchant, kind: str, form: dict[str, str]) -> tuple[list[str], str]:
    """The arguments of pp-client for a form, of known words and checked values alone; and what the work is for.

    Raises:
        ConfigError: the form asks for something else, or its day is none.
    """
    config = ("--config", str(merchant.config))
    if kind == "pull":
        return ["pull", *config], ""
    if kind == "plans":
        return ["plans", *config, "--json"], ""
    if kind not in ("score", "insight"):
        raise ConfigError(f"there is no work of the kind {kind[:20]!r}; choose one from the page")
    try:
        cutoff = dt.date.fromisoformat(form.get("cutoff", "")).isoformat()
    except ValueError:
        raise ConfigError("the day is missing, or is none; give one like 2026-06-01") from None
    stale = ["--stale"] if form.get("stale") else []
    if kind == "insight":
        return ["insight", *config, "--cutoff", cutoff, "--json", *stale], cutoff
    ending = form.get("format", "")
    if ending not in FORMATS:
        raise ConfigError(f"there is no format {ending[:20]!r}; allowed: {', '.join(FORMATS)}")
    merchant.lists.mkdir(mode=0o700, exist_ok=True)
    out = merchant.lists / f"scores-{cutoff}.{ending}"
    return ["score", *config, "--cutoff", cutoff, "--out", str(out), "--force", "--json", *stale], cutoff


def progress_of(job: Job) -> Phrase:
    """What the work is at."""
    at = phrase(_SAID[job.what]) if job.what in _SAID else phrase("work.at.starting")
    if job.done is None:
        return phrase("work.progress", kind=phrase(f"work.{job.kind}"), at=at)
    return phrase("work.progress_share", kind=phrase(f"work.{job.kind}"), at=at, share=f"{100 * job.done:.0f} %")


def lists_of(merchant: Merchant) -> list[List]:
    """The files of scores that these pages made, the newest first."""
    found = [path for path in merchant.lists.glob("scores-*") if _is_list(path)]
    return [
        List(
            name=path.name,
            made=dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC),
            kilobytes=max(1, path.stat().st_size // 1000),
        )
        for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    ]


def _is_list(path: Path) -> bool:
    return bool(_LIST.fullmatch(path.name)) and path.is_file() and not path.is_symlink()
