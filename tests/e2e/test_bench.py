"""The parts of the bench that start processes: they measure the process and nothing around it, and repeat."""

import pytest

from benchmarks.check import worse
from benchmarks.command_cost import cost_of
from benchmarks.environments import ChildError, ask
from benchmarks.harness import spread
from benchmarks.insight import make_reports
from benchmarks.report import row_of
from benchmarks.scoring import score
from benchmarks.step_memory import OWN, PLAIN, PROCESSES, peak

pytestmark = pytest.mark.e2e


def test_the_peak_of_a_command_is_its_own_and_not_that_of_who_started_it():
    parent = bytearray(b"x" * 300_000_000)
    assert cost_of("-c", "pass").peak_megabytes < 60
    assert 200 < cost_of("-c", "b'x' * 200_000_000").peak_megabytes < 260
    assert len(parent) == 300_000_000


def test_a_command_that_fails_is_not_measured():
    with pytest.raises(ChildError):
        cost_of("-c", "raise SystemExit(3)")


def test_scoring_and_reports_of_a_small_shop_are_measured():
    for cost in (score(200, orders_form="csv", out_form="csv"), make_reports(200)):
        assert cost.cpu_seconds > 0
        assert 100 < cost.peak_megabytes < 2_000


def test_both_doors_are_asked_in_turns_and_every_request_is_answered():
    answer = ask("benchmarks.serving", "--door", "http", "grpc", "--seconds", "1", "--rate", "20", "--customers", "200")
    assert list(answer["turns"]) == ["http", "grpc"]
    for (turn,) in answer["turns"].values():
        assert turn["requests"] > 5
        assert turn["failed"] == 0
        assert turn["all"]["p99_ms"] > 0


def test_a_soak_is_so_many_requests_and_says_how_memory_grew():
    (turn,) = ask("benchmarks.serving", "--soak", "400", "--customers", "200")["turns"]["http"]
    assert (turn["requests"], turn["failed"]) == (400, 0)
    assert abs(turn["growth"]) < 0.5


def test_the_peak_of_a_step_is_the_same_in_every_process_and_fifteen_per_cent_more_are_named():
    before = [peak(OWN, "transformer", PLAIN, batch=256) for _ in range(5)]
    more = [peak(OWN, "transformer", PLAIN, batch=int(1.15 * 256)) for _ in range(PROCESSES)]
    assert max(before) < 1.02 * min(before)
    committed, fresh = (row_of("peak", spread([each / before[0] for each in peaks]), "<=") for peaks in (before, more))
    assert worse(committed, fresh)
