"""What a secure sum costs beside sending plain updates: `python benchmarks/secure_sum_cost.py --out FILE`.

50 merchants, 100,000 parameters, a threshold of 35. CPU time of one process, for a merchant and for the platform, the
set-up spread over the rounds of its block; bytes as the messages have them, without what carries them. The plain
update is 4 bytes a parameter; the parameters that a task brings are not counted, they are the same with both.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from agreement.node_keys import fingerprint_of, new_node_key
from secure_sum.collector import Collector
from secure_sum.member import Member

MERCHANTS, THRESHOLD, PARAMETERS = 50, 35, 100_000
DROPPED = 15
BLOCKS = (4, 8, 16, 32)  # rounds that are set up at once
DEFAULT = 16
CPU_BAR, BYTES_BAR, EXCHANGES_BAR = 1.0, 2.5, 2
WATCHED = 0  # the merchant whose time and bytes are taken
PLAN = "0" * 64

Result = TypeVar("Result")


@dataclass(kw_only=True)
class Account:
    """CPU seconds of the watched merchant and of the platform, and bytes of that merchant, up and down."""

    merchant: float = 0.0
    platform: float = 0.0
    up: int = 0
    down: int = 0
    exchanges: int = 0

    def of_merchant(self, work: Callable[[], Result]) -> Result:
        """Does it, and takes its time."""
        began = time.process_time()
        result = work()
        self.merchant += time.process_time() - began
        return result

    def of_platform(self, work: Callable[[], Result]) -> Result:
        """Does it, and takes its time."""
        began = time.process_time()
        result = work()
        self.platform += time.process_time() - began
        return result

    def exchanged(self, down: int, up: int) -> None:
        """One question to the watched merchant, and its answer."""
        self.down, self.up, self.exchanges = self.down + down, self.up + up, self.exchanges + 1


@dataclass(kw_only=True)
class Costs:
    """Of one size of block: the set-up, one round without drop-outs, and one with."""

    rounds: int
    setting_up: Account = field(default_factory=Account)
    whole: Account = field(default_factory=Account)
    dropped: Account = field(default_factory=Account)

    def merchant_seconds(self, round: Account) -> float:
        """CPU seconds of a merchant for a round, its part of the set-up included."""
        return self.setting_up.merchant / self.rounds + round.merchant

    def platform_seconds(self, round: Account) -> float:
        """The same of the platform, for all merchants together."""
        return self.setting_up.platform / self.rounds + round.platform

    def bytes_ratio(self, round: Account) -> float:
        """Bytes of a merchant for a round, up and down together and with its part of the set-up, / a plain update."""
        setting_up = (self.setting_up.up + self.setting_up.down) / self.rounds
        return (setting_up + round.up + round.down) / (4 * PARAMETERS)


def set_up(rounds: int, account: Account) -> tuple[Collector, dict[int, Member]]:
    """A block that is ready, with all its merchants at work; the account gets the watched one's and the platform's."""
    keys = [new_node_key() for _ in range(MERCHANTS)]
    roster = [fingerprint_of(key.public_key()) for key in keys]
    collector = Collector(plan=PLAN, roster=roster, block=1, first_round=1, rounds=rounds, threshold=THRESHOLD)
    opening = collector.opening()

    def member(index: int) -> Member:
        return Member(opening, plan=PLAN, roster=roster, threshold=THRESHOLD, identity=keys[index])

    def answer(ask: Callable[[int], bytes], take: Callable[[int, bytes], object], down: Callable[[int], int]) -> None:
        for index in range(MERCHANTS):
            said = account.of_merchant(lambda i=index: ask(i)) if index == WATCHED else ask(index)
            account.of_platform(lambda i=index, s=said: take(i, s))
            if index == WATCHED:
                account.exchanged(down(index), len(said))

    members = {
        index: account.of_merchant(lambda: member(WATCHED)) if index == WATCHED else member(index)
        for index in range(MERCHANTS)
    }
    answer(lambda i: members[i].keys(), collector.add_keys, lambda _: len(opening))
    roll = account.of_platform(collector.roll)
    answer(lambda i: members[i].shares(roll), collector.add_shares, lambda _: len(roll))
    deliveries = account.of_platform(lambda: [collector.delivery(index) for index in range(MERCHANTS)])
    answer(lambda i: members[i].ready_for(deliveries[i]), collector.add_ready, lambda i: len(deliveries[i]))
    if not collector.complete():
        raise RuntimeError("the set-up did not come to its end")
    return collector, members


def one_round(
    collector: Collector, members: dict[int, Member], round: int, *, gone: Collection[int], account: Account
) -> None:
    """A round, and whether its sum is right."""
    rng = np.random.default_rng(round)
    values = {index: rng.integers(0, 2**64, PARAMETERS, dtype=np.uint64) for index in members if index not in gone}
    summing = collector.round_sum(round, size=PARAMETERS)
    for index in values:
        work = lambda i=index: members[i].masked(round, values[i])  # noqa: E731
        masked = account.of_merchant(work) if index == WATCHED else work()
        account.of_platform(lambda i=index, m=masked: summing.add(i, m))
        if index == WATCHED:
            account.exchanged(0, masked.nbytes)
    asked: bytes | None = account.of_platform(summing.survivors)
    while asked is not None:
        for index in values:
            work = lambda i=index, a=asked: members[i].reveal(a)  # noqa: E731
            said = account.of_merchant(work) if index == WATCHED else work()
            account.of_platform(lambda i=index, s=said: summing.add_answer(i, s))
            if index == WATCHED:
                account.exchanged(len(asked), len(said))
        quorum = account.of_platform(summing.quorum)
        asked = quorum if quorum != asked else None
    result = account.of_platform(summing.result)
    if result.values.tolist() != np.sum(list(values.values()), axis=0, dtype=np.uint64).tolist():
        raise RuntimeError("the sum is wrong")


def middle(accounts: list[Account]) -> Account:
    """The median of each figure."""
    names = ("merchant", "platform", "up", "down", "exchanges")
    return Account(**{name: statistics.median(getattr(account, name) for account in accounts) for name in names})


def measured(rounds: int, *, repeats: int) -> Costs:
    """The costs with blocks of that many rounds."""
    costs = Costs(rounds=rounds)
    collector, members = set_up(rounds, costs.setting_up)
    gone = range(MERCHANTS - DROPPED, MERCHANTS)
    whole, dropped = [], []
    for turn in range(min(repeats, rounds // 2)):
        whole.append(Account())
        one_round(collector, members, 2 * turn + 1, gone=(), account=whole[-1])
        dropped.append(Account())
        one_round(collector, members, 2 * turn + 2, gone=gone, account=dropped[-1])
    costs.whole, costs.dropped = middle(whole), middle(dropped)
    return costs


def rows(*, quick: bool) -> list[dict[str, Any]]:
    """What was measured against its bar, as plain values: what, ratio, bar, detail."""
    return rows_of(measured(8 if quick else DEFAULT, repeats=1 if quick else 5))


def rows_of(costs: Costs) -> list[dict[str, Any]]:
    """See `rows`."""
    about = f"{MERCHANTS} merchants, {PARAMETERS:,} parameters, blocks of {costs.rounds} rounds"
    whole, dropped = costs.whole, costs.dropped
    return [
        {
            "what": f"secure sum, {about}: CPU s of a merchant and round",
            "ratio": costs.merchant_seconds(whole),
            "bar": CPU_BAR,
            "detail": f"with {DROPPED} dropped out {costs.merchant_seconds(dropped):.3f}",
        },
        {
            "what": f"secure sum, {about}: bytes of a merchant and round / plain float32 update",
            "ratio": costs.bytes_ratio(whole),
            "bar": BYTES_BAR,
            "detail": f"with {DROPPED} dropped out {costs.bytes_ratio(dropped):.2f}",
        },
        {
            "what": f"secure sum, {about}: exchanges of a round without drop-outs",
            "ratio": float(whole.exchanges),
            "bar": EXCHANGES_BAR,
            "detail": f"with drop-outs {dropped.exchanges:g}, and {costs.setting_up.exchanges} for each block",
        },
    ]


def table(all_costs: list[Costs]) -> list[str]:
    """The report, line by line."""
    lines = [
        f"# A secure sum of {MERCHANTS} merchants and {PARAMETERS:,} parameters, threshold {THRESHOLD}",
        "",
        f"{os.cpu_count()} cores, one thread; {platform.machine()}, Python {platform.python_version()}, "
        f"cryptography {version('cryptography')}, pycryptodome {version('pycryptodome')}, numpy {version('numpy')}.",
        "",
        "CPU seconds and bytes of a merchant and round, its part of the block's set-up included; the platform's CPU "
        f"seconds are for all merchants together. Bytes, up and down together, are divided by a plain update's "
        f"{4 * PARAMETERS:,}. The right half is of rounds in which {DROPPED} merchants dropped out.",
        "",
        "| Rounds in a block | merchant CPU s | platform CPU s | bytes | exchanges "
        "| merchant CPU s | platform CPU s | bytes | exchanges |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for costs in all_costs:
        cells = [
            f"{costs.merchant_seconds(of):.3f} | {costs.platform_seconds(of):.2f} | {costs.bytes_ratio(of):.2f} "
            f"| {of.exchanges:g}"
            for of in (costs.whole, costs.dropped)
        ]
        lines.append(f"| {costs.rounds} | {cells[0]} | {cells[1]} |")
    lines += ["", "| Rounds in a block | the set-up: merchant CPU s | platform CPU s | bytes up | bytes down |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for costs in all_costs:
        of = costs.setting_up
        lines.append(f"| {costs.rounds} | {of.merchant:.2f} | {of.platform:.2f} | {of.up:,} | {of.down:,} |")
    held = rows_of(next(costs for costs in all_costs if costs.rounds == DEFAULT))
    lines += ["", "| Against the bar | measured | bar |", "| --- | --- | --- |"]
    return [*lines, *(f"| {row['what']} | {row['ratio']:.3f} | {row['bar']:g} |" for row in held)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the tables to this file too")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each kind (default 5)")
    args = parser.parse_args()
    text = "\n".join(table([measured(rounds, repeats=args.repeats) for rounds in BLOCKS])) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
