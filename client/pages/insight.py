"""Insight: one page for each report that was made, at each cutoff, and the complete lists to download."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from client.insight import NAMES
from client.insight.store import cutoff_folder, cutoffs_in, read_report, reports_in
from client.pages.app import Pages
from client.pages.faults import Part, attempt
from client.pages.rules import outcomes_at
from client.settings import MerchantSettings
from daemons.files import check_private
from web.report import Report
from web.sessions import Session


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One report of the overview; `report` is None where it was not made."""

    name: str
    report: Part[Report] | None


def routes(pages: Pages) -> list[Route]:
    """The overview, the reports, their lists."""

    def show_all(request: Request, session: Session) -> Response:
        settings = pages.merchant.settings
        cutoffs = cutoffs_in(settings.paths.insight)
        cutoff = asked_cutoff(request, cutoffs)
        folder = cutoff_folder(settings.paths.insight, cutoff) if cutoff else None
        there = reports_in(folder) if folder else ()
        shown = [Shown(name=name, report=_part(folder, name) if folder and name in there else None) for name in NAMES]
        return pages.page(
            request, session, "insight.html.j2", made=shown, cutoff=cutoff, cutoffs=cutoffs, any_made=bool(there)
        )

    def show_one(request: Request, session: Session) -> Response:
        name, settings = request.path_params["name"], pages.merchant.settings
        if name not in NAMES:
            raise HTTPException(404)
        cutoffs = tuple(
            cutoff
            for cutoff in cutoffs_in(settings.paths.insight)
            if name in reports_in(cutoff_folder(settings.paths.insight, cutoff))
        )
        cutoff = asked_cutoff(request, cutoffs)
        folder = cutoff_folder(settings.paths.insight, cutoff) if cutoff else None
        report = _part(folder, name) if folder else None
        return pages.page(
            request, session, "report.html.j2", name=name, names=NAMES, report=report, cutoff=cutoff, cutoffs=cutoffs
        )

    def download(request: Request, _session: Session) -> Response:
        path = list_path(pages.merchant.settings, request.path_params["cutoff"], request.path_params["file"])
        if path is None:
            raise HTTPException(404)
        check_private(path)
        return FileResponse(path, media_type="text/csv; charset=utf-8", filename=f"{path.parent.name}-{path.name}")

    return [
        pages.shows("/insight", show_all),
        pages.shows("/insight/{cutoff:str}/files/{file:str}", download),
        pages.shows("/insight/{name:str}", show_one),
    ]


def asked_cutoff(request: Request, cutoffs: tuple[dt.date, ...]) -> dt.date | None:
    """The cutoff that the address asks for, if it is one of these; else the newest."""
    asked = request.query_params.get("cutoff", "")
    return next((each for each in cutoffs if each.isoformat() == asked), cutoffs[0] if cutoffs else None)


def newest_cutoff(settings: MerchantSettings) -> dt.date | None:
    """The newest cutoff with a report."""
    found = cutoffs_in(settings.paths.insight)
    return found[0] if found else None


def list_path(settings: MerchantSettings, cutoff: str, file: str) -> Path | None:
    """The file of a list, if a report or a rule of that cutoff names it; None for anything else, wherever it is.

    The name is compared with those that the reports hold: no path is made of what a request says.
    """
    known = next((each for each in cutoffs_in(settings.paths.insight) if each.isoformat() == cutoff), None)
    if known is None:
        return None
    folder = cutoff_folder(settings.paths.insight, known)
    reports = [attempt(lambda name=name: read_report(folder, name)).value for name in reports_in(folder)]  # type: ignore[misc]
    lists = [each for report in reports if report for each in report.files]
    rules = attempt(lambda: outcomes_at(settings, known)).value or ()
    for each in (*lists, *(outcome.file for outcome in rules)):
        path = folder / each
        if each == file and path.parent == folder and path.is_file() and not path.is_symlink():
            return path
    return None


def _part(folder: Path, name: str) -> Part[Report]:
    return attempt(lambda: read_report(folder, name))
