"""A check on the platform's side that asks no merchant anything: how the model does on made-up customers.

With sums alone a poisoned update cannot be told from an honest one, but what it does to the model can be seen. The
check knows nothing of any merchant's customers, so it costs no privacy, and for the same reason it sees only a model
that has become useless for everybody: made-up customers are not the merchants', and a model that learns these may
honestly become a worse one of those. `Guard` allows for that, by margins that were measured (docs/robustness.md).
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

import numpy as np
import torch

from pp_model.features import Examples, FeatureSpec, build_examples
from pp_model.loss import Prediction
from pp_model.metrics import evaluate
from pp_model.model import frozen_fingerprint
from pp_model.model_spec import ModelSpec
from pp_model.serialization import Arrays
from pp_model.train import predict, predict_represented, represented
from synthetic.shops import draw_traits, synthetic_shop

SHOPS, CUSTOMERS_PER_SHOP = 60, 40
SEED = 20_231  # not that of the starting points: they have seen their made-up customers
FIRST_DAY = dt.date(2020, 1, 1)
HISTORY_DAYS, HISTORY_HORIZONS = 400, 6  # on record before the cutoff: the longer of the two

# The largest rises of honest runs: 0.11 nats, of shops where one in twenty buys; 0.35, on the UK orders without noise.
LOG_LOSS_MARGIN = 0.35
SPEND_ERROR_MARGIN = 1.0
GOOD_UP_TO = 0.5  # margins: a model that has risen further is none to go back to
PATIENCE = 3  # bad rounds in a row


class Finding(StrEnum):
    """What a verdict says of the model of a round."""

    GOOD = "good"  # worth going back to
    DOUBTFUL = "doubtful"  # within the margin
    BAD = "bad"  # above the margin; perhaps for a round or two only
    COLLAPSED = "collapsed"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How good a model is on the made-up customers; lower is better, infinite where the model gives no number.

    Attributes:
        log_loss: of buying within the horizon, in nats.
        spend_error: mean absolute error of the logarithm of spend, over those who buy. The logarithm, because the
            shops' prices differ by factors of hundreds, and one dear shop would decide a mean of money.
    """

    log_loss: float
    spend_error: float


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What is remembered of the verdicts so far. A verdict gives a new one; nothing is changed in place.

    The measure is `rise`: how far a verdict is above the best so far, in margins of its figure. Honest runs, private or
    not, on real and on made-up orders, stayed below 0.4; the noise of private training moves a verdict by 0.01 from
    one round to the next, so the margins need not grow with it.

    Attributes:
        best: the lowest of each figure so far, the starting point's among them.
        round: the last that was judged.
        bad: rounds in a row, up to that one, above the margin.
        collapses: how often the model has collapsed and was put back.
    """

    best: Verdict
    round: int = 0
    bad: int = 0
    collapses: int = 0

    def rise(self, verdict: Verdict) -> float:
        """The larger of the two figures' rises over their best, in margins; infinite where a figure is no number."""
        chance = (verdict.log_loss - self.best.log_loss) / LOG_LOSS_MARGIN
        spend = (verdict.spend_error - self.best.spend_error) / SPEND_ERROR_MARGIN
        return max(chance, spend) if math.isfinite(chance) and math.isfinite(spend) else math.inf

    def judged(self, verdict: Verdict, *, round: int) -> tuple[Guard, Finding]:
        """After this round's verdict: the memory, and what is found. Each round counts once, however often judged."""
        rise = self.rise(verdict)
        if rise <= GOOD_UP_TO:
            bad, finding = 0, Finding.GOOD
        elif rise <= 1:
            bad, finding = 0, Finding.DOUBTFUL
        else:
            bad = self.bad + (round > self.round)
            finding = Finding.COLLAPSED if bad >= PATIENCE or rise == math.inf else Finding.BAD
        best = Verdict(
            log_loss=min(self.best.log_loss, verdict.log_loss),
            spend_error=min(self.best.spend_error, verdict.spend_error),
        )
        return replace(self, best=best, round=round, bad=bad), finding

    def put_back(self) -> Guard:
        """After a collapse, when the model is the last good one again."""
        return replace(self, bad=0, collapses=self.collapses + 1)

    def to_numbers(self) -> dict[str, float]:
        """All that a resumed run needs; `from_numbers` is the inverse."""
        return {
            "best_log_loss": self.best.log_loss,
            "best_spend_error": self.best.spend_error,
            "round": self.round,
            "bad": self.bad,
            "collapses": self.collapses,
        }

    @staticmethod
    def from_numbers(numbers: Mapping[str, float]) -> Guard:
        """The guard of `to_numbers`.

        Raises:
            KeyError: one is missing.
        """
        return Guard(
            best=Verdict(log_loss=numbers["best_log_loss"], spend_error=numbers["best_spend_error"]),
            round=int(numbers["round"]),
            bad=int(numbers["bad"]),
            collapses=int(numbers["collapses"]),
        )


class PublicCheck:
    """The made-up customers of a horizon, and models of one shape judged on them.

    Where the encoder is frozen, it sees the customers once, and a verdict takes about a millisecond.
    """

    def __init__(self, model: ModelSpec, features: FeatureSpec) -> None:
        self.model = model
        self._rows = public_customers(features)
        self._represented: dict[str, torch.Tensor] = {}

    def judge(self, arrays: Arrays) -> Verdict:
        """How good the model with these arrays is. Equal arrays get equal verdicts."""
        nothing = Verdict(log_loss=math.inf, spend_error=math.inf)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            return nothing
        predicted = self._predict(arrays)
        buyers = self._rows.spend_cents > 0
        expected = predicted.log_location + 0.5 * predicted.log_spread**2
        if not (np.isfinite(predicted.buying_probability).all() and np.isfinite(expected).all()):
            return nothing  # numbers so large that their products are none
        figures = evaluate(
            spend_cents=self._rows.spend_cents,
            expected_cents=predicted.expected_spend_cents,
            buying_probability=predicted.buying_probability,
        )
        away = np.abs(expected[buyers] - np.log(self._rows.spend_cents[buyers]))
        return Verdict(log_loss=figures.log_loss, spend_error=float(away.mean()))

    def _predict(self, arrays: Arrays) -> Prediction:
        if self.model.trainable == "all":
            return predict(self.model, arrays, self._rows)
        frozen = frozen_fingerprint(self.model, arrays)
        if frozen not in self._represented:
            self._represented = {frozen: represented(self.model, arrays, self._rows)}
        return predict_represented(self.model, arrays, self._represented[frozen], self._rows.log_anchor)


@lru_cache(maxsize=4)
def public_customers(features: FeatureSpec) -> Examples:
    """The made-up customers: the same in every run of these features."""
    rng = np.random.default_rng(SEED)
    history = max(HISTORY_DAYS, HISTORY_HORIZONS * features.horizon_days)
    cutoff = FIRST_DAY + dt.timedelta(days=history)
    parts = []
    for _ in range(SHOPS):
        shop = synthetic_shop(
            draw_traits(rng),
            num_customers=CUSTOMERS_PER_SHOP,
            first_day=FIRST_DAY,
            num_days=history + features.horizon_days,
            rng=rng,
        )
        parts.append(build_examples(shop.log, [cutoff], features))
    return Examples(
        features=np.concatenate([part.features for part in parts]),
        sequence=np.concatenate([part.sequence for part in parts]),
        log_anchor=np.concatenate([part.log_anchor for part in parts]),
        spend_cents=np.concatenate([part.spend_cents for part in parts]),
        customer=np.concatenate([part.customer for part in parts]),
        num_customers=CUSTOMERS_PER_SHOP,
    )
