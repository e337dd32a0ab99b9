"""What one merchant brings to a task: its orders, ledger, policy and secret randomness, and what is derived once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field

from client.ledger import PrivacyLedger
from client.orders import read_orders
from client.policy import Policy
from client.secure_sums import NoBlockError, SecureSums
from client.sources import OrderSource
from pp_model.customer_rows import CustomerRows
from pp_model.features import Examples, build_examples
from pp_model.model import frozen_fingerprint, load_model
from pp_model.plan import TrainingPlan
from pp_model.protocol import Task
from pp_model.randomness import SecretSource
from pp_model.schema import Window
from pp_model.train import customer_rows, pick_device

_FIRST_DAY = dt.date(1900, 1, 1)


def everything_agreed(plan: TrainingPlan) -> None:
    """Every plan is agreed to: for a simulation, where nobody is asked. A merchant asks its agreements."""


@dataclass(kw_only=True)
class Shop:
    """One merchant, as the task sees it.

    Rows are kept from one round to the next: they depend on the orders, the plan and the frozen part of the model,
    none of which changes within a run. They never leave this object.

    Attributes:
        device: "auto", "cpu", "cuda", ...
        agreed: returns if the merchant takes part in the plan at this moment; else raises `NotApprovedError` or
            `ExpiredError`.
        sums: its part in secure sums; None where it takes part in none.
    """

    source: OrderSource = field(repr=False)
    ledger: PrivacyLedger
    policy: Policy
    secret: SecretSource
    device: str = "auto"
    agreed: Callable[[TrainingPlan], None] = field(default=everything_agreed, repr=False)
    sums: SecureSums | None = field(default=None, repr=False)
    _rows: dict[str, CustomerRows] = field(default_factory=dict, repr=False)
    _examples: dict[str, Examples] = field(default_factory=dict, repr=False)

    def secure_sums(self) -> SecureSums:
        """Its part in secure sums.

        Raises:
            NoBlockError: it takes part in none.
        """
        if self.sums is None:
            raise NoBlockError("this merchant has no key for secure sums")
        return self.sums

    def rows(self, task: Task) -> CustomerRows:
        """The shop's customers as the private step of this task wants them.

        Raises:
            BadOrdersError: the source breaks its contract; nothing is half-read.
        """
        key = f"{task.plan.fingerprint}|{frozen_fingerprint(task.plan.model, task.arrays)}"
        if key not in self._rows:
            model = load_model(task.plan.model, task.arrays).to(pick_device(self.device))
            self._rows = {key: customer_rows(model, self._read(task.plan))}  # one plan at a time
        return self._rows[key]

    def _read(self, plan: TrainingPlan) -> Examples:
        if plan.fingerprint not in self._examples:
            self._examples = {plan.fingerprint: read_examples(self.source, plan)}
        return self._examples[plan.fingerprint]


def read_examples(source: OrderSource, plan: TrainingPlan) -> Examples:
    """The plan's training rows of all customers of a source; the holdout is not even read.

    Raises:
        BadOrdersError: the source breaks its contract; nothing is half-read.
    """
    window = Window(start=_FIRST_DAY, end=plan.holdout_start)
    return build_examples(read_orders(source, window=window).log, plan.cutoffs, plan.features)
