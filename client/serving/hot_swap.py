"""Which snapshot serves: a newer one is made beside it and takes its place at once, or is refused, and the old stays.

A new one is made when the folder of models changes, when a day begins, on a schedule, and when it is asked for.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.serving.snapshot import Snapshot
from pp_model.errors import PurchasePowerError

LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """What could not be loaded; what served before goes on serving.

    Attributes:
        because: why it was tried: "model", "day", "schedule" or "asked".
        why: our own words, which hold no cell of the orders; of a foreign error its kind alone.
    """

    because: str
    why: str
    at: dt.datetime


class Keeper:
    """Keeps the snapshot of the moment in `current`.

    Args:
        load: makes a snapshot of a cutoff, with the newest model and the orders as they are now.
        models: the folder to watch.
        cutoff: today, as far as the model sees.
        reread_seconds: after which the orders are read again.
    """

    def __init__(
        self,
        load: Callable[[dt.date], Snapshot],
        *,
        models: Path,
        cutoff: Callable[[], dt.date],
        reread_seconds: float,
    ) -> None:
        self._load, self._models, self._cutoff, self._reread_seconds = load, models, cutoff, reread_seconds
        self._asked = threading.Event()
        self._seen: object = None
        self._tried: tuple[dt.date, float] = (dt.date.min, 0.0)
        self.current: Snapshot | None = None
        self.refused: Refused | None = None
        self.loaded_at: dt.datetime | None = None
        self.swaps = 0

    def load_first(self) -> None:
        """Makes the first snapshot.

        Raises:
            PurchasePowerError: it cannot be made; nothing serves.
        """
        self._make()

    def ask(self) -> None:
        """Has the orders read again at the next look; from any thread."""
        self._asked.set()

    def look(self) -> bool:
        """Makes a new snapshot if one is due; whether it serves now."""
        because = self._due()
        if not because:
            return False
        try:
            self._make()
        except PurchasePowerError as error:
            self._refuse(because, str(error))
        except Exception as error:  # of a library, whose text may hold a cell
            self._refuse(because, type(error).__name__)
        else:
            log.info("snapshot swapped", extra={"because": because, **told(self.current)})
            return True
        return False

    def run(self, stop: threading.Event) -> None:
        """Looks every second until `stop`."""
        while not stop.wait(LOOK_SECONDS):
            self.look()

    def _due(self) -> str:
        if models_seen(self._models) != self._seen:
            return "model"
        day, at = self._tried
        if self._cutoff() != day:
            return "day"
        if self._asked.is_set():
            return "asked"
        return "schedule" if time.monotonic() - at >= self._reread_seconds else ""

    def _make(self) -> None:
        # Noted before it is read: what changes meanwhile is looked at again, and what is bad is not tried every second.
        self._asked.clear()
        self._seen, cutoff = models_seen(self._models), self._cutoff()
        self._tried = (cutoff, time.monotonic())
        made = self._load(cutoff)
        self.current, self.refused, self.loaded_at = made, None, dt.datetime.now(dt.UTC)
        self.swaps += 1

    def _refuse(self, because: str, why: str) -> None:
        self.refused = Refused(because=because, why=why, at=dt.datetime.now(dt.UTC))
        log.error("what is new was refused; what served before goes on", extra={"because": because, "why": why})


def models_seen(folder: Path) -> tuple[tuple[str, int], ...]:
    """What changes when a model comes, goes or is written to: names and times, nothing of the content."""
    try:
        return tuple(
            sorted((path.as_posix(), path.stat().st_mtime_ns) for path in folder.glob("[0-9]*-*/*") if path.is_file())
        )
    except OSError:  # it is being written to
        return (("", time.monotonic_ns()),)


def told(snapshot: Snapshot | None) -> dict[str, object]:
    """What the log and the health page say of a snapshot."""
    if snapshot is None:
        return {}
    return {
        "model_id": snapshot.data.model_id,
        "model": snapshot.data.model[:12],
        "cutoff": snapshot.data.cutoff.isoformat(),
        "newest_order": snapshot.newest_order.isoformat(),
    }
