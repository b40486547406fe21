"""`ScheduleLR`: a `Schedule` as a torch learning-rate scheduler."""

from __future__ import annotations

import hashlib
import os
import warnings
import weakref
from collections.abc import Callable, Mapping
from math import isclose
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from ..errors import RefineError, RefineWarning
from ..files import printable
from ..schedule import Schedule, check_count
from .hooks import capturing, innermost

__all__ = ["ScheduleLR"]

_ENOUGH = 100
"""Steps or updates after which their numbers are compared."""

_STATE = ("total_steps", "schedule", "base_lrs", "last_epoch", "step_count", "in_charge", "lrs")


_Function = TypeVar("_Function", bound=Callable[..., Any])


def _untraced(function: _Function) -> _Function:
    return cast(_Function, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


class ScheduleLR(LRScheduler):
    """Run update t at ``base_lr * schedule.at(t)``, t = 0, 1, ...; past the end the last multiplier holds.

    The rate is a pure function of the step counter, so optimizer and scheduler may be built and loaded in any
    order. Without a state of the scheduler, ``step`` goes on: build it before the optimizer is loaded, or give
    ``peak_lr``. A group added later joins before its first update. Nothing wraps ``optimizer.step``: a step pre-hook
    counts the updates, and what does not fit the horizon is reported (`check_complete`).

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Built with the peak rate; each group's ``lr`` is its base rate (its ``initial_lr`` where there is one). A tensor
        stays the same tensor.
    schedule : Schedule, path or mapping
        A path goes through `Schedule.load`. A mapping has one for every group, by the group's index (as a number or
        as text) or its ``"name"`` entry, all of the same length.
    step : int
        Updates already done, where there is no state to load. At 0 the rate of a group is its peak, loaded or not.
    peak_lr : float or list of float, optional
        Base rate of every group, or of each; it wins over ``lr`` and ``initial_lr``. A loop that writes rates by hand
        leaves a decayed ``lr`` and no ``initial_lr`` in the optimizer that it saves: this says what the peak was.
    override_checkpoint : bool
        Take only the counters from a loaded state; schedule and base rates are this run's. Build it
        before the optimizer's state is loaded, which brings the old base rates.

    Raises
    ------
    RefineError
        A group without a schedule or the reverse; in `load_state_dict` another horizon, schedule or base rate; with
        ``step`` or ``override_checkpoint`` a group that was updated, as its state in the optimizer says, and has
        neither ``initial_lr`` nor ``peak_lr``. Plain SGD keeps no state: of it this cannot be seen.

    Notes
    -----
    One unit: call ``step()`` once per optimizer update, not once an epoch, and keep it out of
    ``accelerator.prepare``, which steps it once per process. ``torch.compile`` neither traces nor recompiles for it
    where the rate is a tensor. Updates replayed by a captured CUDA graph, or made by an optimizer without
    hooks, cannot be counted and are not compared.

    Examples
    --------
    >>> from refine import linear
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=8.0)
    >>> scheduler = ScheduleLR(optimizer, linear(4))
    >>> for _ in range(4):
    ...     print(scheduler.get_last_lr())
    ...     optimizer.step()
    ...     scheduler.step()
    [8.0]
    [6.0]
    [4.0]
    [2.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule | str | os.PathLike[str] | Mapping[Any, Schedule | str | os.PathLike[str]],
        *,
        step: int = 0,
        peak_lr: ArrayLike | None = None,
        override_checkpoint: bool = False,
    ) -> None:
        if not hasattr(optimizer, "param_groups"):
            raise RefineError(f"optimizer is a {type(optimizer).__name__}; it must be a torch.optim.Optimizer")
        self.optimizer = optimizer
        self.override_checkpoint = override_checkpoint
        self._by_group = isinstance(schedule, Mapping)
        given = schedule if isinstance(schedule, Mapping) else {None: schedule}
        self._schedules = {key: _as_schedule(value) for key, value in given.items()}
        self._ids = {key: _digest(s) for key, s in self._schedules.items()}
        step = check_count("step", step, least=0)
        if peak_lr is not None:
            for group, rate in zip(optimizer.param_groups, _peaks(peak_lr, len(optimizer.param_groups)), strict=True):
                group["initial_lr"] = rate
        elif step or override_checkpoint:
            self._check_peaks()
        self._keys: list[Any] = []
        self.base_lrs: list[float | torch.Tensor] = []
        self._join()
        self._check_mapping()
        self._check_covers(step)
        self._reported_past = self._compared = self._mismatch = False
        self._updates: int | None = None
        self.last_epoch = step - 1
        self._register()
        self._initial_step()
        self._alone = True

    @property
    def _horizon(self) -> int:
        return next(iter(self._schedules.values())).total_steps

    def _check_mapping(self) -> None:
        unknown = [key for key in self._schedules if key not in self._keys]
        if unknown:
            raise RefineError(
                f"schedule names the param group {unknown[0]!r}; the optimizer has {self._groups_by_name()}: "
                "correct the key"
            )
        lengths = {key: s.total_steps for key, s in self._schedules.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{key!r}: {steps:,}" for key, steps in lengths.items())
            raise RefineError(f"the schedules differ in total_steps ({shown}); resample them to the updates of the run")

    def _check_peaks(self) -> None:
        """Refuse a rate that may have followed a schedule; before a group is written to, so that it stays refused."""
        for index, group in enumerate(self.optimizer.param_groups):
            rate = group["lr"]
            if "initial_lr" not in group and rate is not None and _was_updated(innermost(self.optimizer), group):
                raise RefineError(
                    f"param group {index} was updated and has lr={float(rate):.6g} and no initial_lr: it may be a "
                    "decayed rate, no peak; give peak_lr=, or build ScheduleLR before the optimizer's state is loaded"
                )

    def _groups_by_name(self) -> str:
        groups = self.optimizer.param_groups
        return ", ".join(f"{i} ({g['name']!r})" if "name" in g else str(i) for i, g in enumerate(groups))

    def _key(self, index: int, group: Mapping[str, Any]) -> Any:
        if not self._by_group:
            return None
        keys = [key for key in dict.fromkeys((index, str(index), group.get("name"))) if key in self._schedules]
        if len(keys) != 1:
            named = printable(", ".join(map(repr, self._schedules)) or "nothing")
            raise RefineError(
                f"param group {index} has {'two schedules' if keys else 'no schedule'}; the mapping has {named} and "
                f"the optimizer {self._groups_by_name()}: give each group one, by index or name"
            )
        return keys[0]

    def _join(self) -> None:
        """Take in the groups that were added since."""
        groups, known = self.optimizer.param_groups, len(self.base_lrs)
        if len(groups) < known:
            raise RefineError(
                f"the optimizer has {len(groups)} param groups and had {known}; build a new ScheduleLR, with "
                "step=updates done"
            )
        for index, group in enumerate(groups[known:], known):
            key, rate = self._key(index, group), group.get("initial_lr", group["lr"])
            shared = next((i for i, g in enumerate(groups[:index]) if g["lr"] is group["lr"]), None)
            if shared is not None and isinstance(group["lr"], torch.Tensor):  # as Adam(lr=tensor) gives it to all
                group["lr"] = group["lr"].clone()
                rate = group.get("initial_lr", self.base_lrs[shared])
            if rate is None:
                raise RefineError(
                    f"param group {index} has no learning rate (lr=None); give the optimizer its peak rate"
                )
            group["initial_lr"] = float(rate)
            self._keys.append(key)
            self.base_lrs.append(group["initial_lr"])
        self._groups = len(groups)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Rates of the update that comes next, one per group."""
        factors = {key: schedule.at(max(self.last_epoch, 0)) for key, schedule in self._schedules.items()}
        return [base * factors[key] for base, key in zip(self.base_lrs, self._keys, strict=True)]

    def _write(self) -> None:
        self._last_lr = self.get_lr()
        for group, base, rate in zip(self.optimizer.param_groups, self.base_lrs, self._last_lr, strict=False):
            group["initial_lr"] = base
            _set_rate(group, rate)

    def _in_charge(self) -> bool:
        """Whether the groups have the rates last written, that is, no other scheduler of a SequentialLR wrote."""
        return self.last_epoch >= 0 and all(
            _same(group["lr"], rate) for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=False)
        )

    def _begin(self, step: int, updates: int | None) -> None:
        self.last_epoch = step
        self._updates = updates if self._counting else None
        self._start = step, self._updates or 0

    def _initial_step(self) -> None:
        """Take charge: `SequentialLR` calls it too, after lowering ``last_epoch`` by one."""
        self._step_count = 1
        self._update_lr(self.last_epoch + 1)

    @_untraced
    def step(self, epoch: int | None = None) -> None:
        """Go on to the next update; call it once after each ``optimizer.step()``.

        Parameters
        ----------
        epoch : int, optional
            The update to go to instead, which torch's `SequentialLR` sets to 0 (up to torch 2.7).
        """
        self._step_count += 1
        self._update_lr(epoch)
        if self.last_epoch > self._horizon:
            self._report_past()
        self._compare()

    def _update_lr(self, epoch: int | None = None) -> None:
        if epoch is None:
            self.last_epoch += 1
        else:
            self._begin(epoch, epoch)
            self._alone = False  # a SequentialLR did it, and others will go on where we stop
        self._join()
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Counters, base rates and the identity of the schedule: Python numbers, strings and lists."""
        in_charge = self._in_charge()
        self._join()
        if in_charge:
            self._write()
        return {
            **self._identity(),
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "in_charge": in_charge,
            "lrs": [float(group["lr"]) for group in self.optimizer.param_groups],
            **({} if self._updates is None else {"updates": self._updates}),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a state was saved, and write the rates into the groups.

        Raises
        ------
        RefineError
            The state has another horizon, schedule or base rate (relative difference above 1e-6).
        """
        missing = [key for key in _STATE if key not in state_dict]
        if missing:
            raise RefineError(
                f"the state has no {missing[0]!r}, so no ScheduleLR saved it; to go on from another scheduler load the "
                "optimizer alone and build ScheduleLR with step=updates done and peak_lr=its peak rate"
            )
        self._join()
        step = state_dict["last_epoch"]
        if self.override_checkpoint:
            self._check_covers(step)
        else:
            self._check_same(state_dict)
            self.base_lrs = list(state_dict["base_lrs"])
        self._begin(step, state_dict.get("updates", step))
        self._step_count = state_dict["step_count"]
        if state_dict["in_charge"]:
            self._write()
            return
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, state_dict["lrs"], strict=False):
            _set_rate(group, rate)

    def _identity(self) -> dict[str, Any]:
        ids = [self._ids[key] for key in self._keys]
        return {
            "total_steps": self._horizon,
            "schedule": ids if self._by_group else ids[0],
            "base_lrs": [float(base) for base in self.base_lrs],
        }

    def _check_covers(self, step: int) -> None:
        if step > self._horizon:
            raise RefineError(
                f"{step:,} updates are done and the schedule has {self._horizon:,}; take one that covers the run"
            )

    def _check_same(self, state: Mapping[str, Any]) -> None:
        for key, new in self._identity().items():
            old = state[key]
            if old == new or (key == "base_lrs" and len(old) == len(new) and all(map(_same, old, new))):
                continue
            raise RefineError(
                f"the checkpoint has {key}={printable(old)} and this run {printable(new)}; resume with the same, or "
                "build ScheduleLR with override_checkpoint=True to keep this run's"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register()  # a copy of an optimizer has no hooks

    def _register(self) -> None:
        """Hook into the optimizer, weakly: it must not keep the scheduler alive, nor be copied with it."""
        target = innermost(self.optimizer)
        try:
            handles = (
                target.register_step_pre_hook(_untraced(_weakly(self._before_update))),
                target.register_load_state_dict_pre_hook(_weakly(self._before_load)),
                target.register_load_state_dict_post_hook(_weakly(self._after_load)),
            )
        except AttributeError:  # no torch optimizer: groups join at the next step(), nothing is counted
            self._counting = False
            return
        self._counting = True
        for handle in handles:
            weakref.finalize(self, handle.remove).atexit = False

    def _before_update(self) -> None:
        if self.last_epoch < 0:  # before its turn in a SequentialLR
            return
        if capturing():  # replays run no hook
            self._counting, self._updates = False, None
        if self._updates is not None:
            self._updates += 1
        groups = len(self.optimizer.param_groups)
        if groups > self._groups:
            self._groups = groups
            if self._in_charge():
                self._join()
                self._write()
        self._compare()

    def _before_load(self) -> None:
        self._was_in_charge = self._in_charge()
        self._join()  # the loaded rates of groups added since are no base rates

    def _after_load(self) -> None:
        if self._was_in_charge:
            self._write()

    def check_complete(self) -> None:
        """Warn if the run ended short of the horizon, or past it; to be called after the last update."""
        self._compare(1)
        # The last scheduler.step() may be left out.
        done = self.last_epoch + (self._updates == self.last_epoch + 1)
        if self._mismatch:
            return
        if self.last_epoch > self._horizon:
            self._report_past()
        elif done < self._horizon:
            self._warn(
                f"the run ended after {done:,} of the {self._horizon:,} updates of its schedule ({self._seen}), before "
                "its rate was down; plan with the updates that the run makes (refine.steps_in counts them)",
                stacklevel=3,
            )

    @property
    def _seen(self) -> str:
        return f"{'no count of' if self._updates is None else format(self._updates, ',')} optimizer updates"

    def _report_past(self) -> None:
        if not self._reported_past:
            self._reported_past = True
            self._warn(
                f"the schedule was stepped {self.last_epoch:,} times and has {self._horizon:,} updates "
                f"({self._seen} were seen); the last rate is held: step it once per update, or take a longer one"
            )

    def _compare(self, enough: int = _ENOUGH) -> None:
        """Report once, as soon as there are enough of either, that steps and updates do not go together."""
        if self._compared or self._updates is None:
            return
        steps, updates = self.last_epoch - self._start[0], self._updates - self._start[1]
        if max(steps, updates) < enough:
            return
        self._compared = True
        remedy = ""
        if steps > 1.5 * updates:
            remedy = (
                "step it once per update: not per batch of an accumulation, nor through accelerator.prepare, which "
                "steps it once per process"
            )
        elif self._alone and updates - 1 > 1.5 * steps:
            remedy = "step it after every update, not once an epoch"
        if remedy:
            self._mismatch = True
            self._warn(f"the schedule was stepped {steps:,} times in {updates:,} optimizer updates; {remedy}")

    @staticmethod
    def _warn(text: str, stacklevel: int = 5) -> None:  # the caller of step()
        warnings.warn(text, RefineWarning, stacklevel=stacklevel)


def _as_schedule(value: object) -> Schedule:
    if isinstance(value, Schedule):
        return value
    if isinstance(value, (str, os.PathLike)):
        return Schedule.load(value)
    raise RefineError(
        f"schedule is a {type(value).__name__}; it must be a Schedule (of a fit: its .refined or .recommended), a path "
        "of one, or a mapping from group to these"
    )


def _digest(schedule: Schedule) -> str:
    return hashlib.sha256(schedule.multiplier.tobytes()).hexdigest()[:12]


def _peaks(peak_lr: ArrayLike, groups: int) -> list[float]:
    try:
        rates = np.array(np.nan) if isinstance(peak_lr, (bool, str)) else np.asarray(peak_lr, dtype=np.float64)
    except (TypeError, ValueError):
        rates = np.array(np.nan)
    if rates.shape not in ((), (groups,)) or not np.all((rates >= 0.0) & (rates < np.inf)):
        raise RefineError(
            f"peak_lr is {printable(repr(peak_lr))}; it must be one rate of at least 0, or a list of {groups}, one for "
            "each param group"
        )
    return [float(rate) for rate in np.broadcast_to(rates, groups)]


def _was_updated(optimizer: Any, group: Mapping[str, Any]) -> bool:
    """Whether the optimizer has a state of the group's own parameters, and not one of 0 steps, as a new Adagrad's."""
    state = getattr(optimizer, "state", {})
    parameters = group.get("params") or state  # DeepSpeed's ZeRO-3 leaves groups empty
    return any(bool(state[p]) and bool(state[p].get("step", 1) != 0) for p in parameters if p in state)


def _set_rate(group: dict[str, Any], rate: float | torch.Tensor) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _same(first: float | torch.Tensor, second: float | torch.Tensor) -> bool:
    """Whether two rates are equal, up to the precision of float32."""
    return isclose(float(first), float(second), rel_tol=1e-6, abs_tol=1e-37)


def _weakly(method: Callable[[], None]) -> Callable[..., None]:
    reference = weakref.WeakMethod(method)

    def call(*_: object) -> None:
        bound = reference()
        if bound is not None:
            bound()

    return call
