"""The importable module: `module_template` with the knots of some schedules filled in."""

from __future__ import annotations

import hashlib
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import RefineError, RefineWarning
from ..files import printable
from ..schedule import Schedule

__all__ = ["TOLERANCE", "Table", "knots", "literal", "module_text", "named_tables", "table", "template"]

TOLERANCE = 1e-3
"""Largest error of the knots against the full array, as a fraction of the peak; 20 times that of the rate itself."""

_MOST_BYTES = 16_384
_MOST_KNOTS = 6_000
_LOOKED_AT = 100_000
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Table:
    """Knots as text, and how far these are from the full array.

    Attributes
    ----------
    gaps, factors : str
        Updates from knot to knot, and the multipliers there.
    count : int
        Number of knots.
    error : float
        Largest error at an update, as a fraction of the peak.
    relative_error : float
        The same as a fraction of the multiplier itself, where it is not 0.
    """

    gaps: str
    factors: str
    count: int
    error: float
    relative_error: float

    def is_within(self, tolerance: float) -> bool:
        """Whether the errors are those that `knots` promises."""
        return self.error <= tolerance and self.relative_error <= 20.0 * tolerance

    @property
    def digest(self) -> str:
        """Identity of the shape: the same knots have the same."""
        return hashlib.sha256(f"{self.gaps}:{self.factors}".encode()).hexdigest()[:12]


