import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from refine.cli.main import main

from refine import RefineError, Schedule, constant, cosine, from_name, linear, merge_weights
from refine.refinement import published_multiplier

FALLING = ["linear", "cosine", "wsd:cooldown_fraction=0.3", "linear:warmup_steps=30", "rex", "constant"]
T = 200


def iterates(h, gradients, rate=0.1):
    """x_0, x_1 ... of gradient descent with given gradients; x_0 is not zero."""
    steps = rate * h[:, None] * gradients
    return 1.0 + np.concatenate([np.zeros((1, gradients.shape[1])), -np.cumsum(steps, axis=0)])


def merged(found, constant_run):
    return found.weights @ constant_run[list(found.checkpoints)]


def before_the_peak(h):
    """The warmup of a schedule, then its peak."""
    return np.where(np.arange(h.size) < np.argmax(h), h, 1.0)


class TestEquivalence:
    @pytest.mark.parametrize("name", FALLING)
    def test_every_update_a_checkpoint_is_the_annealed_run(self, name):
        """A linear loss with noise: the gradients are the same along both runs."""
        h = from_name(name, T).multiplier
        gradients = np.random.default_rng(0).standard_normal((T, 5)) + 0.3
        found = merge_weights(Schedule(h), range(T + 1))
        constant_run = iterates(before_the_peak(h), gradients)
        assert_allclose(merged(found, constant_run), iterates(h, gradients)[-1], rtol=1e-12)
        assert found.largest_deviation <= 1e-15
        assert found.notes == ()

    @given(
        st.lists(st.integers(0, T - 1), unique=True, min_size=1, max_size=12),
        st.sampled_from([*FALLING, "triangular", "warm_restarts", "step"]),
        st.integers(0, 2**32 - 1),
    )
    def test_the_merge_is_the_run_with_the_emulated_multipliers(self, points, name, seed):
        h = from_name(name, T).multiplier
        found = merge_weights(Schedule(h), [*sorted(points), T])
        gradients = np.random.default_rng(seed).standard_normal((T, 3))
        merge = merged(found, iterates(before_the_peak(h), gradients))
        assert_allclose(merge, iterates(found.emulated, gradients)[-1], rtol=1e-12, atol=1e-12)
        assert found.weights.min() >= 0
        assert found.weights.sum() == pytest.approx(1.0, abs=1e-14)
        assert found.largest_deviation == np.abs(found.emulated - h).max()
        peak = int(np.argmax(h))
        assert np.all(np.diff(found.emulated[peak:]) <= 1e-15)

    def test_an_average_of_the_steps_behind_it_is_the_last_iterate(self):
        """theory.md 4.4: x_T = sum w_t z_t / sum w_t with z_{t+1} = z_t - w_t g_t, the gradients those at x_t.

        x is the run with section 2's steps w_t sum_{p>t} w_p over sum w; the loss is sum abs(A x - b).
        """
        rng = np.random.default_rng(1)
        a, b = rng.standard_normal((8, 4)), rng.standard_normal(8)
        w = rng.uniform(0.2, 2.0, 50)
        after = np.append(np.cumsum(w[::-1])[::-1][1:], 0.0)
        eta = w * after / w.sum()
        assert_allclose(eta / eta.max(), published_multiplier(w), rtol=1e-12)
        x = z = np.ones(4)
        total = np.zeros(4)
        for t in range(50):
            total += w[t] * z
            gradient = a.T @ np.sign(a @ x - b)
            z = z - w[t] * gradient
            x_last, x = x, x - eta[t] * gradient
        assert eta[-1] == 0
        assert_allclose(x, total / w.sum(), rtol=1e-12)
        assert_allclose(x_last, x, rtol=1e-12)

    def test_linear_decay_is_the_plain_average(self):
        """The same with constant weights: the steps of T updates are those of linear decay over T."""
        found = merge_weights(linear(T), range(T + 1))
        assert_allclose(found.weights, [0.0, *[1 / T] * T], rtol=1e-12, atol=1e-15)


