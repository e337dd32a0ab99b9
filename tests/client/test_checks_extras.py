"""The doctor's look at discount and slices: what is wrong has a line with what to do, and no cell is in any of them."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.checks import Examination, Finding, Level, findings
from client.checks_extras import CHECK
from client.checkup import CHECKS
from client.cli import main
from client.pages.app import FOLDER
from client.pages.findings import finding_phrase
from tests.support.merchant_home import DAY, TODAY, new_shop
from tests.support.orders import row, write_bytes, write_csv
from web.words import Words

WORDS = Words([FOLDER / "words"])
CANARY = "Zora.Canary@example.org"
YESTERDAY = f"{TODAY - DAY} 10:00:00"
SLICES = '\n[orders.contract.slices]\n"land" = "country"\n'
F, W, OK = Level.FAULT, Level.WARNING, Level.OK


class Shop:
    """A merchant whose orders have a discount, a country and whatever else the test says."""

    def __init__(self, folder) -> None:
        self.config = new_shop(folder / "shop").config

    def names(self, *, discount: str = "rebate", slices: str = SLICES, bad_rows: str = "error") -> None:
        """Puts the extra columns into the contract."""
        text = self.config.read_text().replace('bad_rows = "error"', f'bad_rows = "{bad_rows}"', 1)
        named = f'discount = "{discount}"\n' if discount else ""
        text = text.replace("[orders.contract.columns]", f"{named}{slices}\n[orders.contract.columns]", 1)
        self.config.write_text(text)

    def orders(self, number: int = 300, **columns) -> None:
        """So many customers with an order each; a column is a cell, or a function of the customer's number."""
        given = {"rebate": "0.50", "country": lambda n: ("CH", "FR", "")[n % 3], **columns}
        rows = [
            row(
                f"customer-{n}",
                YESTERDAY,
                f"{10 + n % 7}.00",
                **{name: make(n) if callable(make) else make for name, make in given.items()},
            )
            for n in range(number)
        ]
        write_csv(self.config.parent / "orders.csv", rows)

    def look(self, *, quick: bool = False) -> list[Finding]:
        """What the checks say of the extra columns."""
        examination = Examination(config=self.config, now=dt.datetime.now(dt.UTC), quick=quick)
        chosen = [each for each in CHECKS if each[0] in ("orders", CHECK)]
        assert [name for name, _ in chosen] == ["orders", CHECK]
        found = [finding for name, check in chosen for finding in findings(name, check, examination)]
        ours = [each for each in found if each.check == CHECK]
        shown = [each.text for each in ours if each.level is not Level.SKIPPED]
        assert [text for text in shown if finding_phrase(text, WORDS) is None] == []  # the pages have its Chinese
        return ours


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def one(found: list[Finding], begins: str) -> Finding:
    (finding,) = [each for each in found if begins in each.text]
    return finding


def test_columns_that_are_as_they_should_be_are_said_to_be_so(shop):
    shop.names()
    shop.orders()
    found = shop.look()
    assert [each.level for each in found] == [OK, OK]
    assert "on 300 lines" in one(found, "discount, column 'rebate'").text
    assert "2 values, on 67% of the rows" in one(found, "slices.land, column 'country'").text


def test_where_none_is_named_nothing_is_said_of_them(shop):
    assert shop.look() == []


def test_quick_and_orders_that_cannot_be_read_skip_them(shop):
    shop.names()
    shop.orders()
    assert [each.level for each in shop.look(quick=True)] == [Level.SKIPPED]
    (shop.config.parent / "orders.csv").unlink()
    assert [each.level for each in shop.look()] == [Level.SKIPPED]


def test_each_column_that_does_not_exist_has_a_line_and_the_others_are_looked_at(shop):
    slices = SLICES + 'region = "Region"\nstate = "Region"\nway = "Channel"\n'
    shop.names(discount="Rabatt", slices=slices)
    shop.orders()
    found = shop.look()
    faults = [each.text for each in found if each.level is F]
    assert [sum(name in text for text in faults) for name in ("'Rabatt'", "'Region'", "'Channel'")] == [1, 1, 1]
    assert all("there is no column" in text and "correct it there" in text for text in faults)
    assert one(found, "slices.land").level is OK


def test_a_column_that_is_there_twice_is_a_fault(shop):
    shop.names(slices="")
    write_bytes(
        shop.config.parent / "orders.csv",
        f"customer_id,timestamp,amount,rebate,rebate\nann,{YESTERDAY},1,2,3\n".encode(),
    )
    (found,) = shop.look()
    assert (found.level, "there are 2 columns 'rebate'" in found.text) == (F, True)


def test_a_slice_that_no_text_can_be_made_of_is_a_fault(shop):
    shop.names(discount="")
    text = shop.config.read_text().replace('kind = "csv"', 'kind = "parquet"').replace("orders.csv", "orders.parquet")
    shop.config.write_text(text)
    columns = {"customer_id": ["a"], "timestamp": [YESTERDAY], "amount": ["1"], "country": [[CANARY]]}
    pq.write_table(pa.table(columns), shop.config.parent / "orders.parquet")
    (found,) = shop.look()
    assert (found.level, "column 'country'" in found.text, CANARY in found.text) == (F, True, False)


