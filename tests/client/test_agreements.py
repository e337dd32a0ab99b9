"""Agreements: what is approved is exactly what was signed, addressed, valid and allowed, and stays so."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import shutil
import sqlite3
import stat
import threading
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agreement.offer import DecisionState, OfferCode, OfferError
from agreement.signing import SigningKey
from client.agreements import MOST_OFFERS, Agreement, Agreements
from client.agreements_file import AgreementsError
from client.ledger_file import NO_HASH, canonical, chained
from pp_model.errors import BudgetExceededError, ConfigError, ExpiredError, NotApprovedError, PolicyError
from pp_model.plan import TrainingPlan
from tests.support.offers import DAY, KEY, NOON, OTHERS, US, bit_flips, signed, tiny_offer
from tests.support.plans import tiny_dp
from tests.support.shops import raiser, tiny_policy

STARTS, ENDS = dt.date(2026, 1, 1), dt.date(2026, 12, 31)
AUTOMATIC = tiny_policy()
ASK = tiny_policy(approve="ask")


def affordable(plan: TrainingPlan) -> None:
    """Everything fits."""


TOO_DEAR = raiser(BudgetExceededError(spent=1.0, needed=9.0, budget=3.0))


def opened(folder: Path, **changes) -> Agreements:
    fields = {"key": KEY.public, "addressee": US, "starts": STARTS, "ends": ENDS, **changes}
    return Agreements(folder / "agreements.sqlite", **fields)


def considered(store: Agreements, offer, *, policy=AUTOMATIC, afford=affordable, now=NOON, key=KEY) -> Agreement:
    return store.consider(signed(offer, key), policy=policy, afford=afford, now=now)


def approved(store: Agreements, offer, *, policy=ASK, afford=affordable, now=NOON) -> Agreement:
    return store.approve(offer.id, policy=policy, afford=afford, by="ann", now=now)


def agreed(store: Agreements, offer, *, now=NOON) -> bool:
    try:
        store.agreed(offer.plan, now=now)
    except (NotApprovedError, ExpiredError):
        return False
    return True


def stands(found: Agreement) -> tuple[str, str]:
    return found.state.value, found.code.value if found.code else ""


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


def test_the_file_is_its_owners_alone(tmp_path):
    considered(opened(tmp_path), tiny_offer())
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_platform_cannot_fill_the_disk_with_offers(tmp_path, monkeypatch):
    assert MOST_OFFERS <= 2_000
    monkeypatch.setattr("client.agreements.MOST_OFFERS", 3)
    store = opened(tmp_path)
    for serial in range(1, 4):
        considered(store, tiny_offer(serial=serial))
    with pytest.raises(AgreementsError, match="the most that are kept"):
        considered(store, tiny_offer(serial=4))
    assert stands(considered(store, tiny_offer(serial=3))) == ("approved", "")


def rewrite(path: Path, change) -> None:
    """The file with other entries, whose chain of hashes is made to fit."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        bodies = [json.loads(body) for (body,) in db.execute("SELECT body FROM entries ORDER BY seq").fetchall()]
        db.execute("DELETE FROM entries")
        before = NO_HASH
        for seq, body in enumerate(change(bodies)):
            text = canonical(body)
            before = chained(before, text)
            db.execute("INSERT INTO entries VALUES (?, ?, ?)", (seq, text, before))
        db.commit()


def test_a_changed_entry_approves_nothing(tmp_path):
    store, offer = opened(tmp_path), tiny_offer()
    considered(store, offer, policy=ASK)
    with contextlib.closing(sqlite3.connect(tmp_path / "agreements.sqlite")) as db:
        assert db.execute("UPDATE entries SET body = replace(body, 'waiting', 'approved')").rowcount == 1
        db.commit()
    with pytest.raises(AgreementsError, match="damaged at entry 0"):
        store.agreed(offer.plan, now=NOON)


def test_an_approved_offer_of_another_plan_is_nothing_without_the_platforms_signature(tmp_path):
    """Even by somebody who can recompute the hashes."""
    store, offer = opened(tmp_path), tiny_offer()
    considered(store, offer)
    weak = tiny_offer(plan={"rounds": 100_000})
    forged = signed(weak, SigningKey.generate()).decode()
    rewrite(tmp_path / "agreements.sqlite", lambda bodies: [{**bodies[0], "data": forged, "offer": weak.id}])
    for plan in (weak.plan, offer.plan):
        with pytest.raises(NotApprovedError):
            store.agreed(plan, now=NOON)
    with pytest.raises(AgreementsError):
        store.all()


def test_a_genuine_offer_under_anothers_id_approves_nothing(tmp_path):
    store, small, large = opened(tmp_path), tiny_offer(), tiny_offer(serial=2, plan={"rounds": 9})
    considered(store, small)
    considered(store, large, policy=ASK)
    swapped = signed(large).decode()
    rewrite(tmp_path / "agreements.sqlite", lambda bodies: [{**bodies[0], "data": swapped}, bodies[1]])
    with pytest.raises(AgreementsError, match="another offer"):
        store.agreed(large.plan, now=NOON)


@pytest.mark.parametrize(
    "change",
    [
        lambda bodies: [{"offer": bodies[0]["offer"]}],
        lambda bodies: [{**bodies[0], "time": "now"}],
        lambda bodies: [{k: v for k, v in bodies[0].items() if k != "data"}],
        lambda bodies: [{**bodies[0], "state": "sure"}],
        lambda bodies: [{**bodies[0], "data": 5}],
        lambda bodies: [{**bodies[0], "code": "sure"}],
    ],
    ids=["no state", "no time", "no offer", "a new state", "no text", "a new code"],
)
def test_an_entry_that_this_program_never_wrote_is_told_as_that(tmp_path, change):
    store = opened(tmp_path)
    considered(store, tiny_offer())
    rewrite(tmp_path / "agreements.sqlite", change)
    with pytest.raises(AgreementsError):
        store.all()
    assert not agreed(store, tiny_offer())


