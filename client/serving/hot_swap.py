"""Which snapshot serves: a newer one is made beside it and takes its place at once.

A new model is taken when the folder of models changes; the orders are read again with it, when a day begins, on a
schedule, and when it is asked for. The two are refused apart: while a new model is refused, the one before goes on
serving, with the orders as they are now.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client.models import KeptModel
from client.serving.snapshot import Snapshot
from pp_model.errors import PurchasePowerError

LOOK_SECONDS = 1.0
What = Literal["model", "orders"]
WHATS: tuple[What, ...] = ("model", "orders")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """What could not be taken; what served before goes on serving.

    Attributes:
        what: the newest model of the folder, or the orders as they were at the last try.
        why: our own words, which hold no cell of the orders; of a foreign error its kind alone.
    """

    what: What
    why: str
    at: dt.datetime


class Keeper:
    """Keeps the snapshot of the moment in `current`, and in `refused` what could not be taken since.

    Args:
        newest: the newest model of the folder, verified.
        load: makes a snapshot of a cutoff with a model and the orders as they are now.
        models: the folder to watch.
        cutoff: today, as far as the model sees.
        reread_seconds: after which the orders are read again.
    """

    def __init__(
        self,
        *,
        newest: Callable[[], KeptModel],
        load: Callable[[dt.date, KeptModel], Snapshot],
        models: Path,
        cutoff: Callable[[], dt.date],
        reread_seconds: float,
    ) -> None:
        self._newest, self._load, self._models = newest, load, models
        self._cutoff, self._reread_seconds = cutoff, reread_seconds
        self._asked = threading.Event()
        self._seen: object = None
        self._tried: tuple[dt.date, float] = (dt.date.min, 0.0)
        self._serving: KeptModel | None = None
        self.current: Snapshot | None = None
        self.refused: Mapping[What, Refused] = {}  # never changed, only replaced: others read it
        self.loaded_at: dt.datetime | None = None
        self.swaps = 0

    def load_first(self) -> None:
        """Makes the first snapshot.

        Raises:
            PurchasePowerError: it cannot be made; nothing serves.
        """
        self._seen = models_seen(self._models)
        model = self._newest()
        self._take(model, self._load(self._begin(), model))

    def ask(self) -> None:
        """Has the orders read again at the next look; from any thread."""
        self._asked.set()

    def look(self) -> bool:
        """Makes a new snapshot if one is due; whether it serves now."""
        because = self._orders_due()
        if not because and models_seen(self._models) == self._seen:
            return False
        serving = self._serving
        if serving is None:
            raise AssertionError("load_first comes first")
        model = self._best_model(serving)
        if not because and model is serving:
            return False
        if not self._renew(self._begin(), model, serving):
            return False
        log.info("snapshot swapped", extra={"because": because or "model", **told(self.current)})
        return True

    def run(self, stop: threading.Event) -> None:
        """Looks every second until `stop`."""
        while not stop.wait(LOOK_SECONDS):
            self.look()

    def _orders_due(self) -> str:
        day, at = self._tried
        if self._cutoff() != day:
            return "day"
        if self._asked.is_set():
            return "asked"
        return "schedule" if time.monotonic() - at >= self._reread_seconds else ""

    def _begin(self) -> dt.date:
        """The cutoff of a reading that begins now; noted first, so that what is bad is not tried every second."""
        self._asked.clear()
        cutoff = self._cutoff()
        self._tried = (cutoff, time.monotonic())
        return cutoff

    def _best_model(self, serving: KeptModel) -> KeptModel:
        """The newest model; the one that serves where it is the newest, or where the newest is refused."""
        self._seen = models_seen(self._models)  # noted before it is read: what changes meanwhile is looked at again
        try:
            found = self._newest()
        except Exception as error:
            self._refuse("model", error)
            return serving
        if found.manifest != serving.manifest:
            return found
        self._accept("model")
        return serving

    def _renew(self, cutoff: dt.date, model: KeptModel, serving: KeptModel) -> bool:
        """Whether a snapshot with this model, or else with the one that serves, could be made and serves now."""
        try:
            made = self._load(cutoff, model)
        except Exception as error:
            if model is serving:
                self._refuse("orders", error)
                return False
            # The model's fault only if the same orders can be served without it; else it is tried again with them.
            renewed = self._renew(cutoff, serving, serving)
            if renewed:
                self._refuse("model", error)
            return renewed
        self._take(model, made)
        return True

    def _take(self, model: KeptModel, made: Snapshot) -> None:
        self._accept("orders")
        if model is not self._serving:
            self._accept("model")
        self.current, self._serving, self.loaded_at = made, model, dt.datetime.now(dt.UTC)
        self.swaps += 1

    def _accept(self, what: What) -> None:
        self.refused = {name: refused for name, refused in self.refused.items() if name != what}

    def _refuse(self, what: What, error: Exception) -> None:
        # The text of a library's error may hold a cell.
        why = str(error) if isinstance(error, PurchasePowerError) else type(error).__name__
        self.refused = {**self.refused, what: Refused(what=what, why=why, at=dt.datetime.now(dt.UTC))}
        log.error("what is new was refused; what served before goes on", extra={"what": what, "why": why})


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
