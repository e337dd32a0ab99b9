"""Schemathesis against a running service: cases that are as the document says, and cases that are not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

CHECKED = (200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429)  # typed answers that are no fault of the service


def fuzzed(url: str, token: str, *, cases: int) -> Counter[tuple[str, str, int]]:
    """How often each path, kind of case and status came; about `cases` in all.

    Raises:
        AssertionError: an answer is a server error, or no answer of the document.
    """
    shown, found = {"authorization": f"Bearer {token}"}, Counter[tuple[str, str, int]]()
    document = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=shown)
    operations = [each.ok() for each in document.get_all_operations()]
    asked = [operation for operation in operations if operation.method == "post"]
    with requests.Session() as session:
        session.trust_env = False
        for operation in asked:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                _fuzz(operation, mode, session, shown, found, cases=-(-cases // (2 * len(asked))))
    return found


def _fuzz(
    operation: Any,
    mode: GenerationMode,
    session: requests.Session,
    shown: dict[str, str],
    found: Counter[tuple[str, str, int]],
    *,
    cases: int,
) -> None:
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        response = case.call(session=session, headers=shown)
        found[operation.path, mode.value, response.status_code] += 1
        assert response.status_code in CHECKED
        assert response.headers["content-type"] == ["application/json"]
        assert response.status_code == 200 or set(response.json()) == {"error"}

    one()
