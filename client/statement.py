"""The privacy statement: what a customer of this merchant is promised, in plain words, with every number labelled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from client.peers import roster_fingerprint
from client.policy import epsilon_by_merchants
from pp_model.accounting import PrivacyEvent, rdp_epsilon
from pp_model.config import to_mapping
from pp_model.integer_sum import secure_epsilons
from pp_model.plan import TrainingPlan
from pp_model.protocol import RefusalCode

UNIT = "one customer of one merchant, with all orders and other events of that customer"
RELATION = "adding or removing one such customer"
ACCOUNTANT = (
    "privacy loss distribution (PLD), computed by the open library dp-accounting with rounding towards the larger "
    "epsilon; cross-checked by the Renyi accountant (RDP), whose looser bound it may not exceed"
)
SAMPLING = "Poisson: each customer independently, in each step, with a probability that everybody knows"
EXAMPLE_ODDS = 0.01  # a one in a hundred suspicion is what the worked example starts from


@dataclass(frozen=True, kw_only=True)
class SumPromise:
    """What the guarantee of a secure sum rests on, and what it would be under other assumptions.

    Attributes:
        epsilon: of the plan's whole run at its delta, by who looks; see `pp_model.integer_sum.secure_epsilons`.
    """

    merchants: int
    fewest_survivors: int
    dishonest: int
    roster: str
    epsilon: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """What is promised for one plan and what was really charged so far, at one delta, for one unit and relation.

    Attributes:
        plan_epsilon: epsilon of the plan's whole run, by the number of merchants a person is a customer of.
        plan_epsilon_rdp: the cross-check of `plan_epsilon` at one merchant.
        spent_epsilon: epsilon of every charge in the ledger, of this plan and of others, by the same numbers; for
            more than one merchant as if each had charged the same.
    """

    plan_id: str
    plan_fingerprint: str
    unit: str = UNIT
    relation: str = RELATION
    accountant: str = ACCOUNTANT
    sampling: str = SAMPLING
    trust: str
    secure_sum: SumPromise | None
    delta: float
    declared_customers: int
    sample_rate: float
    noise_multiplier: float
    max_grad_norm: float
    rounds: int
    steps_per_round: int
    answer_every_seconds: float
    plan_epsilon: Mapping[int, float]
    plan_epsilon_rdp: float
    spent_steps: int
    spent_epsilon: Mapping[int, float]

    @property
    def private(self) -> bool:
        """Whether there is any guarantee: neither the plan nor anything charged before has an infinite epsilon."""
        return all(map(math.isfinite, (*self.plan_epsilon.values(), *self.spent_epsilon.values())))

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON, labels included; an infinite epsilon is the text "inf", which JSON can hold."""
        plain: dict[str, Any] = {**to_mapping(self), "private": self.private}
        for key in ("plan_epsilon", "spent_epsilon"):
            plain[key] = {count: plain_epsilon(epsilon) for count, epsilon in plain[key].items()}
        if self.secure_sum is not None:
            epsilons = {who: plain_epsilon(epsilon) for who, epsilon in self.secure_sum.epsilon.items()}
            plain["secure_sum"] = {**plain["secure_sum"], "epsilon": epsilons}
        return {**plain, "plan_epsilon_rdp": plain_epsilon(self.plan_epsilon_rdp)}

    def paragraphs(self) -> list[tuple[str, str]]:
        """Headings and texts in the order in which they should be read."""
        return [
            *([] if self.private else [_no_privacy(self)]),
            _who_is_protected(self),
            *_guarantee(self),
            _mechanism(self),
            _accounting(self),
            _what_leaves(self),
            *([_who_must_be_honest(self, self.secure_sum)] if self.secure_sum else []),
            _what_is_assumed(self),
            _what_is_not_covered(self),
        ]


