"""How healthy a log is: what was read, what is odd in it, what refinement would say to it. `refine inspect`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .default import Choice, batch_level, choose, words
from .diagnostics import RHO, Check, check, end_to_start, late_rise, spike_ratio, tiny_norms
from .files import printable
from .hygiene import UNDONE, Plateau, clipping_plateau
from .level_shifts import LevelShift, shifts_of, without_shifts
from .norms import GradientNorms
from .prior import Prior, read_prior
from .refinement import OptimizerFamily
from .text import beside, paragraph

__all__ = ["Health", "Inspection", "check_values", "examine", "inspect"]

SPIKE = 5.0
"""A norm this many times the running median is a spike."""

SAMPLED_GAP = 5.0
"""A gap this many times the usual stride tells of a sampled export."""

FEW_DIGITS = 3
"""Norms of so few significant digits were rounded when they were written."""

MANY_DIGITS = 7
"""Norms of so many significant digits do not equal each other by chance."""


_DROPPED = (
    ("non-finite", "norms that are not finite", "dropped (a skipped update, or an overflow of the loss scale)"),
    ("overflow mark", "DeepSpeed's marks for a norm that is not finite", "dropped"),
    ("superseded", "rows that were logged again", "the later ones are kept, as a resumed run wants it"),
)


@dataclass(frozen=True, slots=True)
class Health:
    """What is odd in a log.

    Attributes
    ----------
    spikes, largest_spike : int, float
        Norms above 5 times their running median; the largest norm over it.
    repeated : int
        Norms equal to the one before to all digits: DeepSpeed repeats the last one at an overflow.
    digits : int
        Most significant digits of any norm.
    gap_ratio : float
        Longest stride between two points over the usual one.
    plateau : Plateau or None
        Where norms pile up at the top: they were logged after clipping.
    warnings : tuple of str
        What of it a user should know, a line each.
    """

    spikes: int
    largest_spike: float
    repeated: int
    digits: int
    gap_ratio: float
    plateau: Plateau | None
    warnings: tuple[str, ...]


def examine(norms: GradientNorms, smoothed: NDArray[np.float64] | None = None) -> Health:
    """Measure what is odd in a log; ``smoothed`` saves the running median where it is known.

    Examples
    --------
    >>> norms = GradientNorms.from_values(np.minimum(np.linspace(0.5, 1.5, 40), 1.0))
    >>> for warning in examine(norms).warnings:
    ...     print(warning)
    50 % of the norms are at their maximum 1: they were logged after clipping, which hides all above; log them before
    """
    values = norms.values
    level = norms.smoothed() if smoothed is None else smoothed
    with np.errstate(over="ignore"):
        ratio = np.minimum(values / level, np.finfo(np.float64).max)
    gaps = np.diff(norms.steps)
    as_seen = "clip" in norms.source.columns  # clipped by the reader, which knows the norms before
    plateau = None if as_seen else clipping_plateau(values)
    repeated = int(np.count_nonzero(values[1:] == values[:-1]))
    digits = _digits(values)
    gap_ratio = float(gaps.max() / norms.stride)
    warnings = []
    for reason, what, remedy in _DROPPED:
        if reason in norms.dropped:
            first, last = norms.dropped_at.get(reason, (0, 0))
            span = f"steps {first} to {last}" if first < last else f"step {first}"
            warnings.append(f"{what}: {norms.dropped[reason]}, {span}; {remedy}")
    if norms.pool is not None:
        return Health(0, 1.0, 0, digits, gap_ratio, None, tuple(warnings))  # medians repeat themselves
    if plateau is not None:
        warnings.append(
            f"{100 * plateau.share:.0f} % of the norms are at their maximum {plateau.value:g}: they were logged after "
            "clipping, which hides all above; log them before"
        )
    elif norms.source.clipping == "post" and not as_seen:
        warnings.append("the norms were logged after clipping, which hides all above the threshold; log them before")
    if norms.source.window_mean:
        warnings.append("each norm is a mean over a window of updates: spikes are flattened, mean squares too small")
    if gap_ratio > SAMPLED_GAP:
        warnings.append(
            f"the longest stride is {gap_ratio:.0f} times the usual one: a sampled export, or missing rows; "
            "export all points"
        )
    if (
        repeated > max(2, 0.01 * values.size)
        and plateau is None
        and not as_seen
        and digits >= MANY_DIGITS
        and repeated < values.size // 2
    ):
        warnings.append(
            f"{repeated} norms equal the one before to all digits, as DeepSpeed writes at a loss-scale overflow"
        )
    if digits <= FEW_DIGITS and np.unique(values).size >= 10:
        warnings.append(f"the norms have at most {digits} significant digits: they were rounded when written")
    return Health(
        spikes=int(np.count_nonzero(ratio > SPIKE)),
        largest_spike=float(ratio.max()),
        repeated=repeated,
        digits=digits,
        gap_ratio=gap_ratio,
        plateau=plateau,
        warnings=tuple(warnings),
    )


def check_values(
    norms: GradientNorms,
    smoothed: NDArray[np.float64],
    on_updates: NDArray[np.float64],
    optimizer: OptimizerFamily,
    prior: Prior,
) -> dict[str, float | None]:
    """Values for those `refine.diagnostics.RULES` that are about the norms of the logged run.

    ``smoothed`` (n,) is reflected at both ends; ``on_updates`` (T,) is the same on the updates of a run.
    """
    fractions = (norms.updates + 0.5) / norms.total_steps
    return {
        "points": norms.steps.size,
        "tiny norms": tiny_norms(smoothed),
        "rho": end_to_start(on_updates),
        "late rise": None if prior.multiplier is None else late_rise(norms.values, fractions, prior.multiplier),
        "spikes": spike_ratio(norms.values, smoothed, optimizer=optimizer),
        "longest gap": norms.longest_gap / norms.total_steps,
    }


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """Everything that `refine inspect` says of a log."""

    norms: GradientNorms
    health: Health
    prior: Prior
    choice: Choice
    checks: tuple[Check, ...]
    shifts: tuple[LevelShift, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Notes of the reader, oddities, raised checks: a line each."""
        raised = (str(found) for found in self.checks if found.raised)
        return (*self.norms.source.notes, *self.health.warnings, *self.prior.notes, *raised)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; None is unknown."""
        norms, health, prior, source = self.norms, self.health, self.prior, self.norms.source
        logged = {"learning_rates": norms.learning_rate, "losses": norms.loss}
        return {
            "source": source.name,
            "run": source.run,
            "format": source.format,
            "columns": dict(source.columns),
            "rows": source.rows,
            "points": int(norms.steps.size),
            "first_step": int(norms.steps[0]),
            "last_step": int(norms.steps[-1]),
            "logged_steps": norms.total_steps,
            "stride": norms.stride,
            "longest_gap": norms.longest_gap,
            "gap_ratio": health.gap_ratio,
            "norm_kind": norms.kind,
            "norm_kind_known": source.kind_known,
            "clipping": source.clipping,
            "clipping_plateau": health.plateau and {"value": health.plateau.value, "share": health.plateau.share},
            "window_mean": source.window_mean,
            "lr_alignment": source.lr_alignment,
            "smallest_norm": float(norms.values.min()),
            "median_norm": float(np.median(norms.values)),
            "largest_norm": float(norms.values.max()),
            "significant_digits": health.digits,
            "spikes": health.spikes,
            "largest_spike": health.largest_spike,
            "repeated_norms": health.repeated,
            "dropped": dict(norms.dropped),
            "out_of_order": norms.out_of_order,
            **{name: 0 if column is None else int(np.isfinite(column).sum()) for name, column in logged.items()},
            "level_shifts": [asdict(shift) for shift in self.shifts],
            "peak_lr": prior.peak_lr,
            "warmup_steps": prior.warmup_steps,
            "constant_lr": prior.is_constant if prior.multiplier is not None else None,
            "optimizer": source.optimizer,
            "settings": {str(key): value for key, value in source.settings.items()},
            "decision": self.choice.shape,
            "reason": self.choice.reason,
            "flags": [found.to_dict() for found in self.checks],
            "warnings": list(self.warnings),
        }

    def summary(self) -> str:
        """The same as text."""
        d, norms, health = self.to_dict(), self.norms, self.health
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in norms.dropped.items()) or "nothing"
        clipping = {"pre": "before clipping", "post": "after clipping", "unknown": "clipping unknown"}[d["clipping"]]
        rates = {
            "this_step": "each used in its own step",
            "next_step": "each used in the next step",
            "unknown": "of their own or the next step, unknown",
        }[d["lr_alignment"]]
        kind = f"{norms.kind} norm" + ("" if d["norm_kind_known"] else " (assumed)")
        again = norms.dropped.get(UNDONE, 0)
        resumes = f"{again:,} updates were done again" if again else "none"
        resumes = f"the step goes back {norms.out_of_order:,} times" if norms.out_of_order else resumes
        lines = [
            (
                "log",
                printable(norms.source.name) + (f', run "{printable(norms.source.run)}"' if norms.source.run else ""),
            ),
            ("format", norms.source.format),
            ("columns", ", ".join(f'{role} "{printable(name)}"' for role, name in d["columns"].items())),
            ("points", f"{d['points']:,} of {d['rows']:,} rows"),
            ("steps", f"{d['first_step']:,} to {d['last_step']:,} of {d['logged_steps']:,}, {norms.spacing}"),
            ("gaps", f"longest {d['longest_gap']:,} updates, stride at most {health.gap_ratio:.3g} times the usual"),
            ("dropped", dropped),
            ("resumes", resumes),
            ("meaning", f"{kind}, {clipping}, {'mean over a window' if d['window_mean'] else 'of single updates'}"),
            ("values", f"{d['smallest_norm']:.3g} to {d['largest_norm']:.3g}, median {d['median_norm']:.3g}"),
            ("digits", f"{health.digits} significant, {health.repeated:,} norms equal the one before"),
            (
                "spikes",
                f"{health.spikes:,} above {SPIKE:g} times the running median, at most {health.largest_spike:.3g}",
            ),
            ("shifts", "; ".join(map(str, self.shifts)) or "none"),
            ("rates", f"{d['learning_rates']:,} logged, {rates}" if d["learning_rates"] else "none logged"),
            ("peak", "unknown" if d["peak_lr"] is None else f"{d['peak_lr']:.4g}"),
            ("warmup", "not seen" if d["warmup_steps"] is None else f"{d['warmup_steps']:,} updates"),
            ("losses", f"{d['losses']:,}"),
            ("settings", ", ".join(f"{printable(k)}={printable(v)}" for k, v in d["settings"].items()) or "none found"),
            ("recommended", f"{words(self.choice)}: {printable(self.choice.reason)}"),
        ]
        shown = [line for name, text in lines for line in paragraph(name, text or "none", indent=13, hanging=0)]
        shown += beside("checks", [found.row for found in self.checks], indent=13)
        shown += paragraph("", RHO, indent=13)
        for number, warning in enumerate(self.warnings):
            shown += paragraph("" if number else "warning", printable(warning, limit=400), indent=13, hanging=2)
        return "\n".join(shown)


def inspect(norms: GradientNorms) -> Inspection:
    """Examine a log and apply the rules that are about its norms."""
    smoothed, prior, shifts = norms.smoothed(), read_prior(norms), shifts_of(norms)
    optimizer = norms.source.optimizer or "adam"
    plain = without_shifts(norms, shifts)
    level = plain.smoothed() if shifts else smoothed
    on_updates = plain.on_updates(level, min(norms.total_steps, 100_000))
    values = check_values(plain, level, on_updates, optimizer, prior)
    checks = tuple(found for found in check(values) if found.rule.name in values)
    steps = norms.total_steps
    choice = choose(norms, prior, steps, level=batch_level(norms, steps, optimizer))
    return Inspection(norms, examine(norms, smoothed), prior, choice, checks, shifts)


def _digits(values: NDArray[np.float64]) -> int:
    """Most significant digits among norms, of up to a thousand spread over the log."""
    chosen = values[np.unique(np.linspace(0, values.size - 1, min(values.size, 1000)).astype(np.int64))]
    shortest = (format(Decimal(repr(value)).normalize(), "e") for value in chosen.tolist())
    return max(len(text.split("e")[0].replace(".", "")) for text in shortest)
