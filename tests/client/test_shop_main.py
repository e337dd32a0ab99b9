"""The runner's process: orders are read ahead once for an approved plan, and what goes wrong stays on this machine."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from client.agreements import Agreements, open_agreements, within_budget
from client.settings import MerchantSettings, load_settings
from client.shop_main import WarmShop, _read_ahead, main, newest_order
from client.shop_status import StatusKeeper, read_status
from pp_model.errors import BadOrdersError
from tests.support.market import market_plan
from tests.support.merchant_home import DAY, PLAN_KEY, new_shop
from tests.support.offers import signed, tiny_offer
from tests.support.orders import row, source_of
from tests.support.shops import WatchedSource, raiser, tiny_shop, tiny_task

DEADLINE_SECONDS = 20.0


@pytest.fixture
def settings(tmp_path) -> MerchantSettings:
    return load_settings(new_shop(tmp_path / "shop").config)


def warm(folder, source: WatchedSource) -> WarmShop:
    shop = tiny_shop(folder, source=source)
    return WarmShop(source=source, ledger=shop.ledger, policy=shop.policy, secret=shop.secret, device="cpu")


def approve(settings: MerchantSettings, agreements: Agreements, *, serial: int = 1, **plan: Any):
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    offer = tiny_offer(
        serial=serial,
        issued=now - dt.timedelta(hours=1),
        not_before=now - dt.timedelta(hours=1),
        expires=now + 5 * DAY,
        plan={name: getattr(market_plan(), name) for name in ("delta", "declared_customers", "dp")} | plan,
    )
    options: dict[str, Any] = {"policy": settings.policy, "afford": within_budget(settings), "now": now}
    agreements.consider(signed(offer, PLAN_KEY), **options)
    return agreements.approve(offer.id, by="ann", **options)


def reading_ahead(settings: MerchantSettings, shop: WarmShop, until: Callable[[], bool]) -> None:
    """Lets the thread work until the condition is met."""
    stop, folder = threading.Event(), settings.paths.agreements.parent
    keeper = StatusKeeper(folder, pid=1)
    thread = threading.Thread(target=_read_ahead, args=(shop, open_agreements(settings), keeper, stop))
    thread.start()
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        while not until():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join()


def test_the_newest_order_is_found_over_all_days(tmp_path):
    times = ("2026-03-01 10:00:00", "2026-04-05 23:59:59", "2026-01-01 00:00:00")
    rows = [row("a", time, "1.00") for time in times]
    assert newest_order(source_of("csv", tmp_path, rows)) == dt.date(2026, 4, 5)


def test_orders_read_ahead_are_not_read_again_by_the_task(tmp_path):
    source = WatchedSource()
    shop = warm(tmp_path, source)
    task = tiny_task()
    shop.prepare(task.plan)
    assert len(source.windows) == 1
    shop.rows(task)
    shop.rows(tiny_task(round=2))
    assert len(source.windows) == 1


def test_a_task_waits_for_the_reading_in_hand_instead_of_reading_too(tmp_path):
    begun, go_on = threading.Event(), threading.Event()
    source = WatchedSource(on_read=lambda: (begun.set(), go_on.wait(DEADLINE_SECONDS)))
    shop, task = warm(tmp_path, source), tiny_task()
    ahead = threading.Thread(target=shop.prepare, args=(task.plan,))
    ahead.start()
    assert begun.wait(DEADLINE_SECONDS)
    answering = threading.Thread(target=shop.rows, args=(task,))
    answering.start()
    go_on.set()
    ahead.join()
    answering.join()
    assert len(source.windows) == 1


def test_the_plan_that_is_approved_is_read_ahead_and_the_freshness_written_down(tmp_path, settings):
    source = WatchedSource()
    shop = warm(tmp_path, source)
    found = approve(settings, open_agreements(settings))
    folder = settings.paths.agreements.parent
    reading_ahead(settings, shop, lambda: (status := read_status(folder)) is not None and bool(status.newest_order))
    assert [window is None for window in source.windows] == [False, True]
    assert found.offer.plan.fingerprint in shop._examples
    assert read_status(folder).newest_order == newest_order(WatchedSource()).isoformat()


def test_without_an_approved_plan_nothing_is_prepared(tmp_path, settings):
    source = WatchedSource()
    shop = warm(tmp_path, source)
    reading_ahead(settings, shop, lambda: len(source.windows) >= 1)
    assert source.windows == [None]
    assert shop._examples == {}


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (BadOrdersError("there is no amount", place="orders.csv", line=5), "orders.csv, line 5: there is no amount"),
        (RuntimeError("customer ann@example.org"), "RuntimeError"),
    ],
)
def test_orders_that_cannot_be_read_are_told_here_without_a_cell(tmp_path, settings, error, fault, caplog):
    shop = warm(tmp_path, WatchedSource(on_read=raiser(error)))
    approve(settings, open_agreements(settings))
    folder = settings.paths.agreements.parent
    reading_ahead(settings, shop, lambda: bool(read_status(folder) and read_status(folder).fault))
    assert read_status(folder).fault == fault
    assert "ann@example.org" not in caplog.text + str([vars(record) for record in caplog.records])


def test_a_configuration_that_cannot_be_used_ends_the_process_with_the_reason(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("client.shop_main.configure_log", lambda *_: None)
    monkeypatch.setattr("client.shop_main.stop_at_signals", threading.Event)
    assert main(["--config", str(tmp_path / "none.toml")]) == 2
    assert "pp-client init" in caplog.records[-1].why
