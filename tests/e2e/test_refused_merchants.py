"""Merchants whom the platform does not know, or who do not know it, knock once in half a minute and say why."""

import time
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from simulations.deployment import Deployment, wait_until
from tests.support.deployed import here, open_shop, settings_of
from tests.support.faults import events, tasks_charged
from tests.support.superlink import authority
from tests.support.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAMES = UNKNOWN, WRONG_AUTHORITY, REMOVED = "bakery", "florist", "grocer"
WATCHED_SECONDS, APART_SECONDS = 70.0, 30.0
ONE_ATTEMPT_SECONDS = 15.0  # from the first look at the platform to the SuperNode's own connection and the poll's
CONNECTIONS = 3  # of one attempt, at most: those three
SAYS = {
    UNKNOWN: ("the platform refused this node", "its key is not registered there"),
    WRONG_AUTHORITY: ("the platform is not connected to; one attempt in 30 s at most", "pinned authority"),
    REMOVED: ("the platform refused this node", "its key is not registered there"),
}


@pytest.fixture(scope="module")
def knocks(tmp_path_factory):
    """When each merchant tried to connect, in seconds, after the first time that it was refused."""
    with Deployment(tmp_path_factory.mktemp("refused"), commands=here) as deployment:
        deployment.make_platform()
        deployment.server.start()
        with TcpProxy(deployment.port) as one, TcpProxy(deployment.port) as two, TcpProxy(deployment.port) as three:
            proxies = dict(zip(NAMES, (one, two, three), strict=True))
            for name, proxy in proxies.items():
                open_shop(deployment, name, keys={"address": f'"{proxy.address}"'})
            keys = deployment.merchant_home(UNKNOWN) / "keys"
            (keys / "node.key").write_bytes(another_key())
            (deployment.merchant_home(WRONG_AUTHORITY) / "keys" / "ca.crt").write_bytes(authority().pem)
            for name in NAMES:
                deployment.merchants[name].start(wait_seconds=0)
            deployment.merchants[REMOVED].wait_ready()
            deployment.pp_server("merchants", "remove", REMOVED)
            logs = {name: settings_of(deployment, name).paths.log for name in NAMES}
            for name, (event, _) in SAYS.items():
                wait_until(lambda name=name, event=event: bool(events(logs[name], event)), 90, what=f"{name}: {event}")
            began = time.monotonic()
            wait_until(lambda: time.monotonic() > began + WATCHED_SECONDS, WATCHED_SECONDS + 5, what="the end")
            tried = {name: proxy.tried_between(began, time.monotonic()) for name, proxy in proxies.items()}
            print({name: [round(moment, 1) for moment in moments] for name, moments in tried.items()})
            yield deployment, tried, logs


def another_key():
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def attempts(moments):
    """Connections that belong together."""
    found = []
    for moment in moments:
        if found and moment - found[-1][0] < ONE_ATTEMPT_SECONDS:
            found[-1].append(moment)
        else:
            found.append([moment])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_who_is_refused_knocks_once_in_half_a_minute(knocks, name):
    _, tried, _ = knocks
    bursts = attempts(tried[name])
    starts = [burst[0] for burst in bursts]
    assert [b - a for a, b in pairwise(starts) if b - a < APART_SECONDS] == []
    assert [burst for burst in bursts if len(burst) > CONNECTIONS] == []


@pytest.mark.parametrize("name", NAMES)
def test_who_is_refused_is_told_why(knocks, name):
    _, _, logs = knocks
    event, words = SAYS[name]
    assert all(words in line["why"] for line in events(logs[name], event))


@pytest.mark.parametrize("name", NAMES)
def test_who_is_refused_pays_nothing(knocks, name):
    deployment, _, _ = knocks
    assert tasks_charged(deployment, name) == []
