"""A model with its card: what it is for, what it cost in privacy, and where it comes from."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

from pp_model.accounting import epsilon_spent
from pp_model.integer_sum import secure_epsilons
from pp_model.plan import SecureSumPlan, TrainingPlan
from pp_model.serialization import Arrays, fingerprint, to_safetensors
from server.checkpoints import write_atomically
from server.public_check import Verdict
from server.registry import Registry

_CARD = """\
# Purchase-power model {short}

## Intended use

A merchant scores its own customers, on its own machine: how likely and how much a customer will buy in the next
{horizon_days} days, to plan stock, service and offers to groups of customers.

**Not for** credit decisions, accusations of fraud, automated prices for single persons, or any decision with legal or
similar effect on a person. The scores say nothing about income or wealth.

## Training

| | |
| --- | --- |
| Plan | {plan_id} |
| Rounds | {rounds} of {num_steps} step(s) |
| Merchants | {merchants} |
| Algorithm | {algorithm}, server {optimizer}, {aggregation} |
| Encoder | {encoder}, {parameters} parameters |
| Training cutoffs | {cutoffs} |
| Never seen in training | orders from {holdout_start} on |

## Privacy

{privacy}

## Fingerprints

| | |
| --- | --- |
| Model arrays | {model_fingerprint} |
| Plan | {plan_fingerprint} |
| Initial arrays | {init_fingerprint} |
| Parent model | {parent} |
"""

_GUARANTEE = """\
Protected: one customer of one merchant, with all its orders. Relation: adding or removing that customer.

| A person who shops at | epsilon | delta |
| --- | --- | --- |
| one merchant | {one} | {delta:.3g} |
| two merchants | {two} | {delta:.3g} |

The Poisson-sampled Gaussian mechanism at every merchant: sample rate {sample_rate:g}, noise multiplier
{noise_multiplier:g}, {total_steps} steps in all; priced by privacy loss distributions, an upper bound. It covers all
that merchants released for this plan, every round's model included. It does not cover other plans on the same orders,
or scores that a merchant chooses to share."""

_SHARED = """

The noise is that of a secure sum over up to {merchants} merchants. The figures assume that of those left in each round
at least {honest} were honest ({survivors} were left at the least, {dishonest} may have helped the platform). Had all
but one merchant helped it, epsilon for that merchant's customers would be {own} at delta {delta:.3g}."""

_NO_PRIVACY = """\
**NO PRIVACY.** The plan has no finite epsilon: the model may give away single customers of the merchants that trained
it. Do not let it leave the merchants whose orders were used."""

MODEL_FILE = "model.safetensors"


def model_card(plan: TrainingPlan, arrays: Arrays, *, merchants: int, parent: int | None) -> str:
    """The card of a model trained to the end of its plan, as Markdown.

    The privacy figures are those of the whole plan, which no merchant's ledger exceeds.
    """
    return _CARD.format(
        short=fingerprint(arrays)[:12],
        horizon_days=plan.features.horizon_days,
        plan_id=plan.plan_id,
        rounds=plan.rounds,
        num_steps=plan.dp.num_steps,
        merchants=merchants,
        algorithm=plan.algorithm,
        optimizer=plan.server.optimizer,
        aggregation=plan.server.aggregation,
        encoder=plan.model.encoder,
        parameters=sum(array.size for array in arrays.values()),
        cutoffs=", ".join(cutoff.isoformat() for cutoff in plan.cutoffs),
        holdout_start=plan.holdout_start.isoformat(),
        privacy=_privacy(plan),
        model_fingerprint=fingerprint(arrays),
        plan_fingerprint=plan.fingerprint,
        init_fingerprint=plan.init_fingerprint,
        parent="none" if parent is None else str(parent),
    )


def plan_epsilon(plan: TrainingPlan, *, merchants: int) -> float:
    """What the whole plan costs a person who shops at so many of its merchants, at the plan's delta."""
    return epsilon_spent(plan.events, delta=plan.delta, merchants=merchants)


def publish_model(
    directory: Path,
    plan: TrainingPlan,
    arrays: Arrays,
    *,
    registry: Registry,
    run: int,
    merchants: int,
    parent: int | None,
    verdict: Verdict | None = None,
) -> int:
    """The id of the model, registered, with `model.safetensors` and `model_card.md` in `directory`.

    The file carries its plan, so that it can be loaded without any other.

    Args:
        verdict: of the public check on these arrays, where there was one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = to_safetensors(arrays, {"kind": "model", "plan": plan.to_json(), "plan_fingerprint": plan.fingerprint})
    path = directory / MODEL_FILE
    write_atomically(path, data)
    write_atomically(directory / "model_card.md", model_card(plan, arrays, merchants=merchants, parent=parent).encode())
    return registry.add_model(
        plan=plan,
        run=run,
        file=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        epsilon=plan_epsilon(plan, merchants=1),
        epsilon_two=plan_epsilon(plan, merchants=2),
        parent=parent,
        verdict=verdict,
    )


def _privacy(plan: TrainingPlan) -> str:
    one, two = plan_epsilon(plan, merchants=1), plan_epsilon(plan, merchants=2)
    if not one < math.inf:
        return _NO_PRIVACY
    guarantee = _GUARANTEE.format(
        one=_upper(one),
        two=_upper(two),
        delta=plan.delta,
        sample_rate=plan.dp.sample_rate,
        noise_multiplier=plan.dp.noise_multiplier,
        total_steps=plan.rounds * plan.dp.num_steps,
    )
    return guarantee + (_shared(plan, plan.secure_sum) if plan.secure_sum else "")


def _shared(plan: TrainingPlan, sums: SecureSumPlan) -> str:
    return _SHARED.format(
        merchants=len(sums.roster),
        survivors=plan.server.min_completions,
        dishonest=sums.dishonest,
        honest=plan.server.min_completions - sums.dishonest,
        own=_upper(secure_epsilons(plan)["all_others"]),
        delta=plan.delta,
    )


def _upper(epsilon: float) -> str:
    """Two digits, rounded up: a bound that is printed must still be a bound."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}" if epsilon < math.inf else "infinite"
