"""The daemon's decisions: what its children get, when they are started again, and when the platform is asked."""

from __future__ import annotations

import datetime as dt
import logging
import stat
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from agreement.node_keys import new_node_key
from agreement.offer import DecisionState, OfferCode
from agreement.signing import SigningKey
from client import daemon
from client.agreements import open_agreements, within_budget
from client.connect import PERMANENT, TEMPORARY, fault_of
from client.offer_poll import LONGEST_WAIT_SECONDS, PERMANENT_WAIT_SECONDS, OfferPoll
from client.platform import PlatformClient
from client.settings import load_settings
from client.supernode import unsafe
from daemons.files import PrivateFileError
from daemons.supervisor import ChildState, State
from pp_model.errors import ConfigError, LedgerError
from tests.support.market import Market, market, market_plan
from tests.support.merchant_home import new_shop
from tests.support.plans import tiny_dp
from tests.support.superlink import authority, server_certificate
from tests.support.tls_server import answers_over_tls, health, listening


@pytest.fixture
def place(tmp_path):
    with market(tmp_path) as running:
        yield running


@pytest.fixture
def poll_of():
    """Makes the poll of a merchant; its connections are closed after the test."""
    with ExitStack() as stack:

        def poll(place: Market, *, chance: float = 0.0, may_ask=lambda: True, **client) -> OfferPoll:
            settings = place.settings
            fields = {
                "address": place.address,
                "ca_pem": place.issuer.pem.decode(),
                "node_key": settings.node_key(),
                **client,
            }
            asking = stack.enter_context(PlatformClient(**fields))
            return OfferPoll(asking, open_agreements(settings), settings, may_ask=may_ask, chance=lambda: chance)

        yield poll


def decisions(place: Market, offer) -> list[tuple[DecisionState, OfferCode | None]]:
    return [(decision.state, decision.code) for decision in place.decisions(offer)]


def test_an_offer_is_taken_judged_and_its_state_told(place, poll_of):
    good, loud = place.offer(), place.offer(market_plan(plan_id="loud", dp=tiny_dp(noise_multiplier=0.01)))
    poll = poll_of(place)
    assert poll.once() == place.settings.local.poll_seconds
    assert decisions(place, good) == [(DecisionState.WAITING, None)]
    assert decisions(place, loud) == [(DecisionState.REFUSED, OfferCode.POLICY)]
    assert (poll.waiting, poll.connected) == (1, True)


def test_what_a_person_decides_is_told_at_the_next_look(place, poll_of):
    offer, settings = place.offer(), place.settings
    poll, store, now = poll_of(place), open_agreements(settings), dt.datetime.now(dt.UTC)
    poll.once()
    store.approve(offer.id, policy=settings.policy, afford=within_budget(settings), by="ann", now=now)
    poll.once()
    assert decisions(place, offer) == [(DecisionState.APPROVED, None)]
    store.reject(offer.id, by="ann", now=now)
    poll.once()
    assert decisions(place, offer) == [(DecisionState.REFUSED, OfferCode.REJECTED)]
    assert poll.waiting == 0


def test_a_forged_offer_is_logged_and_stops_no_other(place, caplog, poll_of):
    place.offer(market_plan(plan_id="forged"), key=SigningKey.generate())
    good = place.offer()
    poll_of(place).once()
    assert decisions(place, good) == [(DecisionState.WAITING, None)]
    assert [record.code for record in caplog.records if record.message == "offer not readable"] == ["signature"]


def test_a_platform_that_is_away_is_asked_less_and_less_and_told_once(tmp_path, caplog, poll_of):
    with market(tmp_path) as place:
        pass
    poll = poll_of(place)
    waits = [poll.once() for _ in range(7)]
    assert waits == [10.0, 20.0, 40.0, LONGEST_WAIT_SECONDS, *[LONGEST_WAIT_SECONDS] * 3]
    assert not poll.connected
    assert len([record for record in caplog.records if record.message == "platform not reached"]) == 1


@pytest.mark.parametrize("change", ["key", "authority"])
def test_what_somebody_has_to_mend_is_asked_for_once_a_minute(place, poll_of, change):
    wrong = {"key": {"node_key": new_node_key()}, "authority": {"ca_pem": authority().pem.decode()}}[change]
    assert poll_of(place, **wrong).once() >= PERMANENT_WAIT_SECONDS >= 30


def test_the_wait_is_prolonged_by_chance_never_shortened(place, poll_of):
    asked_every = place.settings.local.poll_seconds
    assert asked_every < poll_of(place, chance=0.999).once() < 1.25 * asked_every


def test_while_the_platform_may_not_be_asked_it_is_not(place, poll_of):
    offer, stop = place.offer(), threading.Event()
    poll = poll_of(place, may_ask=lambda: stop.set() or False)
    thread = threading.Thread(target=poll.run, args=(stop,))
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert decisions(place, offer) == []


def test_a_damaged_ledger_stops_the_offers_not_the_poll(place, poll_of):
    with place.settings.open_ledger() as ledger:
        ledger.charge("t", market_plan().dp.event, plan="p", most_tasks=None)
    data = bytearray(place.settings.paths.ledger.read_bytes())
    data[5_000] ^= 1
    place.settings.paths.ledger.write_bytes(bytes(data))
    offer = place.offer()
    assert poll_of(place).once() >= PERMANENT_WAIT_SECONDS
    assert decisions(place, offer) == []


@pytest.mark.parametrize(
    ("code", "lines", "least"),
    [
        (49, (), 65.0),
        (1, ("...", "Exit Code: 305"), 65.0),
        (PERMANENT, ("platform: another authority",), 30.0),
        (2, (), 30.0),
        (TEMPORARY, (), 0.0),
        (-9, (), 0.0),
    ],
)
def test_a_supernode_that_was_refused_waits_longer_than_it_counts_as_connected(code, lines, least):
    assert daemon.supernode_wait(code, lines) == least


