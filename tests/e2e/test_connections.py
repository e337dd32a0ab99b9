"""Whom the processes of a platform and two merchants speak to, from start to stop: this machine's own ports alone."""

import subprocess
import sys
from functools import partial

import pytest

from simulations.deployment import Deployment, clean_environment, command, tail, wait_until
from tests.support.deployed import RUN_SECONDS, await_agreement, here, offer_plan, open_shop, settings_of
from tests.support.traced import Contact, has_ended, read_trace, strace_is_missing, traced

pytestmark = pytest.mark.e2e

MERCHANTS = ("bakery", "florist")
COMMANDS = {"run": ("pp-server", "run", "spring"), "pull": ("pp-client", "pull")}
LOOPBACK = ("127.0.0.1", "::1")
NAME_CACHE = Contact("/var/run/nscd/socket", 0)  # glibc asks it for the names of users; it is on this machine


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """The traces of a platform and two merchants that started, trained a plan and stopped; and the ports of each."""
    if why := strace_is_missing():
        pytest.skip(why)
    with Deployment(tmp_path_factory.mktemp("traced"), commands=here) as deployment:
        deployment.make_platform()
        for name in MERCHANTS:
            open_shop(deployment, name)
        programs = {"pp-server": deployment.server, **deployment.merchants}
        files = {name: deployment.root / f"{name}.trace" for name in programs}
        for name, program in programs.items():
            program.command = traced(program.command, files[name])
        deployment.start(seconds=300)
        offer_plan(deployment, "spring", rounds=3)
        await_agreement(deployment, "spring", MERCHANTS)
        for name, arguments in COMMANDS.items():
            place = ["--home", str(deployment.platform_home)] if name == "run" else ["--config", config(deployment)]
            line = traced(command(*arguments, *place), files.setdefault(name, deployment.root / f"{name}.trace"))
            subprocess.run(line, env=clean_environment(), timeout=RUN_SECONDS, check=True, stdout=subprocess.DEVNULL)
        stopped = deployment.stop()
        assert set(stopped.values()) == {0}, (stopped, [tail(program.log) for program in programs.values()])
        for name, program in programs.items():
            wait_until(partial(has_ended, files[name], program.process.pid), 20, what=f"the end of {name}'s trace")
        yield deployment, {name: read_trace(file) for name, file in files.items()}


def config(deployment):
    return str(deployment.merchant_home("bakery") / "merchant.toml")


def ports_of(deployment, name):
    """The loopback ports that a program may speak to."""
    if name not in MERCHANTS:
        return {deployment.port}
    return {deployment.port, settings_of(deployment, name).local.supernode_port}


def strangers(contacts, ports):
    """Those that are no known port of this machine."""
    known = {Contact(host, port) for host in LOOPBACK for port in ports} | {NAME_CACHE}
    return contacts - known


@pytest.mark.parametrize("name", ["pp-server", *MERCHANTS, *COMMANDS])
def test_a_program_and_all_that_it_starts_speak_to_known_ports_of_this_machine_alone(traces, name):
    deployment, read = traces
    assert strangers(read[name].all, ports_of(deployment, name)) == set()


@pytest.mark.parametrize("name", ["pp-server", *MERCHANTS, *COMMANDS])
def test_no_name_is_looked_up(traces, name):
    _, read = traces
    assert {contact for contact in read[name].all if contact.port == 53 or "resolve" in contact.host} == set()


@pytest.mark.parametrize("name", MERCHANTS)
def test_the_runner_speaks_to_its_own_supernode_alone(traces, name):
    deployment, read = traces
    [supernode] = ports_of(deployment, name) - {deployment.port}
    assert read[name].of("client.shop_main") - {NAME_CACHE} == {Contact("127.0.0.1", supernode)}


def test_the_traces_saw_every_kind_of_process(traces):
    deployment, read = traces
    platform = Contact("127.0.0.1", deployment.port)
    for word in ("flower-superexec", "flwr-serverapp"):
        assert platform in read["pp-server"].of(word)
    for name in MERCHANTS:
        assert platform in read[name].of("client.supernode")


@pytest.mark.parametrize(
    ("planted", "seen"),
    [
        pytest.param("socket.getaddrinfo('planted.invalid', 443)", lambda c: c.port == 53, id="a-name"),
        pytest.param(
            "socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))",
            lambda c: c.host == "192.0.2.1",
            id="host",
        ),
        pytest.param(
            "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))", lambda c: c.port == 9, id="datagram"
        ),
    ],
)
def test_the_search_would_notice_one_that_a_thread_of_a_child_makes(tmp_path, planted, seen):
    if why := strace_is_missing():
        pytest.skip(why)
    program = (
        "import contextlib, socket, threading\n"
        "def planted():\n"
        "    with contextlib.suppress(OSError):\n"
        f"        {planted}\n"
        "thread = threading.Thread(target=planted)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {program!r}, 'planted-child'])"
    subprocess.run(traced([sys.executable, "-c", parent], tmp_path / "trace"), check=True)
    trace = read_trace(tmp_path / "trace")
    assert any(map(seen, strangers(trace.all, {8443})))
    assert any(map(seen, trace.of("planted-child")))
