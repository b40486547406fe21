"""Which runs a suite still needs: a pure function of those that are finished, so that it goes on where it stopped.

For every problem and optimizer: each method's peak rate is swept on the tuning seeds; the best runs of some methods
are run again and recorded; refined schedules are fitted on those logs and swept in turn; at last every method is run on
the final seeds, which decided nothing, at its swept rate and at the one that is known without a sweep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import RefineError
from ..families import from_name
from .methods import BASELINE, METHODS, Fitted, Method, fit
from .outcome import Outcome
from .packages import PACKAGES, unusable
from .problems import Optimizer, Problem, Scale
from .store import Run

__all__ = ["Arm", "Cell", "Final", "Protocol", "Tuned"]

_FURTHEST = 10
"""Octaves from the start of a sweep, beyond which it does not go on."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a suite measures.

    Attributes
    ----------
    tuning_seeds, final_seeds : tuple of int
        They share none, so that what was chosen by luck is not rewarded.
    window : int
        Octaves to each side of where a sweep starts. It goes on while the best rate is at an edge.
    half_octaves : bool
        Whether the neighbours of the best rate are tried too, at factors of the square root of 2.
    methods : tuple of Method
        What is compared.
    """

    tuning_seeds: tuple[int, ...]
    final_seeds: tuple[int, ...]
    window: int
    half_octaves: bool
    methods: tuple[Method, ...] = METHODS

    @property
    def log_seeds(self) -> tuple[int, ...]:
        """Of the logs for the final runs, one each, so that their differences are independent."""
        return tuple(seed + 100 for seed in self.final_seeds)

    @property
    def other_tuning_seeds(self) -> tuple[int, ...]:
        """For tuning once more, to see what its luck decides."""
        return tuple(seed + 50 for seed in self.tuning_seeds)


@dataclass(frozen=True, slots=True)
class Arm:
    """A schedule that is swept.

    Attributes
    ----------
    schedule : str
        As in `Run`.
    prior : str
        Method on whose logs it is fitted, one for each seed; empty for all but refined schedules.
    tuning, final : tuple of int
        Seeds.
    """

    schedule: str
    prior: str
    tuning: tuple[int, ...]
    final: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tuned:
    """Best of one or more sweeps.

    Attributes
    ----------
    arm : Arm
    factor : float
        Best peak learning rate; of a refined schedule, over that which `refine fit` suggests for it.
    loss : float
        Mean over the tuning seeds.
    tried : int
        Pairs of a schedule and a rate that were tried.
    at_limit : bool
        Whether the sweep ended as far from its start as it may go.
    """

    arm: Arm
    factor: float
    loss: float
    tried: int
    at_limit: bool


@dataclass(frozen=True, slots=True)
class Final:
    """A run that enters the report, and what it stands for."""

    method: str
    warmup: Literal["tuned", "fixed", ""]
    rates: Literal["swept", "rule"]
    run: Run


class Cell:
    """One problem with one optimizer, and what is known of it so far.

    Parameters
    ----------
    problem, optimizer, scale, protocol
    outcomes : mapping from Run to Outcome
        Finished runs. What follows from them is worked out once: make a new cell when there are more.
    fits : dict, optional
        Where fits are kept, for the next cell of this problem and optimizer.

    Attributes
    ----------
    missing : list of Run
        What is wanted next, each run once; empty when all is done.
    used : list of Run
        Every run that entered a decision or the report; a store may hold others, of earlier methods.
    finals : list of Final
        Of the methods that have come so far.
    tuned, fixed : dict
        Best of the sweeps of all warmups and of the fixed one, by method.
    logs : dict
        By method: for each seed, the key of the recorded run that a schedule for this seed is fitted on.
    failed : dict
        Methods that cannot be tried here, and why.
    """

    def __init__(
        self,
        problem: Problem,
        optimizer: Optimizer,
        scale: Scale,
        protocol: Protocol,
        outcomes: Mapping[Run, Outcome],
        fits: dict[tuple[str, str], Fitted] | None = None,
    ) -> None:
        self.problem, self.optimizer, self.protocol = problem, optimizer, protocol
        self.steps = problem.steps[scale]
        self.start = problem.gpu_rate if scale == "gpu" and problem.gpu_rate else optimizer.rate
        self.outcomes = outcomes
        self.tuned: dict[str, Tuned] = {}
        self.fixed: dict[str, Tuned] = {}
        self.logs: dict[str, dict[int, str]] = {}
        self.finals: list[Final] = []
        self.failed: dict[str, str] = {}
        self._recorded = {run.key: run for run in outcomes if run.record}
        self._trained = {run.schedule for run in outcomes}
        self._fits = {} if fits is None else fits
        self._looked_at: dict[Run, None] = {}
        for method in protocol.methods:
            self._plan(method)
        self.used = list(self._looked_at)
        self.missing = [run for run in self.used if run not in outcomes]

    def multiplier(self, schedule: str, log: str) -> NDArray[np.float64]:
        """Multipliers of a run, shape (T,)."""
        if log:
            return self.fitted(schedule, log).schedule.multiplier
        text = PACKAGES[schedule].schedule if schedule in PACKAGES else schedule
        return from_name(text, self.steps).multiplier

    def fitted(self, mode: str, log: str) -> Fitted:
        """Fit on a recorded run, named by its key, or by `Run.log`."""
        key = log.partition(":")[0]
        if (mode, key) not in self._fits:
            run = self._recorded[key]
            recorded = self.outcomes[run].log
            if recorded is None:
                raise RefineError(f"the store has no norms of run {key}; it was damaged: start another --store")
            logged = self.multiplier(run.schedule, run.log)
            sizes = self.problem.noise.sizes(self.steps)
            self._fits[mode, key] = fit(mode, recorded, logged, run.rate, self.optimizer, sizes)
        return self._fits[mode, key]

    def _plan(self, method: Method) -> None:
        """Go as far with a method as the finished runs allow, and note which it wants next."""
        if method.at:
            self._place(method)
            return
        if method.prior:
            tuned = self._tune_refined(method)
        elif method.package:
            tuned = self._tune_package(method)
        else:
            tuned = self._tune_family(method)
        if tuned is None:
            return
        self.tuned[method.name] = tuned
        self._finish(method, "tuned" if method.schedules else "", "swept", tuned.arm, tuned.factor)
        if method.package:
            self._finish(method, "", "rule", tuned.arm, PACKAGES[method.package].rates[self.optimizer.family])
        elif method.prior:
            self._finish(method, "", "rule", tuned.arm, 1.0)
        elif not method.again:
            fixed, baseline = self.fixed[method.name].arm, self.tuned.get(BASELINE)
            if baseline is not None:
                area, own = (self.multiplier(arm.schedule, "").mean() for arm in (baseline.arm, fixed))
                self._finish(method, "fixed", "rule", fixed, baseline.factor * float(area / own))
        if any(other.prior == method.name for other in self.protocol.methods):
            self._log(method.name, tuned)

    def _place(self, method: Method) -> None:
        """Run a method at a multiple of tuned linear decay's rate, without a sweep."""
        if method.prior:
            if method.prior not in self.logs:
                return
            arm = Arm(method.mode, method.prior, (), self.protocol.final_seeds)
            self._finish(method, "", "rule", arm, 1.0)
            return
        if BASELINE not in self.fixed:
            return
        factor = self.fixed[BASELINE].factor * method.at
        arm = Arm(method.schedules[0], "", self.protocol.tuning_seeds, self.protocol.final_seeds)
        self._finish(method, "", "rule", arm, factor)
        if any(other.prior == method.name for other in self.protocol.methods):
            self._log(method.name, Tuned(arm, factor, math.nan, 0, False))

    def _tune_family(self, method: Method) -> Tuned | None:
        """Sweep every warmup; the fixed one goes into the report by itself too."""
        seeds = self.protocol.other_tuning_seeds if method.again else self.protocol.tuning_seeds
        arms = [Arm(schedule, "", seeds, self.protocol.final_seeds) for schedule in method.schedules]
        sweeps = [self._sweep(arm, self.start, self.protocol.window) for arm in arms]
        if (fixed := sweeps[0]) is not None and not method.again:
            self.fixed[method.name] = fixed
            self._finish(method, "fixed", "swept", fixed.arm, fixed.factor)
        done = [sweep for sweep in sweeps if sweep is not None]
        if len(done) < len(sweeps):
            return None
        return replace(min(done, key=lambda sweep: sweep.loss), tried=sum(sweep.tried for sweep in done))

    def _tune_package(self, method: Method) -> Tuned | None:
        """Packages train one run at a time: they get fewer seeds."""
        if method.package not in self._trained and (reason := unusable(method.package, self.optimizer)) is not None:
            self.failed[method.name] = reason
            return None
        arm = Arm(method.package, "", self.protocol.tuning_seeds[:2], self.protocol.final_seeds[:5])
        return self._sweep(arm, PACKAGES[method.package].rates[self.optimizer.family], 1)

    def _tune_refined(self, method: Method) -> Tuned | None:
        """Fit on the logs of the prior method's best runs, as soon as there are any, and sweep.

        From the rate from which all sweeps start: what has two minima must not end in the other one for that.
        """
        if method.prior in self.failed:
            self.failed[method.name] = f"{method.prior} cannot be logged here"
        if method.prior not in self.logs:
            return None
        logs = self.logs[method.prior]
        try:
            for log in logs.values():
                self.fitted(method.mode, log)
        except RefineError as error:
            self.failed[method.name] = str(error)
            return None
        arm = Arm(method.mode, method.prior, self.protocol.tuning_seeds, self.protocol.final_seeds)
        return self._sweep(arm, self.start / self._suggested(method.mode, logs[arm.tuning[0]]), self.protocol.window)

    def _log(self, name: str, tuned: Tuned) -> None:
        """Record a method's best runs: a log for each final seed, and for each tuning seed that of the next one."""
        protocol = self.protocol
        tuning, final = (
            self._runs(tuned.arm, seeds, tuned.factor, record=True)
            for seeds in (protocol.tuning_seeds, protocol.log_seeds)
        )
        if self._losses([*tuning, *final]) is not None:
            pairs = [
                *zip(protocol.tuning_seeds, np.roll(np.array(tuning, dtype=object), -1), strict=True),
                *zip(protocol.final_seeds, final, strict=True),
                # Logs of runs that are refined themselves.
                *((seed, tuning[i % len(tuning)]) for i, seed in enumerate(protocol.log_seeds)),
            ]
            self.logs[name] = {seed: run.key for seed, run in pairs}

    def _sweep(self, arm: Arm, start: float, window: int) -> Tuned | None:
        """Best factor on a lattice of half octaves; None while runs are missing."""
        centre = round(2.0 * math.log2(start))
        tried: dict[int, float] = {}
        ahead = list(range(centre - 2 * window, centre + 2 * window + 1, 2))
        while ahead:
            for place in ahead:
                losses = self._losses(self._runs(arm, arm.tuning, 2.0 ** (place / 2.0)))
                tried[place] = math.nan if losses is None else float(np.mean(losses))
            if any(map(math.isnan, tried.values())):
                return None
            best = min(tried, key=lambda place: (tried[place], place))
            at_limit = abs(best - centre) >= 2 * _FURTHEST
            if at_limit:
                break
            if best in (min(tried), max(tried)):
                ahead = [best + 2 if best == max(tried) else best - 2]
            else:
                ahead = [place for place in (best - 1, best + 1) if self.protocol.half_octaves and place not in tried]
        return Tuned(arm, 2.0 ** (best / 2.0), tried[best], len(tried), at_limit)

    def _finish(
        self,
        method: Method,
        warmup: Literal["tuned", "fixed", ""],
        rates: Literal["swept", "rule"],
        arm: Arm,
        factor: float,
    ) -> None:
        runs = self._runs(arm, arm.final, factor)
        self.finals += [Final(method.name, warmup, rates, run) for run in runs]
        self._losses(runs)

    def _runs(self, arm: Arm, seeds: Sequence[int], factor: float, *, record: bool = False) -> list[Run]:
        """A run for each seed."""
        names = self.problem.name, self.optimizer.name
        if not arm.prior:
            return [Run(*names, arm.schedule, "", _rounded(factor), seed, record) for seed in seeds]
        logs = [self.logs[arm.prior][seed] for seed in seeds]
        return [
            Run(
                *names,
                *self._named(arm.schedule, log),
                _rounded(factor * self._suggested(arm.schedule, log)),
                seed,
                record,
            )
            for seed, log in zip(seeds, logs, strict=True)
        ]

    def _suggested(self, mode: str, log: str) -> float:
        """Peak rate that `refine fit` prints: for equal area, else by the bound, else (no rule) that of the log."""
        found = self.fitted(mode, log)
        return self._recorded[log].rate * (found.peak_lr_ratio or found.peak_lr_ratio_by_bound or 1.0)

    def _named(self, mode: str, log: str) -> tuple[str, str]:
        """Schedule and log of a run: where it is linear decay, that under its own name, the same run.

        Trained again it would be another: on separable data rounding alone decides a tenth of the loss, and so the
        sweeps. The log's key carries a digest of the schedule: what another algorithm made is not taken for it.
        """
        found = self.fitted(mode, log)
        multiplier = found.schedule.multiplier
        if found.is_linear:
            for text in next(method.schedules for method in self.protocol.methods if method.name == BASELINE):
                if np.allclose(self.multiplier(text, ""), multiplier, rtol=1e-9, atol=0.0):
                    return text, ""
        return mode, f"{log}:{sha256(np.round(multiplier, 6).tobytes()).hexdigest()[:8]}"

    def _losses(self, runs: Sequence[Run]) -> list[float] | None:
        """Losses of runs, or None where some are missing, which are then wanted."""
        self._looked_at |= dict.fromkeys(runs)
        return [self.outcomes[run].loss for run in runs] if all(run in self.outcomes for run in runs) else None


def _rounded(rate: float) -> float:
    """The rate on the lattice where it is there but for rounding, else with 6 digits: the same run on every machine."""
    near = 2.0 ** (round(2.0 * math.log2(rate)) / 2.0)
    return near if math.isclose(rate, near, rel_tol=1e-6) else float(f"{rate:.6g}")
