"""Checklist: D5, D16, D41, D46, D48.

Whole numbers on a public grid: how far one customer moves them, whose noise carries the guarantee whoever is lost or
dishonest, and that they add up to the last bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from pp_model.accounting import epsilon_spent
from pp_model.discrete_noise import LARGEST_SIGMA, LEAST_SIGMA, discrete_gaussian, slack
from pp_model.integer_sum import (
    GRID_BITS,
    LARGEST_BITS,
    NOISE_MARGIN,
    NoiseShares,
    as_update,
    integer_share,
    noise_shares,
    secure_epsilons,
    sensitivity,
    step_of,
    top_up_of,
)
from pp_model.plan import LEAST_NOISE_IN_A_SUM, MOST_IN_A_SUM, MOST_NOISE_IN_A_SUM, Peer, SecureSumPlan, TrainingPlan
from simulations.seeded import SeededSource
from tests.support.plans import tiny_dp, tiny_plan, tiny_server
from tests.support.privacy_loss import gaussian_delta, gaussian_epsilon

FALSE_ALARM = 1e-9
NO_NOISE = NoiseShares(base=0.0, top_up=0.0)
LARGEST = 2**LARGEST_BITS
MOST_PARAMETERS = 8 * 2**20  # a letter of 64 MiB, the longest there is
MOST_ROUNDS = 100_000


def sum_of(merchants: int, threshold: int, dishonest: int, *, noise: float = 1.0, **changes) -> TrainingPlan:
    """A secure sum of so many merchants; `changes` to the plan."""
    roster = tuple(Peer(name=f"shop-{number}", key=f"SHA256:{number}") for number in range(merchants))
    return tiny_plan(
        trust="secure_sum",
        secure_sum=SecureSumPlan(roster=roster, dishonest=dishonest, rounds_per_block=10),
        server=tiny_server(min_completions=threshold),
        dp=tiny_dp(noise_multiplier=noise),
        **changes,
    )


@st.composite
def sums(draw: st.DrawFn) -> tuple[TrainingPlan, int]:
    """Any plan of a secure sum, and how many of its merchants are in a block."""
    merchants = draw(st.integers(2, 60))
    dishonest = draw(st.integers(0, merchants - 2))
    threshold = draw(st.integers(max((merchants + dishonest) // 2 + 1, dishonest + 2), merchants))
    return sum_of(merchants, threshold, dishonest), draw(st.integers(threshold, merchants))


def rounded(clipped: NDArray[np.float64], *, max_grad_norm: float = 1.0) -> NDArray[np.int64]:
    """The integers of a merchant without noise."""
    words = SeededSource(1).words
    share = integer_share(clipped, max_grad_norm=max_grad_norm, shares=NO_NOISE, base=words, top_up=words)
    return share.view(np.int64)


# --- sensitivity (D41, D46)


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Two sums that differ by one customer's clipped gradient; some of them too large for the grid."""
    bound = draw(st.sampled_from([1e-3, 0.3, 1.0, 7.0, 1e3]))
    size = draw(st.integers(1, 40))
    largest = draw(st.sampled_from([1e-9, 1.0, 1e3, 2.0**20]))
    numbers = st.floats(-largest * bound, largest * bound)
    without = draw(hnp.arrays(np.float64, size, elements=numbers))
    way = draw(hnp.arrays(np.float64, size, elements=st.floats(-1, 1)))
    gradient = way * (bound * draw(st.floats(0, 1)) / max(np.linalg.norm(way), 1e-12))
    return without, without + gradient, bound


@given(neighbours())
def test_one_customer_moves_the_integers_by_at_most_the_stated_sensitivity(case):
    without, with_one, bound = case
    moved = rounded(with_one, max_grad_norm=bound) - rounded(without, max_grad_norm=bound)
    # a sum of 2**20 clip norms is itself only known to 2**-33 of one: half a step of the grid
    known_to = np.abs(without).max() / bound * 2.0 ** (GRID_BITS - 52) * math.sqrt(len(moved))
    assert np.linalg.norm(moved.astype(np.float64)) <= sensitivity(len(moved)) * (1 + 1e-12) + known_to


