import stat
import statistics
import time

import pytest

from daemons.files import PrivateFileError
from server.dashboard.accounts import LONGEST_PASSWORD, AccountError, Accounts, checked_password

GOOD = "copper lantern seven walrus"


@pytest.fixture
def accounts(tmp_path):
    return Accounts(tmp_path / "accounts.sqlite")


def test_who_knows_the_password_is_let_in_and_nobody_else(accounts):
    made = accounts.add("ada", GOOD, "operator")
    assert accounts.verify("ada", GOOD) == made == accounts.find("ada")
    for name, password in (("ada", GOOD + "x"), ("ada", ""), ("bob", GOOD), ("Ada", GOOD), ("ada\x00", GOOD)):
        assert accounts.verify(name, password) is None


def test_the_file_is_for_its_owner_alone_and_has_no_password_in_it(accounts, tmp_path):
    accounts.add("ada", GOOD, "viewer")
    file = tmp_path / "accounts.sqlite"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert GOOD.encode() not in data
    assert b"$argon2id$v=19$m=19456,t=2,p=1$" in data


def test_equal_passwords_have_different_hashes(accounts, tmp_path):
    for name in ("ada", "bob"):
        accounts.add(name, GOOD, "viewer")
    data = (tmp_path / "accounts.sqlite").read_bytes()
    hashes = {piece[:100] for piece in data.split(b"$argon2id$")[1:]}
    assert len(hashes) == 2


def test_a_file_that_others_can_read_is_refused(accounts, tmp_path):
    accounts.add("ada", GOOD, "viewer")
    (tmp_path / "accounts.sqlite").chmod(0o640)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        accounts.verify("ada", GOOD)


def test_a_new_password_replaces_the_old_one_and_changes_the_stamp(accounts):
    before = accounts.add("ada", GOOD, "viewer")
    after = accounts.set_password("ada", "another four little words")
    assert accounts.verify("ada", GOOD) is None
    assert accounts.verify("ada", "another four little words") == after
    assert (after.role, after.since) == (before.role, before.since)
    assert after.stamp != before.stamp


def test_who_was_removed_and_made_again_has_another_stamp(accounts):
    before = accounts.add("ada", GOOD, "viewer")
    accounts.remove("ada")
    assert accounts.verify("ada", GOOD) is None
    assert accounts.add("ada", GOOD, "viewer").stamp != before.stamp


def test_a_password_is_the_same_however_the_keyboard_composes_it(accounts):
    accounts.add("ada", "Müller läuft übers Moor", "viewer")
    assert accounts.verify("ada", "Mu\u0308ller la\u0308uft u\u0308bers Moor") is not None


@pytest.mark.parametrize("name", ["", "Ada", "a b", "1a", "a" * 41, "ada\n", "adä", "<b>"])
def test_what_is_no_name_is_refused(accounts, name):
    with pytest.raises(AccountError, match="not a name"):
        accounts.add(name, GOOD, "viewer")


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("eleven char", "11 characters"),
        ("x" * (LONGEST_PASSWORD + 1), "257 characters"),
        ("administrator1", "the name"),
        ("aaaaaaaaaaaaaaaa", "repeats"),
        ("abababababab", "repeats"),
    ],
)
def test_an_easy_password_is_refused_and_is_not_in_the_message(password, why):
    with pytest.raises(AccountError, match=why) as caught:
        checked_password(password, name="administrator")
    assert password not in str(caught.value)


def test_a_short_name_may_be_part_of_a_password():
    assert checked_password("correct horse battery", name="a") == "correct horse battery"


@pytest.mark.parametrize("change", ["add", "set_password", "remove"])
def test_what_cannot_be_changes_nothing(accounts, change):
    accounts.add("ada", GOOD, "viewer")
    before = accounts.all()
    with pytest.raises(AccountError):
        {
            "add": lambda: accounts.add("ada", GOOD, "operator"),
            "set_password": lambda: accounts.set_password("bob", GOOD),
            "remove": lambda: accounts.remove("bob"),
        }[change]()
    assert accounts.all() == before
    assert accounts.verify("ada", GOOD) is not None


def test_a_name_that_is_not_there_costs_as_much_work_as_one_that_is(accounts):
    accounts.add("ada", GOOD, "viewer")

    def seconds(name: str) -> float:
        began = time.process_time()
        accounts.verify(name, "not the password")
        return time.process_time() - began

    ratios = [seconds("nobody") / seconds("ada") for _ in range(9)]
    assert 0.7 < statistics.median(ratios) < 1.4  # without the hash it is below 0.1
