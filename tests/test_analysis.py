import json
from functools import partial
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refine import GradientNorms, RefineError, Schedule, cosine, linear, read_norms, refined_schedule
from refine.analysis import Mode
from refine.bound import best_omega
from refine.diagnostics import RULES, check
from refine.prior import read_prior
from refine.refinement import inverse_squared_norms, refined_multiplier
from refine.smoothing import smooth
from refine.transfer import peak_ratio_by_bound

T = 500
EARLY = 1 + 4 * np.exp(-np.arange(T) / 20)
FALLING = np.exp(-3 * np.arange(T) / T)
refined = partial(refined_schedule, mode="refined")
values_lists = st.lists(st.floats(1e-8, 1e8), min_size=2, max_size=60)


def flags(result):
    return {(f.rule.name, f.rule.side): f for f in result.flags}


def test_the_refined_mode_is_theorem_3_on_reflected_norms_with_a_warmup_floor():
    result = refined(EARLY, optimizer="sgd")
    assert (result.mode, result.decision, result.warmup_steps) == ("refined", "refined", 10)
    expected = refined_multiplier(inverse_squared_norms(smooth(EARLY), optimizer="sgd"))
    after = result.schedule.multiplier[9:]
    assert_allclose(after / after[0], expected[9:] / expected[9], rtol=1e-9)
    assert_allclose(result.schedule.multiplier[:10], after[0] * np.arange(1, 11) / 10, rtol=1e-9)


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("total_steps", [None, 7, 4000])
def test_constant_norms_give_linear_decay_in_every_mode(mode, total_steps):
    norms = GradientNorms.from_values(np.full(T, 3.0), learning_rate=np.linspace(1, 0.01, T))
    result = refined_schedule(norms, mode=mode, total_steps=total_steps)
    assert_allclose(result.schedule.multiplier, linear(total_steps or T).multiplier, rtol=1e-11)


@given(
    values_lists,
    st.sampled_from(["sgd", "adam"]),
    st.sampled_from([("refined", True), ("refined", False), ("paper", True), ("auto", True)]),
    st.floats(1e-3, 1e3),
)
def test_scale_never_matters_and_multipliers_are_positive(values, family, how, scale):
    mode, guard = how
    one, other = (
        refined_schedule(np.multiply(values, s), optimizer=family, mode=mode, guard=guard) for s in (1.0, scale)
    )
    h = one.schedule.multiplier
    assert h.size == one.norms.total_steps
    assert np.all(np.isfinite(h))
    assert np.all(h > 0)
    assert h.max() == 1.0
    if one.decision == other.decision:  # a flag may stand on its threshold
        assert_allclose(other.schedule.multiplier, h, rtol=1e-9, atol=1e-14)


def test_sparse_logs_give_a_schedule_for_all_updates():
    dense = refined(GradientNorms.from_values(EARLY), optimizer="adam")
    every_10th = GradientNorms.from_values(EARLY[9::10], np.arange(10, T + 1, 10))
    sparse = refined(every_10th, optimizer="adam")
    assert sparse.schedule.total_steps == T
    assert np.abs(sparse.schedule.multiplier - dense.schedule.multiplier).max() < 0.1


def test_the_guard_returns_linear_decay_with_the_warmup_and_says_so_first():
    result = refined(FALLING, optimizer="sgd")
    assert result.decision == "linear"
    assert [f.rule.name for f in result.fell_back] == ["rho"]
    assert_allclose(result.schedule.multiplier, linear(T, warmup_steps=10).multiplier, rtol=1e-11)
    first_line = result.summary().splitlines()[0]
    assert first_line == "linear decay with warmup, NOT refined, for 500 updates: rho 0.0629 is below 0.3"
    insisted = refined(FALLING, optimizer="sgd", guard=False)
    assert insisted.decision == "refined"
    assert insisted.summary().startswith("refined schedule for 500 updates, against the guard's advice")
    assert flags(insisted)["rho", "below"].raised


def test_flags_of_a_rejected_schedule_are_no_warnings():
    late = np.where(np.arange(T) < T // 2, 10.0, 1.0)
    result = refined(late, optimizer="sgd")
    assert flags(result)["peak position", "above"].raised
    assert [w.split(" is ")[0] for w in result.warnings] == ["rho"]
    assert len(refined(late, optimizer="sgd", guard=False).warnings) > 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    "values",
    [
        np.where(np.arange(T) == 250, 1e-80, 1.0),
        np.where(np.arange(T) == 250, 1e-160, 1.0),
        np.where(np.arange(T) == 250, 1e170, 1.0),
        np.geomspace(1.0, 1e100, T),
        np.geomspace(1e100, 1e-200, T),
    ],
)
def test_norms_that_are_worlds_apart(values, optimizer):
    for mode, guard in (("auto", True), ("refined", True), ("refined", False)):
        result = refined_schedule(values, optimizer=optimizer, mode=mode, guard=guard)
        assert np.all(result.schedule.multiplier > 0)
        assert result.summary()
        json.dumps(result.to_dict(), allow_nan=False)