@pytest.mark.parametrize("cell", ["-0.50", "10%", CANARY, "9999999999.00", "nan"])
def test_a_discount_that_cannot_be_used_is_counted_with_its_first_line_and_never_shown(shop, cell):
    shop.names()
    shop.orders(rebate=lambda n: cell if n in (7, 9) else "0.50")
    found = one(shop.look(), "not usable")
    assert found.level is F  # bad_rows = "error": insight stops there
    assert "on 2 rows; the first is line 9" in found.text
    assert "at least 0" in found.text
    assert cell not in found.text


def test_a_discount_that_is_usable_on_no_row_hides_no_slice(shop):
    shop.names()
    shop.orders(rebate="10%")
    found = shop.look()
    assert [each.level for each in found] == [F, OK]
    assert "2 values, on 67% of the rows" in found[1].text


def test_where_bad_rows_are_skipped_an_unusable_discount_is_a_warning(shop):
    shop.names(bad_rows="skip")
    shop.orders(rebate=lambda n: "-1" if n == 7 else "0.50")
    found = one(shop.look(), "not usable")
    assert (found.level, "leave such rows out" in found.text) == (W, True)


def test_a_column_of_nothing_but_empty_cells_is_told_of_a_discount_and_of_a_slice(shop):
    shop.names()
    shop.orders(rebate="", country="  ")
    found = shop.look()
    assert [each.level for each in found] == [W, W]
    assert "no line has one" in one(found, "discount").text
    assert "no row says anything" in one(found, "slices.land").text
    assert all("Name another column" in each.text for each in found)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda n: ("0.05", "0.10", "0.2")[n % 3], "is it a share"),
        (lambda n: ("5", "10", "20", "50")[n % 4], "is it a percentage"),
        (lambda n: f"{20 + n % 9}.95", "is it the price before"),
    ],
    ids=["share", "percentage", "price"],
)
def test_a_discount_that_looks_like_another_unit_is_asked_about(shop, make, words):
    shop.names()
    shop.orders(rebate=make)
    found = one(shop.look(), "discount, column 'rebate'")
    assert (found.level, words in found.text, "If it is that, all is well" in found.text) == (W, True, True)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: "5" if n % 10 == 0 else "",  # a voucher of 5.00
        "0.50",
        lambda n: f"{np.random.default_rng(n).uniform(0.1, 4):.2f}",
        lambda n: "0.05" if n < 19 else "",  # too few to guess at
    ],
    ids=["voucher", "half a unit", "any", "few"],
)
def test_a_discount_that_may_well_be_money_is_not_asked_about(shop, make):
    shop.names()
    shop.orders(rebate=make)
    assert one(shop.look(), "discount, column 'rebate'").level is OK


def test_a_slice_of_too_many_values_is_a_fault_that_shows_none_of_them(shop):
    shop.names()
    shop.orders(country=lambda n: f"{CANARY}{n}")
    found = one(shop.look(), "slices.land")
    assert found.level is F
    assert "more than 200 different values" in found.text
    assert "such as a country" in found.text
    assert CANARY not in found.text


@pytest.mark.parametrize(("values", "level"), [(20, OK), (30, OK), (31, W), (200, W)])
def test_a_slice_of_hardly_more_customers_than_values_is_told(shop, values, level):
    shop.names()
    shop.orders(country=lambda n: f"{CANARY}{n % values}")
    found = one(shop.look(), "slices.land")
    assert (found.level, CANARY in found.text) == (level, False)
    assert ("may name people" in found.text) is (level is W)


def test_bytes_that_are_no_text_in_a_slice_are_told_for_reports_stop_there(shop):
    shop.names(discount="")
    shop.orders()
    path = shop.config.parent / "orders.csv"
    path.write_bytes(path.read_bytes() + f"customer-1,{YESTERDAY},1.00,0.50,".encode() + b"\xff\xfe\n")
    found = one(shop.look(), "not text")
    assert (found.level, "on 1 row." in found.text) == (F, True)


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_no_cell_of_the_extra_columns_is_ever_shown(shop, capsys, flags):
    shop.names()
    number = "98765432.10"
    for rebate in (CANARY, number, f"-{number}", "0.50"):
        for country in (CANARY, lambda n: f"{CANARY}-{n}", number):
            shop.orders(rebate=rebate, country=country)
            main(["doctor", "--config", str(shop.config), *flags])
    told = capsys.readouterr()
    assert "reports" in told.out
    assert not any(canary in told.out + told.err for canary in ("Canary", "Zora", number))
    if flags:
        assert all(line["check"] for line in json.loads(told.out.split("\n}\n")[0] + "\n}")["findings"])
