import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from refine.bench.batched import train
from refine.bench.convex import SoftmaxRegression
from refine.bench.problems import Optimizer


@pytest.fixture(scope="module")
def task() -> SoftmaxRegression:
    return SoftmaxRegression(*load_iris(return_X_y=True))


def loss_by_autograd(task: SoftmaxRegression, w: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(x @ w, y)


def test_gradients_are_those_of_autograd(task: SoftmaxRegression) -> None:
    parameters = {name: torch.randn_like(value) for name, value in task.stack([0, 1], 3).items()}
    batches = [task.batch(torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    batch = tuple(torch.stack(part) for part in zip(*batches, strict=True))
    losses, gradients = task.gradients(parameters, batch)
    assert gradients["w"].shape == parameters["w"].shape == (2, 3, 5, 3)
    for s in range(2):
        for a in range(3):
            w = parameters["w"][s, a].clone().requires_grad_()
            loss = loss_by_autograd(task, w, *batches[s])
            (expected,) = torch.autograd.grad(loss, w)
            assert losses[s, a].item() == pytest.approx(loss.item(), rel=1e-5)
            torch.testing.assert_close(gradients["w"][s, a], expected, rtol=1e-4, atol=1e-6)


def test_it_starts_at_zero_where_the_loss_is_log_k(task: SoftmaxRegression) -> None:
    found, held_out = task.evaluate(task.stack([0, 7], 2))
    np.testing.assert_allclose(found.numpy(), np.log(3), rtol=1e-6)
    assert held_out is None
    assert found.dtype == torch.float64


def test_the_loss_is_that_of_all_rows(task: SoftmaxRegression) -> None:
    w = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = loss_by_autograd(task, w.double(), task.x.double(), task.y).item()
    assert task.evaluate({"w": w[None, None]})[0].item() == pytest.approx(expected, rel=1e-5)


def test_training_comes_near_the_minimum_of_another_solver() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = (x @ [1.0, -1.0, 0.5, 0.0] + rng.logistic(size=300) > 0).astype(int)
    task = SoftmaxRegression(x, y)
    multiplier = np.linspace(1, 0, 4001)[None, None, :-1]
    found = train(task, Optimizer("sgd", "sgd", 0.3, betas=(0.0, 0.0)), multiplier, np.array([[0.3]]), [0])[0][0]
    scaled = (x - x.mean(0)) / x.std(0)
    solved = LogisticRegression(C=np.inf, tol=1e-10).fit(scaled, y)
    least = -np.mean(solved.predict_log_proba(scaled)[np.arange(300), y])
    assert least < found.train_loss < least + 0.005


def test_a_constant_column_does_no_harm() -> None:
    x, y = load_iris(return_X_y=True)
    task = SoftmaxRegression(np.column_stack([x, np.ones(len(x))]), y)
    assert torch.isfinite(task.x).all()
