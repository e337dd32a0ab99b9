"""Errors of the product. Each says what happened, which value, what was allowed and what to do.

No message contains a cell of the merchant's data: an error text may end on a screen that others see.
"""

from __future__ import annotations


class PurchasePowerError(Exception):
    """Base of everything the product raises on purpose; a command line prints it without a traceback."""


class ConfigError(PurchasePowerError):
    """A configuration key is missing, unknown or out of range; the message names the key."""


class BadOrdersError(PurchasePowerError):
    """Orders that the data contract does not allow.

    Attributes:
        place: file or table, as the merchant wrote it in the configuration.
        line: 1-based line (CSV) or row (Parquet, SQL); 0 when the whole source is meant.
        column: the column at fault, or "".
    """

    def __init__(self, what: str, *, place: str, line: int = 0, column: str = "") -> None:
        self.place, self.line, self.column = place, line, column
        where = place + (f", line {line}" if line else "") + (f", column {column!r}" if column else "")
        super().__init__(f"{where}: {what}")


class AccountingError(PurchasePowerError):
    """A privacy event or target that has no finite, trustworthy price."""


class BudgetExceededError(PurchasePowerError):
    """A charge would pass the budget. Nothing was recorded."""

    def __init__(self, *, spent: float, needed: float, budget: float) -> None:
        self.spent, self.needed, self.budget = spent, needed, budget
        super().__init__(
            f"This task would take epsilon from {spent:.2f} to {needed:.2f}, over the budget of {budget:.2f}. "
            "Nothing was recorded. Ask for fewer steps or more noise."
        )


class LedgerError(PurchasePowerError):
    """The ledger cannot vouch for what was spent, so nothing may be spent."""


class UnknownLayerError(PurchasePowerError):
    """A module has a layer that the fast private step does not know."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        super().__init__(f"the fast private step does not know {layer}; per-sample gradients know it, and are slow")


class PolicyError(PurchasePowerError):
    """The merchant's policy does not allow this plan; the message names the rule."""


class NotApprovedError(PolicyError):
    """Nobody at this merchant has approved the plan, or the approval was withdrawn."""


class ExpiredError(PolicyError):
    """The plan is approved, and its offer is not yet, or no longer, valid."""


class ProtocolError(PurchasePowerError):
    """A message that is not a valid plan, task, release or refusal of a version we speak."""


class ArraysError(ProtocolError):
    """Named arrays that differ from what was agreed: names, shapes, dtype or finiteness."""


class CheckpointError(PurchasePowerError):
    """A checkpoint or model file that is missing, damaged or of another plan."""
