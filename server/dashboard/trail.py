"""The audit log as a page, for operators."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from server.dashboard.access import OPERATORS, Address, Ask
from server.dashboard.pages import download, page

ENTRIES_ON_A_PAGE = 100


def read(ask: Ask) -> dict[str, Any]:
    """The newest entries, and whether the chain holds from its first entry to its last."""
    text = ask.request.query_params.get("before", "")
    before = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None
    entries = ask.desk.audit.entries(before=before, most=ENTRIES_ON_A_PAGE)
    more = entries[-1].seq if len(entries) == ENTRIES_ON_A_PAGE and entries[-1].seq > 1 else None
    return {"entries": entries, "verified": ask.desk.audit.verify(), "more": more}


def entries_file(ask: Ask) -> Response:
    """The whole log as JSON lines; that it was taken is its last entry."""
    return download(ask, "audit.jsonl", ask.desk.audit.lines, media_type="application/jsonl")


ADDRESSES = (
    Address(path="/audit", roles=OPERATORS, answer=page("audit.html.j2", read)),
    Address(path="/audit/entries.jsonl", roles=OPERATORS, answer=entries_file),
)
