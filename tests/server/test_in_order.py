import weakref

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from server.in_order import InOrder

BYTES = 4  # of an update here


class Update(dict):
    """A dict that can be weakly referenced."""


def update_of(node: int) -> Update:
    return Update(w=np.array([node], np.float32))


def passed_on(order, arrivals, *, held_bytes=2**20) -> tuple[list[int], list[list[int]]]:
    """The nodes in the order in which theirs were passed on; and how many had been after each arrival."""
    passed, after = [], []
    queue = InOrder(order, lambda update: passed.append(int(update["w"][0])), held_bytes=held_bytes)
    for node, has_update in arrivals:
        queue.came(node, update_of(node) if has_update else None)
        after.append(list(passed))
    queue.end()
    assert queue.passed == passed
    return passed, after


@given(st.lists(st.integers(), unique=True, max_size=12), st.data())
def test_whatever_the_arrivals_updates_are_passed_on_in_order(order, data):
    order = list(range(len(order)))[:: data.draw(st.sampled_from([1, -1]))]
    arrivals = [(node, data.draw(st.booleans())) for node in data.draw(st.permutations(order))]
    come = arrivals[: data.draw(st.integers(0, len(arrivals)))]  # the others never do
    expected = [node for node in order if (node, True) in come]
    assert passed_on(order, come)[0] == expected


def test_each_is_passed_on_as_soon_as_all_before_it_have_come():
    _, after = passed_on([7, 8, 9], [(8, True), (9, True), (7, True)])
    assert after == [[], [], [7, 8, 9]]
    _, after = passed_on([7, 8, 9], [(7, True), (9, True), (8, False)])
    assert after == [[7], [7], [7, 9]]


def test_who_never_comes_holds_up_nobody_past_the_end():
    assert passed_on([7, 8, 9], [(9, True), (8, True)]) == ([8, 9], [[], []])


def test_beyond_the_bytes_that_may_be_held_the_first_of_those_held_goes_before_its_turn():
    _, after = passed_on([1, 2, 3, 4, 5], [(5, True), (3, True), (4, True), (2, True), (1, True)], held_bytes=2 * BYTES)
    assert after == [[], [], [3], [3, 2], [3, 2, 1, 4, 5]]


@given(st.permutations(range(30)), st.integers(0, 6))
def test_no_more_than_the_allowed_bytes_are_ever_held_and_each_is_passed_on_once(arrivals, held):
    passed, after = passed_on(range(30), [(node, True) for node in arrivals], held_bytes=held * BYTES)
    assert sorted(passed) == list(range(30))
    assert all(number - len(now) <= held for number, now in enumerate(after, start=1))


def test_what_has_been_passed_on_is_forgotten():
    queue = InOrder(range(3), pass_on=len)
    update = update_of(0)
    alive = weakref.ref(update)
    queue.came(0, update)
    del update
    assert alive() is None
