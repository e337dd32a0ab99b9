"""pp-client's commands on a real folder, a real ledger and a platform over TLS: what is printed, and the exit code."""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agreement.offer import DecisionState, OfferCode
from agreement.signing import SigningKey
from client.agreements import open_agreements
from client.cli import main
from daemons.exit_codes import Exit
from pp_model.accounting import PrivacyEvent, epsilon_spent, noise_multiplier_for
from pp_model.model import fresh_arrays
from pp_model.plan import TrainingPlan
from pp_model.serialization import to_safetensors
from tests.support.market import HOUR, Market, market, market_plan
from tests.support.plans import tiny_dp


@pytest.fixture
def place(tmp_path):
    with market(tmp_path) as running:
        yield running


@pytest.fixture
def pp_client(place, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--config", str(place.config)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def charge(place: Market, plan: TrainingPlan, rounds: int) -> None:
    with place.settings.open_ledger() as ledger:
        for number in range(rounds):
            ledger.charge(f"{plan.plan_id}-{number}", plan.dp.event, plan=plan.fingerprint, most_tasks=plan.rounds)


def as_json(printed: str) -> Any:
    return json.loads(printed)


def test_plans_says_what_is_offered_in_plain_words_with_its_price(place, pp_client):
    offer = place.offer()
    code, out, _ = pp_client("plans")
    epsilon = math.ceil(100 * epsilon_spent(offer.plan.events, delta=1e-5)) / 100
    assert code == Exit.DONE
    for words in (
        f"{offer.id}  spring",
        f"for one customer of this shop epsilon {epsilon:.2f} at delta 1e-05",
        f"spent so far epsilon 0.00, after it {epsilon:.2f} of 3.00 at delta 1e-05",
        "within 28 days, from up to 4 events of each customer",
        "3 rounds of 1 step(s)",
        "waits for you",
        f"pp-client approve {offer.id[:6]}",
    ):
        assert words in out


def test_plans_json_gives_every_epsilon_its_delta(place, pp_client):
    offer = place.offer()
    _, out, _ = pp_client("plans", "--json")
    (entry,) = as_json(out)["plans"]
    assert entry["id"] == offer.id
    assert (entry["state"], entry["code"], entry["valid_now"]) == ("waiting", None, True)
    assert entry["price"] == {
        "delta": 1e-5,
        "epsilon": {str(k): epsilon_spent(offer.plan.events * k, delta=1e-5) for k in (1, 2, 3, 5, 10)},
    }
    assert entry["ledger"]["epsilon_after"] == epsilon_spent(offer.plan.events, delta=1e-5)
    assert entry["ledger"]["delta"] == 1e-5


def test_plans_says_why_one_is_refused_and_tells_a_forged_one_from_it(place, pp_client):
    place.offer(market_plan(plan_id="loud", dp=tiny_dp(sample_rate=0.05, noise_multiplier=0.1)))
    place.offer(market_plan(plan_id="long", rounds=3000))
    place.offer(market_plan(plan_id="forged"), key=SigningKey.generate())
    code, out, err = pp_client("plans")
    assert code == Exit.DONE
    assert "refused (policy): The plan has a noise multiplier of 0.1" in out
    assert re.search(r"refused \((policy|budget)\): The plan costs epsilon", out)
    assert "forged" not in out
    assert "not an offer signed with the pinned key" in err


def test_plans_without_a_platform_lists_what_is_known_and_says_so(tmp_path, capsys):
    with market(tmp_path) as place:
        offer = place.offer()
        main(["plans", "--config", str(place.config)])
    capsys.readouterr()
    assert main(["plans", "--config", str(place.config)]) == Exit.DONE
    out, err = capsys.readouterr()
    assert offer.id in out
    assert "not asked anew" in err
    assert main(["pull", "--config", str(place.config)]) == Exit.UNREACHABLE


def test_approve_and_reject_are_kept_and_told_to_the_platform_without_a_reason(place, pp_client):
    offer = place.offer()
    pp_client("plans")
    code, out, _ = pp_client("approve", offer.id[:6], "--yes")
    assert (code, "Approved" in out, "The platform was told." in out) == (Exit.DONE, True, True)
    assert [(d.state, d.code) for d in place.decisions(offer)] == [(DecisionState.APPROVED, None)]
    code, out, _ = pp_client("reject", offer.id[:6], "--yes")
    assert (code, "Refused" in out) == (Exit.DONE, True)
    assert [(d.state, d.code) for d in place.decisions(offer)] == [(DecisionState.REFUSED, OfferCode.REJECTED)]
    history = open_agreements(place.settings).history(offer.id)
    assert [event.state.value for event in history] == ["waiting", "approved", "refused"]
    assert history[1].by not in ("", "policy")


def test_nobody_at_a_terminal_means_no_approval_without_yes(place, pp_client, monkeypatch):
    offer = place.offer()
    pp_client("plans")
    code, _, err = pp_client("approve", offer.id)
    assert (code, "--yes" in err) == (Exit.BAD_INPUT, True)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, out, _ = pp_client("approve", offer.id)
    assert (code, "Nothing was changed" in out) == (Exit.DONE, True)
    assert open_agreements(place.settings).find(offer.id).state is DecisionState.WAITING
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    pp_client("approve", offer.id)
    assert open_agreements(place.settings).find(offer.id).state is DecisionState.APPROVED


class Terminal:
    def __init__(self, line: str) -> None:
        self._line = line

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self._line


def test_what_policy_budget_or_date_forbid_cannot_be_approved(place, pp_client):
    loud = place.offer(market_plan(plan_id="loud", dp=tiny_dp(sample_rate=0.05, noise_multiplier=0.1)))
    early = place.offer(market_plan(plan_id="early"), not_before=(now := place.offer().issued) + 48 * HOUR)
    pp_client("plans")
    assert now
    for offer in (loud, early):
        code, _, err = pp_client("approve", offer.id, "--yes")
        assert code == Exit.NOT_ALLOWED
        assert err.startswith("pp-client: ")
        assert "Traceback" not in err


def test_a_run_that_no_longer_fits_is_refused_when_it_is_approved(place, pp_client):
    offer = place.offer()
    pp_client("plans")
    noise = noise_multiplier_for(epsilon=2.999, delta=1e-5, sample_rate=0.5, num_steps=1)
    with place.settings.open_ledger() as ledger:
        event = PrivacyEvent(sample_rate=0.5, noise_multiplier=noise, num_steps=1)
        ledger.charge("dear", event, plan="another", most_tasks=None)
    code, _, err = pp_client("approve", offer.id, "--yes")
    assert (code, "over the budget of 3.00" in err) == (Exit.NOT_ALLOWED, True)
    assert open_agreements(place.settings).find(offer.id).state is DecisionState.WAITING


def test_an_id_that_fits_nothing_is_told(place, pp_client):
    code, _, err = pp_client("approve", "ffff", "--yes")
    assert (code, "pp-client plans" in err) == (Exit.BAD_INPUT, True)


def test_budget_prints_what_the_ledger_holds_and_its_assumptions(place, pp_client):
    place.offer()
    pp_client("plans")
    charge(place, market_plan(), 2)
    charge(place, market_plan(plan_id="unknown"), 1)
    spent = epsilon_spent([market_plan().dp.event.times(3)], delta=1e-5)
    code, out, _ = pp_client("budget")
    assert code == Exit.DONE
    assert f"Spent   epsilon {math.ceil(100 * spent) / 100:.2f} by 3 task(s)" in out
    assert f"Left    epsilon {math.floor(100 * (3 - spent)) / 100:.2f}" in out
    assert "spring: 2 task(s)" in out
    assert "a plan no longer known here" in out
    assert "do not add up" in out
    mapping = as_json(pp_client("budget", "--json")[1])
    assert mapping["epsilon_spent"] == spent
    assert [charge["task"] for charge in mapping["charges"]] == ["spring-0", "spring-1", "unknown-0"]
    assert [(plan["plan_id"], plan["tasks"]) for plan in mapping["plans"]] == [("spring", 2), (None, 1)]
    assert (mapping["delta"], mapping["epsilon_budget"]) == (1e-5, 3.0)


def test_looking_at_the_budget_before_the_first_run_begins_no_ledger(place, pp_client):
    assert pp_client("budget")[0] == Exit.DONE
    pp_client("plans")
    assert not place.settings.paths.ledger.exists()


def test_a_damaged_ledger_stops_every_command_that_needs_it(place, pp_client):
    charge(place, market_plan(), 1)
    ledger = place.settings.paths.ledger
    data = bytearray(ledger.read_bytes())
    data[len(data) // 2] ^= 1
    ledger.write_bytes(bytes(data))
    place.offer()
    for command in ("budget", "plans", "statement"):
        code, _, err = pp_client(command)
        assert (command, code) == (command, Exit.INTEGRITY)
        assert "Traceback" not in err


def test_statement_says_what_was_promised_and_what_was_really_charged(place, pp_client, tmp_path):
    place.offer()
    pp_client("plans")
    charge(place, market_plan(), 2)
    spent = math.ceil(100 * epsilon_spent([market_plan().dp.event.times(2)], delta=1e-5)) / 100
    code, out, _ = pp_client("statement")
    assert code == Exit.DONE
    assert f"2 of the plan's 3 rounds were charged so far: epsilon {spent:.2f} at delta 1e-05" in out
    assert "bakery (customers of the web shop)" in out
    mapping = as_json(pp_client("statement", "--json")[1])
    assert (mapping["charged_rounds"], mapping["promise"]["plan_id"]) == (2, "spring")
    page = tmp_path / "statement.html"
    assert pp_client("statement", "--html", str(page))[0] == Exit.DONE
    assert f">{spent:.2f}<" in page.read_text()


def test_statement_is_about_the_plan_charged_last_unless_another_is_named(place, pp_client):
    first, second = place.offer(), place.offer(market_plan(plan_id="summer"))
    pp_client("plans")
    charge(place, second.plan, 1)
    charge(place, first.plan, 1)
    assert as_json(pp_client("statement", "--json")[1])["promise"]["plan_id"] == "spring"
    named = pp_client("statement", "--json", "--plan", second.id)[1]
    assert as_json(named)["promise"]["plan_id"] == "summer"


def test_statement_before_any_offer_says_what_to_do(place, pp_client):
    code, _, err = pp_client("statement")
    assert (code, "pp-client plans" in err) == (Exit.BAD_INPUT, True)


def test_pull_keeps_the_newest_model_verified_and_private(place, pp_client):
    place.publish(market_plan(plan_id="old"))
    sha256 = place.publish(market_plan(plan_id="newest"))
    charge(place, market_plan(plan_id="newest"), 2)
    code, out, _ = pp_client("pull")
    assert code == Exit.DONE
    (folder,) = place.settings.paths.models.iterdir()
    assert sha256[:12] in folder.name
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.safetensors", "model_card.md"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    for words in ("newest", "took part: 2 of 3 rounds", "at delta 1e-05"):
        assert words in out
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, out, _ = pp_client("pull")
    assert (code, "Already here" in out) == (Exit.DONE, True)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_pull_adds_the_signature_that_older_programs_did_not_keep(place, pp_client):
    place.publish(market_plan(plan_id="newest"))
    pp_client("pull")
    (folder,) = place.settings.paths.models.iterdir()
    signed = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()
    assert pp_client("pull")[0] == Exit.DONE
    assert (folder / "manifest.json").read_bytes() == signed


def test_pull_leaves_older_models_where_they_are_and_says_who_did_not_take_part(place, pp_client, tmp_path):
    place.publish(market_plan(plan_id="old"))
    out_folder = tmp_path / "models"
    assert pp_client("pull", "--out", str(out_folder))[0] == Exit.DONE
    place.publish(market_plan(plan_id="newest"))
    code, out, _ = pp_client("pull", "--out", str(out_folder))
    assert (code, "did not take part" in out) == (Exit.DONE, True)
    assert len(list(out_folder.iterdir())) == 2


def test_pull_before_there_is_a_model_says_so(place, pp_client):
    code, out, _ = pp_client("pull")
    assert (code, "no model yet" in out) == (Exit.DONE, True)


def broken(change: str) -> dict[str, Any]:
    plan = market_plan()
    arrays = fresh_arrays(plan.model, seed=1)
    name = next(iter(arrays))
    return {
        "another signer": {"key": SigningKey.generate()},
        "another file": {"served": b"something else"},
        "another model of the same plan": {"served": to_safetensors(arrays, {"kind": "model", "plan": plan.to_json()})},
        "another plan": {"signed_plan": market_plan(rounds=2)},
        "not a number": {"arrays": {**arrays, name: np.full_like(arrays[name], np.nan)}},
        "another shape": {"arrays": {**arrays, name: np.zeros((3, 3, 3), np.float32)}},
        "an array too many": {"arrays": {**arrays, "more": np.zeros(1, np.float32)}},
    }[change]


@pytest.mark.parametrize(
    "change",
    [
        *("another signer", "another file", "another model of the same plan", "another plan"),
        *("not a number", "another shape", "an array too many"),
    ],
)
def test_a_model_that_is_not_what_was_signed_is_not_kept(place, pp_client, change):
    place.publish(market_plan(), **broken(change))
    code, _, err = pp_client("pull")
    assert code == Exit.INTEGRITY
    assert "Traceback" not in err
    models = place.settings.paths.models
    assert not models.exists() or list(models.iterdir()) == []


def test_a_model_with_another_card_is_not_kept(place, pp_client):
    place.publish(market_plan())
    (place.registry.parent / "card.md").write_text("# Safe for everything\n")
    assert pp_client("pull")[0] == Exit.INTEGRITY
    assert list(place.settings.paths.models.iterdir()) == []


def test_a_model_that_was_changed_here_is_noticed_and_left(place, pp_client):
    place.publish(market_plan())
    pp_client("pull")
    (folder,) = place.settings.paths.models.iterdir()
    (folder / "model.safetensors").write_bytes(b"changed")
    code, _, err = pp_client("pull")
    assert (code, str(folder) in err) == (Exit.INTEGRITY, True)
    assert (folder / "model.safetensors").read_bytes() == b"changed"


def test_a_removed_merchant_is_told_so(place, pp_client):
    place.remove_merchant()
    code, _, err = pp_client("pull")
    assert (code, "removed" in err) == (Exit.UNREACHABLE, True)


@pytest.mark.parametrize("command", ["run", "plans", "approve", "reject", "budget", "statement", "pull"])
def test_every_command_has_help_with_an_example_and_needs_a_configuration(tmp_path, capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"example:\n  pp-client {command}" in capsys.readouterr().out
    needs = ["x"] if command in ("approve", "reject") else []
    assert main([command, *needs, "--config", str(tmp_path / "none.toml")]) == Exit.BAD_INPUT
    assert "there is no" in capsys.readouterr().err
