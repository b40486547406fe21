"""Sums over gradients, on their device: absolute values, squares, the optimizer's own squared norm.

Each is a float64 tensor of no dimensions; nothing here waits for the device. Float32 is added up a thousand terms at
a time, so that the relative error stays below 1e-6 however large the tensors are (`torch.linalg.vector_norm`
of 2e7 float32 numbers is off by 1e-2 for l1 and by 1e-3 for l2 on a CPU).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["both_sums", "dense", "double", "own_squared_norm", "second_moment", "square_sum", "wide"]

_ROW = 1024
"""Squares that the CPU adds up in float32."""

_SMALL = 65_536
"""Tensors up to this size are joined on the CPU, where a call costs more than they do."""

_PIECE = {"cpu": 2**18}
_MOST = 2**22
"""Elements that are worked on at a time, by the type of the device: so many stay in its cache."""


def both_sums(tensors: Sequence[Tensor]) -> Tensor:
    """``sum_i |x_i|`` and ``sum_i x_i^2`` over the elements of dense real tensors on one device; shape (2,)."""
    pieces = _pieces(tensors)
    return torch.stack([_sum(torch._foreach_abs(pieces) if _on_cpu(pieces) else pieces), _squares(pieces)])


def square_sum(tensors: Sequence[Tensor]) -> Tensor:
    """``sum_i x_i^2`` over the elements of dense real tensors on one device."""
    return _squares(_pieces(tensors))


def own_squared_norm(
    gradients: Sequence[Tensor], moments: Sequence[Tensor], corrections: Sequence[Any], eps: float
) -> Tensor:
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
    totals = []
    for places, factor in _alike(corrections):
        g, v = (_pieces([each[i] for i in places]) for each in (gradients, moments))
        for some in _batches([piece.numel() for piece in g], _most(g)):
            roots = torch._foreach_sqrt(v[some])
            torch._foreach_mul_(roots, factor)
            torch._foreach_add_(roots, eps)
            terms = torch._foreach_div(g[some], roots)
            torch._foreach_mul_(terms, g[some])
            totals.append(_sum(terms))
    return torch.stack(totals).sum()


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
        if torch.is_tensor(state.get(name)) and "acc_delta" not in state:  # Adadelta has no learning rate of its own
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
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def wide(tensor: Tensor) -> Tensor:
    """At least float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def double(device: torch.device) -> torch.dtype:
    """Float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _on_cpu(tensors: Sequence[Tensor]) -> bool:
    return tensors[0].device.type == "cpu"


def _most(tensors: Sequence[Tensor]) -> int:
    return _PIECE.get(tensors[0].device.type, _MOST)


def _pieces(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All elements, flat, at least float32, in pieces of a limited size; on a CPU small tensors are joined."""
    flat = [wide(tensor).reshape(-1) for tensor in tensors]
    if _on_cpu(flat):
        small = [tensor for tensor in flat if tensor.numel() <= _SMALL]
        flat = [tensor for tensor in flat if tensor.numel() > _SMALL] + ([torch.cat(small)] if small else [])
    return [piece for tensor in flat for piece in torch.split(tensor, _most(flat))]


def _alike(corrections: Sequence[Any]) -> Iterator[tuple[list[int], Any]]:
    """Places of equal corrections c, and ``c^-1/2``; corrections that are on the device are not compared."""
    places: dict[Any, list[int]] = {}
    for i, correction in enumerate(corrections):
        places.setdefault(correction, []).append(i)
    for correction, found in places.items():
        yield found, correction**-0.5


def _batches(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Cut a list of pieces into runs of about so many elements."""
    start = total = 0
    for i, size in enumerate(sizes):
        if total and total + size > most:
            yield slice(start, i)
            start, total = i, 0
        total += size
    yield slice(start, len(sizes))


def _sum(pieces: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Sum of all elements; on a GPU of their absolute values."""
    sums = [piece.sum() for piece in pieces] if _on_cpu(pieces) else torch._foreach_norm(pieces, 1)
    return torch.stack(list(sums)).sum(dtype=double(pieces[0].device))


def _squares(pieces: list[Tensor]) -> Tensor:
    if not _on_cpu(pieces):
        return torch.stack(torch._foreach_norm(pieces, 2)).to(double(pieces[0].device)).square().sum()
    norms = []
    for piece in pieces:
        whole = piece.numel() // _ROW * _ROW
        rows = (piece[:whole].view(-1, _ROW), piece[whole:].view(1, -1))
        norms += [torch.linalg.vector_norm(row, 2, dim=1) for row in rows if row.numel()]
    return torch.cat(norms).square().sum(dtype=torch.float64) if norms else pieces[0].sum(dtype=torch.float64)