def test_degenerate_norms_fall_back():
    separable = np.ones(T)
    separable[100:200] = 1e-9
    result = refined(separable, optimizer="adam")
    assert result.decision == "linear"
    assert "tiny norms" in [f.rule.name for f in result.fell_back]
    few = refined(np.ones(19), optimizer="adam")
    assert [f.rule.name for f in few.fell_back] == ["points"]
    assert refined(np.ones(20), optimizer="adam").decision == "refined"


@pytest.mark.parametrize("mode", ["auto", "paper", "progress", "linear"])
def test_the_guard_is_for_the_refined_mode_only(mode):
    norms = GradientNorms.from_values(FALLING, learning_rate=np.linspace(1, 0.01, T))
    result = refined_schedule(norms, optimizer="sgd", mode=mode)
    assert result.fell_back == ()
    assert result.decision == ("linear" if mode in ("auto", "linear") else "refined")


def test_values_and_thresholds_of_the_flags():
    result = refined(EARLY, optimizer="sgd", guard=False)
    found = flags(result)
    smoothed = smooth(EARLY)
    assert found["rho", "below"].value == pytest.approx(smoothed[-1] / smoothed[25])
    assert found["points", "below"].value == T
    assert found["spikes", "above"].value == pytest.approx(np.mean(EARLY**2) / np.mean(smoothed**2))
    assert found["longest gap", "above"].value == 0
    h = refined_multiplier(1 / smoothed**2)
    assert found["first multiplier", "below"].value == pytest.approx(h[0])
    assert found["bound gain", "above"].value == pytest.approx(
        best_omega(linear(T).multiplier, smoothed**2) / best_omega(h, smoothed**2)
    )
    raw_best = refined_multiplier(1 / EARLY**2)
    assert found["raw bound", "above"].value == pytest.approx(best_omega(h, EARLY**2) / best_omega(raw_best, EARLY**2))
    assert [f.rule for f in result.flags] == list(RULES)


def test_every_rule_can_be_raised_and_left():
    for rule in RULES:
        over, under = rule.threshold * 1.01, rule.threshold * 0.99
        bad, good = (over, under) if rule.side == "above" else (under, over)
        for value, raised in ((bad, True), (good, False), (rule.threshold, False), (None, False)):
            (flag,) = [f for f in check({rule.name: value}) if f.rule == rule]
            assert flag.raised is raised
        assert {r.name for r in RULES if r.action == "fall back"} == {"points", "tiny norms", "rho"}


def test_gains_compare_best_bounds_on_reflected_norms():
    result = refined_schedule(EARLY, optimizer="sgd", mode="paper")
    n = smooth(EARLY) ** 2
    own = best_omega(result.schedule.multiplier, n)
    assert result.gain_over_linear == pytest.approx(best_omega(linear(T).multiplier, n) / own)
    assert result.gain_over_cosine == pytest.approx(best_omega(cosine(T).multiplier, n) / own)
    warmed = refined(EARLY, optimizer="sgd")
    others = (family(T, warmup_steps=10).multiplier for family in (linear, cosine))
    own = best_omega(warmed.schedule.multiplier, n)
    expected = [best_omega(other, n) / own for other in others]
    assert [warmed.gain_over_linear, warmed.gain_over_cosine] == pytest.approx(expected)
    assert refined(np.ones(T)).gain_over_linear == pytest.approx(1.0)


def test_another_horizon_keeps_the_shape_and_the_warmup_in_steps():
    norms = GradientNorms.from_values(EARLY, learning_rate=np.minimum(np.arange(1, T + 1) / 50, 1.0))
    result = refined(norms, optimizer="adam", total_steps=10 * T)
    assert result.schedule.total_steps == 10 * T
    assert result.warmup_steps == 50
    long, short = result.schedule.multiplier, refined(norms, optimizer="adam").schedule.multiplier
    assert np.abs(long[500::10] - short[50:]).max() < 0.01
    assert any("5000 updates instead of the logged 500" in note for note in result.notes)


