import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

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
    corrections, eps = [0.5, 0.5, 0.25], 1e-3
    expected = sum(
        (g.double() ** 2 / ((v.double() / c).sqrt() + eps)).sum().item()
        for g, v, c in zip(gradients, moments, corrections, strict=True)
    )
    assert_allclose(own_squared_norm(gradients, moments, corrections, eps).item(), expected, rtol=1e-6)


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
        assert_allclose(found[1], 1 - 0.999**3 if corrected else 1.0)
