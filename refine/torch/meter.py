"""What is measured in an update, before the optimizer's step and after it, as sums on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from ..recorded import GROUP
from .sharding import is_split, local, processes, share
from .sums import Sum, both_sums, dense, dot, double, own_squared_norm, second_moment, square_sum, wide

__all__ = ["Meter", "OwnNorm", "group_names"]

OwnNorm = Literal["state", "direction", "none"]
Put = Callable[[str, Sum], None]


@dataclass(slots=True, eq=False)
class _Gradient:
    """A parameter, the values of its gradient that are here, and what they count in the sum over all processes."""

    parameter: Tensor
    value: Tensor
    share: float
    group: Mapping[str, Any]


class Meter:
    """Measures the gradients of an optimizer.

    Every quantity is a sum over elements, so that parts of it may be added up over processes:

    ======================  =============================================================
    ``l1``, ``square``      absolute values and squares of the gradient before the step
    ``own``                 the optimizer's own squared norm, of the gradient in the step
    ``after``               squares of the gradient in the step, which may have been clipped
    ``distance``, ``dot``   ``||x_t - x_1||^2`` and ``<g_t, x_1 - x_t>``
    ``sum``                 squared norm of ``sum_j lr_j g_j`` in the metric of SGD or of Adam's family
    ======================  =============================================================

    Parameters
    ----------
    optimizer : Optimizer
    scaler : GradScaler or None
    per_group : bool
        ``l1``, ``square`` and ``own`` for every param group; their names then end in ``/group:NAME``.
    own_norm : {"state", "direction", "none"}
    stages : int
        Processes that hold different parts of the model in plain tensors.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        scaler: torch.amp.GradScaler | None,
        per_group: bool,
        own_norm: OwnNorm,
        stages: int,
    ) -> None:
        self._optimizer = optimizer
        self._scaler = scaler
        self._per_group = per_group
        self._own_norm = own_norm
        self._stages = stages
        self._before: dict[Tensor, Tensor] = {}
        self._start: dict[Tensor, Tensor] = {}
        self._sums: dict[Tensor, Tensor] = {}
        self._sampled = False
        self._split = False
        self.settled = False

    def find_split(self) -> bool:
        """Look whether the gradient lies on several processes, a part on each."""
        self._split = processes() > 1 and (self._stages > 1 or is_split(self._parameters()))
        return self._split

    @property
    def device(self) -> torch.device:
        """Where sums are collected."""
        return next((local(p).device for p in self._parameters()), torch.device("cpu"))

    @property
    def parts(self) -> list[str]:
        """Ends of the names of the sums: one for all parameters, or one a group."""
        return [f"{GROUP}{name}" for name in group_names(self._optimizer.param_groups)] if self._per_group else [""]

    @property
    def sums(self) -> list[str]:
        """Names of all sums."""
        measured = [f"{sort}{part}" for part in self.parts for sort in ("l1", "square", "own")]
        return [*measured, "after", "distance", "dot", "sum"]

    def before_step(self, put: Put, *, sample: bool) -> bool:
        """Measure the gradients as ``backward`` left them, if there are any; ``sample`` the distance too."""
        parts = self._gradients()
        everything = [each for part in parts.values() for each in part]
        if not everything:
            return False
        factor = self._unscaled(everything[0].value.device)
        for name, part in parts.items():
            if part:
                sums = self._add(part, _of_values(both_sums))
                put(f"l1{name}", sums if factor is None else _times(sums, factor))
        if self._own_norm == "direction":
            self._before = {each.parameter: local(each.parameter).detach().clone() for each in everything}
        self._sampled = sample
        if sample:
            self._travel(everything, factor, put)
        return True

    def after_step(self, put: Put, *, clipped: bool) -> None:
        """Measure what the optimizer saw, if it may be something else, and what it made of it."""
        parts = self._gradients()
        everything = [each for part in parts.values() for each in part]
        if everything and clipped:
            put("after", self._add(everything, _of_values(square_sum)))
        for name, part in parts.items():
            own = {"state": self._by_state, "direction": self._by_direction}.get(self._own_norm)
            total = own(part) if own and part else None
            if total is not None:
                put(f"own{name}", total)
        if self._sampled:
            known = [g for g in everything if g.parameter in self._sums]
            sums = [replace(g, value=self._sums[g.parameter]) for g in known]
            in_state = self._by_state(sums) if self._own_norm == "state" else None
            if in_state is not None:
                put("sum", in_state)
            elif "sgd" in type(self._optimizer).__name__.lower():
                put("sum", self._add(sums, _of_values(square_sum)))
        self._before, self._sampled = {}, False

    def _parameters(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _gradients(self) -> dict[str, list[_Gradient]]:
        """What there is of the gradient in this process, by part."""
        names = self.parts
        found: dict[str, list[_Gradient]] = {name: [] for name in names}
        for i, group in enumerate(self._optimizer.param_groups):
            part = found[names[i if self._per_group else 0]]
            for p in group["params"]:
                gradient = p.grad
                if gradient is not None:
                    value = dense(local(gradient).detach())
                    if value.numel():
                        weight = share(gradient, self._stages) if self._split else 1.0
                        part.append(_Gradient(p, value, weight, group))
        self.settled = True
        return found

    def _add(
        self,
        gradients: Sequence[_Gradient],
        total: Callable[[Sequence[_Gradient]], Sum],
        key: Callable[[_Gradient], Any] = lambda _: None,
    ) -> Sum:
        """Total over the gradients, of those with one key at a time, each with its share."""
        alike: dict[Any, list[_Gradient]] = {}
        for each in gradients:
            alike.setdefault((each.value.device, each.share, key(each)), []).append(each)
        return self._sum([total(some) * weight for (_, weight, _), some in alike.items()])

    def _sum(self, totals: Sequence[Sum]) -> Sum:
        if not any(isinstance(each, Tensor) for each in totals):
            return np.asarray(sum(totals))
        device = self.device
        return torch.stack([torch.as_tensor(each, device=device) for each in totals]).sum(dim=0)

    def _by_state(self, gradients: Sequence[_Gradient]) -> Sum | None:
        """``sum_i g_i^2 / (sqrt(v_i) + eps)``; None where the optimizer keeps no v for one of them."""
        moments: dict[Tensor, tuple[Tensor, Any]] = {}
        for each in gradients:
            found = second_moment(self._optimizer.state.get(each.parameter, {}), each.group)
            if found is None or found[0].shape != each.parameter.shape:
                return None
            v = dense(local(found[0]))
            if v.shape != each.value.shape:  # the gradient is sparse
                v = dense(local(found[0]), like=each.parameter.grad)
            moments[each.parameter] = v, found[1]

        def total(some: Sequence[_Gradient]) -> Sum:
            v, steps = zip(*(moments[each.parameter] for each in some), strict=True)
            (_, beta), eps = some[0].group.get("betas", (0.0, 0.0)), some[0].group["eps"]
            return own_squared_norm([each.value for each in some], v, steps, float(beta), eps)

        return self._add(gradients, total, lambda each: id(each.group))

    def _by_direction(self, gradients: Sequence[_Gradient]) -> Sum | None:
        """``<g, x_t - x_{t+1}> / lr_t``; None where a parameter was not there before the step."""
        if any(each.parameter not in self._before for each in gradients):
            return None

        def total(some: Sequence[_Gradient]) -> Sum:
            moved = [self._before[g.parameter] - local(g.parameter.detach()) for g in some]
            values = [dense(move, like=g.parameter.grad) for move, g in zip(moved, some, strict=True)]
            found: Sum = dot(values, [g.value for g in some]) / some[0].group["lr"]
            return found

        return self._add(gradients, total, lambda each: id(each.group))

    def _travel(self, gradients: Sequence[_Gradient], factor: Tensor | float | None, put: Put) -> None:
        """How far the parameters have come; what is not finite, an update to be skipped, does not count."""
        rate = self._optimizer.param_groups[0]["lr"]
        squares, dots = [], []
        for each in gradients:
            here, gradient = local(each.parameter).detach(), local(each.parameter.grad)
            value = wide(dense(gradient.to_dense()))
            value = torch.nan_to_num(value if factor is None else value * factor, nan=0.0, posinf=0.0, neginf=0.0)
            if each.parameter not in self._start:
                self._start[each.parameter] = here.clone()
                self._sums[each.parameter] = torch.zeros_like(value)
            self._sums[each.parameter] += rate * value
            away = dense(wide(self._start[each.parameter]) - wide(here))
            squares.append(square_sum([away]) * each.share)
            dots.append(dot([away], [value]) * each.share)
        put("distance", self._sum(squares))
        put("dot", self._sum(dots))

    def settle(self) -> None:
        """Do the sums that gradients of DTensors still owe, as other processes do when they measure (``settled``)."""
        for parameter in self._parameters():
            if parameter.grad is not None:
                local(parameter.grad)

    def forget(self) -> None:
        """Let go of all copies of the parameters."""
        self._before, self._start, self._sums, self._sampled = {}, {}, {}, False

    def _unscaled(self, device: torch.device) -> Tensor | float | None:
        """What the gradients have to be multiplied by where the loss was scaled; None where by nothing."""
        scaler = self._scaler
        if scaler is None or not scaler.is_enabled():
            return None
        states: Any = getattr(scaler, "_per_optimizer_states", {})
        stage = states[id(self._optimizer)].get("stage") if id(self._optimizer) in states else None
        if getattr(stage, "name", "READY") != "READY":
            return None  # unscale_ was called
        scale: Tensor = scaler.scale(torch.ones((), device=device))  # get_scale() would wait for the device
        return 1.0 / float(scale) if device.type == "cpu" else scale.to(double(device)).reciprocal()


def group_names(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of param groups: their ``"name"`` or, where that is not theirs alone, their index.

    Examples
    --------
    >>> group_names([{"name": "decay"}, {}, {"name": "head"}, {"name": "head"}])
    ['decay', '1', '2', '3']
    """
    names = [" ".join(str(group.get("name", i)).split()) for i, group in enumerate(groups)]
    unique = [name if names.count(name) == 1 else str(i) for i, name in enumerate(names)]
    return unique if len(set(unique)) == len(unique) else [str(i) for i in range(len(unique))]


def _of_values(total: Callable[[Sequence[Tensor]], Sum]) -> Callable[[Sequence[_Gradient]], Sum]:
    return lambda some: total([each.value for each in some])


def _times(sums: Sum, factor: Tensor | float) -> Sum:
    """Sums of absolute values and of squares for gradients times a factor."""
    if torch.is_tensor(sums):
        return sums * torch.as_tensor(factor, device=sums.device) ** torch.arange(1, 3, device=sums.device)
    return np.asarray(sums * np.array([float(factor), float(factor) ** 2]))
