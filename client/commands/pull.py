"""`pp-client pull`: the newest model and the federation's quantiles, verified before they are kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.commands import new_command
from daemons.exit_codes import Exit

if TYPE_CHECKING:
    from agreement.market import Market, Statement
    from client.models import PulledModel
    from client.settings import MerchantSettings


def add(commands: Any) -> None:
    """Adds the command's parser."""
    parser = new_command(
        commands,
        "pull",
        run,
        about="fetch the newest model and the federation's quantiles, verify them, and keep them",
        example="pp-client pull --out models",
        text="The quantiles are those of all merchants together, with what they cost in privacy, where the platform "
        "publishes any.",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="keep the model there (default: state/models of the merchant)"
    )


def run(args: argparse.Namespace) -> int:
    """Fetches what is not here yet; a model that is here is never overwritten."""
    from client.market import pull_market
    from client.models import pull_newest
    from client.platform import platform_client
    from client.settings import load_settings

    settings = load_settings(args.config)
    folder = args.out or settings.paths.models
    with platform_client(settings) as client:
        pulled = pull_newest(client, settings.plan_key, folder)
        _say("The platform has published no model yet." if pulled is None else _about_model(pulled, settings))
        statement = pull_market(client, settings.plan_key, settings.paths.market)
        if statement is not None:
            _say(_about_statement(statement, settings))
    return Exit.DONE


def _about_model(pulled: PulledModel, settings: MerchantSettings) -> str:
    from client.plan_view import price_text
    from client.spending import read_spending

    number, plan = pulled.manifest.model_id, pulled.plan
    tasks = len(read_spending(settings).of(plan.fingerprint))
    part = f"This merchant took part: {tasks} of {plan.rounds} rounds are in its ledger."
    lines = [
        f"{'Pulled' if pulled.new else 'Already here'}: model {number} in {pulled.folder}",
        f"  Plan:     {plan.plan_id} ({plan.fingerprint[:12]}), {plan.rounds} rounds",
        f"  Cost:     {price_text(plan)}",
        "  Verified: signature of the platform, file, card, shapes and values",
        f"  {part if tasks else 'This merchant did not take part in it.'}",
    ]
    if pulled.again is not None:
        lines.insert(1, f"  Again:    the platform went back; this is model {pulled.again} under a new number")
    return "\n".join(lines)


def _about_statement(statement: Statement, settings: MerchantSettings) -> str:
    if statement.market is not None:
        return _about_market(statement.market, settings.paths.market)
    from client.market import reports_on_it

    text = (
        "The platform publishes no quantiles of the federation any more: it withdrew them on "
        f"{statement.issued:%Y-%m-%d %H:%M} UTC."
    )
    if found := reports_on_it(settings.paths.insight):
        text += f"\n  Reports:  {found} of yours on the market position may rest on them; see pp-client insight"
    return text


def _about_market(market: Market, path: Path) -> str:
    return (
        f"Quantiles of the federation, made {market.made}, over {market.horizon_days} days: {path}\n"
        f"  Cost:     epsilon {market.epsilon:g} at delta {market.delta:g}, as the platform states\n"
        f"  Made by:  {market.mechanism}"
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
