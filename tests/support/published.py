"""A platform's folder with runs, rounds and signed models in it, as trainings leave them; nothing is trained."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from agreement.offer import EVERYBODY, Offer, sign_offer
from pp_model.model import fresh_arrays
from pp_model.plan import TrainingPlan
from pp_model.protocol import RefusalCode
from pp_model.serialization import fingerprint, to_safetensors
from server.aggregation import RejectionCode
from server.home import PlatformHome
from server.model_card import publish_model
from server.public_check import Finding, Verdict
from server.registry import Registry
from server.roster import Roster
from server.rounds import RoundOutcome
from server.run_folder import RunFolder
from server.serverapp import sign_model
from tests.support.market import market_plan
from tests.support.platform import NAME

VERDICT = Verdict(log_loss=0.61, spend_error=1.25)
HOUR = dt.timedelta(hours=1)


def outcome(**changes: Any) -> RoundOutcome:
    """A round in which two of four released."""
    fields: dict[str, Any] = {"round": 1, "cohort": 4, "completed": (11, 12), "update": {}, "norm": 0.5, "void": False}
    return RoundOutcome(**{**fields, **changes})


def troubled(**changes: Any) -> RoundOutcome:
    """A round with one release, one refusal and one answer that was not used."""
    fields: dict[str, Any] = {
        "completed": (11,),
        "refusals": {12: RefusalCode.BUDGET},
        "rejections": {13: RejectionCode.NORM},
    }
    return outcome(**{**fields, **changes})


def record(registry: Registry, run: int, played: RoundOutcome, *, verdict: Verdict = VERDICT) -> None:
    """A round with all that follows it: the check, and the state on the disk."""
    registry.record_round(run, played, seconds=2.5, names={11: "bakery", 12: "florist", 13: "grocer"})
    if not played.void:
        registry.record_check(run, played.round, verdict, Finding.GOOD)
        registry.record_checkpoint(run, played.round, f"{played.round:064d}")


def plan_for(name: str, **changes: Any) -> TrainingPlan:
    """A plan of two rounds, with `changes`."""
    plan = market_plan(plan_id=name, rounds=2, **changes)
    return dataclasses.replace(plan, init_fingerprint=fingerprint(fresh_arrays(plan.model, seed=1)))


def publish(home: PlatformHome, name: str, *, parent: int | None = None, **changes: Any) -> int:
    """The number of a signed model of the plan `name`, trained for two rounds under one offer."""
    plan = plan_for(name, **changes)
    init = fresh_arrays(plan.model, seed=1)
    key, now = home.signing_key(), dt.datetime.now(dt.UTC).replace(microsecond=0)
    home.registry.touch(mode=0o600)  # for its owner alone, whatever umask a test runs under
    with Roster(home.registry) as roster:
        serial = roster.next_serial()
    offer = Offer(
        platform=NAME,
        serial=serial,
        issued=now,
        not_before=now,
        expires=now + HOUR,
        audience=EVERYBODY,
        plan=plan,
    )
    folder = RunFolder(home.run_folder(name))
    folder.prepare(offer, sign_offer(offer, key), to_safetensors(init, {}))
    with Registry(home.registry) as registry:
        run = registry.start_run(plan, first_round=1)
        for number in (1, 2):
            record(registry, run, outcome(round=number))
        made = publish_model(
            folder.path,
            plan,
            fresh_arrays(plan.model, seed=sum(name.encode())),
            registry=registry,
            run=run,
            merchants=2,
            parent=parent,
            verdict=VERDICT,
        )
        sign_model(registry, made, folder=folder, home=home, platform=NAME, plan=plan)
        registry.end_run(run, "finished")
    return made
