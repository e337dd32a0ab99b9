"""The file of scores: parts that survive an interruption, then the whole file at once, readable by its owner alone.

The finished parts lie in a folder beside the file, bound to a key: model, cutoff, orders and the run compared with.
Under another key nothing of them is used.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from client.orders import Orders
from daemons.files import write_private
from pp_model.errors import ConfigError, PurchasePowerError
from pp_model.loss import tiers
from pp_model.schema import COLUMNS

FORMAT = 1  # of the parts; another number makes older parts useless
ENDINGS = (".parquet", ".csv")
TIERS = ("low", "middle", "high")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
SCHEMA = pa.schema(
    [
        ("customer_id", pa.string()),
        ("purchase_probability", pa.float64()),
        ("expected_spend_cents", pa.int64()),
        ("spend_low_cents", pa.int64()),
        ("spend_high_cents", pa.int64()),
        ("score", pa.float64()),
        ("tier", pa.string()),
        ("churn_risk", pa.float64()),
        ("change", pa.float64()),
        ("reason_1", pa.string()),
        ("reason_2", pa.string()),
        ("reason_3", pa.string()),
        ("orders_seen", pa.int64()),
        ("newcomer", pa.bool_()),
    ]
)


class ScoreFileError(PurchasePowerError):
    """The file of scores cannot be written; what was there before is as it was."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Finished parts of one scoring, by number.

    Attributes:
        resumed: whether there were parts of the same scoring already.
    """

    folder: Path
    resumed: bool

    def read(self, number: int) -> pa.Table | None:
        """The part, or None where it is not there or cannot be read; then it has to be made again."""
        try:
            return pq.read_table(BytesIO(self._path(number).read_bytes()))
        except (FileNotFoundError, pa.ArrowException):
            return None

    def write(self, number: int, part: pa.RecordBatch) -> pa.Table:
        """Puts the part on the disk, in full or not at all, and gives it back as `read` would.

        Raises:
            ScoreFileError: the disk is full. Earlier parts stay.
        """
        table, data = pa.Table.from_batches([part]), BytesIO()
        pq.write_table(table, data)
        with _room_for(self.folder):
            write_private(self._path(number), data.getvalue(), replace=True)
        return table

    def remove(self) -> None:
        """Forgets all of them."""
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"


def check_out(out: Path, *, force: bool) -> None:
    """Returns if scores can be written to `out`.

    Raises:
        ConfigError: its name ends otherwise than `ENDINGS`, its folder is not there, or it exists and `force` is false.
    """
    if out.suffix not in ENDINGS:
        raise ConfigError(f"--out {out} ends with {out.suffix!r}; allowed: {' or '.join(ENDINGS)}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file")
    if out.exists() and not force:
        raise ConfigError(f"{out} exists and was left as it is; name another file, or replace it with --force")


def scoring_key(orders: Orders, *, model: str, cutoff: dt.date, compared_with: str) -> str:
    """A fingerprint of all that the scores depend on: the orders with their customers' ids, and the rest.

    Args:
        model: SHA-256 of its file.
        compared_with: names the earlier run, "" without one.
    """
    bound = [FORMAT, model, cutoff.isoformat(), compared_with]
    digest = hashlib.blake2b(json.dumps(bound).encode(), digest_size=32)
    for name in COLUMNS:
        digest.update(np.ascontiguousarray(getattr(orders.log, name)).data)
    for customer_id in orders.customer_ids:
        digest.update(customer_id.encode() + b"\0")
    return digest.hexdigest()


def open_parts(out: Path, key: str) -> Parts:
    """The parts of the scoring with this key, kept beside `out`; those of another one are removed."""
    folder = out.parent / f".{out.name}.parts"
    note = folder / "key"
    if note.exists() and note.read_text(encoding="ascii") == key:
        return Parts(folder=folder, resumed=any(folder.glob("*.parquet")))
    if folder.exists():
        shutil.rmtree(folder)
    with _room_for(out):
        folder.mkdir(mode=0o700)
        write_private(note, key.encode())
    return Parts(folder=folder, resumed=False)


def tier_cuts(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Where this merchant's own middle and high tier begin: its median and its upper tenth."""
    middle, high = np.quantile(scores, [0.5, 0.9])
    return float(middle), float(high)


def finished(part: pa.Table, *, ids: pa.Array, previous: NDArray[np.float64], cuts: tuple[float, float]) -> pa.Table:
    """A part as it is delivered.

    Args:
        ids, previous: of each customer code: the merchant's own id, and the score of an earlier run, NaN without one.
        cuts: of `tier_cuts`, over all parts.
    """
    codes, score = part["customer"].to_numpy(), part["score"].to_numpy()
    change = (score - previous[codes]).round(2)
    found = {
        "customer_id": ids.take(pa.array(codes)),
        "tier": pa.array(np.array(TIERS)[tiers(score, cuts=cuts)]),
        "change": pa.array(change, mask=np.isnan(change)),
    }
    columns = [found[name] if name in found else part[name] for name in SCHEMA.names]
    return pa.table(columns, names=SCHEMA.names).cast(SCHEMA)


@contextmanager
def score_file(out: Path, parts: Parts, *, force: bool) -> Iterator[Any]:
    """Something with `write_table`; the file is there when the block ends, in full or not at all, with mode 600.

    Raises:
        ScoreFileError: the disk is full.
        ConfigError: the file came to be in the meantime, and `force` is false.
    """
    made = parts.folder / f"whole{out.suffix}"
    with _room_for(out), os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        with _writer(file, out.suffix) as writer:
            yield writer
        file.flush()
        os.fsync(file.fileno())
    if force:
        made.replace(out)
        return
    try:
        out.hardlink_to(made)  # unlike a rename, it does not replace
    except FileExistsError:
        check_out(out, force=False)
        raise


def _writer(file: Any, suffix: str) -> Any:
    return pc.CSVWriter(file, SCHEMA) if suffix == ".csv" else pq.ParquetWriter(file, SCHEMA)


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise ScoreFileError(
            f"no room left on the disk of {path.parent} ({os.strerror(error.errno or 0)}). Make room and give the same "
            "command again: it goes on after the parts that are finished."
        ) from None
