"""What checks predict: scipy's correlation, cuts by brute force, and problems that do not choose their own cut."""

import math
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from refine.bench.reporting.prediction import (
    HARM,
    Cut,
    Telling,
    best_cut,
    best_split,
    check_columns,
    evidence,
    fixed,
    leave_one_out,
    prior,
    raised,
    spearman,
    telling,
)
from refine.bench.reporting.statistics import cells, paired
from refine.diagnostics import check

from .synthetic import results

cell_values = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9, math.nan]), st.integers(-5, 50)), min_size=1)


class TestSpearman:
    @given(st.integers(0, 500))
    def test_it_is_scipys(self, seed):
        x, y = np.random.default_rng(seed).integers(0, 9, (2, 12)).astype(float)
        found = spearman(x, y)
        assert found.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        assert found.low <= found.high
        assert spearman(np.exp(x), y**3) == found  # ranks alone count
        assert spearman(x, -y).value == pytest.approx(-found.value)

    def test_p_is_near_that_of_all_permutations(self):
        x, y = np.arange(6.0), np.array([2.0, 1.0, 3.0, 6.0, 4.0, 5.0])
        found = spearman(x, y)
        exact = np.mean([abs(stats.spearmanr(x, p).statistic) >= found.value - 1e-12 for p in permutations(y)])
        assert found.p == pytest.approx(exact, abs=0.02)

    def test_the_interval_covers_a_true_correlation(self):
        rng = np.random.default_rng(4)
        x = rng.normal(size=200)
        found = spearman(x, x + 1.2 * rng.normal(size=200))
        truth = 6 / math.pi * math.asin(1 / math.hypot(1, 1.2) / 2)  # of a bivariate normal
        assert found.low < truth < found.high
        assert found.high - found.low < 0.25
        assert found.p < 0.001

    def test_what_says_nothing(self):
        nan = math.nan
        assert spearman([1, 2, 3], [1, 2, 3]) is None
        assert spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None
        assert spearman([1, 2, 3, 4], [1, 1, 1, 1]) is None
        assert spearman([1, 2, 3, 4, nan], [1, 2, nan, 3, 4]) is None
        assert spearman([1, 2, 3, 4, nan], [1, 2, 3, math.inf, 0]).n == 4


class TestCut:
    @given(cell_values)
    def test_none_is_better(self, rows):
        x, y = np.array(rows, dtype=float).T
        cut = best_cut(x, y)
        best = np.where(raised(cut, x), 0.0, y).sum()
        for side in ("below", "above"):
            for threshold in (-math.inf, 0.15, 0.3, 0.6, 0.95, math.inf):
                assert best <= np.where(raised(Cut(side, threshold), x), 0.0, y).sum()

    def test_what_is_chosen(self):
        assert best_cut([0.1, 0.5, 0.9], [9, 5, -1]) == Cut("below", 0.7)
        assert best_cut([0.1, 0.5, 0.9], [-1, -1, 3]) == Cut("above", 0.7)
        assert (
            best_cut([0.1, 0.5], [-1, -1]) == best_cut([math.nan], [9]) == best_cut([], []) == Cut("below", -math.inf)
        )
        assert best_cut([0.1, 0.5], [1, math.inf]) == Cut("above", -math.inf)

    def test_unknown_values_raise_nothing(self):
        x = np.array([math.nan, 0.1])
        assert (
            raised(Cut("below", math.inf), x).tolist() == raised(Cut("above", -math.inf), x).tolist() == [False, True]
        )


class TestLeaveOneOut:
    def test_cells_of_a_problem_go_together(self):
        """Alone in harm, b cannot warn itself: neither of its cells is judged by the other."""
        values, excess = [0.9, 0.8, 0.1, 0.1, 0.7], [-1.0, -1.0, 30.0, 40.0, -1.0]
        after, cuts = leave_one_out(values, excess, ["a", "a", "b", "b", "c"])
        assert after.tolist() == [-1.0, -1.0, 30.0, 40.0, -1.0]
        assert [cut.side for cut in cuts] == ["below"] * 3
        assert [cut.threshold for cut in cuts] == pytest.approx([0.4, -math.inf, 0.45])
        after, _ = leave_one_out(values, excess, ["a", "a", "b", "d", "c"])
        assert after.tolist() == [-1.0, -1.0, 0.0, 0.0, -1.0]

    @given(cell_values, st.randoms())
    def test_order_changes_nothing(self, rows, random):
        x, y = np.array(rows, dtype=float).T
        names = np.array([f"p{i // 2}" for i in range(x.size)])
        after, cuts = leave_one_out(x, y, names)
        order = list(range(x.size))
        random.shuffle(order)
        again, same = leave_one_out(x[order], y[order], names[order])
        assert again.tolist() == after[order].tolist()
        assert same == cuts

    def test_noise_predicts_nothing(self):
        rng = np.random.default_rng(0)
        values, excess = rng.normal(size=200), rng.choice([-1.0, 1.0], size=200)
        after, _ = leave_one_out(values, excess, np.arange(200).astype(str))
        chosen = np.where(raised(best_cut(values, excess), values), 0.0, excess)
        assert chosen.mean() < after.mean()  # judged on itself it looks better


