"""`refine.fit` as a whole, on real logs and on made ones: what of a log the schedules follow, and what they do not."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refine import GradientNorms, fit, linear, read_norms
from refine import norms as norms_module
from refine.describe import warmup_fraction
from refine.smoothing import smooth

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("REFINE_SHARED", ROOT.parent / "shared"))
OURS = [
    ROOT / "data" / f"{name}.csv" for name in ("fashion_mnist_sgd", "shakespeare_adamw", "shakespeare_adamw_clipped")
]
OTHERS = [SHARED / "logs" / f"{name}.csv" for name in ("dlrm", "gpt", "imagenet_gnorm", "roberta_l1")]
LANGUAGE = [
    SHARED / "llm-runs" / "grad_norm" / f"{name}_T50000.csv"
    for name in (
        "const_lr0.0005",
        "const_lr0.001",
        "cos0_lr0.0005",
        "cos0_lr0.001",
        "wsd-sqrt0.2_lr0.0005",
        "wsd-sqrt0.2_lr0.001",
        "wsd0.2_lr0.0005",
        "wsd0.2_lr0.001",
        "wsd0.994_lr0.0005",
        "wsd0.994_lr0.001",
    )
]


def existing(path):
    if not path.is_file():
        pytest.skip(f"no {path}")
    return read_norms(path)


def by_name(path):
    return path.stem


def one_rise_one_fall(h):
    change, peak = np.diff(h), int(np.argmax(h))
    return bool(np.all(change[:peak] >= 0.0) and np.all(change[peak:] <= 0.0))


def thinned(norms, start=0.5, keep=10):
    """Every tenth row from a fraction of the run on."""
    rows = (norms.updates < start * norms.total_steps) | (np.arange(norms.steps.size) % keep == 0)
    columns = {
        name: None if column is None else column[rows]
        for name in ("learning_rate", "loss", "l1")
        for column in (getattr(norms, name),)
    }
    return replace(norms, steps=norms.steps[rows], values=norms.values[rows], extras={}, travel=None, **columns)


def moved(norms, other, optimizer):
    """Largest change of the refined schedule, in units of its peak."""
    one, two = (fit(log, optimizer=optimizer).refined.multiplier for log in (norms, other))
    return np.abs(one - two).max()


@pytest.mark.parametrize("path", [*OURS, *OTHERS, *LANGUAGE], ids=by_name)
class TestOnEveryLog:
    def test_what_a_schedule_is(self, path):
        norms = existing(path)
        result = fit(norms)
        assert result.computed
        assert list(result.schedules) == ["refined", "recommended", "linear", "cosine"]
        for schedule in result.schedules.values():
            h = schedule.multiplier
            assert h.shape == (norms.total_steps,)
            assert np.all(np.isfinite(h))
            assert np.all(h > 0.0)
            assert h.max() == 1.0
            assert one_rise_one_fall(h)
            w = result.warmup_steps
            assert w > 1
            assert np.all(h[:w] <= h[w - 1] * (np.arange(1, w + 1) / w) * (1.0 + 1e-9))

    def test_the_refined_one_follows_the_norms(self, path):
        """The same norm throughout is linear decay; the log's own are not."""
        norms = existing(path)
        flat = fit(replace(norms, values=np.full(norms.values.size, np.median(norms.values)), l1=None))
        assert_allclose(flat.refined.multiplier, flat.linear.multiplier, rtol=1e-11)
        assert_allclose(flat.linear.multiplier, linear(norms.total_steps, warmup_steps=flat.warmup_steps), rtol=1e-9)
        away = np.abs(fit(norms).refined.multiplier - flat.refined.multiplier).max()
        whole = norms.longest_gap < 0.1 * norms.total_steps
        assert away > (0.1 if whole else 0.005)  # two logs hold the last fifth of their run only

    def test_the_published_one_is_the_algorithm_alone(self, path):
        """Theorem 3 on the published median, whatever else a fit does."""
        norms = existing(path)
        result, ours = fit(norms, published=True), fit(norms)
        power = {"adam": 1, "sgd": 2}[result.optimizer]
        weights = norms.on_updates(smooth(norms.values, left="nearest"), norms.total_steps) ** -float(power)
        expected = weights * np.append(np.cumsum(weights[::-1])[::-1][1:] + weights[-1], weights[-1])
        assert_allclose(result.refined.multiplier, expected / expected.max(), rtol=1e-8, atol=1e-15)
        assert result.recommended == ours.recommended
        assert result.choice == ours.choice
        assert not np.array_equal(result.refined.multiplier, ours.refined.multiplier)


