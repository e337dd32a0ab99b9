"""pp-server plan with --trust secure_sum: who is on the roster, what is written, priced and offered, and to whom."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from agreement.offer import verify_offer
from pp_model.accounting import epsilon_spent
from pp_model.integer_sum import secure_epsilons
from pp_model.plan import TrainingPlan
from server.commands.plans import read_plan
from server.home import PlatformHome
from server.recipe import fewest_survivors
from server.roster import Roster
from simulations.ports import free_port
from tests.support.platform import new_plan, new_platform, pp_server, public_key_file

SHOPS = ("dairy", "bakery", "cellar", "abbey")


def platform_with(folder: Path, shops: tuple[str, ...] = SHOPS) -> PlatformHome:
    """A platform that is down, with these merchants."""
    home = new_platform(folder / "p", port=free_port())
    for shop in shops:
        assert pp_server(home, "merchants", "add", shop, "--key", str(public_key_file(folder, shop))) == 0
    return home


def sum_plan(home: PlatformHome, *flags: str, name: str = "may") -> int:
    """The exit code of `plan new` with a secure sum."""
    return new_plan(home, name, "--trust", "secure_sum", *flags)


def written(home: PlatformHome, name: str = "may") -> TrainingPlan:
    return read_plan(home.plans / f"{name}.toml")


def keys_of(home: PlatformHome) -> dict[str, str]:
    with Roster(home.registry) as roster:
        return {merchant.name: merchant.fingerprint for merchant in roster.merchants()}


def test_a_secure_sum_is_of_all_merchants_in_the_order_of_their_names(tmp_path, capsys):
    home = platform_with(tmp_path)
    assert sum_plan(home) == 0
    plan = written(home)
    assert plan.trust == "secure_sum"
    assert [(peer.name, peer.key) for peer in plan.secure_sum.roster] == sorted(keys_of(home).items())
    assert (plan.secure_sum.dishonest, plan.server.min_completions) == (1, 3)
    assert epsilon_spent(plan.events, delta=plan.delta) <= 3.0


def test_the_plan_that_is_written_reads_back_with_the_same_fingerprint(tmp_path, capsys):
    home = platform_with(tmp_path)
    assert sum_plan(home) == new_plan(home, "local") == 0
    for name, trust in (("may", "secure_sum"), ("local", "local")):
        plan = written(home, name)
        assert (plan.trust, plan.secure_sum is None) == (trust, trust == "local")
        assert TrainingPlan.from_json(plan.to_json()).fingerprint == plan.fingerprint
    assert "secure_sum" not in (home.plans / "local.toml").read_text().replace('trust = "local"', "")


def test_some_merchants_can_be_named_and_how_many_may_be_dishonest_and_lost(tmp_path, capsys):
    home = platform_with(tmp_path, (*SHOPS, "extra"))
    flags = ("--with", "dairy", "abbey", "bakery", "dairy", "cellar", "--dishonest", "0", "--min-merchants", "4")
    assert sum_plan(home, *flags) == 0
    plan = written(home)
    assert [peer.name for peer in plan.secure_sum.roster] == sorted(SHOPS)
    assert (plan.secure_sum.dishonest, plan.server.min_completions) == (0, 4)


@pytest.mark.parametrize(
    ("shops", "flags", "said"),
    [
        (("a", "b"), [], "there must be 3 or more"),
        ((), [], "there must be 3 or more"),
        (SHOPS, ["--with", "dairy", "abbey"], "there must be 3 or more"),
        (SHOPS, ["--with", "dairy", "dairy", "abbey"], ""),
        (SHOPS, ["--with", "dairy", "abbey", "nobody"], "no merchant 'nobody'"),
        (SHOPS, ["--dishonest", "3"], "secure_sum.dishonest"),
        (SHOPS, ["--dishonest", "-1"], "secure_sum.dishonest"),
        (SHOPS, ["--min-merchants", "2"], "server.min_completions"),
        (SHOPS, ["--min-merchants", "5"], "server.min_completions"),
        (SHOPS, ["--min-merchants", "0"], "server.min_completions"),
        (SHOPS, ["--algorithm", "fedavg"], "fedsgd"),
    ],
    ids=[
        "two-shops", "no-shops", "two-of-four", "one-twice", "a-stranger", "all-others-dishonest", "fewer-than-none",
        "half-are-enough", "more-than-there-are", "none-are-enough", "several-steps",
    ],
)  # fmt: skip
def test_a_secure_sum_that_could_give_one_merchant_away_is_refused_and_leaves_nothing(
    tmp_path, capsys, shops, flags, said
):
    home = platform_with(tmp_path, shops)
    capsys.readouterr()
    assert sum_plan(home, *flags) == 2
    assert said in capsys.readouterr().err
    assert list(home.plans.iterdir()) == []


def test_the_price_of_a_secure_sum_is_three_epsilons_each_with_its_delta(tmp_path, capsys):
    home = platform_with(tmp_path)
    assert sum_plan(home) == new_plan(home, "local") == 0
    plan = written(home)
    capsys.readouterr()
    assert pp_server(home, "plan", "price", "may") == 0
    text = capsys.readouterr().out
    alone, helped, own = (f"{value:.3f}" for value in secure_epsilons(plan).values())
    assert f"epsilon at delta {plan.delta:g} against a platform that no merchant helps: {alone}" in text
    assert f"epsilon at delta {plan.delta:g} against one that as many help as the plan assumes (charged): {helped}" in (
        text
    )
    assert f"epsilon at delta {plan.delta:g} if all other merchants help it: {own}" in text
    assert pp_server(home, "plan", "price", "may", "--json") == 0
    price = json.loads(capsys.readouterr().out)
    assert price["secure_sum"] == secure_epsilons(plan)
    assert price["epsilon"]["1"] == price["secure_sum"]["with_dishonest"]
    assert pp_server(home, "plan", "price", "local", "--json") == 0
    local = json.loads(capsys.readouterr().out)
    assert local["secure_sum"] == {}
    assert price["megabytes_up"] == 2 * local["megabytes_up"]
    assert pp_server(home, "plan", "price", "local") == 0
    assert "merchant helps" not in capsys.readouterr().out


def test_a_secure_sum_without_noise_is_priced_as_no_privacy_whoever_looks(tmp_path, capsys):
    home = platform_with(tmp_path)
    assert sum_plan(home, "--epsilon", "inf") == 0
    capsys.readouterr()
    assert pp_server(home, "plan", "price", "may") == 0
    text = capsys.readouterr().out
    assert "NO PRIVACY" in text
    assert text.count(": infinite") == 3
    assert pp_server(home, "plan", "price", "may", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["secure_sum"].values()) == {"inf"}


def test_a_secure_sum_is_offered_to_its_roster_and_to_nobody_else(tmp_path, capsys):
    home = platform_with(tmp_path, (*SHOPS, "extra"))
    assert sum_plan(home, "--with", *SHOPS) == 0
    keys = keys_of(home)
    capsys.readouterr()
    for flags in ([], ["--for", *SHOPS]):
        assert pp_server(home, "plan", "sign", "may", *flags) == 0
        offer = verify_offer((home.plans / "may.offer.json").read_bytes(), home.verify_key())
        assert sorted(offer.audience) == sorted(keys[shop] for shop in SHOPS)
        assert offer.expires > dt.datetime.now(dt.UTC)
        out = capsys.readouterr().out
        assert all(shop in out for shop in SHOPS)
        assert "all merchants" not in out
    (home.plans / "may.offer.json").unlink()
    for others in (["extra"], ["dairy"], [*SHOPS, "extra"], ["dairy", "abbey", "bakery", "extra"]):
        assert pp_server(home, "plan", "sign", "may", "--for", *others) == 2
        assert "to the merchants on its roster and to no others" in capsys.readouterr().err
    assert not (home.plans / "may.offer.json").exists()


@pytest.mark.parametrize("comes_back", [False, True], ids=["removed", "with-another-key"])
def test_a_roster_with_a_merchant_that_is_gone_is_not_signed(tmp_path, capsys, comes_back):
    home = platform_with(tmp_path)
    assert sum_plan(home) == 0
    assert pp_server(home, "merchants", "remove", "cellar") == 0
    if comes_back:
        new_key = str(public_key_file(tmp_path, "cellar"))
        assert pp_server(home, "merchants", "add", "cellar", "--key", new_key) == 0
    capsys.readouterr()
    assert pp_server(home, "plan", "sign", "may") == 2
    err = capsys.readouterr().err
    assert "merchant 'cellar' was removed, or has a new key" in err
    assert "pp-server plan new" in err
    assert not (home.plans / "may.offer.json").exists()


@pytest.mark.parametrize("merchants", range(3, 30))
@pytest.mark.parametrize("dishonest", [0, 1, 2, 5])
def test_three_quarters_must_be_left_or_what_is_safe(merchants, dishonest):
    if dishonest > merchants - 2:
        return
    least = fewest_survivors(merchants, dishonest=dishonest)
    assert least <= merchants
    assert 2 * least > merchants + dishonest
    assert least >= max(dishonest + 2, 0.75 * merchants)
