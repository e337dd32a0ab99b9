"""Who this merchant adds up with: the other merchants' keys, pinned when a person first agrees to them.

In a secure sum a platform that could exchange keys could stand between the merchants and see what each adds. So a key
counts as another merchant's only as long as it is the one that was there when the roster was approved, and a person
compares the roster's fingerprint with another merchant, by another way than the platform.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping

from pp_model.errors import PolicyError
from pp_model.plan import SecureSumPlan, TrainingPlan

_GROUP = 4


def roster_fingerprint(sums: SecureSumPlan) -> str:
    """Eight groups of four characters that differ if any merchant's key does: what people compare by telephone."""
    text = "\n".join(sorted(peer.key for peer in sums.roster))
    digits = hashlib.sha256(f"purchase-power roster\n{text}".encode()).hexdigest()[: 8 * _GROUP]
    return "-".join(digits[start : start + _GROUP] for start in range(0, len(digits), _GROUP))


def pinned(approved: Iterable[TrainingPlan]) -> dict[str, str]:
    """Each merchant's key by its name, as it was in the plan approved last that had it."""
    return {peer.name: peer.key for plan in approved if plan.secure_sum for peer in plan.secure_sum.roster}


def on_roster(plan: TrainingPlan, own: str) -> bool:
    """Whether the merchant with the key `own` takes part; in a plan without a secure sum everybody does."""
    return plan.secure_sum is None or any(peer.key == own for peer in plan.secure_sum.roster)


def newcomers(plan: TrainingPlan, pins: Mapping[str, str], *, own: str) -> list[str]:
    """Names of those on the roster that no approved plan had yet."""
    roster = plan.secure_sum.roster if plan.secure_sum else ()
    return [peer.name for peer in roster if peer.name not in pins and peer.key != own]


def check_keys(plan: TrainingPlan, pins: Mapping[str, str], *, accepted: Collection[str] = ()) -> None:
    """Returns if every merchant on the roster that was pinned still has its key, or is among the `accepted` names.

    Raises:
        PolicyError: names the first whose key is another one.
    """
    for peer in plan.secure_sum.roster if plan.secure_sum else ():
        if pins.get(peer.name, peer.key) != peer.key and peer.name not in accepted:
            raise PolicyError(
                f"The plan gives merchant {peer.name!r} the key {peer.key}; in the plan that was approved before it "
                f"had {pins[peer.name]}. Whoever changed it could read what you add to the sum. Ask that merchant, by "
                "another way than the platform, whether it has a new key; if so, approve with --changed-key "
                f"{peer.name}"
            )
