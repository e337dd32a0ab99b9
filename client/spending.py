"""What was charged in the period and what a plan would add to it, read once from the ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.ledger import Charge
from client.settings import MerchantSettings
from pp_model.accounting import epsilon_spent
from pp_model.errors import BudgetExceededError
from pp_model.plan import TrainingPlan


@dataclass(frozen=True, kw_only=True)
class Spending:
    """Every charge of the period, with the budget that they are charged to."""

    charges: tuple[Charge, ...]
    budget: float
    delta: float

    @property
    def spent(self) -> float:
        """Epsilon of all charges together."""
        return epsilon_spent([charge.event for charge in self.charges], delta=self.delta)

    @property
    def left(self) -> float:
        """Epsilon between `spent` and the budget. Epsilons do not add up: a charge may cost less than it seems."""
        return math.inf if self.budget == math.inf else max(0.0, self.budget - self.spent)

    def of(self, plan_fingerprint: str) -> tuple[Charge, ...]:
        """The charges of one plan."""
        return tuple(charge for charge in self.charges if charge.plan == plan_fingerprint)

    def after(self, plan: TrainingPlan) -> float:
        """Epsilon of all charges once the plan, of which some rounds may be charged already, was run to its end."""
        rest = plan.event.times(max(0, plan.rounds - len(self.of(plan.fingerprint))))
        return epsilon_spent([*(charge.event for charge in self.charges), rest], delta=self.delta)

    def check(self, plan: TrainingPlan) -> None:
        """Returns if the whole run fits.

        Raises:
            BudgetExceededError: it does not.
        """
        needed = self.after(plan)
        if not needed <= self.budget:  # a price that is not a number does not fit
            raise BudgetExceededError(spent=self.spent, needed=needed, budget=self.budget)


def read_spending(settings: MerchantSettings) -> Spending:
    """What the ledger holds. Where there is none yet none is begun: its budget could not be changed any more.

    Raises:
        LedgerError: the ledger cannot vouch for what was spent.
    """
    charges: tuple[Charge, ...] = ()
    ledger = settings.paths.ledger
    if any(ledger.parent.glob(f"{ledger.name}*")):  # a head without its ledger is a lost ledger, and an error
        with settings.open_ledger() as opened:
            charges = tuple(opened.charges())
    return Spending(charges=charges, budget=settings.policy.epsilon_budget, delta=settings.policy.delta)
