"""pp-server market publish | withdraw | show: quantiles of the federation, as the platform states and signs them."""

from __future__ import annotations

import argparse
import datetime as dt
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemons.exit_codes import Exit
from pp_model.errors import ConfigError
from server.commands import add_json, hint, new_command, opened, say, say_json, show_table

if TYPE_CHECKING:
    from agreement.market import Market, Statement
    from server.home import PlatformHome
    from server.registry import Registry

MOST_BYTES = 2**18
_SECOND = dt.timedelta(seconds=1)


def add(commands: Any) -> None:
    """The parsers below `market`."""
    about = "publish, withdraw or show the federation's quantiles"
    group = commands.add_parser("market", help=about, description=f"{about[0].upper()}{about[1:]}.")
    verbs = group.add_subparsers(required=True, metavar="COMMAND")
    publish = new_command(
        verbs,
        "publish",
        _publish,
        about="sign quantiles of the federation and give them to merchants, in place of those before them",
        example="pp-server market publish may.toml --home platform",
        text="The file says horizon_days, made, epsilon, delta, the mechanism in words, and [quantiles]: by name, "
        "pairs of a share and a value. They must come from a differentially private release: this program signs what "
        "the file states and cannot check it. docs/market.md has an example.",
    )
    publish.add_argument("file", type=Path, metavar="FILE", help="TOML")
    new_command(
        verbs,
        "withdraw",
        _withdraw,
        about="tell merchants that no quantiles are published any more",
        example="pp-server market withdraw --home platform",
        text="The withdrawal is signed. Merchants learn of it with their next pp-client pull, which then takes nothing "
        "that was published before. Others may have been published later: market publish.",
    )
    show = new_command(
        verbs, "show", _show, about="show what merchants get now", example="pp-server market show --json"
    )
    add_json(show)


def _publish(args: argparse.Namespace) -> int:
    from agreement.market import Market
    from pp_model.config import from_mapping

    home, _ = opened(args)
    try:
        market = from_mapping(Market, _table(args.file))
    except ConfigError as error:
        raise ConfigError(f"{args.file}: {error}") from None
    statement = _issue(home, market)
    say(f"Published: {', '.join(market.quantiles)} over {market.horizon_days} days, made {market.made}.")
    say(f"Stated: epsilon {market.epsilon:g} at delta {market.delta:g}. {market.mechanism}")
    say(f"Merchants have them with their next pp-client pull. Issued: {_moment(statement)}.")
    return Exit.DONE


def _withdraw(args: argparse.Namespace) -> int:
    home, _ = opened(args)
    statement = _issue(home, None)
    say(f"Withdrawn: {_moment(statement)}. Merchants learn of it with their next pp-client pull; until then they see")
    say("what they have. What was published before is not taken again.")
    return Exit.DONE


def _show(args: argparse.Namespace) -> int:
    from agreement.market import verify_statement
    from pp_model.config import to_mapping
    from server.registry import Registry

    home, _ = opened(args)
    with Registry(home.registry) as registry:
        data = registry.market()
    statement = None if data is None else verify_statement(data, home.verify_key())
    market = None if statement is None else statement.market
    if args.json:
        say_json(None if market is None else to_mapping(market))
        return Exit.DONE
    if market is None:
        withdrawn = "" if statement is None else f" They were withdrawn: {_moment(statement)}."
        say(f"No quantiles are published.{withdrawn} Publish some: {hint(home, 'market publish FILE')}")
        return Exit.DONE
    say(f"Made {market.made}, over {market.horizon_days} days.")
    say(f"Stated: epsilon {market.epsilon:g} at delta {market.delta:g}. {market.mechanism}")
    rows = [(name, f"{share:g}", f"{value:g}") for name, points in market.quantiles.items() for share, value in points]
    show_table(("quantile", "share", "value"), list(rows))
    return Exit.DONE


def _issue(home: PlatformHome, market: Market | None) -> Statement:
    """Signs and gives out the quantiles, or that there are none; the newest statement from now on."""
    from agreement.market import Statement, sign_statement
    from server.dashboard.audit import TERMINAL, Action, AuditLog, audit_file
    from server.home import exclusive
    from server.registry import Registry

    busy = "process {pid} publishes or withdraws quantiles right now; try again when it is done"
    with exclusive(home.root / "state" / "market.lock", busy=busy), Registry(home.registry) as registry:
        before = _newest(home, registry)
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        # Later than the one before, whatever the clock says: merchants take no earlier one.
        statement = Statement(issued=now if before is None else max(now, before.issued + _SECOND), market=market)
        registry.publish_market(sign_statement(statement, home.signing_key()))
    action = Action.MARKET_WITHDRAWN if market is None else Action.MARKET_PUBLISHED
    subject = _subject(before.market if market is None and before is not None else market)
    AuditLog(audit_file(home)).append(action, who=TERMINAL, subject=subject)
    return statement


def _newest(home: PlatformHome, registry: Registry) -> Statement | None:
    from agreement.market import verify_statement
    from agreement.signing import SignatureError

    data = registry.market()
    try:
        return None if data is None else verify_statement(data, home.verify_key())
    except SignatureError:  # of another key than merchants have pinned: none of them can have taken it
        return None


def _subject(market: Market | None) -> str:
    return "" if market is None else f"made {market.made}, epsilon {market.epsilon:g} at delta {market.delta:g}"


def _moment(statement: Statement) -> str:
    return f"{statement.issued:%Y-%m-%d %H:%M:%S} UTC"


def _table(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ConfigError(f"the file has more than {MOST_BYTES} bytes; it is no list of quantiles")
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not TOML in UTF-8: {error}; correct it there") from None