def privacy_statement(plan: TrainingPlan, *, spent_events: Iterable[PrivacyEvent]) -> PrivacyStatement:
    """The statement for `plan` at a merchant whose ledger holds `spent_events`; both priced at the plan's delta."""
    spent = tuple(spent_events)
    private = plan.dp.noise_multiplier > 0
    return PrivacyStatement(
        plan_id=plan.plan_id,
        plan_fingerprint=plan.fingerprint,
        trust=plan.trust,
        secure_sum=_sum_promise(plan),
        delta=plan.delta,
        declared_customers=plan.declared_customers,
        sample_rate=plan.dp.sample_rate,
        noise_multiplier=plan.dp.noise_multiplier,
        max_grad_norm=plan.dp.max_grad_norm,
        rounds=plan.rounds,
        steps_per_round=plan.dp.num_steps,
        answer_every_seconds=plan.answer_every_seconds,
        plan_epsilon=epsilon_by_merchants(plan.events, delta=plan.delta),
        plan_epsilon_rdp=rdp_epsilon(plan.events, delta=plan.delta) if private else math.inf,
        spent_steps=sum(event.num_steps for event in spent),
        spent_epsilon=epsilon_by_merchants(spent, delta=plan.delta),
    )


def _sum_promise(plan: TrainingPlan) -> SumPromise | None:
    if plan.secure_sum is None:
        return None
    return SumPromise(
        merchants=len(plan.secure_sum.roster),
        fewest_survivors=plan.server.min_completions,
        dishonest=plan.secure_sum.dishonest,
        roster=roster_fingerprint(plan.secure_sum),
        epsilon=secure_epsilons(plan),
    )


def _no_privacy(s: PrivacyStatement) -> tuple[str, str]:
    if not s.noise_multiplier > 0:
        cause = "This plan adds no noise to what leaves the merchant (its noise multiplier is 0)."
    else:
        cause = "This plan adds noise, but the ledger holds charges for which no finite epsilon can be given."
    return "NO PRIVACY", (
        f"{cause} There is NO PRIVACY guarantee: epsilon is infinite, at any delta. Whoever sees what leaves the "
        "merchant may learn what single customers bought. Use it only on orders that belong to nobody, such as "
        "synthetic ones."
    )


def _who_is_protected(s: PrivacyStatement) -> tuple[str, str]:
    nobody = "" if s.private else "Nobody, as said above. What the words below would mean for a plan with noise: "
    return "Who is protected", (
        f"{nobody}The unit of protection is {s.unit}: however many orders there are, they are protected together, not "
        f"one by one. The comparison is {s.relation}: what leaves the merchant with the customer is compared with "
        "what would have left without."
    )


def _guarantee(s: PrivacyStatement) -> list[tuple[str, str]]:
    """What the numbers are, then what they mean."""
    spent = (
        f"All that this merchant has charged so far, for this plan and any other ({s.spent_steps} steps), comes to "
        f"{_at(s.spent_epsilon, s.delta)}, if each of those shops had charged the same."
        if s.spent_steps
        else "This merchant has charged nothing so far."
    )
    promised = (
        f"The whole run of plan {s.plan_id} ({s.rounds} rounds) costs {_at(s.plan_epsilon, s.delta)}: what several "
        f"shops release about one person adds up. {spent} Delta {s.delta:g} is at most 1 / {s.declared_customers}^1.1, "
        f"where {s.declared_customers} is how many customers each merchant publicly declares to have at least."
    )
    meaning = _meaning(s) if math.isfinite(s.plan_epsilon[1]) else "An infinite epsilon promises nothing, at any delta."
    return [("How much is promised", promised), ("What these numbers mean", meaning)]


def _at(epsilon: Mapping[int, float], delta: float) -> str:
    several = ", ".join(f"{epsilon_text(value)} for {count}" for count, value in epsilon.items() if count > 1)
    return (
        f"epsilon {epsilon_text(epsilon[1])} at delta {delta:g} for a customer of this one shop and, at the same "
        f"delta, for a person who is a customer of several federated shops: {several} shops"
    )


