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

from .device import double

__all__ = ["Sum", "both_sums", "dense", "dot", "own_squared_norm", "second_moment", "square_sum", "wide"]

Sum: TypeAlias = "Tensor | NDArray[np.float64]"
"""One sum, of no dimensions, or several, of shape (k,)."""

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
        return totals
    norms = [torch.stack(torch._foreach_norm([wide(tensor) for tensor in tensors], order)) for order in (1, 2)]
    ones, twos = (each.to(double(each.device)) for each in norms)
    return torch.stack([ones.sum(), twos.square().sum()])


def square_sum(tensors: Sequence[Tensor]) -> Sum:
    """``sum_i x_i^2`` over the elements of dense real tensors on one device."""
    return dot(tensors, tensors)


def dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Sum:
    """``sum_i x_i y_i`` over the elements of dense real tensors of equal shapes on one device."""
    if first[0].device.type == "cpu":
        pieces = _pieces(first, second)
        return np.asarray(sum(float(np.add.reduce(np.multiply(x, y, out=scratch))) for (x, y), scratch in pieces))
    if first is second:
        norms = torch.stack(torch._foreach_norm([wide(tensor) for tensor in first], 2))
        return norms.to(double(norms.device)).square().sum()
    sums = [(wide(x) * wide(y)).sum(dtype=double(x.device)) for x, y in zip(first, second, strict=True)]
    return torch.stack(sums).sum()


def own_squared_norm(
    gradients: Sequence[Tensor], moments: Sequence[Tensor], corrections: Sequence[Any], eps: float
) -> Sum:
    r"""Squared norm of a gradient in the metric of the Adam family.

    .. math:: \sum_i g_i^2 / (\sqrt{v_i / c_i} + \epsilon)

    Parameters
    ----------
    gradients, moments : sequence of Tensor
        g and v, of equal shapes, on one device.
    corrections : sequence of float or Tensor
        c of each tensor, the correction of v for its bias, ``1 - beta2^t``; 1 where there is none.
    eps : float
    """
    alike: dict[Any, list[int]] = {}  # corrections that are on the device are not compared
    for i, correction in enumerate(corrections):
        alike.setdefault(correction, []).append(i)
    total: Any = 0.0
    for correction, places in alike.items():
        g, v = ([each[i] for i in places] for each in (gradients, moments))
        of_these = _own_on_cpu if g[0].device.type == "cpu" else _own_on_device
        total = total + of_these(g, v, correction**-0.5, eps)
    return total if torch.is_tensor(total) else np.asarray(total)


def _own_on_cpu(gradients: Sequence[Tensor], moments: Sequence[Tensor], factor: float, eps: float) -> float:
    total = 0.0
    for (g, v), scratch in _pieces(gradients, moments):
        np.sqrt(v, out=scratch)
        np.multiply(scratch, factor, out=scratch)
        np.add(scratch, eps, out=scratch)
        np.divide(g, scratch, out=scratch)
        total += float(np.add.reduce(np.multiply(g, scratch, out=scratch)))
    return total


def _own_on_device(gradients: Sequence[Tensor], moments: Sequence[Tensor], factor: Any, eps: float) -> Tensor:
    g, v = (
        [piece for tensor in each for piece in torch.split(wide(tensor).reshape(-1), _BATCH)]
        for each in (gradients, moments)
    )
    totals: list[Tensor] = []
    for some in _batches([piece.numel() for piece in g]):
        terms = torch._foreach_sqrt(v[some])
        torch._foreach_mul_(terms, factor)
        torch._foreach_add_(terms, eps)
        terms = torch._foreach_div(g[some], terms)
        torch._foreach_mul_(terms, g[some])
        totals += torch._foreach_norm(terms, 1)  # none is negative
    return torch.stack(totals).sum(dtype=double(totals[0].device))


def second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[Tensor, Any] | None:
    """What an optimizer divides the gradient of a parameter by the root of, and its correction for the bias.

    Of Adam and its relatives, with amsgrad or without, RMSprop and Adagrad; None for all others.
    """
    if "exp_avg_sq" in state and isinstance(group.get("betas"), (tuple, list)) and "step" in state:
        step = state["step"]
        known = float(step) if not torch.is_tensor(step) or step.device.type == "cpu" else step
        if known is not step and known == 0.0:
            return None  # its first update was skipped
        v = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
        return v, 1.0 - group["betas"][1] ** known
    for name in ("square_avg", "sum"):
        if torch.is_tensor(state.get(name)) and "acc_delta" not in state:  # Adadelta multiplies by another root
            return state[name], 1.0
    return None


def dense(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Values as real numbers: of a sparse tensor those that are there, of a complex one both parts.

    Of a dense tensor those where ``like`` has any, if that is sparse.
    """
    if like is not None and like.is_sparse and not tensor.is_sparse:
        tensor = tensor.sparse_mask(like.coalesce())
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.to_dense()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


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
