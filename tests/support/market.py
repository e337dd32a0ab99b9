"""A platform's merchant API over TLS and a merchant registered there: offers, decisions, models, no training."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agreement.manifest import ModelManifest, sign_manifest
from agreement.offer import EVERYBODY, Offer, sign_offer
from agreement.signing import SigningKey
from client.settings import MerchantSettings, load_settings
from pp_model.model import fresh_arrays
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays, to_safetensors
from server.registry import Registry
from server.roster import Decision, Roster
from tests.support.merchant_home import PLAN_KEY, invitation, new_shop
from tests.support.plans import tiny_dp, tiny_plan
from tests.support.superlink import Authority, authority
from tests.support.tls_server import running_platform

HOUR = dt.timedelta(hours=1)


def market_plan(**changes: Any) -> TrainingPlan:
    """A plan that the merchant of `new_shop` may take: three rounds, epsilon below 1 at its delta, with `changes`."""
    fields: dict[str, Any] = {
        "plan_id": "spring",
        "delta": 1e-5,
        "declared_customers": 250,
        "dp": tiny_dp(sample_rate=0.05, noise_multiplier=1.5),
    }
    return tiny_plan(**{**fields, **changes})


@dataclass(kw_only=True)
class Market:
    """Where both are, and what the platform's operator would do."""

    address: str
    issuer: Authority
    registry: Path
    config: Path

    @property
    def settings(self) -> MerchantSettings:
        return load_settings(self.config)

    def offer(self, plan: TrainingPlan | None = None, *, key: SigningKey = PLAN_KEY, **changes: Any) -> Offer:
        """Puts out an offer, valid from an hour ago for ten days, with `changes`."""
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        with Roster(self.registry) as roster:
            fields: dict[str, Any] = {
                "platform": "Fair Prices",
                "serial": roster.next_serial(),
                "issued": now - HOUR,
                "not_before": now - HOUR,
                "expires": now + 240 * HOUR,
                "audience": EVERYBODY,
                "plan": plan or market_plan(),
            }
            offer = Offer(**{**fields, **changes})
            roster.open_offer(sign_offer(offer, key), offer)
        return offer

    def decisions(self, offer: Offer) -> list[Decision]:
        """What the platform was told."""
        with Roster(self.registry) as roster:
            return roster.decisions(offer.id)

    def publish(
        self,
        plan: TrainingPlan,
        *,
        arrays: Arrays | None = None,
        key: SigningKey = PLAN_KEY,
        signed_plan: TrainingPlan | None = None,
        served: bytes | None = None,
    ) -> str:
        """Publishes a model; the SHA-256 of its file.

        Args:
            signed_plan: the plan of the manifest, where it is not the file's.
            served: what is served in place of the file.
        """
        weights = fresh_arrays(plan.model, seed=len(plan.plan_id)) if arrays is None else arrays
        data = to_safetensors(weights, {"kind": "model", "plan": plan.to_json(), "plan_fingerprint": plan.fingerprint})
        sha256, card = hashlib.sha256(data).hexdigest(), b"# A model\n"
        model_file, card_file = self.registry.parent / f"{sha256}.safetensors", self.registry.parent / "card.md"
        model_file.write_bytes(data if served is None else served)
        card_file.write_bytes(card)
        registry = Registry(self.registry)
        run = registry.start_run(plan, first_round=1)
        model = registry.add_model(
            plan=plan, run=run, file=str(model_file), sha256=sha256, epsilon=1.0, epsilon_two=2.0, parent=None
        )
        manifest = ModelManifest(
            platform="Fair Prices",
            model_id=model,
            sha256=sha256,
            card_sha256=hashlib.sha256(card).hexdigest(),
            plan_fingerprint=(signed_plan or plan).fingerprint,
            chain_head="0" * 64,
        )
        registry.sign_model(model, sign_manifest(manifest, key), str(card_file))
        registry.close()
        return sha256

    def remove_merchant(self) -> None:
        """The merchant is one no longer."""
        with Roster(self.registry) as roster:
            roster.remove("bakery")


@contextmanager
def market(folder: Path, **answers: Any) -> Iterator[Market]:
    """The platform in `folder`/platform and the merchant in `folder`/shop, registered; `answers` as of `new_shop`."""
    issuer, place = authority(), folder / "platform"
    place.mkdir()
    with running_platform(place, issuer) as address:
        made = new_shop(folder / "shop", invitation=invitation(address, ca_pem=issuer.pem), **answers)
        with Roster(place / "registry.sqlite") as roster:
            roster.add("bakery", made.public_key.encode())
        yield Market(address=address, issuer=issuer, registry=place / "registry.sqlite", config=made.config)
