"""pp-server run: offer a plan, wait for enough approvals, train it, and follow it to the model."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemons.exit_codes import Exit
from daemons.files import write_private
from server.commands import CommandError, add_json, control, hint, new_command, opened, say, say_json
from server.commands.plans import init_beside
from server.commands.progress import Watching
from server.home import PlatformHome, ServerConfig, checked_name, exclusive, is_held

if TYPE_CHECKING:
    from agreement.offer import Offer
    from server.control import ControlClient, RunStatus
    from server.registry import ModelRecord, Registry
    from server.run_folder import RunFolder

LOOK_SECONDS = 0.5
START_SECONDS = 120.0  # for SuperExec to start the ServerApp
GONE_SECONDS = 5.0  # from the end of the training to that of its run
UNSEEN_SECONDS = 45.0  # for the process to load PyTorch and take its lock
AWAY_SECONDS = 90.0  # the SuperLink is back within 30


def add(commands: Any) -> None:
    """The parser of `run`."""
    parser = new_command(
        commands,
        "run",
        _run,
        about="offer a signed plan to the merchants, wait for approvals, train it, and show how it goes",
        example="pp-server run may --wait 600",
        text="The platform must be up. Ctrl-C ends the watching alone: the run goes on, and the same command watches "
        "it again. After a crash, --resume continues from the last round that was finished, as a new Flower run.",
    )
    parser.add_argument("plan", metavar="PLAN", help="its name, or its .offer.json file")
    parser.add_argument("--wait", type=float, default=600.0, metavar="S", help="for approvals (default: 600 seconds)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="continue a run that stopped")
    how.add_argument("--stop", action="store_true", help="stop the run and take the offer back; it can be resumed")
    add_json(parser)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One offer to be run, and all that is needed for it."""

    name: str
    home: PlatformHome
    config: ServerConfig
    offer: Offer
    data: bytes
    init: bytes
    folder: RunFolder
    registry: Registry

    def command(self, flags: str = "") -> str:
        return hint(self.home, f"run {self.name}{flags}")

    def model(self) -> ModelRecord | None:
        """The model that the plan ended with."""
        wanted = self.offer.plan.fingerprint
        return next((m for m in self.registry.models() if m.signed and m.plan_fingerprint == wanted), None)


def _run(args: argparse.Namespace) -> int:
    from server.registry import Registry

    home, config = opened(args)
    file = _offer_file(home, args.plan)
    with Registry(home.registry) as registry:
        job = _job(args.plan, home, config, file, registry)
        if args.stop:
            return _stop(job)
        if model := job.model():
            _show_model(job, model, as_json=args.json)
            return Exit.DONE
        with control(home, config) as client:
            client.nodes()  # before anything is offered: is the platform up?
            flower_run = _running(client, job)
            if flower_run is None:
                flower_run = _start(client, job, resume=args.resume, wait=args.wait)
            else:
                say(f"{job.name} runs already; this shows how it goes on.")
        return _follow(job, flower_run, as_json=args.json)


def _job(name: str, home: PlatformHome, config: ServerConfig, file: Path, registry: Registry) -> _Job:
    from agreement.offer import OfferError, verify_offer
    from server.run_folder import RunFolder, read_init

    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise CommandError(
            Exit.BAD_INPUT, f"there is no {file}; sign the plan first: {hint(home, f'plan sign {name}')}"
        ) from None
    try:
        offer = verify_offer(data, home.verify_key())
    except OfferError as error:
        raise CommandError(Exit.INTEGRITY, f"{file}: {error}") from None
    read_init(init_beside(file), offer.plan)
    return _Job(
        name=name,
        home=home,
        config=config,
        offer=offer,
        data=data,
        init=init_beside(file).read_bytes(),
        folder=RunFolder(home.run_folder(offer.plan.plan_id)),
        registry=registry,
    )


def _offer_file(home: PlatformHome, plan: str) -> Path:
    return Path(plan).absolute() if plan.endswith(".json") else home.plans / f"{checked_name(plan)}.offer.json"


