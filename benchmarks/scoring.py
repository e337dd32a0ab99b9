"""`pp-client score` of everybody in a large shop: a part of `make bench`, and `python -m benchmarks.scoring`.

A merchant's folder with the shipped model and generated orders: two years of them, ten lines a customer on average.
Then the command itself, on one thread, from the start of the program to the finished file. Seconds and memory are
shares of the bars, five minutes by the clock and 4 GB. The quick form scores 50,000 customers. The full form does so
too, and `make bench-check` compares the memory of that; seconds depend on the machine, and are not compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.command_cost import Cost, cost_of
from benchmarks.generated_shop import CUTOFF, make_shop
from benchmarks.harness import spread
from benchmarks.report import Report, Row, row_of, table
from pp_model.model_spec import ENCODERS, Encoder

NAME, TITLE = "scoring", "A million customers scored"
CUSTOMERS, FEW_CUSTOMERS, ORDERS_EACH = 1_000_000, 50_000, 10
BAR_SECONDS, BAR_MEGABYTES = 300.0, 4_000.0
_FORMS = ("parquet", "csv")

Costs = Mapping[int, Cost]  # by the number of customers


def measure(*, quick: bool) -> Report:
    """The report of this part."""
    costs = {customers: score(customers) for customers in sizes(quick=quick)}
    text = page_text(__doc__ or "", costs)
    return Report(name=NAME, title=TITLE, rows=rows_of(costs), text=text, versions=versions())


def rows_of(costs: Costs) -> list[Row]:
    """Time and memory as shares of their bars, which are those of the full size."""
    memory = [memory_row("score", customers, cost) for customers, cost in costs.items()]
    seconds = [
        row_of(
            f"score of {customers:,} customers: seconds by the clock / {BAR_SECONDS:g}",
            spread([cost.wall_seconds / BAR_SECONDS]),
            "<= 1" if customers == CUSTOMERS else "<=",
            quick=False,
        )
        for customers, cost in costs.items()
    ]
    return [*seconds, *memory]


def sizes(*, quick: bool) -> Sequence[int]:
    """How many customers the shops have that a form measures."""
    return (FEW_CUSTOMERS,) if quick else (FEW_CUSTOMERS, CUSTOMERS)


def memory_row(command: str, customers: int, cost: Cost) -> Row:
    """The peak of memory as a share of 4 GB; a bar at full size, compared by the check at the small one."""
    return row_of(
        f"{command} of {customers:,} customers: peak memory / {BAR_MEGABYTES / 1000:g} GB",
        spread([cost.peak_megabytes / BAR_MEGABYTES]),
        "<= 1" if customers == CUSTOMERS else "<=",
        quick=customers == FEW_CUSTOMERS,
    )


def page_text(how: str, costs: Costs) -> str:
    """How it was measured, from a module's docstring, and the figures behind the shares."""
    lines = [
        [
            *(f"{customers:,}", f"{ORDERS_EACH * customers:,}"),
            *(f"{cost.cpu_seconds:.1f}", f"{cost.wall_seconds:.1f}", f"{cost.peak_megabytes:,.0f} MB"),
        ]
        for customers, cost in costs.items()
    ]
    titles = ["customers", "orders", "CPU seconds", "seconds by the clock", "peak memory"]
    return how.split("\n\n", 1)[1].strip() + "\n\n" + table(titles, lines)


def versions() -> dict[str, str]:
    """Of what the commands spend their time in."""
    return {package: version(package) for package in ("numpy", "pyarrow", "torch")}


def score(customers: int, *, encoder: Encoder = "mlp", orders_form: str = "parquet", out_form: str = "parquet") -> Cost:
    """What one scoring of everybody costs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        orders = ORDERS_EACH * customers
        config = make_shop(folder / "shop", customers=customers, orders=orders, encoder=encoder, kind=orders_form)
        where = ("--config", str(config), "--out", str(folder / f"scores.{out_form}"))
        return cost_of("-m", "client.cli", "score", "--cutoff", CUTOFF.isoformat(), *where)


def main() -> None:
    """Prints the cost of one scoring as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, default=CUSTOMERS)
    parser.add_argument("--encoder", choices=ENCODERS, default="mlp")
    parser.add_argument("--input", choices=_FORMS, default="parquet")
    parser.add_argument("--output", choices=_FORMS, default="parquet")
    args = parser.parse_args()
    found = score(args.customers, encoder=args.encoder, orders_form=args.input, out_form=args.output)
    print(json.dumps({**vars(args), **asdict(found)}))


if __name__ == "__main__":
    main()
