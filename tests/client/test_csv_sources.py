import gzip

import pytest

from client.orders import read_orders
from client.sources import CsvSource, DataContract
from pp_model.errors import BadOrdersError
from tests.support.orders import row, write_bytes, write_csv

HEADER = b"customer_id,timestamp,amount,category\n"
GOOD = b"ann,2025-01-01,1.00,tea\n"


def source(tmp_path, content, *, name="orders.csv", **contract):
    return CsvSource(path=write_bytes(tmp_path / name, content), contract=DataContract(**contract))


def error_of(a_source):
    with pytest.raises(BadOrdersError) as caught:
        read_orders(a_source, window=None)
    return caught.value


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_a_line_keeps_its_number_after_line_ends_inside_cells_and_blank_lines(end, tmp_path):
    rows = [b'ann,2025-01-01,1.00,"tea', b"and", b'pots"', b"", b'bob,2025-01-01,1.00,"x', b'"', b"bob,?,1.00,tea", b""]

    error = error_of(source(tmp_path, end.join([HEADER.strip(), *rows])))

    assert (error.line, error.column) == (8, "timestamp")


def test_the_first_line_of_a_row_is_its_line(tmp_path):
    assert error_of(source(tmp_path, HEADER + GOOD + b'ann,?,1.00,"tea\n"\n')).line == 3


@pytest.mark.parametrize("cells", [b"ann,2025-01-01,1.00\n", b"ann,2025-01-01,1.00,tea,\n", b"ann\n"])
def test_a_row_with_too_few_or_too_many_cells_is_a_bad_row(cells, tmp_path):
    content = HEADER + GOOD + cells + GOOD

    assert error_of(source(tmp_path, content)).line == 3
    report = read_orders(source(tmp_path, content, bad_rows="skip"), window=None).report
    assert report.used == 2
    assert "1 row skipped: wrong number of cells; the first is line 3." in report.lines()


@pytest.mark.parametrize(
    "broken",
    [b'ann,2025-01-01,1.00,"tea\n' + GOOD, b'ann,2025-01-01,1.00,"tea"pots\n', GOOD * 2 + b'"' + b"x" * 140_000],
)
def test_broken_quotes_stop_the_reading_even_when_bad_rows_are_skipped(broken, tmp_path):
    error = error_of(source(tmp_path, HEADER + broken + b"\n", bad_rows="skip"))

    assert "quotes" in str(error)
    assert "tea" not in str(error)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (HEADER, "no order"),
        (HEADER + b"\n\n", "no order"),
        (b"\n" + GOOD, "no column"),
    ],
    ids=["empty", "only-a-mark", "only-a-header", "only-blank-lines", "blank-header"],
)
def test_a_file_without_orders_is_an_error(content, says, tmp_path):
    assert says in str(error_of(source(tmp_path, content)))


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    assert "no such file" in str(error_of(CsvSource(path=str(tmp_path / "x.csv"), contract=DataContract())))
    assert "cannot be read" in str(error_of(CsvSource(path=str(tmp_path), contract=DataContract())))


@pytest.mark.parametrize("how", ["cut off", "garbage", "damaged"])
def test_a_broken_gzip_is_an_error_and_nothing_of_it_is_kept(how, tmp_path):
    whole = gzip.compress(HEADER + GOOD * 100_000)
    middle = len(whole) // 2
    content = {
        "cut off": whole[:-20],
        "garbage": b"garbage",
        "damaged": whole[:middle] + bytes(8) + whole[middle + 8 :],
    }[how]
    path = tmp_path / "orders.csv.gz"
    path.write_bytes(content)

    assert "gzip" in str(error_of(CsvSource(path=str(path), contract=DataContract())))


def test_a_gzip_is_known_by_its_first_bytes_too(tmp_path):
    assert len(read_orders(source(tmp_path, gzip.compress(HEADER + GOOD)), window=None).log) == 1


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_the_one_under_which_the_columns_appear(delimiter, tmp_path):
    path = write_csv(tmp_path / "orders.txt", [row(category="a,b;c\td")], delimiter=delimiter)

    assert read_orders(CsvSource(path=path, contract=DataContract()), window=None).log.spend_cents.tolist() == [1010]


def test_another_delimiter_can_be_stated(tmp_path):
    path = write_csv(tmp_path / "orders.txt", [row()], delimiter="|")

    assert "no column" in str(error_of(CsvSource(path=path, contract=DataContract())))
    assert len(read_orders(CsvSource(path=path, contract=DataContract(delimiter="|")), window=None).log) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_ids_are_read_in_the_stated_encoding(encoding, tmp_path):
    path = write_csv(tmp_path / "orders.csv", [row("zoë")], encoding=encoding)
    contract = DataContract(encoding=encoding if encoding != "utf-8" else "utf-8-sig")

    assert read_orders(CsvSource(path=path, contract=contract), window=None).customer_ids == ("zoë",)


def test_bytes_of_another_encoding_matter_only_in_cells_that_are_used(tmp_path):
    content = b"customer_id,timestamp,amount,city\nann,2025-01-01,1,K\xf6ln\nzo\xeb,2025-01-01,1,Bonn\n"

    error = error_of(source(tmp_path, content))

    assert (error.line, error.column) == (3, "customer_id")
    assert read_orders(source(tmp_path, content, bad_rows="skip"), window=None).customer_ids == ("ann",)


@pytest.mark.parametrize(
    "content", ["customer_id,timestamp,amount\n".encode("utf-16"), b"PK\x03\x04\x00\x00", b"K\xf6ln,x\n"]
)
def test_a_header_that_is_not_text_names_the_encoding_as_the_remedy(content, tmp_path):
    assert "set encoding" in str(error_of(source(tmp_path, content)))


def test_text_that_breaks_off_in_a_wide_encoding_is_our_error(tmp_path):
    content = (HEADER + GOOD).decode().encode("utf-16")[:-1]

    assert "utf-16" in str(error_of(source(tmp_path, content, encoding="utf-16")))
