"""pp-client init: a folder that needs only its blanks filled in, and nothing that was there before replaced."""

from __future__ import annotations

import gzip
import json
import stat
import tomllib
from pathlib import Path

import pytest

from agreement.invitation import invitation_text
from agreement.node_keys import fingerprint_of, load_private, load_public
from client.cli import main
from client.columns import column_names, propose_columns
from client.merchant_toml import merchant_toml
from client.settings import load_settings
from daemons.exit_codes import Exit
from pp_model.errors import BadOrdersError
from tests.support.merchant_home import TODAY, complete_answers, invitation
from tests.support.orders import write_bytes

EVERYTHING = [
    *("--population", "customers of the web shop", "--epsilon", "3", "--delta", "1e-5", "--declared-customers", "250"),
    *("--period", "2026-h1", "--period-starts", "2026-01-01", "--period-ends", "2026-06-30"),
]
COLUMNS = [f"--column={name}={name}" for name in ("customer_id", "timestamp", "amount")]
HEADER = b"InvoiceNo;CustomerID;InvoiceDate;Quantity;LineTotal;Country\n"


def init(folder: Path, *arguments: str) -> int:
    """Runs the command in `folder` with an invitation."""
    file = folder / "invitation.toml"
    file.write_text(invitation_text(invitation()))
    shop, given = str(folder / "shop"), ["--invitation", str(file), "--name", "bakery"]
    return main(["init", shop, *given, *arguments])


def written(folder: Path) -> dict:
    return tomllib.loads((folder / "shop" / "merchant.toml").read_text())


def test_a_merchant_that_says_everything_has_no_blank(tmp_path):
    orders = write_bytes(tmp_path / "orders.csv", HEADER)
    assert init(tmp_path, "--orders", orders, *EVERYTHING) == Exit.DONE

    settings = load_settings(tmp_path / "shop" / "merchant.toml")
    assert (settings.policy.epsilon_budget, settings.policy.approve) == (3.0, "ask")
    assert settings.orders.contract.columns["customer_id"] == "CustomerID"
    assert settings.home / settings.orders.file == Path(orders)


def test_what_was_not_said_is_a_blank_and_nothing_that_costs_privacy_is_chosen(tmp_path, capsys):
    assert init(tmp_path, "--json") == Exit.DONE
    made = json.loads(capsys.readouterr().out)
    columns = [f"orders.contract.columns.{name}" for name in ("customer_id", "timestamp", "amount")]
    policy = [f"policy.{name}" for name in ("epsilon_budget", "declared_customers", "delta")]
    assert made["blanks"] == ["population", "orders.file", *columns, *policy, "period.name", "period.ends"]


def test_automatic_approval_needs_a_limit_that_somebody_names(tmp_path, capsys):
    assert init(tmp_path, "--approve", "automatic", "--json", *EVERYTHING) == Exit.DONE
    assert "policy.approve_under_epsilon" in json.loads(capsys.readouterr().out)["blanks"]


def test_what_is_guessed_from_the_header_is_marked_and_what_was_said_is_not(tmp_path):
    orders = write_bytes(tmp_path / "orders.csv.gz", HEADER)
    assert init(tmp_path, "--orders", orders, "--column", "amount=Quantity") == Exit.DONE

    lines = (tmp_path / "shop" / "merchant.toml").read_text().splitlines()
    assert 'customer_id = "CustomerID"  # proposed from the header: right?' in lines
    assert 'amount = "Quantity"' in lines
    assert "# Yours are: InvoiceNo, CustomerID, InvoiceDate, Quantity, LineTotal, Country" in lines
    assert written(tmp_path)["orders"]["contract"]["columns"] == {
        "customer_id": "CustomerID",
        "timestamp": "InvoiceDate",
        "amount": "Quantity",
        "order_id": "InvoiceNo",
    }


def test_the_keys_are_a_pair_and_the_private_files_are_private(tmp_path, capsys):
    assert init(tmp_path) == Exit.DONE
    shop = tmp_path / "shop"
    private, public = load_private((shop / "keys/node.key").read_bytes()), (shop / "keys/node.pub").read_bytes()
    assert load_public(public).public_numbers() == private.public_key().public_numbers()
    printed = capsys.readouterr().out
    assert public.decode().strip() in printed
    assert fingerprint_of(private.public_key()) in printed
    assert invitation().plan_key in printed
    assert "pp-client doctor --config" in printed
    assert "PRIVATE" not in printed
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (shop, *shop.rglob("*"))}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())
    assert len((shop / "secrets/runtime").read_bytes()) >= 32


def test_two_merchants_share_no_key_and_no_secret(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert init(tmp_path / name) == Exit.DONE
    for file in ("keys/node.key", "secrets/runtime"):
        assert (tmp_path / "one/shop" / file).read_bytes() != (tmp_path / "two/shop" / file).read_bytes()


@pytest.mark.parametrize("file", ["merchant.toml", "keys/node.key", "keys/node.pub", "keys/ca.crt", "secrets/runtime"])
def test_nothing_that_exists_is_replaced(file, tmp_path, capsys):
    there = tmp_path / "shop" / file
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert init(tmp_path) == Exit.BAD_INPUT
    assert f"{there} exists and is left as it is" in capsys.readouterr().err
    assert there.read_text() == "mine"
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "invitation.toml"])


