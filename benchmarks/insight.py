"""`pp-client insight` of a large shop, all reports: a part of `make bench`.

A merchant's folder with the shipped model and generated orders: two years of them, ten lines a customer on average, a
fifth of them at a discount, the customers of four countries. Then the command itself, on one thread, from the start of
the program to the last file. Memory is a share of 4 GB, the bar of `pp-client score`; for time there is no bar. The
quick form has 50,000 customers. The full form does so too, and `make bench-check` compares the memory of that.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.command_cost import Cost, cost_of
from benchmarks.generated_shop import CUTOFF, make_shop
from benchmarks.report import Report
from benchmarks.scoring import ORDERS_EACH, memory_row, page_text, sizes, versions

NAME, TITLE = "insight", "The reports of a million customers"


def measure(*, quick: bool) -> Report:
    """The report of this part."""
    costs = {customers: make_reports(customers) for customers in sizes(quick=quick)}
    rows = [memory_row("insight", customers, cost) for customers, cost in costs.items()]
    return Report(name=NAME, title=TITLE, rows=rows, text=page_text(__doc__ or "", costs), versions=versions())


def make_reports(customers: int) -> Cost:
    """What one making of all reports costs."""
    with tempfile.TemporaryDirectory() as name:
        orders, folder = ORDERS_EACH * customers, Path(name)
        config = make_shop(folder, customers=customers, orders=orders, encoder="mlp", kind="parquet", extras=True)
        return cost_of("-m", "client.cli", "insight", "--cutoff", CUTOFF.isoformat(), "--config", str(config))
