"""Updates passed on in a fixed order, though they come in any: float addition depends on it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from pp_model.serialization import Arrays

HELD_BYTES = 64 * 2**20


class InOrder:
    """Passes each update to `pass_on` when all before it in `order` have come, or said that they have none.

    What comes before its turn is held, up to `held_bytes` together. Beyond that the first in the order among those held
    is passed on before its turn: memory is bounded, and the order is kept as long as the updates that overtake a
    slow one are fewer bytes. Models of a few kilobytes never come near it.

    Args:
        order: the merchants' nodes; each comes at most once.

    Attributes:
        passed: the nodes whose updates were passed on, in the order in which they were.
    """

    def __init__(
        self, order: Sequence[int], pass_on: Callable[[Arrays], None], *, held_bytes: int = HELD_BYTES
    ) -> None:
        self.passed: list[int] = []
        self._order = order
        self._place = {node: place for place, node in enumerate(order)}
        self._pass_on, self._most = pass_on, held_bytes
        self._came = [False] * len(order)
        self._turn = 0  # the first that has not come
        self._held: dict[int, Arrays] = {}
        self._places: list[int] = []  # of those held, as a heap
        self._bytes = 0

    def came(self, node: int, update: Arrays | None) -> None:
        """This is the node's update; None: it has none, and nobody waits for it."""
        place = self._place[node]
        self._came[place] = True
        if update is not None:
            self._hold(place, update)
        while self._turn < len(self._came) and self._came[self._turn]:
            self._turn += 1
        while self._places and (self._places[0] < self._turn or self._bytes > self._most):
            self._release()

    def end(self) -> None:
        """Nothing more comes: passes on what is held, in order."""
        while self._places:
            self._release()

    def _hold(self, place: int, update: Arrays) -> None:
        self._held[place] = update
        heapq.heappush(self._places, place)
        self._bytes += _size(update)

    def _release(self) -> None:
        place = heapq.heappop(self._places)
        self.passed.append(self._order[place])
        update = self._held.pop(place)
        self._bytes -= _size(update)
        self._pass_on(update)


def _size(update: Arrays) -> int:
    return sum(array.nbytes for array in update.values())
