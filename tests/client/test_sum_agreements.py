"""Agreeing to add up with others: a person sees every new merchant, and no key changes unseen."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import pytest

from agreement.offer import Offer
from client.agreements import Agreement, Agreements
from pp_model.errors import NotApprovedError, PolicyError
from pp_model.plan import Peer, SecureSumPlan, TrainingPlan
from tests.support.offers import DAY, KEY, NOON, US, signed, tiny_offer
from tests.support.plans import tiny_plan, tiny_server
from tests.support.shops import tiny_policy

AUTOMATIC = tiny_policy(trust_modes=("local", "secure_sum"))
PEERS = {"us": US, "anna": "SHA256:a", "bert": "SHA256:b"}


def affordable(plan: TrainingPlan) -> None:
    """Everything fits."""


def opened(folder: Path) -> Agreements:
    period = {"starts": dt.date(2026, 1, 1), "ends": dt.date(2026, 12, 31)}
    return Agreements(folder / "agreements.sqlite", key=KEY.public, addressee=US, **period)


def sum_offer(serial: int, peers: dict[str, str] | None = None, *, plan_id: str = "sum") -> Offer:
    """A secure sum of these merchants, offered to everybody."""
    roster = tuple(Peer(name=name, key=key) for name, key in (peers or PEERS).items())
    plan = tiny_plan(
        plan_id=plan_id,
        trust="secure_sum",
        secure_sum=SecureSumPlan(roster=roster, dishonest=1, rounds_per_block=5),
        server=tiny_server(min_completions=len(roster)),
    )
    return dataclasses.replace(tiny_offer(serial=serial), plan=plan)


def considered(store: Agreements, offer: Offer, *, policy=AUTOMATIC) -> Agreement:
    return store.consider(signed(offer), policy=policy, afford=affordable, now=NOON)


def approved(store: Agreements, offer: Offer, *, changed_keys: tuple[str, ...] = ()) -> Agreement:
    return store.approve(offer.id, policy=AUTOMATIC, afford=affordable, by="ann", now=NOON, changed_keys=changed_keys)


def stands(found: Agreement) -> tuple[str, str]:
    return found.state.value, found.code.value if found.code else ""


def is_agreed(store: Agreements, offer: Offer) -> bool:
    try:
        store.agreed(offer.plan, now=NOON)
    except NotApprovedError:
        return False
    return True


def test_the_first_sum_waits_for_a_person_though_the_policy_approves_by_itself(tmp_path):
    store, offer = opened(tmp_path), sum_offer(1)
    assert stands(considered(store, tiny_offer(serial=9))) == ("approved", "")  # without a sum it does
    assert stands(considered(store, offer)) == ("waiting", "")
    assert not is_agreed(store, offer)
    assert stands(approved(store, offer)) == ("approved", "")
    assert is_agreed(store, offer)


def test_a_sum_of_merchants_that_a_person_agreed_to_is_approved_by_the_policy(tmp_path):
    store = opened(tmp_path)
    considered(store, sum_offer(1))
    approved(store, sum_offer(1))
    fewer = {name: PEERS[name] for name in ("anna", "us", "bert")}
    assert stands(considered(store, sum_offer(2, fewer, plan_id="again"))) == ("approved", "")


def test_a_newcomer_among_known_merchants_makes_the_offer_wait(tmp_path):
    store = opened(tmp_path)
    considered(store, sum_offer(1))
    approved(store, sum_offer(1))
    larger = sum_offer(2, {**PEERS, "cleo": "SHA256:c"}, plan_id="larger")
    assert stands(considered(store, larger)) == ("waiting", "")


def test_a_known_key_under_a_new_name_is_a_newcomer_too(tmp_path):
    store = opened(tmp_path)
    considered(store, sum_offer(1))
    approved(store, sum_offer(1))
    renamed = {"us": US, "anna 2": "SHA256:stranger", "bert": "SHA256:b"}
    assert stands(considered(store, sum_offer(2, renamed, plan_id="renamed"))) == ("waiting", "")


def test_an_offer_that_nobody_approved_pins_nothing(tmp_path):
    """A platform cannot make a key known by offering it."""
    store = opened(tmp_path)
    considered(store, sum_offer(1))
    store.reject(sum_offer(1).id, by="ann", now=NOON)
    considered(store, sum_offer(2, plan_id="waits"))
    assert stands(considered(store, sum_offer(3, plan_id="third"))) == ("waiting", "")


def test_a_changed_key_is_refused_by_the_policy_and_told_with_what_to_do(tmp_path):
    store = opened(tmp_path)
    considered(store, sum_offer(1))
    approved(store, sum_offer(1))
    swapped = sum_offer(2, {**PEERS, "bert": "SHA256:platform"}, plan_id="swapped")
    found = considered(store, swapped)
    assert stands(found) == ("refused", "policy")
    assert "--changed-key bert" in found.reason
    assert not is_agreed(store, swapped)


def test_a_person_approves_a_changed_key_only_by_naming_the_merchant(tmp_path):
    store = opened(tmp_path)
    considered(store, sum_offer(1))
    approved(store, sum_offer(1))
    swapped = sum_offer(2, {**PEERS, "bert": "SHA256:new"}, plan_id="swapped")
    considered(store, swapped)
    for names in ((), ("anna",), ("SHA256:new",)):
        with pytest.raises(PolicyError, match="--changed-key bert"):
            approved(store, swapped, changed_keys=names)
    assert not is_agreed(store, swapped)
    assert stands(approved(store, swapped, changed_keys=("bert",))) == ("approved", "")
    assert is_agreed(store, swapped)


def test_after_a_changed_key_the_new_one_is_pinned_and_the_old_one_refused(tmp_path):
    store, new = opened(tmp_path), {**PEERS, "bert": "SHA256:new"}
    considered(store, sum_offer(1))
    approved(store, sum_offer(1))
    considered(store, sum_offer(2, new, plan_id="swapped"))
    approved(store, sum_offer(2, new, plan_id="swapped"), changed_keys=("bert",))
    assert stands(considered(store, sum_offer(3, new, plan_id="third"))) == ("approved", "")
    assert stands(considered(store, sum_offer(4, plan_id="old"))) == ("refused", "policy")


def test_the_pins_outlast_the_rejection_of_the_plan_that_made_them(tmp_path):
    """Else a platform could have a key forgotten by annoying the merchant into a no."""
    store = opened(tmp_path)
    considered(store, sum_offer(1))
    approved(store, sum_offer(1))
    store.reject(sum_offer(1).id, by="ann", now=NOON + DAY)
    assert stands(considered(store, sum_offer(2, {**PEERS, "bert": "SHA256:x"}, plan_id="x"))) == ("refused", "policy")


def test_a_sum_without_this_merchant_is_for_others(tmp_path):
    store = opened(tmp_path)
    offer = sum_offer(1, {"anna": "SHA256:a", "bert": "SHA256:b", "cleo": "SHA256:c"})
    found = considered(store, offer)
    assert stands(found) == ("refused", "addressee")
    assert "not on its roster" in found.reason
    with pytest.raises(PolicyError, match="roster"):
        approved(store, offer)
    assert not is_agreed(store, offer)


def test_a_policy_of_local_trust_alone_refuses_a_sum(tmp_path):
    found = considered(opened(tmp_path), sum_offer(1), policy=tiny_policy())
    assert stands(found) == ("refused", "policy")
    assert "trust_modes" in found.reason