@pytest.mark.parametrize("size", [1, 4, 400])
def test_the_sensitivity_is_reached_but_for_the_rounding_of_the_worst_case(size):
    """Half a step below a half on one side, half a step above on the other: every coordinate moves one step more."""
    step = step_of(1.0)
    moved = rounded(np.full(size, 10.51 * step)) - rounded(np.full(size, 9.49 * step))
    assert moved.tolist() == [2] * size  # 1.02 steps apart, rounded to two
    assert np.linalg.norm(moved) > 1.02 * math.sqrt(size)  # so the clip norm alone would be too little
    assert np.linalg.norm(moved) <= 1.02 * math.sqrt(size) + math.sqrt(size)
    assert sensitivity(size) == 2.0**GRID_BITS + math.sqrt(size)


def test_rounding_adds_less_than_a_millionth_to_the_clip_norm_of_any_model_that_there_is():
    assert sensitivity(MOST_PARAMETERS) < (1 + 1e-6) * 2.0**GRID_BITS


@pytest.mark.parametrize(
    ("coordinate", "integer"),
    [
        pytest.param(math.nan, 0, id="not-a-number"),
        pytest.param(math.inf, LARGEST, id="infinite"),
        pytest.param(-math.inf, -LARGEST, id="minus-infinite"),
        pytest.param(1e290, LARGEST, id="huge"),
        pytest.param(2.0**20 + 1, LARGEST, id="a-million-customers-and-one"),
        pytest.param(-(2.0**20) - 1, -LARGEST, id="the-other-way"),
        pytest.param(5e-324, 0, id="tiny"),
        pytest.param(-0.0, 0, id="minus-zero"),
    ],
)
def test_a_coordinate_of_any_size_becomes_an_integer_within_bounds(coordinate, integer):
    assert rounded(np.array([coordinate, 1.0])).tolist() == [integer, 2**GRID_BITS]


# --- adding up


def shares_of(plan: TrainingPlan, clipped: NDArray[np.float64], *, members: int) -> tuple[list, list, list]:
    """Shares, base noises and top-ups of the merchants whose clipped sums are the rows."""
    noise = noise_shares(plan, members=members, parameters=clipped.shape[1])
    shares, bases, top_ups = [], [], []
    for number, row in enumerate(clipped):
        base, top_up = (SeededSource(100 * number + kind).words for kind in (1, 2))
        shares.append(integer_share(row, max_grad_norm=plan.dp.max_grad_norm, shares=noise, base=base, top_up=top_up))
        again = (SeededSource(100 * number + kind).words for kind in (1, 2))
        bases.append(discrete_gaussian(len(row), sigma=noise.base, words=next(again)).view(np.uint64))
        top_ups.append(top_up_of(len(row), noise, next(again)))
    return shares, bases, top_ups


def total_of(parts: list) -> NDArray[np.uint64]:
    return np.sum(parts, axis=0, dtype=np.uint64)


def test_shares_without_their_top_ups_are_the_plain_integers_and_the_base_noise_to_the_last_bit():
    plan = sum_of(5, 4, 1)
    clipped = np.random.default_rng(3).normal(0, 30, (5, 17))
    shares, bases, top_ups = shares_of(plan, clipped, members=5)
    plain = [rounded(row).view(np.uint64) for row in clipped]
    assert (total_of(shares) - total_of(top_ups)).tolist() == (total_of(plain) + total_of(bases)).tolist()
    assert any(part.any() for part in top_ups)


def test_with_drop_outs_the_top_ups_stay_in_to_the_last_bit():
    plan = sum_of(5, 4, 1)
    clipped = np.random.default_rng(4).normal(0, 30, (5, 17))
    shares, bases, top_ups = shares_of(plan, clipped, members=5)
    plain = [rounded(row).view(np.uint64) for row in clipped]
    four = (slice(0, 4),)[0]
    expected = total_of(plain[four]) + total_of(bases[four]) + total_of(top_ups[four])
    assert total_of(shares[four]).tolist() == expected.tolist()


def test_the_platform_draws_the_same_top_up_from_the_seed_as_the_merchant_did():
    noise = noise_shares(sum_of(5, 4, 1), members=5, parameters=50)
    one, again, other = (top_up_of(50, noise, SeededSource(seed).words) for seed in (3, 3, 4))
    assert one.tolist() == again.tolist() != other.tolist()


