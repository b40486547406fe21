import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from refine import cosine, linear
from refine.bound import best_omega, omega
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


def test_omega_equals_the_exact_rationals(shared):
    cases = json.loads((shared / "reference" / "bounds.json").read_text())["published"]
    assert cases
    for case in cases:
        eta, n = ([float(Fraction(x)) for x in case[key]] for key in ("eta_fraction", "squared_norm"))
        assert omega(eta, n) == pytest.approx(case["omega"], rel=1e-12)


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
