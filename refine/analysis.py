"""The whole way from a log to the schedules for the next run, with what was assumed and found."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .bound import best_omega, thinned
from .default import DEFAULT_WARMUP_FRACTION, Choice, batch_level, choose, decays_linearly, next_warmup, scheduled
from .describe import decay_exponent, peak_fraction
from .diagnostics import check, near_separable
from .digits import on_grid
from .errors import RefineError
from .families import cosine, linear, with_warmup
from .files import printable
from .health import check_values, examine
from .level_shifts import LevelShift, shifts_of, without_shifts
from .norms import GradientNorms
from .prior import Prior, read_prior
from .readers.settings import optimizer_name
from .refinement import OptimizerFamily, inverse_squared_norms, refined_multiplier, unimodal_multiplier
from .result import Measures, Refinement
from .schedule import Schedule, check_count
from .smoothing import smooth
from .transfer import peak_advice, peak_ratio_by_bound
from .worth import Worth, worth

if TYPE_CHECKING:
    from .distance import DistanceEstimate
    from .inputs import LogLike

__all__ = ["COMPARE_STEPS", "DEFAULT_WARMUP_FRACTION", "family_of", "fit", "refined_schedule", "unlike"]

COMPARE_STEPS = 100_000
"""Bounds of longer runs are compared on this many of their updates."""

_PLANNED = "predicted losses know the logged batch sizes, not those of --batch-size"

_EDGE = 0.05
"""Where the norm is measured whose ratio to the last one tells which cases are alike."""


def fit(
    log: LogLike,
    *,
    optimizer: OptimizerFamily | str | None = None,
    smoothing: float = 0.1,
    published: bool = False,
    total_steps: int | None = None,
    prior_schedule: Schedule | str | None = None,
    peak_lr: float | None = None,
    hold: float | None = None,
    batch_size: str | None = None,
    **read: Any,
) -> Refinement:
    r"""Compute the schedules for the next run from the gradient norms of a finished one.

    ``refined`` is :math:`h_t \propto w_t \sum_{p>t} w_p` with :math:`w_t = 1/N_t` (arXiv:2310.07831, Theorem 3) on
    norms smoothed with both ends reflected, with one rise and one fall and a warmup not shorter, in updates, than the
    logged run's. ``recommended`` is what the evidence says to run: linear decay with that warmup, its peak held before
    for as long as the losses beside the norms say (`refine.default`).

    Parameters
    ----------
    log : path, sequence of paths, DataFrame, Series, array_like or GradientNorms
        What `refine.read_norms` reads, the logs of several seeds (pooled), a table with its columns, or l2 norms,
        one an update.
    optimizer : {"sgd", "adam"} or str, optional
        Family of the logged optimizer, or a name that tells it (AdamW, Lion ...); it fixes the exponent, N = G^2 or
        N = G. By default what the log names, else "adam", the milder one, which is then recorded as an assumption.
    smoothing : float
        tau, width of the median window as a fraction of the logged updates.
    published : bool
        Make ``refined`` the published algorithm to the letter: the first norm repeated at the left edge, a window of so
        many rows, no warmup, dips and saw-tooth as they come.
    total_steps : int, optional
        Updates of the *next* run; by default as many as the logged one.
    prior_schedule : Schedule or str, optional
        The logged run's own schedule, where the log holds no learning rates: a schedule, a file or a
        family's name (`refine.from_name`).
    peak_lr : float, optional
        The logged run's peak learning rate.
    hold : float, optional
        Share of the next run, from 0 to below 1, for which ``recommended`` holds the peak before it anneals; by default
        the losses say.
    batch_size : str, optional
        Batch sizes of the next run, as ``8@0,64@2000``, where they are not those that the log shows.
    **read
        How to read the log, as in `refine.read_norms`: ``column``, ``step_column``, ``lr_column``, ``norm_kind``,
        ``every``, ``logged_steps``, ``run``.

    Returns
    -------
    Refinement

    Raises
    ------
    RefineError
        The log cannot be read without guessing; the message names the remedy.

    Notes
    -----
    O(n log w + T). For another ``total_steps`` the norms keep their place as a fraction of training.

    Examples
    --------
    >>> result = fit([4.0] * 50 + [2.0] * 50, optimizer="adam", prior_schedule="linear")
    >>> result.refined
    Schedule(total_steps=100, first=0.6325, peak=1 at update 50, last=0.02)
    >>> result.recommended == result.linear, result.default
    (True, 'recommended')
    """
    from .inputs import as_norms
    from .readers.optimizers import named_family

    if hold is not None and not (hasattr(hold, "__float__") and 0.0 <= hold < 1.0):
        raise RefineError(
            f"hold is {hold!r}; it must be a number from 0 to below 1, the share of the run for which the peak is held"
        )
    named = None if optimizer is None else named_family(str(optimizer))
    norms, smoothing = as_norms(log, optimizer=named, smoothing=smoothing, **read)
    steps = norms.total_steps if total_steps is None else check_count("total_steps", total_steps, least=1)
    family, family_source = family_of(norms, named)
    prior = read_prior(norms, prior_schedule, peak_lr)
    warmup_steps, warmup_source = _warmup(prior, steps)

    reflected = norms.smoothed(smoothing)
    smoothed = smooth(norms.values, fraction=smoothing, left="nearest") if published else reflected
    yardstick = _Yardstick(norms, reflected, family, steps)
    shifts = shifts_of(norms)
    values = check_values(*_level_norms(norms, reflected, yardstick, shifts, smoothing), family, prior)
    of_norms = check(values)
    near = near_separable(of_norms)
    level = batch_level(norms, steps, family, batch_size)
    choice = choose(norms, prior, steps, level=level, hold=hold)
    missing = [found.words for found in of_norms if found.raised and found.rule.action == "not computed"]
    alike = None if missing or unlike(norms, prior) else worth(family, values["rho"], changing=bool(shifts))
    values["like cases"] = None if alike is None else alike.median

    baselines = {build.__name__: build(steps, warmup_steps=warmup_steps) for build in (linear, cosine)}
    shapes = {name: on_grid(baseline.multiplier) for name, baseline in baselines.items()}
    shapes["refined"] = shapes["recommended"] = shapes["linear"]
    if not missing:
        weighted = refined_multiplier(inverse_squared_norms(norms.on_updates(smoothed, steps), optimizer=family))
        values |= _shape_values(weighted, yardstick)
        shapes["refined"] = on_grid(weighted if published else _with_one_rise(weighted, warmup_steps))
    if choice.shape != "linear":
        shapes["recommended"] = on_grid(scheduled(steps, warmup_steps, choice.k, level))
    measures = yardstick.measure(shapes, prior, near)
    if choice.keeps_peak:
        measures["recommended"] = replace(measures["recommended"], peak_lr_ratio=1.0)
    already_ran = prior.is_like(shapes["recommended"])
    checks = check({**values, "peak LR ratio": measures["recommended"].peak_lr_ratio})
    distance, distance_notes = _distance(norms, family, shapes["recommended"], near)

    result = Refinement(
        schedules={},
        choice=choice,
        level=level,
        reason=_reason(values["rho"], alike, choice, missing),
        worth=alike,
        already_ran=already_ran,
        checks=checks,
        measures=measures,
        published=published,
        optimizer=family,
        optimizer_source=family_source,
        smoothing=smoothing,
        norms=norms,
        smoothed=smoothed,
        warmup_steps=warmup_steps,
        prior=prior,
        distance=distance,
        assumptions=_assumptions(norms, family, family_source, warmup_source),
        notes=(
            *norms.source.notes,
            *examine(norms, reflected).warnings,
            *_notes(norms, family, prior, near and not already_ran and not choice.keeps_peak, warmup_steps, steps),
            *distance_notes,
            *((_PLANNED,) if batch_size is not None and norms.loss is not None else ()),
        ),
    )
    about = {name: _provenance(name, result) for name in ("refined", "recommended")}
    about |= {name: dict(baseline.provenance) for name, baseline in baselines.items()}
    return replace(result, schedules={name: Schedule(shapes[name], facts) for name, facts in about.items()})


refined_schedule = fit


def family_of(
    norms: GradientNorms, optimizer: OptimizerFamily | None
) -> tuple[OptimizerFamily, Literal["given", "log", "assumed"]]:
    """Optimizer family of the logged run, and how it is known."""
    if optimizer is not None:
        return optimizer, "given"
    if norms.source.optimizer is not None:
        return norms.source.optimizer, "log"
    return "adam", "assumed"


def _level_norms(
    norms: GradientNorms,
    reflected: NDArray[np.float64],
    yardstick: _Yardstick,
    shifts: tuple[LevelShift, ...],
    smoothing: float,
) -> tuple[GradientNorms, NDArray[np.float64], NDArray[np.float64]]:
    """Norms, smoothed, and on updates, with shifts of their level taken out: the checks are about the rest."""
    if not shifts:
        return norms, reflected, yardstick.smoothed
    plain = without_shifts(norms, shifts)
    smoothed = plain.smoothed(smoothing)
    return plain, smoothed, plain.on_updates(smoothed, yardstick.smoothed.size)


def _warmup(prior: Prior, steps: int) -> tuple[int, Literal["log", "assumed"]]:
    """Least warmup of the next run, and how it is known."""
    if prior.warmup_steps is not None:
        if prior.warmup_steps >= steps:
            raise RefineError(
                f"the logged run warmed up for {prior.warmup_steps} updates and the next run has {steps}; "
                "that leaves no anneal: give it more with --total-steps, or say --prior-schedule linear:warmup_steps=W"
            )
        return prior.warmup_steps, "log"
    return next_warmup(prior, steps), "assumed"


def unlike(norms: GradientNorms, prior: Prior) -> str:
    """Why no log of the benchmark is like this one; empty where one may be.

    Those are whole, and of runs that decayed about linearly.
    """
    first, last = norms.updates[[0, -1]] / norms.total_steps
    if first > _EDGE or last < 1.0 - _EDGE:
        return "it holds a part of its run only"
    if prior.multiplier is not None and not decays_linearly(prior):
        return "its rate did not fall about linearly, as theirs did"
    return ""


def _with_one_rise(weighted: NDArray[np.float64], warmup_steps: int) -> NDArray[np.float64]:
    """The weights' schedule behind its warmup, with one rise and one fall.

    A dip behind the warmup pulls down the update that ends it, so that the line up to there is drawn anew.
    """
    return with_warmup(unimodal_multiplier(with_warmup(weighted, warmup_steps)), warmup_steps)


class _Yardstick:
    """Best bounds of schedules on the same norms, those smoothed with both ends reflected."""

    def __init__(
        self, norms: GradientNorms, reflected: NDArray[np.float64], family: OptimizerFamily, steps: int
    ) -> None:
        self.steps, self.updates = steps, thinned(steps, COMPARE_STEPS)
        size = self.updates.size
        self.smoothed = norms.on_updates(reflected, size)
        self.squared, self.raw_squared = (
            1.0 / inverse_squared_norms(column, optimizer=family)
            for column in (self.smoothed, norms.on_updates(norms.values, size))
        )

    def best(self, multiplier: NDArray[np.float64]) -> float:
        return best_omega(multiplier[self.updates], self.squared)

    def best_straight(self) -> float:
        """Of linear decay without a warmup."""
        return best_omega(1.0 - self.updates / self.steps, self.squared)

    def raw_excess(self, multiplier: NDArray[np.float64]) -> float:
        """Best bound on the raw norms over the least one there is (the closed form, within 1e-3 of it)."""
        least = best_omega(refined_multiplier(1.0 / self.raw_squared), self.raw_squared)
        return best_omega(multiplier[self.updates], self.raw_squared) / least

    def peak_ratio(self, prior: Prior, multiplier: NDArray[np.float64]) -> float | None:
        """Best peak by the bound over that of the logged run, both on as many updates: no horizon enters."""
        if prior.multiplier is None:
            return None
        logged = prior.multiplier[np.arange(self.updates.size) * prior.multiplier.size // self.updates.size]
        return peak_ratio_by_bound(logged, multiplier[self.updates], self.raw_squared)

    def measure(self, shapes: dict[str, NDArray[np.float64]], prior: Prior, near: bool) -> dict[str, Measures]:
        """Of every schedule; ``near``: no rule for the peak is trusted, but for that of the run itself."""
        bounds = {name: self.best(shape) for name, shape in shapes.items()}
        return {
            name: Measures(
                bounds[name] / bounds["linear"],
                1.0 if prior.is_like(shape) else None if near else prior.peak_ratio(shape),
                None if near else self.peak_ratio(prior, shape),
            )
            for name, shape in shapes.items()
        }


def _distance(
    norms: GradientNorms, family: OptimizerFamily, multiplier: NDArray[np.float64], separable: bool
) -> tuple[DistanceEstimate | None, tuple[str, ...]]:
    """What the distance columns say, and notes; without them nothing is imported."""
    if norms.travel is None:
        return None, ()
    from .distance import estimate

    return estimate(norms, family, multiplier, separable=separable)


def _shape_values(weighted: NDArray[np.float64], yardstick: _Yardstick) -> dict[str, float | None]:
    """Values for the rules that are about the refined schedule, before its warmup."""
    anneal = decay_exponent(weighted)
    return {
        "first multiplier": float(weighted[0]),
        "peak position": peak_fraction(weighted),
        "decay exponent": anneal[0] if anneal else None,
        "bound gain": yardstick.best_straight() / yardstick.best(weighted),
        "raw bound": yardstick.raw_excess(weighted),
    }


def _reason(rho: float | None, alike: Worth | None, choice: Choice, missing: list[str]) -> str:
    """Why the recommended schedule is what it is, in words that need no other line."""
    if missing:
        return f"{choice.reason}; the log allows no refined schedule: {'; '.join(missing)}"
    if choice.spoke != "neither":
        return choice.reason
    if rho is None:
        norms = "what the norms do is unknown"
    elif 0.9 <= rho <= 1.1:
        norms = f"norms hardly change, to {rho:.2f} of their value by the end"
    else:
        shown = f"{rho:.2f}" if rho >= 0.1 else f"{rho:.2g}"  # as many digits as the check's words
        norms = f"norms {'fall' if rho < 1.0 else 'rise'} to {shown} {'of' if rho < 1.0 else 'times'} their value"
        norms += " by the end"
    return f"{choice.reason}; {norms}: {'no benchmark case is like this log' if alike is None else alike.in_words()}"


def _assumptions(
    norms: GradientNorms, family: OptimizerFamily, family_source: str, warmup_source: str
) -> tuple[str, ...]:
    found = []
    if family_source == "assumed":
        name = optimizer_name(norms.source.settings)
        unknown = "" if name is None else f" for {printable(name, limit=60)} from the log, whose family is not known"
        found.append(f"optimizer adam{unknown} (--optimizer)")
    if not norms.source.kind_known:
        found.append(f"{norms.kind} norm (--norm-kind)")
    if family == "adam" and norms.kind == "l2":
        found.append("l2 in place of the l1 norm")
    each = [] if norms.source.window_mean else ["of one update"]
    each += ["before clipping"] if norms.source.clipping == "unknown" else []
    found.append(f"norms {', '.join([*each, 'not scaled'])}")
    if warmup_source == "assumed":
        found.append(f"{100 * DEFAULT_WARMUP_FRACTION:g} % warmup (the log shows no rates from its start on)")
    return tuple(found)


def _notes(
    norms: GradientNorms, family: OptimizerFamily, prior: Prior, separable: bool, warmup_steps: int, steps: int
) -> list[str]:
    found = [*prior.notes]
    if family == "sgd" and norms.kind != "l2":
        found.append(f"SGD wants the l2 norm and the log holds the {norms.kind} norm")
    if separable and prior.multiplier is not None:
        found.append(
            "near-separable: on logs whose norms fall this far every rule for the peak learning rate failed; none is "
            "suggested: sweep it, from the old one on"
        )
    elif prior.is_constant:
        found.append("the logged run kept a constant rate: no peak learning rate is suggested, equal area fails there")
    if steps != norms.total_steps:
        found.append(
            f"{steps:,} updates instead of the logged {norms.total_steps:,}: the norms are taken to keep their shape, "
            f"and the peak learning rate is for the old horizon; {peak_advice(norms.total_steps, steps)[0]}"
        )
    if 2 * warmup_steps > steps:
        found.append(f"the warmup of the logged run, {warmup_steps:,} updates, takes more than half of the {steps:,}")
    return found


def _provenance(name: str, result: Refinement) -> dict[str, Any]:
    """Where a schedule of a result comes from, and what was assumed."""
    norms, source = result.norms, result.norms.source
    refined = name == "refined" and result.computed
    return {
        "generator": f"refine {__version__}",
        **({"reference": "arXiv:2310.07831"} if refined else {}),
        "name": name,
        "default": result.default,
        **({"not_recommended": [found.words for found in result.against]} if result.against else {}),
        "shape": "refined" if refined else "linear" if name == "refined" else result.shape,
        **({"k": round(result.choice.k, 3), "hold": round(result.choice.hold, 3)} if name == "recommended" else {}),
        "reason": result.reason,
        "published": result.published,
        "source": source.name,
        **({"run": source.run} if source.run else {}),
        "format": source.format,
        "columns": dict(source.columns),
        "points": int(norms.steps.size),
        "logged_steps": norms.total_steps,
        "norm_kind": norms.kind,
        "optimizer": result.optimizer,
        "optimizer_source": result.optimizer_source,
        "smoothing_fraction": norms.pool.smoothing if norms.pool else result.smoothing,
        "warmup_steps": 0 if refined and result.published else result.warmup_steps,
        "prior_peak_lr": result.prior.peak_lr,
        "suggested_peak_lr": result.peak_lr(name),
        "assumptions": list(result.assumptions),
    }
