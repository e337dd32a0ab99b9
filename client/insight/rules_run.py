"""The rules of a merchant applied to its scores: a list each, beside the reports, and the alerts that follow."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
from numpy.typing import NDArray

from client.insight.alerts import AlertError, send
from client.insight.data import InsightData
from client.insight.rules import FILE, Condition, Rule, read_rules
from client.insight.store import harmless
from client.sources.contract import SLICE
from daemons.files import PrivateFileError, write_private
from pp_model.config import to_mapping
from pp_model.errors import ConfigError

OUTCOMES_FILE = "rules.json"
MOST_IDS = 10_000  # of customers in one alert
# On every list, before the columns that its rule asks about.
LISTED = ("customer_id", "tier", "score", "purchase_probability", "expected_spend_cents", "churn_risk", "change")
AlertState = Literal["none", "sent", "not_due", "failed"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RuleOutcome:
    """What came of a rule at a cutoff.

    Attributes:
        file: of the list, below the folder of the cutoff.
        compared_with: the newest earlier cutoff with a list of this rule; None without one, and all are new.
        new, gone: customers on the list that were not on that one, and the other way round.
        alert: "none" where the rule has none; "not_due" where it asks for more customers, or new ones.
        fault: why an alert failed.
    """

    name: str
    purpose: str
    file: str
    customers: int
    compared_with: dt.date | None
    new: int
    gone: int
    alert: AlertState
    fault: str = ""

    @property
    def line(self) -> str:
        """The outcome for a person."""
        against = f" ({self.new:,} new and {self.gone:,} gone since {self.compared_with})" if self.compared_with else ""
        said = {"none": "", "sent": "; alert sent", "not_due": "; no alert due", "failed": f"; NO ALERT: {self.fault}"}
        return f"{self.name}: {self.customers:,} customers{against}, in {self.file}{said[self.alert]}"


def run_rules(data: InsightData, *, home: Path, folder: Path) -> tuple[RuleOutcome, ...]:
    """Applies rules.toml: every list is on the disk before the first alert is sent. () where there are no rules.

    An alert that fails takes neither a list nor another alert with it; its outcome says why.

    Args:
        home: the merchant's folder.
        folder: of the cutoff's reports; earlier cutoffs stand beside it.

    Raises:
        ConfigError: the rules are wrong; nothing was written.
    """
    rules = read_rules(home / FILE, slices=data.slices)
    if not rules:
        return ()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    columns = columns_of(data)
    lists = [_listed(rule, data, columns) for rule in rules]
    for old in set(folder.glob("rules.*.csv")) - {folder / rules_file(rule) for rule in rules}:
        old.unlink()
    for rule, table in zip(rules, lists, strict=True):
        text = BytesIO()
        csv.write_csv(harmless(table), text)
        write_private(folder / rules_file(rule), text.getvalue(), replace=True)
    outcomes = tuple(_told(rule, table, data, home, folder) for rule, table in zip(rules, lists, strict=True))
    found = json.dumps([to_mapping(outcome) for outcome in outcomes], ensure_ascii=False, indent=1)
    write_private(folder / OUTCOMES_FILE, found.encode(), replace=True)
    return outcomes


def rules_file(rule: Rule) -> str:
    """The file of a rule's list, below the folder of a cutoff."""
    return f"rules.{rule.slug}.csv"


def columns_of(data: InsightData) -> Mapping[str, NDArray[Any]]:
    """All that a condition can ask about: [scored], texts as objects, None or NaN where something is missing."""
    names = [name for name in data.scores.column_names if name != "customer"]
    found = {name: _column(data.scores[name]) for name in names}
    codes = data.scores["customer"].to_numpy()
    for label, (of_customer, values) in data.slices.items():
        found[f"{SLICE}{label}"] = np.array([*values, None], object)[of_customer[codes]]  # -1 is the last
    return found


