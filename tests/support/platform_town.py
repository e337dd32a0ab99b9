"""A platform's folder with merchants, plans, runs of every kind and models in it, as months of work leave it.

Nothing is trained and nobody connects: what trainings and merchants leave behind is written by the same functions.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomli_w

from agreement.offer import EVERYBODY, DecisionState, Offer, OfferCode, sign_offer
from daemons.files import write_private
from pp_model.config import to_mapping
from pp_model.model import fresh_arrays
from pp_model.plan import Peer, SecureSumPlan, TrainingPlan
from pp_model.protocol import RefusalCode
from pp_model.serialization import Arrays, fingerprint, to_safetensors
from server.aggregation import RejectionCode
from server.dashboard.access import Desk
from server.dashboard.accounts import Accounts, accounts_file
from server.dashboard.app import make_desk
from server.home import PlatformHome
from server.model_card import publish_model
from server.public_check import Finding, Verdict
from server.registry import Registry
from server.roster import Roster
from server.rounds import RoundOutcome
from server.run_folder import RunFolder
from server.serverapp import sign_model
from tests.support.market import market_plan
from tests.support.plans import tiny_dp, tiny_server
from tests.support.platform import NAME, new_platform, public_key_file

HOUR = dt.timedelta(hours=1)
MERCHANTS = ("bakery", "florist", "grocer", "toyshop", "winebar")
NODES = {2**63 + at: name for at, name in enumerate(MERCHANTS)}
STATUS = dict(zip(NODES, ("online", "online", "offline", "online", "registered"), strict=True))
PASSWORDS = {"olga": "copper lantern seven walrus", "victor": "quiet harbour of mittens"}
"""An operator and a viewer."""


@dataclass(frozen=True, kw_only=True)
class Town:
    """What was made.

    Attributes:
        runs: by kind: "finished", "second", "failed", "void", "running", "sums".
        models: numbers of the published models, oldest first.
    """

    home: PlatformHome
    runs: dict[str, int]
    models: tuple[int, ...]


def new_town(folder: Path) -> Town:
    """A platform with five merchants and everything that the dashboard can show."""
    home = new_platform(folder)
    home.registry.touch(mode=0o600)  # as the command line's umask has it
    _merchants(home, folder.parent)
    init = fresh_arrays(market_plan().model, seed=1)
    spring, summer = _plan("spring", init, rounds=40), _plan("summer", init, rounds=60, noise=1.8)
    offers = {name: _offered(home, plan) for name, plan in (("spring", spring), ("summer", summer))}
    runs, models = {}, []
    runs["finished"], first = _finished(home, offers["spring"], init, seed=3, best=0.52, parent=None)
    runs["second"], second = _finished(home, offers["summer"], init, seed=5, best=0.49, parent=first)
    models += [first, second]
    with Registry(home.registry) as registry:
        runs["failed"] = _run(registry, _plan("june", init, rounds=30), played=11, seed=8, state="failed")
        runs["void"] = _run(registry, _plan("july", init, rounds=30), played=0, voids=3, seed=9, state="failed")
        running = _plan("autumn", init, rounds=50)
        runs["running"] = _run(registry, running, played=17, voids=1, seed=11)
        registry.ask_round(runs["running"], 18, deadline=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=170))
        sums = _sums(home, init)
        runs["sums"] = _run(registry, sums, played=9, seed=13, troubled=2)
    for plan in (_plan("june", init, rounds=30), _plan("july", init, rounds=30), running, sums, _plan("winter", init)):
        _offered(home, plan)
    _write_plan(home, _plan("draft", init, rounds=80))
    (home.plans / "broken.toml").write_text("not a plan")
    return Town(home=home, runs=runs, models=tuple(models))


def new_desk(home: PlatformHome, *, up: bool = True, secure: bool = False) -> Desk:
    """The dashboard's desk, with `PASSWORDS` in its accounts, and `STATUS` where a SuperLink would be asked."""
    home.registry.touch(mode=0o600)
    desk = make_desk(home, home.load_config(), secure=secure, nodes=lambda: STATUS if up else None)
    accounts = Accounts(accounts_file(home))
    if not accounts.all():
        accounts.add("olga", PASSWORDS["olga"], "operator")
        accounts.add("victor", PASSWORDS["victor"], "viewer")
    return desk


def many_rounds(home: PlatformHome, *, rounds: int, runs: int) -> None:
    """More runs of many rounds, to see how a page does with them."""
    init = fresh_arrays(market_plan().model, seed=1)
    for number in range(runs):
        with Registry(home.registry) as registry:
            _run(registry, _plan(f"long-{number}", init, rounds=rounds), played=rounds, seed=number, state="finished")


