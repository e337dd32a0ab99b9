"""A merchant as a Flower ClientApp with Opacus, as Flower's examples have it; Ray's workers import it by name."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.engines import BATCH, STEPS
from benchmarks.models import MODELS, Market, make_market
from benchmarks.peers.opacus_steps import HooksStep

MODEL = "mlp"
app = ClientApp()


@lru_cache(maxsize=1)
def _market(merchants: int) -> Market:
    """Once in every worker process, so that no task pays for it."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of Opacus, that inputs want no gradient
    return make_market(MODEL, merchants)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Five private steps from the parameters that came; the trained ones go back."""
    merchant, merchants = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    market = _market(merchants)
    model = MODELS[MODEL]()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    step, rng = HooksStep(model, BATCH), np.random.default_rng()
    for _ in range(STEPS):
        batch = market.draw(merchant, BATCH, rng)
        step.step(batch.inputs, batch.spend_cents)
    content = RecordDict(
        {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": STEPS * BATCH})}
    )
    return Message(content=content, reply_to=message)
