"""What the exports share: a target as a value, and the Python file that holds a schedule for a framework."""

from __future__ import annotations

import keyword
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

from .. import __version__
from ..describe import updates_done
from ..errors import RefineError, RefineWarning
from ..files import Content, printable
from ..schedule import Schedule
from .module import Table, knots, literal, named_tables, table, template

__all__ = ["Rendering", "Target", "code_target", "no_module", "peak_of", "python_file"]

TOLERANCES = (1e-9, 1e-6, 1e-5, 1e-4, 1e-3)
"""Of the knots, finest first: the first whose file has at most `MOST_BYTES` is taken."""

MOST_BYTES = 65_536

_DIGITS = 9

_TAKEN = {"accelerate", "composer", "deepspeed", "equinox", "haliax", "jax", "jaxlib", "keras", "levanter", "lightning"}
_TAKEN |= {"megatron", "numpy", "optax", "pytorch_lightning", "refine", "scipy", "tensorflow", "timm", "torch"}
_TAKEN |= {"torchtitan", "torchvision", "train", "transformers"}


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a target makes of a schedule.

    Attributes
    ----------
    contents : mapping
        Path to text or writer, for `refine.files.write_files`; the first is the one that was asked for.
    stated : str
        One line: what the file holds, and how far it is from the schedule.
    use : tuple of str
        Lines to paste into the training script.
    largest_error : float
        Largest difference from a multiplier over all updates, as a fraction of the peak; flags look at those to come
        only, where the first ones are done (`refine.describe.updates_done`).
    r2 : float or None
        Share of the multipliers' variance that is kept; None where the file holds the schedule itself, or the
        schedule is constant.
    """

    contents: Mapping[Path, Content]
    stated: str
    use: tuple[str, ...]
    largest_error: float = 0.0
    r2: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A framework or format that a schedule can be exported to.

    Attributes
    ----------
    name : str
        As ``refine export --to`` takes it.
    kind : {"code", "flags", "data"}
        Code and data hold the schedule itself, flags the nearest one that the framework has.
    filename : str
        Where it is written if nothing else is said; another name keeps its suffix.
    about : str
        One line: what the file is, and how it is used.
    render : callable
        ``render(schedule, path, peak_lr)``, a `Rendering`.
    needs_peak : bool
        Whether the framework takes absolute rates.
    """

    name: str
    kind: Literal["code", "flags", "data"]
    filename: str
    about: str
    render: Callable[[Schedule, Path, float | None], Rendering]
    needs_peak: bool = False


def code_target(
    name: str,
    framework: str,
    about: str,
    use: tuple[str, ...],
    note: str,
    code: str,
    imports: str | None,
    resume: tuple[str, ...] | None = None,
) -> Target:
    """Target whose file is Python: the knots, ``multiplier(step)``, and the framework's code on top of it.

    Parameters
    ----------
    name, framework, about : str
        For ``--to``, for the reader, for the list of targets.
    use : tuple of str
        Lines to paste. In them and in the note @MODULE@ becomes the file's name, @PEAK@ the peak rate, @TOTAL@ T
        and @LAST@ T - 1; @DONE@ the updates done and @AT@ the last of them.
    note : str
        What the framework does with it.
    code : str
        Its source, on top of ``multiplier``.
    imports : str or None
        Lines that it needs above; None: ``code`` stands on the PyTorch module, `module_template`.
    resume : tuple of str, optional
        What takes the place of ``use`` for a schedule whose first updates are done (`refine.describe.updates_done`),
        where the framework's checkpoint holds the state of another scheduler.
    """

    def render(schedule: Schedule, path: Path, peak_lr: float | None) -> Rendering:
        if reason := no_module(path.stem):
            raise RefineError(f"{printable(path.name)} {reason}; choose a name such as refined_{name}.py")
        total, peak = schedule.total_steps, "PEAK_LR" if peak_lr is None else f"{peak_lr:.6g}"
        done = updates_done(schedule)
        values = {"@MODULE@": path.stem, "@PEAK@": peak, "@TOTAL@": str(total), "@LAST@": str(total - 1)}
        values |= {"@DONE@": str(done), "@AT@": str(done - 1)}
        *lines, about_it = (_filled(line, values) for line in (*(resume if done and resume else use), note))
        text, count, error = python_file(schedule, framework, tuple(lines), about_it, code, imports)
        stated = f"{total:,} updates in {count:,} knots, within {error:.1e} of the peak at every one"
        return Rendering({path: [text]}, stated, tuple(lines), error)

    return Target(name, "code", f"refined_{name}.py", about, render)


