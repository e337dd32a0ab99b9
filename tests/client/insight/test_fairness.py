"""Fairness: gaps that are planted are found, what is chance or noise is called so, and small groups are marked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from client.insight.backtest import backtest
from client.insight.fairness import build
from client.insight.gaps import (
    DRAWS,
    LEAST_GROUP,
    NOTABLE,
    Gap,
    Group,
    NoisyModels,
    gaps_of,
    groups_of,
    noisy_models,
)
from pp_model.plan import TrainingPlan
from pp_model.serialization import Arrays
from tests.support.insight_shops import (
    day_before,
    figure,
    hand_made_test,
    insight_data,
    notes,
    regulars,
    rows_of_table,
)
from tests.support.plans import tiny_dp, tiny_server
from tests.support.scored import linear_model

ROWS = 2_000


def two_groups(*, number: int = ROWS, share: float = 0.5) -> tuple[np.ndarray, tuple[str, ...]]:
    """Every customer in "north" or "south", in turns."""
    return (np.arange(number) % 100 < 100 * share).astype(np.int32), ("south", "north")


def gap(gaps: list[Gap], name: str, measure: str) -> Gap:
    return next(each for each in gaps if each.group.name == name and each.measure == measure)


def all_gaps(probability: np.ndarray, bought: np.ndarray, of: tuple[np.ndarray, tuple[str, ...]]) -> list[Gap]:
    test = hand_made_test(probability=probability, bought=bought)
    return [each for group in groups_of("region", of, test) for each in gaps_of(group, test, {})]


def test_a_group_of_which_the_model_knows_nothing_stands_out():
    rng = np.random.default_rng(1)
    codes, names = two_groups()
    truth = rng.random(ROWS)
    bought = rng.random(ROWS) < truth
    said = np.where(codes == 1, truth, rng.random(ROWS))  # of the south it only guesses
    found = all_gaps(said, bought, (codes, names))
    south = gap(found, "south", "auc")
    assert south.own.holds(0.5)
    assert south.gap.high < -0.2
    assert south.verdict == "real"
    assert gap(found, "north", "auc").gap.value == pytest.approx(-south.gap.value)


def test_a_group_that_is_promised_too_much_has_a_gap_of_calibration():
    rng = np.random.default_rng(2)
    codes, names = two_groups()
    truth = rng.uniform(0.1, 0.8, ROWS)
    bought = rng.random(ROWS) < truth
    found = all_gaps(truth + 0.15 * (codes == 1), bought, (codes, names))
    north = gap(found, "north", "calibration")
    assert north.gap.low < 0.15 < north.gap.high
    assert north.own.holds(0.15)
    assert north.verdict == "real"


def test_groups_alike_have_gaps_that_are_called_chance():
    rng = np.random.default_rng(3)
    truth = rng.random(ROWS)
    found = all_gaps(truth, rng.random(ROWS) < truth, two_groups())
    assert {each.verdict for each in found} <= {"sampling", "none"}


def test_a_small_group_is_marked_whatever_its_gap_is():
    rng = np.random.default_rng(4)
    truth = rng.random(ROWS)
    codes = (np.arange(ROWS) < LEAST_GROUP - 1).astype(np.int32)
    found = all_gaps(np.where(codes == 1, 1 - truth, truth), rng.random(ROWS) < truth, (codes, ("rest", "few")))
    assert {each.verdict for each in found if each.group.name == "few"} == {"small"}
    rare = all_gaps(truth, (np.arange(ROWS) % 250 == 0) & (np.arange(ROWS) % 2 == 0), two_groups())
    assert {each.verdict for each in rare} == {"small"}  # enough customers, and hardly a buyer among them


def test_customers_of_whom_the_column_says_nothing_are_in_no_group():
    rng = np.random.default_rng(5)
    codes, names = two_groups()
    codes[:500] = -1
    test = hand_made_test(probability=rng.random(ROWS), bought=rng.random(ROWS) < 0.5)
    for group in groups_of("region", (codes, names), test):
        assert not group.inside[:500].any()
        assert not group.others[:500].any()
        assert (group.inside ^ group.others)[500:].all()


def noisy(probability: np.ndarray, *, worse_in: np.ndarray, by: float, seed: int = 6) -> NoisyModels:
    """Models like the one without noise, but for noise in the logits of one group."""
    rng = np.random.default_rng(seed)
    logit = np.log(probability / (1 - probability))[:, None] + np.zeros((1, 1 + DRAWS))
    logit[worse_in, 1:] += by * rng.standard_normal((int(worse_in.sum()), DRAWS))
    return NoisyModels(rows=np.arange(len(probability)), probability=1 / (1 + np.exp(-logit)))


def test_noise_that_hits_one_group_harder_widened_its_gap():
    rng = np.random.default_rng(7)
    codes, names = two_groups()
    truth = rng.uniform(0.05, 0.95, ROWS)
    bought = rng.random(ROWS) < truth
    models = noisy(truth, worse_in=codes == 0, by=2.0)
    test = hand_made_test(probability=models.probability[:, 1], bought=bought)
    south = next(group for group in groups_of("region", (codes, names), test) if group.name == "south")
    found = models.noise_of(south, bought)
    assert found["auc"].widening.low > 0.05
    assert gap(gaps_of(south, test, found), "south", "auc").verdict == "widened"
    calm = noisy(truth, worse_in=codes == 0, by=0.0).noise_of(south, bought)
    assert (calm["auc"].spread, calm["auc"].widening.value) == (0.0, 0.0)
    assert gap(gaps_of(south, test, calm), "south", "auc").verdict == "real"


def test_a_gap_that_another_draw_of_noise_could_have_made_is_called_noise():
    rng = np.random.default_rng(8)
    codes, names = two_groups()
    truth = rng.uniform(0.2, 0.8, ROWS)
    bought = rng.random(ROWS) < truth
    shift = np.concatenate([[0.0], 0.1 * rng.standard_normal(DRAWS)])  # each draw promises the north more, or less
    said = np.clip(truth[:, None] + shift * (codes == 1)[:, None] + 0.12 * (codes == 1)[:, None], 0.01, 0.99)
    test = hand_made_test(probability=said[:, 0], bought=bought)
    north = next(group for group in groups_of("region", (codes, names), test) if group.name == "north")
    noise = NoisyModels(rows=np.arange(ROWS), probability=said).noise_of(north, bought)
    assert noise["calibration"].spread == pytest.approx(np.std(shift[1:], ddof=1), rel=0.1)
    found = gap(gaps_of(north, test, noise), "north", "calibration")
    assert found.gap.low > 0.05  # no chance of sampling
    assert found.verdict == "noise"


def regional_shop(
    *, noise: float = 0.0, customers: int = 600, min_completions: int = 1
) -> tuple[object, tuple[TrainingPlan, Arrays]]:
    plan, arrays = linear_model(log_recency=-1.0)
    plan = dataclasses.replace(
        plan,
        dp=tiny_dp(sample_rate=1.0, noise_multiplier=noise, max_grad_norm=5.0),
        rounds=30,
        nominal_batch_size=250.0,
        server=tiny_server(
            optimizer="scalar_adam",
            learning_rate=0.012,
            final_learning_rate=0.0006,
            momentum=0.8,
            min_completions=min_completions,
        ),
    )
    codes = (np.arange(customers) % 2).astype(np.int32)
    data = insight_data(regulars(customers), model=(plan, arrays), slices={"region": (codes, ("south", "north"))})
    return data, (plan, arrays)


def test_a_report_on_a_noisy_plan_says_what_noise_did():
    made = build(regional_shop(noise=8.0)[0])
    rows = rows_of_table(made, "table.gaps")
    assert len(rows) == 4
    assert all(row["spread"] > 0 for row in rows)
    assert "fairness.note.method" in notes(made)
    assert "fairness.note.no_noise" not in notes(made)
    assert set(made.lists["groups"]["verdict"].to_pylist()) <= {"widened", "real", "noise", "sampling", "none", "small"}
    assert figure(made, "groups").value == 2


def test_a_plan_without_noise_has_none_to_blame():
    made = build(regional_shop()[0])
    assert all(row["spread"] is None for row in rows_of_table(made, "table.gaps"))
    assert "fairness.note.no_noise" in notes(made)
    assert figure(made, "widened").value == 0


def test_more_merchants_in_a_round_leave_less_of_the_noise():
    spreads = []
    for merchants in (1, 400):
        data, _ = regional_shop(noise=8.0, min_completions=merchants)
        test = backtest(data)
        group = groups_of("region", data.slices["region"], test)[0]
        spreads.append(noisy_models(data, test).noise_of(group, test.bought)["calibration"].spread)
    assert spreads[0] > 2 * spreads[1]


def test_orders_that_do_not_reach_back_far_enough_say_so():
    _, model = regional_shop(noise=8.0)
    recent = [order for order in regulars(600) if order.timestamp > day_before(50)]
    codes = (np.arange(600) % 2).astype(np.int32)
    made = build(
        insight_data(
            recent, model=model, slices={"region": (codes[: 1 + max(o.customer for o in recent)], ("south", "north"))}
        )
    )
    assert "fairness.note.no_history" in notes(made)
    assert made.report.empty is None


def test_without_a_declared_column_the_report_says_how_to_declare_one():
    assert build(insight_data(regulars(60))).report.empty.key == "fairness.empty.undeclared"


def test_charts_name_small_groups_as_such():
    codes = (np.arange(300) < 20).astype(np.int32)
    made = build(insight_data(regulars(300), slices={"region": (codes, ("rest", "few"))}))
    labels = [category if isinstance(category, str) else category.key for category in made.report.charts[0].categories]
    assert labels == ["rest", "fairness.small_group"]


def test_a_gap_below_a_point_of_a_hundred_is_hardly_any():
    group = Group(column="region", name="south", inside=np.ones(1, bool), others=np.ones(1, bool))
    from client.insight.intervals import Estimate

    tiny = Estimate(value=0.9 * NOTABLE, low=0.5 * NOTABLE, high=1.3 * NOTABLE)
    assert Gap(group=group, measure="auc", own=tiny, gap=tiny, noise=None, small=False).verdict == "none"


@pytest.mark.statistical
def test_groups_alike_hardly_ever_stand_out():
    """One gap in twenty holds no zero by chance; more than `stats.binom` allows at 1e-6 would be a fault."""
    rng, draws, wrong = np.random.default_rng(10), 300, 0
    for _ in range(draws):
        truth = rng.uniform(0.05, 0.95, 600)
        found = all_gaps(truth, rng.random(600) < truth, two_groups(number=600))
        wrong += not gap(found, "south", "auc").gap.holds(0.0)
    assert wrong <= stats.binom.ppf(1 - 1e-6, draws, 0.055)
