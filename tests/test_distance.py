"""The bound on D: exact on convex problems whose solution is known, and lawful everywhere."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from refine import GradientNorms, fit, linear
from refine.bound import omega_of_run
from refine.distance import distance_bound, estimate, peak_from_distance
from refine.norms import Source, Travel
from refine.pool import pool

T = 400
BEST_PEAK = {"sgd": 0.5, "momentum": 1 / 16, "adam": 1 / 32}
"""The best of the powers of 2 on the noisy digits, at T updates of 16 rows (`test_the_suggested_peak_...`)."""

samples = st.lists(
    st.tuples(*[st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(0, 10)]), min_size=1
)


def travel(rate, dot, size, loss=None):
    rate, dot, size = (np.asarray(column, dtype=np.float64) for column in (rate, dot, size))
    loss = np.full(rate.size, np.nan) if loss is None else np.asarray(loss, dtype=np.float64)
    return Travel(np.arange(1, rate.size + 1), np.zeros(rate.size), dot, size, rate, loss)


def bound(*columns, losses=None):
    found = distance_bound(travel(*columns), losses)
    return 0.0 if found is None else found.lower_bound


class Softmax:
    """Softmax regression with l2 regularisation on data of scikit-learn, from 0; ``star`` is its solution."""

    def __init__(self, load, *, every=1, wrong_labels=0.0, ridge=0.01):
        x, labels = (column[::every] for column in load(return_X_y=True))
        rng = np.random.default_rng(9)
        wrong = rng.random(labels.size) < wrong_labels
        labels = np.where(wrong, rng.integers(0, labels.max() + 1, labels.size), labels)
        x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1.0)
        self.x, self.y, self.ridge = np.c_[x, np.ones(len(x))], np.eye(labels.max() + 1)[labels], ridge
        self.shape = self.x.shape[1], self.y.shape[1]
        found = minimize(
            lambda w: [part.ravel() for part in map(np.asarray, self(w.reshape(self.shape)))],
            np.zeros(self.shape).ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-9},
        )
        self.star = found.x.reshape(self.shape)
        self.error = np.linalg.norm(self(self.star)[1]) / ridge  # of the solution: strongly convex

    def __call__(self, w, rows=slice(None)):
        x, y = self.x[rows], self.y[rows]
        z = x @ w
        top = z.max(axis=1, keepdims=True)
        e = np.exp(z - top)
        total = e.sum(axis=1, keepdims=True)
        loss = np.mean(np.log(total) + top) - np.mean((z * y).sum(axis=1)) + self.ridge / 2 * np.sum(w * w)
        return loss, x.T @ (e / total - y) / len(x) + self.ridge * w


class Run:
    """A logged run in plain numpy: `Travel` of every k-th update, norms, and D in the norm of each of these."""

    def __init__(self, problem, peak, optimizer="sgd", batch=None, every=1, updates=T):
        rng = np.random.default_rng(5)
        w, s, m, v = np.zeros((4, *problem.shape))
        self.losses, self.squared, self.distances, rows = [], [], [], []
        for t, h in enumerate(linear(updates).multiplier):
            loss, g = problem(w, slice(None) if batch is None else rng.integers(0, len(problem.x), batch))
            scale = 1.0
            if optimizer == "adam":
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                scale = np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8
                step = m / (1 - 0.9 ** (t + 1)) / scale
            else:
                m = step = (0.9 if optimizer == "momentum" else 0.0) * m + g
            if t % every == 0:
                s = s + peak * h * g
                own = np.sqrt(np.sum(s * s / scale))
                rows.append((t + 1, np.linalg.norm(w), np.sum(-g * w), own, peak * h, loss))
                self.distances.append(np.sqrt(np.sum(scale * problem.star**2)))
            self.losses.append(loss)
            self.squared.append(np.sum(g * g / scale))
            w = w - peak * h * step
        steps, *columns = np.array(rows).T
        self.travel, self.last = Travel(steps.astype(np.int64), *columns), w
        self.loss = problem(w)[0]
        self.optimizer = optimizer

    def distance(self, found):
        return self.distances[int(np.flatnonzero(self.travel.steps == found.at_step)[0])]

    def norms(self, **more):
        """As a reader gives them."""
        adam = self.optimizer == "adam"
        settings = {"momentum": 0.9} if self.optimizer == "momentum" else {}
        source = Source(optimizer="adam" if adam else "sgd", settings=settings)
        values = np.array(self.squared) if adam else np.sqrt(self.squared)
        norms = GradientNorms.from_values(values, kind="dual" if adam else "l2", loss=self.losses, source=source)
        return replace(norms, **{"travel": self.travel, **more})


@pytest.fixture(scope="module")
def wine():
    return Softmax(pytest.importorskip("sklearn.datasets").load_wine)


@pytest.fixture(scope="module")
def digits():
    """A tenth of the labels wrong, so that gradients do not vanish."""
    return Softmax(pytest.importorskip("sklearn.datasets").load_digits, every=3, wrong_labels=0.1)


class TestConvexProblems:
    @pytest.mark.parametrize("every", [1, 7])
    @pytest.mark.parametrize(
        ("optimizer", "peak"),
        [("sgd", 0.01), ("sgd", 0.1), ("sgd", 1.0), ("momentum", 0.1), ("adam", 0.003), ("adam", 0.01), ("adam", 0.1)],
    )
    def test_full_batches_never_violate_it_at_any_prefix(self, wine, optimizer, peak, every):
        run = Run(wine, peak, optimizer, every=every, updates=200)
        assert wine.error < 1e-6
        for n in range(1, run.travel.steps.size + 1, 3):
            columns = (getattr(run.travel, name)[:n] for name in Travel.__slots__)
            found = distance_bound(Travel(*columns))
            assert found is None or found.lower_bound <= run.distance(found) * (1 + 1e-6)
        assert found.lower_bound > 0.1 * run.distance(found)
        without = distance_bound(replace(run.travel, loss=np.full(run.travel.steps.size, np.nan)))
        assert without is None or without.lower_bound <= run.distance(without) * (1 + 1e-6)

    @pytest.mark.parametrize("optimizer", BEST_PEAK)
    @pytest.mark.parametrize(("times", "least"), [(1 / 8, 0.4), (1, 0.4), (2, 0.3)])
    def test_minibatches(self, digits, optimizer, times, least):
        run = Run(digits, BEST_PEAK[optimizer] * times, optimizer, batch=16)
        found = distance_bound(run.travel)
        assert least < found.lower_bound / run.distance(found) < 0.9

    @pytest.mark.parametrize("optimizer", BEST_PEAK)
    def test_the_suggested_peak_is_near_the_swept_one(self, digits, optimizer):
        peak = BEST_PEAK[optimizer]
        runs = {scale: Run(digits, peak * scale, optimizer, batch=16) for scale in (0.25, 0.5, 1, 2, 4)}
        assert min(runs, key=lambda scale: runs[scale].loss) == 1
        for scale in (0.25, 1):
            found = fit(runs[scale].norms()).distance
            assert 0.15 < found.peak_lr / peak < 1.0
        true = peak_from_distance(np.linalg.norm(digits.star), linear(T).multiplier, runs[1].squared)
        if optimizer != "adam":
            assert 0.4 < true * (0.1 if optimizer == "momentum" else 1.0) / peak < 1.0

    def test_theory_identity_of_plain_sgd(self, wine):
        """Section 7: s = x_1 - x_{T+1} and the first sum is (||x_{T+1} - x_1||^2 - sum eta^2 ||g||^2) / 2."""
        run = Run(wine, 0.3, batch=16, updates=50)
        rates, gone = run.travel.learning_rate, np.linalg.norm(run.last)
        first = np.sum(rates * run.travel.dot)
        assert first == pytest.approx((gone**2 - np.sum(rates**2 * run.squared)) / 2, rel=1e-10)
        assert run.travel.gradient_sum_norm[-1] == pytest.approx(gone, rel=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.01, 100.0))
def test_it_holds_for_any_iterates_and_any_weights(seed, n, spread):
    rng = np.random.default_rng(seed)
    a, b, x = rng.normal(size=(6, 3)), rng.normal(size=6), spread * rng.normal(size=(n, 3))
    rates = rng.random(n)
    g = (x @ a.T - b) @ a
    s = np.linalg.norm(np.cumsum(rates[:, None] * g, axis=0), axis=1)
    found = bound(rates, np.sum(g * (x[0] - x), axis=1), s, np.sum((x @ a.T - b) ** 2, axis=1) / 2)
    assert found <= np.linalg.norm(x[0] - np.linalg.lstsq(a, b)[0]) * (1 + 1e-9)


@given(samples)
def test_it_is_the_formula(rows):
    rate, dot, size, loss = zip(*rows, strict=True)
    least, total, best = min(loss), 0.0, 0.0
    for each, product, norm, value in rows:
        total += each * (product + value - least)
        best = max(best, total / norm)
    assert bound(rate, dot, size, loss, losses=[least]) == pytest.approx(best, rel=1e-9, abs=1e-9)


@given(samples, st.sampled_from([0.25, 8.0]))
def test_laws(rows, c):
    rate, dot, size, loss = np.array(rows).T
    found = bound(rate, dot, size, loss)
    exactly = partial(pytest.approx, rel=0.0, abs=1e-300)  # but for what underflows
    assert bound(rate, c * dot, c * size, c * loss) == exactly(found)  # f times c
    assert bound(c * rate, dot, c * size, loss) == exactly(found)  # rates
    assert bound(rate, dot, size / c, loss) == exactly(c * found)  # x times c: gradients over c
    with_losses = bound(rate, dot, size, loss, losses=[loss.min()])
    assert bound(rate, dot, size) <= with_losses
    assert bound(rate[:-1], dot[:-1], size[:-1], loss[:-1], losses=[loss.min()]) <= with_losses
    assert bound(rate, dot, np.zeros(size.size), loss) == 0.0


def test_the_lowest_loss_is_one_of_means():
    """Of 100 noisy losses, 1 but for a single 0, f_up is that of the worst tenth: 0.9."""
    losses = np.ones(100)
    losses[50] = 0.0
    assert bound([1.0], [0.0], [1.0], [2.0], losses=losses) == pytest.approx(1.1, rel=1e-12)
    assert bound([1.0], [0.0], [1.0], [2.0], losses=np.append(losses, np.nan)) == pytest.approx(1.1, rel=1e-12)


def test_what_is_missing():
    nan = np.nan
    whole = travel([1, 1, 1], [0, 2, 4], [1, 1, 1])
    assert (distance_bound(whole).at_step, distance_bound(whole).samples, distance_bound(whole).loss_used) == (
        3,
        3,
        False,
    )
    assert bound([1, 1, 1], [0, nan, 4], [1, nan, 1]) == 4.0  # skipped
    assert bound([1, 1, 1], [0, 2, 4], [1, 1, nan]) == 2.0  # no prefix ends there
    assert bound([1, 1, 1], [0, 2, 4], [1, nan, 1]) == 6.0
    for rate in (nan, np.inf, -1.0):
        assert bound([1, 1, rate], [0, 2, 4], [1, 1, 1]) == 2.0
    assert bound([1, 1, 1], [0, 2, nan], [1, 1, 1]) == 2.0
    assert bound([1, 1], [0, 2], [1, 1], [nan, 3], losses=[1]) == 4.0
    assert bound([nan, 1], [0, 2], [1, 1]) == 0.0
    assert bound([], [], []) == 0.0
    assert bound([1e300, 1], [1e300, 1], [1, 1]) == 0.0  # beyond the floats


def test_the_peak_minimises_the_bound():
    h, n = linear(30).multiplier, 2.0 + np.sin(np.arange(30))
    least = minimize_scalar(
        lambda log_peak: omega_of_run(np.exp(log_peak) * h, n, distance=3.0), bracket=(-5, 1), tol=1e-10
    )
    assert peak_from_distance(3.0, h, n) == pytest.approx(np.exp(least.x), rel=1e-4)


class TestResult:
    T = 50

    def norms(self, *, rates=True, scale=1.0, updates=T, steps=None, kind="l2", optimizer="sgd", **settings):
        size = updates if steps is None else len(steps)
        source = Source(optimizer=optimizer, settings=settings)
        found = GradientNorms.from_values(scale * np.ones(size), steps, kind=kind, source=source, logged_steps=updates)
        rate = np.full(3, 0.1 if rates else np.nan)
        return replace(found, travel=travel(rate, [0, 2, 4], scale * np.ones(3)))

    def test_says_so(self):
        result = fit(self.norms())
        assert result.distance.lower_bound == pytest.approx(0.6, rel=1e-12)
        assert (result.distance.norm, result.distance.samples) == ("l2", 3)
        expected = peak_from_distance(0.6, result.recommended.multiplier, np.ones(self.T))
        assert result.distance.peak_lr == pytest.approx(expected, rel=1e-9)
        assert (
            "distance: at least 0.6 in l2 from start to solution (experimental, convex theory; 3 samples, no losses); "
            f"so by the bound a peak learning rate of at least {expected:.3g}"
        ) in " ".join(result.summary(verbose=True).split())
        assert "distance" not in result.summary()
        found = result.to_dict()
        assert found["distance_lower_bound"] == result.distance.lower_bound
        assert found["peak_lr_from_distance"] == result.distance.peak_lr

    @pytest.mark.parametrize(("optimizer", "kind", "power"), [("sgd", "l2", -2), ("adam", "dual", -1.5)])
    @pytest.mark.parametrize("scale", [1e-220, 1e-3, 7.0, 1e220])
    def test_units(self, optimizer, kind, power, scale):
        """Norms c times as large: D / c, and SGD's N = c^2, Adam's c."""
        one, other = (fit(self.norms(optimizer=optimizer, kind=kind, scale=c)).distance for c in (1.0, scale))
        assert one.norm == ("l2" if optimizer == "sgd" else "own")
        expected = np.log10(one.peak_lr) + power * np.log10(scale)
        if abs(expected) < 307:
            assert np.log10(other.peak_lr) == pytest.approx(expected, abs=1e-9)
        else:
            assert other.peak_lr is None
        assert other.lower_bound == pytest.approx(0.6 / scale, rel=1e-12)

    def test_momentum_goes_further(self):
        plain, heavy, text = (
            fit(self.norms(**more)).distance for more in ({}, {"momentum": 0.9}, {"momentum": "high"})
        )
        assert heavy.peak_lr == pytest.approx(0.1 * plain.peak_lr, rel=1e-12)
        assert text == plain
        adam = self.norms(optimizer="adam", kind="dual", momentum=0.9)
        assert fit(adam).distance.peak_lr == pytest.approx(plain.peak_lr, rel=1e-12)

    def test_the_horizon_is_that_of_the_log(self):
        one, other = (fit(self.norms(), total_steps=n).distance for n in (None, 20 * self.T))
        assert other.peak_lr == pytest.approx(one.peak_lr, rel=0.1)

    def test_long_runs_are_thinned(self):
        found = fit(self.norms(updates=250_000, steps=np.arange(1, 250_001, 1000)))
        expected = peak_from_distance(0.6, found.recommended.multiplier, np.ones(250_000))
        assert found.distance.peak_lr == pytest.approx(expected, rel=1e-3)

    def test_no_estimate_and_why(self):
        plain = GradientNorms.from_values(np.ones(self.T))
        assert estimate(plain, "sgd", np.ones(self.T)) == (None, ())
        assert fit(plain).to_dict()["distance_lower_bound"] is None
        assert "distance" not in fit(plain).summary()
        for norms, note in (
            (
                self.norms(rates=False),
                "no distance estimate: it needs the learning rates, and the log lacks them (--lr-column)",
            ),
            (
                pool([self.norms(), self.norms()]),
                "no distance estimate: it is of a single run, and these logs are pooled (--each)",
            ),
            (
                replace(plain, travel=travel([1], [0], [1])),
                "no distance estimate: the distance columns give no bound above 0",
            ),
        ):
            result = fit(norms)
            assert result.distance is None
            assert note in result.notes
            assert result.to_dict()["peak_lr_from_distance"] is None

    @pytest.mark.parametrize(
        ("logged", "kind", "given", "note"),
        [
            ("adam", "l2", None, "it needs the dual norm, in the optimizer's own units, and the one in use is l2"),
            ("adam", "l1", None, "it needs the dual norm, in the optimizer's own units, and the one in use is l1"),
            ("sgd", "l1", None, "it needs the l2 norm, in the optimizer's own units, and the one in use is l1"),
            ("adam", "dual", "sgd", "the log names adam, and --optimizer sgd"),
        ],
    )
    def test_no_peak_and_why(self, logged, kind, given, note):
        result = fit(self.norms(optimizer=logged, kind=kind), optimizer=given)
        assert result.distance.norm == ("l2" if logged == "sgd" else "own")
        assert result.distance.peak_lr is None
        assert f"no peak learning rate from the distance: {note}" in result.notes
        said = " ".join(result.summary(verbose=True).split())
        assert "samples, no losses); no peak learning rate from it" in said

    def test_no_peak_where_norms_fall_far(self, wine):
        """With full batches the gradients vanish, and the bound's peak is 1,000 times below the best one, 4."""
        norms = Run(wine, 4.0).norms()
        found = fit(norms).distance
        assert found.peak_lr is None
        assert estimate(norms, "sgd", linear(T).multiplier)[0].peak_lr < 0.004


def test_nothing_is_imported_without_it():
    code = "import refine, sys; refine.fit([1.0] * 30).summary(); print('refine.distance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
