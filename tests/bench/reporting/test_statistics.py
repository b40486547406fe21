"""Pairs, ranks and hindsight: closed forms, tables of others, and laws."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from refine import RefineError
from refine.bench.reporting.statistics import (
    ARM,
    BASELINE,
    CELL,
    NULL,
    Arm,
    cells,
    family,
    hindsight,
    nemenyi,
    of_cells,
    paired,
    ranking,
    summary,
    verdict,
)

from .synthetic import results

COSINE, WSD = Arm("cosine", "tuned", "swept"), Arm("wsd", "tuned", "swept")

# Demsar (2006), table 6: AUC of C4.5 with -m and -cf tuned or not, on 14 data sets.
DEMSAR = """
.763 .768 .771 .798
.599 .591 .590 .569
.954 .971 .968 .967
.628 .661 .654 .657
.882 .888 .886 .898
.936 .931 .916 .931
.661 .668 .609 .685
.583 .583 .563 .625
.775 .838 .866 .875
1.000 1.000 1.000 1.000
.940 .962 .965 .962
.619 .666 .614 .669
.972 .981 .9751 .975
.957 .978 .946 .970
"""


def table(losses, optimizer="sgd", suite="convex"):
    """Runs from {problem: {arm: losses by seed}}; None is a missing run."""
    rows = [
        (suite, problem, optimizer, *arm, seed, loss)
        for problem, by_arm in losses.items()
        for arm, values in by_arm.items()
        for seed, loss in enumerate(values)
        if loss is not None
    ]
    return pd.DataFrame(rows, columns=[*CELL, *ARM, "seed", "loss"])


def one(losses):
    return cells(paired(table({"a": losses}))).set_index(ARM)


def rank(values):
    """Rank the columns of a table, lower is better."""
    arms = [Arm(f"m{j}", "", "swept") for j in range(len(values[0]))]
    rows = [
        ("convex", f"p{i}", "sgd", *arm, v) for i, row in enumerate(values) for arm, v in zip(arms, row, strict=True)
    ]
    return ranking(pd.DataFrame(rows, columns=[*CELL, *ARM, "mean"]))


class TestPairs:
    def test_closed_form(self):
        found = one({BASELINE: [1.0, 2.0, 4.0], COSINE: [1.01, 2.04, 4.12]}).loc[COSINE]
        assert found["mean"] == pytest.approx(2.0, rel=1e-12)
        assert found["se"] == pytest.approx(1.0 / math.sqrt(3.0), rel=1e-12)
        assert (found["pairs"], found["verdict"]) == (3, "loss")

    def test_against_a_paired_t_test(self):
        rng = np.random.default_rng(0)
        linear = 1 + rng.random(9)
        other = linear * (1 + 0.1 * rng.normal(size=9))
        found = one({BASELINE: linear, WSD: other}).loc[WSD]
        assert found["mean"] / found["se"] == pytest.approx(stats.ttest_rel(other / linear, np.ones(9)).statistic)

    def test_only_seeds_that_both_have(self):
        found = one({BASELINE: [1.0, None, 1.0, 1.0], COSINE: [0.9, 5.0, 0.8, None]}).loc[COSINE]
        assert (found["mean"], found["pairs"]) == (pytest.approx(-15.0), 2)

    def test_a_single_pair_tells_nothing(self):
        found = one({BASELINE: [1.0], COSINE: [0.1]}).loc[COSINE]
        assert (found["mean"], found["verdict"]) == (pytest.approx(-90.0), "tie")
        assert math.isnan(found["se"])

    @pytest.mark.parametrize("lost", [math.inf, math.nan])
    def test_divergence(self, lost):
        found = one({BASELINE: [1.0, 1.0], COSINE: [lost, 0.1]}).loc[COSINE]
        assert (found["mean"], found["diverged"], found["verdict"]) == (math.inf, 1, "loss")
        assert math.isnan(found["se"])
        found = one({BASELINE: [lost, lost], COSINE: [0.1, 0.2], WSD: [lost, lost]})
        assert (found.loc[COSINE, "mean"], found.loc[COSINE, "verdict"]) == (-100.0, "win")
        assert (found.loc[WSD, "mean"], found.loc[WSD, "diverged"], found.loc[WSD, "verdict"]) == (0.0, 0, "tie")

    def test_losses_of_zero(self):
        found = one({BASELINE: [0.0, 0.0], COSINE: [0.0, 0.0], WSD: [0.0, 1.0]})
        assert found.loc[COSINE, "mean"] == 0.0
        assert found.loc[WSD, "mean"] == math.inf

    @pytest.mark.parametrize(
        ("mean", "error", "expected"),
        [(0.0, 0.0, "tie"), (2.0, 1.0, "tie"), (2.01, 1.0, "loss"), (-2.01, 1.0, "win"), (-1.0, 0.0, "win")],
    )
    def test_two_standard_errors(self, mean, error, expected):
        assert verdict(mean, error) == expected

    @given(st.integers(0, 1000), st.floats(1e-3, 1e3))
    def test_units_and_order_of_runs_change_nothing(self, seed, scale):
        rng = np.random.default_rng(seed)
        runs = table({"a": {BASELINE: 1 + rng.random(5), COSINE: 1 + rng.random(5), WSD: 1 + rng.random(5)}})
        found = cells(paired(runs))
        again = cells(paired(runs.assign(loss=scale * runs["loss"]).sample(frac=1.0, random_state=seed)))
        pd.testing.assert_frame_equal(found, again, rtol=1e-9, atol=1e-9)

    def test_no_baseline(self):
        message = "the runs lack linear, tuned, swept, to which all are compared; train it"
        with pytest.raises(RefineError, match=f"^{message}$"):
            paired(table({"a": {COSINE: [1.0]}}))
        message = r"b with sgd \(convex\) has no run of linear, tuned, swept, to which all are compared; train it"
        with pytest.raises(RefineError, match=f"^{message}$"):
            paired(table({"a": {BASELINE: [1.0]}, "b": {COSINE: [1.0]}}))

    def test_a_run_twice(self):
        runs = table({"a": {BASELINE: [1.0]}})
        message = "the runs hold convex, a, sgd, 0, linear, tuned, swept twice; give each folder of results once"
        with pytest.raises(RefineError, match=f"^{message}$"):
            paired(pd.concat([runs, runs]))

    def test_summary(self):
        found = cells(
            paired(
                table(
                    {
                        "a": {BASELINE: [1.0, 1.0], COSINE: [0.9, 0.9]},
                        "b": {BASELINE: [1.0, 1.0], COSINE: [1.3, 1.3]},
                        "c": {BASELINE: [1.0, 1.0], COSINE: [1.0, 1.02]},
                        "d": {BASELINE: [1.0, 1.0]},
                    }
                )
            )
        )
        s = summary(found).loc[COSINE]
        assert s[["cells", "wins", "ties", "losses", "diverged"]].tolist() == [3, 1, 1, 1, 0]
        assert s[["mean", "median", "worst"]].tolist() == pytest.approx([7.0, 1.0, 30.0])


class TestRanks:
    @pytest.mark.parametrize(
        ("k", "q"),
        list(enumerate([1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164], start=2)),
    )
    def test_critical_values_are_those_of_demsars_table_5(self, k, q):
        assert nemenyi(k) == pytest.approx(q, abs=1e-3)

    def test_demsars_example(self):
        """Section 3.2.2: average ranks, chi^2 = 9.28; CD = 1.25, and the best and the worst are not told apart."""
        found = rank([[-float(v) for v in line.split()] for line in DEMSAR.split("\n") if line])
        expected = {"m0": 3.143, "m1": 2.000, "m2": 2.893, "m3": 1.964}
        assert {a.method: r for a, r in zip(found.names, found.ranks, strict=True)} == pytest.approx(expected, abs=6e-4)
        assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
        assert found.groups == ((0, 3),)
        r = np.array(list(expected.values()))
        assert 12 * 14 / 20 * (np.sum(r**2) - 25) == pytest.approx(9.28, abs=0.02)  # he does not correct for ties
        assert found.statistic == pytest.approx(10.228346, rel=1e-6)  # scipy.stats.friedmanchisquare

    def test_friedman_is_scipys(self):
        rng = np.random.default_rng(1)
        values = rng.integers(0, 4, (12, 5)).astype(float)
        found = rank(values)
        assert found.statistic == pytest.approx(stats.friedmanchisquare(*values.T).statistic, rel=1e-12)

    def test_agreement_and_ties(self):
        found = rank([[1.0, 2.0, 3.0]] * 10)
        assert (found.statistic, found.p) == (20.0, 0.0)
        assert found.groups == ((0, 1), (1, 2))
        assert found.critical_difference == pytest.approx(nemenyi(3) * math.sqrt(12 / 60), rel=1e-12)
        found = rank([[1.0, 1.0, 1.0]] * 10)
        assert (found.statistic, found.p, found.groups) == (0.0, 1.0, ((0, 2),))
        assert rank([[1.0, math.inf, math.inf]] * 4).ranks.tolist() == [1.0, 2.5, 2.5]

    def test_who_lacks_a_cell_is_left_out(self):
        losses = {
            "a": {BASELINE: [1.0], COSINE: [2.0], WSD: [0.5]},
            "b": {BASELINE: [1.0], COSINE: [2.0]},
        }
        found = ranking(cells(paired(table(losses))))
        assert (found.names, found.left_out, found.cells) == ((BASELINE, COSINE), (WSD,), 2)
        assert ranking(cells(paired(table({"a": losses["a"]})))) is None
        assert ranking(cells(paired(table({"a": {BASELINE: [1.0]}, "b": {BASELINE: [1.0]}})))) is None

    def test_the_control_is_not_ranked(self):
        losses = {BASELINE: [1.0], COSINE: [2.0], Arm(NULL, "tuned", "swept"): [0.5]}
        found = ranking(cells(paired(table({"a": losses, "b": losses}))))
        assert (found.names, found.left_out, found.ranks.tolist()) == ((BASELINE, COSINE), (), [1.0, 2.0])

    @given(st.integers(0, 1000), st.permutations(range(6)))
    def test_names_and_monotone_scales_change_nothing(self, seed, order):
        values = np.random.default_rng(seed).normal(size=(7, 6))
        found, other = rank(values), rank(np.exp(values[:, order]))
        assert other.ranks == pytest.approx(found.ranks)
        assert other.statistic == pytest.approx(found.statistic)
        back = {f"m{j}": f"m{i}" for j, i in enumerate(order)}
        if np.unique(found.ranks).size == 6:
            assert [back[arm.method] for arm in other.names] == [arm.method for arm in found.names]
        assert found.ranks.mean() == pytest.approx(3.5)

    @given(st.lists(st.floats(1, 10), min_size=2, max_size=8))
    def test_groups_hold_exactly_the_pairs_that_are_not_told_apart(self, means):
        found = rank(np.random.default_rng(len(means)).normal(size=(9, len(means))) + np.array(means))
        for i in range(len(means)):
            for j in range(i, len(means)):
                together = any(a <= i and j <= b for a, b in found.groups)
                assert together == (found.ranks[j] - found.ranks[i] <= found.critical_difference)


class TestHindsight:
    def test_closed_form(self):
        """Seeds 0 and 2 choose cosine (-20, -10), measured +5 and -1; seeds 1 and 3 choose wsd, measured +4, +2."""
        losses = {
            BASELINE: [1.0, 1.0, 1.0, 1.0],
            COSINE: [0.8, 1.05, 0.9, 0.99],
            WSD: [1.04, 0.9, 1.02, 0.9],
        }
        found = hindsight(paired(table({"a": losses})), [BASELINE, COSINE, WSD])
        assert found["gain"].tolist() == pytest.approx([-(2.0 + 3.0) / 2])
        assert found["chosen"].tolist() == ["cosine / wsd"]

    def test_noise_is_no_gain(self):
        rng = np.random.default_rng(2)
        arms = [BASELINE, *(Arm(f"m{j}", "", "swept") for j in range(20))]
        losses = {f"p{i}": {arm: 1 + 0.01 * rng.normal(size=8) for arm in arms} for i in range(60)}
        gain = hindsight(paired(table(losses)), arms)["gain"]
        assert abs(gain.mean()) < 3 * gain.std() / math.sqrt(60)
        best = cells(paired(table(losses))).groupby("problem")["mean"].min()
        assert best.mean() < -0.4  # what choosing and measuring on the same seeds would claim

    def test_the_baseline_alone_gains_nothing(self):
        found = paired(table({"a": {BASELINE: [1.0, 2.0], COSINE: [0.1, None]}, "b": {BASELINE: [1.0]}}))
        assert hindsight(found, [BASELINE])["gain"].tolist() == [0.0]
        assert hindsight(found, [BASELINE, COSINE]).empty  # they share a single seed

    def test_fewer_seeds_cut_the_others(self):
        """On seeds 0 and 2, which all have, cosine wins both ways; seeds 1 and 3, of linear and wsd alone, say wsd."""
        losses = {"a": {BASELINE: [1.0] * 4, COSINE: [0.8, None, 0.9, None], WSD: [1.0, 0.1, 1.0, 0.1]}}
        found = hindsight(
            paired(table(losses | {"b": {BASELINE: [1.0, 1.0], WSD: [0.5, 0.7]}})), [BASELINE, COSINE, WSD]
        )
        assert found["gain"].tolist() == pytest.approx([15.0, 40.0])
        assert found["chosen"].tolist() == ["cosine", "wsd"]  # and who has no seed of b is no candidate there

    def test_the_control_is_no_candidate(self):
        null = Arm(NULL, "tuned", "swept")
        found = paired(table({"a": {BASELINE: [1.0, 1.0], null: [0.1, 0.1]}}))
        assert hindsight(found, [BASELINE, null])["gain"].tolist() == [0.0]
        assert hindsight(found, [null]).empty


def test_cells_of_a_group():
    found = paired(results(problems=2, seeds=2).runs)
    sgd = cells(found).query("family == 'sgd'")
    assert set(of_cells(found, sgd).index.get_level_values("optimizer")) == {"sgd"}
    assert len(of_cells(found, sgd)) == 4


def test_family():
    names = ("sgd", "SGD", "sgd, momentum", "adam", "adamw", "adamw, clipped")
    assert [family(n) for n in names] == ["sgd"] * 3 + ["adam"] * 3
