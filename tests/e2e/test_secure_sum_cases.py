"""Many rounds of secure sums with all their cryptography: random drop-outs, and a platform that tells every mixture."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest

from pp_model.errors import ProtocolError
from secure_sum.messages import SECRETS, kind_of, read
from secure_sum.signatures import signature_of
from tests.support.secure_sums import identity, plain_sum, play, quorum, set_up, survivors, vectors

pytestmark = pytest.mark.e2e
STEPS = ("mask", "answer", "quorum")


def test_a_masked_sum_is_the_plain_sum_of_the_same_integers_in_a_thousand_cases_with_drop_outs():
    rng = np.random.default_rng(2017)
    right = void = with_drop_outs = 0
    for number in range(25):
        merchants = int(rng.integers(3, 7))
        threshold = merchants // 2 + 1
        block = set_up(merchants, threshold=threshold, rounds=40, block=number)
        for round in block.collector.rounds:
            values = vectors(merchants, rng=rng, size=int(rng.integers(1, 9)))
            drops = {i: str(rng.choice(STEPS, p=(0.6, 0.2, 0.2))) for i in range(merchants) if rng.random() < 0.2}
            masked = [i for i in range(merchants) if drops.get(i) != "mask"]
            result = play(block, round, values, drops)
            silent = set(drops) if len(masked) < merchants else {i for i in drops if drops[i] != "quorum"}
            assert (result is None) == (merchants - len(silent) < threshold)
            if result is None:
                void += 1
                continue
            right += 1
            with_drop_outs += bool(drops)
            assert result.values.tolist() == plain_sum(values, masked)
    assert right + void == 1000
    assert with_drop_outs >= 250


class LyingPlatform:
    """It tells each honest merchant any list, has the others' node keys and shares, and keeps all that it is given."""

    def __init__(self, block, round, *, merchants, threshold, colluding):
        self.block, self.round, self.merchants, self.threshold = block, round, merchants, threshold
        self.colluding = colluding
        self.given = {(dealer, which): set(colluding) for dealer in range(merchants) for which in SECRETS}
        for index in set(range(merchants)) - set(colluding):
            block[index].masked(round, np.zeros(1, np.uint64))

    def tell(self, lists):
        """Asks each honest merchant about its list, and then with all signatures that it can have for it."""
        signed = {}
        for index, members in lists.items():
            answer = self.block[index].reveal(survivors(self.block, self.round, members))
            if kind_of(answer) == "signed":
                signed.setdefault(members, {})[index] = read(answer, "signed").octets("signature")
            else:
                self._keep(index, members, everybody=True)
        for members, of_honest in signed.items():
            body = survivors(self.block, self.round, members)
            forged = {i: signature_of(identity(i), "survivors", body) for i in self.colluding if i in members}
            signers = dict(sorted((of_honest | forged).items()))
            for index in of_honest:
                with contextlib.suppress(ProtocolError):  # refused, if the signatures are too few
                    self.block[index].reveal(quorum(self.block, self.round, members, signers))
                    self._keep(index, members, everybody=False)

    def _keep(self, index, members, *, everybody):
        for dealer in range(self.merchants):
            which = "whole" if everybody else "self" if dealer in members else "pairwise"
            self.given[dealer, which].add(index)

    def knows(self, which):
        return {d for d in range(self.merchants) if len(self.given[d, which]) >= self.threshold}


def choices(index, lists):
    return [None, *(members for members in lists if index in members)]


def check(block, round, told, *, merchants, threshold, colluding):
    """Tells that mixture of lists; whether a sum was unmasked by it, which then is of enough merchants."""
    platform = LyingPlatform(block, round, merchants=merchants, threshold=threshold, colluding=colluding)
    platform.tell({index: members for index, members in told.items() if members is not None})
    honest = set(range(merchants)) - set(colluding)
    top_ups, of_lists, keys = (platform.knows(which) & honest for which in SECRETS)
    masks = top_ups | of_lists
    assert not masks & keys, told  # or one merchant's vector would lie open
    assert not top_ups or top_ups == masks == honest, told
    if not masks or masks | keys != honest:  # some mask between honest merchants stays on, whatever is added up
        return False
    assert len(masks) + len(colluding) >= threshold, told
    return True


@pytest.mark.parametrize(("merchants", "threshold", "colluding"), [(4, 3, ()), (5, 4, (4,)), (5, 4, (0, 1))])
def test_whatever_mixture_of_lists_is_told_at_most_one_sum_is_unmasked_and_none_of_too_few(
    merchants, threshold, colluding
):
    """Bonawitz et al. 2017, section 6.2: the consistency check is what stands between the platform and two sums."""
    about = {"merchants": merchants, "threshold": threshold, "colluding": colluding}
    honest = [index for index in range(merchants) if index not in colluding]
    sizes = range(threshold, merchants + 1)
    lists = [members for size in sizes for members in itertools.combinations(range(merchants), size)]
    mixtures = list(itertools.product(*(choices(index, lists) for index in honest)))
    unmasked = 0
    for number in range(0, len(mixtures), 256):
        block = set_up(merchants, threshold=threshold, rounds=256, block=number)
        for round, mixture in zip(block.collector.rounds, mixtures[number : number + 256], strict=False):
            unmasked += check(block, round, dict(zip(honest, mixture, strict=True)), **about)
    assert unmasked >= 1
    assert len(mixtures) >= 100


@pytest.mark.parametrize(("merchants", "threshold", "colluding"), [(5, 3, ()), (6, 4, (5,)), (7, 5, (5, 6))])
def test_the_same_for_mixtures_of_lists_that_differ_more(merchants, threshold, colluding):
    """Too many to try them all: at random, and one in which most agree on two survivors and on nobody else."""
    about = {"merchants": merchants, "threshold": threshold, "colluding": colluding}
    rng = np.random.default_rng(merchants)
    honest = [index for index in range(merchants) if index not in colluding]
    block = set_up(merchants, threshold=threshold, rounds=200)
    sizes = range(threshold, merchants + 1)
    lists = [members for size in sizes for members in itertools.combinations(range(merchants), size)]
    told = {i: tuple(sorted({0, 1, i if i > 1 else 2 + i, *colluding})) for i in honest}
    assert all(len(members) == threshold for members in told.values())
    check(block, 1, told, **about)
    for round in block.collector.rounds[1:]:
        few = [lists[place] for place in rng.choice(len(lists), 3, replace=False)]  # so that some agree
        said = {i: choices(i, few) for i in honest}
        check(block, round, {i: of_i[rng.integers(len(of_i))] for i, of_i in said.items()}, **about)


def test_with_one_more_dishonest_than_the_threshold_allows_for_such_a_mixture_is_found():
    """The twin: 2 * 3 is not above 4 + 2, and the platform has both secrets of merchant 0."""
    block = set_up(4, threshold=3)
    platform = LyingPlatform(block, 1, merchants=4, threshold=3, colluding=(2, 3))
    platform.tell({0: (0, 1, 2, 3), 1: (1, 2, 3)})
    assert 0 in platform.knows("whole") & platform.knows("pairwise")
