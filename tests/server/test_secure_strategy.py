import math
import os

import numpy as np
import pytest

from pp_model.errors import CheckpointError
from pp_model.model import trainable_shapes
from pp_model.protocol import RefusalCode, Release
from pp_model.serialization import fingerprint
from secure_sum.masks import RoundSecrets
from secure_sum.messages import read
from server.aggregation import RejectionCode
from server.app import ServerSettings, train_and_publish
from server.registry import Registry
from server.rounds import RunStoppedError
from server.secure_strategy import RENEW_AFTER
from simulations.grid import InProcessGrid
from tests.support.fake_merchants import filled, merchants_app
from tests.support.plans import tiny_plan
from tests.support.secure_sums import changed
from tests.support.shops import same_bits, tiny_policy
from tests.support.sum_town import ALL_THERE, FIRST_NODE, SET_UP, SOME_LOST, TIMEOUT, SumTown, first_arrays, sum_plan

N, THRESHOLD = 5, 4
WIDE = {"merchants": 7, "threshold": 5}
NODE = {index: FIRST_NODE + index for index in range(7)}


@pytest.fixture
def town_of(tmp_path):
    towns = []

    def open_town(**changes):
        plan = sum_plan(**{"merchants": N, "threshold": THRESHOLD, **changes})
        towns.append(SumTown(tmp_path, plan))
        return towns[-1]

    yield open_town
    for town in towns:
        town.close()


def in_round(number, step, *lost):
    """A fault: these merchants, at that step of that round."""
    return lambda at, round, index: (at, round) == (step, number) and index in lost


def exactly_the_plain_sums(town, *, survivors, members=N):
    """Whether each round that moved the model moved it by the integers of its survivors, to the last bit."""
    moved = [outcome for outcome in town.outcomes if not outcome.void]
    return [outcome.round for outcome in moved] == list(survivors) and all(
        same_bits(outcome.update, town.plain_update(outcome.round, survivors[outcome.round], members=members))
        for outcome in moved
    )


# What a round costs, and what it comes to.


def test_a_block_is_set_up_in_three_exchanges_and_a_round_without_losses_takes_two(town_of, monkeypatch):
    town = town_of()
    town.run(monkeypatch)
    assert town.steps() == SET_UP + 3 * ALL_THERE
    assert [asked for _, asked in town.asked] == [list(range(N))] * 9
    assert exactly_the_plain_sums(town, survivors=dict.fromkeys((1, 2, 3), range(N)))
    assert [outcome.completed for outcome in town.outcomes] == [tuple(NODE[index] for index in range(N))] * 3


def test_a_block_that_is_used_up_is_followed_by_the_next(town_of, monkeypatch):
    town = town_of(rounds=5, rounds_per_block=2)
    town.run(monkeypatch)
    assert town.steps() == SET_UP + 2 * ALL_THERE + SET_UP + 2 * ALL_THERE + SET_UP + ALL_THERE
    assert exactly_the_plain_sums(town, survivors=dict.fromkeys(range(1, 6), range(N)))


@pytest.mark.parametrize("lost", [(), (6,), (0, 3)], ids=["all-left", "one-lost", "down-to-the-threshold"])
@pytest.mark.parametrize("fault", ["deaf", "mute"])
def test_the_sum_is_that_of_the_survivors_however_many_are_left(town_of, monkeypatch, lost, fault):
    town = town_of(**WIDE, rounds=1)
    setattr(town, fault, in_round(1, "task", *lost))
    town.run(monkeypatch)
    left = [index for index in range(7) if index not in lost]
    assert town.steps() == SET_UP + (SOME_LOST if lost else ALL_THERE)
    assert exactly_the_plain_sums(town, survivors={1: left}, members=7)
    assert town.outcomes[0].rejections == {NODE[index]: RejectionCode.NO_REPLY for index in lost}
    assert [asked for _, asked in town.asked[4:]] == [left] * (2 if lost else 1)


LATER = [  # the step, who is lost before it, who is lost at it, whether enough are left
    pytest.param("survivors", (), (1, 2), True, id="two-of-seven-give-no-shares"),
    pytest.param("survivors", (), (1, 2, 3), False, id="three-of-seven-give-no-shares"),
    pytest.param("survivors", (6,), (1,), True, id="one-of-six-does-not-sign"),
    pytest.param("survivors", (6,), (1, 2), False, id="two-of-six-do-not-sign"),
    pytest.param("quorum", (6,), (1,), True, id="one-of-six-gives-no-shares"),
    pytest.param("quorum", (6,), (1, 2), False, id="two-of-six-give-no-shares"),
]


