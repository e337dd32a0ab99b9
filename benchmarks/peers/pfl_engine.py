"""pfl-research's simulator with the same model and steps: run by its own environment. It clips no customer.

Its evaluation before and after local training is off, and it adds no noise, both in its favour.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.common_types import Population
from pfl.context import CentralContext
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from benchmarks.engines import BATCH, STEPS, Engine, main
from benchmarks.models import Market, make_model
from benchmarks.steps import LEARNING_RATE
from pp_model.loss import ziln_loss


class WithLoss(nn.Module):
    """The model as pfl wants it: with `loss` and `metrics`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, *batch: Tensor) -> Tensor:
        """Mean over the rows of a batch."""
        *inputs, spend_cents = batch
        return ziln_loss(self.model(*inputs), spend_cents).mean()

    def metrics(self, *batch: Tensor) -> dict[str, float]:
        """Never asked for here."""
        raise NotImplementedError


def simulated_backend(name: str, market: Market) -> Engine:
    """pfl's FederatedAveraging on its SimulatedBackend, in this process."""
    rng = np.random.default_rng(0)
    waiting: list[int] = []

    def dataset(merchant: int) -> Dataset:
        batch = market.draw(merchant, STEPS * BATCH, rng)  # what its local epoch of 5 batches goes through
        return Dataset((*batch.inputs, batch.spend_cents), user_id=str(merchant))

    shops = FederatedDataset(dataset, lambda: waiting.pop())
    model = PyTorchModel(
        WithLoss(make_model(name)),
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0),
    )
    backend, algorithm = SimulatedBackend(training_data=shops, val_data=shops), FederatedAveraging()
    local = NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=BATCH, local_num_steps=None
    )
    rounds = count()

    def train(merchants: Sequence[int]) -> Tensor:
        waiting[:] = reversed(merchants)
        context = CentralContext(
            current_central_iteration=next(rounds),
            do_evaluation=False,
            cohort_size=len(merchants),
            population=Population.TRAIN,
            algorithm_params=NNAlgorithmParams(
                central_num_iterations=1,
                evaluation_frequency=1,
                train_cohort_size=len(merchants),
                val_cohort_size=None,
            ),
            model_train_params=local,
            seed=0,
        )
        statistics, _ = backend.gather_results(model, algorithm, central_context=context)
        return torch.cat([update.flatten() for _, update in statistics.items()])

    return train


if __name__ == "__main__":
    main({"pfl-research": simulated_backend}, ["pfl"])
