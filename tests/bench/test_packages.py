"""Other people's optimizers: each is told the truth, and evaluated where its authors say."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refine import RefineError, from_name  # noqa: E402
from refine.bench import packages  # noqa: E402
from refine.bench.batched import train  # noqa: E402
from refine.bench.packages import PACKAGES, installed, train_package, unusable  # noqa: E402
from refine.bench.problems import Optimizer  # noqa: E402
from refine.bench.task import Task  # noqa: E402

SGD = Optimizer("sgd", "sgd", 0.05, (0.9, 0.0))
ADAM = Optimizer("adamw", "adam", 0.05)
T = 300


class Regression(Task):
    """Least squares of 20 features on 500 rows, from 0, in minibatches of 16; the losses of the starts are 1."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(500, 20, generator=generator, dtype=torch.float64)
        y = self.x @ torch.randn(20, generator=generator, dtype=torch.float64)
        self.y = y / y.square().mean().sqrt() + 0.1 * torch.randn(500, generator=generator, dtype=torch.float64)
        self.seen, self.points, self.evaluated = [], [], None

    def start(self, seed):
        return {"w": torch.zeros(20, 1, dtype=torch.float64), "b": torch.zeros(1, dtype=torch.float64)}

    def batch(self, generator, done=0.0):
        at = torch.randint(len(self.y), (16,), generator=generator)
        self.seen.append(at.tolist())
        return self.x[at], self.y[at]

    def gradients(self, parameters, batch):
        x, y = batch
        self.points.append(parameters["w"][0, 0].clone())
        error = (x[:, None] @ parameters["w"])[..., 0] + parameters["b"] - y[:, None]
        gradient = 2 * (x[:, None].mT @ error[..., None]) / 16
        return error.square().mean(-1), {"w": gradient, "b": 2 * error.mean(-1, keepdim=True)}

    def evaluate(self, parameters):
        self.evaluated = {key: value[0, 0].clone() for key, value in parameters.items()}
        error = (self.x @ parameters["w"])[..., 0] + parameters["b"] - self.y
        return error.square().mean(-1), None


CASES = [
    (name, optimizer) for name in PACKAGES for optimizer in (SGD, ADAM) if optimizer.family in PACKAGES[name].rates
]


def run(name, optimizer, *, seed=0, rate=None, task=None, steps=T):
    multiplier = from_name(PACKAGES[name].schedule, steps).multiplier
    rate = PACKAGES[name].rates[optimizer.family] if rate is None else rate
    return train_package(task or Regression(), optimizer, name, multiplier, rate, seed)


def needs(name):
    if not installed(name):
        pytest.skip(f"{PACKAGES[name].pip} is not installed")


@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_it_learns_and_says_nothing(name, optimizer, capfd):
    needs(name)
    # Those of schedulefree are for deep networks: SGD's diverges on a quadratic, AdamW's is small for 300 updates.
    rate = 0.05 if name == "schedulefree" else None
    found = run(name, replace(optimizer, weight_decay=1e-3, clip=10.0), rate=rate)
    assert found.train_loss < 0.2
    assert found.test_loss is None
    assert found.seconds > 0.0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_a_seed_fixes_the_run_and_its_minibatches_are_those_of_the_trainer(name, optimizer):
    needs(name)
    tasks = [Regression() for _ in range(4)]
    one, again, other = (
        run(name, optimizer, seed=seed, rate=0.05, task=task, steps=20)
        for seed, task in zip((1, 1, 2), tasks, strict=False)
    )
    assert one.train_loss == again.train_loss != other.train_loss
    train(tasks[3], optimizer, np.ones((1, 1, 20)), np.array([[0.05]]), [1])
    assert tasks[0].seen == tasks[3].seen


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
def test_schedulefree_is_evaluated_at_the_average(optimizer):
    r"""Not where the next gradient would be taken, ``y = 0.9 x + 0.1 z``: that one is seen in a run of one more."""
    needs("schedulefree")
    tasks = Regression(), Regression()
    for task, steps in zip(tasks, (40, 41), strict=True):
        train_package(task, optimizer, "schedulefree", np.ones(steps), 0.02, 0)
    average, next_point = tasks[0].evaluated["w"], tasks[1].points[40]
    assert len(tasks[0].points) == 40
    assert not torch.allclose(average, next_point, rtol=1e-3)
    torch.testing.assert_close(average, next_point, rtol=0.3, atol=0.05)


