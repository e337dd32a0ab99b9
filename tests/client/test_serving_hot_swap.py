"""Which snapshot serves: a new model takes the old one's place, a bad one does not, and nobody waits for either."""

from __future__ import annotations

import logging
import shutil
import threading

import numpy as np
import pytest

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
from tests.support.serving import COLUMNS, keeper_of, served_shop, shop_data

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


@pytest.mark.parametrize("how", ["cut short", "another signer", "not numbers", "no model left"])
def test_a_bad_model_is_refused_and_the_old_one_stays(shop, keeper, how, caplog):
    before = keeper.current
    if how == "cut short":
        place = shop.keep_model(*shipped("linear"), model_id=2)
        (place / MODEL_FILE).write_bytes((place / MODEL_FILE).read_bytes()[:-7])
    elif how == "another signer":
        shop.keep_model(*shipped("linear"), model_id=2, key=SigningKey.generate())
    elif how == "not numbers":
        plan, arrays = shipped("linear")
        shop.keep_model(plan, {**arrays, "mix": np.full_like(arrays["mix"], np.nan)}, model_id=2)
    else:
        shutil.rmtree(shop.settings.paths.models)
    with caplog.at_level(logging.ERROR):
        assert not keeper.look()
    told = health_of(keeper)
    assert (keeper.current is before, told.ok, told.model_id) == (True, True, 1)
    assert told.refused is not None
    assert told.refused.because == "model"
    assert "refused" in caplog.text
    assert not keeper.look()  # it is not tried every second
    assert keeper.refused is not None


def test_after_a_bad_model_a_good_one_serves_and_nothing_is_refused_any_more(shop, keeper):
    place = shop.keep_model(*shipped("linear"), model_id=2)
    (place / MODEL_FILE).write_bytes(b"")
    assert not keeper.look()
    shop.keep_model(*shipped("gru"), model_id=3)
    assert keeper.look()
    assert (keeper.current.data.model_id, health_of(keeper).refused) == (3, None)


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
    assert keeper.refused is not None
    assert CANARY not in keeper.refused.why
    assert "line" in keeper.refused.why


def test_of_a_foreign_error_only_its_kind_is_told(shop):
    failing = []

    def load(cutoff):
        if failing:
            raise RuntimeError(CANARY)
        return snapshot_of(shop_data(shop, cutoff=cutoff))

    keeper = keeper_of(shop, load=load)
    keeper.load_first()
    failing.append(True)
    keeper.ask()
    assert not keeper.look()
    assert keeper.refused is not None
    assert keeper.refused.why == "RuntimeError"


def test_the_first_snapshot_that_cannot_be_made_is_an_error(tmp_path):
    shop = served_shop(tmp_path, customers=10)
    shutil.rmtree(shop.settings.paths.models)
    with pytest.raises(ConfigError, match="pp-client pull"):
        keeper_of(shop).load_first()
