"""Which updates are much longer than the others. The norm is looked at and nothing else: see `far_from_others`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

FEWEST = 5  # merchants: of fewer, nobody can say who lies apart
FAR_TIMES = 5.0  # the median norm; a merchant with 80 times the others' customers reaches 4.6 times it at epsilon 3
FAR_DEVIATIONS = 6.0
_DEVIATION_OF_MAD = 1.4826  # normal numbers: their standard deviation over their median absolute deviation


def far_from_others(norms: Sequence[float]) -> tuple[int, ...]:
    """Positions of the norms that lie far above the median: always fewer than half of them, () of less than `FEWEST`.

    Far is more than `FAR_TIMES` the median and, where norms differ much anyway, more than `FAR_DEVIATIONS` robust
    standard deviations of their logarithms (sizes of shops differ by factors, so the logarithm is what is spread
    evenly). Norms of 0, which only a plan without noise allows, say nothing of the others and are never far.

    Short updates move a mean little, so they are left alone. Directions are not looked at either: under local noise an
    honest update points nearly anywhere, and without noise honest merchants near the optimum point against each other.

    Source of the robust score: Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers".
    """
    logs = np.array([math.log(norm) if norm > 0 else -math.inf for norm in norms])
    positive = logs[np.isfinite(logs)]
    if len(positive) < FEWEST:
        return ()
    middle = np.median(positive)
    deviation = _DEVIATION_OF_MAD * np.median(np.abs(positive - middle))
    limit = middle + max(math.log(FAR_TIMES), FAR_DEVIATIONS * deviation)
    return tuple(np.flatnonzero(logs > limit).tolist())
