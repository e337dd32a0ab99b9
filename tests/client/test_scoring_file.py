"""The file of scores: there in full or not at all, private, and continued after an interruption."""

from __future__ import annotations

import datetime as dt
import functools
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import client.score_run as score_run
from client.cli import main
from daemons.exit_codes import Exit
from pp_model.baskets import basket_blocks
from tests.support.merchant_home import TODAY
from tests.support.scored import ScoredShop, rows_of, scored_shop, shipped

YESTERDAY = TODAY - dt.timedelta(days=1)


@pytest.fixture
def shop(tmp_path, monkeypatch) -> ScoredShop:
    """A shop that is scored in parts of some thirty customers."""
    monkeypatch.setattr(score_run, "basket_blocks", functools.partial(basket_blocks, lines_per_block=60))
    return scored_shop(tmp_path)


def score(shop: ScoredShop, out: Path, *more: str, cutoff: dt.date = TODAY) -> int:
    return main(["score", "--config", str(shop.config), "--cutoff", str(cutoff), "--out", str(out), *more])


def count_blocks(monkeypatch: pytest.MonkeyPatch, *, stop_after: int | None = None) -> list[int]:
    """Filled with the customers of every part that is computed; after `stop_after` parts, somebody presses Ctrl-C."""
    computed, real = [], score_run.score_block

    def counted(*arguments: Any) -> Any:
        if len(computed) == stop_after:
            raise KeyboardInterrupt
        block = real(*arguments)
        computed.append(block.num_rows)
        return block

    monkeypatch.setattr(score_run, "score_block", counted)
    return computed


def beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path.name != "shop")


def test_an_interrupted_scoring_goes_on_after_its_finished_parts_and_gives_the_same_file(shop, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.parquet", tmp_path / "scores.parquet"
    assert score(shop, whole) == Exit.DONE
    with monkeypatch.context() as patch:
        computed = count_blocks(patch, stop_after=4)
        assert score(shop, out) == Exit.INTERRUPTED
    assert len(computed) == 4
    assert not out.exists()
    more = count_blocks(monkeypatch)
    assert score(shop, out) == Exit.DONE
    assert sum(computed) + sum(more) == 300
    assert out.read_bytes() == whole.read_bytes()
    assert beside(out) == ["scores.parquet", "whole.parquet"]


@pytest.mark.parametrize("changed", ["orders", "model", "cutoff", "customer ids"])
def test_parts_of_another_scoring_are_not_used(shop, tmp_path, monkeypatch, changed):
    out = tmp_path / "scores.parquet"
    with monkeypatch.context() as patch:
        count_blocks(patch, stop_after=4)
        score(shop, out)
    cutoff = YESTERDAY if changed == "cutoff" else TODAY
    text = shop.orders.read_text(encoding="utf-8")
    if changed == "orders":
        shop.orders.write_text(text.replace(",1.50", ",2.50"), encoding="utf-8")
    if changed == "customer ids":
        shop.orders.write_text(text.replace("customer-7,", "customer-seven,"), encoding="utf-8")
    if changed == "model":
        shop.keep_model(*shipped("linear"), model_id=2)
    computed = count_blocks(monkeypatch)
    assert score(shop, out, cutoff=cutoff) == Exit.DONE
    assert sum(computed) == len(rows_of(out))


def test_a_damaged_part_is_made_again(shop, tmp_path, monkeypatch):
    out = tmp_path / "scores.parquet"
    with monkeypatch.context() as patch:
        computed = count_blocks(patch, stop_after=4)
        score(shop, out)
    part = tmp_path / ".scores.parquet.parts" / "000002.parquet"
    part.write_bytes(part.read_bytes()[:100])
    more = count_blocks(monkeypatch)
    assert score(shop, out) == Exit.DONE
    assert sum(computed) + sum(more) == 300 + computed[2]
    assert len(rows_of(out)) == 300


def test_a_file_that_exists_is_left_as_it_is_unless_told_otherwise(shop, tmp_path, monkeypatch, capsys):
    out = tmp_path / "scores.parquet"
    out.write_bytes(b"mine")
    assert score(shop, out) == Exit.BAD_INPUT
    assert "--force" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        count_blocks(patch, stop_after=4)
        assert score(shop, out, "--force") == Exit.INTERRUPTED
    assert out.read_bytes() == b"mine"
    assert score(shop, out, "--force") == Exit.DONE
    assert len(rows_of(out)) == 300


def test_a_file_that_appears_meanwhile_is_left_as_it_is(shop, tmp_path, monkeypatch):
    out = tmp_path / "scores.parquet"
    real = score_run.tier_cuts
    monkeypatch.setattr(score_run, "tier_cuts", lambda scores: (out.write_bytes(b"mine"), real(scores))[1])
    assert score(shop, out) == Exit.BAD_INPUT
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_what_is_written_is_for_its_owner_alone(shop, tmp_path, monkeypatch, ending):
    out = tmp_path / f"scores.{ending}"
    with monkeypatch.context() as patch:
        count_blocks(patch, stop_after=4)
        score(shop, out)
    parts = tmp_path / f".scores.{ending}.parts"
    assert stat.S_IMODE(parts.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in parts.iterdir()} == {0o600}
    score(shop, out)
    (kept,) = shop.settings.paths.scores.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (out, kept, kept.parent)] == [0o600, 0o600, 0o700]


def test_csv_and_parquet_hold_the_same(shop, tmp_path):
    written = []
    for ending in ("parquet", "csv"):
        out = tmp_path / f"scores.{ending}"
        assert score(shop, out) == Exit.DONE
        written.append([{name: cell or None for name, cell in row.items()} for row in rows_of(out)])
    assert written[0] == written[1]
    assert pq.read_schema(tmp_path / "scores.parquet").names == list(written[1][0])


def test_tiers_are_of_all_customers_together(shop, tmp_path):
    out = tmp_path / "scores.parquet"
    assert score(shop, out) == Exit.DONE
    rows = rows_of(out)
    by_score = {tier: [row["score"] for row in rows if row["tier"] == tier] for tier in ("low", "middle", "high")}
    assert max(by_score["low"]) < min(by_score["middle"])
    assert max(by_score["middle"]) < min(by_score["high"])
    assert 30 <= len(by_score["high"]) <= 40


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Any file of more than `size` bytes meets the end of the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_the_same_command_goes_on_afterwards(shop, tmp_path, monkeypatch, capsys):
    out = tmp_path / "scores.parquet"
    with room_for(12_000):  # enough for a part, not for the file
        assert score(shop, out) == Exit.BAD_INPUT
    said = capsys.readouterr().err
    assert "no room left on the disk" in said
    assert "same command again" in said
    assert not out.exists()
    assert count_blocks(monkeypatch) == []
    assert score(shop, out) == Exit.DONE
    assert len(rows_of(out)) == 300
