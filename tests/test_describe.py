import numpy as np
import pytest

from refine import constant, linear
from refine.describe import decay_exponent, dip_before_peak, peak_fraction, rise_after_peak, warmup_fraction


def test_linear_with_warmup():
    h = linear(1000, warmup_steps=100).multiplier
    assert warmup_fraction(h) == 0.089
    assert peak_fraction(h) == 0.099
    exponent, r2 = decay_exponent(h)
    assert exponent == pytest.approx(1.0, abs=1e-9)
    assert r2 == pytest.approx(1.0, abs=1e-9)
    assert rise_after_peak(h) == 0.0


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0])
def test_exponent_equals_a_plain_least_squares_fit(p):
    rng = np.random.default_rng(0)
    x = np.arange(500) / 500
    h = (1 - x) ** p * np.exp(0.1 * rng.standard_normal(500))
    h[3] = 2 * h.max()
    h /= h.max()
    keep = slice(3, np.flatnonzero(x <= 0.99)[-1] + 1)
    slope, _ = np.polyfit(np.log(1 - x[keep]), np.log(h[keep]), 1)
    exponent, r2 = decay_exponent(h)
    assert exponent == pytest.approx(slope, rel=1e-10)
    assert r2 == pytest.approx(np.corrcoef(np.log(1 - x[keep]), np.log(h[keep]))[0, 1] ** 2, rel=1e-10)


@pytest.mark.parametrize(
    "h", [[1.0], [1.0, 0.5], constant(100).multiplier, np.arange(1, 101) / 100, [1.0, 0.0, 0.0, 0.0]]
)
def test_no_anneal_no_exponent(h):
    assert decay_exponent(h) is None


def test_dip_before_peak_is_the_largest_fall():
    assert dip_before_peak([0.2, 0.6, 0.3, 0.7, 0.5, 1.0, 0.1]) == pytest.approx(0.3)
    assert dip_before_peak(linear(100, warmup_steps=10).multiplier) == 0.0


def test_rise_after_peak_is_the_largest_climb():
    assert rise_after_peak([1.0, 0.4, 0.6, 0.3, 0.55, 0.1]) == pytest.approx(0.25)
