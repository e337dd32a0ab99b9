"""Node keys of simulated merchants: the same for the same scenario, so that a run can be continued. Never secret."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec

from agreement.node_keys import fingerprint_of
from pp_model.plan import Peer
from simulations.scenario import Scenario

_ORDER_BYTES = 47  # below the order of P-384, which has 48


def identity(number: int, scenario: Scenario) -> ec.EllipticCurvePrivateKey:
    """The key of the merchant that is `number` of its simulation, from 0."""
    text = f"simulated merchant {number} of {scenario.name} {scenario.seed}"
    return ec.derive_private_key(
        1 + int.from_bytes(hashlib.sha384(text.encode()).digest()[:_ORDER_BYTES]), ec.SECP384R1()
    )


def roster(scenario: Scenario) -> tuple[Peer, ...]:
    """All merchants of a simulation, as a secure sum knows them."""
    return tuple(
        Peer(name=peer_name(number), key=fingerprint_of(identity(number, scenario).public_key()))
        for number in range(scenario.merchants)
    )


def peer_name(number: int) -> str:
    """What the merchant is called on the roster."""
    return f"merchant-{number + 1:04d}"