class TestMadeLogs:
    T = 2000
    X = (np.arange(T) + 0.5) / T
    SHAPES = MappingProxyType(
        {"flat": np.ones(T), "falling": np.exp(-X), "rising": np.exp(0.8 * X), "early": 1 + 4 * np.exp(-X / 0.03)}
    )

    def of(self, shape, optimizer, rates=None, seed=1):
        noise = np.random.default_rng(seed).lognormal(sigma=0.3, size=self.T)
        return fit(GradientNorms.from_values(self.SHAPES[shape] * noise, learning_rate=rates), optimizer=optimizer)

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_four_kinds_of_norms_give_four_schedules(self, optimizer):
        found = {shape: self.of(shape, optimizer).refined.multiplier for shape in self.SHAPES}
        for one in found:
            again = self.of(one, optimizer, seed=2).refined.multiplier
            others = [np.abs(found[one] - found[other]).max() for other in found if other != one]
            assert min(others) > 0.2
            assert np.abs(found[one] - again).max() < min(others)  # other noise is less

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_falling_norms_put_the_peak_late_and_rising_ones_anneal_early(self, optimizer):
        half = self.T // 2
        areas = {shape: self.of(shape, optimizer).refined.multiplier[half:].mean() for shape in self.SHAPES}
        assert areas["rising"] < areas["flat"] < areas["falling"]

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    @pytest.mark.parametrize("shown", [False, True])
    def test_large_early_norms_are_a_warmup(self, optimizer, shown):
        """Of its own: longer than the one that is imposed, and where the logged run had none."""
        rates = linear(self.T).multiplier if shown else None
        early, flat = (self.of(shape, optimizer, rates) for shape in ("early", "flat"))
        assert early.warmup_steps == (0 if shown else 40)
        assert warmup_fraction(early.refined.multiplier) > 0.09
        assert warmup_fraction(flat.refined.multiplier) < 0.02
        assert early.refined.at(0) < 0.5 < 0.9 < flat.refined.at(40)

    @given(st.integers(0, 10_000), st.sampled_from([0.05, 0.5, 2.0]), st.sampled_from(["adam", "sgd"]))
    def test_whatever_the_noise(self, seed, sigma, optimizer):
        values = np.random.default_rng(seed).lognormal(sigma=sigma, size=120)
        h = fit(values, optimizer=optimizer).refined.multiplier
        assert one_rise_one_fall(h)
        assert h.max() == 1.0
        assert np.all((h > 0.0) & (h <= 1.0))


class TestThinnedOut:
    """A log whose rows become rarer half-way: a tenth of them from there on."""

    @pytest.mark.parametrize("path", [OURS[1], OURS[2], OTHERS[2], OTHERS[3], LANGUAGE[3]], ids=by_name)
    def test_the_schedule_hardly_moves(self, path):
        norms = existing(path)
        fewer = thinned(norms)
        assert fewer.steps.size < 0.6 * norms.steps.size
        assert moved(norms, fewer, "adam") < 0.02

    def test_with_a_window_of_rows_it_moves(self, monkeypatch):
        """Why the window is a share of the updates: by rows it is ten times as wide where they are rare."""
        norms = read_norms(OURS[1])
        by_updates = moved(norms, thinned(norms), "adam")
        monkeypatch.setattr(
            norms_module, "smooth", lambda values, updates=None, *, fraction=0.1: smooth(values, fraction=fraction)
        )
        assert moved(norms, thinned(norms), "adam") > 0.1 > 5 * by_updates

    def test_noise_sets_a_floor(self):
        """A median of 30 noisy norms is itself that uncertain: a tenth of all rows moves it more than of the half."""
        norms = read_norms(OURS[0])
        half, whole = (moved(norms, thinned(norms, start), "sgd") for start in (0.5, 0.0))
        assert 0.05 < half < whole < 0.3


def test_the_noise_of_a_median_is_that_large():
    """The same with a known level: half as many norms thinned move the schedule less than all, over seeds."""
    t = 3000
    level = 1.0 + np.exp(-np.arange(t) / 500)
    found = []
    for seed in range(5):
        values = level * np.random.default_rng(seed).lognormal(sigma=0.5, size=t)
        norms = GradientNorms.from_values(values)
        found.append([moved(norms, thinned(norms, start), "sgd") for start in (0.5, 0.0)])
    half, whole = np.median(found, axis=0)
    assert half < whole


class TestExtremes:
    @pytest.mark.parametrize("size", [2, 3, 19, 20, 50])
    @pytest.mark.parametrize(
        "shape",
        [
            lambda n: np.full(n, 1e-300),
            lambda n: np.full(n, 1e300),
            lambda n: np.where(np.arange(n) % 2, 1e-300, 1e300),
            lambda n: np.geomspace(1e-300, 1e300, n),
            lambda n: np.geomspace(1e300, 1e-300, n),
            lambda n: np.append(1e300, np.ones(n - 1)),
            lambda n: np.append(np.ones(n - 1), 1e-300),
        ],
        ids=["tiny", "huge", "both", "rising", "falling", "first", "last"],
    )
    def test_finite_positive_and_said(self, size, shape):
        for optimizer in ("sgd", "adam"):
            for published in (False, True):
                for rates in (None, np.linspace(1.0, 0.01, size)):
                    norms = GradientNorms.from_values(shape(size), learning_rate=rates)
                    result = fit(norms, optimizer=optimizer, published=published)
                    assert result.computed == (size >= 20 and "tiny norms" not in {c.rule.name for c in result.against})
                    for name, schedule in result.schedules.items():
                        h = schedule.multiplier
                        assert np.all(np.isfinite(h) & (h > 0.0))
                        assert h.max() == 1.0
                        for ratio in (
                            result.measures[name].peak_lr_ratio,
                            result.measures[name].peak_lr_ratio_by_bound,
                        ):
                            assert ratio is None or 0.0 < ratio < np.inf
                    assert result.summary(verbose=True)
                    json.dumps(result.to_dict(), allow_nan=False)

    @pytest.mark.parametrize("value", [1e-301, 1e301, np.nan, np.inf, 0.0])
    def test_what_no_norm_can_be_is_dropped(self, value):
        values = np.ones(40)
        values[7] = value
        result = fit(values, optimizer="sgd")
        assert sum(result.norms.dropped.values()) == 1
        assert_allclose(result.refined.multiplier, result.linear.multiplier, rtol=1e-11)
