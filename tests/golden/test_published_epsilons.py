"""Checklist: D42.

The table itself: its rows are the ones the house style prints. What is tested of each is in
tests/pp_model/test_accounting.py, which reads the same file.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

ROWS = tomllib.loads((Path(__file__).parent / "published_epsilons.toml").read_text())["row"]


def test_the_table_has_every_published_row():
    assert [(row["id"], row["published"]) for row in ROWS] == [
        ("Abadi-2016-section-5.1-E100", 1.26),
        ("Bu-2020-figure-4-bottom", 8.68),
        ("TensorFlow-Privacy-tutorials-row-1", 2.92),
        ("TensorFlow-Privacy-tutorials-row-3", 1.20),
    ]


def test_the_tight_value_is_below_the_published_one_in_every_row():
    assert all(row["tight"] < row["published"] for row in ROWS)
