import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refine import GradientNorms, RefineError, Schedule, cosine, fit, linear, read_norms, refined_schedule
from refine.bound import best_omega
from refine.diagnostics import RULES, check
from refine.export import emit
from refine.families import polynomial
from refine.prior import read_prior
from refine.refinement import inverse_squared_norms, refined_multiplier
from refine.smoothing import smooth
from refine.transfer import peak_ratio_by_bound

T = 500
EARLY = 1 + 4 * np.exp(-np.arange(T) / 20)
FALLING = np.exp(-3 * np.arange(T) / T)
values_lists = st.lists(st.floats(1e-8, 1e8), min_size=2, max_size=60)


def found(result):
    """Checks by name and side."""
    return {(f.rule.name, f.rule.side): f for f in result.checks}


def names(checks):
    return [f.rule.name for f in checks]


def test_both_names_are_one_function():
    assert refined_schedule is fit


def test_refined_is_theorem_3_on_reflected_norms_with_a_warmup_floor():
    result = fit(EARLY, optimizer="sgd")
    assert (result.computed, result.warmup_steps, result.published) == (True, 10, False)
    expected = refined_multiplier(inverse_squared_norms(smooth(EARLY), optimizer="sgd"))
    assert np.all(np.diff(expected[:14]) < 0)  # the reflected edge is flat: a dip, up to update 14
    h = result.refined.multiplier
    assert_allclose(h[14:], expected[14:], rtol=1e-9)
    assert_allclose(h[10:14], expected[9:14].mean(), rtol=1e-9)
    assert_allclose(h[:10], h[9] * np.arange(1, 11) / 10, rtol=1e-9)


def test_published_is_theorem_3_on_the_first_norm_repeated_without_a_warmup():
    noisy = EARLY * np.random.default_rng(0).lognormal(0.0, 0.3, T)
    result = fit(noisy, optimizer="sgd", published=True)
    smoothed = smooth(noisy, left="nearest")
    assert_allclose(result.smoothed, smoothed)
    expected = refined_multiplier(inverse_squared_norms(smoothed, optimizer="sgd"))
    assert_allclose(result.refined.multiplier, expected, rtol=1e-9)
    assert np.any(np.diff(expected[np.argmax(expected) :]) > 0)  # its dips are left
    assert result.refined.provenance["warmup_steps"] == 0
    other = fit(noisy, optimizer="sgd")
    for name in ("recommended", "linear", "cosine"):
        assert result.schedules[name] == other.schedules[name]
    assert (result.warmup_steps, result.choice, result.worth) == (other.warmup_steps, other.choice, other.worth)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("total_steps", [None, 7, 4000])
def test_constant_norms_give_linear_decay_throughout(published, total_steps):
    norms = GradientNorms.from_values(np.full(T, 3.0), learning_rate=np.linspace(1, 0.01, T))
    result = fit(norms, published=published, total_steps=total_steps)
    for schedule in (result.refined, result.recommended, result.linear):
        assert_allclose(schedule.multiplier, linear(total_steps or T).multiplier, rtol=1e-11)


def test_schedules_by_name_and_by_attribute():
    result = fit(EARLY, optimizer="sgd")
    assert list(result.schedules) == ["refined", "recommended", "linear", "cosine"]
    assert set(result.measures) == set(result.schedules)
    for name, schedule in result.schedules.items():
        assert getattr(result, name) is schedule
    for family in (linear, cosine):
        expected = family(T, warmup_steps=10).multiplier
        assert_allclose(result.schedules[family.__name__].multiplier, expected, rtol=1e-11, atol=1e-15)
    with pytest.raises(AttributeError):
        result.published = True


