"""Whether anything got slower or larger than what is committed: `make bench-check`.

Measures the quick form again. A figure fails when it is more than 10 % worse than the committed one and its quartiles
lie wholly on the worse side of the committed quartiles, and that twice: a part with such a figure is measured once more
before any is named, so that a busy minute is no regression.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.bench import PARTS, RATIOS, RESULTS, measure_all
from benchmarks.environments import installed
from benchmarks.harness import digits
from benchmarks.report import Report, Row, machine

ALLOWED = 0.10


def worse(committed: Row, fresh: Row) -> bool:
    """Whether the figure is a regression; one that is not a number always is."""
    if committed.more_is_better:
        fine = fresh.ratio >= committed.ratio / (1 + ALLOWED) or fresh.high >= committed.low
    else:
        fine = fresh.ratio <= committed.ratio * (1 + ALLOWED) or fresh.low <= committed.high
    return not fine


def regressions(
    committed: Sequence[Row], fresh: Sequence[Row], *, has_peer: Callable[[str], bool] = installed
) -> dict[str, str]:
    """A line for each committed figure of the quick form, by name, that is worse now or that nobody could measure."""
    by_name = {row.what: row for row in fresh}
    lines = {}
    for row in committed:
        if not row.quick or (row.needs and not has_peer(row.needs)):
            continue
        now = by_name.get(row.what)
        if now is None:
            lines[row.what] = f"{row.what}: committed {digits(row.ratio)}, and not measured any more"
        elif worse(row, now):
            spread = f"{digits(now.low)}-{digits(now.high)}"
            before = f"{digits(row.low)}-{digits(row.high)}"
            lines[row.what] = (
                f"{row.what}: {digits(now.ratio)} ({spread}), committed {digits(row.ratio)} ({before}), "
                f"bar {row.bar.rstrip('<>= ') or 'none'}"
            )
    return lines


def committed_rows(path: Path, parts: Sequence[str]) -> list[Row]:
    """The rows of some parts."""
    kept = json.loads(path.read_text(encoding="utf-8"))["parts"]
    return [Row(**row) for part in parts for row in kept.get(part, [])]


def check(against: Path, parts: Sequence[str], *, measure: Callable[[Sequence[str]], Sequence[Report]]) -> int:
    """Measures some parts anew and says what got worse: 0 nothing, 1 something, 2 there is nothing to compare with."""
    if not against.exists():
        print(f"{against} is missing: make it with `make bench`, and commit it", file=sys.stderr)
        return 2
    where = json.loads(against.read_text(encoding="utf-8"))["machine"]
    if where != machine():
        print(f"Committed figures are of another machine ({where}); ratios move less than times do, but they move.")
    committed = {part: committed_rows(against, [part]) for part in parts}
    found = _worse(committed, measure(parts))
    suspects = [part for part in parts if any(row.what in found for row in committed[part])]
    if suspects:
        print(f"Measuring once more, to be sure: {', '.join(suspects)}", flush=True)
        again = _worse({part: committed[part] for part in suspects}, measure(suspects))
        found = {what: line for what, line in again.items() if what in found}
    for line in found.values():
        print(f"WORSE: {line}")
    number = sum(row.quick for rows in committed.values() for row in rows)
    print(f"{len(found)} of {number} figures are worse than committed")
    return 1 if found else 0


def _worse(committed: Mapping[str, Sequence[Row]], reports: Sequence[Report]) -> dict[str, str]:
    rows = [row for of_part in committed.values() for row in of_part]
    return regressions(rows, [row for report in reports for row in report.rows])


def _measure(parts: Sequence[str]) -> Sequence[Report]:
    reports, missing = measure_all(parts, quick=True)
    for line in missing:
        print(f"Not measured: {line}")
    return reports


def main() -> int:
    """Answers the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--against", type=Path, default=RESULTS / RATIOS, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    return check(args.against, args.only, measure=_measure)


if __name__ == "__main__":
    sys.exit(main())
