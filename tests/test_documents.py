"""Whatever a page tells people to type, works; whatever it points to, is there."""

import re
import shlex

import pytest

from agreement.offer import OfferCode
from client.preflight import PlatformFault
from daemons.exit_codes import Exit
from pp_model.protocol import RefusalCode
from tests.support.documents import (
    PROGRAMS,
    ROOT,
    code_blocks,
    command_lines,
    fault_of_call,
    fault_of_mention,
    inline_code,
    pages,
)

RUNBOOK = ROOT / "docs" / "runbook.md"


def text_of(path):
    return path.read_text(encoding="utf-8")


def calls(page):
    return [words for block in code_blocks(page) for words in command_lines(block)]


def mentions(page):
    return [span.split() for span in inline_code(page) if span.split() and span.split()[0] in PROGRAMS]


def make_targets(page):
    shown = [*inline_code(page), *(line.strip() for block in code_blocks(page) for line in block.splitlines())]
    return {word for text in shown if text.startswith("make ") for word in _targets(text)}


def _targets(text):
    return [word for word in shlex.split(text, comments=True)[1:] if "=" not in word and not word.startswith("-")]


def links(page):
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", page) if "://" not in target]


def headings(page):
    """The anchors that a page's headings get."""
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(path, page):
    faults = []
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in headings(text_of(target))):
            faults.append(f"{path.name}: {link}")
    return faults


def first_cells(page, heading):
    """The first cell of each row of the table below a heading, without backticks."""
    section = re.split(r"^## ", page, flags=re.MULTILINE)
    [table] = [part for part in section if part.startswith(heading)]
    return [row.strip("| ").split("|")[0].strip(" `") for row in re.findall(r"^\|.*", table, re.MULTILINE)][2:]


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_one_that_the_program_takes(page):
    text = text_of(page)
    faults = [fault_of_call(words) for words in calls(text)] + [fault_of_mention(words) for words in mentions(text)]
    assert list(filter(None, faults)) == []


def test_the_pages_hold_commands_of_every_program():
    everything = [words for page in pages() for words in calls(text_of(page))]
    assert {words[0] for words in everything} == set(PROGRAMS)
    assert len(everything) > 40


def test_every_make_target_that_a_page_names_exists():
    known = set(re.findall(r"^([a-z0-9-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {target: page.name for page in pages() for target in make_targets(text_of(page))}
    assert {"demo", "test", "demo-deploy"} <= set(named)
    assert {target: page for target, page in named.items() if target not in known} == {}


def test_every_relative_link_leads_somewhere():
    assert [fault for page in pages() for fault in broken_links(page, text_of(page))] == []


def test_every_exit_code_has_its_line_in_the_runbook():
    assert first_cells(text_of(RUNBOOK), "By exit code") == [str(code.value) for code in sorted(Exit)]


def test_every_code_that_a_merchant_may_answer_with_has_its_line_in_the_runbook():
    assert first_cells(text_of(RUNBOOK), "By refusal code of a task") == [code.value for code in RefusalCode]
    assert first_cells(text_of(RUNBOOK), "By refusal code of an offer") == [code.value for code in OfferCode]


def test_every_reason_not_to_talk_to_a_platform_has_its_line_in_the_runbook():
    named = set(inline_code(text_of(RUNBOOK)))
    assert {fault.value for fault in PlatformFault} <= named


def test_every_decision_is_in_the_list_of_decisions():
    folder = ROOT / "docs" / "decisions"
    pages_there = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert sorted(links(text_of(folder / "README.md"))) == pages_there
    assert [int(name[:4]) for name in pages_there] == list(range(1, len(pages_there) + 1))


PLANTED = (
    "    pp-server plan new may --epsilon three --holdout 2025-05-01 --horizon-days 60\n",
    "    pp-server plan new may --epsilon 3 --holdout 2025-05-01\n",
    "    sudo -u pp-client /opt/purchase-power/bin/pp-client doctor --config merchant.toml --fast\n",
    "    pp-client statment\n",
    "    docker compose run --rm bakery budgets --config /data/merchant.toml\n",
    "    EPSILON=3 pp-client init shop --invitation i.toml --name bakery \\\n        --epsilon much\n",
)


@pytest.mark.parametrize("page", PLANTED)
def test_a_wrong_command_is_noticed(page):
    [words] = calls(f"Do this:\n\n{page}\nAnd then that.\n")
    assert fault_of_call(words) != ""


def test_a_command_that_does_not_exist_is_noticed_where_it_is_only_named():
    page = (
        "See `pp-client budgets`, `pp-server plan cost` and `pp-server run PLAN --again`; `pp-server run PLAN` is fine."
    )
    assert [bool(fault_of_mention(words)) for words in mentions(page)] == [True, True, True, False]


def test_a_missing_target_file_or_heading_is_noticed():
    page = "[a](nowhere.md) [b](docs/runbook.md#no-such-heading) [c](docs/runbook.md#by-exit-code) `make tea`"
    assert len(broken_links(ROOT / "README.md", page)) == 2
    assert make_targets(page) == {"tea"}


def test_a_code_without_its_line_is_noticed():
    page = "## By exit code\n\n| Code | Means |\n| --- | --- |\n| 0 | done |\n\n## Next\n\n| 2 | no |\n"
    assert first_cells(page, "By exit code") == ["0"]
