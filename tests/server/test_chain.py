import copy
import json

import pytest

from server.chain import ChainError, _hash, head_of, make_chain, verify_chain
from server.registry import RoundRecord
from tests.support.plans import tiny_plan

PLAN = tiny_plan(rounds=2)


def played(number: int) -> RoundRecord:
    return RoundRecord(
        round=number,
        cohort=3,
        completions=2,
        void=False,
        seconds=1.5,
        norm=0.25,
        refusals={"budget": 1},
        rejections={},
        offenders={},
        merchants=("bakery", "florist"),
        checkpoint=f"{number:064d}",
    )


def chain(rounds=(1, 2), **changes):
    parts = {"offers": {7: b"an offer", 9: b"a later one"}, "model_sha256": "a" * 64, "card_sha256": "b" * 64}
    return make_chain(PLAN, rounds=[played(number) for number in rounds], **{**parts, **changes})


def check(links, *, head=None, plan=PLAN.fingerprint, model="a" * 64):
    verify_chain(links, head=head or head_of(chain()), plan_fingerprint=plan, model_sha256=model)


def test_a_chain_leads_from_the_plan_over_offers_and_rounds_to_the_model():
    links = json.loads(json.dumps(chain()))
    check(links)
    assert [link["kind"] for link in links] == ["plan", "offer", "offer", "round", "round", "model"]
    assert links[3]["content"] == {
        "round": 1,
        "completions": 2,
        "merchants": ["bakery", "florist"],
        "norm": 0.25,
        "checkpoint": f"{1:064d}",
    }


def every_change():
    """A chain with one value of one link changed, for every value."""
    for number, link in enumerate(chain()):
        for key in ("kind", "before", "hash"):
            changed = copy.deepcopy(chain())
            changed[number][key] = "0" * 64
            yield changed
        for key, value in link["content"].items():
            changed = copy.deepcopy(chain())
            changed[number]["content"][key] = [] if isinstance(value, list) else 99
            yield changed


def test_no_value_of_a_chain_can_be_changed():
    changes = list(every_change())
    assert len(changes) == 36
    for links in changes:
        with pytest.raises(ChainError):
            check(links)


def test_a_link_that_is_forged_with_its_hash_does_not_lead_to_the_signed_one():
    for number in range(len(chain()) - 1):
        links = chain()
        link = links[number]
        link["content"]["completions" if link["kind"] == "round" else "fingerprint"] = 99
        link["hash"] = links[number + 1]["before"] = _hash(link["kind"], link["content"], link["before"])
        with pytest.raises(ChainError, match=f"link {number + 2} of the chain was changed"):
            check(links)


def test_no_link_of_a_chain_can_be_left_out_or_moved():
    for number in range(len(chain())):
        with pytest.raises(ChainError):
            check(chain()[:number] + chain()[number + 1 :])
        with pytest.raises(ChainError):
            check([*chain()[:number], chain()[number], *chain()[number:]])


def test_a_whole_chain_of_other_contents_is_not_the_signed_one():
    with pytest.raises(ChainError, match="not the one that the platform signed"):
        check(chain(model_sha256="c" * 64))


@pytest.mark.parametrize("rounds", [(), (1,), (2,), (2, 1), (1, 1, 2), (1, 2, 3)])
def test_a_signed_chain_without_each_round_once_is_refused(rounds):
    links = chain(rounds)
    with pytest.raises(ChainError, match="rounds"):
        check(links, head=head_of(links))


@pytest.mark.parametrize("other", [{"plan": "0" * 64}, {"model": "0" * 64}])
def test_a_chain_of_another_plan_or_model_is_refused(other):
    with pytest.raises(ChainError, match="another plan or model"):
        check(chain(), **other)


@pytest.mark.parametrize(
    "links", [None, [], {}, "text", [1], [{}], [{"kind": 1, "content": 2, "before": 3, "hash": 4}]]
)
def test_what_is_no_chain_is_refused(links):
    with pytest.raises(ChainError):
        check(links)
