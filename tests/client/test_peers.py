"""Who a merchant adds up with: a key that a person agreed to is that merchant's until a person says otherwise."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.peers import check_keys, newcomers, on_roster, pinned, roster_fingerprint
from pp_model.errors import PolicyError
from pp_model.plan import Peer, SecureSumPlan, TrainingPlan
from tests.support.plans import tiny_plan, tiny_server

KEYS = {"anna": "SHA256:a", "bert": "SHA256:b", "cleo": "SHA256:c"}


def sum_of(keys: dict[str, str] | None = None) -> TrainingPlan:
    """A secure sum of these merchants, all of whom must be left."""
    peers = tuple(Peer(name=name, key=key) for name, key in (keys or KEYS).items())
    return tiny_plan(
        trust="secure_sum",
        secure_sum=SecureSumPlan(roster=peers, dishonest=1, rounds_per_block=5),
        server=tiny_server(min_completions=len(peers)),
    )


def fingerprint(keys: dict[str, str] | None = None) -> str:
    sums = sum_of(keys).secure_sum
    assert sums is not None
    return roster_fingerprint(sums)


# --- what people compare by telephone


def test_a_rosters_fingerprint_is_eight_groups_of_four_that_can_be_read_aloud():
    assert re.fullmatch(r"([0-9a-f]{4}-){7}[0-9a-f]{4}", fingerprint())


@given(st.sampled_from(list(KEYS)), st.text("abcdef0123456789", min_size=2, max_size=8))
def test_another_key_of_any_merchant_is_another_fingerprint(name, key):
    assert fingerprint({**KEYS, name: f"SHA256:{key}"}) != fingerprint()


def test_neither_the_order_nor_the_names_that_the_platform_gives_change_the_fingerprint():
    """Another merchant may be shown another order; who they are is their keys."""
    assert fingerprint(dict(reversed(KEYS.items()))) == fingerprint()
    assert fingerprint({name.upper(): key for name, key in KEYS.items()}) == fingerprint()
    assert fingerprint({**KEYS, "dora": "SHA256:d"}) != fingerprint()


# --- pins


def test_what_is_pinned_is_the_key_in_the_plan_that_was_approved_last():
    newer = sum_of({**KEYS, "bert": "SHA256:new"})
    assert pinned([sum_of(), newer]) == {**KEYS, "bert": "SHA256:new"}
    assert pinned([newer, sum_of()]) == KEYS
    assert pinned([sum_of(), tiny_plan()]) == KEYS
    assert pinned([tiny_plan()]) == pinned([]) == {}


def test_a_merchant_that_is_in_no_later_plan_keeps_its_pin():
    without = {name: key for name, key in KEYS.items() if name != "cleo"} | {"dora": "SHA256:d"}
    assert pinned([sum_of(), sum_of(without)]) == {**KEYS, "dora": "SHA256:d"}


def test_newcomers_are_those_that_no_approved_plan_had_but_never_the_merchant_itself():
    plan = sum_of()
    assert newcomers(plan, {}, own="SHA256:b") == ["anna", "cleo"]
    assert newcomers(plan, {"anna": "SHA256:a"}, own="SHA256:b") == ["cleo"]
    assert newcomers(plan, KEYS, own="SHA256:b") == []
    assert newcomers(tiny_plan(), {}, own="SHA256:b") == []


def test_who_takes_part_is_on_the_roster_by_its_key():
    assert on_roster(sum_of(), "SHA256:c")
    assert not on_roster(sum_of(), "cleo")
    assert not on_roster(sum_of(), "SHA256:d")
    assert on_roster(tiny_plan(), "SHA256:d")


def test_a_pinned_merchant_with_another_key_is_refused_with_both_keys_and_what_to_do():
    plan = sum_of({**KEYS, "bert": "SHA256:theirs"})
    with pytest.raises(PolicyError) as caught:
        check_keys(plan, KEYS)
    for words in ("'bert'", "SHA256:theirs", "SHA256:b", "another way than the platform", "--changed-key bert"):
        assert words in str(caught.value)


def test_two_merchants_whose_keys_were_exchanged_are_both_refused():
    plan = sum_of({**KEYS, "anna": "SHA256:b", "bert": "SHA256:a"})
    for accepted in ((), ("anna",), ("bert",), ("cleo", "SHA256:b")):
        with pytest.raises(PolicyError):
            check_keys(plan, KEYS, accepted=accepted)
    check_keys(plan, KEYS, accepted=("anna", "bert"))


def test_unchanged_and_new_keys_pass_and_so_does_a_plan_without_a_sum():
    check_keys(sum_of(), KEYS)
    check_keys(sum_of(), {})
    check_keys(sum_of(), {"anna": "SHA256:a", "gone": "SHA256:x"})
    check_keys(dataclasses.replace(tiny_plan(), plan_id="x"), {"anna": "SHA256:x"})