class TestWarmup:
    @pytest.mark.parametrize("mode", ["auto", "refined"])
    def test_it_is_never_shorter_than_the_logged_one(self, mode):
        for logged in (1, 2, 33, 200):
            rates = np.minimum(np.arange(1, T + 1) / logged, np.linspace(1.0, 0.5, T))
            norms = GradientNorms.from_values(EARLY, learning_rate=rates)
            peak = int(np.argmax(rates)) + 1
            result = refined_schedule(norms, optimizer="sgd", mode=mode)
            assert result.warmup_steps == (peak if peak > 1 else 0)
            h = result.schedule.multiplier
            assert np.all(h[:peak] <= (np.arange(1, peak + 1) / peak) * (1 + 1e-9))
            assert not any("warmup" in a for a in result.assumptions)

    def test_without_rates_it_is_2_percent_and_that_is_said(self):
        result = refined_schedule(EARLY)
        assert result.warmup_steps == 10
        assert any(a.startswith("warmup 2% of the steps") for a in result.assumptions)

    def test_paper_mode_has_none(self):
        result = refined_schedule(EARLY, mode="paper")
        assert result.warmup_steps == 0
        assert not any("warmup" in a for a in result.assumptions)

    def test_a_warmup_that_leaves_no_anneal_is_refused_and_a_long_one_noted(self):
        rates = np.minimum(np.arange(1, T + 1) / 100, 1.0)
        norms = GradientNorms.from_values(EARLY, learning_rate=rates)
        with pytest.raises(
            RefineError, match="warmed up for 100 updates and the next run has 100; that leaves no anneal"
        ):
            refined_schedule(norms, total_steps=100)
        result = refined_schedule(norms, total_steps=150)
        assert result.warmup_steps == 100
        assert any("takes more than half of the 150" in note for note in result.notes)
        asked = refined_schedule(norms, total_steps=100, prior_schedule="linear:warmup_steps=50")
        assert asked.warmup_steps == 50

    def test_a_log_whose_first_row_is_at_the_peak_gets_that_long_a_warmup(self):
        steps = np.arange(5, T + 1, 5)
        norms = GradientNorms.from_values(EARLY[4::5], steps, learning_rate=np.linspace(1.0, 0.1, steps.size))
        result = refined_schedule(norms)
        assert result.warmup_steps == 5
        assert any("the first logged rate, of update 5, is the peak already" in w for w in result.warnings)
        dense = refined_schedule(GradientNorms.from_values(EARLY, learning_rate=np.linspace(1.0, 0.1, T)))
        assert dense.warmup_steps == 0


class TestOptimizer:
    def test_given(self):
        result = refined_schedule(EARLY, optimizer="sgd")
        assert (result.optimizer, result.optimizer_source) == ("sgd", "given")

    def test_assumed_is_said_first_and_recorded(self):
        result = refined_schedule(EARLY)
        assert (result.optimizer, result.optimizer_source) == ("adam", "assumed")
        assert "ASSUMED optimizer adam (--optimizer)" in result.summary().splitlines()[0]
        assert result.schedule.provenance["optimizer_source"] == "assumed"
        assert result.schedule.provenance["assumptions"][0].startswith("optimizer adam")

    def test_from_a_log_of_l1_norms_only(self, make_log):
        rows = "".join(f"{t},1,2\n" for t in range(1, 40))
        result = refined_schedule(read_norms(make_log("step,gnorm_l1,loss\n" + rows)))
        assert (result.optimizer, result.optimizer_source) == ("adam", "log")
        both = refined_schedule(read_norms(make_log("step,gnorm_l1,gnorm\n" + rows)))
        assert (both.optimizer, both.optimizer_source, both.norms.kind) == ("adam", "assumed", "l1")

    def test_from_a_column_name(self, make_log):
        log = make_log("step,grad_norm,lr-SGD\n" + "".join(f"{t},1,0.1\n" for t in range(1, 40)))
        result = refined_schedule(read_norms(log))
        assert (result.optimizer, result.optimizer_source) == ("sgd", "log")

    def test_sgd_on_an_l1_norm_is_noted(self):
        result = refined_schedule(GradientNorms.from_values(EARLY, kind="l1"), optimizer="sgd")
        assert "SGD wants the l2 norm and the log holds the l1 norm" in result.warnings


