# Made by scripts/protos.py out of purchase_power.proto; change that.
# ruff: noqa
# fmt: off
# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScoreCustomerRequest(_message.Message):
    __slots__ = ("customer_id",)
    CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    customer_id: str
    def __init__(self, customer_id: _Optional[str] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("timestamp", "amount_cents", "event_type", "order_id", "quantity", "category")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_CENTS_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    timestamp: str
    amount_cents: int
    event_type: str
    order_id: str
    quantity: int
    category: str
    def __init__(self, timestamp: _Optional[str] = ..., amount_cents: _Optional[int] = ..., event_type: _Optional[str] = ..., order_id: _Optional[str] = ..., quantity: _Optional[int] = ..., category: _Optional[str] = ...) -> None: ...

class ScoreOrdersRequest(_message.Message):
    __slots__ = ("orders", "cutoff")
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    CUTOFF_FIELD_NUMBER: _ClassVar[int]
    orders: _containers.RepeatedCompositeFieldContainer[Order]
    cutoff: str
    def __init__(self, orders: _Optional[_Iterable[_Union[Order, _Mapping]]] = ..., cutoff: _Optional[str] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("cutoff", "horizon_days", "model_id", "known", "newcomer", "basis", "words", "purchase_probability", "expected_spend_cents", "spend_low_cents", "spend_high_cents", "score", "tier", "churn_risk", "change", "reasons", "orders_seen")
    CUTOFF_FIELD_NUMBER: _ClassVar[int]
    HORIZON_DAYS_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    NEWCOMER_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    PURCHASE_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SPEND_CENTS_FIELD_NUMBER: _ClassVar[int]
    SPEND_LOW_CENTS_FIELD_NUMBER: _ClassVar[int]
    SPEND_HIGH_CENTS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    CHURN_RISK_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    ORDERS_SEEN_FIELD_NUMBER: _ClassVar[int]
    cutoff: str
    horizon_days: int
    model_id: int
    known: bool
    newcomer: bool
    basis: str
    words: str
    purchase_probability: float
    expected_spend_cents: int
    spend_low_cents: int
    spend_high_cents: int
    score: float
    tier: str
    churn_risk: float
    change: float
    reasons: _containers.RepeatedScalarFieldContainer[str]
    orders_seen: int
    def __init__(self, cutoff: _Optional[str] = ..., horizon_days: _Optional[int] = ..., model_id: _Optional[int] = ..., known: _Optional[bool] = ..., newcomer: _Optional[bool] = ..., basis: _Optional[str] = ..., words: _Optional[str] = ..., purchase_probability: _Optional[float] = ..., expected_spend_cents: _Optional[int] = ..., spend_low_cents: _Optional[int] = ..., spend_high_cents: _Optional[int] = ..., score: _Optional[float] = ..., tier: _Optional[str] = ..., churn_risk: _Optional[float] = ..., change: _Optional[float] = ..., reasons: _Optional[_Iterable[str]] = ..., orders_seen: _Optional[int] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("item_id", "relevance", "price_cents", "category")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    RELEVANCE_FIELD_NUMBER: _ClassVar[int]
    PRICE_CENTS_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    relevance: float
    price_cents: int
    category: str
    def __init__(self, item_id: _Optional[str] = ..., relevance: _Optional[float] = ..., price_cents: _Optional[int] = ..., category: _Optional[str] = ...) -> None: ...

class RerankRequest(_message.Message):
    __slots__ = ("customer_id", "orders", "items", "weight")
    CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    customer_id: str
    orders: _containers.RepeatedCompositeFieldContainer[Order]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    weight: float
    def __init__(self, customer_id: _Optional[str] = ..., orders: _Optional[_Iterable[_Union[Order, _Mapping]]] = ..., items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., weight: _Optional[float] = ...) -> None: ...

class RankedItem(_message.Message):
    __slots__ = ("item_id", "place", "relevance_place", "value", "relevance", "fit", "price_fit", "category_interest", "why")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    RELEVANCE_PLACE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    RELEVANCE_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIT_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_INTEREST_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    place: int
    relevance_place: int
    value: float
    relevance: float
    fit: float
    price_fit: float
    category_interest: float
    why: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_id: _Optional[str] = ..., place: _Optional[int] = ..., relevance_place: _Optional[int] = ..., value: _Optional[float] = ..., relevance: _Optional[float] = ..., fit: _Optional[float] = ..., price_fit: _Optional[float] = ..., category_interest: _Optional[float] = ..., why: _Optional[_Iterable[str]] = ...) -> None: ...

class RerankAnswer(_message.Message):
    __slots__ = ("cutoff", "model_id", "known", "newcomer", "words", "weight", "weight_used", "purchases_known", "items")
    CUTOFF_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    NEWCOMER_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_USED_FIELD_NUMBER: _ClassVar[int]
    PURCHASES_KNOWN_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    cutoff: str
    model_id: int
    known: bool
    newcomer: bool
    words: str
    weight: float
    weight_used: float
    purchases_known: int
    items: _containers.RepeatedCompositeFieldContainer[RankedItem]
    def __init__(self, cutoff: _Optional[str] = ..., model_id: _Optional[int] = ..., known: _Optional[bool] = ..., newcomer: _Optional[bool] = ..., words: _Optional[str] = ..., weight: _Optional[float] = ..., weight_used: _Optional[float] = ..., purchases_known: _Optional[int] = ..., items: _Optional[_Iterable[_Union[RankedItem, _Mapping]]] = ...) -> None: ...

class PortraitRequest(_message.Message):
    __slots__ = ("customer_id",)
    CUSTOMER_ID_FIELD_NUMBER: _ClassVar[int]
    customer_id: str
    def __init__(self, customer_id: _Optional[str] = ...) -> None: ...

class Interest(_message.Message):
    __slots__ = ("category", "share")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    category: str
    share: float
    def __init__(self, category: _Optional[str] = ..., share: _Optional[float] = ...) -> None: ...

class PortraitAnswer(_message.Message):
    __slots__ = ("score", "spend_so_far_cents", "first_order", "last_order", "usual_gap_days", "interests")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SPEND_SO_FAR_CENTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ORDER_FIELD_NUMBER: _ClassVar[int]
    LAST_ORDER_FIELD_NUMBER: _ClassVar[int]
    USUAL_GAP_DAYS_FIELD_NUMBER: _ClassVar[int]
    INTERESTS_FIELD_NUMBER: _ClassVar[int]
    score: Score
    spend_so_far_cents: int
    first_order: str
    last_order: str
    usual_gap_days: float
    interests: _containers.RepeatedCompositeFieldContainer[Interest]
    def __init__(self, score: _Optional[_Union[Score, _Mapping]] = ..., spend_so_far_cents: _Optional[int] = ..., first_order: _Optional[str] = ..., last_order: _Optional[str] = ..., usual_gap_days: _Optional[float] = ..., interests: _Optional[_Iterable[_Union[Interest, _Mapping]]] = ...) -> None: ...
