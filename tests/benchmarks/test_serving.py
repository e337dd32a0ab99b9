"""What is said of a service under load: its slowest answers, who was turned away, what failed, and its memory."""

import pytest

from benchmarks.check import regressions
from benchmarks.serving import CUSTOMERS, FEW_CUSTOMERS, figures, growth, meets, rows_of
from benchmarks.serving_load import Seen


def turn(*milliseconds, megabytes=(100.0, 100.0), **statuses):
    seen = Seen(latencies=[("id", each) for each in milliseconds], megabytes=list(megabytes))
    seen.statuses.update({name.removeprefix("http_"): number for name, number in statuses.items()})
    return figures(seen, cpu_seconds=1.0)


def rows(*turns, customers=CUSTOMERS):
    return {row.what: row for row in rows_of({"http": turns}, customers=customers)}


def latency_row(found):
    return next(row for what, row in found.items() if "p99" in what)


def test_latency_is_the_median_of_the_turns_as_a_share_of_twenty_milliseconds():
    found = latency_row(rows(*(turn(each, http_200=1) for each in (5.0, 30.0, 10.0))))
    assert (found.ratio, found.verdict) == (0.5, "met")
    assert latency_row(rows(turn(21.0, http_200=1))).verdict == "missed"


@pytest.mark.parametrize("status", ["http_500", "INTERNAL", "ConnectionResetError"])
def test_a_request_that_failed_is_counted_and_misses_the_bar(status):
    found = rows(turn(1.0, 1.0, http_200=1, **{status: 1}))["serving: requests that failed / all"]
    assert (found.ratio, found.verdict) == (0.5, "missed")


@pytest.mark.parametrize("status", ["http_429", "http_504", "RESOURCE_EXHAUSTED"])
def test_a_request_that_was_turned_away_misses_its_own_bar_and_is_no_failure(status):
    found = rows(turn(1.0, 1.0, OK=1, **{status: 1}))
    assert found["serving: requests that failed / all"].verdict == "met"
    assert found["serving: requests that were turned away / all"].verdict == "missed"


def test_of_the_quick_form_the_check_compares_failures_and_nothing_else():
    committed = [*rows(turn(1.0, OK=1)).values()]
    slow_and_busy = rows(turn(500.0, http_429=1), customers=FEW_CUSTOMERS)
    assert regressions(committed, [*slow_and_busy.values()]) == {}
    (line,) = regressions(committed, [*rows(turn(1.0, INTERNAL=1), customers=FEW_CUSTOMERS).values()]).values()
    assert line.startswith("serving: requests that failed / all")


def test_a_turn_meets_the_bars_only_if_it_is_fast_and_everybody_is_answered():
    assert meets(turn(19.0, OK=1), soaked=False)
    assert not meets(turn(21.0, OK=1), soaked=False)
    assert not meets(turn(1.0, http_429=1), soaked=False)
    assert not meets(turn(1.0, INTERNAL=1), soaked=False)


def test_a_soak_is_judged_by_the_growth_of_memory():
    steady, growing = [100.0] * 20, [100.0 + each for each in range(20)]
    assert meets(turn(500.0, OK=1, megabytes=steady), soaked=True)
    assert not meets(turn(1.0, OK=1, megabytes=growing), soaked=True)


def test_growth_is_from_the_second_tenth_to_the_last_so_that_the_start_does_not_count():
    assert growth([10.0, 100.0, *[0.0] * 7, 104.0]) == pytest.approx(0.04)