@pytest.mark.parametrize("fault", ["deaf", "mute"])
@pytest.mark.parametrize(("step", "before", "lost", "enough"), LATER)
def test_who_is_lost_after_it_has_masked_is_in_the_sum_or_there_is_none(
    town_of, monkeypatch, step, before, lost, enough, fault
):
    town = town_of(**WIDE, rounds=1)
    setattr(town, fault, lambda at, _, index: index in {"task": before, step: lost}.get(at, ()))
    model = town.run(monkeypatch)
    masked = [index for index in range(7) if index not in before]
    assert exactly_the_plain_sums(town, survivors={1: masked} if enough else {}, members=7)
    assert town.outcomes[0].completed == tuple(NODE[index] for index in masked)
    assert same_bits(model, first_arrays(town.plan)) is not enough


def test_below_the_threshold_nothing_is_unmasked_the_charge_stands_and_the_round_is_not_asked_again(
    town_of, monkeypatch
):
    town = town_of()
    town.mute = in_round(2, "task", 0, 1)
    town.between = lambda _: models.append(town.strategy.state.arrays)
    models = []
    town.run(monkeypatch)
    assert town.steps() == SET_UP + ALL_THERE + ["task"] + SET_UP + ALL_THERE  # nobody was asked for a share
    assert exactly_the_plain_sums(town, survivors=dict.fromkeys((1, 3), range(N)))
    assert [town.charges(index) for index in range(N)] == [3] * N
    assert town.begun == [1, 2, 3]
    assert (town.outcomes[1].void, town.outcomes[1].norm) == (True, 0.0)
    assert same_bits(models[1], models[2])
    assert not same_bits(models[0], models[1])


def test_three_void_rounds_in_a_row_end_the_run_and_no_number_was_asked_twice(town_of, monkeypatch):
    town = town_of(rounds=6)
    town.mute = lambda step, round, index: step == "task" and round > 1 and index < 2
    with pytest.raises(RunStoppedError, match="round 4"):
        town.run(monkeypatch)
    assert town.begun == [1, 2, 3, 4]
    assert [town.charges(index) for index in range(N)] == [4] * N


def test_where_no_block_can_be_set_up_nobody_is_charged_and_the_run_ends(town_of, monkeypatch):
    town = town_of()
    town.mute = lambda step, _, index: step == "open" and index < 2
    with pytest.raises(RunStoppedError, match="round 1"):
        town.run(monkeypatch)
    assert town.steps() == ["open"] * 3
    assert town.begun == []
    assert [town.charges(index) for index in range(N)] == [0] * N


def test_nobody_is_asked_while_too_few_are_connected(town_of, monkeypatch):
    town = town_of(timeout=0.01)
    town.away = {0, 1}
    with pytest.raises(RunStoppedError):
        town.run(monkeypatch)
    assert (town.asked, town.begun) == ([], [])


# The end of a round.


@pytest.mark.parametrize("step", ["task", "survivors", "quorum"])
@pytest.mark.parametrize("silent", [(0,), (0, 1, 2)], ids=["one", "three"])
def test_every_round_ends_by_its_deadline_whoever_says_nothing(town_of, monkeypatch, step, silent):
    town = town_of(rounds=2)
    town.deaf = lambda at, _, index: index in {"task": (4,), step: silent}.get(at, ())
    town.run(monkeypatch)
    assert len(town.seconds) == 2
    assert max(town.seconds) <= TIMEOUT + 1


@pytest.mark.parametrize("step", SET_UP)
def test_who_says_nothing_while_a_block_is_set_up_costs_bounded_time_and_the_round_is_as_good(
    town_of, monkeypatch, step
):
    town = town_of()
    town.deaf = lambda at, _, index: (at, index) == (step, 2)
    town.run(monkeypatch)
    left = [index for index in range(N) if index != 2]
    assert exactly_the_plain_sums(town, survivors=dict.fromkeys((1, 2, 3), left), members=4)
    assert town.seconds[0] <= TIMEOUT
    assert min(town.timeouts[town.steps().index("task") :]) >= 0.45 * TIMEOUT  # what the set-up took is not the round's
    assert town.steps()[-6:] == 3 * ALL_THERE  # the block is of four, and all four are there


# Who comes back, and who must not.


def test_a_restarted_merchant_refuses_the_rest_of_its_block_at_no_cost_and_is_in_the_next(town_of, monkeypatch):
    town = town_of(rounds=4)
    town.between = lambda outcome: town.restart(3) if outcome.round == 1 else None
    town.run(monkeypatch)
    left = [0, 1, 2, 4]
    assert town.steps() == SET_UP + ALL_THERE + SOME_LOST + SET_UP + 2 * ALL_THERE
    assert [outcome.refusals for outcome in town.outcomes] == [{}, {NODE[3]: RefusalCode.NO_BLOCK}, {}, {}]
    assert not any(outcome.void for outcome in town.outcomes)
    assert same_bits(town.outcomes[1].update, town.plain_update(2, left, members=N))
    assert same_bits(town.outcomes[2].update, town.plain_update(3, range(N), members=N))
    assert [town.charges(index) for index in range(N)] == [4, 4, 4, 3, 4]


