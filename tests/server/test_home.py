import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from daemons.files import PrivateFileError
from pp_model.errors import ConfigError
from server.home import PlatformHome, ServerConfig, checked_name, exclusive, server_toml
from tests.support.platform import NAME, new_platform

CONFIG = ServerConfig(name=NAME, address="pp.example.org:8443", listen="0.0.0.0:8443")
ROOT = Path(__file__).parents[2]


def test_what_init_writes_is_what_is_read(tmp_path):
    home = PlatformHome(tmp_path / "p")
    new_platform(home.root)
    config = replace(CONFIG, listen="[::]:9000", health_http="127.0.0.1:1")
    home.config_file.write_text(server_toml(config))
    assert home.load_config() == config
    assert (config.loopback, config.port) == ("[::1]", 9000)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('listen = "192.168.1.7:8443"', "over loopback"),
        ('listen = "0.0.0.0"', "expected host:port"),
        ('address = "pp.example.org"', "expected host:port"),
        ('address = "::1:8443"', "brackets"),
        ('health_http = "0.0.0.0:8480"', "loopback"),
        ("listen = 8443", "expected str"),
        ('lisen = "0.0.0.0:8443"', "unknown key lisen"),
        ("listen = ", "not TOML"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path, line, message):
    home = new_platform(tmp_path / "p")
    kept = [each for each in home.config_file.read_text().splitlines() if not each.startswith(line.split(" ")[0])]
    home.config_file.write_text("\n".join([*kept, line]))
    with pytest.raises(ConfigError, match=message):
        home.load_config()


def test_a_folder_that_is_no_platforms_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="pp-server init"):
        PlatformHome(tmp_path).load_config()


@pytest.mark.parametrize(
    "name",
    [
        *(".", "keys", "secrets", "state", "plans", "runs", "log", "flower", "secrets/operator", "secrets/superexec"),
        *("keys/ca.key", "keys/server.key", "keys/plan-signing.key"),
    ],
)
@pytest.mark.parametrize("bit", [0o040, 0o004, 0o010, 0o002])
def test_nothing_that_others_could_read_is_trusted(tmp_path, name, bit):
    home = new_platform(tmp_path / "p")
    path = home.root / name
    path.chmod(path.stat().st_mode | bit)
    with pytest.raises(PrivateFileError, match="chmod"):
        home.load_config()


def test_a_secret_that_is_gone_is_noticed(tmp_path):
    home = new_platform(tmp_path / "p")
    home.operator_secret.unlink()
    with pytest.raises(PrivateFileError, match="operator"):
        home.load_config()


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "A", "-a", "a.b", "a" * 65, "a b", "ä", "a\n"])
def test_a_name_that_could_lead_out_of_the_folder_is_refused(name):
    with pytest.raises(ConfigError, match="not a name for a plan"):
        checked_name(name)


def test_a_lock_names_its_holder_and_is_gone_with_it(tmp_path):
    lock = tmp_path / "lock"
    program = (
        "import pathlib, sys\nfrom server.home import exclusive\n"
        f"with exclusive(pathlib.Path({str(lock)!r}), busy=''):\n"
        "    print('in', flush=True)\n    sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout.readline() == b"in\n"
        with (
            pytest.raises(ConfigError, match=f"held by {other.pid}"),
            exclusive(lock, busy="held by {pid}"),
        ):
            pass
        other.kill()
        other.wait()
        with exclusive(lock, busy="held by {pid}", patience_seconds=5.0):
            assert lock.read_text() == f"{os.getpid()}\n"
