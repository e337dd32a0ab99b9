"""The file of agreements: whole, its owner's alone, and worth nothing once it was changed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from agreement.signing import SigningKey
from client.agreements import MOST_OFFERS
from client.agreements_file import AgreementsError
from client.ledger_file import NO_HASH, canonical, chained
from pp_model.errors import NotApprovedError
from tests.support.agreed import ASK, agreed, approved, considered, opened, stands
from tests.support.offers import NOON, bit_flips, signed, tiny_offer


def test_the_file_is_its_owners_alone(tmp_path):
    considered(opened(tmp_path), tiny_offer())
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_platform_cannot_fill_the_disk_with_offers(tmp_path, monkeypatch):
    assert MOST_OFFERS <= 2_000
    monkeypatch.setattr("client.agreements.MOST_OFFERS", 3)
    store = opened(tmp_path)
    for serial in range(1, 4):
        considered(store, tiny_offer(serial=serial))
    with pytest.raises(AgreementsError, match="the most that are kept"):
        considered(store, tiny_offer(serial=4))
    assert stands(considered(store, tiny_offer(serial=3))) == ("approved", "")


def rewrite(path: Path, change) -> None:
    """The file with other entries, whose chain of hashes is made to fit."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        bodies = [json.loads(body) for (body,) in db.execute("SELECT body FROM entries ORDER BY seq").fetchall()]
        db.execute("DELETE FROM entries")
        before = NO_HASH
        for seq, body in enumerate(change(bodies)):
            text = canonical(body)
            before = chained(before, text)
            db.execute("INSERT INTO entries VALUES (?, ?, ?)", (seq, text, before))
        db.commit()


def test_a_changed_entry_approves_nothing(tmp_path):
    store, offer = opened(tmp_path), tiny_offer()
    considered(store, offer, policy=ASK)
    with contextlib.closing(sqlite3.connect(tmp_path / "agreements.sqlite")) as db:
        assert db.execute("UPDATE entries SET body = replace(body, 'waiting', 'approved')").rowcount == 1
        db.commit()
    with pytest.raises(AgreementsError, match="damaged at entry 0"):
        store.agreed(offer.plan, now=NOON)


def test_an_approved_offer_of_another_plan_is_nothing_without_the_platforms_signature(tmp_path):
    """Even by somebody who can recompute the hashes."""
    store, offer = opened(tmp_path), tiny_offer()
    considered(store, offer)
    weak = tiny_offer(plan={"rounds": 100_000})
    forged = signed(weak, SigningKey.generate()).decode()
    rewrite(tmp_path / "agreements.sqlite", lambda bodies: [{**bodies[0], "data": forged, "offer": weak.id}])
    for plan in (weak.plan, offer.plan):
        with pytest.raises(NotApprovedError):
            store.agreed(plan, now=NOON)
    with pytest.raises(AgreementsError):
        store.all()


def test_a_genuine_offer_under_anothers_id_approves_nothing(tmp_path):
    store, small, large = opened(tmp_path), tiny_offer(), tiny_offer(serial=2, plan={"rounds": 9})
    considered(store, small)
    considered(store, large, policy=ASK)
    swapped = signed(large).decode()
    rewrite(tmp_path / "agreements.sqlite", lambda bodies: [{**bodies[0], "data": swapped}, bodies[1]])
    with pytest.raises(AgreementsError, match="another offer"):
        store.agreed(large.plan, now=NOON)


@pytest.mark.parametrize(
    "change",
    [
        lambda bodies: [{"offer": bodies[0]["offer"]}],
        lambda bodies: [{**bodies[0], "time": "now"}],
        lambda bodies: [{k: v for k, v in bodies[0].items() if k != "data"}],
        lambda bodies: [{**bodies[0], "state": "sure"}],
        lambda bodies: [{**bodies[0], "data": 5}],
        lambda bodies: [{**bodies[0], "code": "sure"}],
    ],
    ids=["no state", "no time", "no offer", "a new state", "no text", "a new code"],
)
def test_an_entry_that_this_program_never_wrote_is_told_as_that(tmp_path, change):
    store = opened(tmp_path)
    considered(store, tiny_offer())
    rewrite(tmp_path / "agreements.sqlite", change)
    with pytest.raises(AgreementsError):
        store.all()
    assert not agreed(store, tiny_offer())


def test_any_flipped_bit_of_the_file_is_noticed_or_changes_nothing(tmp_path):
    store, offer, waiting = opened(tmp_path), tiny_offer(), tiny_offer(serial=2, plan={"plan_id": "waits"})
    considered(store, offer)
    considered(store, waiting, policy=ASK)
    path = tmp_path / "agreements.sqlite"
    before, data = store.all(), path.read_bytes()
    noticed = 0
    for flip in bit_flips(data, count=300):
        path.write_bytes(flip)
        try:
            assert store.all() == before
        except AgreementsError:
            noticed += 1
        assert not agreed(store, waiting)
    assert noticed > 100


@pytest.mark.parametrize("damage", ["truncated", "not ours", "text", "a folder"])
def test_a_file_that_cannot_be_used_fails_closed_with_what_to_do(tmp_path, damage):
    path, offer = tmp_path / "agreements.sqlite", tiny_offer()
    store = opened(tmp_path)
    considered(store, offer)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:5_000])
    elif damage == "not ours":
        path.unlink()
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE entries (seq, body, hash)")
    elif damage == "text":
        path.write_text("hello " * 1_000)
    else:
        path.unlink()
        path.mkdir()
    for use in (store.all, lambda: store.agreed(offer.plan, now=NOON), lambda: considered(store, offer)):
        with pytest.raises(AgreementsError, match="move the file away"):
            use()


def test_a_read_only_folder_takes_no_offer_and_says_so(tmp_path):
    store = opened(tmp_path / "missing")
    with pytest.raises(AgreementsError):
        considered(store, tiny_offer())
    assert store.all() == []


def test_many_processes_at_once_lose_no_decision(tmp_path):
    def work(number: int) -> None:
        store = opened(tmp_path)
        for serial in range(1, 6):
            offer = tiny_offer(serial=serial, plan={"plan_id": f"{number}-{serial}"})
            considered(store, offer, policy=ASK)
            approved(store, offer)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened(tmp_path).approved()) == 20
