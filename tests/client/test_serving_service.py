"""The service: the figures of pp-client score to the bit, newcomers who are told so, portraits of the shop's own."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from client.insight.data import scores_of
from client.reasons import average_customer
from client.score_run import one_thread
from client.serving.faults import Code, ServingError
from client.serving.schemas import AskPortrait, Rerank, ScoreCustomer, ScoreOrders
from client.serving.service import Service
from client.serving.snapshot import snapshot_of
from pp_model.model_spec import ENCODERS
from tests.support.merchant_home import DAY, TODAY
from tests.support.serving import items, order_rows, posted, score_lines, served_shop, shop_data

CUSTOMERS = 120
ROWS = order_rows(CUSTOMERS)
IDS = [f"customer-{number}" for number in range(CUSTOMERS)]
FIGURES = (
    *("purchase_probability", "expected_spend_cents", "spend_low_cents", "spend_high_cents", "score", "churn_risk"),
    *("tier", "orders_seen", "newcomer"),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return served_shop(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def service(shop):
    snapshot = snapshot_of(shop_data(shop))
    return Service(lambda: snapshot)


def asked_orders(customer_id: str, **more) -> ScoreOrders:
    return ScoreOrders.model_validate({"orders": posted(ROWS, customer_id), **more})


def reasons(line) -> list[str]:
    return [line[f"reason_{place}"] for place in (1, 2, 3) if line[f"reason_{place}"]]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_id_and_its_posted_orders_have_the_bits_of_pp_client_score(tmp_path, encoder):
    shop = served_shop(tmp_path, encoder=encoder)
    lines, snapshot = score_lines(shop, tmp_path / "scores.parquet"), snapshot_of(shop_data(shop))
    service = Service(lambda: snapshot)
    assert set(lines) == set(IDS)
    for customer_id in IDS:
        line = lines[customer_id]
        for found in (
            service.score_customer(ScoreCustomer(customer_id=customer_id)),
            service.score_orders(asked_orders(customer_id)),
        ):
            assert {name: getattr(found, name) for name in FIGURES} == {name: line[name] for name in FIGURES}
            assert found.reasons == reasons(line)
            assert (found.known, found.cutoff) == (True, TODAY)


def test_the_change_is_that_of_pp_client_score(tmp_path):
    shop = served_shop(tmp_path)
    score_lines(shop, tmp_path / "earlier.parquet", cutoff=TODAY - 5 * DAY)
    lines, snapshot = score_lines(shop, tmp_path / "now.parquet"), snapshot_of(shop_data(shop))
    service = Service(lambda: snapshot)
    for customer_id in IDS:
        assert service.score_customer(ScoreCustomer(customer_id=customer_id)).change == lines[customer_id]["change"]
    assert any(line["change"] for line in lines.values())


def test_posted_orders_can_be_scored_at_another_cutoff_with_the_readout_of_today(shop, service):
    cutoff, data = TODAY - 9 * DAY, shop_data(shop)
    scorer = replace(data.scorer, cutoff=cutoff, average=average_customer(data.scorer.features, cutoff))
    with one_thread():
        table = scores_of(scorer, data.log, ids=data.customer_ids)
    lines = {line["customer_id"]: line for line in table.to_pylist()}
    for customer_id in list(lines)[:30]:
        found = service.score_orders(asked_orders(customer_id, cutoff=str(cutoff)))
        assert (found.cutoff, found.score) == (cutoff, lines[customer_id]["score"])
        assert found.reasons == reasons(lines[customer_id])


def test_orders_from_the_cutoff_on_change_nothing(service):
    orders = posted(ROWS, "customer-1")
    later = {"timestamp": f"{TODAY}T00:00:00", "amount_cents": 900_000}
    with_later = service.score_orders(ScoreOrders.model_validate({"orders": [*orders, later]}))
    assert with_later == service.score_orders(ScoreOrders.model_validate({"orders": orders}))


def test_a_time_with_an_offset_is_read_in_utc(service):
    plain = {"timestamp": f"{TODAY - DAY}T01:30:00", "amount_cents": 1_000}
    offset = {"timestamp": f"{TODAY - DAY}T03:30:00+02:00", "amount_cents": 1_000}
    one, other = (service.score_orders(ScoreOrders.model_validate({"orders": [each]})) for each in (plain, offset))
    assert one == other


def test_an_unknown_customer_is_a_newcomer_of_this_shop_and_is_told_so(service):
    found = service.score_customer(ScoreCustomer(customer_id="nobody-knows"))
    assert (found.known, found.newcomer, found.orders_seen, found.reasons) == (False, True, 0, [])
    assert found.basis == "newcomers_of_this_shop"
    assert "say nothing of this customer" in found.words
    ones = sorted(service.score_customer(ScoreCustomer(customer_id=each)).score for each in IDS[::5])
    assert ones[0] < found.score < ones[-1]
    assert found.score == ones[len(ones) // 2]


@pytest.mark.parametrize(
    "orders", [[], [{"timestamp": f"{TODAY}T10:00:00", "amount_cents": 500}]], ids=["none", "today"]
)
def test_without_an_order_before_the_cutoff_posted_orders_are_a_newcomers(service, orders):
    found = service.score_orders(ScoreOrders.model_validate({"orders": orders}))
    assert found == service.score_customer(ScoreCustomer(customer_id="nobody-knows"))


def test_one_order_is_scored_and_called_a_newcomers(service):
    order = {"timestamp": f"{TODAY - 3 * DAY}T10:00:00", "amount_cents": 4_500}
    found = service.score_orders(ScoreOrders.model_validate({"orders": [order]}))
    assert (found.known, found.newcomer, found.basis, found.orders_seen) == (True, True, "few_orders", 1)
    assert "newcomer" in found.words


def test_a_portrait_says_what_the_orders_say(service):
    found = service.portrait(AskPortrait(customer_id="customer-1"))
    mine = [row for row in ROWS if row["customer_id"] == "customer-1"]
    signs = {"purchase": 1, "return": -1}
    spent = sum(signs.get(row["event_type"], 0) * round(float(row["amount"]) * 100) for row in mine)
    days = sorted(dt.date.fromisoformat(row["timestamp"][:10]) for row in mine if row["event_type"] == "purchase")
    assert found.spend_so_far_cents == spent
    assert (found.first_order, found.last_order) == (days[0], days[-1])
    assert found.score == service.score_customer(ScoreCustomer(customer_id="customer-1"))
    assert {each.category for each in found.interests} <= {row["category"] for row in mine}
    assert [each.share for each in found.interests] == sorted((each.share for each in found.interests), reverse=True)


def test_there_is_no_portrait_of_an_unknown_customer(service):
    with pytest.raises(ServingError) as raised:
        service.portrait(AskPortrait(customer_id="nobody-knows"))
    assert raised.value.code == Code.UNKNOWN_CUSTOMER
    assert "nobody-knows" not in str(raised.value)


def test_candidates_for_an_id_and_for_its_posted_orders_have_the_same_places(service):
    candidates = items(("a", 0.5, 2_000, "tea"), ("b", 0.5, 90_000, "shoes"), ("c", 0.45, 1_500, "Bread "))
    by_id = service.rerank(Rerank.model_validate({"customer_id": "customer-3", "items": candidates}))
    orders = posted(ROWS, "customer-3")
    by_orders = service.rerank(Rerank.model_validate({"orders": orders, "items": candidates}))
    assert by_id.items == by_orders.items
    assert by_id.purchases_known == by_orders.purchases_known > 0
    assert 0 < by_id.weight_used < by_id.weight == 0.3
    assert {each.item_id for each in by_id.items} == {"a", "b", "c"}


@pytest.mark.parametrize("who", [{"customer_id": "nobody-knows"}, {"orders": []}, {}], ids=["id", "orders", "nobody"])
def test_for_nobody_known_the_order_is_that_of_relevance(service, who):
    candidates = items(("a", 0.2, 100, "tea"), ("b", 0.9, 10**9, ""), ("c", 0.2, 1, "milk"))
    found = service.rerank(Rerank.model_validate({**who, "items": candidates, "weight": 1.0}))
    assert [each.item_id for each in found.items] == ["b", "a", "c"]
    assert (found.known, found.newcomer, found.weight_used) == (False, True, 0.0)
    assert [each.fit for each in found.items] == [None] * 3
    assert "relevance" in found.words


def test_orders_from_the_cutoff_on_are_no_taste(service):
    later = [{"timestamp": f"{TODAY}T10:00:00", "amount_cents": 500, "category": "tea"}]
    past = posted(ROWS, "customer-3")
    candidates = items(("a", 0.5, 500, "tea"))
    one, other = (
        service.rerank(Rerank.model_validate({"orders": orders, "items": candidates}))
        for orders in (past, past + later)
    )
    assert one == other


def test_before_anything_is_loaded_nothing_is_answered():
    with pytest.raises(ServingError) as raised:
        Service(lambda: None).score_customer(ScoreCustomer(customer_id="customer-1"))
    assert raised.value.code == Code.NOT_READY