def _merchants(home: PlatformHome, folder: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    with Roster(home.registry) as roster:
        for at, (node, name) in enumerate(NODES.items()):
            merchant = roster.add(name, public_key_file(folder, name).read_bytes())
            roster.set_node(name, node)
            if STATUS[node] != "registered":
                ago = dt.timedelta(minutes=1) if STATUS[node] == "online" else dt.timedelta(days=3)
                roster.seen(merchant, now=now - ago, version=f"0.4.{at}")
        roster.add("antiques", public_key_file(folder, "antiques").read_bytes())
        roster.remove("antiques")


def _plan(name: str, init: Arrays, *, rounds: int = 40, noise: float = 1.5) -> TrainingPlan:
    return market_plan(
        plan_id=name,
        rounds=rounds,
        init_fingerprint=fingerprint(init),
        dp=tiny_dp(sample_rate=0.05, noise_multiplier=noise),
        server=tiny_server(min_completions=2, round_timeout_seconds=180.0),
    )


def _sums(home: PlatformHome, init: Arrays) -> TrainingPlan:
    with Roster(home.registry) as roster:
        keys = {merchant.name: merchant.fingerprint for merchant in roster.merchants()}
    return market_plan(
        plan_id="together",
        rounds=24,
        init_fingerprint=fingerprint(init),
        trust="secure_sum",
        dp=tiny_dp(sample_rate=1.0, noise_multiplier=9.0),
        server=tiny_server(min_completions=4, round_timeout_seconds=180.0),
        secure_sum=SecureSumPlan(
            roster=tuple(Peer(name=name, key=keys[name]) for name in MERCHANTS), dishonest=1, rounds_per_block=8
        ),
    )


def _write_plan(home: PlatformHome, plan: TrainingPlan) -> Path:
    file = home.plans / f"{plan.plan_id}.toml"
    file.write_text(tomli_w.dumps({name: value for name, value in to_mapping(plan).items() if value is not None}))
    return file


def _offered(home: PlatformHome, plan: TrainingPlan) -> Offer:
    """The plan's signed offer, put out, with what merchants said."""
    file, now = _write_plan(home, plan), dt.datetime.now(dt.UTC).replace(microsecond=0)
    with Roster(home.registry) as roster:
        audience = tuple(peer.key for peer in plan.secure_sum.roster) if plan.secure_sum else EVERYBODY
        offer = Offer(
            platform=NAME,
            serial=roster.next_serial(),
            issued=now,
            not_before=now - HOUR,
            expires=now + 24 * 14 * HOUR,
            audience=audience,
            plan=plan,
        )
        data = sign_offer(offer, home.signing_key())
        write_private(file.with_name(f"{plan.plan_id}.offer.json"), data)
        roster.open_offer(data, offer)
        for name in MERCHANTS[:3]:
            roster.decide(offer.id, name, DecisionState.APPROVED, None)
        if plan.plan_id == "winter":
            roster.decide(offer.id, "florist", DecisionState.WAITING, None)
            roster.decide(offer.id, "grocer", DecisionState.REFUSED, OfferCode.BUDGET)
    return offer


def _finished(
    home: PlatformHome, offer: Offer, init: Arrays, *, seed: int, best: float, parent: int | None
) -> tuple[int, int]:
    """(run, model) of a plan that was trained to its end."""
    plan, folder = offer.plan, RunFolder(home.run_folder(offer.plan.plan_id))
    folder.prepare(offer, sign_offer(offer, home.signing_key()), to_safetensors(init, {}))
    with Registry(home.registry) as registry:
        run = _run(registry, plan, played=plan.rounds, seed=seed, best=best)
        model = publish_model(
            folder.path,
            plan,
            fresh_arrays(plan.model, seed=seed),
            registry=registry,
            run=run,
            merchants=4,
            parent=parent,
            verdict=Verdict(log_loss=best, spend_error=2 * best),
        )
        sign_model(registry, model, folder=folder, home=home, platform=NAME, plan=plan)
        registry.end_run(run, "finished")
    return run, model


def _run(
    registry: Registry,
    plan: TrainingPlan,
    *,
    played: int,
    seed: int,
    voids: int = 0,
    best: float = 0.5,
    troubled: int = 5,
    state: str = "running",
) -> int:
    """A run with so many rounds that moved the model, after so many void ones; some merchants refused."""
    run, rng = registry.start_run(plan, first_round=1), np.random.default_rng(seed)
    for _ in range(voids):
        registry.record_round(run, _outcome(1, released=1, void=True, norm=0.0), seconds=180.0, names=NODES)
    for number in range(1, played + 1):
        odd = number % troubled == 0
        norm = float(0.8 + 1.6 * math.exp(-number / 12) + 0.05 * rng.standard_normal())
        played_round = _outcome(number, released=3 if odd else 4, void=False, norm=norm)
        registry.record_round(run, played_round, seconds=float(4 + rng.random()), names=NODES)
        loss = best + 0.18 * math.exp(-number / 10) + 0.004 * float(rng.standard_normal())
        finding = Finding.DOUBTFUL if state == "failed" and number == played else Finding.GOOD
        registry.record_check(run, number, Verdict(log_loss=loss, spend_error=2 * loss), finding)
        registry.record_checkpoint(run, number, f"{number:064d}")
    if state != "running":
        registry.end_run(run, "finished" if state == "finished" else "failed")
    return run


def _outcome(number: int, *, released: int, void: bool, norm: float) -> RoundOutcome:
    nodes: Sequence[int] = list(NODES)
    missing = nodes[released:]
    return RoundOutcome(
        round=number,
        cohort=len(nodes),
        completed=tuple(nodes[:released]),
        update={},
        norm=norm,
        void=void,
        refusals=dict.fromkeys(missing[1:], RefusalCode.BUDGET if number % 2 else RefusalCode.NOT_APPROVED),
        rejections=dict.fromkeys(missing[:1], RejectionCode.NORM if number % 3 else RejectionCode.NO_REPLY),
    )