def chosen(rule: Rule, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """[scored]: of whom all conditions hold."""
    holds = [_holds(condition, columns[condition.column]) for condition in rule.when]
    return np.asarray(np.all(holds, axis=0), np.bool_)


def _holds(condition: Condition, values: NDArray[Any]) -> NDArray[np.bool_]:
    if condition.one_of:
        return np.isin(values, np.array(condition.one_of, values.dtype))
    return (values >= condition.at_least) & (values <= condition.at_most)  # NaN is in no bounds


def _column(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
        return np.array(column.to_pylist(), object)
    values: NDArray[Any] = column.to_numpy()
    return values if values.dtype == np.bool_ else values.astype(np.float64)


def _listed(rule: Rule, data: InsightData, columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    """The list, by what the customers are expected to spend, the most first."""
    rows = np.flatnonzero(chosen(rule, columns))
    rows = rows[np.argsort(-data.scores["expected_spend_cents"].to_numpy()[rows], kind="stable")]
    names = [name for name in data.scores.column_names if name in LISTED or _asked(name, rule)]
    table = data.scores.select(names).take(pa.array(rows))
    for name in columns:
        if name not in data.scores.column_names and _asked(name, rule):
            table = table.append_column(name, pa.array(columns[name][rows], pa.string()))
    return table


def _asked(name: str, rule: Rule) -> bool:
    return any(condition.column == name for condition in rule.when)


def _told(rule: Rule, table: pa.Table, data: InsightData, home: Path, folder: Path) -> RuleOutcome:
    """Sends the rule's alert where it is due; what came of the rule."""
    before, earlier = _list_before(rule, folder)
    ids, written = table["customer_id"], harmless(table)["customer_id"]  # as they stand in the file of before
    is_new = ~pc.is_in(written, value_set=earlier).to_numpy() if len(earlier) else np.ones(len(ids), np.bool_)
    gone = len(earlier) - int((~is_new).sum())
    state, fault = _alert_state(rule, len(ids), int(is_new.sum())), ""
    if state == "sent" and rule.alert is not None:
        told = ids.filter(pa.array(is_new)) if rule.only_changes else ids
        body = _body(rule, data, customers=len(ids), new=int(is_new.sum()), gone=gone, ids=told.to_pylist())
        try:
            send(rule.alert, body, home=home)
        except (AlertError, ConfigError, PrivateFileError) as error:
            state, fault = "failed", str(error)
            log.warning("alert not delivered", extra={"rule": rule.slug})
    return RuleOutcome(
        name=rule.name,
        purpose=rule.purpose,
        file=rules_file(rule),
        customers=len(ids),
        compared_with=before,
        new=int(is_new.sum()),
        gone=gone,
        alert=state,
        fault=fault,
    )


def _alert_state(rule: Rule, customers: int, new: int) -> AlertState:
    if rule.alert is None:
        return "none"
    counted = new if rule.only_changes else customers
    return "sent" if counted >= rule.at_least_customers else "not_due"


def _body(rule: Rule, data: InsightData, *, customers: int, new: int, gone: int, ids: Sequence[str]) -> dict[str, Any]:
    """What an alert says. Its id is that of the rule, model, cutoff and counts: sent twice, it is known again."""
    of = f"{rule.name}\0{data.cutoff}\0{data.model}\0{customers} {new} {gone}"
    body: dict[str, Any] = {
        "version": 1,
        "id": hashlib.sha256(of.encode()).hexdigest()[:32],
        "rule": rule.name,
        "purpose": rule.purpose,
        "cutoff": data.cutoff.isoformat(),
        "horizon_days": data.horizon_days,
        "customers": customers,
        "new": new,
        "gone": gone,
    }
    if rule.include_customers:
        body |= {"customer_ids": list(ids[:MOST_IDS]), "customer_ids_left_out": max(0, len(ids) - MOST_IDS)}
    return body


def _list_before(rule: Rule, folder: Path) -> tuple[dt.date | None, pa.Array]:
    """The newest earlier cutoff with a list of this rule, and the customers on it."""
    earlier = [
        path for path in folder.parent.glob(f"*/{rules_file(rule)}") if _is_before(path.parent.name, folder.name)
    ]
    if not earlier:
        return None, pa.array([], pa.string())
    newest = max(earlier, key=lambda path: path.parent.name)
    try:
        options = csv.ConvertOptions(include_columns=["customer_id"], column_types={"customer_id": pa.string()})
        table = csv.read_csv(newest, convert_options=options)
    except (pa.ArrowException, KeyError):
        raise ConfigError(f"{newest}, the list of an earlier cutoff, cannot be read; delete it") from None
    return dt.date.fromisoformat(newest.parent.name), table["customer_id"].combine_chunks()


def _is_before(name: str, cutoff: str) -> bool:
    try:
        return dt.date.fromisoformat(name) < dt.date.fromisoformat(cutoff)
    except ValueError:
        return False


def failed(outcomes: Collection[RuleOutcome]) -> bool:
    """Whether an alert was not delivered."""
    return any(outcome.alert == "failed" for outcome in outcomes)
