"""pp-client init: a merchant's folder with its configuration, its node key and what the invitation says."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.commands import new_command
from daemons.exit_codes import Exit
from pp_model.errors import ConfigError

if TYPE_CHECKING:
    from client.merchant_toml import Answers

_EXAMPLE = """pp-client init shop --invitation invitation.toml --name bakery --orders orders.csv \\
      --epsilon 3 --delta 1e-5 --declared-customers 250 --period 2026-h1 --period-ends 2026-06-30"""
_TEXT = """Nothing that costs privacy is chosen for you: what you leave out is a blank in DIR/merchant.toml. Of the
orders only the column names are read, here, and what is guessed from them is marked in that file. Nothing that exists
is replaced, and nothing is sent."""
_LONGEST_NAME = 60


def add(commands: Any) -> None:
    """The parser of `init`."""
    about = "make a merchant's folder: configuration, node key, what the invitation says"
    parser = new_command(commands, "init", _run, about=about, text=_TEXT, example=_EXAMPLE, config=False)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to make")
    parser.add_argument("--invitation", type=Path, required=True, metavar="FILE", help="what the platform sent you")
    parser.add_argument("--name", required=True, help="your name at the platform")
    parser.add_argument("--population", metavar="TEXT", help="whose budget it is, such as 'customers of the web shop'")
    orders = parser.add_argument_group("orders")
    orders.add_argument("--orders", type=Path, metavar="FILE", help="CSV, CSV.gz or Parquet")
    orders.add_argument("--database", metavar="URL", help="an SQLAlchemy URL, without a password")
    orders.add_argument("--query", metavar="SQL", help="the SELECT that gives the orders")
    orders.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS", help="map a column name")
    budget = parser.add_argument_group("budget")
    budget.add_argument("--epsilon", type=float, metavar="E", help="all that a period's plans may cost a customer")
    budget.add_argument("--delta", type=float, metavar="D", help="the probability that epsilon may fail")
    budget.add_argument("--declared-customers", type=int, metavar="N", help="how many you declare to have, at least")
    budget.add_argument("--period", metavar="NAME", help="the time that the budget is for, such as 2026-h1")
    budget.add_argument("--period-starts", type=_date, metavar="DATE", help="its first day (default: today)")
    budget.add_argument("--period-ends", type=_date, metavar="DATE", help="its last day")
    budget.add_argument("--approve", choices=("ask", "automatic"), default="ask", help="each plan (default: ask)")
    budget.add_argument("--approve-under", type=float, metavar="E", help="automatic: up to this epsilon of a run")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def _run(args: argparse.Namespace) -> int:
    # Imported here: the model behind the policy brings PyTorch, and --help should not wait for it.
    from client.new_merchant import make_merchant

    answers = _answers(args)
    made = make_merchant(args.folder, answers)
    if args.json:
        sys.stdout.write(json.dumps(made.to_mapping(), indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(made.lines()) + "\n")
    return Exit.DONE


def _answers(args: argparse.Namespace) -> Answers:
    from agreement.invitation import read_invitation
    from client.columns import column_names, kind_of, propose_columns
    from client.merchant_toml import Answers
    from client.sources import DataContract

    _check(args)
    try:
        invitation = read_invitation(args.invitation.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{args.invitation} cannot be read; give the platform's file with --invitation") from None
    header = column_names(args.orders) if args.orders else []
    columns = DataContract(columns=dict(_pair(text) for text in args.column)).columns  # knows our names
    for ours, theirs in columns.items():
        if header and theirs not in header:
            raise ConfigError(f"--column {ours}={theirs}: no such column; the columns are: {', '.join(header)}")
    left = [name for name in header if name not in columns.values()]
    return Answers(
        merchant=args.name,
        invitation=invitation,
        population=args.population,
        kind="sql" if args.database else kind_of(args.orders) if args.orders else "csv",
        file=_relative(args.orders, args.folder) if args.orders else None,
        url=args.database,
        query=args.query,
        columns=columns,
        proposed={ours: theirs for ours, theirs in propose_columns(left).items() if ours not in columns},
        header=header,
        epsilon=args.epsilon,
        delta=args.delta,
        declared_customers=args.declared_customers,
        approve=args.approve,
        approve_under=args.approve_under,
        period=args.period,
        starts=args.period_starts or dt.datetime.now(dt.UTC).date(),
        ends=args.period_ends,
    )


def _check(args: argparse.Namespace) -> None:
    name = args.name
    if not (name == name.strip() and name.isprintable() and 1 <= len(name) <= _LONGEST_NAME):
        raise ConfigError(f"--name is {name!r}; expected 1 to {_LONGEST_NAME} printable characters")
    if args.orders and (args.database or args.query):
        raise ConfigError("both --orders and --database; give the one that the orders come from")
    if args.query and not args.database:
        raise ConfigError("--query without --database; give the database's URL too")
    for flag, value in (("--epsilon", args.epsilon), ("--approve-under", args.approve_under)):
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"{flag} is {value}; allowed: a finite number of at least 0")
    if args.approve == "ask" and args.approve_under is not None:
        raise ConfigError("--approve-under needs --approve automatic")


def _pair(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not (ours and equals and theirs):
        raise ConfigError(f"--column {text!r} is not OURS=THEIRS; for example --column customer_id=CustomerID")
    return ours.strip(), theirs.strip()


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date like 2026-06-30") from None


def _relative(path: Path, folder: Path) -> str:
    """As it is written in the folder's merchant.toml."""
    path, folder = path.absolute(), folder.absolute()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
