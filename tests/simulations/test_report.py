"""The report: complete in itself, escaped, true to the result, and plain about what is missing."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from simulations.report import gained, price, render_report, write_report
from tests.support.results import plausible_result

SECTIONS = ("key-figures", "quality", "spend", "merchants", "privacy", "left-out", "details")
OPTIONAL = (
    *("baselines", "history", "epsilon_by_round", "budget", "deciles", "calibration", "tiers", "privacy"),
    *("refusals", "rejected", "skipped_orders", "config", "plan", "versions"),
)
HOSTILE = "<script>alert(\"x\")</script><img src=x onerror='y'>"
VOID = {"meta", "br", "img", "input", "link", "hr"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def text_of(page: str) -> str:
    """What a reader sees: tags and styles gone, spaces single."""
    body = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@cache
def full_text() -> str:
    return text_of(render_report(plausible_result()))


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in plausible_result().items() if key not in keys}


def merchants_against_own_models(**own_and_joined: tuple[float, float]) -> dict[str, Any]:
    """A result in which each named merchant has this AUC with its own model and this one after joining."""
    result = plausible_result(merchant_names=tuple(own_and_joined))
    for name, (own, joined) in own_and_joined.items():
        result["baselines"]["local_only"]["merchants"][name]["auc"] = own
        result["merchants"][name]["auc"] = joined
    return result


class Balance(HTMLParser):
    """Raises on a tag that closes what is not open; keeps what is still open, and all ids and labels."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.labelled_by: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.labelled_by += [value or "" for name, value in attrs if name == "aria-labelledby"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    return parser


def test_a_full_report_has_every_section_and_chart():
    page = parsed(render_report(plausible_result()))
    assert set(page.labelled_by) == set(SECTIONS) <= set(page.ids)
    assert page.tags.count("svg") == 8
    assert page.tags.count("figcaption") == 8
    assert page.tags.count("h1") == 1


@pytest.mark.parametrize("missing", [(), ("baselines",), OPTIONAL], ids=["nothing", "baselines", "everything"])
def test_whatever_is_missing_the_page_is_whole(missing):
    page = parsed(render_report(without(*missing)))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert set(SECTIONS) <= set(page.ids)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("baselines", "This run has no baselines to compare with."),
        ("baselines", "this run has no model of each merchant alone"),
        ("history", "There is no log loss by round to show"),
        ("epsilon_by_round", "This run kept no epsilon by round."),
        ("deciles", "This run has no spend by tenth to show."),
        ("calibration", "This run has no calibration to show."),
        ("tiers", "This run has no tiers to show."),
        ("privacy", "This run has no privacy statement."),
        ("refusals", "No merchant refused a task."),
        ("skipped_orders", "No order was skipped."),
    ],
)
def test_what_is_missing_or_empty_is_said_in_a_sentence(key, sentence):
    empty = {**without(*OPTIONAL), key: type(plausible_result()[key])()}
    assert sentence not in full_text()
    assert sentence in text_of(render_report(without(*OPTIONAL)))
    assert sentence in text_of(render_report(empty))


def test_equal_results_give_equal_reports():
    assert render_report(plausible_result()) == render_report(plausible_result())


def test_the_report_asks_for_nothing():
    page = render_report(plausible_result())
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page
    assert not {"script", "link", "img", "iframe", "object"} & set(parsed(page).tags)
    assert not re.search(r"url\((?!#)|@import", page)
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', page))


def test_the_report_is_small_with_many_merchants_and_rounds():
    result = plausible_result(merchant_names=[f"shop {i}" for i in range(200)], rounds=400)
    assert len(render_report(result).encode()) < 1_000_000