REFUSED = [
    pytest.param(["--name", " bakery"], "--name", id="name with a space"),
    pytest.param(["--name", "x" * 61], "--name", id="name too long"),
    pytest.param(["--invitation", "nowhere.toml"], "nowhere.toml cannot be read", id="no invitation"),
    pytest.param(["--orders", "nowhere.csv"], "nowhere.csv: there is no such file", id="no orders"),
    pytest.param(["--orders", "orders.xls"], "not a kind of file", id="orders of another kind"),
    pytest.param(["--orders", "o.csv", "--database", "sqlite:///x"], "both --orders and", id="two sources"),
    pytest.param(["--query", "SELECT 1"], "--query without --database", id="query alone"),
    pytest.param(["--database", "sqlite:///x", "--query", "DROP TABLE x", *COLUMNS], "SELECT", id="query that writes"),
    pytest.param(["--database", "mysql://a:hunter2@b/c", "--query", "SELECT 1", *COLUMNS], "password", id="password"),
    pytest.param(["--column", "amount"], "not OURS=THEIRS", id="half a column"),
    pytest.param(["--column", "price=x"], "columns.price", id="column that is not ours"),
    pytest.param(["--epsilon", "-1"], "--epsilon", id="negative budget"),
    pytest.param(["--epsilon", "inf"], "--epsilon", id="infinite budget"),
    pytest.param(["--epsilon", "nan"], "--epsilon", id="budget that is no number"),
    pytest.param([*EVERYTHING, "--delta", "0.1"], "policy.delta is 0.1; allowed", id="delta too large"),
    pytest.param([*EVERYTHING, "--period-ends", "2025-01-01"], "period.ends", id="period that ends first"),
    pytest.param([*EVERYTHING, "--period", "!"], "period.name", id="period without a letter"),
    pytest.param(["--approve-under", "1"], "--approve automatic", id="limit without automatic"),
    pytest.param(["--population", "\udc80"], "characters", id="bytes that are no text"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_be_used_is_said_before_anything_is_written(arguments, message, tmp_path, capsys):
    assert init(tmp_path, *arguments) == Exit.BAD_INPUT
    told = capsys.readouterr().err
    assert message in told
    assert "hunter2" not in told
    assert "Traceback" not in told
    assert not (tmp_path / "shop").exists()


def test_a_column_that_the_export_does_not_have_is_told_with_those_that_it_has(tmp_path, capsys):
    orders = write_bytes(tmp_path / "orders.csv", HEADER)
    assert init(tmp_path, "--orders", orders, "--column", "amount=Total") == Exit.BAD_INPUT
    assert "InvoiceNo, CustomerID" in capsys.readouterr().err


def test_a_header_that_is_an_order_is_not_shown(tmp_path, capsys):
    orders = write_bytes(tmp_path / "orders.csv", b"ann.smith@example.org,2025-01-02,10.10\n")
    assert init(tmp_path, "--orders", orders) == Exit.BAD_INPUT
    told = capsys.readouterr()
    assert "add a line with the column names" in told.err
    assert "ann" not in told.out + told.err


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", gzip.compress(b"a,b\n")[:12], b"PAR1\0\xff"],
    ids=["empty", "no text", "cut", "binary"],
)
@pytest.mark.parametrize("name", ["orders.csv", "orders.parquet"])
def test_a_file_without_a_readable_header_is_refused_by_name(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadOrdersError, match=name):
        column_names(tmp_path / name)


def test_a_column_without_a_name_is_left_out(tmp_path):
    write_bytes(tmp_path / "orders.csv", "\ufeff,customer,date\n".encode())
    assert column_names(tmp_path / "orders.csv") == ["customer", "date"]


HEADERS = [
    (
        ["Customer ID", "Order Date", "Total"],
        {"customer_id": "Customer ID", "timestamp": "Order Date", "amount": "Total"},
    ),
    (["user_id", "created_at", "price"], {"customer_id": "user_id", "timestamp": "created_at"}),
    (["date", "order_date"], {"timestamp": "order_date"}),
    (["x", "y"], {}),
    (["Order", "Order No"], {"order_id": "Order No"}),
]


@pytest.mark.parametrize(("names", "proposed"), HEADERS, ids=[", ".join(names) for names, _ in HEADERS])
def test_only_what_is_recognised_is_proposed(names, proposed):
    assert propose_columns(names) == proposed


@pytest.mark.parametrize("name", ['a "quoted" name', "back\\slash", "tab\there", "ünï", "😀", "line\nbreak", "\x7f"])
def test_any_text_survives_the_file(name):
    table = tomllib.loads(merchant_toml(complete_answers(population=name, columns={"amount": name})))
    assert table["population"] == name
    assert table["orders"]["contract"]["columns"]["amount"] == name


def test_the_period_begins_today_unless_said(tmp_path):
    assert init(tmp_path) == Exit.DONE
    assert abs((written(tmp_path)["period"]["starts"] - TODAY).days) <= 1


def test_a_database_is_named_without_its_password(tmp_path):
    where = ["--database", "postgresql+psycopg://reader:${SHOP_PASSWORD}@db/shop", "--query", "SELECT * FROM orders"]
    assert init(tmp_path, *where, *COLUMNS, *EVERYTHING) == Exit.DONE
    settings = load_settings(tmp_path / "shop" / "merchant.toml")
    assert (settings.orders.kind, settings.orders.query) == ("sql", "SELECT * FROM orders")