@given(values_lists, st.sampled_from(["sgd", "adam"]), st.booleans(), st.floats(1e-3, 1e3))
def test_scale_never_matters_and_multipliers_are_positive(values, family, published, scale):
    one, other = (fit(np.multiply(values, s), optimizer=family, published=published) for s in (1.0, scale))
    for name, schedule in one.schedules.items():
        h = schedule.multiplier
        assert h.size == one.norms.total_steps
        assert np.all(np.isfinite(h))
        assert np.all(h > 0)
        assert h.max() == 1.0
        if one.computed == other.computed:  # a value may stand on its threshold
            assert_allclose(other.schedules[name].multiplier, h, rtol=1e-9, atol=1e-14)


def test_sparse_logs_give_a_schedule_for_all_updates():
    dense = fit(GradientNorms.from_values(EARLY), optimizer="adam")
    every_10th = GradientNorms.from_values(EARLY[9::10], np.arange(10, T + 1, 10))
    sparse = fit(every_10th, optimizer="adam")
    assert sparse.refined.total_steps == T
    assert np.abs(sparse.refined.multiplier - dense.refined.multiplier).max() < 0.1


def test_a_check_against_it_leaves_the_refined_schedule_and_makes_the_other_the_default():
    result = fit(FALLING, optimizer="sgd")
    assert (result.default, result.computed) == ("recommended", True)
    assert names(result.against) == ["rho", "peak position", "bound gain"]
    assert np.abs(result.refined.multiplier - result.linear.multiplier).max() > 0.3
    assert found(result)["rho", "below"].raised
    first, second = result.summary().splitlines()[:2]
    assert first.startswith("refined      ")
    assert "not recommended: the norms fall to 0.063 of their value" in " ".join(result.summary().split())
    assert result.refined.provenance["default"] == "recommended"
    assert result.refined.provenance["not_recommended"][0] == "the norms fall to 0.063 of their value"
    assert second != first


def test_without_one_the_refined_schedule_is_the_default():
    rates = np.minimum(np.arange(1, T + 1) / 20, 1.0)
    result = fit(GradientNorms.from_values(1.0 + 0.05 * np.sin(np.arange(T)), learning_rate=rates), optimizer="adam")
    assert (result.default, result.against, result.computed) == ("refined", (), True)
    assert "not recommended" not in result.summary()
    assert "not_recommended" not in result.refined.provenance


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
    for published in (False, True):
        result = fit(values, optimizer=optimizer, published=published)
        for schedule in result.schedules.values():
            assert np.all(schedule.multiplier > 0)
        assert result.summary(verbose=True)
        json.dumps(result.to_dict(), allow_nan=False)


def test_norms_that_allow_no_refined_schedule():
    separable = np.ones(T)
    separable[100:200] = 1e-9
    result = fit(separable, optimizer="adam")
    assert (result.computed, result.default) == (False, "recommended")
    assert "tiny norms" in names(result.against)
    few, enough = fit(np.ones(19), optimizer="adam"), fit(np.ones(20), optimizer="adam")
    assert (names(few.against)[0], few.computed, enough.computed) == ("points", False, True)
    for refused in (result, few, fit(separable, optimizer="adam", published=True)):
        assert refused.refined == refused.linear
        assert refused.summary().startswith("NOT refined  linear decay over ")
        assert "not computed: " in refused.summary()
        assert refused.refined.provenance["shape"] == "linear"
        assert "reference" not in refused.refined.provenance
        assert all(f.value is None for f in refused.checks if f.rule.about == "refined")


def test_values_and_thresholds_of_the_checks():
    result = fit(EARLY, optimizer="sgd")
    checks = found(result)
    smoothed = smooth(EARLY)
    assert checks["rho", "below"].value == pytest.approx(smoothed[-1] / smoothed[25])
    assert checks["points", "below"].value == T
    assert checks["spikes", "above"].value == pytest.approx(np.mean(EARLY**2) / np.mean(smoothed**2))
    assert checks["longest gap", "above"].value == 0
    assert checks["like cases", "above"].value == result.worth.median
    h = refined_multiplier(1 / smoothed**2)
    assert checks["first multiplier", "below"].value == pytest.approx(h[0])
    assert checks["bound gain", "above"].value == pytest.approx(
        best_omega(linear(T).multiplier, smoothed**2) / best_omega(h, smoothed**2)
    )
    raw_best = refined_multiplier(1 / EARLY**2)
    assert checks["raw bound", "above"].value == pytest.approx(best_omega(h, EARLY**2) / best_omega(raw_best, EARLY**2))
    assert [f.rule for f in result.checks] == list(RULES)


