"""pp-client doctor: each fault has its own line with a remedy, and hides no other; nothing is changed by looking."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agreement.offer import EVERYBODY, Offer, sign_offer
from agreement.signing import SigningKey
from client.agreements import open_agreements, within_budget
from client.checks import Examination, Finding, Level, findings
from client.checkup import CHECKS
from client.cli import main
from client.settings import load_settings
from daemons.exit_codes import Exit
from pp_model.accounting import epsilon_spent
from pp_model.plan import TrainingPlan
from server.roster import Roster
from tests.support.merchant_home import DAY, PLAN_KEY, TODAY, invitation, new_shop
from tests.support.orders import row, write_csv
from tests.support.plans import tiny_dp, tiny_plan
from tests.support.superlink import authority, server_certificate
from tests.support.tls_server import Handle, answers_over_tls, health, listening, running_platform

NOW = dt.datetime.now(dt.UTC)
CA = authority()
ALWAYS = {name for name, _ in CHECKS} - {"reports"}  # which says nothing where the contract names no column for them


@dataclass
class World:
    """A shop in which all is well, registered at a platform that answers.

    Attributes:
        stack: what a test starts in it is stopped with it.
    """

    folder: Path
    config: Path
    address: str
    stack: ExitStack

    @property
    def shop(self) -> Path:
        return self.config.parent

    def edit(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new, 1))

    def offer(self, plan: TrainingPlan, *, key: SigningKey = PLAN_KEY, **changes) -> Offer:
        with Roster(self.folder / "registry.sqlite") as roster:
            second = NOW.replace(microsecond=0)
            fields = {"platform": "Fair Prices", "serial": roster.next_serial(), "audience": EVERYBODY, "plan": plan}
            dates = {"issued": second, "not_before": second - DAY, "expires": second + DAY}
            offer = Offer(**{**fields, **dates, **changes})
            roster.open_offer(sign_offer(offer, key), offer)
        return offer

    def look(self, *, quick: bool = False, now: dt.datetime = NOW) -> list[Finding]:
        examination = Examination(config=self.config, now=now, quick=quick)
        return [finding for name, check in CHECKS for finding in findings(name, check, examination)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        address = stack.enter_context(running_platform(tmp_path, CA))
        made = new_shop(tmp_path / "shop", invitation=invitation(address, ca_pem=CA.pem))
        with Roster(tmp_path / "registry.sqlite") as roster:
            roster.add("bakery", made.public_key.encode())
        yield World(folder=tmp_path, config=made.config, address=address, stack=stack)


def private_plan(**changes) -> TrainingPlan:
    """A plan that the policy of the shop allows."""
    return tiny_plan(**{"delta": 1e-5, "dp": tiny_dp(noise_multiplier=8.0), **changes})


def test_a_shop_in_order_has_no_fault(world):
    world.offer(private_plan())
    found = world.look()
    troubles = [f for f in found if f.level is not Level.OK]
    assert [f.check for f in troubles] == ["authority"]  # a test's authority lives for a day
    assert {f.check for f in found} > ALWAYS


def elsewhere(handle) -> Callable[[World], None]:
    """The platform's address is that of another server."""

    def spoil(world: World) -> None:
        world.edit(world.address, world.stack.enter_context(listening(handle(world.folder))))

    return spoil


def answering(issuer=CA, *, ahead: float = 0, **certificate):
    def handle(folder: Path) -> Handle:
        date = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead)
        return answers_over_tls(*server_certificate(folder, issuer, **certificate), health(date=date))

    return handle


def edited(old: str, new: str) -> Callable[[World], None]:
    return lambda world: world.edit(old, new)


def orders_of(*rows: dict[str, str]) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        write_csv(world.shop / "orders.csv", rows)

    return spoil


def nobody_listens(world: World) -> None:
    held = world.stack.enter_context(socket.socket())
    held.bind(("127.0.0.1", 0))
    world.edit(world.address, f"127.0.0.1:{held.getsockname()[1]}")


def removed(world: World) -> None:
    with Roster(world.folder / "registry.sqlite") as roster:
        roster.remove("bakery")


def other_public_key(world: World) -> None:
    other = new_shop(world.folder / "other")
    shutil.copy(other.paths.node_public, world.shop / "keys/node.pub")