def test_without_noise_what_is_added_is_the_rounded_sum_and_no_word_is_drawn():
    plan = sum_of(5, 4, 1, noise=0.0)
    noise = noise_shares(plan, members=5, parameters=3)
    assert noise == NO_NOISE

    def none(size: int) -> NDArray[np.uint64]:
        raise AssertionError

    share = integer_share(np.array([0.5, -1.0, 2.0]), max_grad_norm=2.0, shares=noise, base=none, top_up=none)
    assert share.view(np.int64).tolist() == [2**30, -(2**31), 2**32]


def test_the_largest_sum_there_can_be_does_not_wrap_around():
    """As many merchants as there may be, all pull one way, under ten deviations of the most noise of a plan."""
    plan = sum_of(MOST_IN_A_SUM, MOST_IN_A_SUM, MOST_IN_A_SUM - 2, noise=MOST_NOISE_IN_A_SUM)
    noise = noise_shares(plan, members=MOST_IN_A_SUM, parameters=MOST_PARAMETERS)
    lost = noise_shares(
        sum_of(MOST_IN_A_SUM, MOST_IN_A_SUM // 2 + 2, 0, noise=200), members=MOST_IN_A_SUM, parameters=MOST_PARAMETERS
    )
    for shares in (noise, lost):
        largest = LARGEST + 10 * math.ceil(shares.base) + 10 * math.ceil(shares.top_up)
        assert MOST_IN_A_SUM * largest < 2**63
    pulled = [rounded(np.array([1e9, -1e9])).view(np.uint64)] * MOST_IN_A_SUM
    assert total_of(pulled).view(np.int64).tolist() == [MOST_IN_A_SUM * LARGEST, -MOST_IN_A_SUM * LARGEST]


def test_an_update_is_minus_the_sum_over_public_constants():
    """Of the whole roster, whoever was lost (D5)."""
    total = np.array([3 * 2**GRID_BITS, -5 * 2**GRID_BITS, 0], np.int64).view(np.uint64)
    assert as_update(total, sum_of(4, 4, 1, nominal_batch_size=8.0)).tolist() == [-3 / 32, 5 / 32, 0.0]
    assert as_update(total, sum_of(8, 6, 1, nominal_batch_size=8.0)).tolist() == [-3 / 64, 5 / 64, 0.0]


@pytest.mark.parametrize("max_grad_norm", [0.1, 1.0, 3.0])
def test_an_update_of_rounded_sums_is_that_of_the_sums_themselves(max_grad_norm):
    plan = dataclasses.replace(sum_of(5, 4, 1), dp=tiny_dp(max_grad_norm=max_grad_norm))
    clipped = np.random.default_rng(1).normal(0, 20 * max_grad_norm, (5, 30))
    total = total_of([rounded(row, max_grad_norm=max_grad_norm).view(np.uint64) for row in clipped])
    exact = -clipped.sum(axis=0) / (plan.nominal_batch_size * 5)
    off = 5 * step_of(max_grad_norm) / (plan.nominal_batch_size * 5)
    np.testing.assert_allclose(as_update(total, plan), exact, rtol=1e-12, atol=off)


# --- whose noise carries the guarantee (D16, D48)


EXACTLY = (1 + NOISE_MARGIN) ** 2


def planned(plan: TrainingPlan, parameters: int = 10) -> float:
    """Variance of the noise that the plan is charged for, in steps of the grid."""
    return (plan.dp.noise_multiplier * sensitivity(parameters)) ** 2


@given(sums())
def test_the_base_shares_of_the_honest_members_are_the_plans_noise_and_the_margin(case):
    plan, members = case
    honest = members - plan.secure_sum.dishonest
    noise = noise_shares(plan, members=members, parameters=10)
    assert honest * noise.base**2 == pytest.approx(EXACTLY * planned(plan), rel=1e-12)


@given(sums())
def test_both_shares_of_the_fewest_honest_survivors_are_the_plans_noise_and_the_margin(case):
    plan, members = case
    honest = plan.server.min_completions - plan.secure_sum.dishonest
    noise = noise_shares(plan, members=members, parameters=10)
    assert honest * (noise.base**2 + noise.top_up**2) == pytest.approx(EXACTLY * planned(plan), rel=1e-12)


def least_honest_noise(plan: TrainingPlan, *, members: int) -> Iterator[float]:
    """Variance of the honest survivors' noise, for every number of survivors and of colluders among them."""
    noise = noise_shares(plan, members=members, parameters=10)
    for survivors in range(plan.server.min_completions, members + 1):
        for colluders in range(plan.secure_sum.dishonest + 1):
            top_up = 0.0 if survivors == members else noise.top_up**2  # revealed where all survive
            yield (survivors - colluders) * (noise.base**2 + top_up)


@given(sums())
@example((sum_of(3, 3, 1), 3))
@example((sum_of(40, 24, 7), 40))
def test_whoever_is_lost_and_whoever_colludes_the_honest_survivors_add_the_plans_noise(case):
    plan, members = case
    assert min(least_honest_noise(plan, members=members)) >= planned(plan)


@given(sums())
def test_the_noise_of_a_member_is_one_that_can_be_drawn(case):
    plan, members = case
    for noise in (LEAST_NOISE_IN_A_SUM, MOST_NOISE_IN_A_SUM):
        shares = noise_shares(
            sum_of(len(plan.secure_sum.roster), plan.server.min_completions, plan.secure_sum.dishonest, noise=noise),
            members=members,
            parameters=MOST_PARAMETERS,
        )
        for sigma in (shares.base, shares.top_up):
            assert sigma == 0 or LEAST_SIGMA < sigma < LARGEST_SIGMA


def test_where_nobody_may_be_lost_there_is_no_top_up():
    assert noise_shares(sum_of(4, 4, 1), members=4, parameters=10).top_up == 0.0


# --- the noise as drawn (D16), each check with its twin


def measured(plan: TrainingPlan, *, survivors: int, size: int, top_ups_taken_out: bool) -> NDArray[np.float64]:
    """[parameters], the noise of the unmasked sum in units of the plan's."""
    shares, _, top_ups = shares_of(plan, np.zeros((survivors, size)), members=len(plan.secure_sum.roster))
    total = total_of(shares) - (total_of(top_ups) if top_ups_taken_out else np.uint64(0))
    return total.view(np.int64) / math.sqrt(planned(plan, size))


def variance_is(sample: NDArray[np.float64], variance: float) -> bool:
    """The sum of the squares over the variance is chi-square with as many degrees of freedom as there are numbers."""
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], df=len(sample))
    return bool(low < np.sum(sample**2) / variance < high)