def test_measures_compare_best_bounds_on_reflected_norms():
    n = smooth(EARLY) ** 2
    for result in (fit(EARLY, optimizer="sgd"), fit(EARLY, optimizer="sgd", published=True)):
        assert (result.norms.steps.size, result.measures["linear"].relative_bound) == (T, 1.0)
        straight = best_omega(linear(T, warmup_steps=10).multiplier, n)
        for name, schedule in result.schedules.items():
            expected = best_omega(schedule.multiplier, n) / straight
            assert result.measures[name].relative_bound == pytest.approx(expected, rel=1e-12)
    assert fit(np.ones(T)).measures["refined"].relative_bound == pytest.approx(1.0)


def test_another_horizon_keeps_the_shape_and_the_warmup_in_steps():
    norms = GradientNorms.from_values(EARLY, learning_rate=np.minimum(np.arange(1, T + 1) / 50, 1.0))
    result = fit(norms, optimizer="adam", total_steps=10 * T)
    assert {schedule.total_steps for schedule in result.schedules.values()} == {10 * T}
    assert result.warmup_steps == 50
    long, short = result.refined.multiplier, fit(norms, optimizer="adam").refined.multiplier
    assert np.abs(long[500::10] - short[50:]).max() < 0.01
    assert any("5,000 updates instead of the logged 500" in note for note in result.notes)


class TestWarmup:
    @pytest.mark.parametrize("name", ["refined", "recommended", "linear", "cosine"])
    def test_it_is_never_shorter_than_the_logged_one(self, name):
        for logged in (1, 2, 33, 200):
            rates = np.minimum(np.arange(1, T + 1) / logged, np.linspace(1.0, 0.5, T))
            norms = GradientNorms.from_values(EARLY, learning_rate=rates)
            peak = int(np.argmax(rates)) + 1
            result = fit(norms, optimizer="sgd")
            assert result.warmup_steps == (peak if peak > 1 else 0)
            h = result.schedules[name].multiplier
            assert np.all(h[:peak] <= h[peak - 1] * (np.arange(1, peak + 1) / peak) * (1 + 1e-9))
            assert not any("warmup" in a for a in result.assumptions)

    @given(st.lists(st.floats(0.01, 100.0), min_size=20, max_size=60), st.integers(1, 19), st.sampled_from("ab"))
    def test_whatever_the_norms(self, values, warmup, which):
        """Nor where a dip behind the warmup is taken out, which lowers the update that ends it."""
        rates = linear(len(values), warmup_steps=warmup).multiplier
        result = fit(GradientNorms.from_values(values, learning_rate=rates), optimizer={"a": "adam", "b": "sgd"}[which])
        h = result.refined.multiplier
        assert result.warmup_steps == (warmup if warmup > 1 else 0)
        floor = np.arange(1, warmup + 1) / warmup
        assert np.all(h[:warmup] <= h[warmup - 1] * floor * (1.0 + 1e-9) + 1e-14)

    def test_without_rates_it_is_2_percent_and_that_is_said(self):
        result = fit(EARLY)
        assert result.warmup_steps == 10
        assert "2 % warmup (the log shows no rates from its start on)" in result.assumptions

    def test_a_warmup_that_leaves_no_anneal_is_refused_and_a_long_one_noted(self):
        rates = np.minimum(np.arange(1, T + 1) / 100, 1.0)
        norms = GradientNorms.from_values(EARLY, learning_rate=rates)
        with pytest.raises(
            RefineError, match="warmed up for 100 updates and the next run has 100; that leaves no anneal"
        ):
            fit(norms, total_steps=100)
        result = fit(norms, total_steps=150)
        assert result.warmup_steps == 100
        assert any("takes more than half of the 150" in note for note in result.notes)
        asked = fit(norms, total_steps=100, prior_schedule="linear:warmup_steps=50")
        assert asked.warmup_steps == 50

    def test_a_log_whose_first_row_is_at_the_peak_gets_that_long_a_warmup(self):
        steps = np.arange(5, T + 1, 5)
        norms = GradientNorms.from_values(EARLY[4::5], steps, learning_rate=np.linspace(1.0, 0.1, steps.size))
        result = fit(norms)
        assert result.warmup_steps == 5
        assert any("the first logged rate, of update 5, is the peak already" in w for w in result.warnings)
        dense = fit(GradientNorms.from_values(EARLY, learning_rate=np.linspace(1.0, 0.1, T)))
        assert dense.warmup_steps == 0