def charged(world: World, plan: TrainingPlan, tasks: int) -> None:
    with load_settings(world.config).open_ledger() as ledger:
        for number in range(tasks):
            ledger.charge(f"task-{number}", plan.dp.event, plan=plan.fingerprint, most_tasks=plan.rounds)


def damaged_ledger(world: World) -> None:
    charged(world, private_plan(), 1)
    ledger = load_settings(world.config).paths.ledger
    data = bytearray(ledger.read_bytes())
    data[5000] ^= 1
    ledger.write_bytes(data)


def old_ledger(world: World) -> None:
    charged(world, private_plan(), 1)
    ledger = load_settings(world.config).paths.ledger
    copy = ledger.read_bytes()
    charged(world, private_plan(plan_id="next"), 3)
    ledger.write_bytes(copy)


def lost_ledger(world: World) -> None:
    charged(world, private_plan(), 1)
    load_settings(world.config).paths.ledger.unlink()


def spent_budget(world: World) -> None:
    plan = private_plan()
    world.edit("epsilon_budget = 3.0", f"epsilon_budget = {epsilon_spent(plan.events, delta=1e-5)!r}")
    charged(world, plan, plan.rounds)


def chmod(path: str, mode: int) -> Callable[[World], None]:
    return lambda world: (world.shop / path).chmod(mode)


def without(path: str) -> Callable[[World], None]:
    return lambda world: (world.shop / path).unlink()


def as_text(path: str, text: str) -> Callable[[World], None]:
    return lambda world: (world.shop / path).write_text(text) and None


YESTERDAY, OLD, TO_COME = (f"{TODAY + days * DAY} 10:00:00" for days in (-1, -90, 30))
MANY = [row(f"customer-{number}", YESTERDAY) for number in range(300)]
F, W = Level.FAULT, Level.WARNING

TROUBLES = [
    pytest.param(without("merchant.toml"), "configuration", F, "pp-client init", id="no configuration"),
    pytest.param(as_text("merchant.toml", "x ="), "configuration", F, "not TOML", id="not TOML"),
    pytest.param(edited('"bakery"', '""'), "configuration", F, "merchant is empty", id="no name"),
    pytest.param(edited('"bakery"', '"FILL-IN"'), "configuration", F, "fill in.*merchant", id="blank at the top"),
    pytest.param(edited("delta = 1e-05", "delta = 0.1"), "configuration", F, "policy.delta is 0.1", id="delta"),
    pytest.param(edited("ed25519:", "rsa:"), "configuration", F, "not a plan-signing key", id="plan key"),
    pytest.param(chmod("keys/node.key", 0o644), "files", F, "chmod 600", id="key open to others"),
    pytest.param(chmod("secrets", 0o755), "files", F, "chmod 700", id="folder open to others"),
    pytest.param(without("secrets/runtime"), "files", F, "runtime does not exist", id="no secret"),
    pytest.param(without("keys/node.key"), "node key", F, "node.key cannot be read.*backup", id="no key"),
    pytest.param(as_text("keys/node.key", "x"), "node key", F, "not an ECDSA P-384 key", id="not a key"),
    pytest.param(other_public_key, "node key", F, "not the public half", id="two halves"),
    pytest.param(without("keys/node.pub"), "node key", F, "node.pub", id="no public key"),
    pytest.param(without("keys/ca.crt"), "plan key", F, "ca.crt", id="no authority"),
    pytest.param(as_text("keys/ca.crt", "x"), "plan key", F, "holds no certificate", id="not an authority"),
    pytest.param(edited('"auto"', '"cuda:99"'), "device", F, 'device = "cpu"', id="device that is not there"),
    pytest.param(edited('"auto"', '"abacus"'), "device", F, 'device = "cpu"', id="device that is none"),
    pytest.param(nobody_listens, "platform", F, "nothing listens there", id="port closed"),
    pytest.param(elsewhere(answering(authority("other"))), "platform", F, "by telephone", id="another authority"),
    pytest.param(elsewhere(answering(None)), "platform", F, "vouches for itself", id="self-signed"),
    pytest.param(elsewhere(answering(not_after=-DAY / 2)), "platform", F, "has expired", id="expired"),
    pytest.param(elsewhere(answering(hosts=["a.example"])), "platform", F, "another name", id="another name"),
    pytest.param(elsewhere(answering(ahead=86_400)), "platform", F, "timedatectl", id="clock far off"),
    pytest.param(
        elsewhere(answering(ahead=-30)),
        "clock",
        W,
        "timedatectl",
        id="clock a little off",
    ),
    pytest.param(elsewhere(answering()), "certificate", W, "in 1 day. Ask the platform to renew", id="expires soon"),
    pytest.param(removed, "registered", F, "Send keys/node.pub to the platform", id="key not registered"),
    pytest.param(without("orders.csv"), "orders", F, "no such file", id="no orders"),
    pytest.param(edited('customer_id = "customer_id"', 'customer_id = "kunde"'), "orders", F, "--column", id="column"),
    pytest.param(orders_of(*MANY, row("x", "soon")), "orders", F, "line 302, column 'timestamp'", id="bad row"),
    pytest.param(orders_of(*MANY, *MANY[:30]), "orders", W, "30 rows repeat", id="rows twice"),
    pytest.param(orders_of(*[{**r, "timestamp": OLD} for r in MANY]), "freshness", W, "90 days old", id="stale"),
    pytest.param(orders_of(*MANY, row("x", TO_COME)), "freshness", W, "still to come", id="future"),
    pytest.param(orders_of(*MANY[:100]), "customers", F, "orders hold 100", id="fewer customers than declared"),
    pytest.param(damaged_ledger, "ledger", F, "Put back a copy", id="damaged ledger"),
    pytest.param(lost_ledger, "ledger", F, "is gone", id="lost ledger"),
    pytest.param(old_ledger, "ledger", F, "old copy", id="old ledger"),
    pytest.param(edited("epsilon_budget = 3.0", "epsilon_budget = 9.0"), "plans", Level.OK, "of 9.00", id="budget"),
    pytest.param(spent_budget, "ledger", W, "until a new period begins", id="budget spent"),
]


