"""What nobody thought of, sent to a real service by Schemathesis: typed answers and no server error.

PP_FUZZ_CASES=10000 makes it the long form, of some minutes.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.support.fuzzed import fuzzed
from tests.support.serving import served_shop
from tests.support.serving_process import serving

pytestmark = pytest.mark.e2e
CASES = int(os.environ.get("PP_FUZZ_CASES", "1000"))


# Schemathesis' own dependencies warn of their own future.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_case_of_the_document_is_a_server_error(tmp_path):
    with serving(served_shop(tmp_path, customers=60), tmp_path / "log.txt") as served:
        found = fuzzed(f"http://127.0.0.1:{served.http_port}", served.token, cases=CASES)
        assert served.health()["ok"]
    by_status = Counter[int]()
    for (_, _, status), count in found.items():
        by_status[status] += count
    assert sum(by_status.values()) >= 0.9 * CASES
    assert by_status[200] > 0.1 * CASES
    assert by_status[422] > 0.1 * CASES
    assert "failed" not in served.log.read_text()