@pytest.mark.statistical
def test_with_30_percent_dropped_the_measured_noise_is_more_than_the_plans_and_that_of_the_honest_is_the_plans():
    plan, size = sum_of(10, 7, 1), 30_000  # at which 5 % of the variance are seen
    everybody = measured(plan, survivors=7, size=size, top_ups_taken_out=False)
    honest = measured(plan, survivors=6, size=size, top_ups_taken_out=False)
    assert variance_is(everybody, 7 / 6)
    assert np.mean(everybody**2) > 1
    assert variance_is(honest, 1.0)
    assert not variance_is(1.05 * honest, 1.0)


@pytest.mark.statistical
def test_that_check_would_notice_survivors_without_their_top_ups():
    plan, size = sum_of(10, 7, 1), 30_000
    bare = measured(plan, survivors=7, size=size, top_ups_taken_out=True)
    assert variance_is(bare, 7 / 9)
    assert not variance_is(bare, 1.0)
    assert np.mean(bare**2) < 1


@pytest.mark.statistical
def test_where_nobody_is_lost_the_measured_noise_is_within_a_hundredth_what_n_merchants_for_n_minus_m_add():
    plan, size = sum_of(3, 3, 1), 200_000  # the interval is 2 % of the variance, 1 % of the deviation, to each side
    sample = measured(plan, survivors=3, size=size, top_ups_taken_out=True)
    assert variance_is(sample, 3 / 2)
    assert not variance_is(1.02 * sample, 3 / 2)
    assert not variance_is(0.98 * sample, 3 / 2)


@pytest.mark.statistical
def test_where_nobody_is_lost_the_top_ups_leave_nothing_behind():
    plan, size = sum_of(10, 7, 1), 30_000
    sample = measured(plan, survivors=10, size=size, top_ups_taken_out=True)
    assert variance_is(sample, 10 / 9)
    assert not variance_is(measured(plan, survivors=10, size=size, top_ups_taken_out=False), 10 / 9)


# --- the three epsilons