@pytest.mark.parametrize(("spoil", "check", "level", "remedy"), TROUBLES)
def test_each_trouble_has_its_own_line_with_a_remedy_and_hides_no_other(spoil, check, level, remedy, world):
    world.offer(private_plan())
    spoil(world)
    found = world.look()

    assert [f for f in found if f.check == check and f.level is level and re.search(remedy, f.text)], found
    assert {f.check for f in found} >= ALWAYS
    assert not [f for f in found if "could not be checked" in f.text]


def test_a_blank_configuration_does_not_hide_the_platform_the_keys_and_the_orders(world):
    world.edit("epsilon_budget = 3.0", 'epsilon_budget = "FILL-IN"')
    found = {f.check: f for f in world.look()}
    assert {name for name, f in found.items() if f.level is Level.OK} >= {
        "files", "node key", "plan key", "platform", "clock", "registered", "orders", "period",
    }  # fmt: skip
    assert {name for name, f in found.items() if f.level is Level.SKIPPED} == {"customers", "ledger", "plans"}


def test_a_key_that_others_can_read_is_told_once_and_the_rest_is_looked_at(world):
    world.offer(private_plan())
    (world.shop / "keys/node.key").chmod(0o644)
    found = world.look(quick=True)
    assert [f.check for f in found if f.level is F] == ["files"]
    assert {f.check: f.level for f in found}["registered"] is Level.OK


@pytest.mark.parametrize(("days", "word"), [(-31, "has not begun"), (101, "is over")])
def test_outside_the_period_it_says_that_nothing_is_taken(days, word, world):
    found = {f.check: f for f in world.look(quick=True, now=NOW + days * DAY)}
    assert found["period"].level is Level.FAULT
    assert word in found["period"].text


PLANS = [
    pytest.param({}, {}, Level.OK, "waits for you: pp-client approve", id="to be approved"),
    pytest.param({"features": "long"}, {}, W, "would be refused.*longest_horizon_days", id="against the policy"),
    pytest.param({"rounds": 20_000}, {}, W, "would be refused.*epsilon_budget", id="over the budget"),
    pytest.param({}, {"audience": ("SHA256:other",)}, None, "", id="for others"),
    pytest.param({}, {"not_before": NOW.replace(microsecond=0) + DAY / 2}, W, "valid from", id="not yet valid"),
    pytest.param({}, {"key": SigningKey.generate()}, F, "not an offer signed with the pinned key", id="not signed"),
]


