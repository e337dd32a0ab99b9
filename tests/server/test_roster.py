"""Checklist: D36.

Who takes part, what they are offered and what they said: on the disk, and never from somebody who is out.
"""

from __future__ import annotations

import datetime as dt
import sqlite3

import pytest

from agreement.node_keys import fingerprint_of, new_node_key, public_text
from agreement.offer import EVERYBODY, DecisionState, Offer, OfferCode, sign_offer
from agreement.signing import SigningKey
from pp_model.errors import ConfigError
from pp_model.protocol import Anchor
from server.roster import Roster, RosterError
from tests.support.plans import tiny_plan

KEY = SigningKey.generate()
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def node_key() -> bytes:
    return public_text(new_node_key().public_key())


def offer(serial: int, *, audience: tuple[str, ...] = EVERYBODY, plan_id: str = "spring") -> Offer:
    return Offer(
        platform="fair",
        serial=serial,
        issued=NOW,
        not_before=NOW,
        expires=NOW + dt.timedelta(days=9),
        audience=audience,
        plan=tiny_plan(plan_id=plan_id),
    )


def anchor(seq: int, *, ledger: str = "a") -> Anchor:
    return Anchor(ledger=ledger * 64, seq=seq, hash=f"{seq:064x}")


@pytest.fixture
def roster(tmp_path):
    with Roster(tmp_path / "registry.sqlite") as opened:
        yield opened


def test_a_merchant_is_found_by_its_key_until_it_is_removed(roster):
    added = roster.add("bakery", node_key() + b" baker@oven\n")
    assert roster.by_fingerprint(added.fingerprint) == added
    assert roster.merchants() == [added]
    roster.remove("bakery")
    assert roster.by_fingerprint(added.fingerprint) is None
    assert roster.merchants() == []
    assert [merchant.name for merchant in roster.merchants(removed=True)] == ["bakery"]


def test_a_removed_merchant_may_come_back_with_the_same_name_and_key(roster):
    key = node_key()
    roster.add("bakery", key)
    roster.remove("bakery")
    assert roster.add("bakery", key).removed is None


def test_neither_a_name_nor_a_key_serves_two_merchants(roster):
    key = node_key()
    roster.add("bakery", key)
    with pytest.raises(RosterError, match="another name"):
        roster.add("bakery", node_key())
    with pytest.raises(RosterError, match="merchant 'bakery'"):
        roster.add("florist", key)
    assert len(roster.merchants()) == 1


@pytest.mark.parametrize("name", ["", " bakery", "two\nlines", "x" * 61, "bell\x07"])
def test_what_is_no_name_is_refused(roster, name):
    with pytest.raises(RosterError, match="not a name"):
        roster.add(name, node_key())


def test_what_is_no_public_key_is_refused(roster):
    with pytest.raises(ConfigError, match="public key"):
        roster.add("bakery", b"ssh-ed25519 AAAA nobody")
    assert roster.merchants() == []


def test_removing_a_stranger_names_those_who_are_there(roster):
    roster.add("bakery", node_key())
    with pytest.raises(RosterError, match="there are: bakery"):
        roster.remove("florist")


def test_serials_rise_also_over_restarts(tmp_path):
    given = []
    for _ in range(3):
        with Roster(tmp_path / "registry.sqlite") as roster:
            given += [roster.next_serial(), roster.next_serial()]
    assert given == sorted(set(given))


def test_offers_reach_those_they_are_for_in_the_order_of_their_serials(roster):
    mine, other = roster.add("bakery", node_key()), roster.add("florist", node_key())
    offers = [offer(3), offer(1, audience=(mine.fingerprint,)), offer(2, audience=(other.fingerprint,))]
    signed = {o.serial: sign_offer(o, KEY) for o in offers}
    for one in offers:
        roster.open_offer(signed[one.serial], one)
    assert roster.offers_for(mine.fingerprint) == [signed[1], signed[3]]
    assert roster.offers_for(other.fingerprint) == [signed[2], signed[3]]
    roster.close_offer(offers[0].id)
    assert roster.offers_for(mine.fingerprint) == [signed[1]]
    roster.open_offer(signed[3], offers[0])
    assert roster.offers_for(mine.fingerprint) == [signed[1], signed[3]]


def test_only_those_who_approved_last_and_are_still_merchants_are_asked(roster):
    one = offer(1)
    roster.open_offer(sign_offer(one, KEY), one)
    for number, name in enumerate(["bakery", "florist", "grocer", "tailor", "unregistered"]):
        roster.add(name, node_key())
        if name != "unregistered":
            roster.set_node(name, 2**63 + number)
        roster.decide(one.id, name, DecisionState.APPROVED, None)
    roster.decide(one.id, "florist", DecisionState.REFUSED, OfferCode.REJECTED)
    roster.remove("grocer")
    assert roster.approved_nodes(one.id) == {2**63: "bakery", 2**63 + 3: "tailor"}
    assert {d.merchant: (d.state, d.code) for d in roster.decisions(one.id)}["florist"] == (
        DecisionState.REFUSED,
        OfferCode.REJECTED,
    )


