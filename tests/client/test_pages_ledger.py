"""The pages' look at the ledger: the same charges, not one byte changed, and nothing shown that does not hold."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from client.pages.ledger_view import look_at_ledger
from client.spending import read_spending
from pp_model.errors import LedgerError
from tests.support.ledgers import event
from tests.support.scored import ScoredShop, scored_shop

PLAN = "f" * 64


@pytest.fixture
def shop(tmp_path) -> ScoredShop:
    return scored_shop(tmp_path, model=False)


def charge(shop: ScoredShop, *, tasks: int) -> Path:
    with shop.settings.open_ledger() as ledger:
        for number in range(tasks):
            ledger.charge(f"{number:064x}", event(1, sample_rate=0.02), plan=PLAN, most_tasks=None)
    return shop.settings.paths.ledger


def files_of(shop: ScoredShop) -> dict[str, bytes]:
    state = shop.settings.paths.ledger.parent
    return {str(path.relative_to(state)): path.read_bytes() for path in state.rglob("*") if path.is_file()}


def test_it_sees_the_charges_that_the_ledger_has(shop):
    charge(shop, tasks=3)
    assert look_at_ledger(shop.settings) == read_spending(shop.settings)


def test_it_changes_no_byte_and_leaves_no_file(shop):
    charge(shop, tasks=2)
    before = files_of(shop)
    look_at_ledger(shop.settings)
    assert files_of(shop) == before


def test_it_begins_no_ledger(shop):
    found = look_at_ledger(shop.settings)
    assert (found.charges, found.budget) == ((), 3.0)
    assert not list(shop.settings.paths.ledger.parent.glob("ledger*"))


def test_it_sees_what_another_program_charges_while_that_has_the_file_open(shop):
    with shop.settings.open_ledger() as ledger:
        for number in range(3):
            ledger.charge(f"{number:064x}", event(1, sample_rate=0.02), plan=PLAN, most_tasks=None)
            assert len(look_at_ledger(shop.settings).charges) == number + 1


def test_a_changed_entry_is_told_and_no_number_is_shown(shop):
    path = charge(shop, tasks=2)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE entries SET body = replace(body, 'noise_multiplier\":1.0', 'noise_multiplier\":9.0')"
        )
    connection.close()
    with pytest.raises(LedgerError, match="damaged at entry"):
        look_at_ledger(shop.settings)


def test_a_lost_entry_is_told(shop):
    path = charge(shop, tasks=3)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM entries WHERE seq = 2")
    connection.close()
    with pytest.raises(LedgerError, match="damaged at entry 2"):
        look_at_ledger(shop.settings)


def test_a_ledger_of_another_budget_is_told(shop):
    charge(shop, tasks=1)
    text = shop.config.read_text(encoding="utf-8")
    shop.config.write_text(re.sub(r"epsilon_budget = [\d.]+", "epsilon_budget = 9.0", text), encoding="utf-8")
    with pytest.raises(LedgerError, match="begun with budget"):
        look_at_ledger(shop.settings)


def test_a_ledger_that_is_gone_is_no_fresh_budget(shop):
    charge(shop, tasks=1).unlink()
    with pytest.raises(LedgerError, match="gone"):
        look_at_ledger(shop.settings)


def test_a_file_that_is_no_ledger_is_told(shop):
    charge(shop, tasks=1).write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(LedgerError):
        look_at_ledger(shop.settings)
