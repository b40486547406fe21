import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize, minimize_scalar
from scipy.special import digamma

from refine import GradientNorms, RefineError, Schedule, constant, cosine, fit, linear, wsd
from refine.bound import best_omega, omega, omega_at_best_peak, omega_gradient, omega_of_run
from refine.refinement import refined_multiplier
from refine.transfer import best_tail, for_batch_size, peak_advice, peak_ratio_by_bound, retarget, tail_bound

FLAT = np.ones(2000)


def test_the_bound_rule_for_the_peak():
    rise = 1 + np.arange(2000) / 2000
    old, new = linear(2000).multiplier, cosine(2000).multiplier
    ratio = peak_ratio_by_bound(old, new, rise)
    expected = omega_at_best_peak(new, rise).peak_lr / omega_at_best_peak(old, rise).peak_lr
    assert ratio == pytest.approx(expected)
    assert peak_ratio_by_bound(new, old, rise) == pytest.approx(1 / ratio)
    # Doubling a schedule halves its best peak; larger norms change both alike.
    assert peak_ratio_by_bound(old, 2 * old, rise) == pytest.approx(0.5, rel=1e-6)
    assert peak_ratio_by_bound(old, new, 7 * rise) == pytest.approx(ratio, rel=1e-6)
    # Constant rates on constant norms: S = T + e, Q = e + sum_{j<T} 1 / (j + e), a difference of digammas.
    flat = constant(2000).multiplier

    def squared(e):
        return (e + digamma(2000 + e) - digamma(e)) / (2000 + e)

    e = minimize_scalar(squared, bounds=(0.1, 50), method="bounded", options={"xatol": 1e-10}).x
    assert omega_at_best_peak(flat, FLAT).peak_lr == pytest.approx(1 / math.sqrt(squared(e)) / (2000 + e), rel=1e-6)
    # Linear decay: S Q = T in the continuum.
    assert omega_at_best_peak(old, FLAT).peak_lr == pytest.approx(1 / math.sqrt(2000), rel=2e-3)


@pytest.mark.parametrize("build", [linear, cosine, constant])
@pytest.mark.parametrize(("old", "new"), [(100, 1000), (1000, 100), (64, 64)])
def test_a_family_is_retargeted_to_the_same_family_with_the_same_warmup(build, old, new):
    schedule = retarget(build(old, warmup_steps=10), new)
    tolerance = {"rtol": 1e-12} if build is not cosine else {"atol": 3e-4}
    assert_allclose(schedule.multiplier, build(new, warmup_steps=10).multiplier, **tolerance)
    assert schedule.provenance["retargeted_from"] == old
    assert schedule.provenance["warmup_steps"] == 10


@given(st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=50), st.integers(3, 120), st.integers(0, 2))
def test_retargeting_keeps_the_warmup_to_the_bit_and_invents_no_rate(values, steps, warmup):
    schedule = Schedule.from_rates(values, {"warmup_steps": warmup})
    found = retarget(schedule, steps).multiplier
    kept = max(warmup - 1, 0)
    assert found.size == steps
    assert found.min() >= min(schedule.multiplier.min(), schedule.end)
    if steps == schedule.total_steps:
        assert_allclose(found, schedule.multiplier, rtol=1e-12)
    assert_allclose(found[:kept] / found[kept], schedule.multiplier[:kept] / schedule.multiplier[kept], rtol=1e-12)


def test_retargeting_commutes_with_refining():
    # Resampled norms give the resampled schedule: theory.md 4.2.
    def norms(size):
        x = (np.arange(size) + 0.5) / size
        return 1 + 5 * np.exp(-x / 0.1) + x

    short, long = (Schedule(refined_multiplier(1 / norms(size))) for size in (4000, 16_000))
    assert_allclose(retarget(short, 16_000).multiplier, long.multiplier, atol=2e-3)


def test_a_warmup_of_another_length_takes_the_place_of_the_old_one():
    short = retarget(linear(1000, warmup_steps=100), 1000, warmup_steps=20)
    assert_allclose(short.multiplier, linear(1000, warmup_steps=20).multiplier, rtol=1e-12)
    assert short.provenance["warmup_steps"] == 20
    longer = retarget(linear(1000, warmup_steps=20), 3000, warmup_steps=300)
    assert_allclose(longer.multiplier, linear(3000, warmup_steps=300).multiplier, rtol=1e-12)
    none = retarget(linear(1000, warmup_steps=20), 500, warmup_steps=0)
    assert_allclose(none.multiplier, linear(500).multiplier, rtol=1e-12)
    added = retarget(linear(1000), 1000, warmup_steps=50)
    assert_allclose(added.multiplier, linear(1000, warmup_steps=50).multiplier, rtol=1e-12)
    smaller = for_batch_size(linear(1000, warmup_steps=100), 1, 2, warmup_steps=30)
    assert_allclose(smaller.multiplier, linear(500, warmup_steps=30).multiplier, rtol=1e-12)