class TestTelling:
    def test_perfectly_separable(self):
        x, y = np.arange(12.0), np.where(np.arange(12) < 5, 30.0, HARM)
        names = [f"p{i // 2}" for i in range(12)]
        assert telling(x, y, names) == Telling(12, 12, 1.0)
        assert telling(-x, y, names) == Telling(12, 12, 1.0)
        assert telling(3.0 * x + 1.0, y, names) == Telling(12, 12, 1.0)
        assert best_split(x, y > HARM) == Cut("below", 4.5)

    @pytest.mark.parametrize("value", [0.3, math.nan])
    @pytest.mark.parametrize("harmed", [1, 3, 9])
    def test_a_constant_check_tells_nothing(self, value, harmed):
        """Whatever the majority is: to say always the same is right on one kind alone."""
        y = np.where(np.arange(10) < harmed, 30.0, -1.0)
        assert telling([value] * 10, y, np.arange(10).astype(str)) == Telling(10, 10 - harmed, 0.5)

    def test_problems_do_not_tell_of_themselves(self):
        """Without b (0.8) the others put the threshold at 0.4, without e (0.7) at 0.85: both are told wrong."""
        x, y = [0.1, 0.1, 0.8, 0.9, 0.7], [9.0, 8.0, 7.0, -1.0, -1.0]
        assert telling(x, y, ["a", "d", "b", "c", "e"]) == Telling(5, 3, (2 / 3 + 1 / 2) / 2)

    def test_a_rare_kind_counts_as_much(self):
        x = np.array([0.1, 0.2, *np.linspace(1.0, 2.0, 18)])
        y = np.where(x < 0.5, 9.0, 0.0)
        y[-1] = 9.0
        found = telling(x, y, np.arange(20).astype(str))
        assert (found.right, found.balanced) == (19, pytest.approx((2 / 3 + 1) / 2))

    def test_noise_tells_nothing(self):
        rng = np.random.default_rng(1)
        x, y = rng.normal(size=200), rng.choice([0.0, 1.0], size=200)
        assert telling(x, y, np.arange(200).astype(str)).balanced < 0.57
        said = raised(best_split(x, y > HARM), x)
        assert (said == (y > HARM)).mean() > 0.55  # judged on itself it looks better

    def test_a_single_kind_cannot_be_told(self):
        assert telling([1, 2], [0, 0], ["a", "b"]) is None
        assert telling([1, 2], [9, math.inf], ["a", "b"]) is None
        assert telling([], [], []) is None
        assert best_split([0.1, 0.2], [True, True]) == Cut("below", -math.inf)


def test_fixed_thresholds_are_those_of_the_rules():
    values, excess = np.array([0.1, 0.29, 0.31, 1.0, 1.3, math.nan]), np.full(6, 7.0)
    raised = [any(f.raised for f in check({"rho": None if math.isnan(v) else v})) for v in values]
    assert fixed("rho", values, excess).tolist() == [0.0 if r else 7.0 for r in raised] == [0, 0, 7, 7, 0, 7]


def test_prior():
    assert [prior(m) for m in ("paper(linear)", "refined(refined(linear))", "linear")] == [
        "linear",
        "refined(linear)",
        "linear",
    ]


class TestEvidence:
    def test_it_joins_a_method_with_the_logs_it_was_refined_from(self):
        of = results(problems=3, seeds=3)
        found = cells(paired(of.runs))
        frame = evidence(found, of.logs, "unguarded(linear)")
        assert len(frame) == 6
        row = frame.iloc[0]
        logs = of.logs[(of.logs["problem"] == row["problem"]) & (of.logs["optimizer"] == row["optimizer"])]
        assert row["rho"] == logs.loc[logs["method"] == "linear", "rho"].median()
        expected = found[
            (found["problem"] == row["problem"])
            & (found["optimizer"] == row["optimizer"])
            & (found["method"] == "unguarded(linear)")
            & (found["rates"] == "swept")
        ]
        assert [row["excess"]] == expected["mean"].tolist()
        assert check_columns(frame)[:3] == ["points", "tiny norms", "rho"]

    def test_nothing_known(self):
        of = results(problems=2, seeds=2)
        found = cells(paired(of.runs))
        assert evidence(found, of.logs, "none(linear)").empty
        assert evidence(found, of.logs.iloc[:0], "unguarded(linear)").empty
        assert evidence(found, pd.DataFrame(columns=of.logs.columns[:6]), "unguarded(linear)").empty
