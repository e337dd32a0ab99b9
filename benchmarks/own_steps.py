"""Our own step in its forms, timed against the plain one, in our own environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.models import make_model
from benchmarks.ours import ours
from benchmarks.steps import LEARNING_RATE, MAX_GRAD_NORM, NOISE_MULTIPLIER, Noise, Step, main, torch_noise
from pp_model.randomness import SystemSource


def secret_noise(shape: Sequence[int]) -> Tensor:
    """Noise as the product draws it: from the operating system, cryptographic and never repeated."""
    drawn = SystemSource().standard_normal(math.prod(shape)) * (NOISE_MULTIPLIER * MAX_GRAD_NORM)
    return torch.from_numpy(drawn).to(torch.float32).view(tuple(shape))


def _method(*, noise: Noise = torch_noise, private: bool = True) -> Callable[[str, int], Step]:
    def make(model: str, rows: int) -> Step:
        del rows
        return ours(
            make_model(model),
            max_grad_norm=MAX_GRAD_NORM,
            noise=noise,
            learning_rate=LEARNING_RATE,
            private=private,
        )

    return make


METHODS = {
    "private": _method(),
    "optimised": _method(private=False),
    "private, secret noise": _method(noise=secret_noise),
}

if __name__ == "__main__":
    main(METHODS, [])
