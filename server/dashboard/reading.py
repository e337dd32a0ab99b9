"""What pages read: the registry and the roster, opened for reading alone, and the plans' folder."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from agreement.offer import Offer, OfferError, verify_offer
from pp_model.errors import PurchasePowerError
from pp_model.plan import TrainingPlan
from server.commands.plans import read_plan
from server.dashboard.access import Desk
from server.registry import Registry, RoundRecord, RunRecord
from server.roster import Decision, Merchant, Roster

OVERDUE_SECONDS = 60  # after a round's deadline: whoever trains is gone, or has stalled
MOST_POINTS = 400  # of a chart of rounds


def registry_of(desk: Desk) -> Registry:
    """The registry; nothing of it can be changed."""
    return Registry(desk.home.registry, read_only=True)


def roster_of(desk: Desk) -> Roster:
    """The roster; nothing of it can be changed."""
    return Roster(desk.home.registry, read_only=True)


def moment(text: str | None) -> dt.datetime | None:
    """A time of the registry, in UTC; None where it is not known."""
    return dt.datetime.fromisoformat(text) if text else None


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as pages show it.

    Attributes:
        state: "running", "overdue", "finished", "failed", or "void" where it is over and no round moved the model.
        share: of the plan's rounds that are done, 0 to 1.
        seconds_left: until the deadline of the round that is asked for; None where none is.
        last: the newest round of it.
    """

    record: RunRecord
    plan: TrainingPlan
    state: str
    share: float
    seconds_left: int | None
    last: RoundRecord | None

    @property
    def live(self) -> bool:
        """Whether it may still go on."""
        return self.record.state == "running"


def run_view(registry: Registry, record: RunRecord, *, now: dt.datetime) -> RunView:
    """The run as it stands."""
    deadline = moment(record.deadline)
    left = None if deadline is None else (deadline - now).total_seconds()
    state = record.state
    rounds: Sequence[RoundRecord] = []
    if state == "running" or record.last_round < record.first_round:
        rounds = registry.rounds(record.id)
    if state == "running" and left is not None and left < -OVERDUE_SECONDS:
        state = "overdue"
    if state == "failed" and rounds and all(played.void for played in rounds):
        state = "void"
    return RunView(
        record=record,
        plan=registry.plan(record.id),
        state=state,
        share=min(1.0, max(0, record.last_round) / record.rounds),
        seconds_left=None if left is None else max(0, round(left)),
        last=rounds[-1] if rounds else None,
    )


def thinned(rounds: Sequence[RoundRecord], *, most: int = MOST_POINTS) -> list[RoundRecord]:
    """At most so many rounds, evenly spread; the last one is always among them."""
    step = -(-len(rounds) // most) if rounds else 1
    return list(rounds[::-1][::step])[::-1]


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """A plan in the plans' folder.

    Attributes:
        offer: as it was signed last; None where it was not, or was signed by somebody else.
        state: "draft", "changed" (since it was signed), "early", "open", "expired", "trained" to its end, or
            "unreadable".
        plan: None where it cannot be read.
    """

    name: str
    plan: TrainingPlan | None
    offer: Offer | None
    state: str


def plan_files(desk: Desk, *, now: dt.datetime) -> list[PlanFile]:
    """Every plan of the platform, the newest file first."""
    with registry_of(desk) as registry:
        trained = {model.plan_fingerprint for model in registry.models() if model.signed}
    files = sorted(desk.home.plans.glob("*.toml"), key=lambda file: (-file.stat().st_mtime, file.name))
    return [_plan_file(desk, file, now, trained) for file in files]


def _plan_file(desk: Desk, file: Path, now: dt.datetime, trained: Set[str]) -> PlanFile:
    try:
        plan = read_plan(file)
    except (PurchasePowerError, OSError):
        return PlanFile(name=file.stem, plan=None, offer=None, state="unreadable")
    try:
        offer = verify_offer(file.with_name(f"{file.stem}.offer.json").read_bytes(), desk.home.verify_key())
    except (OfferError, OSError):
        return PlanFile(name=file.stem, plan=plan, offer=None, state="draft")
    return PlanFile(
        name=file.stem,
        plan=plan,
        offer=offer,
        state="trained" if plan.fingerprint in trained else _state(offer, plan, now),
    )


def _state(offer: Offer, plan: TrainingPlan, now: dt.datetime) -> str:
    if offer.plan.fingerprint != plan.fingerprint:
        return "changed"
    if now < offer.not_before:
        return "early"
    return "open" if now < offer.expires else "expired"


def decided(roster: Roster, plans: Sequence[PlanFile]) -> dict[str, list[Decision]]:
    """What merchants said about each plan's offer, by plan."""
    return {plan.name: roster.decisions(plan.offer.id) for plan in plans if plan.offer is not None}


def status_of(merchant: Merchant, nodes: Mapping[int, str] | None) -> str:
    """ "online", "offline", "registered" (never seen), "unregistered", or "unknown" where the platform is not up."""
    if nodes is None:
        return "unknown"
    return "unregistered" if merchant.node_id is None else nodes.get(merchant.node_id, "unregistered")


def refusals_of(rounds: Sequence[RoundRecord]) -> Counter[str]:
    """How often merchants refused, by code."""
    return sum((Counter(played.refusals) for played in rounds), Counter())


def unusable_of(rounds: Sequence[RoundRecord]) -> Counter[str]:
    """How many answers could not be used, by code, without a name."""
    return Counter(code for played in rounds for code in played.rejections.values())