@pytest.mark.parametrize(("plan", "offer", "level", "words"), PLANS)
def test_each_offer_is_priced_and_judged(plan, offer, level, words, world):
    changes = dict(plan)
    if "features" in changes:
        changes["features"] = replace(tiny_plan().features, horizon_days=400)
        changes |= {"holdout_start": dt.date(2025, 12, 1)}
    world.offer(private_plan(**changes), **offer)
    found = [f for f in world.look(quick=True) if f.check == "plans"]

    if level is None:
        assert [f.text for f in found] == ["none is offered now"]
    else:
        assert [f.level for f in found] == [level]
        assert re.search(words, found[0].text)


def test_a_plan_that_no_longer_fits_beside_what_was_spent_is_told_before_it_matters(world):
    world.edit("epsilon_budget = 3.0", "epsilon_budget = 1.0")
    charged(world, private_plan(plan_id="first", rounds=15), 15)
    world.offer(private_plan(plan_id="second", rounds=15))
    (found,) = [f for f in world.look(quick=True) if f.check == "plans"]
    assert found.level is W
    assert "would be refused" in found.text


def test_what_was_decided_is_told(world):
    world.edit('approve = "ask"', 'approve = "automatic"')
    world.edit("approve_under_epsilon = 0.0", "approve_under_epsilon = 3.0")
    offers = [world.offer(private_plan(plan_id=name)) for name in ("yes", "no", "new")]
    settings = load_settings(world.config)
    agreements = open_agreements(settings)
    for offer in offers[:2]:
        agreements.consider(
            sign_offer(offer, PLAN_KEY), policy=settings.policy, afford=within_budget(settings), now=NOW
        )
    agreements.reject(offers[1].id, by="ann", now=NOW)
    texts = [f.text for f in world.look(quick=True) if f.check == "plans"]
    assert [text.rpartition("; ")[2] for text in texts] == [
        "it is approved", "you rejected it", "your policy approves it",
    ]  # fmt: skip


def test_looking_changes_nothing(world):
    charged(world, private_plan(), 2)
    world.offer(private_plan(plan_id="next"))
    before = tree(world.shop)
    world.look()
    assert tree(world.shop) == before


def test_looking_begins_no_ledger(world):
    world.offer(private_plan())
    before = tree(world.shop)
    world.look()
    assert tree(world.shop) == before


def tree(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_quick_does_not_read_the_orders(world):
    (world.shop / "orders.csv").unlink()
    found = {f.check: f for f in world.look(quick=True)}
    assert (found["orders"].level, found["customers"].level) == (Level.SKIPPED, Level.SKIPPED)


@pytest.mark.parametrize("canary", ["Zora.Canary@example.org", "98765432.10", "Zora Canary"])
def test_no_cell_of_an_order_is_ever_shown(canary, world, capsys):
    good = [row(canary, YESTERDAY) for _ in range(2)]
    for bad in ({}, {"timestamp": canary}, {"amount": canary}, {"customer_id": ""}):
        write_csv(world.shop / "orders.csv", [*good, {**row(canary, YESTERDAY), **bad}])
        for flags in ([], ["--json"]):
            main(["doctor", "--config", str(world.config), *flags])
    (world.shop / "orders.csv").write_text(f"{canary},{YESTERDAY},1\n")
    main(["doctor", "--config", str(world.config)])
    told = capsys.readouterr()
    assert canary not in told.out + told.err


def test_the_exit_code_and_the_json_say_whether_there_is_a_fault(world, capsys):
    assert main(["doctor", "--config", str(world.config), "--json"]) == Exit.DONE
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {"check", "level", "text"} == set(report["findings"][0])

    removed(world)
    assert main(["doctor", "--config", str(world.config), "--json"]) == Exit.FAULT_FOUND
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_the_report_is_one_line_a_finding_and_ends_with_the_next_step(world, capsys):
    assert main(["doctor", "--config", str(world.config), "--quick"]) == Exit.DONE
    *lines, blank, verdict = capsys.readouterr().out.splitlines()
    assert (blank, verdict) == ("", "No fault, 1 warning. You can go on: pp-client run")
    assert all(line.split()[0] in {"ok", "warning", "skipped"} for line in lines)