class TestOptimizer:
    def test_given(self):
        result = fit(EARLY, optimizer="sgd")
        assert (result.optimizer, result.optimizer_source) == ("sgd", "given")

    def test_assumed_is_said_and_recorded(self):
        result = fit(EARLY)
        assert (result.optimizer, result.optimizer_source) == ("adam", "assumed")
        assert "assumed: optimizer adam (--optimizer)" in result.summary()
        for schedule in (result.refined, result.recommended):
            assert schedule.provenance["optimizer_source"] == "assumed"
            assert schedule.provenance["assumptions"][0] == "optimizer adam (--optimizer)"

    def test_from_a_log_of_l1_norms_only(self, make_log):
        rows = "".join(f"{t},1,2\n" for t in range(1, 40))
        result = fit(read_norms(make_log("step,gnorm_l1,loss\n" + rows)))
        assert (result.optimizer, result.optimizer_source) == ("adam", "log")
        both = fit(read_norms(make_log("step,gnorm_l1,gnorm\n" + rows)))
        assert (both.optimizer, both.optimizer_source, both.norms.kind) == ("adam", "assumed", "l1")

    def test_from_a_column_name(self, make_log):
        log = make_log("step,grad_norm,lr-SGD\n" + "".join(f"{t},1,0.1\n" for t in range(1, 40)))
        result = fit(read_norms(log))
        assert (result.optimizer, result.optimizer_source) == ("sgd", "log")

    def test_sgd_on_an_l1_norm_is_noted(self):
        result = fit(GradientNorms.from_values(EARLY, kind="l1"), optimizer="sgd")
        assert "SGD wants the l2 norm and the log holds the l1 norm" in result.warnings


