import datetime as dt

import pytest

from client.sources.contract import DataContract, used_columns
from pp_model.config import from_mapping, to_mapping
from pp_model.errors import BadOrdersError, ConfigError

NAMES = ["customer_id", "timestamp", "amount"]


def test_a_contract_is_read_from_a_table_and_written_back():
    table = {
        "columns": {"amount": "Price"},
        "currency": "GBP",
        "timestamp_format": "%d.%m.%Y",
        "negative_amounts": "skip",
        "duplicates": "error",
        "bad_rows": "skip",
        "max_order_cents": 5_000,
        "no_later_than": "2025-12-31",
        "delimiter": ";",
        "encoding": "cp1252",
        "discount": "Rabatt",
        "slices": {"country": "Land"},
    }

    contract = from_mapping(DataContract, table)

    assert contract.no_later_than == dt.date(2025, 12, 31)
    assert to_mapping(contract) == table


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"columns": {"spend": "Price"}}, "columns.spend"),
        ({"columns": {"amount": ""}}, "columns.amount"),
        ({"max_order_cents": 0}, "max_order_cents"),
        ({"max_order_cents": 10**12 + 1}, "max_order_cents"),
        ({"delimiter": ";;"}, "delimiter"),
        ({"delimiter": '"'}, "delimiter"),
        ({"currency": " "}, "currency"),
        ({"encoding": "utf-9"}, "encoding"),
        ({"bad_rows": "ignore"}, "bad_rows"),
        ({"discount": ""}, "discount"),
        ({"slices": {"land": ""}}, "slices.land"),
        ({"slices": {"": "Land"}}, "slices."),
        ({"slices": {"a.b": "Land"}}, "slices.a.b"),
        ({"slices": {f"s{n}": "Land" for n in range(17)}}, "slices names 17"),
        ({"slices": {"words": "text"}}, "free text"),
        ({"columns": {"text": "Notiz"}, "discount": "Notiz"}, "free text"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(settings, named):
    with pytest.raises(ConfigError, match=named):
        from_mapping(DataContract, settings)


def test_columns_with_our_own_names_are_used_and_others_are_not():
    names = [*NAMES, "quantity", "text", "email"]

    assert used_columns(DataContract(), names, place="x") == {name: name for name in [*NAMES, "quantity"]}


@pytest.mark.parametrize("missing", NAMES)
def test_a_required_column_is_never_guessed(missing):
    names = [name.upper() if name == missing else name for name in NAMES]

    with pytest.raises(BadOrdersError, match=f"--column {missing}=TheirName") as caught:
        used_columns(DataContract(), names, place="x")

    assert (caught.value.place, caught.value.column) == ("x", missing)


@pytest.mark.parametrize("name", ["quantity", "text"])
def test_an_optional_column_that_was_named_must_exist(name):
    with pytest.raises(BadOrdersError, match="'Theirs'"):
        used_columns(DataContract(columns={name: "Theirs"}), NAMES, place="x")


def test_a_stated_currency_needs_a_currency_column():
    with pytest.raises(BadOrdersError, match="needed as currency"):
        used_columns(DataContract(currency="GBP"), NAMES, place="x")


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(BadOrdersError, match="two columns"):
        used_columns(DataContract(), [*NAMES, "amount"], place="x")


@pytest.mark.parametrize("cell", ["10.50", "2025-01-01 10:00:00", "ann@example.org", "x" * 65])
def test_a_first_line_that_holds_an_order_is_not_repeated_in_the_message(cell):
    with pytest.raises(BadOrdersError, match="looks like an order") as caught:
        used_columns(DataContract(), ["Ann Smith", cell], place="x")

    assert cell not in str(caught.value)
    assert "Ann" not in str(caught.value)
