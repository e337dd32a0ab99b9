"""The runner with this merchant's shop behind it: `python -m client.shop_main --config merchant.toml`.

It opens no connection but to the SuperNode of this machine and to the merchant's own database. The orders of an
approved plan are read before the first task comes, and again when another plan is approved: a round is then as quick
as its training. Reading releases nothing; every task is charged before its rows are used.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.agreements import Agreements, open_agreements
from client.app import make_client_app
from client.runner import serve, stop_at_signals
from client.secure_sums import SecureSums
from client.settings import MerchantSettings, load_settings
from client.shop import Shop
from client.shop_status import StatusKeeper
from client.sources import OrderSource
from daemons.exit_codes import Exit
from daemons.files import check_private
from daemons.logs import configure_log
from pp_model.customer_rows import CustomerRows
from pp_model.errors import BadOrdersError, ExpiredError, PurchasePowerError
from pp_model.plan import TrainingPlan
from pp_model.protocol import Task
from pp_model.randomness import SecretSource, SystemSource

LOOK_SECONDS = 2.0
FRESHNESS_EVERY = dt.timedelta(hours=24)
_SECONDS_A_DAY = 86_400

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class WarmShop(Shop):
    """A shop whose orders may be read ahead by another thread than the one that answers."""

    _reading: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def prepare(self, plan: TrainingPlan) -> None:
        """Reads the orders of the plan, unless they are at hand.

        Raises:
            BadOrdersError: the source breaks its contract.
        """
        with self._reading:
            self._read(plan)

    def rows(self, task: Task) -> CustomerRows:
        """See `Shop`."""
        with self._reading:
            return super().rows(task)


def run_shop(settings: MerchantSettings, *, stop: threading.Event, secret: SecretSource) -> None:
    """Answers the tasks of this machine's SuperNode until `stop` is set.

    Args:
        secret: the system's; a test may give one of its own. No file, argument or variable chooses it.

    Raises:
        PurchasePowerError: the configuration, the ledger or a key cannot be used.
    """
    check_private(settings.paths.runtime_secret)
    agreements = open_agreements(settings)
    with settings.open_ledger() as ledger:
        shop = WarmShop(
            source=settings.source(),
            ledger=ledger,
            policy=settings.policy,
            secret=secret,
            device=settings.local.device,
            agreed=lambda plan: agreements.agreed(plan, now=dt.datetime.now(dt.UTC)),
            sums=SecureSums(settings.node_key()),
        )
        status = StatusKeeper(settings.paths.agreements.parent, pid=os.getpid())
        logging.getLogger("client.task").addHandler(status)
        ahead = threading.Thread(target=_read_ahead, args=(shop, agreements, status, stop), name="ahead", daemon=True)
        ahead.start()
        status.update(ready=True)
        try:
            serve(
                make_client_app(lambda _: shop),
                address=f"127.0.0.1:{settings.local.supernode_port}",
                secret=settings.paths.runtime_secret.read_bytes(),
                stop=stop,
            )
        finally:
            logging.getLogger("client.task").removeHandler(status)
            status.update(ready=False)


def newest_order(source: OrderSource) -> dt.date | None:
    """Day of the newest order; None where there is none.

    Raises:
        BadOrdersError: the source breaks its contract.
    """
    newest = max((int(chunk.timestamp.max()) for chunk in source.read(None) if len(chunk.timestamp)), default=None)
    return None if newest is None else dt.date(1970, 1, 1) + dt.timedelta(days=newest // _SECONDS_A_DAY)


def _read_ahead(shop: WarmShop, agreements: Agreements, status: StatusKeeper, stop: threading.Event) -> None:
    """Keeps the orders of the newest approved plan at hand, and their freshness known, until `stop`."""
    prepared, looked = "", dt.datetime.min.replace(tzinfo=dt.UTC)
    while not stop.is_set():
        now = dt.datetime.now(dt.UTC)
        try:
            plan = _newest_plan(agreements, now)
            if plan is not None and plan.fingerprint != prepared:
                prepared = plan.fingerprint  # tried once: the task itself tries again, and refuses by a code
                shop.prepare(plan)
                log.info("orders read ahead", extra={"plan": plan.plan_id})
                status.update(fault="")
            if now - looked >= FRESHNESS_EVERY:
                looked = now
                day = newest_order(shop.source)
                status.update(newest_order=day.isoformat() if day else "")
        except BadOrdersError as error:
            # Its text names place, line and column, and no cell: see `pp_model.errors`.
            log.error("orders cannot be read", extra={"why": str(error)})
            status.update(fault=str(error))
        except PurchasePowerError as error:
            log.warning("no plan to prepare for", extra={"why": str(error)})
        except Exception as error:  # of a database's library, whose text may hold a cell
            log.error("orders cannot be read", extra={"error": type(error).__name__})
            status.update(fault=type(error).__name__)
        stop.wait(LOOK_SECONDS)


def _newest_plan(agreements: Agreements, now: dt.datetime) -> TrainingPlan | None:
    for found in reversed(agreements.approved()):
        try:
            agreements.agreed(found.offer.plan, now=now)
        except ExpiredError:
            continue
        return found.offer.plan
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The process that `pp-client run` supervises."""
    parser = argparse.ArgumentParser(prog="client.shop_main", description="Answers tasks with this merchant's orders.")
    parser.add_argument("--config", required=True, type=Path)
    given = parser.parse_args(arguments)
    configure_log(None, "INFO")
    stop = stop_at_signals()
    try:
        run_shop(load_settings(given.config), stop=stop, secret=SystemSource())
    except PurchasePowerError as error:
        log.error("the runner cannot start", extra={"why": str(error)})
        return Exit.BAD_INPUT
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