def _meaning(s: PrivacyStatement) -> str:
    epsilon = _rounded_up(s.plan_epsilon[1])
    factor = math.exp(min(epsilon, 700.0))  # e^710 is more than a float can hold
    times = f"{factor:,.1f}" if factor < 1e6 else "more than a million"
    after = EXAMPLE_ODDS * factor / (1 - EXAMPLE_ODDS + EXAMPLE_ODDS * factor)
    return (
        "Suppose somebody sees everything that leaves the merchant, knows every other customer, and wonders whether a "
        "given person is a customer. Through what they see, the odds they would give are multiplied, or divided, by at "
        f"most e^epsilon = e^{epsilon:.2f} = {times}, except with probability delta = {s.delta:g}, about 1 in "
        f"{1 / s.delta:,.0f}. For example, a suspicion of 1 in 100 beforehand could become at most {_share(after)} in "
        "100 afterwards. This is the worst case over all persons and all onlookers; the usual case is milder. With "
        "both numbers at 0 nothing could be learned; the smaller they are, the stronger the promise."
    )


def _mechanism(s: PrivacyStatement) -> tuple[str, str]:
    noise = (
        "To the sum of these contributions Gaussian noise is added, in every coordinate, of standard deviation noise "
        f"multiplier x C = {s.noise_multiplier:g} x {s.max_grad_norm:g} = {s.noise_multiplier * s.max_grad_norm:g}. "
        f"{_whose_noise(s)}"
        if s.noise_multiplier > 0
        else "NO noise is added to the sum of these contributions (the noise multiplier is 0)."
    )
    return "How it is done", (
        f"Training runs on the merchant's own machine: {s.rounds} rounds, with {s.steps_per_round} step(s) in each. In "
        "each step customers are drawn by Poisson sampling: each one independently, with probability "
        f"{s.sample_rate:g}. What one customer contributes to the step (the gradient, over all orders together) is "
        f"clipped: made no longer than C = {s.max_grad_norm:g}. {noise} The sum is divided by a number that is written "
        "in the plan, never by a count of customers. A step in which nobody was drawn is taken and charged like any "
        f"other. Trust mode: {s.trust}."
    )


def _whose_noise(s: PrivacyStatement) -> str:
    if s.secure_sum is None:
        return "Each merchant adds its noise in full, before anything leaves, and relies on nobody else for it."
    return (
        "It is the sum of the shares that the merchants add, each before anything leaves: whole numbers on a public "
        "grid with discrete Gaussian noise, behind masks that cancel in the sum alone. What rounding adds to one "
        "customer's influence is counted. The platform adds up what came; with fewer than "
        f"{s.secure_sum.fewest_survivors} of the {s.secure_sum.merchants} merchants left it learns nothing."
    )


def _who_must_be_honest(s: PrivacyStatement, promise: SumPromise) -> tuple[str, str]:
    alone, helped, own = (epsilon_text(epsilon) for epsilon in promise.epsilon.values())
    return "Whose honesty this rests on", (
        f"At least {promise.fewest_survivors - promise.dishonest} honest merchants must be left in each round: the "
        f"numbers above are for a platform that {promise.dishonest} of the {promise.merchants} merchants help. The "
        f"whole run then costs epsilon {helped} at delta {s.delta:g}. Against a platform that nobody helps it is "
        f"epsilon {alone} at the same delta. If all the other merchants showed the platform everything they know, this "
        "merchant's own share of the noise would be all that is left, and it would be epsilon "
        f"{own} at the same delta. A person of several of these shops moves the one sum several times as far, under "
        "noise that is added once: the numbers for several shops take that into account. Merchants know each other by "
        f"their keys; the roster's fingerprint is {promise.roster}, and should be compared with another merchant by "
        "another way than the platform."
    )