def test_who_refuses_to_be_in_a_block_is_recorded_with_its_code_and_the_others_go_on(town_of, monkeypatch):
    town = town_of(rounds=2)
    town.shops[3].policy = tiny_policy(trust_modes=("local",))
    town.run(monkeypatch)
    assert [outcome.refusals for outcome in town.outcomes] == [{NODE[3]: RefusalCode.POLICY}, {}]
    assert [outcome.cohort for outcome in town.outcomes] == [4, 4]
    assert exactly_the_plain_sums(town, survivors=dict.fromkeys((1, 2), (0, 1, 2, 4)), members=4)


def test_a_merchant_that_comes_back_is_taken_in_after_some_rounds_and_not_before(town_of, monkeypatch):
    town = town_of(rounds=RENEW_AFTER + 3)
    town.away = {3}
    town.between = lambda _: town.away.clear()
    town.run(monkeypatch)
    assert town.steps() == SET_UP + RENEW_AFTER * ALL_THERE + SET_UP + 3 * ALL_THERE
    assert [outcome.cohort for outcome in town.outcomes] == [4] * RENEW_AFTER + [5] * 3
    assert town.charges(3) == 3


def test_a_merchant_that_is_gone_for_a_while_is_missed_and_its_block_goes_on(town_of, monkeypatch):
    town = town_of()
    town.between = lambda outcome: town.away.add(3) if outcome.round == 1 else town.away.clear()
    town.run(monkeypatch)
    assert town.steps() == SET_UP + ALL_THERE + SOME_LOST + ALL_THERE
    assert [outcome.cohort for outcome in town.outcomes] == [5, 4, 5]
    survivors = {1: range(N), 2: [0, 1, 2, 4], 3: range(N)}
    assert exactly_the_plain_sums(town, survivors=survivors)


def test_who_deals_garbage_is_left_out_of_the_next_attempt(town_of, monkeypatch):
    town = town_of()

    def forge(kind, round, index, letter):
        if (kind, index) != ("shares", 1):
            return letter
        boxes = read(letter, "shares", sizes={"rounds": 3}).octets("boxes")
        return changed(letter, "shares", signer=1, boxes=np.random.default_rng(0).permuted(boxes, axis=1))

    town.forge = forge
    town.run(monkeypatch)
    assert town.steps() == SET_UP + SET_UP + 3 * ALL_THERE
    assert [asked for _, asked in town.asked[3:]] == [[0, 2, 3, 4]] * 9
    assert exactly_the_plain_sums(town, survivors=dict.fromkeys((1, 2, 3), (0, 2, 3, 4)), members=4)


def test_a_wrong_share_is_named_and_the_sum_is_right(town_of, monkeypatch):
    town = town_of()
    town.forge = wrong_shares(2, 1)
    town.run(monkeypatch)
    assert exactly_the_plain_sums(town, survivors=dict.fromkeys((1, 2, 3), range(N)))
    assert [outcome.rejections for outcome in town.outcomes] == [{}, {NODE[1]: RejectionCode.SHARE}, {}]


def test_too_many_wrong_shares_void_the_round(town_of, monkeypatch):
    town = town_of()
    town.forge = wrong_shares(2, 0, 1)
    town.run(monkeypatch)
    assert exactly_the_plain_sums(town, survivors=dict.fromkeys((1, 3), range(N)))
    assert town.outcomes[1].rejections == dict.fromkeys((NODE[0], NODE[1]), RejectionCode.SHARE)


def wrong_shares(number, *liars):
    """A Forge: in that round these merchants give shares that nobody dealt to them."""

    def forge(kind, round, index, letter):
        if (kind, round) != ("revealed", number) or index not in liars:
            return letter
        shares = read(letter, "revealed", sizes={"members": N}).octets("shares").copy()
        shares[..., 0] ^= 1
        return changed(letter, "revealed", shares=shares)

    return forge


@pytest.mark.parametrize("there", [True, False], ids=["and-stays", "and-is-gone"])
def test_who_deals_shares_of_another_secret_than_it_announced_costs_a_round_and_is_left_out(
    town_of, monkeypatch, there
):
    town = town_of(rounds=4)

    def deal_falsely(kind, round, index, letter):
        if (kind, round, index) == ("keys", 1, 2):
            town.sums(2).member(town.plan, 1)._secrets[2] = RoundSecrets.drawn(os.urandom)
        return letter

    town.forge = deal_falsely
    town.between = lambda _: None if there else town.away.add(2)
    town.run(monkeypatch)
    assert [outcome.void for outcome in town.outcomes] == [False, True, False, False]
    assert town.outcomes[1].rejections == ({NODE[2]: RejectionCode.SHARE} if there else {})
    for number in (3, 4):
        assert same_bits(town.outcomes[number - 1].update, town.plain_update(number, [0, 1, 3, 4], members=4))


