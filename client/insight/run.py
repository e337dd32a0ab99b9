"""One making of the reports, from the pulled model and the orders to the files; nothing leaves the machine."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.insight import NAMES, REPORTS
from client.insight.data import load_data
from client.insight.options import make_options
from client.insight.rules import FILE, read_rules
from client.insight.rules_run import RuleOutcome, run_rules
from client.insight.store import cutoff_folder, forget_old, write_made
from client.progress import Begin
from client.settings import MerchantSettings
from pp_model.config import to_mapping


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a making of the reports says of itself; for the merchant's eyes only, since counts are data too.

    Attributes:
        model: SHA-256 of its file.
        reports: the names of those that were made.
        options: insight.toml, where it was made now; "" where it was there.
        rules: what came of each of the merchant's rules.
    """

    folder: str
    cutoff: dt.date
    horizon_days: int
    model_id: int
    model: str
    customers: int
    reports: tuple[str, ...]
    options: str
    rules: tuple[RuleOutcome, ...]

    def to_mapping(self) -> dict[str, Any]:
        """The summary for programs."""
        mapping: dict[str, Any] = to_mapping(self)
        return mapping


def make_reports(
    settings: MerchantSettings,
    *,
    cutoff: dt.date,
    only: Sequence[str] = (),
    models: Path,
    stale: bool = False,
    progress: Begin,
) -> Summary:
    """Makes the reports of a cutoff, all or those named, and applies the merchant's rules.

    Each report is on the disk as soon as it is made, and all of them are before the first alert is sent.

    Args:
        models: the folder of `pull_newest`.
        stale: allows orders that end long before the cutoff.

    Raises:
        ConfigError: no model, no order before the cutoff or none near it, or insight.toml or rules.toml is wrong.
        SignatureError: the model is not what the platform signed.
        BadOrdersError: the source breaks its contract.
    """
    read_rules(settings.home / FILE, slices=settings.orders.contract.slices)  # what is wrong with them is said at once
    new = make_options(settings.paths.insight_options)
    data = load_data(settings, cutoff=cutoff, models=models, progress=progress, stale=stale)
    folder = cutoff_folder(settings.paths.insight, cutoff)
    chosen = tuple(name for name in NAMES if name in only or not only)
    advance = progress("making reports", len(chosen))
    for name in chosen:
        write_made(folder, REPORTS[name](data))
        advance(1)
    outcomes = run_rules(data, home=settings.home, folder=folder)
    forget_old(settings.paths.insight)
    return Summary(
        folder=str(folder),
        cutoff=cutoff,
        horizon_days=data.horizon_days,
        model_id=data.model_id,
        model=data.model,
        customers=data.scores.num_rows,
        reports=chosen,
        options=str(settings.paths.insight_options) if new else "",
        rules=outcomes,
    )