class TestPeakLearningRate:
    RATES = 0.3 * linear(T, warmup_steps=20).multiplier

    def test_equal_area(self):
        norms = GradientNorms.from_values(EARLY, learning_rate=self.RATES)
        result = fit(norms, optimizer="sgd")
        old = linear(T, warmup_steps=20).multiplier.mean()
        for shown in result.to_dict()["schedules"]:
            ratio = old / result.schedules[shown["name"]].multiplier.mean()
            assert result.measures[shown["name"]].peak_lr_ratio == pytest.approx(ratio)
            assert shown["suggested_peak_lr"] == pytest.approx(0.3 * ratio)
        assert result.measures["refined"].peak_lr_ratio != pytest.approx(1.0, abs=0.02)
        assert result.to_dict()["suggested_peak_lr"] == pytest.approx(0.3)  # of the recommended one

    @pytest.mark.parametrize("total_steps", [None, 3 * T])
    @pytest.mark.parametrize(("optimizer", "power"), [("sgd", 2), ("adam", 1)])
    def test_by_the_bound_on_the_raw_norms_whatever_the_horizon(self, optimizer, power, total_steps):
        noisy = EARLY * np.exp(np.random.default_rng(0).normal(0, 0.3, T))
        norms = GradientNorms.from_values(noisy, learning_rate=self.RATES)
        result = fit(norms, optimizer=optimizer, total_steps=total_steps)
        old = linear(T, warmup_steps=20).multiplier
        table = result.summary(verbose=True).splitlines()
        for shown in result.to_dict()["schedules"]:
            name = shown["name"]
            measured = result.measures[name].peak_lr_ratio_by_bound
            expected = peak_ratio_by_bound(old, result.schedules[name].resample(T).multiplier, noisy**power)
            assert measured == pytest.approx(expected, rel=1e-6 if total_steps is None else 0.02)
            assert shown["suggested_peak_lr_by_bound"] == pytest.approx(0.3 * measured)
            (row,) = [line for line in table if line.split("schedules ")[-1].strip().startswith(f"{name} ")][-1:]
            assert f"x {measured:.3f}" in row

    def test_a_near_separable_log_gets_a_warning_instead(self):
        falling = np.exp(-np.arange(T) / (T / 5))
        for published in (False, True):
            rates = polynomial(T, power=2.0, warmup_steps=20).multiplier
            result = fit(GradientNorms.from_values(falling, learning_rate=rates), published=published)
            for measured in result.measures.values():
                assert (measured.peak_lr_ratio, measured.peak_lr_ratio_by_bound) == (None, None)
            assert any(w.startswith("near-separable") for w in result.warnings)
            assert (
                "no learning rate is suggested: every rule for it fails on norms that fall this far" in result.summary()
            )

    @pytest.mark.parametrize("rate_error", [0.0, 0.009, 0.02])
    def test_the_schedule_that_was_logged_needs_no_rule(self, rate_error):
        """However far the norms fall: the peak is the old one."""
        falling = np.exp(-np.arange(T) / (T / 5))
        rates = self.RATES * np.where(np.arange(T) == 40, 1.0 - rate_error / linear(T, warmup_steps=20).at(40), 1.0)
        result = fit(GradientNorms.from_values(falling, learning_rate=rates))
        assert result.shape == "linear"
        assert result.already_ran is (rate_error < 0.01)
        own = result.measures["recommended"]
        assert own.peak_lr_ratio == (1.0 if rate_error < 0.01 else None)
        assert own.peak_lr_ratio_by_bound is None
        said = " ".join(result.summary().split())
        assert ("your run already used it, nothing to change" in said) == result.already_ran
        assert ("keep the old one, lr=0.3" in said) == result.already_ran
        assert any(w.startswith("near-separable") for w in result.warnings) == (rate_error > 0.01)

    def test_another_horizon_has_not_run(self):
        norms = GradientNorms.from_values(EARLY, learning_rate=self.RATES)
        same, longer = fit(norms), fit(norms, total_steps=2 * T)
        assert (same.already_ran, longer.already_ran) == (True, False)
        assert same.measures["recommended"].peak_lr_ratio == 1.0
        assert longer.measures["recommended"].peak_lr_ratio == pytest.approx(1.0, abs=0.05)
        assert longer.measures["recommended"].peak_lr_ratio != 1.0
        assert same.to_dict()["already_ran"] is True

    def test_unknown_rates_stay_unknown(self):
        result = fit(EARLY)
        assert {measured.peak_lr_ratio for measured in result.measures.values()} == {None}
        assert result.to_dict()["prior"] is None
        assert "no learning rate is suggested: the rates of the logged run are unknown" in result.summary()

    def test_the_caller_may_know_them(self):
        result = fit(EARLY, prior_schedule="linear:warmup_steps=20", peak_lr=0.3)
        logged = fit(GradientNorms.from_values(EARLY, learning_rate=self.RATES))
        assert result.measures == logged.measures
        assert result.warmup_steps == 20
        assert result.schedules == logged.schedules
        assert result.to_dict()["prior"] == "linear:warmup_steps=20"
        given_schedule = fit(EARLY, prior_schedule=Schedule(self.RATES / 0.3))
        assert given_schedule.schedules == logged.schedules

    def test_what_the_caller_says_wins_over_the_log_and_that_is_said(self):
        norms = GradientNorms.from_values(EARLY, learning_rate=self.RATES)
        result = fit(norms, prior_schedule="cosine")
        assert (result.warmup_steps, result.prior.peak_lr) == (0, pytest.approx(0.3))
        assert "of the logged learning rates only the peak is used: the prior schedule is given" in result.warnings
        result = fit(norms, peak_lr=0.5)
        assert result.prior.peak_lr == 0.5
        assert "the peak learning rate is 0.5, as given; the log says 0.3" in result.warnings
        assert not any("peak learning rate is" in w for w in fit(norms, peak_lr=0.3).warnings)

    def test_a_constant_rate_gets_no_suggestion(self):
        rates = np.minimum(np.arange(1, T + 1) / 20, 1.0)
        rates[-1] = 0.0
        result = fit(GradientNorms.from_values(EARLY, learning_rate=rates))
        assert result.prior.is_constant
        assert {measured.peak_lr_ratio for measured in result.measures.values()} == {None}
        assert any("kept a constant rate: no peak learning rate is suggested" in w for w in result.warnings)
        assert result.measures["refined"].peak_lr_ratio_by_bound > 1.5
        assert (
            "no learning rate is suggested: the rule for it, equal sums of rates, fails after a constant rate"
            in result.summary()
        )

    def test_far_above_the_old_one_is_a_warning(self):
        rates = np.where(np.arange(T) < 400, 1.0, 0.1)
        result = fit(GradientNorms.from_values(EARLY, learning_rate=rates))
        assert result.measures["recommended"].peak_lr_ratio > 1.25
        raised = found(result)["peak LR ratio", "above"]
        assert raised.value == result.measures["recommended"].peak_lr_ratio
        assert raised.raised
        assert not raised.against  # it only warns

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
            fit(EARLY, peak_lr=peak_lr)