# What is kept, and what a crash leaves.


class PlatformDiedError(BaseException):
    """The platform's process ends here."""


def published(town):
    """What the platform leaves when its whole app has run: the id of the model."""
    with town.grid() as grid:
        return train_and_publish(grid, town.settings())


def tasks_of(town):
    """(round, fingerprint) of every task asked, as the merchants' ledgers have them."""
    return {charge.task for shop in town.shops for charge in shop.ledger.charges()}


def dying(step, round):
    """A Forge or fault that ends the platform when it comes to that step of that round."""

    def die(at, number, index):
        if (at, number) == (step, round):
            raise PlatformDiedError
        return False

    return die


def test_refusals_and_rejections_are_in_the_registry_by_name(town_of):
    town = town_of(rounds=3, timeout=2.0)
    town.mute = in_round(1, "task", 0)
    town.forge = wrong_shares(3, 4)
    town.deaf = lambda *asked: town.restart(3) is not None if asked == ("task", 2, 3) else False
    published(town)
    with Registry(town.settings().registry) as registry:
        rounds = registry.rounds(1)
    assert [dict(entry.offenders) for entry in rounds] == [{"merchant-0": "no_reply"}, {}, {"merchant-4": "share"}]
    assert [dict(entry.refusals) for entry in rounds] == [{}, {"no_block": 1}, {}]
    assert [entry.merchants for entry in rounds][1] == ("merchant-0", "merchant-1", "merchant-2", "merchant-4")


@pytest.mark.parametrize("step", ["task", "survivors", "quorum"])
def test_after_a_crash_the_round_that_was_begun_is_lost_and_the_next_is_asked(town_of, step):
    town = town_of(rounds=4, timeout=2.0)
    town.deaf = in_round(2, "task", 0) if step == "quorum" else town.deaf
    town.mute = dying(step, 2)
    with pytest.raises(PlatformDiedError):
        published(town)
    assert town.settings().begun_file.read_text() == "2"
    town.mute = town.deaf = lambda *_: False
    published(town)
    with Registry(town.settings().registry) as registry:
        assert [entry.round for run in registry.runs() for entry in registry.rounds(run[0])] == [1, 3, 4]
    assert all(town.charges(index) <= 4 for index in range(N))
    assert len(tasks_of(town)) == 4


@pytest.mark.parametrize("step", SET_UP)
def test_after_a_crash_in_the_set_up_no_round_is_lost(town_of, step):
    town = town_of(timeout=2.0)
    town.mute = dying(step, 1)
    with pytest.raises(PlatformDiedError):
        published(town)
    town.mute = lambda *_: False
    published(town)
    with Registry(town.settings().registry) as registry:
        assert [entry.round for run in registry.runs() for entry in registry.rounds(run[0])] == [1, 2, 3]


def test_a_crash_in_the_last_round_leaves_the_model_of_the_rounds_before_to_be_published(town_of):
    town = town_of(timeout=2.0)
    town.mute = dying("survivors", 3)
    with pytest.raises(PlatformDiedError):
        published(town)
    asked = len(town.asked)
    published(town)
    assert len(town.asked) == asked


@pytest.mark.parametrize("text", ["", "two", "1\n2", "\ufffd", "-5", "999"])
def test_a_damaged_note_of_what_was_begun_stops_the_run_and_says_what_to_do(town_of, text):
    town = town_of()
    town.settings().begun_file.write_text(text)
    with pytest.raises(CheckpointError, match=r"begun\.txt holds no round of the plan; restore the folder from a copy"):
        published(town)
    assert town.asked == []


def test_a_plan_with_local_trust_is_asked_as_ever(tmp_path):
    initial, shapes = first_arrays(tiny_plan()), trainable_shapes(tiny_plan().model)
    plan = tiny_plan(init_fingerprint=fingerprint(initial), rounds=2)
    settings = ServerSettings(
        plan=plan,
        initial=initial,
        trainable=shapes,
        directory=tmp_path,
        registry=tmp_path / "registry.sqlite",
    )
    tasks = []

    def answer(task, node):
        tasks.append((task.round, task.block, node))
        value = math.nan if len(tasks) == 2 else 1.0  # the first time that the second round is asked
        return Release(task=task.fingerprint, update=filled(value, shapes)).to_wire()

    with InProcessGrid(merchants_app(answer), node_configs={11: {}}) as grid:
        train_and_publish(grid, settings)
    assert tasks == [(1, 0, 11), (2, 0, 11), (2, 0, 11)]
    assert not settings.begun_file.exists()
