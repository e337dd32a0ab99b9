"""What this merchant was offered and what became of it: a durable, append-only store, and the one gate before a task.

One SQLite file. Every entry carries the hash of the one before it, and an approval counts only while the platform's
signature on the very bytes that were approved still holds under the pinned key: whoever changes the file approves
nothing by it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agreement.node_keys import fingerprint_of
from agreement.offer import DecisionState, Offer, OfferCode, OfferError, check_dates, check_offer, verify_offer
from agreement.signing import VerifyKey
from client.agreements_file import DAMAGED, AgreementsError, Entries, changing, read
from client.peers import check_keys, newcomers, on_roster, pinned
from client.policy import Policy, check_plan, needs_approval
from client.settings import MerchantSettings
from client.spending import read_spending
from pp_model.errors import BudgetExceededError, ExpiredError, NotApprovedError, PolicyError
from pp_model.plan import TrainingPlan

MOST_OFFERS = 2_000  # a platform that signs more in one period is filling the disk
BY_POLICY = "policy"

Afford = Callable[[TrainingPlan], None]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """An offer and where it stands at this merchant.

    Attributes:
        code: why it is refused; None where it is not.
        reason: the same in words, for this merchant's eyes only.
        by: who decided: a local user, or `BY_POLICY`.
    """

    offer: Offer
    state: DecisionState
    code: OfferCode | None
    reason: str
    by: str
    decided: dt.datetime


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of an offer's history."""

    time: dt.datetime
    by: str
    state: DecisionState
    code: OfferCode | None


