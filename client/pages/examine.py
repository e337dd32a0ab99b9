"""Looks through the orders and this machine, as `pp-client doctor` does but without the network, for the data page.

`python -m client.pages.examine --config merchant.toml --out FILE`: a process of its own, since orders can be many.
Nothing in the file is a cell of the orders.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from client.checks import Examination, findings
from client.checkup import CHECKS
from client.orders import Orders
from client.progress import shown_progress
from daemons.exit_codes import Exit
from daemons.files import write_private
from daemons.logs import configure_log
from pp_model.schema import SECONDS_PER_DAY

FORMAT = 1
NETWORK = ("platform", "registered", "plans")  # what is asked of the platform, and what rests on its answer
MOST_MONTHS = 36


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the findings, and says how far it is."""
    parser = argparse.ArgumentParser(prog="python -m client.pages.examine", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    configure_log(None, "ERROR")
    found = examined(args.config)
    write_private(args.out, json.dumps(found, allow_nan=False).encode(), replace=True)
    return Exit.DONE


def examined(config: Path) -> dict[str, Any]:
    """What the checks find, and what became of the rows of the orders, as plain values."""
    examination = Examination(config=config, now=dt.datetime.now(dt.UTC))
    chosen, found = [each for each in CHECKS if each[0] not in NETWORK], []
    with shown_progress() as progress:
        advance = progress("checking", len(chosen))
        for name, check in chosen:
            found += [
                {"check": f.check, "level": f.level.value, "text": f.text} for f in findings(name, check, examination)
            ]
            advance(1)
    return {
        "format": FORMAT,
        "made": examination.now.isoformat(timespec="seconds"),
        "findings": found,
        "orders": _orders(examination.orders) if examination.orders is not None else None,
    }


def _orders(orders: Orders) -> dict[str, Any]:
    report, log = orders.report, orders.log
    days = log.timestamp // SECONDS_PER_DAY
    return {
        "place": report.place,
        "rows": report.rows,
        "used": report.used,
        "customers": len(orders.customer_ids),
        "first": _date(days.min()) if len(log) else None,
        "last": _date(days.max()) if len(log) else None,
        "skipped": [
            {"reason": reason.name.lower(), "count": skip.count, "line": skip.first_line}
            for reason, skip in sorted(report.skipped.items())
        ],
        "shared": {"count": report.shared_order_ids.count, "line": report.shared_order_ids.first_line},
        "months": _months(days),
    }


def _months(days: Any) -> list[tuple[str, int]]:
    """Rows a month, the newest `MOST_MONTHS`; a month without any is there with 0."""
    if not len(days):
        return []
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    first = max(int(months.min()), int(months.max()) - MOST_MONTHS + 1)
    counts = np.bincount(months[months >= first] - first)
    names = (np.arange(first, first + len(counts))).astype("datetime64[M]").astype(str)
    return list(zip(names.tolist(), counts.tolist(), strict=True))


def _date(day: Any) -> str:
    return (dt.date(1970, 1, 1) + dt.timedelta(days=int(day))).isoformat()


if __name__ == "__main__":
    sys.exit(main())
