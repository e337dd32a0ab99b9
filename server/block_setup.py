"""A block of secure sums, set up in three exchanges with whoever answers. Flower is not needed here."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from pp_model.errors import ProtocolError
from pp_model.integer_sum import secure_sum_of
from pp_model.plan import TrainingPlan
from secure_sum.collector import Collector
from secure_sum.errors import SumError

ATTEMPTS = 3  # each without those who failed the one before

Letters = Mapping[int, bytes]  # by number on the roster
Ask = Callable[[Letters], Iterable[tuple[int, bytes]]]

log = logging.getLogger(__name__)


def set_up(plan: TrainingPlan, *, first_round: int, merchants: Iterable[int], ask: Ask) -> Collector:
    """A block from `first_round` on, ready for its first round, among those of the merchants who did all steps.

    Args:
        merchants: numbers on the roster of those that can be asked.
        ask: sends a letter to each and gives what comes back in time; who refuses, or says nothing, is not in it.

    Raises:
        SumError: fewer than the plan's threshold did.
    """
    left, dishonest = set(merchants), secure_sum_of(plan).dishonest
    for _ in range(ATTEMPTS):
        collector = _begun(plan, first_round)
        failed = _failures(collector, left, ask, dishonest=dishonest)
        if not failed:
            return collector
        log.warning("block not set up", extra={"block": first_round, "without": len(failed)})
        left -= failed
    raise SumError(f"no block could be set up in {ATTEMPTS} attempts", offenders=failed)


def _begun(plan: TrainingPlan, first_round: int) -> Collector:
    sums = secure_sum_of(plan)
    return Collector(
        plan=plan.fingerprint,
        roster=[peer.key for peer in sums.roster],
        block=first_round,
        first_round=first_round,
        rounds=min(sums.rounds_per_block, plan.rounds - first_round + 1),
        threshold=plan.server.min_completions,
    )


def _failures(collector: Collector, merchants: set[int], ask: Ask, *, dishonest: int) -> set[int]:
    """Runs the three exchanges; who has to be left out for them to succeed. Nobody: the block is complete.

    Who does not answer the opening is left out at once: nobody has heard of it yet.
    """
    opening = collector.opening()
    present = set(_taken(ask(dict.fromkeys(merchants, opening)), collector.add_keys))
    roll = collector.roll()
    dealt = set(_taken(ask(dict.fromkeys(present, roll)), collector.add_shares))
    if dealt != present:
        return present - dealt
    accused: dict[int, frozenset[int]] = {}

    def ready(index: int, data: bytes) -> None:
        accused[index] = collector.add_ready(index, data)

    confirmed = set(_taken(ask({index: collector.delivery(index) for index in sorted(present)}), ready))
    return (present - confirmed) | _to_blame(accused, dishonest=dishonest)


def _to_blame(accused: Mapping[int, frozenset[int]], *, dishonest: int) -> set[int]:
    """Who is accused by more merchants than may lie; of the others the accusers, since one of the two has lied."""
    votes = Counter(dealer for dealers in accused.values() for dealer in dealers)
    guilty = {dealer for dealer, count in votes.items() if count > dishonest}
    return guilty | {accuser for accuser, dealers in accused.items() if dealers - guilty}


def _taken(answers: Iterable[tuple[int, bytes]], take: Callable[[int, bytes], object]) -> Iterator[int]:
    """The merchants whose answers were taken."""
    for index, data in answers:
        try:
            take(index, data)
        except ProtocolError as error:
            log.warning("answer not taken", extra={"merchant": index, "why": str(error)})
        else:
            yield index