@pytest.mark.parametrize(
    ("state", "last_exit", "allowed"),
    [
        (State.STARTING, None, False),
        (State.WAITING, PERMANENT, False),
        (State.STARTING, PERMANENT, False),
        (State.RUNNING, PERMANENT, True),
        (State.RUNNING, None, True),
        (State.WAITING, 1, False),
        (State.WAITING, TEMPORARY, True),
    ],
)
def test_a_platform_that_is_not_the_pinned_one_is_not_asked_for_offers_too(state, last_exit, allowed):
    child = ChildState(name="supernode", state=state, pid=None, waits_until=None, last_exit=last_exit, restarts=0)
    assert daemon.may_ask([child]) is allowed


def test_the_supernode_is_started_safely_and_tells_the_platform_nothing(tmp_path):
    settings = load_settings(new_shop(tmp_path / "shop").config)
    child = daemon.supernode_child(settings)
    command = list(child.command)
    assert command[1:4] == ["-P", "-m", "client.connect"]
    inner = command[command.index("client.supernode") + 1 :]
    assert unsafe(inner) == []
    assert "--node-config" not in inner
    assert inner[inner.index("--host") + 1] == "127.0.0.1"
    assert [child.restart.delay_seconds(n, least_seconds=65.0, chance=0.0) for n in (1, 5)] == [65.0, 65.0]


def test_a_childs_environment_has_no_proxy_and_no_secret_of_the_shell(tmp_path):
    settings = load_settings(new_shop(tmp_path / "shop").config)
    shell = {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "3",
        "HTTPS_PROXY": "http://proxy",
        "https_proxy": "http://proxy",
        "SSLKEYLOGFILE": "/tmp/keys",
        "SSL_CERT_FILE": "/tmp/ca",
        "AWS_SECRET_ACCESS_KEY": "x",
        "FLWR_HOME": "/elsewhere",
        "FLWR_TELEMETRY_ENABLED": "1",
        "PYTHONSTARTUP": "/tmp/x",
        "LD_PRELOAD": "/tmp/x",
    }
    assert daemon.child_environment(settings, shell) == {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "3",
        "FLWR_HOME": str(settings.paths.flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "*",
        "PYTHONUNBUFFERED": "1",
    }


def test_the_look_before_every_start_tells_permanent_from_temporary(place, tmp_path, capfd):
    ca, other = tmp_path / "ca.crt", tmp_path / "other.crt"
    ca.write_bytes(place.issuer.pem)
    other.write_bytes(authority().pem)
    assert fault_of(place.address, ca) == 0
    assert fault_of(place.address, other) == PERMANENT
    assert fault_of(place.address, tmp_path / "missing") == PERMANENT
    assert "not from the pinned authority" in capfd.readouterr().err
    with listening(lambda _: None) as gone:
        pass
    assert fault_of(gone, ca) == TEMPORARY
    cert, key = server_certificate(tmp_path, place.issuer)
    hour = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    with listening(answers_over_tls(cert, key, health(date=hour))) as address:
        assert fault_of(address, ca) == PERMANENT
    with listening(answers_over_tls(cert, key, health("503 Service Unavailable"))) as address:
        assert fault_of(address, ca) == TEMPORARY


def started(config: Path) -> int:
    """Without stopping it nothing here comes to an end, so a test expects an error."""
    try:
        return daemon.run(load_settings(config), config=config)
    finally:
        for handler in logging.getLogger().handlers[:]:
            if handler.name in ("daemon-file", "daemon-screen"):
                logging.getLogger().removeHandler(handler)
                handler.close()


@pytest.fixture
def quiet_hooks(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.mark.usefixtures("quiet_hooks")
def test_a_key_that_others_can_read_or_a_damaged_ledger_starts_nothing(tmp_path):
    made = new_shop(tmp_path / "shop")
    made.paths.node_key.chmod(0o644)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        started(made.config)
    made.paths.node_key.chmod(0o600)
    made.paths.runtime_secret.unlink()
    with pytest.raises(PrivateFileError, match="does not exist"):
        started(made.config)
    made = new_shop(tmp_path / "second")
    made.paths.ledger.write_bytes(b"x" * 5_000)
    with pytest.raises(LedgerError):
        started(made.config)
    log = made.paths.log
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.mark.usefixtures("quiet_hooks")
def test_one_folder_has_one_daemon(tmp_path):
    made = new_shop(tmp_path / "shop")
    with daemon._alone(load_settings(made.config)), pytest.raises(ConfigError, match="already at work"):
        started(made.config)


def test_no_child_is_told_a_secret_on_its_command_line(tmp_path):
    settings = load_settings(new_shop(tmp_path / "shop").config)
    secret = settings.paths.runtime_secret.read_text().strip()
    runner = daemon.runner_child(settings, daemon.python("client.shop_main", "--config", "x"), pid=lambda: None)
    words = [*daemon.supernode_child(settings).command, *runner.command, *runner.environment.values()]
    assert secret not in " ".join(words)


def test_every_line_that_is_told_to_people_says_what_to_do(caplog):
    caplog.set_level(logging.ERROR)
    daemon._explain("supernode", 1, ("Exit Code: 305",))
    daemon._explain("supernode", PERMANENT, ("platform x: its certificate has expired. Ask it to renew.",))
    daemon._explain("runner", 2, ("merchant.toml: missing key x; add it",))
    whys = [record.why for record in caplog.records]
    assert "send keys/node.pub" in whys[0]
    assert whys[1:] == [
        "platform x: its certificate has expired. Ask it to renew.",
        "merchant.toml: missing key x; add it",
    ]
