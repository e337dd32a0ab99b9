"""A merchant's folder as `pp-client` knows it: generated orders, and the shipped model, signed.

What is measured of `pp-client` is measured on it; the same seed gives the same orders.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from agreement.invitation import Invitation
from agreement.manifest import ModelManifest, sign_manifest
from agreement.signing import SigningKey
from benchmarks.environments import ROOT
from client.merchant_toml import Answers
from client.models import CARD_FILE, MANIFEST_FILE, MODEL_FILE
from client.new_merchant import make_merchant
from pp_model.features import FeatureSpec
from pp_model.model_spec import Encoder, ModelSpec
from pp_model.plan import DpSgdPlan, ServerPlan, TrainingPlan
from pp_model.serialization import from_safetensors, to_safetensors
from server.pki import new_authority

FIRST_DAY, NUM_DAYS = dt.date(2024, 1, 1), 730
CUTOFF = FIRST_DAY + dt.timedelta(days=NUM_DAYS)
_COLUMNS = {
    "customer_id": pa.string(),
    "timestamp": pa.timestamp("s"),
    "amount": pa.float64(),
    "order_id": pa.string(),
    "category": pa.string(),
}
_EXTRAS = {"discount": pa.float64(), "country": pa.string()}  # what only insight reads
_COUNTRIES, _CATEGORIES = np.array(["DE", "FR", "GB", "PL"]), np.array([f"category {number}" for number in range(200)])
_ROWS_AT_ONCE = 500_000


def make_shop(folder: Path, *, customers: int, orders: int, encoder: Encoder, kind: str, extras: bool = False) -> Path:
    """A merchant's folder with generated orders and one pulled model; its configuration.

    Args:
        kind: "parquet" or "csv".
        extras: whether lines have a discount, and customers a country.
    """
    key, pem = SigningKey.generate(), new_authority("benchmark", now=dt.datetime.now(dt.UTC)).certificate.decode()
    invitation = Invitation(
        platform="benchmark", address="127.0.0.1:8443", plan_key=key.public.to_text(), ca_certificate=pem
    )
    answers = Answers(
        merchant="benchmark",
        invitation=invitation,
        population="all customers",
        kind="csv" if kind == "csv" else "parquet",
        file=f"orders.{kind}",
        columns={name: name for name in _COLUMNS},
        epsilon=3.0,
        delta=1e-6,
        declared_customers=1_000,
        period="benchmark",
        starts=FIRST_DAY,
        ends=CUTOFF,
    )
    made = make_merchant(folder, answers)
    if extras:
        _name_extras(made.config)
    _pull(made.paths.models, key, encoder=encoder)
    write_orders(folder / f"orders.{kind}", orders=orders, customers=customers, extras=extras)
    return made.config


def write_orders(path: Path, *, orders: int, customers: int, extras: bool = False, seed: int = 0) -> None:
    """Two years of orders of one line each, some customers far busier than others; 3 % are returns.

    A fifth of the lines are at a discount of up to 40 %, where there are extras.
    """
    rng = np.random.default_rng(seed)
    schema = pa.schema((_COLUMNS | _EXTRAS if extras else _COLUMNS).items())
    writer = pc.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter
    with writer(str(path), schema) as file:
        for start in range(0, orders, _ROWS_AT_ONCE):
            number = min(_ROWS_AT_ONCE, orders - start)
            buyer = (rng.random(number) ** 1.5 * customers).astype(np.int64)
            second = rng.integers(0, NUM_DAYS * 86_400, number) + (FIRST_DAY - dt.date(1970, 1, 1)).days * 86_400
            cents = np.exp(rng.standard_normal(number) + 8).astype(np.int64) + 1
            cents[rng.random(number) < 0.03] *= -1
            columns = [
                pa.array([f"customer-{code:08d}" for code in buyer.tolist()]),
                pa.array(second).cast(pa.timestamp("s")),
                pa.array(cents / 100),
                pa.array([f"o{start + place:09d}" for place in range(number)]),
                pa.array(_CATEGORIES[rng.integers(0, len(_CATEGORIES), number)]),
            ]
            if extras:
                share = rng.random(number) * 0.4 * (rng.random(number) < 0.2)
                columns += [pa.array(np.round(np.abs(cents) * share) / 100), pa.array(_COUNTRIES[buyer % 4])]
            file.write_table(pa.table(columns, schema=schema))


def _name_extras(config: Path) -> None:
    """The two extra columns in the contract, in the places where the file has its examples of them."""
    text = config.read_text(encoding="utf-8")
    for example, line in (
        ('# discount = "Discount"', 'discount = "discount"'),
        ("# [orders.contract.slices]", "[orders.contract.slices]"),
        ('# country = "Country"', 'country = "country"'),
    ):
        if example not in text:
            raise ValueError(f"{config} has no example {example!r} any more")
        text = text.replace(example, line)
    config.write_text(text, encoding="utf-8")


def _pull(models: Path, key: SigningKey, *, encoder: Encoder) -> None:
    """Puts the shipped encoder where a pulled model lies."""
    plan = _plan(encoder)
    arrays, _ = from_safetensors((ROOT / "server" / "pretrained" / f"{encoder}.safetensors").read_bytes())
    data, card = to_safetensors(arrays, {"plan": plan.to_json()}), b"# A model\n"
    manifest = ModelManifest(
        platform="benchmark",
        model_id=1,
        sha256=hashlib.sha256(data).hexdigest(),
        card_sha256=hashlib.sha256(card).hexdigest(),
        plan_fingerprint=plan.fingerprint,
        chain_head="0" * 64,
    )
    place = models / f"000001-{manifest.sha256[:12]}"
    place.mkdir(parents=True)
    for name, content in ((MODEL_FILE, data), (CARD_FILE, card), (MANIFEST_FILE, sign_manifest(manifest, key))):
        (place / name).write_bytes(content)


def _plan(encoder: Encoder) -> TrainingPlan:
    return TrainingPlan(
        plan_id="benchmark",
        algorithm="fedsgd",
        rounds=1,
        dp=DpSgdPlan(sample_rate=0.1, noise_multiplier=1.0, max_grad_norm=1.0, num_steps=1),
        delta=1e-6,
        declared_customers=1_000,
        nominal_batch_size=10.0,
        local_learning_rate=1.0,
        update_clip_norm=10.0,
        features=FeatureSpec(horizon_days=60),
        model=ModelSpec(encoder=encoder, hidden=(64, 32)),
        cutoffs=(FIRST_DAY,),
        holdout_start=CUTOFF - dt.timedelta(days=90),
        server=ServerPlan(
            optimizer="momentum",
            learning_rate=1.0,
            final_learning_rate=1.0,
            momentum=0.0,
            aggregation="mean",
            averaging=0.0,
            min_completions=1,
            round_timeout_seconds=5.0,
        ),
        init_fingerprint="0" * 64,
    )