def test_schedulefree_sgd_is_the_paper():
    """Equations 2 to 4 with the warmup that is its own, and weights of the squared rates."""
    needs("schedulefree")
    task = Regression()
    run("schedulefree", SGD, task=task, rate=0.05, steps=40)
    w, beta = torch.zeros(20, dtype=torch.float64), 0.9
    b = torch.zeros((), dtype=torch.float64)
    zw, zb, total = w.clone(), b.clone(), 0.0
    for t, at in enumerate(task.seen):
        rate = 0.05 * min(1.0, (t + 1) / 2)  # 5 % of 40 updates
        yw, yb = beta * w + (1 - beta) * zw, beta * b + (1 - beta) * zb
        error = task.x[at] @ yw + yb - task.y[at]
        zw, zb = zw - rate * 2 * task.x[at].T @ error / 16, zb - rate * 2 * error.mean()
        total += rate**2
        share = rate**2 / total
        w, b = (1 - share) * w + share * zw, (1 - share) * b + share * zb
    np.testing.assert_allclose(task.evaluated["w"][:, 0].numpy(), w.numpy(), rtol=1e-9)


@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_weight_decay_is_of_the_matrix_alone_and_clipping_counts(name, optimizer):
    """A strong decay takes of the weights; the constant, with one axis, still fits."""
    needs(name)
    rate = 0.01 if name == "schedulefree" else None
    free, decayed, clipped = Regression(), Regression(), Regression()
    for task in (free, decayed, clipped):
        task.y = task.y + 1.0
    run(name, optimizer, task=free, rate=rate, steps=600)
    run(name, replace(optimizer, weight_decay=1.0), task=decayed, rate=rate, steps=600)
    run(name, replace(optimizer, clip=0.1), task=clipped, rate=rate, steps=600)
    kept = {"sgd": 0.8, "adam": 0.98}[optimizer.family]
    assert decayed.evaluated["w"].norm() < kept * free.evaluated["w"].norm()
    # Decayed too, it would be 2/3 for SGD.
    assert decayed.evaluated["b"].item() == pytest.approx(1.0, abs=0.15)
    assert not torch.allclose(free.evaluated["w"], clipped.evaluated["w"], rtol=1e-6)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named_with_its_remedy(name, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        packages.importlib.util, "find_spec", lambda m, *rest: None if m == PACKAGES[name].module else find(m, *rest)
    )
    assert not installed(name)
    message = f"{PACKAGES[name].pip} is not installed; pip install {PACKAGES[name].pip}"
    assert unusable(name, ADAM) == message
    with pytest.raises(RefineError, match=f"^{message}$"):
        run(name, ADAM, steps=2)


def test_what_has_no_variant_is_refused():
    assert unusable("prodigy", SGD) == "prodigyopt has no sgd variant; it has adam"
    with pytest.raises(RefineError, match="no sgd variant"):
        train_package(Regression(), SGD, "prodigy", np.ones(3), 1.0, 0)


def test_a_learning_rate_of_0_is_refused():
    needs("dadaptation")
    with pytest.raises(RefineError, match=r"rate \* multiplier\[1\] is 0; dadaptation needs every one above 0"):
        train_package(Regression(), SGD, "dadaptation", np.array([1.0, 0.0]), 1.0, 0)


@pytest.mark.parametrize("name", PACKAGES)
def test_its_schedule_is_a_family(name):
    multiplier = from_name(PACKAGES[name].schedule, 100).multiplier
    assert multiplier.min() > 0.0
    assert multiplier.max() == pytest.approx(1.0, abs=1e-3)
