"""The paired bootstrap: exact figures in every resample, and customers drawn once for all models and seeds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.bootstrap import aucs, log_losses, paired_gains

CUSTOMERS = 400


def share_of_pairs_won(bought, probability):
    """AUC pair by pair; NaN without a pair."""
    won = [
        1.0 if buyer > other else 0.5 if buyer == other else 0.0
        for buyer in probability[bought]
        for other in probability[~bought]
    ]
    return np.mean(won) if won else np.nan


def population(*, seed=0, customers=CUSTOMERS):
    """Log-odds of buying, and who bought by them."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0, 1.5, customers)
    return log_odds, rng.random(customers) < chance(log_odds)


def chance(log_odds):
    return 1 / (1 + np.exp(-log_odds))


def gains(bought, ours, theirs, *, seed=0):
    return paired_gains(bought, np.stack(ours), np.stack(theirs), rng=np.random.default_rng(seed), resamples=500)


def bounds(gain):
    return gain.mean, gain.low, gain.high


@given(
    st.integers(1, 9).flatmap(
        lambda n: st.tuples(
            hnp.arrays(bool, n),
            hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, 0.2, 0.2 + 1e-16, 0.5, 1.0])),
            hnp.arrays(np.int64, (3, n), elements=st.integers(0, 3)),
        )
    )
)
def test_the_auc_of_a_resample_is_the_share_of_pairs_won_with_ties_counted_half(case):
    bought, probability, counts = case
    by_pairs = [share_of_pairs_won(np.repeat(bought, drawn), np.repeat(probability, drawn)) for drawn in counts]
    np.testing.assert_allclose(aucs(bought, probability, counts), by_pairs, rtol=1e-12)


def test_the_log_loss_of_a_customer_is_what_was_not_said_of_what_happened_and_is_bounded():
    bought, said = np.array([True, False, True, False]), np.array([0.25, 0.25, 0.0, 1.0])
    np.testing.assert_allclose(log_losses(bought, said), [np.log(4), np.log(4 / 3), *[7 * np.log(10)] * 2], rtol=1e-6)


def test_a_model_against_itself_gains_exactly_nothing_in_any_resample():
    log_odds, bought = population()
    for gain in gains(bought, [chance(log_odds)], [chance(log_odds)]).values():
        assert bounds(gain) == (0.0, 0.0, 0.0)


def test_a_model_with_shifted_log_odds_is_worse_in_log_loss_and_ranks_the_same():
    log_odds, bought = population()
    found = gains(bought, [chance(log_odds)], [chance(log_odds + 1)])
    assert 0 < found["log_loss"].low < found["log_loss"].mean < found["log_loss"].high
    assert bounds(found["auc"]) == (0.0, 0.0, 0.0)


def test_a_model_that_ranks_by_less_of_what_is_known_is_worse_in_both():
    log_odds, bought = population()
    blurred = chance(log_odds + np.random.default_rng(1).normal(0, 2, CUSTOMERS))
    assert all(gain.low > 0 for gain in gains(bought, [chance(log_odds)], [blurred]).values())


def test_what_one_gains_the_other_loses():
    log_odds, bought = population()
    ours, theirs = chance(log_odds), chance(0.5 * log_odds + 0.3)
    forth, back = gains(bought, [ours], [theirs]), gains(bought, [theirs], [ours])
    for figure in forth:
        mean, low, high = bounds(forth[figure])
        assert bounds(back[figure]) == pytest.approx((-mean, -high, -low))


def test_the_mean_is_the_difference_of_the_figures_on_all_customers():
    log_odds, bought = population()
    ours, theirs = chance(log_odds), chance(np.round(log_odds))
    found = gains(bought, [ours], [theirs])
    by_pairs = share_of_pairs_won(bought, ours) - share_of_pairs_won(bought, theirs)
    assert found["auc"].mean == pytest.approx(by_pairs)
    assert found["log_loss"].mean == pytest.approx(np.mean(log_losses(bought, theirs) - log_losses(bought, ours)))


def test_a_seed_told_twice_narrows_nothing_because_its_customers_are_drawn_once():
    log_odds, bought = population()
    ours, theirs = chance(log_odds), chance(np.round(log_odds))
    once, twice = gains(bought, [ours], [theirs]), gains(bought, [ours] * 2, [theirs] * 2)
    for figure in once:
        assert bounds(twice[figure]) == pytest.approx(bounds(once[figure]), abs=1e-12)


def test_the_gain_of_several_seeds_is_the_mean_of_theirs():
    log_odds, bought = population()
    ours, theirs = [chance(log_odds), chance(log_odds - 0.5)], [chance(0.7 * log_odds), chance(np.round(log_odds))]
    together = gains(bought, ours, theirs)
    apart = [gains(bought, [our], [their]) for our, their in zip(ours, theirs, strict=True)]
    for figure in together:
        assert together[figure].mean == pytest.approx(np.mean([each[figure].mean for each in apart]))


def test_the_same_seed_of_the_resampling_gives_the_same_interval():
    log_odds, bought = population()
    pair = [chance(log_odds)], [chance(np.round(log_odds))]
    assert gains(bought, *pair, seed=3) == gains(bought, *pair, seed=3) != gains(bought, *pair, seed=4)


def test_where_all_bought_there_is_no_auc_to_gain_and_none_is_made_up():
    said = np.array([0.2, 0.5, 0.9])
    found = gains(np.ones(3, bool), [said], [said[::-1]])
    assert np.isnan(bounds(found["auc"])).all()