def _accounting(s: PrivacyStatement) -> tuple[str, str]:
    cross_check = (
        f" For the whole run, at one shop and delta {s.delta:g}, the cross-check gives epsilon "
        f"{epsilon_text(s.plan_epsilon_rdp)}, against the {epsilon_text(s.plan_epsilon[1])} reported here."
        if math.isfinite(s.plan_epsilon_rdp)
        else ""
    )
    return "How it is counted", (
        f"Accountant: {s.accountant}.{cross_check} Every step of every round is charged in a ledger on the merchant's "
        "machine before it is computed from the orders. Nothing is ever refunded, and a repeated request gets the same "
        "reply again instead of a new one."
    )


def _what_leaves(s: PrivacyStatement) -> tuple[str, str]:
    steps = "noised steps" if s.noise_multiplier > 0 else "steps (without noise)"
    return "What leaves the merchant", (
        f"For each round, one of two things. Either {_release(s)}, made of the {steps} described above and of "
        "nothing else, with the fingerprint of the task it answers. Or a refusal, which is one code of a fixed list: "
        f"{', '.join(code.value for code in RefusalCode)}. Beside either goes the anchor of the ledger, two hashes "
        "and the number of its last entry: it says how often the merchant was charged, which the platform knows, and "
        "shows up a ledger that was put back. Before a run, the platform is told of each plan that it waits, is "
        "approved or is refused, with one code of another fixed list. Nothing else: no order, no customer, no count of "
        f"either, no loss or other measure of quality, no text of an error. {_who_sees(s)} The "
        "model made of them is seen by all merchants, and by whoever the platform gives it to."
    )


def _release(s: PrivacyStatement) -> str:
    return "one masked vector of whole numbers" if s.secure_sum else "one model update"


def _who_sees(s: PrivacyStatement) -> str:
    if s.secure_sum is None:
        return "The updates are seen by the platform."
    return (
        "Beside them go the steps of the secure sum: public keys, encrypted shares of random seeds, lists of who is "
        "left, and signatures; none of them depends on an order. The platform sees the sum of the vectors and no "
        "single one."
    )


def _what_is_assumed(s: PrivacyStatement) -> tuple[str, str]:
    coarse = (
        f", of which nothing finer than {s.answer_every_seconds:g} seconds is visible,"
        if s.answer_every_seconds
        else ""
    )
    return "What is assumed", (
        "(1) Who was drawn, and which noise was added, stay secret; both come from the operating system's "
        "cryptographic generator and are not kept. (2) One person is one customer number: a person with several "
        "accounts counts as several customers, and is protected less. (3) The merchant runs the released program, "
        "unchanged, and does not put back an old ledger (one that is older than what the platform has seen is "
        f"noticed, and nothing is answered). (4) How long the merchant takes to answer{coarse} and whether it answers, "
        "tells nothing about one customer. (5) The number of customers that the merchant declares is a "
        "public lower bound, and is not counted from its orders."
    )


def _what_is_not_covered(_: PrivacyStatement) -> tuple[str, str]:
    return "What is not covered", (
        "Groups: a household or a company whose members are customers of their own is protected less than one "
        "customer. The merchant's own staff and systems, which see the orders anyway. Whatever the merchant itself "
        "publishes or passes on, the scores of its customers included. Side channels: floating-point arithmetic is "
        "guarded against only in part, and the time, memory and power that a computation takes are not. And general "
        "facts: what is learned about people like you is the purpose of the model, and is learned whether or not you "
        "are among the customers."
    )


def _rounded_up(epsilon: float) -> float:
    """To two digits: a promise is not made smaller by printing it."""
    return math.ceil(epsilon * 100 - 1e-9) / 100


def epsilon_text(epsilon: float) -> str:
    """To two digits, rounded up: a promise is not made smaller by printing it."""
    return f"{_rounded_up(epsilon):.2f}" if math.isfinite(epsilon) else "infinite (no bound)"


def _share(probability: float) -> str:
    """Of a hundred, to one digit, rounded up."""
    return f"{min(100.0, math.ceil(probability * 1000) / 10):g}"


def plain_epsilon(epsilon: float) -> float | str:
    """For JSON, which has no infinity."""
    return epsilon if math.isfinite(epsilon) else "inf"
