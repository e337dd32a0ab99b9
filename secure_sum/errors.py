"""What stops a secure sum. A message that breaks the rules is `pp_model.errors.ProtocolError`."""

from __future__ import annotations

from collections.abc import Iterable

from pp_model.errors import PurchasePowerError


class SumError(PurchasePowerError):
    """There is no sum: the set-up is not complete, or the round is void. Nothing was unmasked.

    Attributes:
        offenders: indices of the merchants that did not do their part, where that is known.
    """

    def __init__(self, what: str, *, offenders: Iterable[int] = ()) -> None:
        self.offenders = frozenset(offenders)
        super().__init__(what)


class TooFewError(SumError):
    """Fewer merchants than the threshold."""

    def __init__(self, what: str, *, found: int, threshold: int) -> None:
        self.found, self.threshold = found, threshold
        super().__init__(f"{found} {what}; the threshold is {threshold}, and nothing was unmasked")
