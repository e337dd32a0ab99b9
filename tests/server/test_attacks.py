"""The table of docs/robustness.md: what it says is stopped is stopped, and what it says is not does the damage stated.

Damage is the log loss of buying on later customers, and the mean absolute error of spend, after 25 rounds that were
attacked in each; `python -m tests.support.attacks` prints the whole table. Noise is seeded.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from pp_model.serialization import Arrays
from server.aggregation import RejectionCode
from server.rounds import initial_state
from tests.support.attacks import (
    MERCHANTS,
    ROUNDS,
    federation,
    little_is_enough,
    one_direction,
    played,
    run_of,
    scaled,
    updates_of,
    watched,
)

LOCAL = ["mean", "norm_filter", "trimmed_mean", "median"]
NAMING = LOCAL[1:]
HARMLESS = 0.01  # of log loss, above that without an attack; training won 0.157
LEFT_BY_THE_CHECK = 0.4  # nats


@lru_cache
def clean(way: str) -> float:
    return federation().log_loss(run_of(way, scaled(0, 1.0)).state.published)


def damage(way, attack, **changes) -> float:
    """By how much the attack makes the log loss worse."""
    return federation().log_loss(run_of(way, attack, **changes).state.published) - clean(way)


def spend_error(way, attack, **changes) -> float:
    return federation().mae(run_of(way, attack, **changes).state.published)


def one_round(sent, way):
    plan = federation().plan
    return played(sent, replace(plan, server=replace(plan.server, aggregation=way)), round=1)


@lru_cache
def honest():
    fed = federation()
    return updates_of(fed, fed.plan, initial_state(fed.plan, fed.init), mislabelled=0, seed=1)


def equal(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in other)


@pytest.mark.slow
def test_training_without_an_attack_wins_what_the_others_lose():
    start = federation().log_loss(federation().init)
    assert start - clean("mean") > 10 * HARMLESS


@pytest.mark.parametrize("way", LOCAL)
@pytest.mark.parametrize(
    ("times", "code"),
    [
        (1e3, RejectionCode.NORM),
        (-1e3, RejectionCode.NORM),
        (np.nan, RejectionCode.NOT_FINITE),
        (0.0, RejectionCode.ZERO),
    ],
    ids=["a-thousand-times", "a-thousand-times-backwards", "nan", "zeros"],
)
def test_what_no_honest_program_sends_is_named_and_moves_nothing_in_every_local_mode(way, times, code):
    outcome = one_round(scaled(1, times)(honest(), 1), way)
    assert outcome.rejections == {0: code}
    assert equal(outcome.update, one_round(honest()[1:], way).update)


@pytest.mark.parametrize("way", NAMING)
@pytest.mark.parametrize("attackers", [1, 4])
def test_updates_of_a_hundred_times_the_length_are_named_and_move_nothing(way, attackers):
    outcome = one_round(scaled(attackers, -100.0)(honest(), 1), way)
    assert outcome.rejections == dict.fromkeys(range(attackers), RejectionCode.OUTLIER)
    assert equal(outcome.update, one_round(honest()[attackers:], way).update)


@pytest.mark.slow
def test_the_norm_filter_keeps_its_quality_under_a_hundred_times_the_length_backwards():
    run = run_of("norm_filter", scaled(1, -100.0))
    assert run.left_out == {0: ROUNDS}
    assert federation().log_loss(run.state.published) - clean("norm_filter") < HARMLESS


@pytest.mark.slow
@pytest.mark.parametrize("way", ["mean", "secure_sum"])
def test_the_same_attack_destroys_the_mean_and_the_secure_sum_and_the_public_check_stops_the_run(way, tmp_path):
    assert damage(way, scaled(1, -100.0)) > 5
    back, stopped, model = watched(way, scaled(1, -100.0), tmp_path)
    assert len(back) == 1
    assert back[0] <= 6
    assert "collapsed again" in stopped
    # What stands is at most half a margin worse on made-up customers. On the merchants' own it may be more: measured
    # 1.0 where the start has .69 and the attack leaves 8.5.
    assert federation().log_loss(model) <= federation().log_loss(federation().init) + LEFT_BY_THE_CHECK


@pytest.mark.slow
@pytest.mark.parametrize("way", ["secure_sum", "median"])
def test_most_merchants_against_the_others_destroy_every_mode_and_the_public_check_stops_the_run(way, tmp_path):
    assert damage(way, scaled(6, -10.0)) > 5
    assert "collapsed again" in watched(way, scaled(6, -10.0), tmp_path)[1]


@pytest.mark.slow
@pytest.mark.parametrize("way", [*LOCAL, "secure_sum"])
def test_no_honest_run_is_put_back_and_nobody_in_it_is_named(way, tmp_path):
    assert run_of(way, scaled(0, 1.0)).named == {}
    assert watched(way, scaled(0, 1.0), tmp_path)[:2] == ([], "")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["mean", "trimmed_mean", "secure_sum"])
def test_one_of_ten_that_sends_its_update_backwards_is_not_stopped_and_does_little(way):
    assert damage(way, scaled(1, -1.0)) < HARMLESS


@pytest.mark.slow
def test_one_of_ten_with_wrong_labels_is_not_stopped_and_three_of_them_ruin_spend():
    assert damage("mean", scaled(0, 1.0), mislabelled=1) < 3 * HARMLESS
    assert spend_error("mean", scaled(0, 1.0), mislabelled=3) > 150
    assert spend_error("median", scaled(0, 1.0), mislabelled=3) < spend_error("mean", scaled(0, 1.0), mislabelled=3)


@pytest.mark.slow
def test_just_below_the_norm_filter_one_direction_passes_it_and_not_the_trimmed_mean():
    attack = one_direction(1, 4.0)
    assert damage("norm_filter", attack) > 2 * HARMLESS
    assert damage("trimmed_mean", attack) < HARMLESS
    assert damage("median", attack) < HARMLESS


@pytest.mark.slow
def test_little_is_enough_hurts_the_median_more_than_the_mean():
    attack = little_is_enough(2, 1.0)
    assert damage("mean", attack) < HARMLESS < damage("median", attack)


def test_lost_merchants_are_left_out_and_too_few_make_the_round_void():
    few = federation().plan.server.min_completions
    assert one_round(honest()[:few], "mean").completions == few
    assert not one_round(honest()[:few], "mean").void
    assert one_round(honest()[: few - 1], "mean").void
    assert len(honest()) == MERCHANTS
