"""What is asked and answered behind both doors, with every bound; the OpenAPI document is made of this."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from client.serving.faults import invalid
from client.serving.ranking import DEFAULT_WEIGHT
from client.sources.cells import FIRST_DAY, LAST_DAY
from client.sources.contract import LARGEST_MAX_ORDER_CENTS

MOST_ORDERS, MOST_ITEMS, LONGEST_TEXT = 1_000, 500, 200
MOST_PIECES = 1_000_000_000
LARGEST_PRICE_CENTS = LARGEST_MAX_ORDER_CENTS
_NO_CONTROL = r"^[^\x00-\x1f\x7f]*$"


def _written(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("expected text such as 2026-05-31 or 2026-05-31T18:05:00")
    return value


def _own_clock(moment: dt.datetime) -> dt.datetime:
    """As the sources read it: one with an offset becomes UTC, one without is in the merchant's own clock."""
    if moment.tzinfo is not None:
        try:
            moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
        except OverflowError:  # at the ends of the calendar
            raise ValueError(_OUT_OF_RANGE) from None
    _known_day(moment.date())
    return moment


def _known_day(day: dt.date) -> dt.date:
    if not FIRST_DAY <= day < LAST_DAY:
        raise ValueError(_OUT_OF_RANGE)
    return day


_OUT_OF_RANGE = f"expected a day from {FIRST_DAY} on and before {LAST_DAY}"

