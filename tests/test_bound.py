import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.optimize import approx_fprime, minimize, minimize_scalar

from refine import constant, cosine, linear
from refine.bound import (
    best_omega,
    norms_where_optimal,
    omega,
    omega_at_best_peak,
    omega_curve,
    omega_gradient,
    omega_of_run,
    omega_terms,
    optimal_rates,
)
from refine.refinement import refined_multiplier

positive = st.lists(st.tuples(st.floats(1e-3, 1.0), st.floats(1e-3, 1e3)), min_size=2, max_size=40)


def published(eta, n):
    """Omega of DCMM Theorem 10 as printed, by its double sum (D = 1)."""
    total = sum(eta)
    value = 1 / (2 * total) + sum(e * e * g for e, g in zip(eta, n, strict=True)) / (2 * total)
    for k in range(len(eta) - 1):
        after = sum(eta[k + 1 :])
        tail = sum(e * e * g for e, g in zip(eta[k:], n[k:], strict=True))
        value += 0.5 * eta[k] / after / (after + eta[k]) * tail
    return value


@given(positive)
def test_omega_equals_the_published_double_sum(pairs):
    eta, n = zip(*pairs, strict=True)
    assert omega(eta, n) == pytest.approx(published(eta, n), rel=1e-11)


def test_omega_and_its_terms_equal_the_exact_rationals(shared):
    cases = json.loads((shared / "reference" / "bounds.json").read_text())["published"]
    assert cases
    for case in cases:
        eta, n = ([float(Fraction(x)) for x in case[key]] for key in ("eta_fraction", "squared_norm"))
        assert omega(eta, n) == pytest.approx(case["omega"], rel=1e-12)
        terms = (case["distance_term_float"], case["gradient_term_float"])
        assert omega_terms(eta, n) == pytest.approx(terms, rel=1e-12)


@pytest.mark.parametrize("total_steps", [25_000, 200_000])
def test_a_cosine_to_zero_loses_no_digits(total_steps):
    # R = (1/2) sum_{j>k} (1 + cos(pi j / T)) in closed form, where sums by subtraction go wrong.
    t = np.arange(total_steps, dtype=np.longdouble)
    h = np.sin(np.pi / 2 * (total_steps - t) / total_steps) ** 2
    to_come = np.cumsum(h[::-1])[::-1]
    exact = 1 / (2 * to_come[0]) + (h[-1] + np.sum(h[:-1] ** 2 / to_come[1:])) / 2
    flat = np.ones(total_steps)
    assert omega(cosine(total_steps).multiplier, flat) == pytest.approx(float(exact), rel=1e-11)


@given(positive)
def test_the_gradient_is_that_of_omega(pairs):
    eta, n = map(np.array, zip(*pairs, strict=True))
    # In log eta, where finite differences are accurate.
    found = omega_gradient(eta, n, distance=2.0) * eta
    expected = approx_fprime(np.log(eta), lambda z: omega(np.exp(z), n, distance=2.0), 1e-7)
    assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * omega(eta, n, distance=2.0))


@given(positive)
def test_omega_is_convex_along_lines(pairs):
    eta, n = map(np.array, zip(*pairs, strict=True))
    other = eta[::-1]
    middle = omega((eta + other) / 2, n)
    assert middle <= (omega(eta, n) + omega(other, n)) / 2 * (1 + 1e-12)


def norms_like(kind, size):
    t = np.arange(size)
    rng = np.random.default_rng(size)
    return {
        "flat": np.ones(size),
        "early": 1 + 9 * np.exp(-t / (0.1 * size)),
        "late": 1 + 3 * t / size,
        "rough": np.exp(rng.normal(0, 1, size)),
    }[kind]


@pytest.mark.parametrize("kind", ["flat", "early", "late", "rough"])
@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_no_solver_finds_less_than_the_exact_minimum(kind, size):
    n = norms_like(kind, size)
    eta, least = optimal_rates(n)
    assert omega(eta, n) == pytest.approx(least, rel=1e-13)
    assert np.all(eta > 0)

    def in_logarithms(z):
        return omega(np.exp(z), n), omega_gradient(np.exp(z), n) * np.exp(z)

    solved = minimize(
        in_logarithms,
        np.full(size, -2.0),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-12},
    )
    assert solved.fun == pytest.approx(least, rel=1e-11)


