"""`pp-client run` with another runner: `python -m tests.support.daemon_with CONFIG MODULE [ARGUMENT ...]`."""

from __future__ import annotations

import sys
from pathlib import Path

from client.daemon import python, run
from client.settings import load_settings
from simulations.deployment import Deployment
from tests.support.deployed import with_product


def give_runner(deployment: Deployment, name: str, module: str, *arguments: str) -> None:
    """From its next start on, the merchant's daemon supervises `python -m module --config FILE arguments...`."""
    program = deployment.merchants[name]
    config = str(deployment.merchant_home(name) / "merchant.toml")
    program.command = [sys.executable, "-m", "tests.support.daemon_with", config, module, *arguments]
    program.environment = with_product(program.environment)


if __name__ == "__main__":
    CONFIG, MODULE, *ARGUMENTS = sys.argv[1:]
    COMMAND = python(MODULE, "--config", CONFIG, *ARGUMENTS)
    sys.exit(run(load_settings(Path(CONFIG)), config=Path(CONFIG), shop_command=COMMAND))
