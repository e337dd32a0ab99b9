"""`pp-client score` at the size of a large shop: `python -m benchmarks.scoring`.

A merchant's folder with a signed model (the shipped one, trained on synthetic shops) and a generated
orders file; then the command itself, in a process of its own. Wall time is what the bar is about; CPU
time says what it would be on a quiet machine. The peak of memory is the process's own, with interpreter and PyTorch.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from agreement.invitation import Invitation
from agreement.manifest import ModelManifest, sign_manifest
from agreement.signing import SigningKey
from client.merchant_toml import Answers
from client.models import CARD_FILE, MANIFEST_FILE, MODEL_FILE
from client.new_merchant import make_merchant
from pp_model.features import FeatureSpec
from pp_model.model_spec import ENCODERS, ModelSpec
from pp_model.plan import DpSgdPlan, ServerPlan, TrainingPlan
from pp_model.serialization import from_safetensors, to_safetensors
from server.pki import new_authority

BAR_SECONDS, BAR_MEGABYTES = 300.0, 4_096.0
ROOT = Path(__file__).parents[1]
FIRST_DAY, NUM_DAYS = dt.date(2024, 1, 1), 730
CUTOFF = FIRST_DAY + dt.timedelta(days=NUM_DAYS)
_ROWS_AT_ONCE = 500_000


def write_orders(path: Path, *, orders: int, customers: int, seed: int = 0) -> None:
    """Two years of orders of one line each, some customers far busier than others; 3 % are returns."""
    rng = np.random.default_rng(seed)
    categories = np.array([f"category {number}" for number in range(200)])
    names = ("customer_id", "timestamp", "amount", "order_id", "category")
    kinds = (pa.string(), pa.timestamp("s"), pa.float64(), pa.string(), pa.string())
    schema = pa.schema(zip(names, kinds, strict=True))
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
                pa.array(categories[rng.integers(0, len(categories), number)]),
            ]
            file.write_table(pa.table(columns, schema=schema))


def make_shop(folder: Path, *, encoder: str, orders_file: str) -> Path:
    """A merchant's folder with one pulled model; its configuration."""
    key, pem = SigningKey.generate(), new_authority("benchmark", now=dt.datetime.now(dt.UTC)).certificate.decode()
    invitation = Invitation(
        platform="benchmark", address="127.0.0.1:8443", plan_key=key.public.to_text(), ca_certificate=pem
    )
    answers = Answers(
        merchant="benchmark",
        invitation=invitation,
        population="all customers",
        file=orders_file,
        columns={name: name for name in ("customer_id", "timestamp", "amount", "order_id", "category")},
        epsilon=3.0,
        delta=1e-6,
        declared_customers=1_000,
        period="benchmark",
        starts=FIRST_DAY,
        ends=CUTOFF,
    )
    made = make_merchant(folder, answers)
    if orders_file.endswith(".parquet"):
        made.config.write_text(made.config.read_text().replace('kind = "csv"', 'kind = "parquet"'))
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
    place = made.paths.models / f"000001-{manifest.sha256[:12]}"
    place.mkdir(parents=True)
    for name, content in ((MODEL_FILE, data), (CARD_FILE, card), (MANIFEST_FILE, sign_manifest(manifest, key))):
        (place / name).write_bytes(content)
    return made.config


def _plan(encoder: str) -> TrainingPlan:
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


def measure(config: Path, out: Path, *, threads: int) -> dict[str, Any]:
    """Wall and CPU seconds and the peak of memory of one scoring."""
    out.unlink(missing_ok=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "client.cli", "score", "--config", str(config), "--cutoff", CUTOFF.isoformat()]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*command, "--out", str(out), "--json"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_megabytes": round(used.ru_maxrss / 1024),
        "out_megabytes": round(out.stat().st_size / 2**20, 1),
        "customers": json.loads(done.stdout)["customers"],
    }


def main() -> int:
    """Prints the figures as JSON; the exit code is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=10_000_000)
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--encoder", choices=ENCODERS, default="mlp")
    parser.add_argument("--input", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--output", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_shop(folder / "shop", encoder=args.encoder, orders_file=f"orders.{args.input}")
        write_orders(folder / "shop" / f"orders.{args.input}", orders=args.orders, customers=args.customers)
        found = measure(config, folder / f"scores.{args.output}", threads=args.threads)
    print(json.dumps({**vars(args), **found}))
    return int(found["wall_seconds"] > BAR_SECONDS or found["peak_megabytes"] > BAR_MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
