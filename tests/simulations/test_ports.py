"""A port that was given stays free until its program listens, and is given once."""

import socket
import subprocess
import sys
from pathlib import Path

from simulations.ports import FIRST, LAST, free_port

MANY = 40
GIVE_AND_HOLD = f"""
import sys
from simulations import ports
ports.FIRST, ports.LAST = {FIRST}, {FIRST} + {MANY * 4}
print(*(ports.free_port() for _ in range({MANY})), flush=True)
sys.stdin.read()
"""


def test_two_processes_are_never_given_the_same_port():
    command = [sys.executable, "-c", GIVE_AND_HOLD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[2]}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    try:
        given = [set(map(int, process.stdout.readline().split())) for process in both]
        assert [len(ports) for ports in given] == [MANY, MANY]
        assert not given[0] & given[1]
    finally:
        for process in both:
            process.communicate("")


def test_a_port_is_given_once_and_is_not_one_that_an_outgoing_connection_can_take():
    ports = [free_port() for _ in range(MANY)]
    assert len(set(ports)) == MANY
    assert all(FIRST <= port < LAST for port in ports)
    lowest = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if lowest.exists():
        assert max(ports) < int(lowest.read_text().split()[0])


def test_a_port_that_somebody_listens_on_is_not_given(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        taken = listener.getsockname()[1]
        monkeypatch.setattr("simulations.ports._given", set())
        monkeypatch.setattr("simulations.ports.FIRST", taken)
        monkeypatch.setattr("simulations.ports.LAST", taken + 20)
        assert taken not in {free_port() for _ in range(5)}
