"""The text of a new merchant.toml: every key there with its comment, and a blank where only the merchant knows."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agreement.invitation import Invitation
from client.settings import BLANK
from client.sources.contract import REQUIRED_COLUMNS
from pp_model.model_spec import ENCODERS

_PROPOSED = "proposed from the header: right?"
_OPTIONAL = {
    "order_id": "joins the lines of one order",
    "quantity": "pieces",
    "category": "of the product",
    "event_type": "purchase, return, ...",
    "currency": "with orders in several",
}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What is known of a new merchant; None and "" are blanks in the file.

    Attributes:
        columns: our name -> the export's, as the merchant said.
        proposed: the same, as guessed from the header; marked so in the file.
        header: the export's column names, to choose from.
    """

    merchant: str
    invitation: Invitation
    population: str | None = None
    kind: Literal["csv", "parquet", "sql"] = "csv"
    file: str | None = None
    url: str | None = None
    query: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    proposed: Mapping[str, str] = field(default_factory=dict)
    header: Sequence[str] = ()
    epsilon: float | None = None
    delta: float | None = None
    declared_customers: int | None = None
    approve: Literal["ask", "automatic"] = "ask"
    approve_under: float | None = None
    period: str | None = None
    starts: dt.date
    ends: dt.date | None = None


def merchant_toml(answers: Answers) -> str:
    """The file's text."""
    return "".join((_head(answers), _platform(answers), _orders(answers), _policy(answers), _period(answers), _LOCAL))


def _head(a: Answers) -> str:
    return f"""\
# pp-client's configuration, read from top to bottom. Where it says {BLANK}, only you know; the rest may stay.
# No secret is in this file. Paths are relative to its folder. After a change: pp-client doctor

# Your name at the platform. Name and population say whose budget this is: under another name or population it would
# be another ledger, so they stay.
merchant = {_value(a.merchant)}

# Whose privacy the budget protects, in your words; for example "customers of the web shop".
population = {_value(a.population)}
"""


def _platform(a: Answers) -> str:
    return f"""
[platform]  # from the invitation
name = {_value(a.invitation.platform)}
address = {_value(a.invitation.address)}
# Only plans and models signed with this key are taken. Compare it with what the platform tells you by telephone.
plan_key = {_value(a.invitation.plan_key)}
# Only a server with a certificate of this authority is talked to.
ca_certificate = "keys/ca.crt"
"""


def _orders(a: Answers) -> str:
    if a.kind == "sql":
        place = f"""\
# As SQLAlchemy writes it, with a user who may only read. Leave the password out: put it alone into a file of mode 600
# and name that file below, or write USER:${{NAME}}@HOST to take it from the environment variable NAME.
url = {_value(a.url)}
# A single SELECT. It may use :start and :end, the first day that is wanted and the day after the last.
query = {_value(a.query)}
# password_file = "secrets/database"
"""
    else:
        place = f"""\
# One row an order, or one a line of an order. Export it again whenever you like: the daemon reads it anew.
file = {_value(a.file)}
"""
    return f"""
[orders]  # they are read here and never leave this machine
kind = {_value(a.kind)}  # "csv" (also gzipped), "parquet" or "sql"
{place}
[orders.contract]  # what is in them, and what to do with rows that are not orders
# currency = "GBP"               # the one that counts; without it there must be only one
# timestamp_format = "%d.%m.%Y"  # as Python's strptime; without it ISO 8601: 2025-12-31 or 2025-12-31 18:05:00
negative_amounts = "return"      # a purchase with a negative amount is a return; or "skip", or "error"
duplicates = "lines"             # rows of one order id are its lines; or "skip" the later ones, or "error"
bad_rows = "error"               # stop at the first bad row; or "skip" it, and doctor counts what was left out
# discount = "Discount"          # your column of money taken off a line; only the reports of pp-client insight read it
{_only_csv(a)}
[orders.contract.columns]  # our name = your column's name
{_columns(a)}
# [orders.contract.slices]  # groups of customers; only the report on fairness reads them. A label = your column
# country = "Country"
"""


def _only_csv(a: Answers) -> str:
    if a.kind != "csv":
        return ""
    return """\
# delimiter = ";"                # without it comma, semicolon or tab is recognised
# encoding = "cp1252"            # without it UTF-8
"""


def _columns(a: Answers) -> str:
    lines = [f"# Yours are: {', '.join(a.header)}"] if a.header else []
    for name in REQUIRED_COLUMNS:
        lines.append(_column(a, name) or f"{name} = {_value(None)}")
    for name, about in _OPTIONAL.items():
        lines.append(_column(a, name) or f'# {name} = "..."  # {about}; leave it out if there is none')
    lines += [_column(a, name) for name in a.columns if name not in (*REQUIRED_COLUMNS, *_OPTIONAL)]
    return "\n".join(lines) + "\n"


def _column(a: Answers, name: str) -> str:
    if name in a.columns:
        return f"{name} = {_value(a.columns[name])}"
    return f"{name} = {_value(a.proposed[name])}  # {_PROPOSED}" if name in a.proposed else ""


def _policy(a: Answers) -> str:
    most = f"{a.declared_customers**-1.1:.2g}" if a.declared_customers else "declared_customers ** -1.1"
    return f"""
[policy]  # what a plan may do here; whatever does not fit is refused, never adjusted
# All that the plans of a period may cost any one customer. Small is private: 1 is strong, 3 is usual, above 8 is weak.
epsilon_budget = {_value(a.epsilon)}
# How many customers you declare, in public, to have at least. Say a round number well below the true one.
declared_customers = {_value(a.declared_customers)}
# The probability that epsilon may fail: at most {most}. 1e-5 suits up to 35,000 customers.
delta = {_value(a.delta)}
# "ask": you approve each plan (pp-client approve). "automatic": those whose whole run costs at most the epsilon below.
approve = {_value(a.approve)}
approve_under_epsilon = {_value(a.approve_under if a.approve == "automatic" else 0.0)}
# Plans with less noise, a longer look ahead or more events of a customer than this are refused, whatever they cost.
least_noise_multiplier = 0.5
longest_horizon_days = 365
longest_sequence = 128
# "local": your noise is added here, in full, before anything leaves. "secure_sum": your share of it is, and the
# platform sees nothing but the sum over all merchants. That gives a better model, and rests on some of the other
# merchants being honest: pp-client plans says on how many, and asks you before you add up with new ones.
trust_modes = ["local", "secure_sum"]
encoders = {_value(ENCODERS)}
"""


def _period(a: Answers) -> str:
    return f"""
[period]  # the time that the budget is for; outside of it no task is taken
# A new period gets a new name, a new ledger and a new budget. Choose it long (half a year, a year): what customers lose
# adds up over periods. Keep the ledgers of the old ones.
name = {_value(a.period)}
starts = {a.starts.isoformat()}
ends = {a.ends.isoformat() if a.ends else _value(None)}  # the last day, such as {a.starts.year}-12-31
"""


_LOCAL = """
[local]  # this machine; reached from nowhere else
health_http = "127.0.0.1:8470"  # health and metrics for your monitoring
health_grpc = "127.0.0.1:8471"
supernode_port = 9094
device = "auto"                 # "cpu", "cuda" or "cuda:1"; auto takes a GPU where there is one
poll_seconds = 5.0              # how often the platform is asked for new plans
"""


def _value(value: str | float | Sequence[str] | None) -> str:
    """The value as TOML; a blank where there is none."""
    if value is None:
        value = BLANK
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float | int):
        return repr(value)
    return "[" + ", ".join(map(_value, value)) + "]"
