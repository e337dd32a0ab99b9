"""Orders that are already in memory, such as those of a synthetic shop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.sources.contract import DataContract
from client.sources.rows import BATCH_ROWS, OrderChunk, RowExtras, inside
from pp_model.schema import OrderLog, Window


@dataclass(frozen=True, kw_only=True)
class MemorySource:
    """An order log with the merchant's own customer ids; `merchant_names` and `merchant` are both given or neither.

    Attributes:
        customer_ids: the id of each customer code of `log`.
        merchant: int32 per row, a position in `merchant_names`.
        extras: of every row; None is none of any kind.
    """

    log: OrderLog
    customer_ids: Sequence[str]
    merchant: NDArray[np.int32] | None = None
    merchant_names: Sequence[str] = ()
    place: str = "memory"
    contract: DataContract = field(default_factory=DataContract)
    extras: RowExtras | None = None

    def read(self, window: Window | None, *, extras: bool = False) -> Iterator[OrderChunk]:
        """The orders inside the window, in the order of the log; they are orders already, so nothing is refused."""
        ids, names = pa.array(self.customer_ids, pa.string()), pa.array(self.merchant_names, pa.string())
        for start in range(0, len(self.log), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            keep = inside(self.log.timestamp[part], window)
            yield OrderChunk(
                customer=ids.take(pa.array(self.log.customer[part][keep])),
                merchant=None if self.merchant is None else names.take(pa.array(self.merchant[part][keep])),
                timestamp=self.log.timestamp[part][keep],
                order=self.log.order[part][keep],
                spend_cents=self.log.spend_cents[part][keep],
                quantity=self.log.quantity[part][keep],
                category=self.log.category[part][keep],
                event_type=self.log.event_type[part][keep],
                lines=start + 1 + np.flatnonzero(keep),
                rows_read=len(keep),
                outside_window=int(len(keep) - keep.sum()),
                skipped={},
                extras=self._extras(part).select(keep) if extras else None,
            )

    def _extras(self, part: slice) -> RowExtras:
        if self.extras is None:
            return RowExtras()
        whole = self.extras
        return RowExtras(
            category=None if whole.category is None else whole.category[part],
            discount_cents=None if whole.discount_cents is None else whole.discount_cents[part],
            slices={label: cells[part] for label, cells in whole.slices.items()},
        )