def module_text(schedules: Mapping[str, Schedule], default: str) -> str:
    """Python source that holds schedules as piecewise-linear knots, within `TOLERANCE` and 16 KB in all.

    Whatever the provenance contains ends up as ASCII string literals and nothing else. A schedule too rough
    for both limits gets coarser knots, with a `RefineWarning`.

    Parameters
    ----------
    schedules : mapping of name to Schedule
        All of the same length. Equal ones are stored once.
    default : str
        Name of the one that the module takes where none is named; its provenance is kept.
    """
    _check_names(schedules, default)
    # Rounding the heights takes up to 0.06 of the tolerance.
    firsts = _firsts(schedules)
    tolerances = dict.fromkeys(firsts.values(), 0.93 * TOLERANCE)
    every = max(1, schedules[default].total_steps // _LOOKED_AT)
    points = {name: knots(schedules[name], tolerance, every=every) for name, tolerance in tolerances.items()}
    while max(tolerances.values()) < 1.0:
        if all(points.values()):
            tables = {name: table(schedules[name], points[name]) for name in points}
            if every > 1 and any(not found.is_within(TOLERANCE) for found in tables.values()):
                every, points = 1, {name: knots(schedules[name], tolerances[name]) for name in points}
                continue
            named = {name: tables[first] for name, first in firsts.items()}
            docstring, imports, after = template()
            block = named_tables(named, default, schedules[default])
            text = docstring.replace("@HEAD@.", _head(named, default)) + imports + block + after
            if len(text.encode()) <= _MOST_BYTES:
                for name, found in tables.items():
                    if tolerances[name] > TOLERANCE:
                        warnings.warn(
                            f"{name} is too rough for the module: its knots are within {found.error:.1e} of the peak; "
                            "the CSV file is exact, a larger smoothing fraction helps",
                            RefineWarning,
                            stacklevel=2,
                        )
                return text
        worst = max(points, key=lambda name: len(points[name]) or np.inf)
        tolerances[worst] *= 1.1 if points[worst] else 2.0
        points[worst] = knots(schedules[worst], tolerances[worst])
    raise RefineError("the provenance of the schedule is too long for the module; shorten it")


def _check_names(schedules: Mapping[str, Schedule], default: str) -> None:
    for name in schedules:
        if not (name.isascii() and name.isidentifier()):
            raise RefineError(f"a schedule is called {printable(name)!r}; in a module it must have a Python name")
    if default not in schedules:
        raise RefineError(f"default is {printable(default)!r}; it must be one of {', '.join(schedules)}")
    lengths = {name: schedule.total_steps for name, schedule in schedules.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {steps:,}" for name, steps in lengths.items())
        raise RefineError(f"the schedules of a module differ in total_steps ({shown}); resample them")


def _firsts(schedules: Mapping[str, Schedule]) -> dict[str, str]:
    """By name: the first name of the same schedule."""
    return {
        name: next(first for first in schedules if schedules[first] is schedule or schedules[first] == schedule)
        for name, schedule in schedules.items()
    }


def _head(tables: Mapping[str, Table], default: str) -> str:
    """First lines of the docstring: what schedule=None is, and what else there is."""
    if len(tables) == 1:
        return (
            f'Learning-rate schedule of refine {__version__} for PyTorch; schedule=None is "{default}", the only one.'
        )
    names: dict[str, list[str]] = {}
    for name, found in tables.items():
        names.setdefault(found.digest, []).append(f'"{name}"')
    head = [f'Learning-rate schedules of refine {__version__} for PyTorch; schedule=None is "{default}".', ""]
    if "refined" in tables and tables["refined"].digest != tables[default].digest:
        head.append(
            '"refined" is not recommended on this log; make_scheduler(optimizer, schedule="refined") takes it anyway.'
        )
    return "\n".join([*head, f"Names for schedule=: {', '.join(' = '.join(same) for same in names.values())}."])


def template() -> tuple[str, str, str]:
    """Docstring, imports and code of `module_template`; its knots stand before the code."""
    text = files(__package__).joinpath("module_template.py").read_text("utf-8")
    before, _, rest = text.partition("# BEGIN GENERATED\n")
    docstring, end, imports = before.partition('\n"""\n')
    return docstring + end, imports, rest.partition("# END GENERATED\n")[2]


def knots(schedule: Schedule, tolerance: float, *, every: int = 1) -> list[tuple[int, float]]:
    """Few points (t, y) between which linear interpolation stays within a tolerance of every h_t.

    Greedy: from the first update on, the line that stays longest within the tolerance, or within 20 times
    the tolerance relative to h_t where that is less (so that a small rate stays positive and, up to
    `TOLERANCE`, small), and never above the peak; then the next line from the next update on. First, peak
    and last update are exact, and so are straight schedules. What only rises, or only
    falls, does so between the knots too. A last knot at T carries `Schedule.end`, the
    end of the fraction axis. Empty where more knots are needed than could ever fit.

    Parameters
    ----------
    schedule : Schedule
        With positive multipliers.
    tolerance : float
        As a fraction of the peak.
    every : int
        Look at every k-th update only, and at all near both ends and the peak.

    Notes
    -----
    O(T) numpy operations on a few candidate starts a line. A smoothed log is full of small steps, so
    the number of knots depends on its noise and not on T.

    Examples
    --------
    >>> knots(Schedule([0.5, 1.0, 0.75, 0.5, 0.25]), 1e-3)
    [(0, 0.5), (1, 1.0), (4, 0.25), (5, 0.0)]
    """
    whole = schedule.multiplier
    at = _looked_at(whole, every)
    h = whole[at]
    half = np.minimum(tolerance, min(20.0 * tolerance, 0.9) * h)
    low, high = h - half, np.minimum(h + (half if tolerance <= TOLERANCE else tolerance), 1.0)
    points = [(0, float(h[0]))]
    peak, last = int(np.argmax(h)), h.size - 1
    for start, stop in ((0, peak), (peak, last)):
        i, starts = start, h[start : start + 1]
        change = np.diff(h[start : stop + 1])
        rises, falls = bool(np.all(change >= 0.0)), bool(np.all(change <= 0.0))
        floor = np.maximum(low, h[stop]) if falls else low
        while i < stop:
            ends, least, most = _reach(at, floor, high, i, starts, stop)
            # Knots of one rise and one fall have no other: neither within a line, nor from one to the next.
            least, most = np.maximum(least, 0.0 if rises else -np.inf), np.minimum(most, 0.0 if falls else np.inf)
            exact = (h[stop] - starts) / (at[stop] - at[i])
            if np.any(arrives := (ends == stop) & (least <= exact) & (exact <= most)):
                best = int(np.argmin(np.where(arrives, np.abs(starts - h[i]), np.inf)))
                end, height = stop, float(h[stop])
            else:
                end = min(int(ends.max()), stop - 1)
                best = int(np.argmin(np.where(ends >= end, np.abs(starts - h[i]), np.inf)))
                slope = (h[end] - starts[best]) / max(at[end] - at[i], 1)
                height = float(starts[best] + min(max(slope, least[best]), most[best]) * (at[end] - at[i]))
            points += [(int(at[i]), float(starts[best])), (int(at[end]), height)]
            i = end + 1
            starts = np.array([column[min(i, last)] for column in (h, floor, high)])
            starts = np.maximum(starts, height) if rises else np.minimum(starts, height) if falls else starts
            if len(points) > _MOST_KNOTS:
                return []
        points.append((int(at[stop]), float(h[stop])))
    # Without what rounding leaves there: equal shapes have equal knots.
    return [*dict(points).items(), (whole.size, schedule.end if schedule.end > 1e-9 * h[-1] else 0.0)]


def _looked_at(multiplier: NDArray[np.float64], every: int) -> NDArray[np.int64]:
    """Updates that `knots` looks at: every k-th one, and all near both ends and the peak."""
    if every == 1:
        return np.arange(multiplier.size)
    near = [np.arange(at - 50 * every, at + 50 * every) for at in (0, int(np.argmax(multiplier)), multiplier.size)]
    chosen = np.concatenate([np.arange(0, multiplier.size, every), *near])
    return np.unique(chosen[(chosen >= 0) & (chosen < multiplier.size)])


def _reach(
    at: NDArray[np.int64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    i: int,
    starts: NDArray[np.float64],
    stop: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """How far a line from each of ``(at[i], starts)`` can stay between low and high, and its slopes there."""
    ends = np.full(starts.size, i)
    least, most = np.full(starts.size, -np.inf), np.full(starts.size, np.inf)
    going = np.ones(starts.size, dtype=bool)
    first, block = i + 1, 64
    while first <= stop and going.any():
        after = min(first + block, stop + 1)
        away = at[first:after] - at[i]
        lower = np.maximum.accumulate((low[first:after] - starts[:, None]) / away, axis=1)
        upper = np.minimum.accumulate((high[first:after] - starts[:, None]) / away, axis=1)
        lower = np.maximum(lower, least[:, None])
        upper = np.minimum(upper, most[:, None])
        seen = np.where(going, np.count_nonzero(lower <= upper, axis=1), 0)
        row = np.flatnonzero(seen)
        column = seen[row] - 1
        ends[row] = first + column
        least[row], most[row] = lower[row, column], upper[row, column]
        going &= seen == away.size
        first, block = after, min(2 * block, 16_384)
    return ends, least, most


def table(schedule: Schedule, points: list[tuple[int, float]], digits: int = 4) -> Table:
    """Knots as text, the heights with so many digits, measured against the schedule.

    Examples
    --------
    >>> found = table(Schedule([0.5, 1.0, 0.5]), [(0, 0.5), (1, 1.0), (3, 0.0)])
    >>> found.gaps, found.factors, found.count, found.error
    ('0 1 2', '0.5 1 0', 3, 0.0)
    """
    steps = np.array([t for t, _ in points])
    texts = [f"{y:.{digits}g}" for _, y in points]
    gaps, factors = (textwrap.fill(" ".join(column), 108) for column in (map(str, np.diff(steps, prepend=0)), texts))
    h, y, each = schedule.multiplier, np.array(texts, dtype=np.float64), np.diff(steps)
    # np.interp at every update, without its search: all knots are updates.
    since = np.arange(h.size) - np.repeat(steps[:-1], each)
    error = np.abs(np.repeat(y[:-1], each) + np.repeat(np.diff(y) / each, each) * since - h)
    return Table(gaps, factors, steps.size, float(error.max()), float(np.max(error[h > 0.0] / h[h > 0.0])))


def named_tables(tables: Mapping[str, Table], default: str, schedule: Schedule) -> str:
    """Source of what `module_template` has between its marks; the length and the provenance are the schedule's."""
    lines, first = [], dict[str, str]()
    for name, found in tables.items():
        if (known := first.setdefault(found.digest, name)) != name:
            lines.append(f'    "{name}": "{known}",  # the same\n')
            continue
        lines.append(
            f'    "{name}": (  # {found.count} knots, within {found.error:.1e} of the peak and '
            f"{100.0 * found.relative_error:.2g} % of the rate\n"
            f'        "{found.digest}",\n        """\n{found.gaps}\n""",\n        """\n{found.factors}\n""",\n    ),\n'
        )
    return (
        f'TOTAL_STEPS = {schedule.total_steps}\nDEFAULT = "{default}"\n'
        "# By name: a digest of the knots; updates from knot to knot; multipliers at the knots, linear in between.\n"
        f"SCHEDULES = {{\n{''.join(lines)}}}\nPROVENANCE = {literal(schedule.provenance)}\n"
    )


def literal(provenance: Mapping[str, Any]) -> str:
    r"""Provenance as an ASCII Python literal, an entry a line: its texts as strings, cut and escaped.

    Examples
    --------
    >>> print(literal({"source": "log\n.csv", "points": 3}))
    {
        'source': 'log\\n.csv',
        'points': 3,
    }
    """
    lines = [f"    {printable(key)!a}: {_value(value)},\n" for key, value in provenance.items()]
    return "{\n" + "".join(lines) + "}"


def _value(value: Any, depth: int = 0) -> str:
    if depth < _DEEPEST and isinstance(value, Mapping):  # Python compiles no more than 200 open brackets
        return "{" + ", ".join(f"{printable(k)!a}: {_value(v, depth + 1)}" for k, v in value.items()) + "}"
    if depth < _DEEPEST and isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item, depth + 1) for item in value) + "]"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return ascii(printable(value))
