import datetime as dt
import math
import sqlite3

import pytest

from pp_model.protocol import RefusalCode
from server.aggregation import RejectionCode
from server.public_check import Finding, Verdict
from server.registry import Registry
from server.rounds import RoundOutcome
from tests.support.plans import tiny_plan

PLAN = tiny_plan()
NODE = 2**64 - 3  # node ids use all of 64 bits


def outcome(**changes) -> RoundOutcome:
    fields = {"round": 1, "cohort": 4, "completed": (9,), "update": {}, "norm": 0.5, "void": False}
    return RoundOutcome(**{**fields, **changes})


def published(registry: Registry, run: int, **changes) -> int:
    fields = {"file": "m", "sha256": "f" * 64, "epsilon": 1.5, "epsilon_two": 2.5, "parent": None}
    return registry.add_model(plan=PLAN, run=run, **{**fields, **changes})


def test_a_round_is_remembered_with_refusals_by_code_and_rejections_by_node(tmp_path):
    refusals = {1: RefusalCode.BUDGET, 2: RefusalCode.BUDGET, 3: RefusalCode.POLICY}
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        registry.record_round(
            run, outcome(refusals=refusals, rejections={NODE: RejectionCode.NORM}, void=True), seconds=2.5
        )
    with Registry(tmp_path / "registry.sqlite") as registry:
        (record,) = registry.rounds(run)
    assert (record.round, record.cohort, record.completions, record.void) == (1, 4, 1, True)
    assert (record.seconds, record.norm) == (2.5, 0.5)
    assert record.refusals == {"budget": 2, "policy": 1}
    assert record.rejections == {NODE: "norm"}