def test_any_flipped_bit_of_the_file_is_noticed_or_changes_nothing(tmp_path):
    store, offer, waiting = opened(tmp_path), tiny_offer(), tiny_offer(serial=2, plan={"plan_id": "waits"})
    considered(store, offer)
    considered(store, waiting, policy=ASK)
    path = tmp_path / "agreements.sqlite"
    before, data = store.all(), path.read_bytes()
    noticed = 0
    for flip in bit_flips(data, count=300):
        path.write_bytes(flip)
        try:
            assert store.all() == before
        except AgreementsError:
            noticed += 1
        assert not agreed(store, waiting)
    assert noticed > 100


@pytest.mark.parametrize("damage", ["truncated", "not ours", "text", "a folder"])
def test_a_file_that_cannot_be_used_fails_closed_with_what_to_do(tmp_path, damage):
    path, offer = tmp_path / "agreements.sqlite", tiny_offer()
    store = opened(tmp_path)
    considered(store, offer)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:5_000])
    elif damage == "not ours":
        path.unlink()
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE entries (seq, body, hash)")
    elif damage == "text":
        path.write_text("hello " * 1_000)
    else:
        path.unlink()
        path.mkdir()
    for use in (store.all, lambda: store.agreed(offer.plan, now=NOON), lambda: considered(store, offer)):
        with pytest.raises(AgreementsError, match="move the file away"):
            use()


def test_a_read_only_folder_takes_no_offer_and_says_so(tmp_path):
    store = opened(tmp_path / "missing")
    with pytest.raises(AgreementsError):
        considered(store, tiny_offer())
    assert store.all() == []


def test_many_processes_at_once_lose_no_decision(tmp_path):
    def work(number: int) -> None:
        store = opened(tmp_path)
        for serial in range(1, 6):
            offer = tiny_offer(serial=serial, plan={"plan_id": f"{number}-{serial}"})
            considered(store, offer, policy=ASK)
            approved(store, offer)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened(tmp_path).approved()) == 20


class AgreementsLife(RuleBasedStateMachine):
    """Offers of three plans under rising and falling serials, people's decisions, time, restarts, against a dict."""

    def __init__(self):
        super().__init__()
        self.folder, self.now = Path(mkdtemp()), NOON
        self.known: dict[str, tuple] = {}  # offer id -> (offer, state, code)
        self.restart()

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule()
    def restart(self):
        self.store = opened(self.folder)

    @rule(days=st.integers(1, 4))
    def wait(self, days):
        self.now += days * DAY

    @rule(
        serial=st.integers(1, 6),
        plan=st.sampled_from("abc"),
        ask=st.booleans(),
        fits=st.booleans(),
        ours=st.booleans(),
        starts=st.integers(0, 8),
    )
    def offer(self, serial, plan, ask, fits, ours, starts):
        offer = tiny_offer(
            serial=serial,
            plan={"plan_id": plan},
            audience=(US if ours else OTHERS,),
            not_before=NOON + starts * DAY,
            expires=NOON + (starts + 5) * DAY,
        )
        found = considered(
            self.store, offer, policy=ASK if ask else AUTOMATIC, afford=affordable if fits else TOO_DEAR, now=self.now
        )
        before = self.known.get(offer.id)
        if before is None or (before[1] == "refused" and before[2] != "rejected"):
            self.known[offer.id] = (offer, *self.expected(offer, ask=ask, fits=fits))
        assert stands(found) == self.known[offer.id][1:]

    def expected(self, offer, *, ask, fits):
        newest = max(
            (
                o.serial
                for o, _, code in self.known.values()
                if o.plan.plan_id == offer.plan.plan_id and o.id != offer.id and code != "addressee"
            ),
            default=0,
        )
        if self.now < offer.not_before:
            return "refused", "not_yet_valid"
        if self.now >= offer.expires:
            return "refused", "expired"
        if US not in offer.audience:
            return "refused", "addressee"
        if offer.serial <= newest:
            return "refused", "replayed"
        if not fits:
            return "refused", "budget"
        return ("waiting", "") if ask else ("approved", "")

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def approve(self, data):
        offer, _, _ = self.known[data.draw(st.sampled_from(sorted(self.known)))]
        reason = self.expected(offer, ask=False, fits=True)[1]
        if reason:
            with pytest.raises(PolicyError):
                approved(self.store, offer, now=self.now)
        else:
            approved(self.store, offer, now=self.now)
            self.known[offer.id] = (offer, "approved", "")

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def reject(self, data):
        offer_id = data.draw(st.sampled_from(sorted(self.known)))
        self.store.reject(offer_id, by="ann", now=self.now)
        self.known[offer_id] = (self.known[offer_id][0], "refused", "rejected")

    @invariant()
    def every_offer_stands_where_the_model_says(self):
        assert {found.offer.id: stands(found) for found in self.store.all()} == {
            offer_id: (state, code) for offer_id, (_, state, code) in self.known.items()
        }

    @invariant()
    def a_plan_is_agreed_exactly_while_an_approved_offer_of_it_is_valid(self):
        for plan in "abc":
            offers = [o for o, state, _ in self.known.values() if o.plan.plan_id == plan and state == "approved"]
            valid = any(o.not_before <= self.now < o.expires for o in offers)
            assert agreed(self.store, tiny_offer(plan={"plan_id": plan}), now=self.now) == valid


AgreementsLife.TestCase.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)
TestAgreementsLife = AgreementsLife.TestCase