def test_the_minimum_of_one_and_two_steps_by_hand():
    assert optimal_rates([4.0]) == (np.array([0.5]), 2.0)
    # v_1 = 2 / (1 + sqrt 2) for two steps with N = 1.
    assert optimal_rates([1.0, 1.0])[1] == pytest.approx(math.sqrt(2 / (1 + math.sqrt(2))), rel=1e-15)


@pytest.mark.parametrize("kind", ["flat", "early", "late"])
def test_in_the_limit_the_minimiser_is_the_refined_schedule(kind):
    n = norms_like(kind, 20_000)
    least = optimal_rates(np.append(n, n[-1]))[1]
    assert best_omega(refined_multiplier(1 / n), n) == pytest.approx(least, rel=1e-4)


@given(positive)
def test_the_two_terms_are_equal_at_the_best_peak(pairs):
    h, n = map(np.array, zip(*pairs, strict=True))
    best = omega_at_best_peak(h, n)
    distance_term, gradient_term = best.terms(best.peak_lr)
    assert distance_term == pytest.approx(gradient_term, rel=1e-12)
    assert distance_term + gradient_term == pytest.approx(best.value, rel=1e-12)
    rates = best.peak_lr * h
    assert omega_of_run(rates, n) == pytest.approx(best.value, rel=1e-8)
    assert omega_of_run(1.3 * rates, n) >= best.value * (1 - 1e-9)


@given(positive, st.floats(0.1, 10.0))
def test_distance_and_rates_scale_together(pairs, scale):
    eta, n = map(np.array, zip(*pairs, strict=True))
    assert omega_of_run(scale * eta, n, distance=scale) == pytest.approx(scale * omega_of_run(eta, n), rel=1e-8)


@given(positive)
def test_larger_norms_never_lower_the_bound(pairs):
    eta, n = map(np.array, zip(*pairs, strict=True))
    larger = n * np.linspace(1.0, 2.0, n.size)
    assert omega_of_run(eta, larger) >= omega_of_run(eta, n) * (1 - 1e-9)
    assert optimal_rates(larger)[1] >= optimal_rates(n)[1]


def test_resampling_a_schedule_scales_its_bound_as_one_over_root_t():
    for build in (linear, cosine, constant):
        long, short = (best_omega(build(size).multiplier, np.ones(size)) * math.sqrt(size) for size in (40_000, 10_000))
        # constant: sqrt(log T) as well
        expected = math.sqrt(math.log(40_000) / math.log(10_000)) if build is constant else 1.0
        assert long / short == pytest.approx(expected, rel=1e-3 if build is not constant else 0.02)


