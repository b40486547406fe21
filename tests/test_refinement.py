import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refine import RefineError, linear, read_norms, refined_schedule
from refine.refinement import (
    inverse_squared_norms,
    progress_multiplier,
    published_multiplier,
    refined_multiplier,
)

norms = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=50)
wild_norms = st.lists(st.floats(1e-300, 1e300), min_size=2, max_size=50)
families = st.sampled_from(["sgd", "adam"])


def theorem_3(weights):
    """DCMM Theorem 3 by the double sum, in exact rationals."""
    w = [Fraction(x) for x in weights]
    eta = [w[t] * sum(w[t + 1 :], Fraction(0)) for t in range(len(w))]
    return [float(e / max(eta)) for e in eta]


@given(norms)
def test_published_equals_the_double_sum(weights):
    assert_allclose(published_multiplier(weights), theorem_3(weights), rtol=1e-12, atol=0)


@given(norms)
def test_refined_is_theorem_3_with_a_virtual_last_point(weights):
    assert_allclose(refined_multiplier(weights), theorem_3([*weights, weights[-1]])[:-1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("total_steps", [1, 2, 7, 1000])
def test_constant_norms_give_linear_decay(total_steps):
    expected = linear(total_steps).multiplier
    assert_allclose(refined_multiplier(np.full(total_steps, 0.3)), expected, rtol=1e-12)
    logged = np.cos(np.arange(1, total_steps + 1) / total_steps)  # any schedule
    assert_allclose(
        progress_multiplier(np.full(total_steps, 7.0), logged, total_steps=total_steps), expected, rtol=1e-12
    )


def test_weights_follow_the_family():
    assert inverse_squared_norms([2.0, 1.0, 4.0], optimizer="sgd").tolist() == [0.25, 1.0, 0.0625]
    assert inverse_squared_norms([2.0, 1.0, 4.0], optimizer="adam").tolist() == [0.5, 1.0, 0.25]
    with pytest.raises(RefineError, match="optimizer is 'lion'; it must be one of sgd, adam"):
        inverse_squared_norms([1.0], optimizer="lion")


@given(norms, families, st.floats(1e-6, 1e6))
def test_scaling_all_norms_changes_nothing(values, family, scale):
    one, other = (
        refined_multiplier(inverse_squared_norms(v, optimizer=family)) for v in (values, np.multiply(values, scale))
    )
    assert_allclose(one, other, rtol=1e-11)


@given(wild_norms, families)
def test_multipliers_are_finite_positive_and_peak_at_one(values, family):
    weights = inverse_squared_norms(values, optimizer=family)
    for h in (refined_multiplier(weights), progress_multiplier(1 / weights, np.ones(len(values)), total_steps=30)):
        assert np.all(np.isfinite(h))
        assert np.all(h > 0)
        assert h.max() == 1.0


@given(norms, st.integers(1, 80), st.sampled_from([0.0, 0.25, 0.5]))
def test_progress_form_by_its_definition(values, total_steps, alpha):
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


def test_progress_form_bends_linear_decay_by_at_most_19_percent():
    rng = np.random.default_rng(0)
    n = np.exp(3 * rng.standard_normal(500))
    h = progress_multiplier(n, np.ones(500), total_steps=500)
    ratio = h / linear(500).multiplier
    # 19 % either way around a common factor: within 2^(1/2) of each other, the time axis apart.
    assert 1.0 < ratio.max() / np.median(ratio) < 1.42


def test_progress_form_takes_rates_of_zero():
    h = progress_multiplier([1.0, 2.0, 1.0, 1.0], [0.0, 1.0, 0.5, 0.0], total_steps=6)
    assert np.all(np.isfinite(h))
    assert np.all(h > 0)


CASES = [("gpt.csv", 2), ("gpt.csv", 1), ("dlrm.csv", 2), ("imagenet_gnorm.csv", 2), ("roberta_l1.csv", 1)]


@pytest.mark.parametrize(("name", "exponent"), CASES)
def test_paper_mode_equals_the_reference_values(shared, name, exponent):
    reference = json.loads((shared / "reference" / "refined_multipliers.json").read_text())
    (case,) = [c for c in reference["cases"] if (c["file"], c["exponent"]) == (name, exponent)]
    log = read_norms(shared / "logs" / name)
    result = refined_schedule(log, mode="paper", optimizer="sgd" if exponent == 2 else "adam", smoothing=case["tau"])
    h = result.logged_multiplier
    assert h.size == case["points"] == log.steps.size
    index = np.rint(np.array(case["fraction"]) * (h.size - 1)).astype(int)
    assert_allclose(h[index], case["multiplier"], rtol=0, atol=1e-9)
    assert np.argmax(h) / (h.size - 1) == pytest.approx(case["argmax_fraction"], abs=1e-9)
    assert h[-1] == 0.0
    assert result.schedule.total_steps == log.total_steps
    assert result.schedule.multiplier.min() > 0


@pytest.mark.parametrize(
    ("name", "optimizer", "peak"), [("roberta_l1.csv", "adam", 0.45), ("imagenet_gnorm.csv", "sgd", 0.01)]
)
def test_paper_mode_peaks_where_the_published_schedules_do(shared, name, optimizer, peak):
    result = refined_schedule(read_norms(shared / "logs" / name), mode="paper", optimizer=optimizer)
    assert result.to_dict()["peak_fraction"] == pytest.approx(peak, abs=0.005)
