"""How fast passwords can be guessed: ever slower, by name and by address, and never shut for good."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass
class _Tries:
    """Attempts that have not succeeded, and when the last one was."""

    count: int = 0
    last: float = 0.0


class Throttle:
    """Counts attempts before they are made, so that many at once count too.

    After its free attempts a key waits 2, 4, 8... seconds for each further one, up to `longest_seconds`; after
    `forget_seconds` without an attempt it is as new.

    Args:
        most: keys that are remembered; beyond it the one that was quiet longest is forgotten.
    """

    def __init__(
        self,
        *,
        longest_seconds: float = 60,
        forget_seconds: float = 900,
        most: int = 2_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest, self._forget, self._most, self._clock = longest_seconds, forget_seconds, most, clock
        self._tries: dict[str, _Tries] = {}
        self._lock = threading.Lock()

    def attempt(self, free: Mapping[str, int]) -> int:
        """0, and an attempt of all these keys is counted; or how many seconds to wait, and none is.

        Args:
            free: key -> attempts without waiting.
        """
        with self._lock:
            now = self._clock()
            self._forget_old(now)
            wait = max(self._wait(key, allowed, now) for key, allowed in free.items())
            if wait > 0:
                return math.ceil(wait)
            for key in free:
                tries = self._tries.setdefault(key, _Tries())
                tries.count, tries.last = tries.count + 1, now
            while len(self._tries) > self._most:
                del self._tries[min(self._tries, key=lambda key: self._tries[key].last)]
            return 0

    def succeeded(self, name: str, address: str) -> None:
        """The attempt was right: the name starts anew, and the address has not tried."""
        with self._lock:
            self._tries.pop(name, None)
            if address in self._tries:
                self._tries[address].count -= 1

    def _wait(self, key: str, free: int, now: float) -> float:
        tries = self._tries.get(key)
        if tries is None or tries.count < free:
            return 0.0
        return tries.last + min(self._longest, 2.0 ** min(tries.count - free + 1, 30)) - now

    def _forget_old(self, now: float) -> None:
        for key in [key for key, tries in self._tries.items() if now - tries.last > self._forget]:
            del self._tries[key]
