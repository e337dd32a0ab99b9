"""The harness finds what is slower, and by how much, with a clock that the test turns."""

import math

import pytest

from benchmarks.harness import Spread, alternate, digits, forget_peak, peak_above_start, peak_bytes, pooled, spread


class Machine:
    """A clock, and work that takes its time on it; the machine may get slower while it runs."""

    def __init__(self, *, slows_down=1.0):
        self.now, self.slowness, self.slows_down = 0.0, 1.0, slows_down

    def clock(self):
        return self.now

    def work(self, seconds):
        def run():
            self.now += seconds * self.slowness
            self.slowness *= self.slows_down

        return run


def ratio_of(machine, seconds, *, reference=1.0):
    works = {"it": machine.work(seconds)}
    timed = alternate(machine.work(reference), works, rounds=5, at_least_seconds=0.0, clock=machine.clock)
    return timed["it"].ratio


def test_a_ratio_is_the_time_of_the_work_over_that_of_the_reference():
    assert ratio_of(Machine(), 3.0, reference=2.0) == Spread(middle=1.5, low=1.5, high=1.5)


def test_a_machine_that_gets_slower_does_not_change_a_ratio():
    assert ratio_of(Machine(slows_down=1.001), 3.0).middle == pytest.approx(3.0, rel=1e-5)


def test_short_work_is_repeated_until_a_reading_is_long_enough_and_its_ratio_is_that_of_one_call():
    machine, calls = Machine(), []
    short = machine.work(0.001)
    works = {"it": lambda: (calls.append(machine.now), short())}
    timed = alternate(machine.work(1.0), works, rounds=2, at_least_seconds=0.1, clock=machine.clock)
    assert timed["it"].ratio.middle == pytest.approx(0.001)
    assert 200 <= len(calls) <= 210  # two readings of 100, and a few calls to find that out


def test_rounds_end_early_when_enough_time_was_spent_but_not_before_the_third():
    machine, calls = Machine(), []
    works = {"it": lambda: (calls.append(machine.now), machine.work(1.0)())}
    limits = {"rounds": 9, "at_least_seconds": 0.0, "clock": machine.clock}
    alternate(machine.work(1.0), works, enough_seconds=0.5, **limits)
    assert len(calls) == 3
    alternate(machine.work(1.0), works, enough_seconds=13.0, **limits)
    assert len(calls) == 3 + 5  # a round takes three seconds


def test_the_reference_has_its_times_and_the_ratio_one():
    machine = Machine()
    works = {"it": machine.work(3.0)}
    own = alternate(machine.work(2.0), works, rounds=3, at_least_seconds=0.0, clock=machine.clock)[""]
    assert (own.ratio.middle, own.cpu_seconds.middle) == (1.0, 2.0)


def test_the_spread_is_the_median_and_the_quartiles():
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(middle=3.0, low=2.0, high=4.0)
    assert spread([7.0]) == Spread(middle=7.0, low=7.0, high=7.0)


def test_one_reading_that_went_wrong_makes_the_whole_spread_wrong():
    assert math.isnan(spread([1.0, math.nan, 1.0]).middle)


def test_several_processes_are_pooled_to_the_median_and_the_widest_quartiles():
    processes = [Spread(middle=middle, low=middle - 1, high=middle + 1) for middle in (9.0, 5.0, 6.0)]
    assert pooled(processes) == Spread(middle=6.0, low=4.0, high=10.0)


def test_a_quotient_of_spreads_is_as_wide_as_it_can_be():
    quotient = Spread(middle=4.0, low=3.0, high=5.0).over(Spread(middle=2.0, low=1.0, high=2.5))
    assert quotient == Spread(middle=2.0, low=1.2, high=5.0)


@pytest.mark.parametrize(
    ("value", "text"), [(0.70449, "0.704"), (12.345, "12.3"), (1234.5, "1230"), (0.0123, "0.0123"), (math.nan, "nan")]
)
def test_figures_have_three_digits(value, text):
    assert digits(value) == text


def test_the_peak_is_that_of_the_work_and_not_of_what_came_before():
    bytearray(200 * 2**20)  # given back before the work begins
    held = bytearray(b"x" * 2**20)

    def work():
        bytearray(b"x" * (50 * 2**20))

    assert 45 * 2**20 < peak_above_start(work, calls=2) < 120 * 2**20
    forget_peak()
    assert peak_bytes() > len(held)
