import numpy as np
import pytest

from client.secure_sums import SecureSums
from pp_model.errors import ProtocolError
from pp_model.protocol import SumQuestion
from secure_sum.errors import SumError, TooFewError
from secure_sum.messages import kind_of, read
from server.block_setup import ATTEMPTS, set_up
from tests.support.secure_sums import changed, identity
from tests.support.sum_town import SET_UP, sum_plan

N, THRESHOLD = 6, 4
EVERYBODY = tuple(range(N))
ANSWERS = ("keys", "shares", "ready")


class Merchants:
    """Who is asked, and what comes back of it.

    Attributes:
        asked: step of every exchange and the merchants asked.
        silent: by step, who says nothing.
        forge: what an answer is changed to on the way.
    """

    def __init__(self, plan, *, silent=None, forge=lambda *given: given[-1]):
        self.plan, self.asked, self.silent, self.forge = plan, [], silent or {}, forge
        self.sums = [SecureSums(identity(index)) for index in EVERYBODY]

    def ask(self, letters):
        step = kind_of(next(iter(letters.values())))
        self.asked.append((step, sorted(letters)))
        for index, letter in letters.items():
            if index in self.silent.get(step, ()):
                continue
            try:
                answer = self.sums[index].answer(SumQuestion(plan=self.plan, block=1, letter=letter)).letter
            except ProtocolError:
                continue  # a refusal
            yield index, self.forge(kind_of(answer), index, answer)

    def set_up(self, *, merchants=EVERYBODY, first_round=1):
        return set_up(self.plan, first_round=first_round, merchants=merchants, ask=self.ask)


def town(**how):
    return Merchants(sum_plan(merchants=N, threshold=THRESHOLD, rounds=3, dishonest=1), **how)


def forged(kind, index, change):
    """A Forge that changes that merchant's answer of that kind."""
    return lambda at, who, letter: change(letter) if (at, who) == (kind, index) else letter


def sizes():
    return {"members": N, "others": N - 1, "rounds": 3}


def boxes_for(letter, victims, *, dealer):
    """Shares whose boxes for the victims do not open. They are all for members of the whole roll."""
    boxes = read(letter, "shares", sizes=sizes()).octets("boxes").copy()
    places = [place for place, index in enumerate(i for i in EVERYBODY if i != dealer) if index in victims]
    boxes[places] ^= 1
    return changed(letter, "shares", signer=dealer, boxes=boxes)


def accusing(letter, accused, *, by):
    return changed(letter, "ready", signer=by, accused=np.array(accused, np.uint64))


def test_a_set_up_in_which_all_do_their_part_is_three_exchanges():
    merchants = town()
    block = merchants.set_up()
    assert merchants.asked == [(step, list(EVERYBODY)) for step in SET_UP]
    assert (block.members, block.rounds, block.complete()) == (EVERYBODY, range(1, 4), True)


def test_only_those_who_can_be_asked_are_asked():
    merchants = town()
    assert merchants.set_up(merchants=(0, 2, 3, 5)).members == (0, 2, 3, 5)
    assert {asked for _, whom in merchants.asked for asked in whom} == {0, 2, 3, 5}


def test_a_block_ends_with_the_plan():
    plan = sum_plan(merchants=N, threshold=THRESHOLD, rounds=10, rounds_per_block=4)
    spans = []
    for first in (1, 5, 9):
        merchants = Merchants(plan)
        merchants.ask = lambda letters, first=first, m=merchants: (
            (i, m.sums[i].answer(SumQuestion(plan=plan, block=first, letter=x)).letter) for i, x in letters.items()
        )
        spans.append(set_up(plan, first_round=first, merchants=EVERYBODY, ask=merchants.ask).rounds)
    assert spans == [range(1, 5), range(5, 9), range(9, 11)]


@pytest.mark.parametrize("lost", [(5,), (0, 3)], ids=["one", "down-to-the-threshold"])
def test_who_does_not_answer_the_opening_is_left_out_at_once(lost):
    merchants = town(silent={"open": lost})
    block = merchants.set_up()
    assert [step for step, _ in merchants.asked] == SET_UP
    assert block.members == tuple(index for index in EVERYBODY if index not in lost)


@pytest.mark.parametrize("step", SET_UP[1:])
@pytest.mark.parametrize("lost", [(5,), (0, 3)], ids=["one", "down-to-the-threshold"])
def test_who_falls_silent_later_costs_an_attempt_and_is_left_out_of_the_next(step, lost):
    merchants = town(silent={step: lost})
    block = merchants.set_up()
    left = [index for index in EVERYBODY if index not in lost]
    assert [step for step, _ in merchants.asked] == SET_UP[: SET_UP.index(step) + 1] + SET_UP
    assert [whom for _, whom in merchants.asked[-3:]] == [left] * 3
    assert block.members == tuple(left)


@pytest.mark.parametrize("step", SET_UP)
def test_below_the_threshold_there_is_no_block(step):
    merchants = town(silent={step: (0, 1, 2)})
    with pytest.raises(TooFewError) as error:
        merchants.set_up()
    assert (error.value.found, error.value.threshold) == (3, THRESHOLD)


def test_after_three_attempts_there_is_no_block():
    merchants = town()
    fail = iter([5, 4, 3])

    def ask(letters):
        late = next(fail) if kind_of(next(iter(letters.values()))) == "roll" else None
        return ((index, letter) for index, letter in Merchants.ask(merchants, letters) if index != late)

    with pytest.raises(SumError, match="in 3 attempts"):
        set_up(merchants.plan, first_round=1, merchants=EVERYBODY, ask=ask)
    assert len([step for step, _ in merchants.asked if step == "open"]) == ATTEMPTS


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("change", [lambda _: b"no message", lambda letter: letter[:-1] + bytes([letter[-1] ^ 1])])
def test_who_sends_what_is_no_answer_is_left_out(kind, change):
    merchants = town(forge=forged(kind, 2, change))
    assert merchants.set_up().members == (0, 1, 3, 4, 5)


def test_who_deals_garbage_to_more_than_may_lie_is_left_out_and_nobody_else_is():
    merchants = town(forge=forged("shares", 1, lambda letter: boxes_for(letter, (3, 4), dealer=1)))
    assert merchants.set_up().members == (0, 2, 3, 4, 5)


def test_of_one_word_against_another_the_accuser_is_left_out_so_that_a_liar_can_silence_itself_alone():
    merchants = town(forge=forged("ready", 4, lambda letter: accusing(letter, [0, 1, 2], by=4)))
    assert merchants.set_up().members == (0, 1, 2, 3, 5)


def test_an_answer_sent_in_anothers_name_is_not_taken():
    """Merchant 2 sends merchant 3's keys as its own: it is left out, and merchant 3 is not."""
    keys = {}

    def swap(kind, index, letter):
        keys.setdefault((kind, index), letter)
        return keys.get((kind, 3), b"nothing") if (kind, index) == ("keys", 2) else letter

    merchants = town(forge=swap)
    merchants.ask = lambda letters: Merchants.ask(merchants, dict(sorted(letters.items(), reverse=True)))
    assert merchants.set_up().members == (0, 1, 3, 4, 5)