def test_the_curve_is_the_bound_of_every_shorter_run():
    h = cosine(500, warmup_steps=20).multiplier
    n = norms_like("early", 500)
    eta = h * omega_at_best_peak(h, n).peak_lr
    curve = omega_curve(eta, n, [1, 7, 250, 500])
    assert curve[-1] == pytest.approx(best_omega(h, n), rel=1e-8)
    for t, value in zip((1, 7, 250), curve, strict=False):
        n_all = np.append(n[:t], n[t - 1])
        found = minimize_scalar(
            lambda log_e, t=t, n_all=n_all: omega(np.append(eta[:t], math.exp(log_e)), n_all),
            bounds=(-12, 12),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert value == pytest.approx(found.fun, rel=1e-9)


def test_the_curve_of_a_schedule_that_starts_at_zero():
    assert omega_curve([0.0, 1.0], [1.0, 1.0], [1, 2])[0] == pytest.approx(1.0)  # no step: D sqrt(N)


def test_omega_is_infinite_without_a_last_step():
    assert omega([1.0, 0.0], [1.0, 1.0]) == math.inf


@given(positive)
def test_best_omega_is_the_minimum_over_peak_and_virtual_step(pairs):
    h, n = map(np.array, zip(*pairs, strict=True))
    n_all = np.append(n, n[-1])

    def at_peak(log_gamma, e):
        return omega(math.exp(log_gamma) * np.append(h, e), n_all)

    best = best_omega(h, n)
    # No peak and no virtual step is better ...
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert at_peak(rng.normal(0, 4), math.exp(rng.normal(0, 4))) >= best * (1 - 1e-9)

    # ... and one pair reaches it, found by another solver.
    def over_peak(log_e):
        return minimize_scalar(lambda g: at_peak(g, math.exp(log_e)), bracket=(-3.0, 0.0)).fun

    found = minimize_scalar(over_peak, bounds=(-15.0, 15.0), method="bounded", options={"xatol": 1e-7}).fun
    assert found == pytest.approx(best, rel=1e-6)


@given(positive, st.floats(1e-3, 1e3))
def test_best_omega_does_not_see_the_scale_of_the_schedule(pairs, scale):
    h, n = map(np.array, zip(*pairs, strict=True))
    assert best_omega(h * scale, n) == pytest.approx(best_omega(h, n), rel=1e-9)
    assert best_omega(h, n * scale) == pytest.approx(best_omega(h, n) * math.sqrt(scale), rel=1e-9)


def test_the_refined_schedule_has_the_least_bound():
    rng = np.random.default_rng(1)
    t = np.arange(2000)
    n = np.exp(0.3 * np.cumsum(rng.standard_normal(2000)) / 40) * (1 + 5 * np.exp(-t / 100))
    best = best_omega(refined_multiplier(1 / n), n)
    # Continuum limit: 2 D / sqrt(sum 1/N), theory.md section 3.
    assert_allclose(best, 2 / math.sqrt(np.sum(1 / n)), rtol=5e-3)
    for other in (linear(2000), cosine(2000), linear(2000, warmup_steps=100)):
        assert best_omega(other.multiplier, n) > best


def test_cosine_against_linear_equals_the_continuum():
    # Omega* = D sqrt(Q / S) with Q the integral of h^2 / R: 2 D sqrt(N / T) for linear decay.
    def cost(x):
        h = (1 + math.cos(math.pi * x)) / 2
        return h * h / ((1 - x) / 2 - math.sin(math.pi * x) / (2 * math.pi))

    expected = math.sqrt(quad(cost, 0, 1 - 1e-4, limit=500)[0] / 0.5) / 2
    flat = np.ones(20_000)
    ratio = best_omega(cosine(20_000).multiplier, flat) / best_omega(linear(20_000).multiplier, flat)
    assert ratio == pytest.approx(expected, rel=1e-3)


rates = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=40)


@given(rates)
def test_every_schedule_is_the_exact_minimiser_on_its_norms(h):
    norms = norms_where_optimal(h)
    eta, least = optimal_rates(np.append(norms, norms[-1]))
    assert_allclose(eta[:-1] / eta[0], np.array(h) / h[0], rtol=1e-12)
    assert best_omega(h, norms) == pytest.approx(least, rel=1e-9)
    assert_allclose(norms_where_optimal(3.0 * np.array(h)), norms, rtol=1e-12)


@given(st.lists(st.tuples(st.floats(1e-3, 1.0), st.floats(1e-3, 1.0)), min_size=2, max_size=40))
def test_what_other_rates_cost_there_is_the_stated_sum(pairs):
    """eta / 2 sum N_k R'_k (h'_k / R'_k - h_k / R_k)^2 + D^2 (S' - S)^2 / (2 eta S' S^2), of `nearest_settings`."""
    h, other = np.array(pairs).T
    norms, last = norms_where_optimal(h), (1 + math.sqrt(2)) * h[-1]
    peak = omega_at_best_peak(h, norms).peak_lr

    def value(rates):
        return omega(peak * np.append(rates, last), np.append(norms, norms[-1]))

    def to_come(rates):
        return np.append(rates[::-1].cumsum()[-2::-1], 0.0) + last

    left, others_left = to_come(h), to_come(other)
    total, others_total = h.sum() + last, other.sum() + last
    bent = norms * others_left * (other / others_left - h / left) ** 2
    cost = peak / 2 * bent.sum() + (others_total - total) ** 2 / (2 * peak * others_total * total**2)
    assert value(other) - value(h) == pytest.approx(cost, rel=1e-5, abs=1e-9 * value(other))


def test_the_norms_of_linear_decay_are_constant():
    norms = norms_where_optimal(np.arange(1000, 0, -1) / 1000)
    assert_allclose(norms[:900], norms[0], rtol=0.01)
    assert_allclose(norms_where_optimal(optimal_rates(np.ones(50))[0][:-1]), 1.0, rtol=1e-12)
