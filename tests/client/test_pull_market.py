"""`pp-client pull`: the federation's quantiles beside the model, and the model that the platform went back to."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import sqlite3
import stat
from pathlib import Path

import pytest

from agreement.market import Market, Statement, read_market, sign_statement
from agreement.signing import SigningKey
from client.cli import main
from client.insight import REPORTS
from client.insight.store import cutoff_folder, read_report, reports_in, write_made
from client.models import newest_kept
from client.settings import load_settings
from daemons.exit_codes import Exit
from pp_model.config import to_mapping
from server.home import PlatformHome
from server.registry import Registry
from server.rollback import roll_back
from server.roster import Roster
from tests.support.insight_shops import insight_data, regulars
from tests.support.market import market, market_plan
from tests.support.merchant_home import PLAN_KEY, invitation, new_shop
from tests.support.platform import new_platform
from tests.support.published import publish
from tests.support.superlink import authority
from tests.support.tls_server import running_platform

QUANTILES = Market(
    horizon_days=60,
    epsilon=0.8,
    delta=1e-6,
    mechanism="Noisy counts in public bins, Gaussian mechanism, one release.",
    made=dt.date(2026, 5, 1),
    quantiles={"spend_cents": ((0.1, 500.0), (0.5, 2000.0))},
)


NEWER = dataclasses.replace(QUANTILES, made=dt.date(2026, 6, 1), epsilon=0.5)
MARKET_OF_REPORTS = dataclasses.replace(QUANTILES, horizon_days=28, quantiles={"churn_risk": ((0.1, 0.2), (0.5, 0.6))})
ISSUED = dt.datetime(2026, 5, 2, tzinfo=dt.UTC)


def signed(market: Market | None, *, later: int = 0, key: SigningKey = PLAN_KEY) -> bytes:
    """A statement, so many seconds later than the first."""
    return sign_statement(Statement(issued=ISSUED + dt.timedelta(seconds=later), market=market), key)


@pytest.fixture
def place(tmp_path):
    with market(tmp_path) as running:
        yield running


def give(place, data: bytes) -> None:
    with Registry(place.registry) as registry:
        registry.publish_market(data)


def pull(config: Path) -> int:
    return main(["pull", "--config", str(config)])


def kept(place) -> Market | None:
    return read_market(place.settings.paths.market, PLAN_KEY.public)


def test_the_quantiles_come_with_the_model_are_kept_privately_and_say_what_they_cost(place, capsys):
    place.publish(market_plan())
    give(place, signed(QUANTILES))
    assert pull(place.config) == Exit.DONE
    assert kept(place) == QUANTILES
    assert stat.S_IMODE(place.settings.paths.market.stat().st_mode) == 0o600
    shown = capsys.readouterr().out
    assert "Pulled: model 1" in shown
    assert "epsilon 0.8 at delta 1e-06, as the platform states" in shown
    assert QUANTILES.mechanism in shown


def test_newer_quantiles_take_the_place_of_older_ones(place):
    give(place, signed(QUANTILES))
    assert pull(place.config) == Exit.DONE
    give(place, signed(NEWER, later=1))
    assert pull(place.config) == Exit.DONE
    assert kept(place) == NEWER


def test_after_a_withdrawal_there_are_none_and_who_pulls_is_told(place, capsys):
    give(place, signed(QUANTILES))
    assert pull(place.config) == Exit.DONE
    give(place, signed(None, later=1))
    capsys.readouterr()
    assert pull(place.config) == Exit.DONE
    assert "publishes no quantiles of the federation any more" in capsys.readouterr().out
    assert kept(place) is None
    assert pull(place.config) == Exit.DONE  # it is no error to hear it twice
    give(place, signed(NEWER, later=2))
    assert pull(place.config) == Exit.DONE
    assert kept(place) == NEWER


@pytest.mark.parametrize("last", [signed(None, later=1), signed(NEWER, later=1)], ids=["withdrawn", "replaced"])
@pytest.mark.parametrize("signing", ["as now", "as version 1 did"])
def test_an_old_publication_that_is_played_again_never_comes_back(place, capsys, last, signing):
    old = signed(QUANTILES) if signing == "as now" else PLAN_KEY.sign("market", {"version": 1, **to_mapping(QUANTILES)})
    for data in (old, last):
        give(place, data)
        assert pull(place.config) == Exit.DONE
    before = place.settings.paths.market.read_bytes()
    give(place, old)
    assert pull(place.config) == Exit.INTEGRITY
    assert "played again" in capsys.readouterr().err
    assert place.settings.paths.market.read_bytes() == before == last


def test_a_platform_that_says_nothing_brings_nothing_back_and_takes_nothing_away(place):
    for data in (signed(QUANTILES), signed(None, later=1)):
        give(place, data)
        assert pull(place.config) == Exit.DONE
    with sqlite3.connect(place.registry) as db:
        db.execute("DELETE FROM markets")  # a platform's backup of before
    db.close()
    assert pull(place.config) == Exit.DONE
    assert kept(place) is None


def test_a_withdrawal_removes_no_report_of_the_merchants_and_says_which_may_rest_on_it(place, capsys):
    give(place, signed(QUANTILES))
    assert pull(place.config) == Exit.DONE
    folders = [cutoff_folder(place.settings.paths.insight, dt.date(2026, month, 1)) for month in (5, 6)]
    data = insight_data(regulars(120), market=MARKET_OF_REPORTS)
    for folder in folders:
        for name in ("market", "churn"):
            write_made(folder, REPORTS[name](data))
    assert read_report(folders[0], "market").figures
    give(place, signed(None, later=1))
    capsys.readouterr()
    assert pull(place.config) == Exit.DONE
    assert "2 of yours on the market position" in capsys.readouterr().out
    assert [set(reports_in(folder)) for folder in folders] == 2 * [{"churn", "market"}]


def test_what_is_kept_and_was_changed_stops_the_pull_with_what_to_do(place, capsys):
    give(place, signed(None, later=1))
    assert pull(place.config) == Exit.DONE
    place.settings.paths.market.write_bytes(b"{}")
    give(place, signed(QUANTILES))
    assert pull(place.config) == Exit.INTEGRITY
    assert "Remove the file" in capsys.readouterr().err
    assert place.settings.paths.market.read_bytes() == b"{}"


def test_where_none_are_published_none_are_kept_and_nobody_is_told_of_any(place, capsys):
    place.publish(market_plan())
    assert pull(place.config) == Exit.DONE
    assert not place.settings.paths.market.exists()
    assert "Quantiles" not in capsys.readouterr().out


def test_a_platform_of_an_earlier_version_has_none(place, monkeypatch):
    monkeypatch.setattr("client.platform.MARKET_PATH", "/pp/v1/not-known-there")
    place.publish(market_plan())
    assert pull(place.config) == Exit.DONE
    assert not place.settings.paths.market.exists()


@pytest.mark.parametrize(
    "data",
    [
        signed(QUANTILES, later=1, key=SigningKey.generate()),
        signed(None, later=1, key=SigningKey.generate()),
        signed(QUANTILES, later=1).replace(b"2000.0", b"9999.0"),
        b"{}",
    ],
    ids=["another-key", "another-keys-withdrawal", "changed", "nothing"],
)
def test_quantiles_that_the_platform_did_not_sign_are_not_kept_and_those_before_stay(place, capsys, data):
    place.publish(market_plan())
    give(place, signed(QUANTILES))
    assert pull(place.config) == Exit.DONE
    give(place, data)
    assert pull(place.config) == Exit.INTEGRITY
    assert kept(place) == QUANTILES
    assert newest_kept(place.settings.paths.models, PLAN_KEY.public).manifest.model_id == 1


@pytest.fixture
def went_back(tmp_path, capsys):
    """A platform's real folder behind TLS, and the configuration of a merchant there."""
    home, issuer = new_platform(tmp_path / "p"), authority()
    with running_platform(home.registry.parent, issuer) as address:
        invited = invitation(address, ca_pem=issuer.pem, key=home.signing_key())
        shop = new_shop(tmp_path / "shop", invitation=invited)
        with Roster(home.registry) as roster:
            roster.add("bakery", shop.public_key.encode())
        capsys.readouterr()
        yield home, shop.config


