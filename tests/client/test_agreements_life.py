"""Agreements against a dict, whatever comes in what order."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pp_model.errors import PolicyError
from tests.support.agreed import ASK, AUTOMATIC, TOO_DEAR, affordable, agreed, approved, considered, opened, stands
from tests.support.offers import DAY, NOON, OTHERS, US, tiny_offer


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