class Agreements:
    """Offers and decisions of one merchant in one period. Several processes may use one file.

    Args:
        path: the file; made, readable by its owner alone, where there is none. Its folder must exist.
        key: the platform's pinned plan-signing key.
        addressee: fingerprint of this merchant's node key.
        starts, ends: first and last day of the merchant's period. Outside it nothing is approved and nothing agreed.

    Raises:
        AgreementsError: from every method: the file is damaged, changed, not ours or not writable.
    """

    def __init__(self, path: Path, *, key: VerifyKey, addressee: str, starts: dt.date, ends: dt.date) -> None:
        self._path, self._key, self._addressee = Path(path), key, addressee
        self._starts, self._ends = starts, ends

    def consider(
        self, data: bytes, *, policy: Policy, afford: Afford, now: dt.datetime, by: str = BY_POLICY
    ) -> Agreement:
        """Where the offer in `data` stands now; durable when this returns.

        What a person decided stands, and so does an approval. A refusal by date, policy or budget is looked at anew,
        since the day, the merchant's policy and its ledger may have changed.

        Args:
            afford: returns if the whole run fits the budget, else raises `BudgetExceededError`.
            now: in UTC.

        Raises:
            OfferError: SIGNATURE or VERSION; there is nothing that could be kept.
        """
        offer = verify_offer(data, self._key)
        with changing(self._path) as entries:
            known = entries.latest.get(offer.id)
            if known is not None and not _open_to_change(known):
                return self._agreement(entries, offer.id)
            if known is None and len(entries.offers) >= MOST_OFFERS:
                raise AgreementsError(
                    f"{self._path} holds {MOST_OFFERS} offers, the most that are kept. Ask the platform "
                    "why it signs so many, and move the file away."
                )
            state, code, reason = self._judged(entries, offer, policy=policy, afford=afford, now=now)
            if known is None or (known["state"], known["code"], known["reason"]) != (state, code or "", reason):
                text = None if known else data.decode("ascii")
                entries.add(offer.id, state, code, reason, by=by, now=now, data=text)
            return self._agreement(entries, offer.id)

    def approve(
        self,
        offer_id: str,
        *,
        policy: Policy,
        afford: Afford,
        by: str,
        now: dt.datetime,
        changed_keys: Collection[str] = (),
    ) -> Agreement:
        """The agreement of the offer whose id begins with `offer_id`, approved. Approving again changes nothing.

        Policy and budget are asked once more: a person says yes within them, not past them.

        Args:
            changed_keys: merchants of a secure sum that are known to have another key than before.

        Raises:
            ConfigError: no offer, or several, of such an id.
            ExpiredError: the offer, or the merchant's period, is not yet or no longer valid.
            PolicyError: for others, replaced by a newer offer of the same plan, or against the policy.
            BudgetExceededError: the whole run does not fit what is left.
        """
        with changing(self._path) as entries:
            found = self._agreement(entries, entries.find(offer_id))
            try:
                self._check_offer(entries, found.offer, now=now)
            except OfferError as error:
                raise _as_policy(error) from None
            check_plan(found.offer.plan, policy)
            check_keys(found.offer.plan, self._pins(entries), accepted=changed_keys)
            afford(found.offer.plan)
            if found.state is not DecisionState.APPROVED:
                entries.add(found.offer.id, DecisionState.APPROVED, None, "", by=by, now=now)
            return self._agreement(entries, found.offer.id)

    def reject(self, offer_id: str, *, by: str, now: dt.datetime) -> Agreement:
        """The agreement of the offer whose id begins with `offer_id`, refused; an approval is withdrawn by it.

        Raises:
            ConfigError: no offer, or several, of such an id.
        """
        with changing(self._path) as entries:
            full = entries.find(offer_id)
            reason = "rejected by a person at this merchant"
            if (entries.latest[full]["state"], entries.latest[full]["code"]) != ("refused", OfferCode.REJECTED):
                entries.add(full, DecisionState.REFUSED, OfferCode.REJECTED, reason, by=by, now=now)
            return self._agreement(entries, full)

    def agreed(self, plan: TrainingPlan, *, now: dt.datetime) -> None:
        """Returns if exactly this plan is approved, and valid at `now` (UTC), within the merchant's period.

        Raises:
            NotApprovedError: no approved offer has this plan, or the store cannot vouch for it (`AgreementsError`).
            ExpiredError: it is approved, and not yet or no longer valid.
        """
        self._check_period(now)
        offers = [found.offer for found in self.approved() if found.offer.plan.fingerprint == plan.fingerprint]
        if not offers:
            raise NotApprovedError(
                f"plan {plan.plan_id!r} ({plan.fingerprint[:12]}) is not approved. See what is offered with pp-client "
                "plans, and approve it with pp-client approve ID."
            )
        faults = [error for offer in offers if (error := _date_fault(offer, now=now))]
        if len(faults) == len(offers):
            raise ExpiredError(str(faults[-1]))

    def approved(self) -> list[Agreement]:
        """Every agreement that is approved, whatever the day, in the order in which the offers came."""
        entries = read(self._path)
        return [self._agreement(entries, key) for key, body in entries.latest.items() if body["state"] == "approved"]

    def all(self) -> list[Agreement]:
        """Every agreement, in the order in which the offers came."""
        entries = read(self._path)
        return [self._agreement(entries, offer_id) for offer_id in entries.latest]

    def find(self, offer_id: str) -> Agreement:
        """The agreement of the offer whose id begins with `offer_id`.

        Raises:
            ConfigError: no offer, or several, of such an id.
        """
        entries = read(self._path)
        return self._agreement(entries, entries.find(offer_id))

    def changed_keys(self, offer_id: str) -> list[str]:
        """Merchants on the roster of a secure sum that had another key when they were agreed to last; else none.

        Raises:
            ConfigError: no offer, or several, of such an id.
        """
        entries = read(self._path)
        sums, pins = self._agreement(entries, entries.find(offer_id)).offer.plan.secure_sum, self._pins(entries)
        return [peer.name for peer in (sums.roster if sums else ()) if pins.get(peer.name, peer.key) != peer.key]

    def history(self, offer_id: str) -> list[Event]:
        """What was decided about the offer, oldest first."""
        entries = read(self._path)
        full = entries.find(offer_id)
        return [_event(body) for body in entries.bodies if body["offer"] == full]

    def _judged(
        self, entries: Entries, offer: Offer, *, policy: Policy, afford: Afford, now: dt.datetime
    ) -> tuple[DecisionState, OfferCode | None, str]:
        try:
            self._check_offer(entries, offer, now=now)
            check_plan(offer.plan, policy)
            check_keys(offer.plan, self._pins(entries))
            afford(offer.plan)
        except OfferError as error:
            return DecisionState.REFUSED, error.code, str(error)
        except ExpiredError as error:  # of the merchant's period
            return DecisionState.REFUSED, OfferCode.EXPIRED, str(error)
        except PolicyError as error:
            return DecisionState.REFUSED, OfferCode.POLICY, str(error)
        except BudgetExceededError as error:
            return DecisionState.REFUSED, OfferCode.BUDGET, _over_budget(error)
        if needs_approval(offer.plan, policy) or newcomers(offer.plan, self._pins(entries), own=self._addressee):
            return DecisionState.WAITING, None, ""
        return DecisionState.APPROVED, None, ""

    def _check_offer(self, entries: Entries, offer: Offer, *, now: dt.datetime) -> None:
        """Dates, addressee, serial and the merchant's period."""
        ours = [
            self._agreement(entries, key) for key, body in entries.latest.items() if body["code"] != OfferCode.ADDRESSEE
        ]
        others = [o.offer for o in ours if o.offer.id != offer.id and o.offer.plan.plan_id == offer.plan.plan_id]
        newest = max((other.serial for other in others), default=0)
        check_offer(offer, now=now, addressee=self._addressee, newest_serial=newest)
        if not on_roster(offer.plan, self._addressee):
            raise OfferError(
                OfferCode.ADDRESSEE,
                f"offer {offer.id} is a secure sum of other merchants: this key is not on its roster",
            )
        self._check_period(now)

    def _pins(self, entries: Entries) -> dict[str, str]:
        """The keys of the other merchants, as they were agreed to last."""
        ever = [body["offer"] for body in entries.bodies if body["state"] == DecisionState.APPROVED]
        latest_last = dict.fromkeys(reversed(ever))
        return pinned(self._agreement(entries, offer).offer.plan for offer in reversed(latest_last))

    def _check_period(self, now: dt.datetime) -> None:
        if not self._starts <= now.date() <= self._ends:
            raise ExpiredError(
                f"today is {now:%Y-%m-%d}, and the period in merchant.toml is from {self._starts} to {self._ends}. If "
                "the clock is right, begin a new period: give it a new name and dates under [period]. Its budget is a "
                "new one, for what happens in it."
            )

    def _agreement(self, entries: Entries, offer_id: str) -> Agreement:
        try:
            offer = verify_offer(entries.offers[offer_id].encode(), self._key)
        except OfferError as error:
            raise AgreementsError(f"{self._path}: offer {offer_id}: {error}. {DAMAGED}") from None
        if offer.id != offer_id:
            raise AgreementsError(f"{self._path}: offer {offer_id} holds another offer. {DAMAGED}")
        body = entries.latest[offer_id]
        event = _event(body)
        return Agreement(
            offer=offer, state=event.state, code=event.code, reason=body["reason"], by=event.by, decided=event.time
        )