def test_the_repr_is_one_line():
    result = fit(EARLY)
    assert repr(result).startswith(
        "Refinement(default='recommended', shape='linear', refined=Schedule(total_steps=500, first="
    )
    assert repr(result.norms) == "GradientNorms(points=500, steps=1..500, total_steps=500, kind='l2', source='array')"


def test_unknown_names_and_horizons_are_refused():
    with pytest.raises(
        RefineError, match="mode is no parameter of fit for an array; leave it out, or use every, logged_steps"
    ):
        fit(EARLY, mode="paper")
    with pytest.raises(RefineError, match="total_steps is 0; it must be an integer >= 1"):
        fit(EARLY, total_steps=0)
    with pytest.raises(RefineError, match="'muon' is not known to be of the sgd or the adam family"):
        fit(EARLY, optimizer="muon")


def test_an_optimizer_is_known_by_its_own_name():
    assert fit(EARLY, optimizer="Lion").optimizer == "adam"
    assert fit(EARLY, optimizer="torch.optim.SGD").optimizer == "sgd"


def test_the_summary_says_what_was_read_and_dropped():
    norms = GradientNorms.from_values([1.0, np.nan, 0.0] + [1.0] * 40, np.r_[0:43] * 10)
    text = " ".join(fit(norms).summary().split())
    assert "41 points, steps 0 to 420 of 430, 10 to 30 steps apart, longest gap 29 updates" in text
    assert "dropped: 1 non-finite, 1 zero" in text


def test_a_hostile_name_stays_on_its_line(make_log):
    log = make_log("step,a\x1b[31m/grad_norm\n" + "".join(f"{t},1\n" for t in range(1, 40)), name="x\ny.csv")
    lines = fit(log).summary().splitlines()
    assert not any("\x1b" in line for line in lines)
    assert any(r"x\ny.csv (CSV)" in line for line in lines)


