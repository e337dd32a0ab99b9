"""A merchant that also keeps, beside its merchant.toml, what it masked and what it sent: `--config merchant.toml`.

As a program it is the runner of such a merchant; nothing of what it keeps leaves by it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray

import client.shop_main
from client.secure_sums import SecureSums
from pp_model.protocol import Task

NOTES = "masked.npy"


class NotingSums(SecureSums):
    """Secure sums that keep each vector before and after it was masked."""

    def __init__(self, identity: ec.EllipticCurvePrivateKey, notes: Path) -> None:
        super().__init__(identity)
        self._notes = notes

    def masked(self, task: Task, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """See `SecureSums`."""
        plain = values.copy()
        sent = super().masked(task, values)
        with self._notes.open("ab") as file:
            np.save(file, np.stack([plain, sent]))
        return sent


def notes_of(home: Path) -> list[NDArray[np.uint64]]:
    """[plain and sent, parameters] of each vector that the merchant masked, in order."""
    found = []
    with (home / NOTES).open("rb") as file:
        while file.peek(1):
            found.append(np.load(file))
    return found


def main() -> int:
    """As `client.shop_main.main`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True, type=Path)
    notes = parser.parse_args().config.parent / NOTES
    client.shop_main.SecureSums = lambda identity: NotingSums(identity, notes)  # type: ignore[assignment,misc]
    return client.shop_main.main()


if __name__ == "__main__":
    sys.exit(main())
