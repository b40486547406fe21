"""@HEAD@.

    from refined.refined_schedule import make_scheduler      # or copy this file next to your script
    scheduler = make_scheduler(optimizer)                    # then, after every optimizer.step():
    scheduler.step()

It needs torch alone, and multiplier() nothing. Build the optimizer with the peak learning rate. Updates are
optimizer steps, counted from 0: the first runs at multiplier(0), the last of T at multiplier(T - 1), which is
above 0. Another total_steps stretches the schedule, its warmup too: for a run of another length, better run
refine fit --total-steps again.
make_scheduler(optimizer, scale_weight_decay=True) is AdamC (arXiv:2506.02285): AdamW's decay follows it too,
in param groups with normalized=True: layers that a normalisation follows, or all linear ones but the last.
PROVENANCE says where that of schedule=None comes from and what was assumed.
refine.torch.ScheduleLR can more: it leaves optimizer.step unwrapped, a GradScaler may skip the first update, late
groups join before theirs, groups have their own schedules, and steps are checked against the updates made.
"""

import warnings
from bisect import bisect_right
from functools import partial
from itertools import accumulate
from math import isclose
from operator import index

try:
    import torch
    from torch.optim.lr_scheduler import LambdaLR
except ImportError:  # multiplier() works without torch
    LambdaLR = object

# BEGIN GENERATED
TOTAL_STEPS = 4
DEFAULT = "schedule"
SCHEDULES = {"schedule": ("a digest", "0 4", "1 0")}
PROVENANCE = {}
# END GENERATED

_TABLES = {name: SCHEDULES[known] if isinstance(known, str) else known for name, known in SCHEDULES.items()}
_KNOTS = {
    name: (list(accumulate(map(int, gaps.split()))), list(map(float, factors.split())))
    for name, (_, gaps, factors) in _TABLES.items()
}
_AFRESH = (
    "load the optimizer only, set its initial_lr (initial_weight_decay) in each group and build the scheduler after "
    "that, with last_epoch={}"
)


def _known(schedule):
    if schedule is None:
        return DEFAULT
    if schedule not in list(SCHEDULES):
        raise ValueError(f"schedule is {schedule!r}; it must be one of {', '.join(SCHEDULES)}, or None for {DEFAULT}")
    return schedule


def multiplier(step, total_steps=None, schedule=None):
    """Factor of the base learning rate at update ``step`` of ``total_steps``; needs no torch.

    Linear between the knots, which stand at fractions of training; past the end the last factor holds.
    """
    if step < 0:
        raise ValueError(f"step is {step}; updates are counted from 0")
    total = TOTAL_STEPS if total_steps is None else total_steps
    if total < 1:
        raise ValueError(f"total_steps is {total}; it must be the number of updates, at least 1")
    position = min(step, total - 1) * TOTAL_STEPS / total
    x, y = _KNOTS[_known(schedule)]
    right = min(bisect_right(x, position), len(x) - 1)
    left = right - 1
    return y[left] + (y[right] - y[left]) * ((position - x[left]) / (x[right] - x[left]))


def _base_decay(optimizer, group):
    base, name = group.get("initial_weight_decay", group.get("weight_decay")), type(optimizer).__name__
    if not group.get("normalized"):
        return 0.0
    if base and group.get("decoupled_weight_decay", "AdamW" in name or name == "Muon"):
        return float(base)
    raise ValueError(
        f"a normalized group of {name} has weight_decay={base}; it must be above 0 and decoupled: use AdamW, or "
        "put decoupled_weight_decay=True there"
    )


def _write(group, key, value):
    if torch.is_tensor(group[key]):
        group[key].fill_(value)
    else:
        group[key] = value