def test_hostile_text_stays_text_wherever_it_comes_from():
    result = plausible_result(merchant_names=(HOSTILE, "Bakery"))
    clean_tags = sorted(parsed(render_report(plausible_result(merchant_names=("Florist", "Bakery")))).tags)
    result |= {"name": HOSTILE, "encoder": HOSTILE, "algorithm": HOSTILE, "cutoff": HOSTILE}
    result["baselines"]["synthetic_only"]["label"] = HOSTILE
    result["privacy"]["paragraphs"][0] = [HOSTILE, HOSTILE]
    result["config"] = {HOSTILE: HOSTILE}
    result["versions"]["torch"] = HOSTILE
    result["skipped_orders"] = {HOSTILE: 3, "duplicate_order_id": 5}
    page = parsed(render_report(result))
    assert sorted(page.tags) == clean_tags
    assert page.open == []


def test_the_numbers_shown_are_the_numbers_of_the_result():
    result = plausible_result()
    text = full_text()
    shown = [f"{result[key]:.3f}" for key in ("gini", "auc", "log_loss", "brier", "spearman", "average_precision")]
    shown += [f"{result['mae']:,.2f}", f"{result['rmse']:,.2f}", "24,310 customers", "412,876 orders", "12,345 param"]
    shown += [f"{tenth['predicted']:,.2f} {tenth['actual']:,.2f}" for tenth in result["deciles"]]
    shown += [f"{b['predicted']:.3f} {b['observed']:.3f} {b['customers']:,}" for b in result["calibration"]]
    shown += [f"{name} {entry['customers']:,} {entry['auc']:.3f}" for name, entry in result["merchants"].items()]
    shown += [gained(result), price(result)]
    shown += [f"{e['label']} {e['gini']:.3f} {e['spearman']:.3f} {e['auc']:.3f}" for e in result["baselines"].values()]
    assert [part for part in shown if part not in text] == []


def test_epsilon_is_shown_for_one_to_ten_shops_and_never_rounded_down():
    stated = {"10": 9.5338, "2": 4.0881, "1": 2.984, "3": 5.0, "5": 6.5200001}
    result = without(*OPTIONAL) | {"privacy": {"paragraphs": [], "epsilon_by_merchants": stated, "delta": 1e-5}}
    assert "1 2.99 2 4.09 3 5.00 5 6.53 10 9.54" in text_of(render_report(result))
    assert price(plausible_result(epsilon=2.984)) == (
        "It cost epsilon 2.99 for a customer of one shop and 4.09 for a person who shops at two, at a delta of 1e-5."
    )


def test_every_paragraph_of_the_privacy_statement_is_there():
    result, text = plausible_result(), full_text()
    assert all(f"{heading} {words}" in text for heading, words in result["privacy"]["paragraphs"])
    assert "the guarantee does not cover them" in text


@pytest.mark.parametrize("epsilon", ["inf", float("inf"), float("nan"), None])
def test_a_run_without_a_finite_epsilon_has_an_unmistakable_banner(epsilon):
    result = without("history", "deciles", "calibration", "tiers", "baselines") | {"epsilon": epsilon}
    page = render_report(result)
    assert '<p class="banner" role="alert"><strong>No privacy.</strong>' in page
    assert "It cost all privacy" in text_of(page)
    assert "Without privacy there is no epsilon to follow." in text_of(page)


def test_a_private_run_has_no_banner():
    assert "No privacy." not in full_text()


@pytest.mark.parametrize("made_up", [True, False])
def test_the_report_says_that_customers_are_made_up_exactly_when_they_are(made_up):
    text = text_of(render_report(without(*OPTIONAL) | {"synthetic_orders": made_up}))
    assert ("Made-up customers." in text) is made_up


@pytest.mark.parametrize(
    ("auc", "alone", "words"),
    [
        (0.8, 0.77, "better than each merchant alone: an AUC of 0.800 against 0.770."),
        (0.75, 0.77, "worse than each merchant alone: an AUC of 0.750 against 0.770."),
        (0.7701, 0.77, "just as well as each merchant alone: an AUC of 0.770 against 0.770."),
    ],
)
def test_the_headline_says_what_the_numbers_say(auc, alone, words):
    result = plausible_result() | {"auc": auc}
    result["baselines"]["local_only"]["auc"] = alone
    assert gained(result).endswith(words)


