"""Where a model comes from, as a chain of hashes: plan, offers, every round with its checkpoint, model.

Only what was released or is public is in it. The hash of each link covers the link before, so the last one, which the
platform signs in the model's manifest, stands for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from agreement.signing import canonical_json
from pp_model.errors import PurchasePowerError
from pp_model.plan import TrainingPlan
from server.registry import RoundRecord

_KINDS = ("plan", "offer", "round", "model")  # in this order

Link = dict[str, Any]


class ChainError(PurchasePowerError):
    """A chain that was changed, or is of another model."""


def make_chain(
    plan: TrainingPlan,
    *,
    offers: Mapping[int, bytes],
    rounds: Sequence[RoundRecord],
    model_sha256: str,
    card_sha256: str,
) -> list[Link]:
    """The links of a model, first to last.

    Args:
        offers: the signed offers under which the plan was run, by serial number.
        rounds: those that made the model, each once, in order.
    """
    contents: list[tuple[str, Mapping[str, Any]]] = [
        ("plan", {"fingerprint": plan.fingerprint, "plan": plan.to_json()})
    ]
    for serial in sorted(offers):
        contents.append(("offer", {"serial": serial, "sha256": hashlib.sha256(offers[serial]).hexdigest()}))
    for entry in rounds:
        content = {
            "round": entry.round,
            "completions": entry.completions,
            "merchants": list(entry.merchants),
            "norm": entry.norm,
            "checkpoint": entry.checkpoint,
        }
        contents.append(("round", content))
    contents.append(("model", {"sha256": model_sha256, "card_sha256": card_sha256}))
    links: list[Link] = []
    for kind, stated in contents:
        before = links[-1]["hash"] if links else ""
        links.append({"kind": kind, "content": dict(stated), "before": before, "hash": _hash(kind, stated, before)})
    return links


def verify_chain(links: object, *, head: str, plan_fingerprint: str, model_sha256: str) -> None:
    """Returns if the chain is whole, ends with `head`, and leads from this plan through all its rounds to this model.

    Args:
        links: what was read from a file, of any form.

    Raises:
        ChainError: otherwise; says at which link.
    """
    before, kinds, contents = "", [], []
    if not isinstance(links, list) or not links:
        raise ChainError("the chain is empty; export the model again")
    for number, link in enumerate(links, start=1):
        if not isinstance(link, dict) or set(link) != {"kind", "content", "before", "hash"}:
            raise ChainError(f"link {number} of the chain is not one; export the model again")
        try:
            expected = _hash(link["kind"], link["content"], before)
        except (TypeError, ValueError):
            expected = ""
        if link["before"] != before or link["hash"] != expected:
            raise ChainError(f"link {number} of the chain was changed; ask for the model and its chain again")
        before = expected
        kinds.append(link["kind"])
        contents.append(link["content"])
    if before != head:
        raise ChainError("the chain is not the one that the platform signed; ask for the model and its chain again")
    places = [_KINDS.index(kind) if kind in _KINDS else -1 for kind in kinds]
    if places != sorted(places) or [kinds.count(kind) for kind in ("plan", "model")] != [1, 1] or -1 in places:
        raise ChainError("the chain does not go from one plan over its rounds to one model")
    if hashlib.sha256(contents[0]["plan"].encode()).hexdigest() != contents[0]["fingerprint"]:
        raise ChainError("the chain's plan is not the one that its first link names")
    numbers = [content["round"] for kind, content in zip(kinds, contents, strict=True) if kind == "round"]
    if numbers != list(range(1, TrainingPlan.from_json(contents[0]["plan"]).rounds + 1)):
        raise ChainError(f"the chain has {len(numbers)} rounds, and not each of the plan's once")
    if contents[0]["fingerprint"] != plan_fingerprint or contents[-1]["sha256"] != model_sha256:
        raise ChainError("the chain is of another plan or model")


def head_of(links: Sequence[Link]) -> str:
    """The hash of the last link."""
    return str(links[-1]["hash"])


def _hash(kind: str, content: Mapping[str, Any], before: str) -> str:
    text = canonical_json({"kind": kind, "content": dict(content), "before": before})
    return hashlib.sha256(text.encode()).hexdigest()
