"""pp-server market publish | show: quantiles of the federation, as the platform states and signs them."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from daemons.exit_codes import Exit
from pp_model.errors import ConfigError
from server.commands import add_json, hint, new_command, opened, say, say_json, show_table

MOST_BYTES = 2**18


def add(commands: Any) -> None:
    """The parsers below `market`."""
    about = "publish or show the federation's quantiles"
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
    show = new_command(
        verbs, "show", _show, about="show what merchants get now", example="pp-server market show --json"
    )
    add_json(show)


def _publish(args: argparse.Namespace) -> int:
    from agreement.market import Market, sign_market
    from pp_model.config import from_mapping
    from server.registry import Registry

    home, _ = opened(args)
    try:
        market = from_mapping(Market, _table(args.file))
    except ConfigError as error:
        raise ConfigError(f"{args.file}: {error}") from None
    with Registry(home.registry) as registry:
        registry.publish_market(sign_market(market, home.signing_key()))
    say(f"Published: {', '.join(market.quantiles)} over {market.horizon_days} days, made {market.made}.")
    say(f"Stated: epsilon {market.epsilon:g} at delta {market.delta:g}. {market.mechanism}")
    say("Merchants have them with their next pp-client pull.")
    return Exit.DONE


def _show(args: argparse.Namespace) -> int:
    from agreement.market import verify_market
    from pp_model.config import to_mapping
    from server.registry import Registry

    home, _ = opened(args)
    with Registry(home.registry) as registry:
        data = registry.market()
    market = None if data is None else verify_market(data, home.verify_key())
    if args.json:
        say_json(None if market is None else to_mapping(market))
        return Exit.DONE
    if market is None:
        say(f"No quantiles are published. Publish some: {hint(home, 'market publish FILE')}")
        return Exit.DONE
    say(f"Made {market.made}, over {market.horizon_days} days.")
    say(f"Stated: epsilon {market.epsilon:g} at delta {market.delta:g}. {market.mechanism}")
    rows = [(name, f"{share:g}", f"{value:g}") for name, points in market.quantiles.items() for share, value in points]
    show_table(("quantile", "share", "value"), list(rows))
    return Exit.DONE


def _table(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ConfigError(f"the file has more than {MOST_BYTES} bytes; it is no list of quantiles")
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}); check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not TOML in UTF-8: {error}; correct it there") from None