@pytest.mark.parametrize(("merchants", "threshold", "dishonest"), [(3, 3, 1), (8, 6, 1), (8, 8, 6), (5, 4, 0)])
def test_the_three_epsilons_are_in_the_order_of_what_the_onlooker_knows(merchants, threshold, dishonest):
    plan = sum_of(merchants, threshold, dishonest, noise=2.0)
    epsilons = secure_epsilons(plan)
    assert list(epsilons) == ["platform", "with_dishonest", "all_others"]
    alone, helped, own = epsilons.values()
    assert alone <= helped < own < math.inf
    assert (alone == helped) == (dishonest == 0)
    assert helped == epsilon_spent(plan.events, delta=plan.delta)


def test_what_all_others_leave_is_a_base_share_and_what_the_platform_sees_is_all_of_them():
    plan = sum_of(8, 6, 2, noise=2.0)
    alone, helped, own = secure_epsilons(plan).values()
    one_share = noise_shares(plan, members=8, parameters=1).base / (sensitivity(1) * (1 + NOISE_MARGIN))

    def price(shares: int) -> float:
        event = dataclasses.replace(plan.event, noise_multiplier=math.sqrt(shares) * one_share)
        return epsilon_spent([event.times(plan.rounds)], delta=plan.delta)

    assert [own, helped, alone] == pytest.approx([price(1), price(6), price(8)], rel=1e-6)


def test_without_noise_all_three_are_infinite():
    assert set(secure_epsilons(sum_of(3, 3, 1, noise=0.0)).values()) == {math.inf}


@pytest.mark.parametrize("members", [3, 100, MOST_IN_A_SUM])
def test_a_plan_without_a_secure_sum_has_none_of_this(members):
    with pytest.raises(ValueError, match="has no secure sum"):
        noise_shares(tiny_plan(), members=members, parameters=10)


# --- what whole numbers cost beyond the Gaussian that is charged


@pytest.mark.parametrize("noise", [LEAST_NOISE_IN_A_SUM, 0.1, 1.0, MOST_NOISE_IN_A_SUM])
def test_whole_numbers_cost_next_to_nothing_in_any_plan_that_there_can_be(noise):
    """As many merchants, two shares each, rounds and parameters as a plan and a message allow."""
    epsilon, delta = slack(
        sigma=noise * sensitivity(MOST_PARAMETERS),
        parameters=MOST_PARAMETERS,
        steps=MOST_ROUNDS,
        shares=2 * MOST_IN_A_SUM,
    )
    assert epsilon < 1e-5
    assert delta < 1e-8


@pytest.mark.parametrize("noise", [LEAST_NOISE_IN_A_SUM, 0.1, 1.0])
def test_they_cost_less_than_a_ten_millionth_in_a_run_of_100_merchants_1000_rounds_and_100000_parameters(noise):
    epsilon, delta = slack(sigma=noise * 2.0**GRID_BITS, parameters=100_000, steps=1_000, shares=200)
    assert epsilon < 1e-7
    assert delta < 1e-10


@pytest.mark.parametrize("noise", [0.3, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("delta", [1e-4, 1e-6, 1e-9])
def test_the_margin_earns_back_more_than_whole_numbers_cost_in_the_largest_plan(noise, delta):
    """By the exact delta of the Gaussian: one with the margin, plus what is lost, is no worse than one without."""
    epsilon = gaussian_epsilon(noise, delta)
    lost, chance = slack(
        sigma=noise * sensitivity(MOST_PARAMETERS),
        parameters=MOST_PARAMETERS,
        steps=MOST_ROUNDS,
        shares=2 * MOST_IN_A_SUM,
    )
    more = chance * delta / 1e-3
    assert gaussian_delta(epsilon - lost, noise * (1 + NOISE_MARGIN)) + more < delta
    assert gaussian_delta(epsilon - lost, noise) + more > delta


@pytest.mark.parametrize("merchants", [3, 20, MOST_IN_A_SUM])
def test_a_share_of_the_least_noise_is_still_far_above_the_eight_steps_that_the_cost_is_for(merchants):
    for members in {merchants, (merchants + 1) // 2 + 1}:
        noise = noise_shares(
            sum_of(merchants, (merchants + 1) // 2 + 1, 1, noise=LEAST_NOISE_IN_A_SUM), members=members, parameters=1
        )
        assert noise.base > 1e5
        assert noise.top_up == 0 or noise.top_up > 1e4
