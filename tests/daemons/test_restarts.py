"""The wait before a restart is a pure function of what happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.restarts import RestartPolicy

PLAIN = RestartPolicy(first_seconds=1.0, longest_seconds=30.0, healthy_after_seconds=60.0, jitter=0.2)


def test_the_wait_doubles_up_to_the_longest():
    waits = [PLAIN.delay_seconds(failures, least_seconds=0.0, chance=0.0) for failures in range(1, 9)]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


@given(failures=st.integers(1, 10**9), least=st.floats(0, 1e6), chance=st.floats(0, 1, exclude_max=True))
def test_no_wait_is_below_the_least_or_the_backoff_nor_prolonged_by_more_than_the_jitter(failures, least, chance):
    wait = PLAIN.delay_seconds(failures, least_seconds=least, chance=chance)
    floor = max(least, min(2 ** min(failures - 1, 5), 30))
    assert floor <= wait <= floor * 1.2


def test_machines_that_failed_together_do_not_return_together():
    waits = [PLAIN.delay_seconds(1, least_seconds=65.0, chance=chance) for chance in (0.0, 0.5)]
    assert waits == [65.0, pytest.approx(71.5)]


def test_a_short_life_is_one_failure_more_and_a_long_one_starts_the_count_anew():
    assert PLAIN.failures(4, lived_seconds=59.9) == 5
    assert PLAIN.failures(4, lived_seconds=60.0) == 1