def test_a_refined_schedule_is_retargeted_as_its_log_would_be():
    t = np.arange(1, 2001)
    norms = GradientNorms.from_values(
        1 + 4 * np.exp(-t / 150) + t / 4000, t, learning_rate=linear(2000, warmup_steps=60).multiplier
    )
    refined = partial(fit, norms, optimizer="sgd")
    result = refined()
    assert result.refined.provenance["shape"] == "refined"
    for steps in (700, 2000, 9000):
        again = refined(total_steps=steps).refined.multiplier
        found = retarget(result.refined, steps)
        behind = max(60, math.ceil(60 * steps / 2000))  # what the old warmup did not cover
        assert_allclose(found.multiplier[behind:], again[behind:], atol=0.02)
        assert found.total_steps == steps
        assert np.argmax(np.diff(found.multiplier) <= 0) >= 59


def test_nothing_of_the_old_horizon_is_left_in_the_provenance():
    old = Schedule(linear(100).multiplier, {"suggested_peak_lr": 0.1, "warmup_steps": 0, "source": "a.csv"})
    provenance = dict(retarget(old, 200).provenance)
    assert provenance == {"source": "a.csv", "warmup_steps": 0, "retargeted_from": 100}
    assert "cooldown_steps" not in retarget(wsd(1000, warmup_steps=50), 5000).provenance


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_the_shortest_runs(warmup):
    for size in (1, 2, 3):
        schedule = linear(size, warmup_steps=min(warmup, size))
        assert retarget(schedule, size) == schedule or size <= warmup
        assert retarget(schedule, 10).total_steps == 10


def test_a_warmup_can_be_named():
    longer = retarget(Schedule(linear(100, warmup_steps=20).multiplier), 200, warmup_steps=20)
    assert_allclose(longer.multiplier, linear(200, warmup_steps=20).multiplier, rtol=1e-12)
    stretched = retarget(Schedule(linear(100, warmup_steps=20).multiplier), 200)
    assert np.argmax(stretched.multiplier) == 38


@pytest.mark.parametrize(("steps", "warmup"), [(10, 10), (5, 10), (200, 200)])
def test_a_warmup_without_an_anneal_is_refused(steps, warmup):
    with pytest.raises(
        RefineError, match=r"the warmup takes \d+ updates of \d+, which leaves no anneal: give a longer"
    ):
        retarget(linear(100), steps, warmup_steps=warmup)


def test_batch_sizes():
    found = for_batch_size(linear(1000, warmup_steps=100), 256, 1024)
    assert_allclose(found.multiplier, linear(250, warmup_steps=25).multiplier, rtol=1e-12)
    smaller = for_batch_size(linear(1000, warmup_steps=100), 1024, 256)
    assert_allclose(smaller.multiplier, linear(4000, warmup_steps=400).multiplier, rtol=1e-12)
    # No sample is left out.
    assert for_batch_size(linear(1000), 32, 96).total_steps == 334
    assert for_batch_size(linear(10), 1, 1e300).total_steps == 1
    for old, new in ((0, 1), (1, math.nan), (-1, 1), (1, math.inf), (1e300, 1e-300)):
        with pytest.raises(RefineError, match="both must be positive numbers"):
            for_batch_size(linear(10), old, new)
    with pytest.raises(RefineError, match="batches of 1 after 1e\\+09 make more than 50000000 updates; check both"):
        for_batch_size(linear(10), 1e9, 1)


def test_advice_on_the_peak():
    assert peak_advice(100, 100) == ()
    (longer,) = peak_advice(100, 200)
    assert "for 2 times the updates, real runs wanted 0.85 to 0.93 times the peak" in longer
    (batch,) = peak_advice(100, 25, (256, 1024))
    assert "4 times the peak learning rate with SGD (arXiv:1706.02677), 2 times with the Adam family" in batch


# The rest of a run: theory.md 4.3.

T = 200
NORMS = {
    "flat": np.ones(T),
    "early": 1 + 8 * np.exp(-np.arange(T) / 15),
    "late": 1 + 2 * np.arange(T) / T,
    "falling": np.exp(-3 * np.arange(T) / T),
    "dip": 1 - 0.9 * np.exp(-(((np.arange(T) - 120) / 15) ** 2)),
    "1/t": 1 / (np.arange(T) + 5),
    "noisy": np.exp(np.random.default_rng(0).normal(0, 0.3, T)).cumsum() / np.arange(1, T + 1),
}
PLANS = {"constant": constant(T).multiplier, "linear": linear(T).multiplier, "cosine": cosine(T).multiplier}


def solved(done, n, distance, cap):
    """Least Omega over all tails below ``cap`` and all virtual steps, by a solver of convex problems."""
    s, steps = done.size, n.size - done.size
    with_last = np.append(n, n[-1])

    def value(tail):
        eta = np.concatenate([done, tail])
        return omega(eta, with_last, distance=distance), omega_gradient(eta, with_last, distance=distance)[s:]

    start = np.append(0.5 * np.linspace(1.0, 0.05, steps), 0.5)
    if cap is not None:
        start[:-1] *= cap
    bounds = [(1e-9, cap)] * steps + [(1e-9, None)]
    options = {"maxiter": 50_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-12, "maxcor": 50}
    return minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).fun


