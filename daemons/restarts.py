"""When a child that died is started again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


def _no_least(_code: int, _last_lines: Sequence[str]) -> float:
    return 0.0


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """Exponential back-off: 1, 2, 4... times `first_seconds`, at most `longest_seconds`.

    Attributes:
        healthy_after_seconds: a child that lived this long has no failures behind it any more.
        jitter: the wait is prolonged by a random share of up to this, so that many machines do not return at once.
        least_seconds: (exit code, last lines) -> least seconds to wait, which may be more than `longest_seconds`.
            It sees the lines because Flower's programs end with code 1 whatever went wrong, and say the reason's
            number only in their output ("Exit Code: 305").
    """

    first_seconds: float = 1.0
    longest_seconds: float = 30.0
    healthy_after_seconds: float = 60.0
    jitter: float = 0.2
    least_seconds: Callable[[int, Sequence[str]], float] = _no_least

    def failures(self, before: int, *, lived_seconds: float) -> int:
        """Failures in a row, this one included, of a child that had `before` and now died after `lived_seconds`."""
        return 1 if lived_seconds >= self.healthy_after_seconds else before + 1

    def delay_seconds(self, failures: int, *, least_seconds: float, chance: float) -> float:
        """The wait after `failures` >= 1 in a row; `chance` is uniform in [0, 1). Never below `least_seconds`."""
        doublings = min(failures - 1, 60)  # a float has no room for 2 to the 1,100th
        backoff = min(self.first_seconds * 2.0**doublings, self.longest_seconds)
        return max(backoff, least_seconds) * (1 + self.jitter * chance)