class TestPeakLearningRate:
    RATES = 0.3 * linear(T, warmup_steps=20).multiplier

    def test_equal_area(self):
        norms = GradientNorms.from_values(EARLY, learning_rate=self.RATES)
        result = refined(norms, optimizer="sgd")
        old, new = linear(T, warmup_steps=20).multiplier.mean(), result.schedule.multiplier.mean()
        assert result.peak_lr_ratio == pytest.approx(old / new)
        assert result.to_dict()["suggested_peak_lr"] == pytest.approx(0.3 * old / new)

    @pytest.mark.parametrize("total_steps", [None, 3 * T])
    @pytest.mark.parametrize(("optimizer", "power"), [("sgd", 2), ("adam", 1)])
    def test_by_the_bound_on_the_raw_norms_whatever_the_horizon(self, optimizer, power, total_steps):
        noisy = EARLY * np.exp(np.random.default_rng(0).normal(0, 0.3, T))
        norms = GradientNorms.from_values(noisy, learning_rate=self.RATES)
        result = refined(norms, optimizer=optimizer, total_steps=total_steps)
        old, new = linear(T, warmup_steps=20).multiplier, result.schedule.resample(T).multiplier
        expected = peak_ratio_by_bound(old, new, noisy**power)
        assert result.peak_lr_ratio_by_bound == pytest.approx(expected, rel=1e-6 if total_steps is None else 0.02)
        found = result.to_dict()
        assert found["suggested_peak_lr_by_bound"] == pytest.approx(0.3 * result.peak_lr_ratio_by_bound)
        assert f"{result.peak_lr_ratio_by_bound:.2f} times by the bound on the raw norms" in result.summary()
        assert f"{result.peak_lr_ratio_by_bound / result.peak_lr_ratio:.2f} of the above" in result.summary()

    def test_a_near_separable_log_gets_a_warning_instead(self):
        falling = np.exp(-np.arange(T) / (T / 5))
        for mode in ("auto", "refined", "paper", "linear"):
            rates = cosine(T, warmup_steps=20).multiplier
            result = refined_schedule(GradientNorms.from_values(falling, learning_rate=rates), mode=mode)
            assert (result.peak_lr_ratio, result.peak_lr_ratio_by_bound) == (None, None)
            assert any(w.startswith("near-separable") for w in result.warnings)
            assert "no suggestion, every rule fails on norms that fall this far" in result.summary()

    @pytest.mark.parametrize("rate_error", [0.0, 0.009, 0.02])
    def test_the_schedule_that_was_logged_needs_no_rule(self, rate_error):
        """However far the norms fall: the peak is the old one."""
        falling = np.exp(-np.arange(T) / (T / 5))
        rates = self.RATES * np.where(np.arange(T) == 40, 1.0 - rate_error / linear(T, warmup_steps=20).at(40), 1.0)
        result = refined_schedule(GradientNorms.from_values(falling, learning_rate=rates))
        assert result.decision == "linear"
        assert result.peak_lr_ratio == (1.0 if rate_error < 0.01 else None)
        assert result.peak_lr_ratio_by_bound is None
        assert any(w.startswith("near-separable") for w in result.warnings) == (rate_error > 0.01)

    def test_unknown_rates_stay_unknown(self):
        result = refined_schedule(EARLY)
        assert result.peak_lr_ratio is None
        assert result.to_dict()["prior"] is None
        assert "no suggestion, the logged run has unknown rates" in result.summary()

    def test_the_caller_may_know_them(self):
        result = refined(EARLY, prior_schedule="linear:warmup_steps=20", peak_lr=0.3)
        logged = refined(GradientNorms.from_values(EARLY, learning_rate=self.RATES))
        assert result.peak_lr_ratio == pytest.approx(logged.peak_lr_ratio)
        assert result.warmup_steps == 20
        assert result.schedule == logged.schedule
        assert result.to_dict()["prior"] == "linear:warmup_steps=20"
        given_schedule = refined(EARLY, prior_schedule=Schedule(self.RATES / 0.3))
        assert given_schedule.schedule == logged.schedule

    def test_what_the_caller_says_wins_over_the_log_and_that_is_said(self):
        norms = GradientNorms.from_values(EARLY, learning_rate=self.RATES)
        result = refined_schedule(norms, prior_schedule="cosine")
        assert (result.warmup_steps, result.prior.peak_lr) == (0, pytest.approx(0.3))
        assert "of the logged learning rates only the peak is used: the prior schedule is given" in result.warnings
        result = refined_schedule(norms, peak_lr=0.5)
        assert result.prior.peak_lr == 0.5
        assert "the peak learning rate is 0.5, as given; the log says 0.3" in result.warnings
        assert not any("peak learning rate is" in w for w in refined_schedule(norms, peak_lr=0.3).warnings)

    def test_a_constant_rate_gets_no_suggestion(self):
        rates = np.minimum(np.arange(1, T + 1) / 20, 1.0)
        rates[-1] = 0.0
        result = refined(GradientNorms.from_values(EARLY, learning_rate=rates))
        assert result.prior.is_constant
        assert result.peak_lr_ratio is None
        assert any("kept a constant rate: no peak learning rate is suggested" in w for w in result.warnings)
        # The bound has a number; it is shown as untried.
        assert result.peak_lr_ratio_by_bound > 1.5
        assert "no suggestion, equal area fails after a constant rate" in result.summary()
        assert "not tried on such logs" in result.summary()

    def test_far_above_the_old_one_is_a_warning(self):
        rates = np.where(np.arange(T) < 400, 1.0, 0.1)
        result = refined(GradientNorms.from_values(EARLY, learning_rate=rates))
        assert result.peak_lr_ratio > 1.25
        assert flags(result)["peak LR ratio", "above"].raised

    def test_a_log_of_the_last_part_only_tells_neither_peak_nor_warmup(self):
        steps = np.arange(401, T + 1)
        norms = GradientNorms.from_values(EARLY[400:], steps, learning_rate=self.RATES[400:])
        prior = read_prior(norms)
        assert (prior.multiplier, prior.peak_lr, prior.warmup_steps) == (None, None, None)

    @pytest.mark.parametrize("rates", [[np.nan] * T, [0.0] * T, [-1.0] * T])
    def test_rates_that_say_nothing_are_unknown(self, rates):
        assert read_prior(GradientNorms.from_values(EARLY, learning_rate=rates)).multiplier is None

    @pytest.mark.parametrize("peak_lr", [0.0, -1.0, float("nan")])
    def test_a_peak_must_be_positive(self, peak_lr):
        with pytest.raises(RefineError, match="it must be a positive number"):
            refined_schedule(EARLY, peak_lr=peak_lr)


