"""How an address answers: with a page, or with a file to keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from server.dashboard.access import Ask
from server.dashboard.audit import Action
from server.dashboard.reading import moment


def page(template: str, read: Callable[[Ask], dict[str, Any]]) -> Callable[[Ask], Response]:
    """The template, filled with what `read` gives."""

    def answer(ask: Ask) -> Response:
        common: dict[str, Any] = {"moment": moment, "known_texts": ask.desk.site.words.keys}
        return ask.desk.site.page(ask.request, template, session=ask.session, **common, **read(ask))

    return answer


def download(ask: Ask, name: str, data: Callable[[], str], *, media_type: str) -> Response:
    """A file, after it was written down who took it.

    Args:
        name: safe in a header: of our own making.
    """
    ask.note(Action.DOWNLOAD, name)
    return Response(data(), media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})
