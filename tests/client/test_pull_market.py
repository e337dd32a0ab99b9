"""`pp-client pull`: the federation's quantiles beside the model, and the model that the platform went back to."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import stat
from pathlib import Path

import pytest

from agreement.market import Market, read_market, sign_market
from agreement.signing import SigningKey
from client.cli import main
from client.models import newest_kept
from client.settings import load_settings
from daemons.exit_codes import Exit
from server.home import PlatformHome
from server.registry import Registry
from server.rollback import roll_back
from server.roster import Roster
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
    give(place, sign_market(QUANTILES, PLAN_KEY))
    assert pull(place.config) == Exit.DONE
    assert kept(place) == QUANTILES
    assert stat.S_IMODE(place.settings.paths.market.stat().st_mode) == 0o600
    shown = capsys.readouterr().out
    assert "Pulled: model 1" in shown
    assert "epsilon 0.8 at delta 1e-06, as the platform states" in shown
    assert QUANTILES.mechanism in shown


def test_newer_quantiles_take_the_place_of_older_ones(place):
    give(place, sign_market(QUANTILES, PLAN_KEY))
    assert pull(place.config) == Exit.DONE
    newer = dataclasses.replace(QUANTILES, made=dt.date(2026, 6, 1), epsilon=0.5)
    give(place, sign_market(newer, PLAN_KEY))
    assert pull(place.config) == Exit.DONE
    assert kept(place) == newer


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
        sign_market(QUANTILES, SigningKey.generate()),
        sign_market(QUANTILES, PLAN_KEY).replace(b"2000.0", b"9999.0"),
        b"{}",
    ],
    ids=["another-key", "changed", "nothing"],
)
def test_quantiles_that_the_platform_did_not_sign_are_not_kept_and_those_before_stay(place, capsys, data):
    place.publish(market_plan())
    give(place, sign_market(QUANTILES, PLAN_KEY))
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