def open_agreements(settings: MerchantSettings) -> Agreements:
    """The agreements of the configured merchant; nothing is read yet."""
    return Agreements(
        settings.paths.agreements,
        key=settings.plan_key,
        addressee=fingerprint_of(settings.node_key().public_key()),
        starts=settings.period.starts,
        ends=settings.period.ends,
    )


def within_budget(settings: MerchantSettings) -> Afford:
    """Asks the configured merchant's ledger, anew each time, whether a whole run fits beside what was charged.

    The function raises `BudgetExceededError`, or `LedgerError` where the ledger cannot tell.
    """
    return lambda plan: read_spending(settings).check(plan)


def _date_fault(offer: Offer, *, now: dt.datetime) -> OfferError | None:
    try:
        check_dates(offer, now=now)
    except OfferError as error:
        return error
    return None


def _as_policy(error: OfferError) -> PolicyError:
    dates = (OfferCode.NOT_YET_VALID, OfferCode.EXPIRED)
    return ExpiredError(str(error)) if error.code in dates else PolicyError(str(error))


def _open_to_change(body: Mapping[str, Any]) -> bool:
    return (body["state"], body["code"]) != ("refused", "rejected") and body["state"] == "refused"


def _event(body: Mapping[str, Any]) -> Event:
    return Event(
        time=dt.datetime.fromisoformat(body["time"]),
        by=body["by"],
        state=DecisionState(body["state"]),
        code=OfferCode(body["code"]) if body["code"] else None,
    )


def _over_budget(error: BudgetExceededError) -> str:
    return (
        f"The whole run would take epsilon from {error.spent:.2f} to {error.needed:.2f}, over the budget of "
        f"{error.budget:.2f}. To take part, ask for fewer rounds or more noise, or begin a new period when this one "
        "is over."
    )
