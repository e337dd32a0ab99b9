"""What a command on a large shop costs: a bar at full size, and a figure to compare at the size of the quick form."""

from benchmarks.check import regressions
from benchmarks.command_cost import Cost
from benchmarks.scoring import CUSTOMERS, FEW_CUSTOMERS, rows_of


def rows(customers, *, seconds=1.0, megabytes=1_000.0):
    return rows_of({customers: Cost(wall_seconds=seconds, cpu_seconds=seconds, peak_megabytes=megabytes)})


def test_a_million_customers_have_five_minutes_and_four_gigabytes():
    assert [row.verdict for row in rows(CUSTOMERS, seconds=299.0, megabytes=3_999.0)] == ["met", "met"]
    assert [row.verdict for row in rows(CUSTOMERS, seconds=301.0, megabytes=4_001.0)] == ["missed", "missed"]


def test_few_customers_have_no_bar():
    assert {row.verdict for row in rows(FEW_CUSTOMERS)} == {"no bar"}


def test_the_check_compares_memory_at_the_size_of_the_quick_form_and_no_seconds():
    committed = [*rows(FEW_CUSTOMERS), *rows(CUSTOMERS)]
    assert regressions(committed, rows(FEW_CUSTOMERS, seconds=100.0)) == {}
    (line,) = regressions(committed, rows(FEW_CUSTOMERS, megabytes=1_160.0)).values()
    assert line.startswith("score of 50,000 customers: peak memory / 4 GB: 0.290")