def test_the_reason_names_what_the_norms_do():
    for values, said in (
        (np.ones(T), "norms hardly change, to 1.00 of their value by the end: in the 9 benchmark cases"),
        (np.linspace(1.0, 3.0, T), "norms rise to 2.68 times their value by the end: "),
        (FALLING, "norms fall to 0.063 of their value by the end: "),
    ):
        result = fit(values, optimizer="adam")
        assert result.reason.startswith(f"{result.choice.reason}; {said}")
        told = result.to_dict()["recommended"]
        assert (told["name"], told["spoke"], told["reason"]) == ("linear", "neither", result.reason)
        assert result.recommended.provenance["reason"] == result.reason


@pytest.mark.parametrize(
    "rates",
    [np.minimum(np.arange(1, T + 1) / 20, 1.0), np.where(np.arange(T) < 400, 1.0, np.linspace(5.0, 0.01, T))],
    ids=["constant", "wsd"],
)
def test_unlike_logs_have_no_worth(rates):
    """Every log of the benchmark is of a run that decayed linearly."""
    result = fit(GradientNorms.from_values(np.ones(T), learning_rate=rates), optimizer="sgd")
    assert result.worth is None
    assert result.to_dict()["worth"] is None
    assert found(result)["like cases", "above"].value is None
    assert result.reason.endswith("no benchmark case is like this log")
    assert fit(np.ones(T), optimizer="sgd").worth is not None  # no rates are known


class TestEveryRule:
    """What a raised check does, of each rule alone."""

    PLAIN = fit(
        GradientNorms.from_values(1.0 + 0.01 * np.sin(np.arange(T)), learning_rate=cosine(T).multiplier + 0.3),
        optimizer="adam",
    )

    def test_nothing_is_raised(self):
        assert not any(f.raised for f in self.PLAIN.checks)
        assert self.PLAIN.default == "refined"

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{rule.side}")
    def test_each_alone(self, rule):
        over, under = rule.threshold * 1.01, rule.threshold * 0.99
        bad, good = (over, under) if rule.side == "above" else (under, over)
        for value, raised in ((bad, True), (good, False), (rule.threshold, False), (None, False)):
            checks = check({rule.name: value})
            assert [f.rule for f in checks if f.raised] == [rule] * raised
            result = replace(self.PLAIN, checks=checks)
            against = raised and rule.action != "warn"
            assert [f.rule for f in result.against] == [rule] * against
            assert result.default == ("recommended" if against else "refined")
            assert result.computed == (not (raised and rule.action == "not computed"))
            assert [text.split(" is ")[0] for text in result.warnings[: raised * 1]] == [rule.name] * raised

    def test_what_each_does(self):
        actions = {}
        for rule in RULES:
            actions.setdefault(rule.action, set()).add(rule.name)
        assert actions == {
            "not computed": {"points", "tiny norms"},
            "warn": {"spikes", "peak LR ratio"},
            "not recommended": {
                "rho",
                "late rise",
                "longest gap",
                "like cases",
                "first multiplier",
                "peak position",
                "decay exponent",
                "bound gain",
                "raw bound",
            },
        }

    @pytest.mark.parametrize(
        ("name", "side", "values", "options"),
        [
            ("points", "below", np.ones(19), {}),
            ("tiny norms", "above", np.where(np.arange(T) < 250, 1.0, 1e-7), {}),
            ("rho", "below", FALLING, {}),
            ("rho", "above", np.linspace(1.0, 2.0, T), {}),
            ("late rise", "above", np.interp(np.arange(T), [400, 460], [1.0, 1.15]), {"prior_schedule": "linear"}),
            ("spikes", "above", np.where(np.arange(T) % 50 == 7, 80.0, 1.0), {}),
            ("longest gap", "above", np.ones(T), {"logged_steps": 600}),
            ("like cases", "above", np.linspace(1.0, 0.5, T), {}),
            ("first multiplier", "below", np.where(np.arange(T) < 60, 3e3, 1.0), {}),
            ("peak position", "above", np.where(np.arange(T) < 200, 2.0, 1.0), {}),
            ("decay exponent", "above", np.exp(4.0 * np.arange(T) / T), {}),
            ("bound gain", "above", np.where(np.arange(T) < 470, 10.0, 1.0), {}),
            ("raw bound", "above", np.where(np.arange(T) % 100 < 20, 30.0, 1.0), {}),
            (
                "peak LR ratio",
                "above",
                np.ones(T),
                {"prior_schedule": Schedule(np.where(np.arange(T) < 400, 1.0, 0.1))},
            ),
        ],
    )
    def test_a_log_raises_it(self, name, side, values, options):
        result = fit(values, optimizer="sgd", **options)
        raised = found(result)[name, side]
        assert raised.raised
        assert str(raised) in result.warnings
        if raised.rule.action != "warn":
            assert raised in result.against
            assert result.default == "recommended"
            assert raised.words in result.refined.provenance["not_recommended"]
        assert (result.refined == result.linear) or result.computed


