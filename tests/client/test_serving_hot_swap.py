"""Which snapshot serves: a new model takes the old one's place, a bad one does not, and nobody waits for either."""

from __future__ import annotations

import logging
import shutil
import threading

import numpy as np
import pytest
from prometheus_client import generate_latest

from agreement.signing import SigningKey
from client.models import MODEL_FILE
from client.serving.run import health_of
from client.serving.schemas import ScoreCustomer
from client.serving.service import Service
from client.serving.snapshot import snapshot_of
from pp_model.errors import ConfigError
from tests.support.merchant_home import DAY, TODAY
from tests.support.orders import row
from tests.support.scored import shipped
from tests.support.serving import COLUMNS, behind, keeper_of, served_shop, shop_data

CANARY = "xq-canary-9137"
ASKED = ScoreCustomer(customer_id="customer-1")


@pytest.fixture
def shop(tmp_path):
    return served_shop(tmp_path, customers=30)


@pytest.fixture
def keeper(shop):
    found = keeper_of(shop)
    found.load_first()
    return found


def test_without_a_change_nothing_is_loaded(keeper):
    before = keeper.current
    assert not keeper.look()
    assert (keeper.current is before, keeper.swaps) == (True, 1)


def test_a_new_model_serves_and_health_says_which(shop, keeper):
    service = Service(lambda: keeper.current)
    before = service.score_customer(ASKED)
    shop.keep_model(*shipped("linear"), model_id=2)
    assert keeper.look()
    after = service.score_customer(ASKED)
    assert (before.model_id, after.model_id) == (1, 2)
    assert before.score != after.score
    assert health_of(keeper).model_id == 2
    assert not keeper.look()


def test_a_request_in_flight_ends_on_the_model_it_began_with(shop, keeper):
    begun, go = threading.Event(), threading.Event()

    class Waits(Service):
        def _snapshot(self):
            found = super()._snapshot()
            begun.set()
            assert go.wait(30)
            return found

    answers = []
    request = threading.Thread(target=lambda: answers.append(Waits(lambda: keeper.current).score_customer(ASKED)))
    request.start()
    assert begun.wait(30)
    shop.keep_model(*shipped("linear"), model_id=2)
    assert keeper.look()
    go.set()
    request.join(30)
    assert [each.model_id for each in answers] == [1]


BAD_MODELS = ["cut short", "another signer", "not numbers", "another shape", "absurd figures", "no model left"]


def put_bad_model(shop, how: str) -> None:
    if how == "cut short":
        place = shop.keep_model(*shipped("linear"), model_id=2)
        (place / MODEL_FILE).write_bytes((place / MODEL_FILE).read_bytes()[:-7])
    elif how == "another signer":
        shop.keep_model(*shipped("linear"), model_id=2, key=SigningKey.generate())
    elif how == "not numbers":
        plan, arrays = shipped("linear")
        shop.keep_model(plan, {**arrays, "mix": np.full_like(arrays["mix"], np.nan)}, model_id=2)
    elif how == "another shape":
        plan, arrays = shipped("linear")
        shop.keep_model(plan, {**arrays, "mix": arrays["mix"][:-1]}, model_id=2)
    elif how == "absurd figures":
        plan, arrays = shipped("mlp")
        name = "encoder.layers.0.weight"
        shop.keep_model(plan, {**arrays, name: np.full_like(arrays[name], 3e38)}, model_id=2)
    else:
        shutil.rmtree(shop.settings.paths.models)


@pytest.mark.parametrize("how", BAD_MODELS)
def test_a_bad_model_is_refused_and_the_old_one_stays(shop, keeper, how, caplog):
    put_bad_model(shop, how)
    with caplog.at_level(logging.ERROR):
        keeper.look()
    told = health_of(keeper)
    assert (told.ok, told.model_id) == (True, 1)
    assert [each.what for each in told.refused] == ["model"]
    assert "refused" in caplog.text
    assert 'pp_serving_refused{what="model"} 1.0' in metrics_of(keeper)
    assert not keeper.look()  # it is not tried every second
    assert set(keeper.refused) == {"model"}


@pytest.mark.parametrize("how", BAD_MODELS)
def test_while_a_bad_model_is_refused_the_orders_are_read_again_and_the_next_good_model_is_taken(shop, keeper, how):
    put_bad_model(shop, how)
    keeper.look()
    append_order(shop, "just-came")
    keeper.ask()
    assert keeper.look()
    assert keeper.current.code_of("just-came") is not None
    assert (health_of(keeper).model_id, set(keeper.refused)) == (1, {"model"})
    shop.keep_model(*shipped("gru"), model_id=3)
    assert keeper.look()
    assert (health_of(keeper).model_id, keeper.refused) == (3, {})
    assert keeper.current.code_of("just-came") is not None
    assert 'pp_serving_refused{what="model"} 0.0' in metrics_of(keeper)


