"""A merchant's folder with orders and a pulled model, ready to be scored; and models whose truth is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pc
import pyarrow.parquet as pq

from agreement.manifest import ModelManifest, sign_manifest
from agreement.signing import SigningKey
from client.models import CARD_FILE, MANIFEST_FILE, MODEL_FILE
from client.settings import MerchantSettings, load_settings
from daemons.files import write_private
from pp_model.features import FEATURE_NAMES, Examples, FeatureSpec
from pp_model.model import fresh_arrays
from pp_model.model_spec import Encoder, ModelSpec
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays, from_safetensors, to_safetensors
from tests.support.merchant_home import PLAN_KEY, new_shop
from tests.support.plans import tiny_plan

_SHIPPED = Path(__file__).parents[2] / "server" / "pretrained"


def shipped(encoder: Encoder) -> tuple[TrainingPlan, Arrays]:
    """A plan and the weights that come with the platform's program, trained on synthetic shops."""
    arrays, _ = from_safetensors((_SHIPPED / f"{encoder}.safetensors").read_bytes())
    spec = ModelSpec(encoder=encoder, hidden=(64, 32))
    return tiny_plan(model=spec, features=FeatureSpec(horizon_days=28)), arrays


def linear_model(**weights: float) -> tuple[TrainingPlan, Arrays]:
    """A model that knows one thing: the logit of buying is the sum of these features, each times its weight."""
    plan = tiny_plan(model=ModelSpec(encoder="linear"))
    arrays = fresh_arrays(plan.model, seed=0)
    arrays["mix"] = np.eye(len(FEATURE_NAMES), dtype=np.float32)
    for name, weight in weights.items():
        arrays["readout.linear.weight"][0, FEATURE_NAMES.index(name)] = weight
    return plan, arrays


def examples_of(features: np.ndarray, *, length: int = 4, seed: int = 1) -> Examples:
    """Rows with these features, random tokens and an average customer's own rate."""
    rng, rows = np.random.default_rng(seed), len(features)
    return Examples(
        features=features.astype(np.float32),
        sequence=rng.integers(0, 4, (rows, length, 4)).astype(np.uint8),
        log_anchor=rng.normal(8, 1, rows).astype(np.float32),
        spend_cents=np.zeros(rows, np.int64),
        customer=np.arange(rows),
        num_customers=rows,
    )


@dataclass(frozen=True, kw_only=True)
class ScoredShop:
    """Where the merchant's things are."""

    config: Path

    @property
    def settings(self) -> MerchantSettings:
        """As merchant.toml has them."""
        return load_settings(self.config)

    @property
    def orders(self) -> Path:
        """The orders file."""
        return self.config.parent / "orders.csv"

    def keep_model(self, plan: TrainingPlan, arrays: Arrays, *, model_id: int = 1, key: SigningKey = PLAN_KEY) -> Path:
        """Puts a model where pull would; its folder."""
        data, card = to_safetensors(arrays, {"plan": plan.to_json()}), b"# A model\n"
        manifest = ModelManifest(
            platform="Fair Prices",
            model_id=model_id,
            sha256=hashlib.sha256(data).hexdigest(),
            card_sha256=hashlib.sha256(card).hexdigest(),
            plan_fingerprint=plan.fingerprint,
            chain_head="0" * 64,
        )
        place = self.settings.paths.models / f"{model_id:06d}-{manifest.sha256[:12]}"
        place.mkdir(parents=True)
        for name, content in ((MODEL_FILE, data), (CARD_FILE, card), (MANIFEST_FILE, sign_manifest(manifest, key))):
            write_private(place / name, content)
        return place


def scored_shop(folder: Path, *, model: bool = True) -> ScoredShop:
    """600 orders of 300 customers up to yesterday, and a model pulled unless `model` is false."""
    shop = ScoredShop(config=new_shop(folder / "shop").config)
    if model:
        shop.keep_model(*shipped("mlp"))
    return shop


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of scores, by customer id."""
    table = pq.read_table(path) if path.suffix == ".parquet" else pc.read_csv(path)
    rows: list[dict[str, Any]] = table.to_pylist()
    return sorted(rows, key=lambda row: row["customer_id"])
