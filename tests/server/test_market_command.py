"""Publishing the federation's quantiles: a statement of what they cost, or nothing."""

from __future__ import annotations

import datetime as dt
import itertools
import json

import pytest

from agreement.market import Statement, sign_statement, verify_statement
from agreement.signing import SigningKey
from daemons.exit_codes import Exit
from server.dashboard.audit import TERMINAL, AuditLog, audit_file
from server.registry import Registry
from tests.support.platform import new_platform, pp_server

OTHER = SigningKey.generate()
GOOD = """\
horizon_days = 60
made = 2026-05-01
epsilon = 0.8
delta = 1e-6
mechanism = "Noisy counts in public bins, Gaussian mechanism, one release."

[quantiles]
spend_cents = [[0.1, 500], [0.5, 2000], [0.9, 9000]]
"""


@pytest.fixture
def home(tmp_path, capsys):
    made = new_platform(tmp_path / "p")
    capsys.readouterr()
    return made


def publish(home, text: str) -> int:
    file = home.root.parent / "may.toml"
    file.write_text(text)
    return pp_server(home, "market", "publish", str(file))


def give(home, data: bytes) -> None:
    with Registry(home.registry) as registry:
        registry.publish_market(data)


def published(home) -> bytes | None:
    with Registry(home.registry) as registry:
        return registry.market()


def stated(home) -> Statement:
    return verify_statement(published(home), home.verify_key())


def test_what_is_withdrawn_is_signed_as_such_and_shown_as_none(home, capsys):
    assert publish(home, GOOD) == pp_server(home, "market", "withdraw") == Exit.DONE
    assert stated(home).market is None
    assert "next pp-client pull" in capsys.readouterr().out
    assert pp_server(home, "market", "show", "--json") == Exit.DONE
    assert json.loads(capsys.readouterr().out) is None
    assert pp_server(home, "market", "show") == Exit.DONE
    assert f"withdrawn: {stated(home).issued:%Y-%m-%d %H:%M:%S}" in capsys.readouterr().out
    assert publish(home, GOOD) == Exit.DONE
    assert stated(home).market is not None


def test_every_statement_is_later_than_the_one_before_within_a_second_and_whatever_the_clock_says(home):
    publish(home, GOOD)
    moments = [stated(home).issued]
    for _ in range(3):
        assert pp_server(home, "market", "withdraw") == publish(home, GOOD) == Exit.DONE
        moments.append(stated(home).issued)
    assert all(later - earlier >= dt.timedelta(seconds=2) for earlier, later in itertools.pairwise(moments))
    ahead = dt.datetime(2126, 1, 1, tzinfo=dt.UTC)  # signed when the clock was wrong
    give(home, sign_statement(Statement(issued=ahead, market=None), home.signing_key()))
    assert publish(home, GOOD) == Exit.DONE
    assert stated(home).issued == ahead + dt.timedelta(seconds=1)


def test_publishing_and_withdrawing_are_in_the_audit_log(home):
    publish(home, GOOD)
    pp_server(home, "market", "withdraw")
    pp_server(home, "market", "withdraw")
    log = AuditLog(audit_file(home))
    subject = "made 2026-05-01, epsilon 0.8 at delta 1e-06"
    assert [(each.who, each.action, each.subject) for each in reversed(log.entries())] == [
        (TERMINAL, "market_published", subject),
        (TERMINAL, "market_withdrawn", subject),
        (TERMINAL, "market_withdrawn", ""),  # for merchants who have some that this folder knows nothing of
    ]
    assert log.verify().fault is None


def test_what_was_signed_with_an_earlier_key_is_in_the_way_of_nothing(home):
    publish(home, GOOD)
    give(home, sign_statement(Statement(issued=dt.datetime(2126, 1, 1, tzinfo=dt.UTC), market=None), OTHER))
    assert publish(home, GOOD) == Exit.DONE
    assert stated(home).issued.year < 2126


def test_a_file_that_is_refused_leaves_no_entry_in_the_audit_log(home):
    assert publish(home, GOOD.replace("0.8", "inf")) == Exit.BAD_INPUT
    assert AuditLog(audit_file(home)).entries() == []


def test_what_is_published_is_signed_by_the_platform_and_said_aloud(home, capsys):
    assert publish(home, GOOD) == Exit.DONE
    statement = stated(home)
    market = statement.market
    assert abs(statement.issued - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    assert (market.epsilon, market.delta, market.made) == (0.8, 1e-6, dt.date(2026, 5, 1))
    assert market.quantiles == {"spend_cents": ((0.1, 500.0), (0.5, 2000.0), (0.9, 9000.0))}
    shown = capsys.readouterr().out
    assert "epsilon 0.8 at delta 1e-06" in shown
    assert market.mechanism in shown


def test_what_is_published_is_shown_and_replaced_by_the_next(home, capsys):
    assert pp_server(home, "market", "show") == Exit.DONE
    assert "No quantiles are published" in capsys.readouterr().out
    assert pp_server(home, "market", "show", "--json") == Exit.DONE
    assert json.loads(capsys.readouterr().out) is None
    assert publish(home, GOOD) == publish(home, GOOD.replace("0.8", "0.4")) == Exit.DONE
    capsys.readouterr()
    assert pp_server(home, "market", "show", "--json") == Exit.DONE
    assert json.loads(capsys.readouterr().out)["epsilon"] == 0.4
    assert pp_server(home, "market", "show") == Exit.DONE
    assert "2000" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["epsilon", "delta", "mechanism", "made", "horizon_days"])
def test_without_a_statement_of_what_they_cost_nothing_is_published(home, capsys, name):
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{name} =")]
    assert publish(home, "\n".join(lines)) == Exit.BAD_INPUT
    assert f"missing key {name}" in capsys.readouterr().err
    assert published(home) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epsilon = 0.8", "epsilon = inf"),
        ("epsilon = 0.8", "epsilon = nan"),
        ("epsilon = 0.8", "epsilon = 0"),
        ("delta = 1e-6", "delta = 0.0"),
        ("Noisy counts in public bins, Gaussian mechanism, one release.", "DP"),
        ("[0.5, 2000]", "[0.5, 20]"),
        ("[0.5, 2000]", "[0.5]"),
        ("[quantiles]", "[quantile]"),
        ("horizon_days = 60", "horizon_days = "),
        ("horizon_days = 60", "horizon_days = 60\nsurprise = 1"),
    ],
)
def test_a_file_that_states_no_price_or_no_quantiles_is_refused(home, capsys, old, new):
    assert publish(home, GOOD.replace(old, new)) == Exit.BAD_INPUT
    assert "may.toml: " in capsys.readouterr().err
    assert published(home) is None


def test_a_file_that_is_not_there_too_large_or_no_text_is_refused_without_a_traceback(home, capsys):
    assert pp_server(home, "market", "publish", str(home.root / "none.toml")) == Exit.BAD_INPUT
    assert publish(home, GOOD + "#" * 300_000) == Exit.BAD_INPUT
    (home.root.parent / "may.toml").write_bytes(b"\xff\xfe")
    assert pp_server(home, "market", "publish", str(home.root.parent / "may.toml")) == Exit.BAD_INPUT
    assert capsys.readouterr().err.count("pp-server: ") == 3
