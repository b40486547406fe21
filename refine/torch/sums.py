"""Sums over gradients: absolute values, squares, the optimizer's own squared norm.

On an accelerator each is a tensor there, and nothing waits for it. On a CPU the values are at hand: numpy adds them up
pairwise, a piece that fits the cache at a time. The relative error is below 1e-6 on either, however large the tensors
are (`torch.linalg.vector_norm` of 2e7 float32 numbers on a CPU is off by 1e-2 for l1 and by 1e-3 for l2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Sum", "both_sums", "dense", "dot", "double", "own_squared_norm", "second_moment", "square_sum", "wide"]

Sum: TypeAlias = "Tensor | NDArray[np.float64]"
"""One sum, of no dimensions, or several, of shape (k,)."""

_SAFE = 1e-25, 1e35
"""Sums of squares between these are not spoilt by the range of float32."""

_PIECE = 24_576
"""Elements of a piece on the CPU."""

_SMALL = 4096
"""Tensors up to this size are joined on the CPU, where a call costs more than they do."""

_BATCH = 2**22
"""Elements of the temporary arrays on an accelerator, whose cache they fit."""


def both_sums(tensors: Sequence[Tensor]) -> Sum:
    """``sum_i |x_i|`` and ``sum_i x_i^2`` over the elements of dense real tensors on one device; shape (2,)."""
    if tensors[0].device.type == "cpu":
        totals = np.zeros(2)
        for (x,), scratch in _pieces(tensors):
            totals[0] += np.add.reduce(np.abs(x, out=scratch))
            totals[1] += np.add.reduce(np.multiply(scratch, scratch, out=scratch))  # it is in the cache
        if not _SAFE[0] < totals[1] < _SAFE[1] and np.isfinite(totals[0]):
            totals[1] = _squares_in_float64(tensors)
        return totals
    ones, twos = (_norms(tensors, order) for order in (1, 2))
    return torch.stack([ones.sum(), twos.square().sum()])


def square_sum(tensors: Sequence[Tensor]) -> Sum:
    """``sum_i x_i^2`` over the elements of dense real tensors on one device."""
    if tensors[0].device.type == "cpu":
        total = dot(tensors, tensors)
        return total if _SAFE[0] < total < _SAFE[1] else np.asarray(_squares_in_float64(tensors))
    return _norms(tensors, 2).square().sum()


def dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Sum:
    """``sum_i x_i y_i`` over the elements of dense real tensors of equal shapes on one device."""
    if first[0].device.type == "cpu":
        pieces = _pieces(first, second)
        return np.asarray(sum(float(np.add.reduce(np.multiply(x, y, out=scratch))) for (x, y), scratch in pieces))
    sums = [(wide(x) * wide(y)).sum(dtype=double(x.device)) for x, y in zip(first, second, strict=True)]
    return torch.stack(sums).sum()


def own_squared_norm(
    gradients: Sequence[Tensor], moments: Sequence[Tensor], steps: Sequence[Any], beta: float, eps: float
) -> Sum:
    r"""Squared norm of a gradient in the metric of the Adam family.

    .. math:: \sum_i g_i^2 / (\sqrt{v_i / c_i} + \epsilon), \qquad c_i = 1 - \beta^{t_i}

    Parameters
    ----------
    gradients, moments : sequence of Tensor
        g and v, of equal shapes, on one device.
    steps : sequence of float, Tensor or None
        t of each tensor; None where v is not corrected for its bias, c = 1.
    beta, eps : float
    """
    if gradients[0].device.type != "cpu":
        return _own_on_device(gradients, moments, _factors(steps, beta), eps)
    total = 0.0
    for step in set(steps):
        places = [i for i, each in enumerate(steps) if each == step]
        (factor,) = _factors([step], beta)
        for (g, v), scratch in _pieces(*([each[i] for i in places] for each in (gradients, moments))):
            np.sqrt(v, out=scratch)
            np.multiply(scratch, factor, out=scratch)
            np.add(scratch, eps, out=scratch)
            np.divide(g, scratch, out=scratch)
            total += float(np.add.reduce(np.multiply(g, scratch, out=scratch)))
    return np.asarray(total)


def _factors(steps: Sequence[Any], beta: float) -> list[Any]:
    """``c^-1/2``; those of steps on the device in few calls."""
    if any(torch.is_tensor(step) for step in steps):
        counts = torch.stack(list(steps))
        return list((1.0 - beta ** counts.to(double(counts.device))).rsqrt().unbind())
    return [1.0 if step is None else (1.0 - beta**step) ** -0.5 for step in steps]


def _own_on_device(
    gradients: Sequence[Tensor], moments: Sequence[Tensor], factors: Sequence[Any], eps: float
) -> Tensor:
    pieces = [
        (g, v, factor)
        for tensors, factor in zip(zip(gradients, moments, strict=True), factors, strict=True)
        for g, v in zip(*(torch.split(each.reshape(-1), _BATCH) for each in tensors), strict=True)
    ]
    totals: list[Tensor] = []
    for some in _batches([g.numel() for g, *_ in pieces]):
        g, v, factor = map(list, zip(*pieces[some], strict=True))
        g = [wide(each) for each in g]
        terms = torch._foreach_sqrt([wide(each) for each in v])
        torch._foreach_mul_(terms, factor)
        torch._foreach_add_(terms, eps)
        terms = torch._foreach_div(g, terms)
        torch._foreach_mul_(terms, g)
        totals += torch._foreach_norm(terms, 1)  # none is negative
    return torch.stack(totals).sum(dtype=double(totals[0].device))


def second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[Tensor, Any] | None:
    """What an optimizer divides the gradient of a parameter by the root of, and t for the correction of its bias.

    Of Adam and its relatives, with amsgrad or without, RMSprop and Adagrad, which correct none; None for all others.
    """
    v, step = None, None
    if "exp_avg_sq" in state and isinstance(group.get("betas"), (tuple, list)) and "step" in state:
        v, step = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"], state["step"]
        step = float(step) if not torch.is_tensor(step) or step.device.type == "cpu" else step
        if isinstance(step, float) and step == 0.0:
            return None  # its first update was skipped
    elif "acc_delta" not in state and not group.get("centered"):  # these divide by something else
        v = state.get("square_avg", state.get("sum"))
    if not (isinstance(v, Tensor) and v.is_floating_point() | v.is_complex()):
        return None
    return (v, step) if isinstance(group.get("eps"), (int, float)) else None


def dense(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Values as real numbers: of a sparse tensor those that are there, of a complex one both parts.

    Of a dense tensor those where ``like`` has any, if that is sparse.
    """
    if like is not None and like.is_sparse and not tensor.is_sparse:
        tensor = tensor.sparse_mask(like.coalesce())
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.to_dense()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.resolve_neg()


