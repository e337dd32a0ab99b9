"""The privacy statement: what a customer of this merchant is promised, in plain words, with every number labelled.

Its words stand in templates/en.toml and zh.toml. The numbers are written once, for all languages alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from client.peers import roster_fingerprint
from client.policy import epsilon_by_merchants
from pp_model.accounting import PrivacyEvent, rdp_epsilon
from pp_model.config import to_mapping
from pp_model.integer_sum import secure_epsilons
from pp_model.plan import TrainingPlan
from pp_model.protocol import RefusalCode
from web.words import Language, Phrase, Words, phrase

WORDS = Words([Path(__file__).parent / "templates"])
UNIT, RELATION, ACCOUNTANT = (WORDS.say("en", f"statement.{name}") for name in ("unit", "relation", "accountant"))
SAMPLING = "Poisson: each customer independently, in each step, with a probability that everybody knows"
EXAMPLE_ODDS = 0.01  # a one in a hundred suspicion is what the worked example starts from

Paragraph = tuple[Phrase, Phrase]  # a heading and its text


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

    def phrases(self) -> list[Paragraph]:
        """Headings and texts in the order in which they should be read."""
        return [
            *([] if self.private else [_no_privacy(self)]),
            _who_is_protected(self),
            _how_much_is_promised(self),
            _meaning(self),
            _mechanism(self),
            _accounting(self),
            _what_leaves(self),
            *([_whose_honesty(self, self.secure_sum)] if self.secure_sum else []),
            _what_is_assumed(self),
            paragraph("uncovered", "uncovered.text"),
        ]

    def paragraphs(self, language: Language = "en") -> list[tuple[str, str]]:
        """The same, said."""
        return said(self.phrases(), language)


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


def heading(name: str) -> Phrase:
    """The heading of a paragraph."""
    return phrase(f"statement.heading.{name}")


def paragraph(name: str, *sentences: str | Phrase) -> Paragraph:
    """The heading of that name, and the sentences, phrases or keys below "statement", one after the other."""
    texts = [each if isinstance(each, Phrase) else phrase(f"statement.{each}") for each in sentences]
    return heading(name), reduce(lambda before, next_: phrase("statement.then", before=before, next=next_), texts)


def said(paragraphs: Iterable[Paragraph], language: Language) -> list[tuple[str, str]]:
    """The paragraphs in one language."""
    return [(WORDS.say(language, title), WORDS.say(language, text)) for title, text in paragraphs]


def _no_privacy(s: PrivacyStatement) -> Paragraph:
    cause = "ledger" if s.noise_multiplier > 0 else "plan"
    return paragraph("no_privacy", f"no_privacy.{cause}", "no_privacy.text")


def _who_is_protected(s: PrivacyStatement) -> Paragraph:
    text = phrase("statement.protected.text", unit=phrase("statement.unit"), relation=phrase("statement.relation"))
    return paragraph("protected", *([] if s.private else ["protected.nobody"]), text)


def _how_much_is_promised(s: PrivacyStatement) -> Paragraph:
    run, spent = (_price(epsilon, s.delta) for epsilon in (s.plan_epsilon, s.spent_epsilon))
    return paragraph(
        "promised",
        phrase("statement.promised.run", plan=s.plan_id, rounds=str(s.rounds), price=run),
        phrase("statement.promised.spent", steps=str(s.spent_steps), price=spent)
        if s.spent_steps
        else "promised.unspent",
        phrase("statement.promised.delta", delta=f"{s.delta:g}", declared=str(s.declared_customers)),
    )


def _price(epsilon: Mapping[int, float], delta: float) -> Phrase:
    several = [
        phrase("statement.promised.shops", epsilon=epsilon_phrase(value), count=str(count))
        for count, value in epsilon.items()
        if count > 1
    ]
    return phrase(
        "statement.promised.price",
        one=epsilon_phrase(epsilon[1]),
        delta=f"{delta:g}",
        several=reduce(lambda before, next_: phrase("statement.listed", before=before, next=next_), several),
    )


def _meaning(s: PrivacyStatement) -> Paragraph:
    if not math.isfinite(s.plan_epsilon[1]):
        return paragraph("meaning", "meaning.nothing")
    epsilon = _rounded_up(s.plan_epsilon[1])
    factor = math.exp(min(epsilon, 700.0))  # e^710 is more than a float can hold
    after = EXAMPLE_ODDS * factor / (1 - EXAMPLE_ODDS + EXAMPLE_ODDS * factor)
    text = phrase(
        "statement.meaning.text",
        epsilon=f"{epsilon:.2f}",
        times=f"{factor:,.1f}" if factor < 1e6 else phrase("statement.meaning.million"),
        delta=f"{s.delta:g}",
        odds=f"{1 / s.delta:,.0f}",
        after=_share(after),
    )
    return paragraph("meaning", text)


def _mechanism(s: PrivacyStatement) -> Paragraph:
    noise, clip = f"{s.noise_multiplier:g}", f"{s.max_grad_norm:g}"
    steps = phrase(
        "statement.mechanism.steps",
        rounds=str(s.rounds),
        steps=str(s.steps_per_round),
        rate=f"{s.sample_rate:g}",
        clip=clip,
    )
    deviation = f"{s.noise_multiplier * s.max_grad_norm:g}"
    noised = phrase("statement.mechanism.noise", noise=noise, clip=clip, deviation=deviation)
    divided = phrase("statement.mechanism.divided", trust=s.trust)
    added: list[str | Phrase] = [noised, _whose_noise(s)] if s.noise_multiplier > 0 else ["mechanism.no_noise"]
    return paragraph("mechanism", steps, *added, divided)


def _whose_noise(s: PrivacyStatement) -> Phrase:
    if s.secure_sum is None:
        return phrase("statement.mechanism.own")
    fewest, merchants = str(s.secure_sum.fewest_survivors), str(s.secure_sum.merchants)
    return phrase("statement.mechanism.shares", fewest=fewest, merchants=merchants)


def _accounting(s: PrivacyStatement) -> Paragraph:
    checked = phrase(
        "statement.accounting.checked",
        delta=f"{s.delta:g}",
        rdp=epsilon_phrase(s.plan_epsilon_rdp),
        epsilon=epsilon_phrase(s.plan_epsilon[1]),
    )
    return paragraph(
        "accounting",
        phrase("statement.accounting.accountant", accountant=phrase("statement.accountant")),
        *([checked] if math.isfinite(s.plan_epsilon_rdp) else []),
        "accounting.ledger",
    )


def _what_leaves(s: PrivacyStatement) -> Paragraph:
    text = phrase(
        "statement.leaves.text",
        release=phrase(f"statement.leaves.{'vector' if s.secure_sum else 'update'}"),
        steps=phrase(f"statement.leaves.{'noised' if s.noise_multiplier > 0 else 'bare'}"),
        codes=", ".join(code.value for code in RefusalCode),
    )
    return paragraph("leaves", text, "leaves.sum" if s.secure_sum else "leaves.updates", "leaves.model")


def _whose_honesty(s: PrivacyStatement, promise: SumPromise) -> Paragraph:
    alone, helped, own = (epsilon_phrase(epsilon) for epsilon in promise.epsilon.values())
    text = phrase(
        "statement.honesty.text",
        honest=str(promise.fewest_survivors - promise.dishonest),
        dishonest=str(promise.dishonest),
        merchants=str(promise.merchants),
        delta=f"{s.delta:g}",
        alone=alone,
        helped=helped,
        own=own,
        roster=promise.roster,
    )
    return paragraph("honesty", text)


def _what_is_assumed(s: PrivacyStatement) -> Paragraph:
    seconds = f"{s.answer_every_seconds:g}"
    time = phrase("statement.assumed.coarse_time", seconds=seconds) if s.answer_every_seconds else "assumed.time"
    return paragraph("assumed", "assumed.secret", "assumed.person", "assumed.program", time, "assumed.declared")


def _rounded_up(epsilon: float) -> float:
    """To two digits: a promise is not made smaller by printing it."""
    return math.ceil(epsilon * 100 - 1e-9) / 100


def epsilon_phrase(epsilon: float) -> str | Phrase:
    """To two digits, rounded up: a promise is not made smaller by printing it."""
    return f"{_rounded_up(epsilon):.2f}" if math.isfinite(epsilon) else phrase("statement.infinite")


def epsilon_text(epsilon: float, language: Language = "en") -> str:
    """The same, said."""
    found = epsilon_phrase(epsilon)
    return found if isinstance(found, str) else WORDS.say(language, found)


def _share(probability: float) -> str:
    """Of a hundred, to one digit, rounded up."""
    return f"{min(100.0, math.ceil(probability * 1000) / 10):g}"


def plain_epsilon(epsilon: float) -> float | str:
    """For JSON, which has no infinity."""
    return epsilon if math.isfinite(epsilon) else "inf"