def python_file(
    schedule: Schedule, framework: str, use: tuple[str, ...], note: str, code: str, imports: str | None
) -> tuple[str, int, float]:
    """Source as `code_target` says, its number of knots, and its largest error as a fraction of the peak.

    Text from outside the program is only in PROVENANCE, as ASCII strings.
    """
    above, below = (_IMPORTS + imports + "\n", _MULTIPLIER + code) if imports is not None else template()[1:]
    if imports is None:
        below += code
    tolerance, rest = TOLERANCES[0], list(TOLERANCES[1:])
    while tolerance < 1.0:
        if points := knots(schedule, tolerance):
            found = table(schedule, points, _DIGITS)
            error = found.error
            block = (
                _block(found, schedule)
                if imports is not None
                else named_tables({"schedule": found}, "schedule", schedule)
            )
            text = _docstring(schedule.total_steps, len(points), error, framework, use, note) + above + block + below
            if len(text) <= MOST_BYTES:
                if tolerance > TOLERANCES[-1]:
                    warnings.warn(
                        f"the schedule is too rough for {MOST_BYTES // 1024} KB of code: its knots are within "
                        f"{error:.1e} of the peak; --to csv, json and npy are exact",
                        RefineWarning,
                        stacklevel=2,
                    )
                return text, len(points), error
        tolerance = rest.pop(0) if rest else 2.0 * tolerance
    raise RefineError("the provenance of the schedule is too long for a file of code; shorten it")


def no_module(stem: str) -> str | None:
    """Return why a file of this name could not be imported, or would hide another module; else None.

    Examples
    --------
    >>> no_module("refined_optax"), no_module("torch"), no_module("2nd-run")
    (None, 'would hide the module torch', 'cannot be imported: its name is not a Python name')
    """
    if not (stem.isascii() and stem.isidentifier() and not keyword.iskeyword(stem)):
        return "cannot be imported: its name is not a Python name"
    installed = [folder for folder in sys.path if folder.endswith("-packages")]
    if stem in _TAKEN or stem in sys.stdlib_module_names or PathFinder.find_spec(stem, installed):
        return f"would hide the module {stem}"
    return None


def peak_of(schedule: Schedule) -> float | None:
    """Peak learning rate that the schedule's provenance suggests, if it is a usable number.

    Examples
    --------
    >>> peak_of(Schedule([1.0], {"suggested_peak_lr": 3e-4})), peak_of(Schedule([1.0]))
    (0.0003, None)
    """
    peak = schedule.provenance.get("suggested_peak_lr")
    if isinstance(peak, bool) or not isinstance(peak, (int, float)):
        return None
    return float(peak) if 0.0 < peak <= sys.float_info.max else None


def _filled(text: str, values: Mapping[str, str]) -> str:
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text


def _block(found: Table, schedule: Schedule) -> str:
    """Source of the one table that `_MULTIPLIER` reads, and of the provenance."""
    return (
        f"TOTAL_STEPS = {schedule.total_steps}\n"
        f"# {found.count} knots: updates since the last one, and multipliers, linear in between.\n"
        f'GAPS = [int(n) for n in """\n{found.gaps}\n""".split()]\n'
        f'FACTORS = [float(y) for y in """\n{found.factors}\n""".split()]\n'
        f"PROVENANCE = {literal(schedule.provenance)}\n"
    )


def _docstring(total_steps: int, count: int, error: float, framework: str, use: tuple[str, ...], note: str) -> str:
    title = f'"""Learning-rate schedule of refine {__version__} for {framework}.'
    body = (
        f"{total_steps} updates in {count} knots; multiplier(t), linear between them, is within {error:.1e} of the "
        f"peak of the schedule at every update. Updates are optimizer steps, counted from 0: update t runs at the peak "
        f"rate times multiplier(t), the last at multiplier({total_steps - 1}); past the end the last factor holds. "
        f"{note} PROVENANCE says where the schedule comes from and what was assumed."
    )
    return "\n".join([title, "", *(f"    {line}" for line in use), "", textwrap.fill(body, 108), '"""', ""])


_IMPORTS = """
from bisect import bisect_right
from itertools import accumulate
"""

_MULTIPLIER = '''
_STEPS = list(accumulate(GAPS))


def multiplier(step):
    """Factor of the peak learning rate at update ``step``, counted from 0; past the end the last one holds."""
    if step < 0:
        raise ValueError(f"step is {step}; updates are counted from 0")
    position = min(step, TOTAL_STEPS - 1)
    right = min(bisect_right(_STEPS, position), len(_STEPS) - 1)
    x0, x1, y0, y1 = _STEPS[right - 1], _STEPS[right], FACTORS[right - 1], FACTORS[right]
    return y0 + (y1 - y0) * ((position - x0) / (x1 - x0))
'''
