"""What doctor finds, on a page in Chinese: every text of the checks is translated, the rest stands in a frame."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import client.checks
import client.checks_shop
import daemons.files
from client.orders import ReadReport
from client.pages.app import FOLDER
from client.pages.examine import examined
from client.pages.findings import finding_phrase
from client.sources.refusals import WORDS as REASONS
from client.sources.refusals import Skip
from daemons.files import write_private
from tests.support.merchant_pages import quiet, running_pages
from tests.support.scored import scored_shop
from web.words import Words

WORDS = Words([FOLDER / "words"])
MODULES = (client.checks, client.checks_shop, daemons.files)
NOT_SHOWN = {
    *("not checked: 7", "not checked: --quick"),
    "7 exists and was left as it is. Move it away first to make a new one.",
}
GIVEN = {"what": "the certificate in ca.crt"}  # what one caller on the page hands on
ENGLISH_SENTENCE = re.compile(r"(?:\b[A-Za-z]+ ){3,}")


class Texts(ast.NodeVisitor):
    """The texts that a module's functions hand to findings and errors, with 7 for every value in them."""

    def __init__(self) -> None:
        self.names = dict(GIVEN)
        self.found: list[str] = []

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.targets[0], ast.Name) and (text := self.rendered(node.value)) is not None:
            self.names[node.targets[0].id] = text
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        texts = [each.value for each in node.keywords if each.arg == "text"]
        if name in ("ok", "warning", "fault"):
            texts = node.args[1:]
        elif name in ("SkippedError", "ConfigError", "PrivateFileError"):
            texts = node.args
        for each in texts:
            text = self.rendered(each)
            if text is not None and re.search("[a-z]", text):
                self.found.append(f"not checked: {text}" if name == "SkippedError" else text)
        self.generic_visit(node)

    def rendered(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.JoinedStr):
            return "".join(
                self.rendered(each.value if isinstance(each, ast.FormattedValue) else each) or "7"
                for each in node.values
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "count":
            return f"7 {self.rendered(node.args[1])}s"
        return None


def texts_of_the_checks() -> Iterator[str]:
    for module in MODULES:
        assert module.__file__
        for function in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                texts = Texts()
                texts.visit(function)
                yield from texts.found


def test_every_text_of_the_checks_has_its_chinese():
    texts = set(texts_of_the_checks()) - NOT_SHOWN
    assert len(texts) >= 39  # that they are found at all
    assert {text for text in texts if finding_phrase(text, WORDS) is None} == set()
    for text in texts:
        said = WORDS.say("zh", finding_phrase(text, WORDS) or "")
        assert text.count("7") == said.count("7"), (text, said)


def test_every_line_about_rows_that_were_left_out_has_its_chinese():
    skipped = {reason: Skip(count=1 + reason, first_line=90) for reason, words in REASONS.items() if words.skipped}
    report = ReadReport(
        place="orders.csv",
        rows=500,
        used=300,
        outside_window=0,
        skipped=skipped,
        shared_order_ids=Skip(count=1, first_line=4),
    )
    for line in report.lines()[1:]:
        found = finding_phrase(line, WORDS)
        assert found is not None, line
        said = WORDS.say("zh", found)
        assert not re.search("[a-z]", said), said
        assert sorted(re.findall(r"\d+", said)) == sorted(re.findall(r"\d+", line))


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("the newest order is 1 day old (2026-06-01)", "最新订单是 1 天前的（2026-06-01）"),
        ("the newest order is 90 days old (2026-06-01). Export the orders again.", "最新订单已是 90 天前的"),
        (
            "1.0 GiB free at /shop; usual: 2 or more. Free some space before the ledger refuses tasks.",
            "/shop 可用空间 1.0",
        ),
        ("/a: b/key is open to others (mode 644; allowed: 600). Run: chmod 600 /a: b/key", "chmod 600 /a: b/key"),
        ("keys/node: Permission denied. Check path and mode.", "keys/node：系统答复“Permission denied”"),
        ("merchant.toml: period.ends is 3; expected date", "merchant.toml：period.ends 是 3；应为 date"),
        ("cuda:0 (NVIDIA H200)", "显卡 cuda:0（NVIDIA H200）"),
    ],
)
def test_values_stay_as_they_are_in_another_language(text, chinese):
    found = finding_phrase(text, WORDS)
    assert found is not None
    assert chinese in WORDS.say("zh", found)


def test_what_nobody_translated_is_no_phrase():
    assert finding_phrase("the database said: syntax error (42601)", WORDS) is None


def test_the_data_page_is_chinese_but_for_names_and_somebody_elses_words(tmp_path):
    shop = scored_shop(tmp_path, model=False)
    quiet(shop)
    found = examined(shop.config)
    assert len(found["findings"]) > 10
    theirs = "the <database> said something of its own"
    found["findings"].append({"check": "orders", "level": "fault", "text": theirs})
    folder = shop.settings.paths.agreements.parent / "pages"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_private(folder / "examined.json", json.dumps(found).encode())
    with running_pages(shop.config) as running:
        english, chinese = (running.browser().get("/data", **{"accept-language": each}).text for each in ("en", "zh"))
    table = chinese[chinese.index('id="checks"') : chinese.index('id="drift"')]
    framed = '程序的原话：<span lang="en">the &lt;database&gt; said something of its own</span>'
    assert table.count(framed) == table.count('lang="en"') == 1
    assert not ENGLISH_SENTENCE.search(re.sub(r"<[^>]*>", "|", table.replace(framed, "")))
    assert "最新订单是" in table
    assert "the newest order is" in english
    assert 'lang="en">the &lt;' not in english
