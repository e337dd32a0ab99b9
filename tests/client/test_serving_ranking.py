"""The order of candidates: relevance is never lost, nothing is known of nobody, and what fits comes first."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.serving.ranking import Candidate, Taste, fit, ranked, weight_used
from pp_model.schema import NO_CATEGORY

share = st.floats(0, 1)
# From what an export may hold to what nobody sells.
price = st.one_of(st.integers(0, 10**12), st.integers(0, 20_000))
category = st.one_of(st.just(NO_CATEGORY), st.integers(0, 5))
candidates = st.lists(
    st.builds(Candidate, relevance=share, price_cents=price, category=category), min_size=1, max_size=12
)
tastes = st.builds(
    Taste,
    purchases=st.integers(0, 10**6),
    price_cents=st.floats(1, 1e12),
    spread=st.floats(1e-3, 30),
    means_cents=st.floats(1, 1e15),
    interest=st.dictionaries(st.integers(0, 5), share, max_size=4),
)

USUAL = Taste(purchases=20, price_cents=1_000.0, spread=0.7, means_cents=5_000.0, interest={1: 1.0, 2: 0.2})


def candidate(relevance: float = 0.5, price_cents: int = 1_000, category: int = 1) -> Candidate:
    return Candidate(relevance=relevance, price_cents=price_cents, category=category)


@given(candidates, tastes, share)
def test_every_figure_is_a_number_between_0_and_1(found, taste, weight):
    for each in ranked(found, taste, weight=weight):
        assert each.fit is not None
        for value in (each.value, each.fit.total, each.fit.price, each.fit.category):
            assert 0 <= value <= 1 + 1e-12


@given(candidates, tastes)
def test_a_weight_of_0_is_the_order_of_relevance(found, taste):
    by_relevance = sorted(range(len(found)), key=lambda place: -found[place].relevance)
    order = ranked(found, taste, weight=0.0)
    assert [each.candidate for each in order] == by_relevance
    assert [each.value for each in order] == [found[place].relevance for place in by_relevance]


@given(candidates, st.one_of(st.none(), tastes.map(lambda taste: Taste(**{**vars(taste), "purchases": 0}))), share)
def test_for_whom_nothing_is_known_the_order_is_that_of_relevance(found, taste, weight):
    order = ranked(found, taste, weight=weight)
    assert [each.candidate for each in order] == sorted(range(len(found)), key=lambda place: -found[place].relevance)
    assert [each.relevance_place for each in order] == list(range(len(found)))
    assert weight_used(taste, weight) == 0


@given(candidates, tastes, share, st.data())
def test_a_value_does_not_depend_on_the_other_candidates_or_on_their_order(found, taste, weight, data):
    shuffled = data.draw(st.permutations(range(len(found))))
    values = {each.candidate: each.value for each in ranked(found, taste, weight=weight)}
    again = {
        shuffled[each.candidate]: each.value for each in ranked([found[i] for i in shuffled], taste, weight=weight)
    }
    assert again == values
    for place, each in enumerate(found):
        assert ranked([each], taste, weight=weight)[0].value == values[place]


@given(candidates, tastes, share)
def test_all_candidates_are_there_once_in_the_order_of_their_values(found, taste, weight):
    order = ranked(found, taste, weight=weight)
    assert sorted(each.candidate for each in order) == list(range(len(found)))
    assert all(before.value >= after.value for before, after in pairwise(order))


@given(tastes, share, st.integers(1, 6))
def test_equal_candidates_stay_as_they_came(taste, weight, number):
    order = ranked([candidate()] * number, taste, weight=weight)
    assert [each.candidate for each in order] == list(range(number))


@given(tastes, share, share, share, price, category)
def test_more_relevance_never_lowers_the_value(taste, weight, one, other, price_cents, of):
    low, high = sorted((one, other))
    pair = [candidate(relevance, price_cents, of) for relevance in (low, high)]
    values = {each.candidate: each.value for each in ranked(pair, taste, weight=weight)}
    assert values[0] <= values[1]


@given(tastes, st.integers(1, 10**12), st.integers(1, 10**12), category)
def test_the_price_fit_falls_on_both_sides_of_the_best_price(taste, one, other, of):
    best = min(taste.price_cents, taste.means_cents)
    low, high = sorted((one, other))
    nearer, further = (low, high) if low >= best else (high, low)
    if (low >= best) == (high >= best):
        assert fit(taste, nearer, of).price >= fit(taste, further, of).price


@given(tastes, st.integers(1, 10**12), share, share)
def test_more_interest_in_a_category_never_lowers_the_fit(taste, price_cents, one, other):
    low, high = sorted((one, other))
    fits = [
        fit(Taste(**{**vars(taste), "interest": {0: 1.0, 1: interest}}), price_cents, 1).total
        for interest in (low, high)
    ]
    assert fits[0] <= fits[1]


@given(st.integers(0, 1000), share)
def test_the_weight_grows_with_what_is_known_up_to_what_was_asked_for(purchases, weight):
    def of(number):
        return weight_used(Taste(**{**vars(USUAL), "purchases": number}), weight)

    assert of(purchases) <= of(purchases + 1) <= weight
    assert of(5) == pytest.approx(weight / 2)


def test_the_usual_price_of_the_first_category_fits_best():
    assert fit(USUAL, 1_000, 1).total == pytest.approx(1.0)
    assert fit(USUAL, 1_000, 1).why == ("price:usual", "category:favourite")


@pytest.mark.parametrize(
    ("price_cents", "of", "why"),
    [
        (100, 2, ("price:below_usual", "category:bought")),
        (4_000, 3, ("price:above_usual", "category:not_bought")),
        (9_000, NO_CATEGORY, ("price:above_usual", "price:beyond_expected_spend", "category:none")),
    ],
)
def test_the_reasons_say_what_the_figures_say(price_cents, of, why):
    assert fit(USUAL, price_cents, of).why == why


def test_a_price_beyond_what_is_expected_to_be_spent_fits_less_than_the_price_alone_would_say():
    rich = Taste(**{**vars(USUAL), "means_cents": 1e9})
    assert fit(USUAL, 10_000, 1).price == pytest.approx(fit(rich, 10_000, 1).price / 2)


def test_what_fits_overtakes_what_is_a_little_more_relevant_and_says_from_where():
    order = ranked([candidate(0.60, 90_000, 3), candidate(0.55)], USUAL, weight=0.3)
    assert [each.candidate for each in order] == [1, 0]
    assert [each.relevance_place for each in order] == [1, 0]
    assert order[0].value == pytest.approx((1 - 0.24) * 0.55 + 0.24 * 1.0)
    assert math.isclose(weight_used(USUAL, 0.3), 0.24)