@pytest.fixture(scope="module")
def digits():
    """Rows and labels of scikit-learn's digits, a tenth of the labels wrong."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, labels = datasets.load_digits(return_X_y=True)
    rng = np.random.default_rng(9)
    labels = np.where(rng.random(labels.size) < 0.1, rng.integers(0, 10, labels.size), labels)
    return np.c_[x / 8.0 - 1.0, np.ones(labels.size)], np.eye(10)[labels]


def regress(digits, h, seed, keep=()):
    """Softmax regression with SGD: the last weights, and those after the updates to keep."""
    x, y = digits
    rng, w, kept = np.random.default_rng(seed), np.zeros((65, 10)), {}
    for t, factor in enumerate(h):
        rows = rng.integers(0, len(x), 8)
        p = np.exp(x[rows] @ w)
        w = w - 0.4 * factor * x[rows].T @ (p / p.sum(1, keepdims=True) - y[rows]) / 8
        if t + 1 in keep:
            kept[t + 1] = w
    return w, kept


def loss(digits, w):
    x, y = digits
    z = x @ w
    return float(np.mean(np.log(np.exp(z).sum(1)) - (z * y).sum(1)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["linear", "cosine", "wsd:cooldown_fraction=0.3"])
def test_merged_checkpoints_come_close_to_the_annealed_run(digits, name, seed):
    """A convex problem, where the gradients are not those of the other run."""
    schedule = from_name(name, 1500)
    found = merge_weights(schedule, range(100, 1501, 100))
    last, kept = regress(digits, np.ones(1500), seed, keep=found.checkpoints)
    merge = sum(weight * kept[n] for n, weight in zip(found.checkpoints, found.weights, strict=True))
    annealed, _ = regress(digits, schedule.multiplier, seed)
    of_last, of_merge, of_annealed = (loss(digits, w) for w in (last, merge, annealed))
    assert of_last - of_annealed > 0.05
    assert abs(of_merge - of_annealed) < 0.4 * (of_last - of_annealed)  # measured: 0.12 to 0.32


class TestValues:
    def test_weights_are_the_drops_of_the_means(self):
        h = np.array([1.0, 1.0, 0.8, 0.6, 0.4, 0.2])
        found = merge_weights(Schedule(h), [2, 4, 6])
        assert_allclose(found.weights, [0.3, 0.4, 0.3], rtol=1e-12)
        assert_allclose(found.emulated, [1, 1, 0.7, 0.7, 0.3, 0.3], rtol=1e-12)
        assert found.largest_deviation == pytest.approx(0.1)
        assert found.notes == ()

    def test_the_constant_phase_needs_no_checkpoint(self):
        found = merge_weights(from_name("wsd:cooldown_fraction=0.2", 100), range(10, 101, 10))
        assert np.flatnonzero(found.weights).tolist() == [7, 8, 9]
        assert merge_weights(constant(100, warmup_steps=10), [50, 100]).weights.tolist() == [0.0, 1.0]
        with pytest.raises(RefineError, match="100 is the only checkpoint; give two or more to merge"):
            merge_weights(linear(100), [100])

    def test_the_initial_weights_take_what_is_left(self):
        h = linear(100).multiplier
        found = merge_weights(linear(100), [0, 50, 100])
        assert_allclose(found.weights, [1 - h[:50].mean(), h[:50].mean() - h[50:].mean(), h[50:].mean()], rtol=1e-12)
        (note,) = found.notes
        assert note.startswith("the initial weights get 0.245 of the sum, which is right for convex losses only")
        assert note.endswith("wsd:0.5")
        assert merge_weights(from_name("wsd:0.5", 100), [0, 50, 75, 100]).notes == ()

    def test_without_them_it_is_the_same_shape_at_a_higher_peak(self):
        h = linear(100).multiplier
        found = merge_weights(linear(100), [50, 100])
        ratio = h[50:].mean() / h[:50].mean()
        assert_allclose(found.weights, [1 - ratio, ratio], rtol=1e-12)
        (note,) = found.notes
        assert note.startswith(
            "the anneal begins before the first checkpoint: this is the schedule at a peak rate 1.32 "
        )
        assert note.endswith("save earlier ones, or emulate an anneal that begins there, wsd:0.5")
        assert found.largest_deviation == pytest.approx(1 - h[49])

    def test_a_schedule_that_rises_again_is_replaced_by_the_nearest_that_does_not(self):
        """Least squares: the two middle means, 0.2 and 0.6 over as many updates, become their mean."""
        h = np.repeat([1.0, 0.2, 0.6, 0.1], 5)
        found = merge_weights(Schedule(h), [5, 10, 15, 20])
        assert_allclose(found.weights, [0.6, 0.0, 0.3, 0.1], rtol=1e-12)
        assert found.largest_deviation == pytest.approx(0.2)
        (note,) = found.notes
        assert note == (
            "the schedule rises again after its peak, which no merge can do: the nearest one that does not rise is "
            "emulated, up to 0.2 of the peak away"
        )

    def test_nearest_counts_updates(self):
        h = np.repeat([1.0, 0.2, 0.6, 0.1], [5, 15, 5, 5])
        found = merge_weights(Schedule(h), [5, 20, 25, 30])
        assert_allclose(found.weights, [0.7, 0.0, 0.2, 0.1], rtol=1e-12)

    def test_more_checkpoints_come_closer(self):
        far = [merge_weights(cosine(1000), range(0, 1001, k)).largest_deviation for k in (500, 100, 20, 4)]
        assert far == sorted(far, reverse=True)
        assert far[-1] < 0.01

    def test_it_is_a_value(self):
        found = merge_weights(linear(10), np.array([5, 10]))
        assert found.checkpoints == (5, 10)
        assert not found.weights.flags.writeable
        assert not found.emulated.flags.writeable
        assert repr(found) == "MergeWeights(checkpoints=2, used=2, deviation=0.4)"
        assert merge_weights(linear(10), iter([5, 10])).weights.tolist() == found.weights.tolist()

    @pytest.mark.parametrize(
        ("checkpoints", "error"),
        [
            ([], "there are no checkpoints and the schedule has 10 updates; it must end with the last checkpoint: add"),
            (
                [5],
                "the last checkpoint is 5 and the schedule has 10 updates; it must end with the last checkpoint: add",
            ),
            (
                [5, 20],
                "the last checkpoint is 20 and the schedule has 10 updates; it must end with the last checkpoint",
            ),
            ([0], "the last checkpoint is 0 and the schedule has 10 updates"),
            ([7, 5, 10], r"checkpoints\[1\] is 5 after 7; they must increase: sort them, each once"),
            ([5, 5, 10], r"checkpoints\[1\] is 5 after 5; they must increase"),
            ([-1, 10], r"checkpoints\[0\] is -1; it must be an integer >= 0, counted in updates"),
            ([2.5, 10], r"checkpoints\[0\] is 2.5; it must be an integer >= 0, counted in updates"),
        ],
    )
    def test_checkpoints_are_checked(self, checkpoints, error):
        with pytest.raises(RefineError, match=error):
            merge_weights(linear(10), checkpoints)


class TestCommand:
    @staticmethod
    def run(*arguments):
        return CliRunner().invoke(main, ["merge-weights", *arguments])

    def test_text(self):
        done = self.run("wsd:cooldown_fraction=0.5", "--checkpoints", "500,750,1000")
        assert done.exit_code == 0
        assert done.output == (
            "checkpoint  weight\n"
            "       500  0.249\n"
            "       750  0.5\n"
            "     1,000  0.251\n"
            "emulated  1,000 updates, at most 0.249 of the peak from the schedule\n"
            "assumed   the run warmed up as the schedule does and then kept its peak rate; a checkpoint N is its "
            "weights after N\n            updates\n"
            "assumed   annealed, it would have met the same gradients: exact for a linear loss, approximate "
            "otherwise (WSM,\n            arXiv:2507.17634)\n"
        )

    def test_a_file_keeps_its_length(self, tmp_path):
        path = linear(20).save(tmp_path / "schedule.json")
        done = self.run(str(path), "--checkpoints", "0,10,20", "--json")
        found = merge_weights(linear(20), [0, 10, 20])
        assert json.loads(done.output) == found.to_dict()
        assert json.loads(done.output)["weights"] == found.weights.tolist()
        done = self.run(str(path), "--checkpoints", "10,30")
        assert done.exit_code == 1
        assert done.output == (
            "Error: the last checkpoint is 30 and the schedule has 20 updates; it must end with the last checkpoint: "
            "add that one, or give the schedule their number of updates (refine retarget)\n"
        )

    @pytest.mark.parametrize("text", ["", "1000,", "a,b", "1.5,2", "-1,5"])
    def test_a_list_of_counts_is_wanted(self, text):
        done = self.run("linear", "--checkpoints", text)
        assert done.exit_code == 2
        assert "is not a count such as" in done.output or "-1 is not in the range x>=0." in done.output
        found, again = (
            self.run("linear", "--checkpoints", some, "--json").output for some in ("500,1k,2e3", "500,1000,2000")
        )
        assert json.loads(found) == json.loads(again)

    def test_the_merging_code_in_its_help_runs(self, tmp_path, monkeypatch):
        torch = pytest.importorskip("torch")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "merge.json").write_text(self.run("linear", "--checkpoints", "0,1,2,3", "--json").output)
        norms = torch.nn.BatchNorm1d(2)
        for n in range(4):
            state = {"weight": torch.full((2,), float(n), dtype=torch.bfloat16), "num_batches_tracked": torch.tensor(n)}
            torch.save({**norms.state_dict(), **state}, f"step-{n}.pt")
        help_text = self.run("--help").output
        (code,) = re.findall(r"(    import json, pathlib, torch\n.*?\"merged\.pt\"\))", help_text, re.DOTALL)
        exec(re.sub("^    ", "", code, flags=re.MULTILINE), {})
        state = torch.load("merged.pt")
        assert state["weight"].dtype == torch.bfloat16
        assert state["weight"].tolist() == [2.0, 2.0]
        norms.load_state_dict(state)
        assert int(norms.num_batches_tracked) == 3