def scored_with(home: PlatformHome, config: Path) -> tuple[int, str]:
    """Number and hash of the model that `pp-client score` takes."""
    model = newest_kept(load_settings(config).paths.models, home.verify_key())
    return model.manifest.model_id, model.manifest.sha256


def test_after_a_rollback_a_merchant_pulls_and_scores_with_the_older_model(went_back, capsys, tmp_path):
    home, config = went_back
    publish(home, "may")
    assert pull(config) == Exit.DONE
    _, may = scored_with(home, config)
    publish(home, "june")
    assert pull(config) == Exit.DONE
    june = scored_with(home, config)
    assert june[0] == 2
    assert june[1] != may
    roll_back(home, 1)
    capsys.readouterr()
    assert pull(config) == Exit.DONE
    assert "the platform went back; this is model 1 under a new number" in capsys.readouterr().out
    assert scored_with(home, config) == (3, may)
    cutoff = str(dt.datetime.now(dt.UTC).date())
    assert main(["score", "--cutoff", cutoff, "--out", str(tmp_path / "s.csv"), "--config", str(config)]) == Exit.DONE
    assert "Model:     3 (" in capsys.readouterr().out
    assert pull(config) == Exit.DONE
    assert "Already here: model 3" in capsys.readouterr().out


def test_every_request_says_the_version_of_the_program_and_leaves_a_sign_of_life(went_back):
    home, config = went_back
    assert pull(config) == Exit.DONE
    with Roster(home.registry) as roster:
        (merchant,) = roster.merchants()
    assert merchant.version == importlib.metadata.version("purchase-power")
    assert merchant.last_seen is not None