def _running(client: ControlClient, job: _Job) -> int | None:
    """The Flower run of this plan that is not over; None where there is none."""
    try:
        number = int(job.folder.flower_run_file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    status = _status(client, number)
    return None if status is None or status.status == "finished" else number


def _status(client: ControlClient, number: int) -> RunStatus | None:
    try:
        return client.run_status(number)
    except KeyError:  # the SuperLink's database is a new one
        return None


def _start(client: ControlClient, job: _Job, *, resume: bool, wait: float) -> int:
    from server.bundle import stub_bundle

    _check_dates(job)
    if job.folder.started() and not resume and any(job.folder.path.glob("checkpoints/round-*")):
        raise CommandError(
            Exit.RESUMABLE, f"a run of {job.name} stopped half-way. Continue it: {job.command(' --resume')}"
        )
    _await_approvals(job, wait)
    _check_dates(job)
    job.folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    busy = f"process {{pid}} is starting {job.name} right now; watch it: {job.command()}"
    with exclusive(job.folder.path / "start.lock", busy=busy):
        if (already := _running(client, job)) is not None:
            return already
        _end_stale(job)
        job.folder.prepare(job.offer, job.data, job.init)
        job.folder.failure_file.unlink(missing_ok=True)
        number = client.start_run(stub_bundle(), {"plan": job.folder.path.name})
        write_private(job.folder.flower_run_file, str(number).encode(), replace=True)
    return number


def _check_dates(job: _Job) -> None:
    import datetime as dt

    from agreement.offer import OfferError, check_dates

    try:
        check_dates(job.offer, now=dt.datetime.now(dt.UTC))
    except OfferError as error:
        again = job.command(" --resume" if job.folder.started() else "")
        raise CommandError(
            Exit.NOT_ALLOWED, f"{error}. Sign it again, {hint(job.home, f'plan sign {job.name}')}, and then {again}"
        ) from None


def _await_approvals(job: _Job, wait: float) -> None:
    """Puts the offer out and returns when enough merchants approved it."""
    from agreement.offer import verify_offer
    from server.roster import Decision, Roster

    needed, said = job.offer.plan.server.min_completions, dict[str, Decision]()
    with Roster(job.home.registry) as roster:
        for data in job.folder.offers().values():
            if (old := verify_offer(data, job.home.verify_key()).id) != job.offer.id:
                roster.close_offer(old)
        roster.open_offer(job.data, job.offer)
        say(f"Offer {job.offer.id} is out; {needed} merchants must approve it.")
        deadline = time.monotonic() + wait
        while len(roster.approved_nodes(job.offer.id)) < needed:
            for decision in roster.decisions(job.offer.id):
                if said.get(decision.merchant) != decision:
                    said[decision.merchant] = decision
                    say(f"  {decision.merchant}: {decision.state}{f' ({decision.code})' if decision.code else ''}")
            if time.monotonic() >= deadline:
                approved = len(roster.approved_nodes(job.offer.id))
                silent = ", ".join(m.name for m in roster.merchants() if m.name not in said)
                raise CommandError(
                    Exit.NOT_ALLOWED,
                    f"{approved} of {needed} approved within {wait:g} s; not heard of: {silent or 'nobody'}. "
                    f"The offer stays out. Wait again: {job.command(' --resume' if job.folder.started() else '')}\n"
                    f"Take it back: {job.command(' --stop')}",
                )
            time.sleep(LOOK_SECONDS)
        say(f"Approved by {', '.join(sorted(roster.approved_nodes(job.offer.id).values()))}.")


def _follow(job: _Job, number: int, *, as_json: bool) -> int:
    """Shows the rounds until the Flower run is over; the exit code."""
    from server.control import ControlClient, ControlError

    runs = [run for run in job.registry.run_records() if run.plan_fingerprint == job.offer.plan.fingerprint]
    before = max([run.id for run in runs if run.state != "running"], default=0)
    began = last_answer = time.monotonic()
    status: RunStatus | None = None
    process = _TrainingProcess(job.folder.training_lock)
    address = _address(job)
    try:
        with (
            Watching(job.registry, job.offer.plan, after_run=before) as watching,
            ControlClient(address, job.home.ca_certificate, job.home.read_operator_secret()) as client,
        ):
            while status is None or status.status != "finished":
                time.sleep(LOOK_SECONDS)
                watching.look()
                try:
                    status, last_answer = _status(client, number), time.monotonic()
                except ControlError as error:
                    if time.monotonic() - last_answer > AWAY_SECONDS:
                        raise CommandError(
                            Exit.RESUMABLE, f"{error}. Then continue: {job.command(' --resume')}"
                        ) from None
                    continue
                if status is None:
                    break
                if process.is_gone(status):
                    with suppress(ControlError):  # it is over by itself just now
                        client.stop_run(number)
                    break
                if status.status in ("pending", "starting") and time.monotonic() - began > START_SECONDS:
                    client.stop_run(number)
                    raise CommandError(
                        Exit.RESUMABLE,
                        f"SuperExec did not start the run within {START_SECONDS:g} s; see {job.home.log}. Then: "
                        f"{job.command(' --resume')}",
                    )
            watching.look()
    except KeyboardInterrupt:
        raise CommandError(
            Exit.INTERRUPTED, f"the run goes on. Watch it: {job.command()}\nStop it: {job.command(' --stop')}"
        ) from None
    return _ended(job, status, as_json=as_json)


class _TrainingProcess:
    """Tells that the process of a run died; Flower takes a minute to notice, and nobody could resume before."""

    def __init__(self, lock: Path) -> None:
        self._lock, self._seen, self._quiet_since = lock, False, math.inf

    def is_gone(self, status: RunStatus) -> bool:
        """Whether nobody trains although Flower says that the run is running."""
        now = time.monotonic()
        if is_held(self._lock) or status.status != "running":
            self._seen |= status.status == "running"
            self._quiet_since = math.inf
            return False
        self._quiet_since = min(self._quiet_since, now)
        return now - self._quiet_since > (GONE_SECONDS if self._seen else UNSEEN_SECONDS)


def _address(job: _Job) -> str:
    from server.commands import local_address

    return local_address(job.home, job.config)


def _ended(job: _Job, status: RunStatus | None, *, as_json: bool) -> int:
    from server.roster import Roster

    model = job.model()
    if model is not None:
        with Roster(job.home.registry) as roster:
            roster.close_offer(job.offer.id)
        _show_model(job, model, as_json=as_json)
        return Exit.DONE
    _end_stale(job)
    try:
        reason = job.folder.failure_file.read_text(encoding="utf-8")
    except OSError:
        reason = "its process was stopped or died" if status else "the SuperLink does not know it any more"
    raise CommandError(
        Exit.RESUMABLE, f"the run of {job.name} stopped: {reason}\nContinue it: {job.command(' --resume')}"
    )


def _end_stale(job: _Job) -> None:
    for run in job.registry.run_records():
        if run.state == "running" and run.plan_fingerprint == job.offer.plan.fingerprint:
            job.registry.end_run(run.id, "failed")


def _stop(job: _Job) -> int:
    from server.roster import Roster

    with Roster(job.home.registry) as roster:
        roster.close_offer(job.offer.id)
    with control(job.home, job.config) as client:
        number = _running(client, job)
        if number is not None:
            client.stop_run(number)
            _wait(lambda: _running(client, job) is None, seconds=30)
    _end_stale(job)
    say(f"{job.name} is stopped, and its offer is taken back." if number else f"The offer of {job.name} is taken back.")
    if job.folder.started() and job.model() is None:
        say(f"Continue it: {job.command(' --resume')}")
    return Exit.DONE


def _wait(done: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def _show_model(job: _Job, model: ModelRecord, *, as_json: bool) -> None:
    if as_json:
        say_json({"plan": job.offer.plan.plan_id, "model": model.id, "file": model.file, "sha256": model.sha256})
        return
    say(f"{job.name} is trained to its end: model {model.id}, {model.file}")
    say(
        f"Merchants get it with pp-client pull. A copy with card and chain: "
        f"{hint(job.home, f'export {model.id} --out DIR')}"
    )