class RefinedLR(LambdaLR):
    """LambdaLR over `multiplier` that resumes without surprises; build it with `make_scheduler`.

    Each group keeps its own base rate. A group added later runs at its lr as given until the next
    scheduler.step(), and joins then, that lr being its base rate. Optimizer and scheduler may be built and their
    states loaded in any order. Loading the state of another horizon, schedule or base rate raises.
    """

    def __init__(self, optimizer, total_steps, schedule, last_epoch=-1, scale_weight_decay=False, peak_lr=None):
        self.total_steps = total_steps
        self.schedule = schedule
        self._reported = False
        self._decays = [_base_decay(optimizer, group) for group in optimizer.param_groups if scale_weight_decay]
        if scale_weight_decay and not any(self._decays):
            raise ValueError("scale_weight_decay: no param group has normalized=True; mark some")
        for i, group in enumerate(optimizer.param_groups if last_epoch >= 0 and peak_lr is None else ()):
            states = filter(None, map(optimizer.state.get, group["params"]))  # a new Adagrad's are of 0 steps
            if "initial_lr" not in group and any(state.get("step", 1) != 0 for state in states):
                raise ValueError(
                    f"param group {i} was updated and has lr={float(group['lr']):.6g} and no initial_lr: it may be a "
                    "decayed rate, no peak; give peak_lr="
                )
        for group in optimizer.param_groups:
            group["initial_lr"] = float(group.get("initial_lr", group["lr"]) if peak_lr is None else peak_lr)
            if "initial_weight_decay" in group and not scale_weight_decay:  # it was scaled before
                _write(group, "weight_decay", group.pop("initial_weight_decay"))
        super().__init__(optimizer, partial(multiplier, total_steps=total_steps, schedule=schedule), last_epoch)

    def _join_groups(self):
        groups = self.optimizer.param_groups
        for group in groups[len(self.base_lrs) :]:
            self.base_lrs.append(float(group.setdefault("initial_lr", float(group["lr"]))))
            self.lr_lambdas.append(self.lr_lambdas[0])
        if self._decays:
            self._decays += [_base_decay(self.optimizer, group) for group in groups[len(self._decays) :]]

    def _scale_decays(self):
        factor = multiplier(max(self.last_epoch, 0), self.total_steps, self.schedule)
        for group, base in zip(self.optimizer.param_groups, self._decays):
            if base:
                group["initial_weight_decay"] = base
                _write(group, "weight_decay", base * factor)
        return factor

    def get_lr(self):
        self._join_groups()
        if self.last_epoch > self.total_steps and not self._reported:
            self._reported = True
            warnings.warn(
                f"the schedule was stepped {self.last_epoch} times and total_steps is {self.total_steps}; "
                "the last rate is held: step it once per optimizer update, or make it longer",
                stacklevel=4,
            )
        factor = self._scale_decays()
        return [base * factor for base in self.base_lrs]

    def state_dict(self):
        self._join_groups()
        return {
            "schedule": f"{self.schedule} {_TABLES[self.schedule][0]}",
            "total_steps": self.total_steps,
            "base_lrs": list(self.base_lrs),
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "lrs": [float(group["lr"]) for group in self.optimizer.param_groups],
            **({"scale_weight_decay": list(self._decays)} if self._decays else {}),
        }

    def load_state_dict(self, state_dict):
        mine = self.state_dict()
        if (state_dict.keys() ^ mine.keys()) - {"scale_weight_decay"}:
            raise ValueError(
                "this state was not saved by a scheduler that make_scheduler built; to go on from another one, "
                + _AFRESH.format("the number of updates done, less 1")
            )
        for key in ("schedule", "total_steps", "base_lrs", "scale_weight_decay"):
            old, new = state_dict.get(key, []), mine.get(key, [])
            near = partial(isclose, rel_tol=1e-6)
            if key == "schedule" and str(old).split()[-1:] == new.split()[-1:]:  # the same knots by another name
                continue
            if old != new and not (isinstance(old, list) and len(old) == len(new) and all(map(near, old, new))):
                raise ValueError(
                    f"the checkpoint has {key}={old!r} and this run {new!r}; resume with the same, or, to change it, "
                    + _AFRESH.format(state_dict["last_epoch"] - 1)
                )
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict["step_count"]
        self._last_lr = list(state_dict["lrs"])
        for group, rate in zip(self.optimizer.param_groups, self._last_lr):
            _write(group, "lr", rate)
        self._scale_decays()


def make_scheduler(optimizer, total_steps=None, schedule=None, last_epoch=-1, scale_weight_decay=False, peak_lr=None):
    """Return the scheduler (a LambdaLR) for an optimizer that was built with the peak learning rate.

    total_steps: updates of this run, by default TOTAL_STEPS; another number stretches the schedule.
    schedule: its name, one of those above; another is not resumed from unless its knots are the same.
    last_epoch: last update already done, counted from 0, where there is no state to load; -1 to start.
    scale_weight_decay: AdamC, as above; in a SequentialLR with the decay of update 0 until its turn.
    peak_lr: base rate of all groups; by default the initial_lr of each, else its lr, which is a decayed one where a
        loop wrote the rates by hand.
    """
    if LambdaLR is object:
        raise ImportError("make_scheduler needs torch; multiplier() does not")
    steps = TOTAL_STEPS if total_steps is None else total_steps
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or steps < 1:
        raise ValueError(f"total_steps is {total_steps!r}; it must be a positive integer, the number of updates")
    if last_epoch < -1:
        raise ValueError(f"last_epoch is {last_epoch!r}; it must be the last update done, or -1 to start")
    if peak_lr is not None and (peak_lr is True or not hasattr(peak_lr, "__float__") or not 0 < peak_lr < 1e9):
        raise ValueError(f"peak_lr is {peak_lr!r}; it must be a positive number")
    return RefinedLR(optimizer, index(steps), _known(schedule), last_epoch, scale_weight_decay, peak_lr)
