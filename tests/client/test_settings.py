"""merchant.toml: what is in it, what is wrong in it, and what is opened with it."""

from __future__ import annotations

import datetime as dt
import tomllib
from pathlib import Path

import pytest

from client.home import slug
from client.settings import blanks, load_settings, read_section, read_table
from client.sources import CsvSource, ParquetSource, SqlSource
from daemons.files import PrivateFileError
from pp_model.errors import ConfigError
from tests.support.merchant_home import PLAN_KEY, new_shop


def shop_with(folder: Path, old: str = "", new: str = "") -> Path:
    """The configuration of a shop in which all is well but for what replaced `old`."""
    config = new_shop(folder / "shop").config
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1) if old else text)
    return config


def test_a_complete_file_gives_settings_with_paths_beside_it(tmp_path, monkeypatch):
    config = shop_with(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = load_settings(Path("shop/merchant.toml"))

    assert settings.home == tmp_path / "shop"
    assert settings.merchant == "bakery"
    assert settings.policy.epsilon_budget == 3.0
    assert settings.paths.ca == config.parent / "keys" / "ca.crt"
    assert settings.paths.ledger == config.parent / "state" / "ledger-2026-h1.sqlite"
    assert settings.plan_key.to_text() == PLAN_KEY.public.to_text()
    assert settings.node_key().curve.name == "secp384r1"
    assert (settings.local.health_http, settings.local.supernode_port) == ("127.0.0.1:8470", 9094)


FAULTS = [
    pytest.param('merchant = "bakery"', 'merchant = ""', "merchant is empty", id="no name"),
    pytest.param('merchant = "bakery"\n', "", "missing key merchant", id="name missing"),
    pytest.param('merchant = "bakery"', 'merchnt = "bakery"', "unknown key merchnt", id="key misspelt"),
    pytest.param("epsilon_budget = 3.0\n", "", "missing key policy.epsilon_budget", id="budget missing"),
    pytest.param("epsilon_budget = 3.0", 'epsilon_budget = "FILL-IN"', "to fill in.*policy.epsilon_budget", id="blank"),
    pytest.param("epsilon_budget = 3.0", "epsilon_budget = nan", "policy.epsilon_budget is nan", id="no number"),
    pytest.param("delta = 1e-05", "delta = 0.1", "policy.delta is 0.1; allowed", id="delta too large"),
    pytest.param(":8443", "", "platform.address is 'pp.example.org'; expected host:port", id="no port"),
    pytest.param(":8443", ":https", "platform.address", id="port in words"),
    pytest.param(":8443", ":70000", "platform.address", id="port too large"),
    pytest.param("ed25519:", "ed448:", "not a plan-signing key", id="another kind of key"),
    pytest.param('kind = "csv"', 'kind = "excel"', "orders.kind is 'excel'; allowed: 'csv'", id="kind of orders"),
    pytest.param('kind = "csv"', 'kind = "sql"', "orders.url is empty", id="database without url"),
    pytest.param('file = "orders.csv"', 'file = ""', "orders.file is empty", id="no file"),
    pytest.param('file = "orders.csv"', 'file = "o.csv"\nurl = "x"', "orders.url is set", id="file and database"),
    pytest.param('amount = "amount"', 'amuont = "amount"', "unknown key columns.amuont", id="column misspelt"),
    pytest.param('name = "2026-h1"', 'name = "期"', "period.name is", id="period without letters"),
    pytest.param("127.0.0.1:8470", "0.0.0.0:8470", "local.health_http is '0.0.0.0:8470'", id="open to others"),
    pytest.param("127.0.0.1:8471", "127.0.0.1", "local.health_grpc", id="no local port"),
    pytest.param("supernode_port = 9094", "supernode_port = 0", "local.supernode_port is 0", id="port zero"),
    pytest.param("poll_seconds = 5.0", "poll_seconds = 0.1", "local.poll_seconds is 0.1", id="polls too often"),
    pytest.param("[policy]", "[policy", "not TOML: .* line", id="not TOML"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_a_fault_is_named_with_its_file_and_key(old, new, message, tmp_path):
    config = shop_with(tmp_path, old, new)
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(config)
    assert str(config) in str(caught.value)


def test_a_period_that_ends_before_it_starts_is_refused(tmp_path):
    config = new_shop(tmp_path / "shop").config
    ends = tomllib.loads(config.read_text())["period"]["ends"]
    config.write_text(config.read_text().replace(f"ends = {ends}", "ends = 2001-01-01"))
    with pytest.raises(ConfigError, match=r"period\.ends is 2001-01-01"):
        load_settings(config)


def test_a_missing_file_says_how_to_name_or_make_one(tmp_path):
    with pytest.raises(ConfigError, match="--config FILE, or make one with pp-client init"):
        load_settings(tmp_path / "merchant.toml")


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "merchant.toml").write_bytes("merchant = 'Käserei'".encode("utf-16"))
    with pytest.raises(ConfigError, match="UTF-8"):
        load_settings(tmp_path / "merchant.toml")


def test_a_password_in_the_file_is_refused_and_not_repeated(tmp_path):
    orders = 'kind = "sql"\nurl = "postgresql+psycopg://reader:hunter2@db/shop"\nquery = "SELECT 1"\n'
    config = shop_with(tmp_path, 'kind = "csv"', orders + "# ")
    config.write_text(config.read_text().replace('file = "orders.csv"', ""))
    with pytest.raises(ConfigError, match="password") as caught:
        load_settings(config)
    assert "hunter2" not in str(caught.value)


def test_a_query_that_writes_is_refused_when_the_file_is_read(tmp_path):
    orders = 'kind = "sql"\nurl = "sqlite:///shop.db"\nquery = "DELETE FROM orders"\n'
    config = shop_with(tmp_path, 'kind = "csv"', orders + "# ")
    config.write_text(config.read_text().replace('file = "orders.csv"', ""))
    with pytest.raises(ConfigError, match="SELECT"):
        load_settings(config)


def test_the_orders_are_opened_by_their_kind_and_beside_the_file(tmp_path):
    csv = load_settings(shop_with(tmp_path / "1")).source()
    parquet = load_settings(shop_with(tmp_path / "2", 'kind = "csv"', 'kind = "parquet"')).source()
    orders = 'kind = "sql"\nurl = "sqlite:///shop.db"\nquery = "SELECT 1"\npassword_file = "secrets/database"\n'
    config = shop_with(tmp_path / "3", 'kind = "csv"', orders + "# ")
    config.write_text(config.read_text().replace('file = "orders.csv"', ""))
    sql = load_settings(config).source()

    assert isinstance(csv, CsvSource)
    assert isinstance(parquet, ParquetSource)
    assert isinstance(sql, SqlSource)
    assert csv.path == parquet.path.replace("/2/", "/1/") == str(tmp_path / "1" / "shop" / "orders.csv")
    assert sql.password_file == tmp_path / "3" / "shop" / "secrets" / "database"


def test_a_node_key_that_others_can_read_is_not_used(tmp_path):
    settings = load_settings(shop_with(tmp_path))
    settings.paths.node_key.chmod(0o640)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        settings.node_key()


def test_another_period_is_another_ledger(tmp_path):
    first = load_settings(shop_with(tmp_path / "1"))
    second = load_settings(shop_with(tmp_path / "2", 'name = "2026-h1"', 'name = "2026 H2"'))
    assert first.paths.ledger.name == "ledger-2026-h1.sqlite"
    assert second.paths.ledger.name == "ledger-2026-h2.sqlite"
    with first.open_ledger() as one, second.open_ledger() as other:
        assert one.anchor.ledger != other.anchor.ledger


def test_a_period_has_a_first_and_a_last_day(tmp_path):
    period = load_settings(shop_with(tmp_path)).period
    day = dt.timedelta(days=1)
    inside = [period.starts - day, period.starts, period.ends, period.ends + day]
    assert [period.contains(when) for when in inside] == [False, True, True, False]


def test_two_names_of_one_file_cannot_share_a_budget(tmp_path):
    assert slug("2026 H1!") == slug("2026-h1")
    config = shop_with(tmp_path)
    with load_settings(config).open_ledger():
        pass
    config.write_text(config.read_text().replace('"2026-h1"', '"2026 H1!"'))
    with pytest.raises(Exception, match="was begun with lineage"):
        load_settings(config).open_ledger()


def test_a_section_is_read_whatever_is_wrong_with_the_others(tmp_path):
    table = read_table(shop_with(tmp_path, "epsilon_budget = 3.0", 'epsilon_budget = "FILL-IN"'))
    assert blanks(table) == ["policy.epsilon_budget"]
    assert read_section(table, "platform").address == "pp.example.org:8443"
    with pytest.raises(ConfigError, match=r"policy.epsilon_budget"):
        read_section(table, "policy")
    with pytest.raises(ConfigError, match=r"missing table \[orders\]"):
        read_section({}, "orders")
    assert read_section({}, "local").device == "auto"