@pytest.mark.parametrize("s", [20, 100, 160])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", NORMS)
def test_both_tails_are_within_one_per_cent_of_a_convex_solve(kind, plan, s):
    n, h = NORMS[kind], PLANS[plan]
    distance = 1 / omega_at_best_peak(h, n).peak_lr
    held = best_tail(h[:s], n, distance=distance)
    least = solved(h[:s], n, distance, h[s - 1])
    assert least * (1 - 1e-6) <= held.bound <= least * 1.01
    assert held.multiplier.max() <= h[s - 1]
    assert held.multiplier.size == T - s
    assert np.all(held.multiplier[: held.hold_steps] == h[s - 1])
    assert held.multiplier[held.hold_steps] < h[s - 1]
    free = best_tail(h[:s], n, distance=distance, rewarm=True)
    least = solved(h[:s], n, distance, None)
    assert least * (1 - 1e-6) <= free.bound <= least * 1.01
    for tail in (held, free):
        assert np.all(tail.multiplier > 0)
        whole = np.concatenate([h[:s], tail.multiplier])
        assert tail.bound == pytest.approx(omega_of_run(whole, n, distance=distance), rel=1e-9)
        assert tail.bound == tail_bound(h[:s], n, tail.multiplier, distance=distance)


def test_after_linear_decay_the_best_rest_is_linear_decay():
    h = linear(2000).multiplier
    tail = best_tail(h[:800], FLAT, distance=1 / omega_at_best_peak(h, FLAT).peak_lr, rewarm=True)
    assert_allclose(tail.multiplier, h[800:], atol=0.01)


def test_the_unit_of_the_rates_does_not_matter():
    h, n = PLANS["cosine"], NORMS["late"]
    distance = 1 / omega_at_best_peak(h, n).peak_lr
    one = best_tail(h[:100], n, distance=distance)
    other = best_tail(3 * h[:100], 5 * n, distance=distance * 3 * math.sqrt(5))
    # Omega / gamma: D^2 / eta and eta N both go up by 3 * 5.
    assert other.bound == pytest.approx(15 * one.bound, rel=1e-6)
    assert_allclose(other.multiplier, 3 * one.multiplier, rtol=1e-2)


def test_long_runs_agree_with_short_ones():
    def tail(size):
        x = np.arange(size) / size
        n = 1 + 3 * np.exp(-x / 0.1)
        h = np.ones(size // 2)
        found = best_tail(h, n, distance=2 / omega_at_best_peak(linear(size).multiplier, n).peak_lr)
        return found.hold_steps / size, found.multiplier[:: size // 1000]

    (hold, short), (long_hold, long) = tail(2000), tail(200_000)
    assert long_hold == pytest.approx(hold, abs=0.005)
    assert_allclose(long, short, atol=0.02)


def test_a_given_hold_is_kept():
    distance = 1 / omega_at_best_peak(np.ones(T), NORMS["flat"]).peak_lr
    now = best_tail(np.ones(100), np.ones(T), distance=distance, hold_steps=0)
    assert now.hold_steps == 0
    assert np.all(np.diff(now.multiplier) < 0)
    later = best_tail(np.ones(100), np.ones(T), distance=distance, hold_steps=99)
    assert later.multiplier[:99].tolist() == [1.0] * 99
    assert now.multiplier[0] == 1.0  # from the present rate on
    best = best_tail(np.ones(100), np.ones(T), distance=distance)
    assert best.bound <= min(now.bound, later.bound)


@pytest.mark.parametrize(
    ("done", "size", "how", "message"),
    [
        (np.ones(10), 10, {}, "10 updates are done and 0 are to come; both must be at least 1"),
        (np.zeros(0), 10, {}, "0 updates are done"),
        (np.array([1.0, 0.0]), 10, {}, "the present rate is 0; there is nothing to hold"),
        (np.ones(4), 10, {"hold_steps": 6}, "hold_steps is 6; it must be from 0 to 5"),
    ],
)
def test_errors(done, size, how, message):
    with pytest.raises(RefineError, match=message):
        best_tail(done, np.ones(size), distance=1.0, **how)


def test_a_zero_rate_may_rise_with_rewarming():
    done = np.append(linear(100).multiplier, 0.0)
    tail = best_tail(done, np.ones(300), distance=10.0, rewarm=True)
    assert tail.multiplier[0] > 0.1
    assert best_omega(np.concatenate([done, tail.multiplier]), np.ones(300)) > 0


def test_the_warmup_of_a_resampled_schedule_is_as_long_as_it_became():
    again = retarget(linear(400, warmup_steps=41).resample(1000), 2000)
    assert again.provenance["warmup_steps"] == 101
    assert "resampled_from" not in again.provenance
    assert int(np.argmax(again.multiplier)) == 100
    assert_allclose(again.multiplier[:101], np.linspace(again.multiplier[0], 1.0, 101), atol=1e-12)