def test_a_bad_model_that_is_removed_is_refused_no_longer_and_no_order_is_read_for_it(shop, keeper):
    before = keeper.current
    place = shop.keep_model(*shipped("linear"), model_id=2)
    (place / MODEL_FILE).write_bytes(b"bad")
    assert not keeper.look()
    shutil.rmtree(place)
    assert not keeper.look()
    assert (keeper.refused, keeper.current is before) == ({}, True)


def test_of_a_new_model_nothing_is_said_while_the_orders_are_bad_and_with_good_ones_it_is_taken(shop, keeper):
    good = shop.orders.read_bytes()
    shop.orders.write_bytes(good + f"{CANARY},{CANARY},{CANARY},,,,purchase\n".encode())
    shop.keep_model(*shipped("linear"), model_id=2)
    assert not keeper.look()
    assert (health_of(keeper).model_id, set(keeper.refused)) == (1, {"orders"})
    assert 'pp_serving_refused{what="orders"} 1.0' in metrics_of(keeper)
    shop.orders.write_bytes(good)
    keeper.ask()
    assert keeper.look()
    assert (health_of(keeper).model_id, keeper.refused) == (2, {})


def test_a_bad_model_and_bad_orders_are_both_told(shop, keeper):
    put_bad_model(shop, "cut short")
    with shop.orders.open("a", encoding="utf-8") as file:
        file.write(f"{CANARY},{CANARY},{CANARY},,,,purchase\n")
    keeper.ask()
    assert not keeper.look()
    assert {each.what for each in health_of(keeper).refused} == {"model", "orders"}


def metrics_of(keeper) -> str:
    return generate_latest(behind(keeper).desk.metrics.registry).decode()


def test_after_a_bad_model_a_good_one_serves_and_nothing_is_refused_any_more(shop, keeper):
    place = shop.keep_model(*shipped("linear"), model_id=2)
    (place / MODEL_FILE).write_bytes(b"")
    assert not keeper.look()
    shop.keep_model(*shipped("gru"), model_id=3)
    assert keeper.look()
    assert (keeper.current.data.model_id, health_of(keeper).refused) == (3, [])


def test_figures_that_are_no_numbers_are_no_snapshot(shop):
    data = shop_data(shop)
    place = data.scores.schema.get_field_index("purchase_probability")
    broken = data.scores.set_column(place, "purchase_probability", [np.full(data.scores.num_rows, np.nan)])
    with pytest.raises(ConfigError, match="purchase_probability"):
        snapshot_of(
            type(data)(**{**{name: getattr(data, name) for name in data.__dataclass_fields__}, "scores": broken})
        )


def append_order(shop, customer_id: str) -> None:
    cells = row(customer_id, f"{TODAY - DAY} 09:00:00", "20.00", order_id="new", event_type="purchase")
    with shop.orders.open("a", encoding="utf-8") as file:
        file.write(",".join(cells.get(name, "") for name in COLUMNS) + "\n")


def test_orders_are_read_again_when_asked_and_on_schedule(shop):
    keeper = keeper_of(shop, reread_seconds=0.0)
    keeper.load_first()
    append_order(shop, "just-came")
    assert keeper.current.code_of("just-came") is None
    assert keeper.look()  # the time is over at once
    assert keeper.current.code_of("just-came") is not None


def test_asking_has_the_orders_read_again_once(shop, keeper):
    append_order(shop, "just-came")
    assert not keeper.look()
    keeper.ask()
    assert keeper.look()
    assert keeper.current.code_of("just-came") is not None
    assert not keeper.look()


def test_a_new_day_is_a_new_cutoff(shop):
    today = [TODAY - DAY]
    keeper = keeper_of(shop, cutoff=lambda: today[0])
    keeper.load_first()
    today[0] = TODAY
    assert keeper.look()
    assert keeper.current.data.cutoff == TODAY


def test_orders_that_cannot_be_read_are_refused_without_quoting_them(shop, keeper):
    before = keeper.current
    with shop.orders.open("a", encoding="utf-8") as file:
        file.write(f"{CANARY},{CANARY},{CANARY},,,,purchase\n")
    keeper.ask()
    assert not keeper.look()
    assert keeper.current is before
    refused = keeper.refused["orders"]
    assert CANARY not in refused.why
    assert "line" in refused.why


def test_of_a_foreign_error_only_its_kind_is_told(shop):
    failing = []

    def load(cutoff, model):
        if failing:
            raise RuntimeError(CANARY)
        return snapshot_of(shop_data(shop, cutoff=cutoff))

    keeper = keeper_of(shop, load=load)
    keeper.load_first()
    failing.append(True)
    keeper.ask()
    assert not keeper.look()
    assert keeper.refused["orders"].why == "RuntimeError"


def test_the_first_snapshot_that_cannot_be_made_is_an_error(tmp_path):
    shop = served_shop(tmp_path, customers=10)
    shutil.rmtree(shop.settings.paths.models)
    with pytest.raises(ConfigError, match="pp-client pull"):
        keeper_of(shop).load_first()
