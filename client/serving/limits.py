"""A bounded queue before the work: so many workers, so many waiting places, so long a wait, and no more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

from client.serving.faults import Code, ServingError

T = TypeVar("T")


class Gate:
    """Runs work on a fixed number of threads, each with one thread of PyTorch.

    Args:
        workers: threads.
        waiting: places for those who wait; whoever comes beyond is turned away at once.
        seconds: longest from coming to answer.
    """

    def __init__(self, *, workers: int, waiting: int, seconds: float) -> None:
        self._most, self._seconds = workers + waiting, seconds
        self._inside, self._lock = 0, threading.Lock()
        one_thread = partial(torch.set_num_threads, 1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="serving", initializer=one_thread)

    @property
    def inside(self) -> int:
        """Requests that work or wait."""
        return self._inside

    @property
    def most_inside(self) -> int:
        """Workers and waiting places."""
        return self._most

    async def run(self, work: Callable[[], T], *, seconds: float | None = None) -> T:
        """What the work gives.

        Args:
            seconds: that the caller will wait, where that is less.

        Raises:
            ServingError: no place, or no answer in time. Work that has begun goes on, and keeps its place until its
                end; work that has not is never begun.
        """
        with self._lock:
            if self._inside >= self._most:
                raise ServingError(Code.BUSY)
            self._inside += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._leave)
        most = self._seconds if seconds is None else min(seconds, self._seconds)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), most)
        except TimeoutError:
            raise ServingError(Code.TIMEOUT) from None

    def close(self) -> None:
        """Takes no more work, and waits for what has begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _leave(self, _: Future[Any]) -> None:
        with self._lock:
            self._inside -= 1
