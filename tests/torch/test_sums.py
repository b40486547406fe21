import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from refine.torch import sums
from refine.torch.sums import both_sums, dense, own_squared_norm, second_moment, square_sum


def reference(tensors):
    values = torch.cat([t.detach().double().flatten() for t in tensors])
    return values.abs().sum().item(), values.square().sum().item()


@pytest.mark.parametrize(
    "shapes",
    [
        [(3,)],
        [(1,), (1023,), (1024,), (1025,), (7, 11)],
        [(65_536,), (65_537,), (300, 300), ()],
        [(2_000_003,)],
        [(0,), (5,)],
    ],
)
def test_sums_of_float32_are_those_of_float64(shapes):
    torch.manual_seed(len(shapes))
    tensors = [torch.randn(shape) * torch.rand(shape) ** 3 * 1e-3 for shape in shapes]
    l1, squares = reference(tensors)
    assert_allclose(both_sums(tensors), [l1, squares], rtol=3e-7)
    assert_allclose(square_sum(tensors).item(), squares, rtol=3e-7)
    assert both_sums(tensors).dtype == np.float64


def test_torch_itself_would_be_off():
    """Why numpy adds up on a CPU."""
    many = torch.rand(4_000_000)
    assert abs(torch._foreach_norm([many], 1)[0].item() / many.double().sum().item() - 1.0) > 1e-5
    assert abs(both_sums([many])[0].item() / many.double().sum().item() - 1.0) < 1e-7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_lose_nothing(dtype):
    tensors = [(torch.randn(5000) * 100).to(dtype), torch.randn(3).to(dtype)]
    assert_allclose(both_sums(tensors), reference(tensors), rtol=3e-7)


def test_memory_layout_does_not_matter():
    image = torch.randn(4, 8, 5, 6).to(memory_format=torch.channels_last)
    assert_allclose(both_sums([image, image.transpose(0, 3)]), 2 * torch.tensor(reference([image])), rtol=3e-7)


def test_nothing_finite_stays_finite():
    assert both_sums([torch.tensor([1.0, float("inf")])]).tolist() == [float("inf"), float("inf")]
    assert np.isnan(both_sums([torch.tensor([1.0, float("nan")])])).all()


def test_dense_values():
    sparse = torch.sparse_coo_tensor([[0, 2, 2]], [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], (4, 2), check_invariants=True)
    assert dense(sparse).tolist() == [[1.0, 1.0], [5.0, 5.0]]
    assert dense(torch.arange(8.0).reshape(4, 2), like=sparse).tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert dense(torch.tensor([3.0 + 4.0j])).tolist() == [[3.0, 4.0]]


def test_own_norm_is_the_formula():
    gradients = [torch.randn(70, 1100), torch.randn(9), torch.randn(300_000)]
    moments = [torch.rand_like(g) for g in gradients]
    steps, beta, eps = [1.0, None, 7.0], 0.9, 1e-3
    expected = sum(
        (g.double() ** 2 / ((v.double() / (1.0 if t is None else 1.0 - beta**t)).sqrt() + eps)).sum().item()
        for g, v, t in zip(gradients, moments, steps, strict=True)
    )
    assert_allclose(own_squared_norm(gradients, moments, steps, beta, eps), expected, rtol=1e-6)


def test_the_way_of_accelerators_gives_the_same(monkeypatch):
    """On a CPU, where it runs too."""
    gradients = [torch.randn(70, 1100), torch.randn(9), torch.randn(5000)]
    moments = [torch.rand_like(g) for g in gradients]
    monkeypatch.setattr(sums, "_BATCH", 1000)
    for steps in ([1.0, 3.0, 3.0], [torch.tensor(t) for t in (1.0, 3.0, 3.0)]):
        factors = sums._factors(steps, 0.99)
        found = sums._own_on_device(gradients, moments, factors, 1e-3)
        assert_allclose(found.item(), own_squared_norm(gradients, moments, [1.0, 3.0, 3.0], 0.99, 1e-3), rtol=1e-5)
    mixed = [gradients[0], gradients[1].bfloat16(), gradients[2].double()]
    for order, expected in ((1, reference(mixed)[0]), (2, reference(mixed)[1])):
        norms = sums._norms(mixed, order)
        assert_allclose((norms.sum() if order == 1 else norms.square().sum()).item(), expected, rtol=1e-4)


@pytest.mark.parametrize("size", [1e-30, 1e-21, 1e21, 1e30])
def test_the_range_of_float32_squares_does_not_matter(size):
    tensors = [torch.randn(30_000) * size, torch.randn(7) * size]
    with np.errstate(all="ignore"):  # as in the recorder
        assert_allclose(both_sums(tensors), reference(tensors), rtol=1e-6)
        assert_allclose(square_sum(tensors), reference(tensors)[1], rtol=1e-6)


def test_low_precision_is_widened_a_batch_at_a_time(monkeypatch):
    """A copy of a model in bf16 as float32 would not fit beside it."""
    seen = []
    monkeypatch.setattr(sums, "wide", lambda tensor: seen.append(tensor.numel()) or tensor.float())
    monkeypatch.setattr(sums, "_BATCH", 1000)
    model = [torch.zeros(700, device="meta", dtype=torch.bfloat16) for _ in range(20)]
    both_sums(model)
    assert seen == []
    batches = sums._batches([700] * 20)
    assert len(list(batches)) == 20


@pytest.mark.parametrize(
    ("make", "name", "corrected"),
    [
        (torch.optim.Adam, "exp_avg_sq", True),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "max_exp_avg_sq", True),
        (torch.optim.NAdam, "exp_avg_sq", True),
        (torch.optim.RAdam, "exp_avg_sq", True),
        (lambda p: torch.optim.AdamW(p, fused=True), "exp_avg_sq", True),
        (torch.optim.RMSprop, "square_avg", False),
        (torch.optim.Adagrad, "sum", False),
        (torch.optim.SGD, None, None),
        (torch.optim.Adadelta, None, None),
        (lambda p: torch.optim.RMSprop(p, centered=True), None, None),
        (torch.optim.Rprop, None, None),
    ],
)
def test_second_moments_of_torch(make, name, corrected):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = make([weight])
    for _ in range(3):
        weight.grad = torch.ones(3)
        optimizer.step()
    found = second_moment(optimizer.state[weight], optimizer.param_groups[0])
    if name is None:
        assert found is None
    else:
        assert found[0] is optimizer.state[weight][name]
        assert found[1] == (3.0 if corrected else None)
