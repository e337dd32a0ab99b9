"""How the pages write epsilons and deltas: a promise is not made smaller, nor what is left larger, by printing it."""

from __future__ import annotations

import math


def up(epsilon: float) -> str:
    """To two digits, rounded up."""
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "∞"


def down(epsilon: float) -> str:
    """To two digits, rounded down."""
    return f"{math.floor(epsilon * 100 + 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "∞"


def small(number: float) -> str:
    """A delta, or a parameter of the mechanism, in as few signs as it takes."""
    return f"{number:g}".replace("e-0", "e-")
