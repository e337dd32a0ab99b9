"""Measurements in processes of their own: ours with the project's interpreter, a peer's with the peer's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("opacus", "jax_privacy", "pfl", "flower")
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class ChildError(Exception):
    """A measurement did not come to its end; the message is the last line that it wrote."""


def interpreter(peer: str) -> Path:
    """Where a peer's interpreter is, once `make bench-setup` has run."""
    return ROOT / "benchmarks" / ".envs" / peer / "bin" / "python"


def installed(peer: str) -> bool:
    """Whether `make bench-setup` got this peer, to the end."""
    return (interpreter(peer).parents[1] / ".complete").exists()


def why_not(peer: str) -> str:
    """Why a peer is not installed: what its set-up said last."""
    log = interpreter(peer).parents[2] / f"{peer}.log"
    said = log.read_text(encoding="utf-8").strip().splitlines() if log.exists() else []
    return f"not installed: {said[-1]}" if said else "not installed (make bench-setup)"


def ask(module: str, *args: str, peer: str = "", variables: Mapping[str, str] = NO_VARIABLES) -> dict[str, Any]:
    """Runs a module with `args` in the environment of a peer, or in ours, and gives the JSON of its last line.

    Args:
        variables: of the child's environment, beside ours and those that keep it to one thread.

    Raises:
        ChildError: it failed.
    """
    python = str(interpreter(peer)) if peer else sys.executable
    environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [python, "-m", module, *args], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or not done.stdout.strip():
        said = (done.stderr.strip() or "nothing was written").splitlines()[-1]
        raise ChildError(f"{module} {' '.join(args)} ended with {done.returncode}: {said}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