class TestResult:
    """What a session gets of it, beside the numbers."""

    RESULT = fit(GradientNorms.from_values(EARLY, learning_rate=cosine(T, warmup_steps=20).multiplier), optimizer="sgd")

    def test_a_schedule_is_an_array(self):
        array = np.asarray(self.RESULT.refined)
        assert array.dtype == np.float64
        assert np.array_equal(array, self.RESULT.refined.multiplier)

    def test_to_frame(self):
        frame = self.RESULT.to_frame()
        assert list(frame) == ["step", "refined", "recommended", "linear", "cosine"]
        assert frame["step"].tolist() == list(range(T))
        for name, schedule in self.RESULT.schedules.items():
            assert np.array_equal(frame[name], schedule.multiplier)

    def test_plot_is_a_figure(self):
        from matplotlib.figure import Figure

        assert isinstance(self.RESULT.plot(), Figure)

    def test_save_writes_what_emit_writes(self, tmp_path):
        saved = self.RESULT.save(tmp_path / "one")
        emitted = emit(self.RESULT, tmp_path / "other")
        assert list(saved) == list(emitted)
        for name, path in saved.items():
            assert path.relative_to(tmp_path / "one") == emitted[name].relative_to(tmp_path / "other")
            if path.suffix != ".png":
                assert path.read_bytes() == emitted[name].read_bytes()
        assert {p.name for p in (tmp_path / "one").iterdir()} == {p.name for p in (tmp_path / "other").iterdir()}
        with pytest.raises(RefineError, match="force"):
            self.RESULT.save(tmp_path / "one")
        self.RESULT.save(tmp_path / "one", force=True)

    def test_a_notebook_shows_text_and_picture_and_runs_no_name(self):
        hostile = '<script>alert("x")</script><img src=x onerror=alert(1)>'
        source = replace(self.RESULT.norms.source, name=hostile, run=hostile, columns={"norm": hostile})
        norms = replace(self.RESULT.norms, source=source)
        shown = fit(norms, optimizer="sgd")._repr_html_()
        assert shown.count("<") == 3  # <pre>, </pre>, <img>
        assert "&lt;script&gt;" in shown
        assert 'src="data:image/png;base64,' in shown
        assert "http" not in shown

    def test_warnings_are_checks_then_notes(self):
        raised = [str(f) for f in self.RESULT.checks if f.raised]
        assert self.RESULT.warnings == (*raised, *self.RESULT.notes)

    def test_weights_and_the_logged_multiplier(self):
        assert_allclose(self.RESULT.weights, (smooth(EARLY).min() / smooth(EARLY)) ** 2)
        assert self.RESULT.logged_multiplier[-1] == 0.0
        assert self.RESULT.logged_multiplier.max() == 1.0