# Trimmed, as the sources trim their cells.
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=LONGEST_TEXT, pattern=_NO_CONTROL)]
CustomerId = Annotated[Text, StringConstraints(min_length=1)]
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT, pattern=_NO_CONTROL)]
Moment = Annotated[dt.datetime, BeforeValidator(_written), AfterValidator(_own_clock)]
Day = Annotated[dt.date, BeforeValidator(_written), AfterValidator(_known_day)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
EventName = Literal["purchase", "return", "view", "cart", "search"]


Basis = Literal["own_orders", "few_orders", "newcomers_of_this_shop"]


class Asked(BaseModel):
    """A request: no field but these, and an error of it holds no value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PostedOrder(Asked):
    """One line of one order, or another event."""

    timestamp: Moment = Field(
        description="ISO 8601; without an offset in the shop's own clock, with one it becomes UTC"
    )
    amount_cents: int = Field(
        ge=0, le=LARGEST_MAX_ORDER_CENTS, strict=True, description="paid, or of a return given back; else not looked at"
    )
    event_type: EventName = "purchase"
    order_id: Text = Field("", description="lines of one order share it; empty: an order of its own")
    quantity: int = Field(1, ge=-MOST_PIECES, le=MOST_PIECES, strict=True)
    category: Text = ""


Orders = Annotated[list[PostedOrder], Field(max_length=MOST_ORDERS)]


class ScoreCustomer(Asked):
    """Score a customer of this shop's own orders."""

    customer_id: CustomerId = Field(description="the merchant's own")


class ScoreOrders(Asked):
    """Score whoever has these orders; with none, a newcomer."""

    orders: Orders = Field(default_factory=list)
    cutoff: Day | None = Field(None, description="today, as far as the model sees; default: the served cutoff")


class Item(Asked):
    """A candidate of a search or a recommendation."""

    item_id: ItemId
    relevance: Share = Field(description="the search's own, 0 to 1; it is never hidden")
    price_cents: int = Field(ge=0, le=LARGEST_PRICE_CENTS, strict=True)
    category: Text = Field("", description="as in the orders; empty: none")


class Rerank(Asked):
    """Order candidates by relevance and by how well they fit a customer: of this shop, or with these orders."""

    customer_id: CustomerId | None = None
    orders: Orders | None = None
    items: Annotated[list[Item], Field(min_length=1, max_length=MOST_ITEMS)]
    weight: Share = Field(DEFAULT_WEIGHT, description="of the fit against relevance; 0 keeps the order of relevance")

    @model_validator(mode="after")
    def _one_customer(self) -> Self:
        if self.customer_id is not None and self.orders is not None:
            raise ValueError("customer_id and orders are both given; leave one out")
        return self


class AskPortrait(Asked):
    """The portrait of a customer of this shop."""

    customer_id: CustomerId


class Answer(BaseModel):
    """An answer: complete and finite, or there is none."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Score(Answer):
    """What the model expects of a customer from the cutoff on; docs/scoring.md says what each figure means."""

    cutoff: dt.date = Field(description="only events before this day were looked at")
    horizon_days: int = Field(description="the figures are for so many days from the cutoff on")
    model_id: int
    known: bool = Field(description="whether an event of this customer before the cutoff was seen")
    newcomer: bool = Field(description="fewer than two orders seen: the figures rest on little")
    basis: Basis
    words: str = Field(description="what the figures rest on")
    purchase_probability: float
    expected_spend_cents: int
    spend_low_cents: int
    spend_high_cents: int
    score: float = Field(description="0 to 100")
    tier: Literal["low", "middle", "high"] = Field(description="among this shop's own customers")
    churn_risk: float
    change: float | None = Field(description="of the score since the scoring before; null where there was none")
    reasons: list[str] = Field(description="what moves the score most, the strongest first")
    orders_seen: int


class Interest(Answer):
    """A category, and its share of what the customer spent; older spending counts less."""

    category: str
    share: float


class Portrait(Answer):
    """A customer of this shop: what is expected of it, what it did, and what it buys."""

    score: Score
    spend_so_far_cents: int = Field(description="net of returns")
    first_order: dt.date | None
    last_order: dt.date | None
    usual_gap_days: float | None = Field(description="the median of days between visits; null with fewer than two")
    interests: list[Interest] = Field(description="the first categories, the largest share first")


class RankedItem(Answer):
    """A candidate in its new place, and why it is there."""

    item_id: str
    place: int = Field(description="from 1 on")
    relevance_place: int = Field(description="the place by relevance alone")
    value: float = Field(description="(1 - weight_used) x relevance + weight_used x fit")
    relevance: float = Field(description="as it was sent")
    fit: float | None = Field(description="0 to 1, the mean of the next two; null where nothing is known")
    price_fit: float | None = Field(description="0 to 1: how near the price is to what this customer usually pays")
    category_interest: float | None = Field(description="0 to 1 of what goes into its first category; 0.5 without one")
    why: list[str]


class Reranked(Answer):
    """All candidates, the best first."""

    cutoff: dt.date
    model_id: int
    known: bool
    newcomer: bool
    words: str
    weight: float = Field(description="as it was asked for")
    weight_used: float = Field(description="less where few purchases are known, and 0 where none is")
    purchases_known: int
    items: list[RankedItem]


class RefusedText(Answer):
    """What could not be taken; what served before goes on serving."""

    what: Literal["model", "orders"] = Field(description="the newest model, or the orders as they were at the last try")
    why: str
    at: dt.datetime


class Health(Answer):
    """How the service is."""

    ok: bool = Field(description="whether a model is loaded")
    model_id: int | None = None
    model: str | None = None
    cutoff: dt.date | None = None
    newest_order: dt.date | None = None
    loaded_at: dt.datetime | None = None
    refused: list[RefusedText] = []


class FieldProblem(Answer):
    """What is wrong with a field."""

    field: str
    problem: str


class ErrorText(Answer):
    """Why there is no answer."""

    code: str
    what: str
    fields: list[FieldProblem]


class ErrorAnswer(Answer):
    """Every answer that is none."""

    error: ErrorText


def _field_names(*kinds: type[BaseModel]) -> frozenset[str]:
    return frozenset(name for kind in kinds for name in kind.model_fields)


_Asked = TypeVar("_Asked", bound=Asked)
FIELDS = _field_names(PostedOrder, ScoreCustomer, ScoreOrders, Item, Rerank, AskPortrait)


def read(kind: type[_Asked], sent: dict[str, Any]) -> _Asked:
    """The request in plain values.

    Raises:
        ServingError: names the fields that are wrong.
    """
    try:
        return kind.model_validate(sent)
    except ValidationError as error:
        raise invalid([dict(each) for each in error.errors()], FIELDS) from None