def test_a_decision_about_nothing_is_refused(roster):
    with pytest.raises(RosterError, match="not one of"):
        roster.decide("f" * 16, "bakery", DecisionState.APPROVED, None)


def test_an_anchor_never_goes_back(roster):
    assert roster.known_anchor("bakery") is None
    roster.seen_anchor("bakery", anchor(5))
    roster.seen_anchor("bakery", anchor(3))
    assert roster.known_anchor("bakery") == anchor(5)
    roster.seen_anchor("bakery", anchor(6))
    assert roster.known_anchor("bakery") == anchor(6)
    assert roster.known_anchor("florist") is None


def test_an_anchor_of_the_ledger_used_last_is_the_one_that_is_known(roster):
    roster.seen_anchor("bakery", anchor(50))
    roster.seen_anchor("bakery", anchor(1, ledger="b"))
    assert roster.known_anchor("bakery") == anchor(1, ledger="b")


def test_a_node_is_named_also_after_its_merchant_left(roster):
    merchant = roster.add("bakery", node_key())
    roster.set_node("bakery", 77)
    roster.remove("bakery")
    assert (roster.name_of(77), roster.name_of(78)) == ("bakery", "78")
    assert merchant.fingerprint.startswith("SHA256:")


def test_the_fingerprint_is_the_keys(roster):
    key = new_node_key().public_key()
    assert roster.add("bakery", public_text(key)).fingerprint == fingerprint_of(key)


def test_a_sign_of_life_is_kept_with_the_version_and_forgotten_by_nobody(roster):
    merchant = roster.add("bakery", node_key())
    assert (merchant.last_seen, merchant.version) == (None, "")
    roster.seen(merchant, now=NOW, version="0.1.0")
    (seen,) = roster.merchants()
    assert (seen.last_seen, seen.version) == (NOW.isoformat(), "0.1.0")
    roster.remove("bakery")
    assert roster.merchants(removed=True)[0].last_seen == NOW.isoformat()


def writes(roster) -> int:
    return roster._db.total_changes


@pytest.mark.parametrize("seconds", [1, 59, -59])
def test_however_often_a_merchant_asks_one_write_a_minute_is_made(roster, seconds):
    roster.seen(roster.add("bakery", node_key()), now=NOW, version="1")
    before = writes(roster)
    roster.seen(roster.merchants()[0], now=NOW + dt.timedelta(seconds=seconds), version="2")
    assert writes(roster) == before
    assert roster.merchants()[0].version == "1"


@pytest.mark.parametrize("seconds", [60, 3600, -60])
def test_after_a_minute_it_is_seen_again_also_where_the_clock_was_set_back(roster, seconds):
    roster.seen(roster.add("bakery", node_key()), now=NOW, version="1")
    later = NOW + dt.timedelta(seconds=seconds)
    roster.seen(roster.merchants()[0], now=later, version="2")
    (seen,) = roster.merchants()
    assert (seen.last_seen, seen.version) == (later.isoformat(), "2")


def test_of_many_requests_at_once_one_is_written_down(roster):
    merchant = roster.add("bakery", node_key())
    before = writes(roster)
    for _ in range(20):
        roster.seen(merchant, now=NOW, version="1")
    assert writes(roster) == before + 1


def test_a_merchant_that_came_back_with_its_old_key_begins_unseen(roster):
    key = node_key()
    roster.seen(roster.add("bakery", key), now=NOW, version="1")
    roster.remove("bakery")
    assert roster.add("bakery", key).last_seen is None


def test_a_roster_of_an_earlier_version_is_brought_up_to_date(tmp_path):
    path = tmp_path / "registry.sqlite"
    with Roster(path) as roster:
        roster.add("bakery", node_key())
    database = sqlite3.connect(path)
    for column in ("last_seen", "version"):
        database.execute(f"ALTER TABLE merchants DROP COLUMN {column}")
    database.close()
    with Roster(path) as roster:
        (merchant,) = roster.merchants()
        assert (merchant.name, merchant.last_seen, merchant.version) == ("bakery", None, "")
        roster.seen(merchant, now=NOW, version="1")
        assert roster.merchants()[0].last_seen == NOW.isoformat()


def test_who_only_reads_can_write_nothing(tmp_path):
    path = tmp_path / "registry.sqlite"
    with Roster(path) as roster:
        roster.add("bakery", node_key())
    with Roster(path, read_only=True) as reader:
        assert [merchant.name for merchant in reader.merchants()] == ["bakery"]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.remove("bakery")
    with pytest.raises(sqlite3.OperationalError):
        Roster(tmp_path / "none.sqlite", read_only=True)
    assert not (tmp_path / "none.sqlite").exists()
