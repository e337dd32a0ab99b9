"""Agreements: what is approved is exactly what was signed, addressed, valid and allowed."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from agreement.offer import DecisionState, OfferCode, OfferError
from agreement.signing import SigningKey
from pp_model.errors import BudgetExceededError, ConfigError, ExpiredError, NotApprovedError, PolicyError
from tests.support.agreed import ASK, AUTOMATIC, TOO_DEAR, affordable, agreed, approved, considered, opened, stands
from tests.support.offers import DAY, KEY, NOON, OTHERS, bit_flips, signed, tiny_offer
from tests.support.plans import tiny_dp
from tests.support.shops import tiny_policy


def test_a_plan_within_the_policy_is_approved_and_agreed(tmp_path):
    store, offer = opened(tmp_path), tiny_offer()
    assert stands(considered(store, offer)) == ("approved", "")
    store.agreed(offer.plan, now=NOON)


def test_a_plan_that_a_person_must_see_waits_until_it_is_approved(tmp_path):
    store, offer = opened(tmp_path), tiny_offer()
    assert stands(considered(store, offer, policy=ASK)) == ("waiting", "")
    with pytest.raises(NotApprovedError, match="pp-client approve"):
        store.agreed(offer.plan, now=NOON)
    assert stands(approved(store, offer)) == ("approved", "")
    store.agreed(offer.plan, now=NOON)


def test_what_a_person_said_stands_when_the_offer_comes_again(tmp_path):
    store, offer = opened(tmp_path), tiny_offer()
    considered(store, offer)
    store.reject(offer.id, by="ann", now=NOON)
    assert stands(considered(store, offer)) == ("refused", "rejected")
    assert not agreed(store, offer)
    approved(store, offer)
    assert stands(considered(store, offer, policy=ASK)) == ("approved", "")


def test_rejecting_withdraws_an_approval_at_once(tmp_path):
    store, offer = opened(tmp_path), tiny_offer()
    considered(store, offer)
    assert agreed(store, offer)
    opened(tmp_path).reject(offer.id[:5], by="ann", now=NOON)
    assert not agreed(store, offer)


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 4},
        {"dp": tiny_dp(noise_multiplier=0.999999)},
        {"dp": tiny_dp(sample_rate=0.500001)},
        {"plan_id": "tiny2"},
        {"answer_every_seconds": 1.0},
    ],
    ids=str,
)
def test_only_exactly_the_approved_plan_is_agreed(tmp_path, change):
    store, offer = opened(tmp_path), tiny_offer()
    considered(store, offer)
    with pytest.raises(NotApprovedError):
        store.agreed(dataclasses.replace(offer.plan, **change), now=NOON)


@pytest.mark.parametrize(
    ("offer", "now", "code"),
    [
        (tiny_offer(), NOON - DAY, OfferCode.NOT_YET_VALID),
        (tiny_offer(), NOON + 10 * DAY, OfferCode.EXPIRED),
        (tiny_offer(), NOON + 365 * DAY, OfferCode.EXPIRED),
        (tiny_offer(), NOON - 365 * DAY, OfferCode.NOT_YET_VALID),
        (tiny_offer(audience=(OTHERS,)), NOON, OfferCode.ADDRESSEE),
        (tiny_offer(plan={"dp": tiny_dp(noise_multiplier=0.1)}), NOON, OfferCode.POLICY),
        (tiny_offer(plan={"dp": tiny_dp(noise_multiplier=0.0)}), NOON, OfferCode.POLICY),
    ],
    ids=["not yet", "over", "a year late", "a year early", "for others", "too little noise", "no noise"],
)
def test_an_offer_that_must_not_be_taken_is_refused_by_its_code_and_kept_with_the_reason(tmp_path, offer, now, code):
    store = opened(tmp_path)
    found = considered(store, offer, now=now)
    assert (found.state, found.code) == (DecisionState.REFUSED, code)
    assert opened(tmp_path).all() == [found]
    assert len(found.reason) > 20
    assert not agreed(store, offer)


def test_a_whole_run_that_does_not_fit_the_budget_is_refused(tmp_path):
    found = considered(opened(tmp_path), tiny_offer(), afford=TOO_DEAR)
    assert stands(found) == ("refused", "budget")
    assert "from 1.00 to 9.00, over the budget of 3.00" in found.reason


def test_a_thousand_flipped_bits_are_refused_a_thousand_times_and_leave_nothing(tmp_path):
    store = opened(tmp_path)
    for flip in bit_flips(signed(tiny_offer()), count=1_000):
        with pytest.raises(OfferError) as caught:
            store.consider(flip, policy=AUTOMATIC, afford=affordable, now=NOON)
        assert caught.value.code is OfferCode.SIGNATURE
    assert store.all() == []
    assert not (tmp_path / "agreements.sqlite").exists()


def test_an_offer_of_another_key_or_an_unknown_version_is_refused(tmp_path):
    store = opened(tmp_path)
    with pytest.raises(OfferError, match="pinned key"):
        considered(store, tiny_offer(), key=SigningKey.generate())
    later = KEY.sign("offer", {**tiny_offer().document, "version": 2})
    with pytest.raises(OfferError, match="Update"):
        store.consider(later, policy=AUTOMATIC, afford=affordable, now=NOON)
    assert store.all() == []


def test_an_older_offer_of_a_plan_is_a_replay_and_another_plan_is_not(tmp_path):
    store = opened(tmp_path)
    considered(store, tiny_offer(serial=7, plan={"rounds": 2}))
    assert stands(considered(store, tiny_offer(serial=6))) == ("refused", "replayed")
    assert stands(considered(store, tiny_offer(serial=7, platform="twice"))) == ("refused", "replayed")
    assert stands(considered(store, tiny_offer(serial=5, plan={"plan_id": "other"}))) == ("approved", "")
    assert stands(considered(store, tiny_offer(serial=8))) == ("approved", "")


def test_an_offer_to_others_makes_ours_no_replay(tmp_path):
    store = opened(tmp_path)
    considered(store, tiny_offer(serial=7, audience=(OTHERS,)))
    assert stands(considered(store, tiny_offer(serial=6))) == ("approved", "")


def test_a_replayed_or_foreign_offer_cannot_be_approved_by_a_person_either(tmp_path):
    store = opened(tmp_path)
    old, foreign = tiny_offer(serial=6), tiny_offer(serial=9, audience=(OTHERS,), plan={"plan_id": "theirs"})
    for offer in (tiny_offer(serial=7, plan={"rounds": 2}), old, foreign):
        considered(store, offer)
    for offer in (old, foreign):
        with pytest.raises(PolicyError):
            approved(store, offer)
        assert not agreed(store, offer)


def test_an_offer_that_a_newer_one_replaced_cannot_be_approved_any_more(tmp_path):
    store, old = opened(tmp_path), tiny_offer(serial=1)
    considered(store, old, policy=ASK)
    considered(store, tiny_offer(serial=2, plan={"rounds": 2}), policy=ASK)
    with pytest.raises(PolicyError, match="new offer"):
        approved(store, old)


def test_a_person_cannot_approve_past_policy_budget_or_dates(tmp_path):
    store, offer = opened(tmp_path), tiny_offer()
    considered(store, offer, policy=ASK)
    with pytest.raises(PolicyError, match="least_noise_multiplier"):
        approved(store, offer, policy=tiny_policy(least_noise_multiplier=2.0))
    with pytest.raises(BudgetExceededError):
        approved(store, offer, afford=TOO_DEAR)
    for now in (NOON - DAY, NOON + 10 * DAY):
        with pytest.raises(ExpiredError):
            approved(store, offer, now=now)
    assert stands(store.find(offer.id)) == ("waiting", "")


def test_an_approved_plan_is_agreed_within_its_dates_only(tmp_path):
    store, offer = opened(tmp_path), tiny_offer()
    considered(store, offer)
    assert agreed(store, offer, now=NOON + 9 * DAY)
    for now in (NOON - dt.timedelta(seconds=1), NOON + 10 * DAY, NOON + 365 * DAY):
        with pytest.raises(ExpiredError):
            store.agreed(offer.plan, now=now)


def test_outside_the_period_nothing_is_agreed_and_the_remedy_is_a_new_period(tmp_path):
    store = opened(tmp_path, ends=dt.date(2026, 5, 3))
    offer = tiny_offer()
    considered(store, offer)
    assert agreed(store, offer, now=NOON + 2 * DAY)
    with pytest.raises(ExpiredError, match="begin a new period"):
        store.agreed(offer.plan, now=NOON + 3 * DAY)
    late = considered(store, tiny_offer(serial=2, plan={"plan_id": "late"}), now=NOON + 3 * DAY)
    assert stands(late) == ("refused", "expired")
    with pytest.raises(ExpiredError, match="begin a new period"):
        approved(store, late.offer, now=NOON + 3 * DAY)
    assert not agreed(opened(tmp_path, starts=dt.date(2026, 5, 2)), offer)


def test_the_same_plan_offered_again_with_later_dates_is_agreed_under_the_new_offer(tmp_path):
    store, again = opened(tmp_path), tiny_offer(serial=2, expires=NOON + 30 * DAY)
    considered(store, tiny_offer())
    considered(store, again)
    assert agreed(store, again, now=NOON + 20 * DAY)


def test_a_refusal_by_date_policy_or_budget_is_looked_at_anew_and_others_are_not(tmp_path):
    store, offer, foreign = opened(tmp_path), tiny_offer(), tiny_offer(serial=2, audience=(OTHERS,))
    assert stands(considered(store, offer, now=NOON - DAY)) == ("refused", "not_yet_valid")
    assert stands(considered(store, offer, afford=TOO_DEAR)) == ("refused", "budget")
    assert stands(considered(store, offer, policy=tiny_policy(least_noise_multiplier=2.0))) == ("refused", "policy")
    assert stands(considered(store, offer)) == ("approved", "")
    considered(store, foreign)
    assert stands(considered(store, foreign)) == ("refused", "addressee")


def test_looking_again_at_the_same_offer_adds_no_entry(tmp_path):
    store = opened(tmp_path)
    for _ in range(5):
        considered(store, tiny_offer(), policy=ASK)
        considered(store, tiny_offer(serial=2, plan={"plan_id": "dear"}), afford=TOO_DEAR)
    assert [len(store.history(found.offer.id)) for found in store.all()] == [1, 1]


def test_the_history_says_who_decided_what_and_when(tmp_path):
    store, offer = opened(tmp_path), tiny_offer()
    considered(store, offer, policy=ASK)
    approved(store, offer, now=NOON + DAY)
    store.reject(offer.id, by="bob", now=NOON + 2 * DAY)
    store.reject(offer.id, by="bob", now=NOON + 3 * DAY)
    events = [(event.by, event.state.value, event.time) for event in store.history(offer.id)]
    assert events == [
        ("policy", "waiting", NOON), ("ann", "approved", NOON + DAY), ("bob", "refused", NOON + 2 * DAY)
    ]  # fmt: skip


def test_the_beginning_of_an_id_is_enough_if_it_is_one_offers(tmp_path):
    store, offers = opened(tmp_path), [tiny_offer(plan={"plan_id": f"p{n}"}, serial=n) for n in range(1, 18)]
    for offer in offers:
        considered(store, offer)
    assert store.find(offers[3].id[:8].upper()).offer == offers[3]
    shared = next(a.id[0] for a in offers for b in offers if a != b and a.id[0] == b.id[0])
    with pytest.raises(ConfigError, match="write more of the id"):
        store.find(shared)
    for unknown in ("", "zz"):
        with pytest.raises(ConfigError, match="pp-client plans"):
            store.find(unknown)