def test_a_round_that_is_played_again_is_another_line(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        registry.record_round(run, outcome(void=True), seconds=1.0)
        registry.record_round(run, outcome(), seconds=1.0)
        assert [(record.round, record.void) for record in registry.rounds(run)] == [(1, True), (1, False)]


def test_a_run_keeps_its_plan_and_how_it_ended(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        first = registry.start_run(PLAN, first_round=1)
        second = registry.start_run(PLAN, first_round=3)
        registry.end_run(first, "failed")
        assert registry.runs() == [
            (first, PLAN.fingerprint, 1, "failed"),
            (second, PLAN.fingerprint, 3, "running"),
        ]
        assert registry.plan(first) == PLAN


def test_a_model_keeps_its_price_and_its_lineage(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        parent = published(registry, run, sha256="a" * 64, epsilon=math.inf, epsilon_two=math.inf)
        child = published(registry, run, parent=parent)
        first, second = registry.models()
    assert (first.id, first.epsilon, first.parent) == (parent, math.inf, None)
    assert (second.id, second.epsilon, second.epsilon_two_merchants, second.delta) == (child, 1.5, 2.5, PLAN.delta)
    assert (second.plan_fingerprint, second.init_fingerprint) == (PLAN.fingerprint, PLAN.init_fingerprint)
    assert (second.parent, second.sha256, second.run) == (parent, "f" * 64, run)


def test_the_same_file_is_one_model_however_often_it_is_published(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        assert published(registry, run) == published(registry, run)
        assert len(registry.models()) == 1


@pytest.mark.parametrize(
    "changes", [{"parent": 99}, {"epsilon": math.nan}], ids=["an-unknown-parent", "an-epsilon-that-is-no-number"]
)
def test_a_model_without_a_known_price_or_parent_is_refused(tmp_path, changes):
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        with pytest.raises(sqlite3.IntegrityError):
            published(registry, run, **changes)
        assert registry.models() == []


def test_a_round_is_recorded_whole_or_not_at_all(tmp_path):
    class Broken:
        @property
        def value(self):
            raise RuntimeError("died here")

    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        with pytest.raises(RuntimeError):
            registry.record_round(run, outcome(rejections={1: Broken()}), seconds=1.0)
        assert registry.rounds(run) == []
        registry.record_round(run, outcome(), seconds=1.0)
        assert len(registry.rounds(run)) == 1


def test_the_largest_cohort_is_over_all_runs_of_the_plan_and_no_other(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        assert registry.largest_cohort(PLAN) == 0
        for plan, completions in ((PLAN, 3), (PLAN, 5), (tiny_plan(rounds=9), 8)):
            registry.record_round(
                registry.start_run(plan, first_round=1), outcome(completed=tuple(range(completions))), seconds=1.0
            )
        assert registry.largest_cohort(PLAN) == 5


def test_the_file_is_in_write_ahead_mode(tmp_path):
    with Registry(tmp_path / "sub" / "registry.sqlite"):
        pass
    database = sqlite3.connect(tmp_path / "sub" / "registry.sqlite")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_an_offender_is_kept_by_name_and_those_who_released_too(tmp_path):
    rejections = {NODE: RejectionCode.NOT_FINITE, 9: RejectionCode.NO_REPLY}
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        names = {NODE: "florist", 5: "bakery", 4: "café [x]"}
        registry.record_round(run, outcome(rejections=rejections, completed=(5, 4)), seconds=1.0, names=names)
        (record,) = registry.rounds(run)
    assert record.offenders == {"florist": "not_finite", "9": "no_reply"}
    assert record.merchants == ("bakery", "café [x]")


def test_the_rounds_that_made_a_model_are_the_last_of_each_number_that_left_a_state(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        first = registry.start_run(PLAN, first_round=1)
        registry.record_round(first, outcome(round=1), seconds=1.0)
        registry.record_checkpoint(first, 1, "a")
        registry.record_round(first, outcome(round=2, void=True), seconds=1.0)
        registry.record_round(first, outcome(round=2), seconds=1.0)  # and then it died, without a checkpoint
        second = registry.start_run(PLAN, first_round=2)
        registry.record_round(second, outcome(round=2), seconds=2.0)
        registry.record_checkpoint(second, 2, "b")
        other = registry.start_run(tiny_plan(rounds=9), first_round=1)
        registry.record_round(other, outcome(round=1), seconds=1.0)
        registry.record_checkpoint(other, 1, "c")
        rounds = registry.checkpointed_rounds(PLAN.fingerprint)
        assert [(entry.round, entry.seconds, entry.checkpoint) for entry in rounds] == [(1, 1.0, "a"), (2, 2.0, "b")]


def test_a_run_that_never_said_how_it_ended_failed_when_the_next_begins(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        registry.start_run(PLAN, first_round=1)
        registry.start_run(tiny_plan(rounds=9), first_round=1)
        registry.start_run(PLAN, first_round=2)
        assert [run.state for run in registry.run_records()] == ["failed", "running", "running"]


def test_a_run_shows_how_far_it_came(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=4)
        assert registry.run_records()[0].last_round == 3
        registry.record_round(run, outcome(round=4), seconds=1.0)
        registry.record_round(run, outcome(round=5, void=True), seconds=1.0)
        record = registry.run_records()[0]
        assert (record.plan_id, record.rounds, record.first_round, record.last_round) == ("tiny", 3, 4, 4)


def test_the_news_are_the_rounds_since_the_last_look(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        registry.record_round(run, outcome(round=1), seconds=1.0)
        ((last, _, _),) = registry.rounds_after(0)
        assert registry.rounds_after(last) == []
        registry.record_round(run, outcome(round=2), seconds=1.0)
        assert [(number, entry.round) for _, number, entry in registry.rounds_after(last)] == [(run, 2)]


def test_merchants_get_signed_models_alone_newest_first_and_what_was_signed_stays(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        first = published(registry, run, sha256="a" * 64, file="m1")
        second = published(registry, run, sha256="b" * 64, file="m2")
        published(registry, run, sha256="c" * 64)
        for model, manifest in ((first, b"one"), (second, b"two"), (first, b"changed")):
            registry.sign_model(model, manifest, f"card{model}")
        assert registry.manifests() == [b"two", b"one"]
        assert registry.manifest(first) == b"one"
        assert [model.signed for model in registry.models()] == [True, True, False]
        assert [str(registry.published_file("b" * 64, which)) for which in ("model", "card")] == ["m2", f"card{second}"]
        assert registry.published_file("c" * 64, "model") is None


def test_a_registry_of_an_earlier_version_is_brought_up_to_date(tmp_path):
    path = tmp_path / "registry.sqlite"
    with Registry(path) as registry:
        run = registry.start_run(PLAN, first_round=1)
        registry.record_round(run, outcome(rejections={7: RejectionCode.NORM}), seconds=1.0)
        published(registry, run)
    database = sqlite3.connect(path)
    added = {"rounds": ["merchants", "checkpoint"], "rejections": ["merchant"], "models": ["manifest", "card_file"]}
    for table, columns in added.items():
        for column in columns:
            database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    database.close()
    with Registry(path) as registry:
        (record,) = registry.rounds(run)
        assert (record.merchants, record.checkpoint, record.offenders) == ((), "", {"7": "norm"})
        (model,) = registry.models()
        registry.sign_model(model.id, b"signed", "card")
        assert registry.manifests() == [b"signed"]


def test_a_round_that_is_asked_for_has_a_deadline_until_it_is_recorded_or_the_run_ends(tmp_path):
    deadline = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
    with Registry(tmp_path / "registry.sqlite") as registry:

        def asked():
            return [(run.asked_round, run.deadline) for run in registry.run_records()]

        first = registry.start_run(PLAN, first_round=1)
        assert asked() == [(0, "")]
        registry.ask_round(first, 1, deadline=deadline)
        assert asked() == [(1, "2026-05-01T12:00:00+00:00")]
        registry.record_round(first, outcome(), seconds=1.0)
        assert asked() == [(0, "")]
        registry.ask_round(first, 2, deadline=deadline)
        second = registry.start_run(PLAN, first_round=2)  # the first was killed
        assert asked() == [(0, ""), (0, "")]
        registry.ask_round(second, 2, deadline=deadline)
        registry.end_run(second, "failed")
        assert asked() == [(0, ""), (0, "")]


def test_what_ends_is_recorded_with_its_time(tmp_path):
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        assert registry.run_records()[0].ended == ""
        registry.record_round(run, outcome(), seconds=1.0)
        published(registry, run)
        registry.end_run(run, "finished")
        times = [registry.rounds(run)[0].ended, registry.run_records()[0].ended, registry.models()[0].published]
    assert all(before <= dt.datetime.fromisoformat(time) <= dt.datetime.now(dt.UTC) for time in times)


def test_the_check_of_a_round_is_kept_beside_the_one_that_moved_the_model(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        registry.record_round(run, outcome(void=True), seconds=1.0)
        registry.record_round(run, outcome(), seconds=1.0)
        registry.record_check(run, 1, Verdict(log_loss=0.6, spend_error=math.inf), Finding.COLLAPSED)
        void, good = registry.rounds(run)
    assert (void.log_loss, void.spend_error, void.finding) == (None, None, "")
    assert (good.log_loss, good.spend_error, good.finding) == (0.6, math.inf, "collapsed")


def test_a_model_keeps_what_the_check_said_of_it(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        run = registry.start_run(PLAN, first_round=1)
        published(registry, run, sha256="a" * 64)
        published(registry, run, sha256="b" * 64, verdict=Verdict(log_loss=0.5, spend_error=1.5))
        assert [(model.log_loss, model.spend_error) for model in registry.models()] == [(None, None), (0.5, 1.5)]


def two_signed(registry: Registry) -> tuple[int, int]:
    run = registry.start_run(PLAN, first_round=1)
    made = [published(registry, run, sha256=letter * 64, file=f"m{letter}", parent=None) for letter in "ab"]
    for model in made:
        registry.sign_model(model, b"signed %d" % model, f"card{model}")
    return made[0], made[1]


def test_a_rollback_is_the_same_file_under_a_new_number_and_changes_nothing_that_was(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        first, second = two_signed(registry)
        before = registry.models()
        again = registry.add_rollback(first, lambda number: b"again %d" % number)
        assert registry.models()[:2] == before
        model = registry.models()[2]
        assert (model.id, model.rollback_of, model.sha256, model.file, model.signed) == (3, first, "a" * 64, "ma", True)
        assert registry.manifests() == [b"again %d" % again, b"signed %d" % second, b"signed %d" % first]
        assert [str(registry.published_file("a" * 64, which)) for which in ("model", "card")] == ["ma", "card1"]


def test_a_rollback_that_cannot_be_signed_leaves_nothing(tmp_path):
    def sign(number: int) -> bytes:
        raise RuntimeError("no key")

    with Registry(tmp_path / "registry.sqlite") as registry:
        first, _ = two_signed(registry)
        with pytest.raises(RuntimeError):
            registry.add_rollback(first, sign)
        assert len(registry.models()) == 2


def test_a_file_that_was_gone_back_to_is_still_the_model_that_it_was_first(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        first, _ = two_signed(registry)
        registry.add_rollback(first, lambda _: b"again")
        assert published(registry, registry.models()[0].run, sha256="a" * 64) == first


def test_the_quantiles_are_those_that_were_published_last(tmp_path):
    with Registry(tmp_path / "registry.sqlite") as registry:
        assert registry.market() is None
        registry.publish_market(b"one")
        registry.publish_market(b"two")
        assert registry.market() == b"two"


def test_who_only_reads_can_write_nothing_and_sees_what_is_written_meanwhile(tmp_path):
    path = tmp_path / "registry.sqlite"
    with Registry(path) as registry, Registry(path, read_only=True) as reader:
        registry.start_run(PLAN, first_round=1)
        assert len(reader.run_records()) == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.end_run(1, "failed")
