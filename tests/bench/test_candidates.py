"""Everything that the default could have been, against what it is damped from, and as a method of the bench."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import refine
from refine import GradientNorms, linear
from refine.bench.candidates import (
    CANDIDATES,
    Evidence,
    blended,
    elasticity,
    guarded,
    later_if_the_loss_falls_late,
    progress_form,
    progress_multiplier,
    rate_divided_out,
    time_form,
)
from refine.bench.methods import fit
from refine.bench.outcome import Log
from refine.bench.problems import Optimizer
from refine.bound import best_omega
from refine.families import with_warmup
from refine.norms import Source
from refine.refinement import refined_multiplier, unimodal_multiplier

T = 200
X = np.arange(T) / T
RATES = 0.3 * linear(T, warmup_steps=10).multiplier


def rough(seed=0, sigma=1.0):
    return np.random.default_rng(seed).lognormal(sigma=sigma, size=T)


def log(squared, rates=RATES, loss=None, rho=1.0):
    return Evidence(squared, squared, rates, np.ones(squared.size) if loss is None else loss, rho)


def base_of(name):
    """What a candidate is on constant norms and losses: of the bases, a formula."""
    power = name.partition("on (1-x)^")[2] or name.partition("(1-x)^")[2].partition(" ")[0]
    return {
        "base cosine": (1.0 + np.cos(np.pi * X)) / 2.0,
        "base 1-sqrt": 1.0 - np.sqrt(X),
        "progress 1/4 on 1-sqrt": 1.0 - np.sqrt(X),
        "base wsd 0.2": np.minimum(1.0, (1.0 - X) / 0.2),
        "base wsd 0.5": np.minimum(1.0, (1.0 - X) / 0.5),
        "base wsd 0.8": np.minimum(1.0, (1.0 - X) / 0.8),
        "(1-x)^0.75 if the loss falls late": 1.0 - X,
    }.get(name, (1.0 - X) ** float(power or 1.0))


@pytest.mark.parametrize("name", CANDIDATES)
class TestAll:
    def test_constant_norms_give_its_base(self, name):
        for rho in (0.1, 0.45, 1.0):
            assert_allclose(CANDIDATES[name](log(np.full(T, 7.0), rho=rho)), base_of(name), rtol=1e-9)

    @pytest.mark.parametrize("seed", range(3))
    def test_any_log_gives_positive_multipliers_with_peak_1_whatever_its_units(self, name, seed):
        evidence = log(rough(seed, 2.0) * np.exp(-3.0 * X), RATES * rough(seed + 9), rough(seed + 5), rho=0.5)
        found = CANDIDATES[name](evidence)
        assert found.shape == (T,)
        assert np.all(np.isfinite(found))
        assert found.min() > 0.0
        assert found.max() == pytest.approx(1.0, rel=1e-12)
        scaled = replace(
            evidence,
            squared=1e3 * evidence.squared,
            published=10.0 * evidence.published,
            rates=1e-4 * evidence.rates,
            loss=100.0 * evidence.loss,
        )
        assert_allclose(CANDIDATES[name](scaled), found, rtol=1e-6)


class TestTimeForm:
    def test_power_1_is_the_theorem_and_power_0_linear_decay(self):
        squared = rough()
        assert_allclose(time_form(log(squared)), refined_multiplier(1.0 / squared), rtol=1e-9)
        assert_allclose(time_form(log(squared), power=0.5), refined_multiplier(squared**-0.5), rtol=1e-9)
        assert_allclose(time_form(log(squared), power=0.0), linear(T).multiplier, rtol=1e-12)

    def test_a_clip_is_about_the_median(self):
        squared = rough()
        middle = np.median(squared)
        clipped = np.minimum(np.maximum(squared, middle / 2.0), 2.0 * middle)
        assert_allclose(time_form(log(squared), clip=2.0), refined_multiplier(1.0 / clipped), rtol=1e-9)
        assert_allclose(time_form(log(squared), clip=1.0), linear(T).multiplier, rtol=1e-12)
        assert_allclose(time_form(log(squared), clip=1e9), time_form(log(squared)), rtol=1e-12)

    def test_rises_are_not_believed_falls_are(self):
        falling, rising = np.exp(-2.0 * X), np.exp(2.0 * X)
        for form in (time_form, progress_form):
            assert_allclose(form(log(rising), declines=True), linear(T).multiplier, rtol=1e-12)
            assert_allclose(form(log(falling), declines=True), form(log(falling)), rtol=1e-12)
            assert np.abs(form(log(rising)) - linear(T).multiplier).max() > 0.01
            dip = np.where(X < 0.5, falling, falling + 3.0 * (X - 0.5))
            lowest = np.array([dip[: t + 1].min() for t in range(T)])
            assert_allclose(form(log(dip), declines=True), form(log(lowest)), rtol=1e-12)


class TestProgressForm:
    def test_on_linear_decay_it_is_the_multiplier_itself(self):
        squared = rough()
        assert_allclose(progress_form(log(squared)), progress_multiplier(squared, RATES, total_steps=T), rtol=1e-12)
        assert_allclose(progress_form(log(squared), alpha=0.0), linear(T).multiplier, rtol=1e-12)

    def test_on_another_base_it_bends_that_one_as_much(self):
        squared = rough()
        moved = progress_form(log(squared), on="polynomial:0.75") / (1.0 - X) ** 0.75
        assert_allclose(
            moved / moved[0], progress_form(log(squared)) / (1.0 - X) / progress_form(log(squared))[0], rtol=1e-9
        )


class TestProgressMultiplier:
    @given(
        st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=50), st.integers(1, 80), st.sampled_from([0.0, 0.25, 0.5])
    )
    def test_by_its_definition(self, values, total_steps, alpha):
        n = np.array(values)
        rates = np.linspace(0.2, 1.0, n.size)
        clipped = np.clip(n / np.median(n), 0.5, 2.0) ** alpha
        remaining = [np.sqrt(rates[t:].sum() / rates.sum()) for t in range(n.size)] + [0.0]
        tau = [0.0]
        for t in range(n.size):
            tau.append(tau[-1] + clipped[t] * (remaining[t] - remaining[t + 1]))
        tau = np.array(tau) / tau[-1]
        at = np.arange(total_steps) / total_steps
        expected = np.interp(at, tau, remaining) / np.interp(at, tau[:-1], clipped)
        h = progress_multiplier(n, rates, total_steps=total_steps, alpha=alpha)
        assert_allclose(h, expected / expected.max(), rtol=1e-9)

    def test_it_bends_linear_decay_by_at_most_19_percent(self):
        rng = np.random.default_rng(0)
        n = np.exp(3 * rng.standard_normal(500))
        h = progress_multiplier(n, np.ones(500), total_steps=500)
        ratio = h / linear(500).multiplier
        # 19 % either way around a common factor: within 2^(1/2) of each other, the time axis apart.
        assert 1.0 < ratio.max() / np.median(ratio) < 1.42

    def test_it_takes_rates_of_zero(self):
        h = progress_multiplier([1.0, 2.0, 1.0, 1.0], [0.0, 1.0, 0.5, 0.0], total_steps=6)
        assert np.all(np.isfinite(h))
        assert np.all(h > 0)

    @pytest.mark.parametrize("total_steps", [1, 2, 7, 1000])
    def test_constant_norms_give_linear_decay(self, total_steps):
        logged = np.cos(np.arange(1, total_steps + 1) / total_steps)  # any schedule
        h = progress_multiplier(np.full(total_steps, 7.0), logged, total_steps=total_steps)
        assert_allclose(h, linear(total_steps).multiplier, rtol=1e-12)

    @given(st.lists(st.floats(1e-60, 1e60), min_size=2, max_size=50))
    def test_finite_positive_and_peak_one(self, squared):
        h = progress_multiplier(squared, np.ones(len(squared)), total_steps=30)
        assert np.all(np.isfinite(h))
        assert np.all(h > 0)
        assert h.max() == 1.0


class TestRateDividedOut:
    @pytest.mark.parametrize(("power", "found"), [(0.5, 0.5), (0.0, 0.0), (-0.7, -0.7), (5.0, 2.0), (-5.0, -1.0)])
    def test_the_power_of_the_rate_is_told_from_time_on_a_bent_log(self, power, found):
        time = np.arange(T) + 0.5
        squared = np.exp(0.3 + time / T - 2.0 * (time / T) ** 2) * RATES**power
        assert elasticity(log(squared)) == pytest.approx(found, abs=1e-9)

    def test_norms_that_only_follow_the_rate_give_linear_decay(self):
        rates = np.maximum(RATES, 0.02 * RATES.max())
        found = rate_divided_out(log(rates**0.8, rates), inside=time_form)
        assert_allclose(found, linear(T).multiplier, rtol=1e-6)

    def test_at_a_constant_rate_nothing_is_divided(self):
        squared = rough(sigma=0.2)
        found = rate_divided_out(log(squared, np.full(T, 0.3)), inside=time_form)
        assert_allclose(found, time_form(log(squared)), rtol=1e-6)


class TestBlended:
    def test_a_share_of_the_steps_at_equal_area(self):
        squared = rough()
        one, line = time_form(log(squared)), linear(T).multiplier
        for share in (0.0, 0.3, 1.0):
            found = blended(log(squared), time_form, share=lambda _, share=share: share)
            steps = share * one / one.sum() + (1.0 - share) * line / line.sum()
            assert_allclose(found, steps / steps.max(), rtol=1e-9)

    @given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
    def test_it_is_never_worse_in_the_bound_than_the_worse_of_the_two(self, seed, share):
        fitted, judged = rough(seed), rough(seed + 1)
        mixed = blended(log(fitted), time_form, share=lambda _: share)
        worse = max(best_omega(h, judged) for h in (time_form(log(fitted)), linear(T).multiplier))
        assert best_omega(mixed, judged) <= worse * (1 + 1e-9)

    @pytest.mark.parametrize(("rho", "share"), [(0.1, 0.0), (0.3, 0.0), (0.45, 0.5), (0.6, 1.0), (5.0, 1.0)])
    def test_by_rho(self, rho, share):
        evidence = log(rough(), rho=rho)
        expected = blended(evidence, time_form, share=lambda _: share)
        assert_allclose(CANDIDATES["time, blended by rho"](evidence), expected, rtol=1e-9)


@pytest.mark.parametrize(("rho", "within"), [(0.299, False), (0.3, True), (1.2, True), (1.201, False)])
def test_outside_its_bounds_the_guard_returns_linear_decay(rho, within):
    evidence = log(rough(), rho=rho)
    expected = time_form(evidence) if within else linear(T).multiplier
    assert_allclose(guarded(evidence, time_form, low=0.3, high=1.2), expected, rtol=1e-12)


def test_the_loss_that_falls_late():
    """5 before 0.3 of the run, then `middle`, then 2 at the end: (middle - 2) / 3 of the fall is late."""
    later = partial(later_if_the_loss_falls_late, share=1 / 3)
    for middle, power in ((2.99, 1.0), (3.01, 0.75), (9.0, 0.75)):
        loss = np.select([X < 0.3, X < 0.7], [5.0, middle], 2.0)
        assert_allclose(later(log(rough(), loss=loss)), (1.0 - X) ** power, rtol=1e-12)
    for loss in (X, np.full(T, np.nan), np.full(T, np.inf)):
        assert_allclose(later(log(rough(), loss=loss)), 1.0 - X, rtol=1e-12)


class TestAsMethods:
    """`fit`: with the logged warmup, at equal area, from what the bench records."""

    ADAM, SGD = Optimizer("adam", "adam", rate=0.03), Optimizer("sgd", "sgd", rate=0.25)
    L2, L1 = (1.0 + 4.0 * np.exp(-X / 0.05)) * rough(3, 0.1), (2.0 + np.exp(-X / 0.1)) * rough(4, 0.1)
    LOG = Log(L2, L1, 10.0 * (1.0 - X) ** 2)

    def of(self, name, optimizer=ADAM):
        return fit(name, self.LOG, RATES / RATES.max(), 0.3, optimizer)

    def test_time_1_is_the_refined_schedule_with_its_dips(self):
        for optimizer, kind, values in ((self.ADAM, "l1", self.L1), (self.SGD, "l2", self.L2)):
            norms = GradientNorms.from_values(values, kind=kind, learning_rate=RATES, loss=self.LOG.loss)
            expected = refine.fit(norms, optimizer=optimizer.family)
            found = self.of("time 1", optimizer)
            shape = unimodal_multiplier(found.schedule.multiplier)
            assert np.abs(shape - found.schedule.multiplier).max() > 1e-3
            assert_allclose(shape, expected.refined.multiplier, rtol=2e-6)
            ratio = RATES.mean() / RATES.max() / found.schedule.multiplier.mean()
            assert found.peak_lr_ratio == pytest.approx(ratio, rel=1e-9)
            assert (found.is_linear, found.result.norms.kind) == (False, kind)

    def test_progress_is_the_candidate_with_alpha_one_quarter(self):
        for optimizer in (self.ADAM, self.SGD):
            found = self.of("progress", optimizer)
            assert found.schedule == self.of("progress 1/4", optimizer).schedule
            smoothed, power = found.result.smoothed, {"adam": 1, "sgd": 2}[optimizer.family]
            bent = progress_multiplier(smoothed**power, RATES, total_steps=T)
            assert_allclose(found.schedule.multiplier, with_warmup(bent, 10), rtol=1e-9)

    @pytest.mark.parametrize(("name", "power"), [("(1-x)^0.75", 0.75), ("(1-x)^1.25", 1.25)])
    def test_a_base_ignores_the_log(self, name, power):
        found = self.of(name)
        assert_allclose(found.schedule.multiplier, with_warmup((1.0 - X) ** power, 10), rtol=1e-9)
        assert found.peak_lr_ratio == pytest.approx(RATES.mean() / 0.3 / found.schedule.multiplier.mean(), rel=1e-9)

    def test_what_comes_out_as_linear_decay_is_linear_decay(self):
        """Then it is not trained again under another name."""
        found = self.of("(1-x)^0.75 if the loss falls late")
        assert found.is_linear
        assert_allclose(found.schedule.multiplier, linear(T, warmup_steps=10).multiplier, rtol=1e-9)
        assert found.peak_lr_ratio == pytest.approx(1.0, rel=1e-9)

    def test_the_published_padding_is_that_of_the_published_algorithm(self):
        """One large first norm: it decides the first multiplier, so low that the warmup does not cap it."""
        l1 = np.append(50.0 * self.L1[0], self.L1[1:])
        norms = GradientNorms.from_values(l1, kind="l1", source=Source(optimizer="adam"))
        paper = refine.fit(norms, published=True).refined.multiplier
        assert paper[0] < 0.03
        found = fit("time, published padding", replace(self.LOG, l1=l1), RATES / RATES.max(), 0.3, self.ADAM)
        assert_allclose(found.schedule.multiplier, with_warmup(paper, 10), rtol=1e-9)

    def test_the_default_is_what_refine_recommends(self):
        norms = GradientNorms.from_values(self.L1, kind="l1", learning_rate=RATES, loss=self.LOG.loss)
        expected = refine.fit(norms, optimizer="adam")
        found = self.of("default")
        assert found.schedule == expected.recommended
        assert (found.result.shape, found.is_linear) == (expected.shape, expected.shape == "linear")
        assert self.of("default", self.SGD).result.choice == found.result.choice
