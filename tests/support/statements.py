"""Plans of every trust and what was spent before, for what is said about them."""

from __future__ import annotations

from client.ledger import Charge
from client.spending import Spending
from pp_model.accounting import PrivacyEvent
from pp_model.plan import TrainingPlan
from tests.support.plans import tiny_dp, tiny_plan
from tests.support.sum_town import sum_plan

PLAN = tiny_plan(
    plan_id="spring",
    rounds=40,
    delta=2e-6,
    declared_customers=3000,
    dp=tiny_dp(sample_rate=0.03, noise_multiplier=1.25, max_grad_norm=0.5),
)
SPENT = (PLAN.dp.event.times(7), PrivacyEvent(sample_rate=0.01, noise_multiplier=2.0, num_steps=5))
SUM = sum_plan(
    merchants=8,
    threshold=6,
    dishonest=2,
    rounds=40,
    delta=2e-6,
    declared_customers=3000,
    dp=tiny_dp(sample_rate=0.03, noise_multiplier=1.25, max_grad_norm=0.5),
)
BARE = tiny_plan(dp=tiny_dp(noise_multiplier=0.0))


def spending_of(plan: TrainingPlan, *, rounds: int, budget: float = 3.0) -> Spending:
    charges = tuple(
        Charge(seq=n + 1, task=f"t{n}", plan=plan.fingerprint, event=plan.dp.event, epsilon_after=0.0)
        for n in range(rounds)
    )
    return Spending(charges=charges, budget=budget, delta=1e-5)
