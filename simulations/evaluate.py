"""How good a model is on the holdout: all merchants' customers together, and each merchant's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pp_model.features import Examples
from pp_model.loss import Prediction
from pp_model.metrics import evaluate
from pp_model.model import frozen_fingerprint
from pp_model.model_spec import ModelSpec
from pp_model.serialization import Arrays
from pp_model.train import predict, predict_represented, represented

Figures = dict[str, Any]
Rows = NDArray[np.intp]


class Judge:
    """The holdout rows of all merchants, one after the other, and the model that is judged on them."""

    def __init__(self, model: ModelSpec, holdout: Mapping[str, Examples]) -> None:
        self.model = model
        self._represented: dict[str, torch.Tensor] = {}
        self._parts = [(name, len(rows)) for name, rows in holdout.items()]
        parts = [rows for rows in holdout.values() if len(rows)]
        self.rows = Examples(
            features=np.concatenate([p.features for p in parts]),
            sequence=np.concatenate([p.sequence for p in parts]),
            log_anchor=np.concatenate([p.log_anchor for p in parts]),
            spend_cents=np.concatenate([p.spend_cents for p in parts]),
            customer=np.concatenate([p.customer for p in parts]),
            num_customers=sum(p.num_customers for p in parts),
        )

    def predict(self, arrays: Arrays) -> Prediction:
        """What the model says of every holdout customer."""
        if self.model.trainable == "all":
            return predict(self.model, arrays, self.rows)
        frozen = frozen_fingerprint(self.model, arrays)
        if frozen not in self._represented:
            self._represented = {frozen: represented(self.model, arrays, self.rows)}
        return predict_represented(self.model, arrays, self._represented[frozen], self.rows.log_anchor)

    def predict_rows(self, arrays: Arrays, rows: Rows) -> Prediction:
        """What the model says of some of them."""
        return predict(self.model, arrays, self.rows.select(rows))

    def predict_own(self, models: Mapping[str, Arrays]) -> Prediction:
        """What each merchant's own model says of its own customers."""
        return joined([self.predict_rows(models[name], rows) for name, rows in self.rows_of().items() if len(rows)])

    def together(self, predicted: Prediction) -> Figures:
        """All figures over all merchants' customers."""
        return metrics_of(self.rows, predicted)

    def by_merchant(self, predicted: Prediction) -> dict[str, Figures]:
        """The figures at each merchant; one without a holdout customer is left out."""
        return {
            name: metrics_of(self.rows.select(rows), _select(predicted, rows))
            for name, rows in self.rows_of().items()
            if len(rows)
        }

    def rows_of(self) -> dict[str, Rows]:
        """Which rows are whose."""
        starts = np.cumsum([0, *(number for _, number in self._parts)])
        return {
            name: np.arange(start, start + number) for (name, number), start in zip(self._parts, starts, strict=False)
        }


def metrics_of(rows: Examples, predicted: Prediction) -> Figures:
    """The figures as plain values; None where one is not defined (nobody bought, say)."""
    figures = evaluate(
        spend_cents=rows.spend_cents,
        expected_cents=predicted.expected_spend_cents,
        buying_probability=predicted.buying_probability,
    )
    return {name: finite_or_none(value) for name, value in asdict(figures).items()}


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def joined(parts: list[Prediction]) -> Prediction:
    """Predictions of several merchants' rows, one after the other."""
    return Prediction(
        buying_probability=np.concatenate([p.buying_probability for p in parts]),
        log_location=np.concatenate([p.log_location for p in parts]),
        log_spread=np.concatenate([p.log_spread for p in parts]),
    )


def _select(predicted: Prediction, rows: Rows) -> Prediction:
    return Prediction(
        buying_probability=predicted.buying_probability[rows],
        log_location=predicted.log_location[rows],
        log_spread=predicted.log_spread[rows],
    )
