"""One customer's portrait, found by the merchant's own id. The id travels in a form's body: never in an address."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from client.insight.made import list_file
from client.insight.store import cutoff_folder, cutoffs_in, read_report
from client.pages.app import Pages
from client.pages.faults import attempt
from client.reasons import GROUPS
from client.settings import MerchantSettings
from daemons.files import check_private
from pp_model.errors import ConfigError
from web.charts import Chart, Series
from web.report import Report
from web.sessions import Session
from web.words import Kind, Phrase, phrase

REPORT, LIST = "portraits", "customers"
LONGEST_ID = 200
_FACTS: Mapping[str, Kind] = {
    "orders_seen": "count",
    "spend_so_far_cents": "money",
    "first_order": "date",
    "last_order": "date",
    "usual_gap_days": "number",
    "change": "number",
}


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """What the newest portraits say of one customer.

    Attributes:
        row: the list's row, values by column; None where it says nothing.
        interests: categories and their shares, as a chart; None where none is known.
        reasons: what moves the score most, and whether up.
    """

    row: Mapping[str, Any]
    report: Report
    interests: Chart | None
    reasons: tuple[tuple[Phrase, bool], ...]
    facts: tuple[tuple[str, Any, Kind], ...]


def routes(pages: Pages) -> list[Route]:
    """The search and its answer."""

    def ask(request: Request, session: Session) -> Response:
        cutoff = _newest(pages.merchant.settings)
        return pages.page(request, session, "customer.html.j2", cutoff=cutoff, asked="", portrait=None)

    def find(request: Request, session: Session, form: dict[str, str]) -> Response:
        asked = form.get("customer", "").strip()[:LONGEST_ID]
        settings = pages.merchant.settings
        found = attempt(lambda: portrait_of(settings, asked)) if asked else None
        return pages.page(request, session, "customer.html.j2", cutoff=_newest(settings), asked=asked, portrait=found)

    return [pages.shows("/customer", ask), pages.acts("/customer", find)]


def portrait_of(settings: MerchantSettings, customer_id: str) -> Portrait | None:
    """The customer's portrait at the newest cutoff that has portraits; None where nobody has this id.

    Raises:
        ConfigError: no portraits were made yet, or their list cannot be read.
    """
    cutoff = _newest(settings)
    if cutoff is None:
        raise ConfigError("no portraits were made yet; make them with pp-client insight --cutoff DATE")
    folder = cutoff_folder(settings.paths.insight, cutoff)
    row = row_of(folder / list_file(REPORT, LIST), customer_id)
    if row is None:
        return None
    return Portrait(
        row=row,
        report=read_report(folder, REPORT),
        interests=_interests(row),
        reasons=tuple(
            (phrase(f"insight.reason.{group}_{'plus' if sign == '+' else 'minus'}"), sign == "+")
            for name in ("reason_1", "reason_2", "reason_3")
            for group, _, sign in [str(row.get(name) or "").partition(":")]
            if group in GROUPS
        ),
        facts=tuple((name, _value(row[name], kind), kind) for name, kind in _FACTS.items() if name in row),
    )


def row_of(path: Path, customer_id: str) -> dict[str, Any] | None:
    """The row of a list with this `customer_id`, read in blocks, so that a list of a million fits.

    Raises:
        ConfigError: the list cannot be read.
        PrivateFileError: it is open to others.
    """
    check_private(path)
    texts = pa_csv.ConvertOptions(column_types={"customer_id": pa.string()}, strings_can_be_null=True)
    try:
        with pa_csv.open_csv(path, convert_options=texts) as reader:
            for batch in reader:
                at = pc.index(batch["customer_id"], customer_id).as_py()
                if at >= 0:
                    row: dict[str, Any] = batch.slice(at, 1).to_pylist()[0]
                    return row
    except (pa.ArrowException, OSError, KeyError):
        raise ConfigError(f"{path} cannot be read; make the reports anew with pp-client insight") from None
    return None


def _interests(row: Mapping[str, Any]) -> Chart | None:
    named = [(row.get(f"category_{place}"), row.get(f"share_{place}")) for place in (1, 2, 3)]
    known = [(str(name), float(share)) for name, share in named if name not in (None, "") and share is not None]
    if not known:
        return None
    return Chart(
        kind="bar",
        title=phrase("customer.interests"),
        x=phrase("customer.category"),
        y=phrase("customer.share"),
        categories=tuple(name for name, _ in known),
        series=(Series(label=phrase("customer.share"), values=tuple(share for _, share in known)),),
        horizontal=True,
        kind_of_value="share",
    )


def _value(value: Any, kind: Kind) -> Any:
    return value if value != "" or kind == "text" else None


def _newest(settings: MerchantSettings) -> dt.date | None:
    folder_of_all = settings.paths.insight
    return next(
        (
            cutoff
            for cutoff in cutoffs_in(folder_of_all)
            if (cutoff_folder(folder_of_all, cutoff) / list_file(REPORT, LIST)).exists()
        ),
        None,
    )