def test_progress_needs_learning_rates():
    with pytest.raises(RefineError, match="mode progress needs the learning rates of .nearly. the whole logged run"):
        refined_schedule(EARLY, mode="progress")


def test_other_modes_say_on_the_first_line_that_the_guard_would_refuse():
    result = refined_schedule(FALLING, optimizer="sgd", mode="paper")
    assert result.summary().startswith("paper schedule for 500 updates, against the guard's advice")
    assert "FELL BACK" not in result.summary()


def test_linear_mode_shows_no_flags_of_what_was_not_refined():
    text = refined_schedule(EARLY, mode="linear", prior_schedule="linear").summary()
    assert text.startswith("linear decay for 500 updates, as asked")
    assert "unknown" not in text
    assert "peak LR ratio" in text
    assert "rho" not in text


def test_the_dip_is_that_of_the_returned_schedule():
    dip = np.where(np.arange(T) < 100, 1.0, 0.5)
    dip[40:100] = 2.0
    result = refined(dip, optimizer="adam")
    h = result.schedule.multiplier
    rise = h[: np.argmax(h) + 1]
    expected = np.max(np.maximum.accumulate(rise) - rise)
    assert flags(result)["dip before peak", "above"].value == pytest.approx(expected, abs=1e-9)
    assert expected > 0.05
    assert refined(FALLING, optimizer="sgd").flags[-2].value == 0.0


def test_reprs_are_one_line():
    result = refined_schedule(EARLY)
    assert repr(result).startswith("Refinement(mode='auto', decision='linear', schedule=Schedule(total_steps=500")
    assert repr(result.norms) == "GradientNorms(points=500, steps=1..500, total_steps=500, kind='l2', source='array')"


def test_unknown_modes_and_horizons_are_refused():
    with pytest.raises(RefineError, match="mode is 'best'; it must be one of auto, refined, paper, progress, linear"):
        refined_schedule(EARLY, mode="best")
    with pytest.raises(RefineError, match="guard is False and mode is 'auto', which has none; give mode='refined'"):
        refined_schedule(EARLY, guard=False)
    with pytest.raises(RefineError, match="total_steps is 0; it must be an integer >= 1"):
        refined_schedule(EARLY, total_steps=0)


def test_the_summary_says_what_was_read_and_dropped():
    norms = GradientNorms.from_values([1.0, np.nan, 0.0] + [1.0] * 40, np.r_[0:43] * 10)
    text = refined_schedule(norms).summary()
    assert "41 points, steps 0 to 420 of 430, every 10 steps, longest gap 29 updates" in text
    assert "dropped: 1 non-finite, 1 zero" in text


def test_a_hostile_name_stays_on_its_line(make_log):
    log = make_log("step,a\x1b[31m/grad_norm\n" + "".join(f"{t},1\n" for t in range(1, 40)), name="x\ny.csv")
    lines = refined_schedule(read_norms(log)).summary().splitlines()
    assert not any("\x1b" in line for line in lines)
    assert any(r"x\ny.csv (CSV)" in line for line in lines)
