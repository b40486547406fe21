"""Gradients that lie on several processes: the part that is here, and how much of the whole it counts for.

Every process adds up its own part times its `share`; one all-reduce over all processes then gives the sum over the
whole model, however it is split. Sharded parameters (FSDP2's ``fully_shard``, tensor parallel) tell their layout
themselves, as DTensor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["all_reduce", "is_split", "local", "processes", "rank", "share"]


def _dtensor() -> Any:
    """The class, or an empty tuple as long as nothing has imported it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module.DTensor if module is not None else ()


def processes() -> int:
    """Processes of this run; 1 without torch.distributed."""
    found = torch.distributed
    return found.get_world_size() if found.is_available() and found.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return torch.distributed.get_rank() if processes() > 1 else 0


def is_split(parameters: Iterable[Tensor]) -> bool:
    """Whether a parameter may lie on several processes, a part on each: whether one is a DTensor.

    Also one that is whole everywhere: its gradient may be a sum that is still due.
    """
    cls = _dtensor()
    return any(isinstance(p, cls) for p in parameters)


def local(tensor: Any) -> Tensor:
    """The part of a tensor that is here. Sums that are still due (Partial placements) are done first, by themselves."""
    if not isinstance(tensor, _dtensor()):
        whole: Tensor = tensor
        return whole
    if any(place.is_partial() for place in tensor.placements):
        from torch.distributed.tensor import Replicate

        places = [Replicate() if place.is_partial() else place for place in tensor.placements]
        tensor = tensor.redistribute(placements=places)
    part: Tensor = tensor.to_local()
    return part


def share(tensor: Tensor, stages: int) -> float:
    """What the part of a tensor that is here counts in the sum over all processes: 1 over those that hold the same.

    ``stages`` is the number of processes that hold different parts of the model besides (pipeline stages).
    """
    shards = 1
    if isinstance(tensor, _dtensor()):
        mesh = tensor.device_mesh
        split = [i for i, place in enumerate(tensor.placements) if not (place.is_replicate() or place.is_partial())]
        shards = math.prod(mesh.size(i) for i in split)
    return shards * stages / processes()


def all_reduce(sums: Tensor) -> None:
    """Add up over all processes, in place."""
    torch.distributed.all_reduce(sums)
