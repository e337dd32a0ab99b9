"""How fresh the orders are, and how far scores have moved since an earlier scoring, which is kept here alone."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from daemons.files import check_private, write_private
from pp_model.errors import ConfigError

STALE_DAYS = 7  # orders that end earlier make every customer look silent
MOVED, CHANGED = 0.1, 0.25  # of the stability index; the usual rule of thumb
MOST_KEPT = 3
# Public bins, the same in every run: scores go from 0 to 100, features from -6 to 6. Outer ones take what is beyond.
_SCORE_EDGES, _FEATURE_EDGES = np.arange(5.0, 100.0, 5.0), np.arange(-5.5, 6.0, 0.5)
_LEAST_SHARE = 1e-4  # of a bin, so that an empty one costs something finite


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """An earlier scoring.

    Attributes:
        model: SHA-256 of the model's file.
        customer_ids: pyarrow string Array.
        score: [customers].
        histograms: counts by name, the score's and those of a few features.
    """

    cutoff: dt.date
    model: str
    customer_ids: Any
    score: NDArray[np.float64]
    histograms: Mapping[str, list[int]]

    def scores_of(self, ids: Any) -> NDArray[np.float64]:
        """[ids]: the score of each customer in that run; NaN where it was not there."""
        places = pc.fill_null(pc.index_in(ids, value_set=self.customer_ids), len(self.score)).to_numpy()
        found: NDArray[np.float64] = np.append(self.score, np.nan)[places]
        return found


def keep_run(folder: Path, run: KeptRun) -> None:
    """Keeps the run in place of one of the same cutoff, with mode 600; only the newest `MOST_KEPT` cutoffs stay."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    note = {"cutoff": run.cutoff.isoformat(), "model": run.model, "histograms": json.dumps(dict(run.histograms))}
    table = pa.table({"customer_id": run.customer_ids, "score": run.score}).replace_schema_metadata(note)
    data = BytesIO()
    pq.write_table(table, data)
    write_private(folder / f"{run.cutoff}.parquet", data.getvalue(), replace=True)
    for path in _kept(folder)[:-MOST_KEPT]:
        path.unlink()


def run_before(folder: Path, cutoff: dt.date) -> KeptRun | None:
    """The newest kept run of an earlier cutoff, so that scoring a day twice compares with the same run twice.

    Raises:
        ConfigError: it cannot be read.
        PrivateFileError: it is open to others.
    """
    earlier = [path for path in _kept(folder) if path.stem < cutoff.isoformat()]
    if not earlier:
        return None
    check_private(earlier[-1])
    try:
        table = pq.read_table(BytesIO(earlier[-1].read_bytes()))
        note = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        return KeptRun(
            cutoff=dt.date.fromisoformat(note["cutoff"]),
            model=note["model"],
            customer_ids=table["customer_id"].combine_chunks(),
            score=table["score"].to_numpy(),
            histograms=json.loads(note["histograms"]),
        )
    except (pa.ArrowException, AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(
            f"{earlier[-1]}, the scores kept of an earlier run, cannot be read; delete it, and changes are compared "
            "with the run before it"
        ) from None


def histogram(name: str, values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Counts of the values in the public bins of "score" or of a feature."""
    edges = _SCORE_EDGES if name == "score" else _FEATURE_EDGES
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(np.int64)


def stability_index(now: NDArray[np.int64] | list[int], before: NDArray[np.int64] | list[int]) -> float:
    """The population stability index of two histograms: the symmetrised Kullback-Leibler divergence, 0 when alike.

    Source: Yurdakul 2018, "Statistical properties of population stability index", equation 1.1.
    """
    p, q = (np.maximum(np.asarray(counts) / max(np.sum(counts), 1), _LEAST_SHARE) for counts in (now, before))
    return float(np.sum((p - q) * np.log(p / q)))


def drift_words(index: float) -> str:
    """What a stability index means for a merchant."""
    if not index < CHANGED:
        return "changed: before you act on it, check the export, the season and the model"
    return "moved: look whether you know why" if index >= MOVED else "steady"


def days_old(newest: dt.date, cutoff: dt.date) -> int:
    """Whole days without an order between the newest order's day and the cutoff."""
    return (cutoff - newest).days - 1


def _kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*-[0-9]*-[0-9]*.parquet"))