def test_without_an_auc_the_headline_speaks_of_the_gini():
    result = plausible_result() | {"auc": None, "gini": 0.9}
    result["baselines"]["local_only"]["gini"] = 0.8
    assert gained(result).endswith("better than each merchant alone: a Gini of 0.900 against 0.800.")


def test_gains_and_losses_are_counted_and_the_extremes_named():
    text = text_of(render_report(merchants_against_own_models(Up=(0.7, 0.78), Little=(0.7, 0.71), Down=(0.8, 0.77))))
    assert "2 of 3 merchants gain in AUC by joining (most: Up, by 0.080); 1 loses (most: Down, by 0.030)." in text


def test_nobody_loses_when_nobody_loses():
    text = text_of(render_report(merchants_against_own_models(Up=(0.7, 0.78), Same=(0.7, 0.7))))
    assert "1 of 2 merchants gains in AUC by joining (most: Up, by 0.080); none loses." in text


def test_a_merchant_without_a_figure_is_not_counted_and_shows_as_undefined():
    result = merchants_against_own_models(Up=(0.7, 0.78), Everyone=(0.7, 0.7))
    result["merchants"]["Everyone"]["auc"] = None
    text = text_of(render_report(result))
    assert "1 of 1 merchant gains in AUC" in text
    assert f"Everyone {result['merchants']['Everyone']['customers']:,} n/a 0.700" in text


def test_calibration_says_how_far_off_and_which_way():
    bins = [
        {"predicted": 0.2, "observed": 0.1, "customers": 300},
        {"predicted": 0.6, "observed": 0.62, "customers": 100},
    ]
    text = text_of(render_report(without(*OPTIONAL) | {"calibration": bins}))
    assert "8.0 percentage points off on average, and as a whole too high." in text


def test_the_last_tenth_is_said_to_be_over_or_under():
    tenths = [{"predicted": 1.0, "actual": 1.0, "customers": 5}, {"predicted": 150.0, "actual": 100.0, "customers": 5}]
    assert "150.00 a customer and spent 100.00 (50% over)" in text_of(
        render_report(without(*OPTIONAL) | {"deciles": tenths})
    )


@pytest.mark.parametrize(("budget", "words"), [(3.0, "within the budget of 3.00"), (2.0, "OVER the budget of 2.00")])
def test_spending_is_held_against_the_budget(budget, words):
    text = text_of(render_report(plausible_result(epsilon=2.5) | {"budget": budget}))
    assert f"The run spent 2.50 at one shop, {words}; half of it was spent by round 15." in text


def test_quality_by_round_says_how_many_baselines_it_beat():
    result = plausible_result(baselines=("local_only", "central_non_private"))
    result["history"] = [{"round": 1, "auc": 0.7, "log_loss": 0.6}, {"round": 2, "auc": 0.79, "log_loss": 0.65}]
    text = text_of(render_report(result))
    assert "From 0.700 to 0.790, better than after its first round; it ends ahead of 1 of 2 baselines." in text
    assert "From 0.600 to 0.650, worse than after its first round; it ends ahead of 0 of 2 baselines." in text


def test_a_refusal_is_counted_and_explained():
    text = full_text()
    assert "budget the charge would have passed the merchant's budget 2" in text
    assert "duplicate order id 5" in text


def test_the_file_holds_the_report(tmp_path):
    write_report(plausible_result(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_report(plausible_result())


@pytest.mark.e2e
def test_a_browser_opens_the_file_and_finds_the_heading(tmp_path: Path):
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser found; looked for {', '.join(BROWSERS)}")
    write_report(plausible_result(), tmp_path / "report.html")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += f" --disable-component-update --disable-sync --user-data-dir={tmp_path / 'profile'} --dump-dom"
    command = [browser, *flags.split(), (tmp_path / "report.html").as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<h1>demo</h1>" in page
    assert page.count("<svg") == 8