def double(device: torch.device) -> torch.dtype:
    """Float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _norms(tensors: Sequence[Tensor], order: int) -> Tensor:
    """Norm of each tensor, in float32 at least; shape (k,)."""
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    found = []
    for kind, some in kinds.items():
        dtype = torch.float32 if kind in (torch.float16, torch.bfloat16) else kind  # without a copy of them
        found.append(torch.stack(torch._foreach_norm(some, order, dtype=dtype)).to(double(some[0].device)))
    return torch.cat(found)


def _squares_in_float64(tensors: Sequence[Tensor]) -> float:
    return sum(float(np.square(x, dtype=np.float64).sum()) for (x,), _ in _pieces(tensors))


def _pieces(*columns: Sequence[Tensor]) -> Iterator[tuple[list[Any], NDArray[Any]]]:
    """Elements of tensors on the CPU, some at a time, the same of every column; and room for as many."""
    small: list[list[NDArray[Any]]] = []
    scratch: NDArray[Any] | None = None
    for tensors in zip(*columns, strict=True):
        arrays = [wide(tensor).numpy() for tensor in tensors]
        # In the order in which they lie in memory, if that is the same for all.
        order: Any = "K" if len(arrays) == 1 or arrays[0].strides == arrays[1].strides else "C"
        arrays = [array.ravel(order) for array in arrays]
        if arrays[0].size <= _SMALL:
            small.append(arrays)
            continue
        if scratch is None or arrays[0].dtype != scratch.dtype:
            scratch = np.empty(_PIECE, arrays[0].dtype)
        for start in range(0, arrays[0].size, _PIECE):
            some = [array[start : start + _PIECE] for array in arrays]
            yield some, scratch[: some[0].size]
    if small:
        joined = [np.concatenate(column) for column in zip(*small, strict=True)]
        yield joined, np.empty_like(joined[0])


def _batches(sizes: Sequence[int]) -> Iterator[slice]:
    """Cut a list into runs of limited size."""
    start = total = 0
    for i, size in enumerate(sizes):
        if total and total + size > _BATCH:
            yield slice(start, i)
            start, total = i, 0
        total += size
    yield slice(start, len(sizes))
