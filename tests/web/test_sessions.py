"""Who is logged in: for how long, how many, and what of it is in memory."""

from __future__ import annotations

import pytest

from web.sessions import Sessions


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_token_finds_its_session_and_no_other_text_does(clock):
    sessions = Sessions(clock=clock)
    token, session = sessions.begin("ann", "merchant")
    assert sessions.find(token) is session
    for other in (None, "", token + "x", token[:-1], "é" * 43):
        assert sessions.find(other) is None


def test_a_session_ends_when_it_is_idle_and_when_it_is_old(clock):
    sessions = Sessions(idle_seconds=10, longest_seconds=25, clock=clock)
    token, _ = sessions.begin("ann", "merchant")
    for _ in range(2):
        clock.now += 9
        assert sessions.find(token)
    clock.now += 9  # 27 seconds after it began, and never idle for 10
    assert sessions.find(token) is None
    idle, _ = sessions.begin("ann", "merchant")
    clock.now += 11
    assert sessions.find(idle) is None


def test_a_session_that_was_logged_out_is_over_and_the_others_go_on(clock):
    sessions = Sessions(clock=clock)
    (ann, _), (bert, _), (again, _) = (sessions.begin(name, "merchant") for name in ("ann", "bert", "ann"))
    sessions.end(bert)
    assert sessions.find(bert) is None
    sessions.end_user("ann")
    assert (sessions.find(ann), sessions.find(again)) == (None, None)


def test_beyond_the_most_the_one_idle_longest_is_ended(clock):
    sessions = Sessions(most=2, clock=clock)
    first, _ = sessions.begin("a", "merchant")
    clock.now += 1
    second, _ = sessions.begin("b", "merchant")
    clock.now += 1
    assert sessions.find(first)
    third, _ = sessions.begin("c", "merchant")
    assert (bool(sessions.find(first)), bool(sessions.find(second)), bool(sessions.find(third))) == (True, False, True)


def test_a_form_token_of_another_session_is_not_taken(clock):
    sessions = Sessions(clock=clock)
    (_, one), (_, other) = sessions.begin("ann", "merchant"), sessions.begin("ann", "merchant")
    assert one.allows_form(one.form_token)
    assert not one.allows_form(other.form_token)
    assert not one.allows_form("")


def test_what_is_kept_logs_nobody_in_and_no_text_of_a_session_has_its_form_token(clock):
    sessions = Sessions(clock=clock)
    token, session = sessions.begin("ann", "merchant")
    assert token.encode() not in b"".join(sessions._sessions)
    assert session.form_token not in repr(session)
