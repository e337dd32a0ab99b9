import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "privacy.md"
ROWS = [f"D{number}" for number in range(1, 61)]


@cache
def collected(path: str) -> frozenset[str]:
    """Names of the tests that pytest collects from a file."""
    file = ROOT / path
    if not (file.is_file() and path.startswith("tests/") and file.name.startswith("test_")):
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def table(page: str) -> list[list[str]]:
    """The cells of every row of the table of pitfalls."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if re.match(r"\| D\d", line)
    ]


def named_tests(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`([^`]*?)::([^`]*)`", text)


def missing_tests(page: str) -> list[str]:
    return [f"{path}::{name}" for path, name in named_tests(page) if name not in collected(path)]


def test_every_pitfall_has_exactly_one_row_in_order():
    assert [cells[0] for cells in table(PAGE.read_text(encoding="utf-8"))] == ROWS


def test_every_row_says_what_how_bad_what_we_do_and_what_would_fail():
    for row, pitfall, severity, handling, proof in table(PAGE.read_text(encoding="utf-8")):
        assert len(pitfall) > 20, row
        assert len(handling) > 20, row
        assert severity in ("high", "middle", "low"), row
        assert named_tests(proof) or re.search(r"Reason: .{20}", proof), row


def test_every_test_that_the_page_names_exists():
    page = PAGE.read_text(encoding="utf-8")
    assert len(named_tests(page)) > len(ROWS)
    assert missing_tests(page) == []


def test_a_test_that_was_renamed_moved_or_never_there_is_noticed():
    wrong = (
        "tests/client/test_task.py::test_something_else",
        "tests/client/test_nowhere.py::test_something",
        "tests/support/shops.py::tiny_shop",
    )
    assert missing_tests(" ".join(f"`{name}`" for name in wrong)) == list(wrong)
