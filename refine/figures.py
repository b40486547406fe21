"""Figures: two axes-level functions, and the figure of a result. pyplot is never touched."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .describe import updates_done
from .errors import RefineError
from .files import printable
from .hygiene import clipping_plateau
from .level_shifts import LevelShift, shifts_of
from .norms import GradientNorms
from .result import Refinement
from .schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .comparison import Comparison

__all__ = [
    "SUFFIXES",
    "check_suffix",
    "plot",
    "plot_comparison",
    "plot_log",
    "plot_norms",
    "plot_result",
    "plot_schedules",
    "save_figure",
]

SUFFIXES = (".png", ".pdf", ".svg")

_COLOURS = ("#0b5fa5", "#d1701c", "#4c8c4a", "#8d5fa8", "#a8323e", "#3f3f3f", "#c09a1a")
_RAW, _SMOOTHED, _OLD = "#b4c3d2", "#1d2b3a", "#8a8a8a"
_DASHES = ("--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)), (0, (9, 3)), (0, (1, 3)))
_MOST_POINTS = 2_000


def plot(
    what: Refinement | Schedule | Mapping[str, Schedule], norms: GradientNorms | None = None, *, smoothing: float = 0.1
) -> Figure:
    """Schedules above; below them, where there is a log, its raw and smoothed norms.

    Parameters
    ----------
    what : Refinement, Schedule or mapping of name to Schedule
        Of a result both schedules are drawn, with cosine and linear decay of the same warmup and, where it is known,
        the logged run's own schedule, on its own norms.
    norms : GradientNorms, optional
        For a mapping: the log to draw below.
    smoothing : float
        For ``norms``: window of the running median, as a fraction of the updates.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    if isinstance(what, Schedule):
        what = {"schedule": what}
    if isinstance(what, Refinement):
        norms, smoothed = what.norms, what.smoothed
    elif norms is not None:
        smoothed = norms.smoothed(smoothing)
    figure = Figure(figsize=(6.4, 4.8 if norms is not None else 3.0), layout="constrained")
    if norms is None:
        upper = figure.add_subplot()
    else:
        upper, lower = figure.subplots(2, 1, height_ratios=(1.75, 1.0))
        plot_norms(norms, smoothed, ax=lower)
        lower.set_xlabel("update of the logged run")
    if isinstance(what, Refinement):
        plot_result(what, ax=upper)
    else:
        plot_schedules(what, ax=upper)
        done = {updates_done(schedule) for schedule in what.values()}
        if len(done) == 1 and (at := done.pop()):
            upper.axvline(at, color=_OLD, linewidth=1.0, linestyle="--", label=f"{at:,} updates done")
            _finish(upper)
    return figure


def plot_schedules(schedules: Mapping[str, Schedule], *, ax: Axes | None = None) -> Axes:
    """Multipliers over updates, the first schedule emphasised.

    Examples
    --------
    >>> from refine import cosine, linear
    >>> ax = plot_schedules({"linear": linear(10), "cosine": cosine(10)})
    >>> [line.get_label() for line in ax.get_lines()]
    ['linear', 'cosine']
    """
    ax = _axes(ax)
    _draw(schedules, ax)
    _finish(ax)
    return ax


def plot_norms(norms: GradientNorms, smoothed: NDArray[np.float64] | None = None, *, ax: Axes | None = None) -> Axes:
    """Raw norms (their range, where there are many points or several logs) and smoothed norms on a log axis."""
    ax = _axes(ax)
    at = norms.updates
    if norms.pool is not None:
        chosen = _thinned(at.size)
        band = (norms.pool.lowest[chosen], norms.pool.highest[chosen])
        ax.fill_between(at[chosen], *band, color=_RAW, linewidth=0.0, label=f"range of {norms.pool.logs} logs")
    elif at.size <= _MOST_POINTS:
        ax.plot(*_broken(at, norms.values), color=_RAW, linewidth=0.8, label="raw")
    else:
        starts = np.linspace(0, at.size, _MOST_POINTS, endpoint=False).astype(np.int64)
        lowest = np.minimum.reduceat(norms.values, starts)
        highest = np.maximum.reduceat(norms.values, starts)
        x, lowest, highest = _broken(at[starts], lowest, highest)
        ax.fill_between(x, lowest, highest, color=_RAW, linewidth=0.4, label="raw")
    if smoothed is not None:
        chosen = _thinned(at.size)
        ax.plot(*_broken(at[chosen], smoothed[chosen]), color=_SMOOTHED, linewidth=1.6, label="smoothed")
    for shift in shifts_of(norms):
        _mark(shift, norms.total_steps, ax)
    _log_scale(ax, float(norms.values.min()), float(norms.values.max()))
    ax.set_xlim(0, norms.total_steps)
    ax.set_xlabel("update")
    ax.set_ylabel({"l2": "gradient norm (l2)", "l1": "gradient norm (l1)", "dual": "dual norm"}[norms.kind])
    _finish(ax)
    return ax


def plot_log(norms: GradientNorms, *, smoothing: float = 0.1) -> Figure:
    """Norms of a log, where they were clipped, and its learning rates.

    Parameters
    ----------
    norms : GradientNorms
        The log.
    smoothing : float
        Window of the running median, as a fraction of the updates.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.0 if norms.learning_rate is None else 4.4), layout="constrained")
    if norms.learning_rate is None:
        upper = figure.add_subplot()
    else:
        upper, lower = figure.subplots(2, 1, height_ratios=(1.75, 1.0))
        chosen = _thinned(norms.steps.size)
        lower.plot(*_broken(norms.updates[chosen], norms.learning_rate[chosen]), color=_COLOURS[0], linewidth=1.3)
        lower.set_xlim(0, norms.total_steps)
        lower.set_ylim(bottom=0.0)
        lower.set_ylabel("learning rate")
        _style(lower)
    plot_norms(norms, norms.smoothed(smoothing), ax=upper)
    upper.set_xlabel("")
    figure.axes[-1].set_xlabel("update of the logged run")
    plateau = clipping_plateau(norms.values)
    if plateau is not None:
        upper.axhline(plateau.value, color=_COLOURS[4], linewidth=1.0, linestyle="--", label="clipped here")
        _finish(upper)
    return figure


def plot_comparison(comparison: Comparison) -> Figure:
    """Schedules above, and below them the bound during the run, each at the peak that is best for its end.

    Parameters
    ----------
    comparison : Comparison
        From `refine.compare`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    names = [row.name for row in comparison.rows]
    figure = Figure(figsize=(6.4, 5.0 + 0.1 * len(names)), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    plot_schedules({name: comparison.schedules[name] for name in names}, ax=upper)
    upper.set_xlabel("")
    highest = 1.0
    for line, name in zip(upper.get_lines(), names, strict=True):
        updates, values = comparison.curve(name)
        lower.plot(
            updates, values, color=line.get_color(), linewidth=line.get_linewidth(), linestyle=line.get_linestyle()
        )
        highest = max(highest, float(np.interp(0.1 * updates[-1], updates, values)))
    lower.set_yscale("log")
    lower.set_ylim(0.9, 1.3 * highest)  # the first tenth would fill the axes
    lower.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    lower.yaxis.set_minor_locator(NullLocator())
    lower.set_xlabel("update")
    lower.set_ylabel("bound / best at the end")
    _style(lower)
    return figure


def save_figure(figure: Figure | Refinement | Schedule, path: str | os.PathLike[str]) -> None:
    """Save as PNG, PDF or SVG by the suffix; a result's figure carries its provenance."""
    from matplotlib.figure import Figure

    suffix = check_suffix(path)
    note = "drawn by refine"
    if not isinstance(figure, Figure):
        schedule = figure if isinstance(figure, Schedule) else figure.refined
        note = json.dumps(dict(schedule.provenance))
        figure = plot(figure)
    key = {".png": "Description", ".pdf": "Subject", ".svg": "Description"}[suffix]
    undated = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}[suffix]
    figure.savefig(path, dpi=200, metadata={key: note, **undated})


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix, or raise where it names no format that figures are saved in."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise RefineError(f"{printable(path)} must end in one of {', '.join(SUFFIXES)}: change the suffix")
    return suffix


def _draw(schedules: Mapping[str, Schedule], ax: Axes) -> None:
    for number, (name, schedule) in enumerate(schedules.items()):
        t = _thinned(schedule.total_steps)
        ax.plot(
            t,
            schedule.multiplier[t],
            color=_COLOURS[number % len(_COLOURS)],
            linewidth=2.2 if number == 0 else 1.3,
            linestyle="-" if number == 0 else _DASHES[(number - 1) % len(_DASHES)],
            marker="o" if schedule.total_steps == 1 else None,
            zorder=3 if number == 0 else 2,
            label=name,
        )
    ax.set_ylim(0.0, 1.04)
    ax.set_xlim(0, max(schedule.total_steps for schedule in schedules.values()))
    ax.set_xlabel("update")
    ax.set_ylabel("rate / peak rate")


def plot_result(result: Refinement, *, ax: Axes | None = None) -> Axes:
    """Both schedules over the baselines and the logged run's own; linear decay that is recommended is drawn once."""
    ax = _axes(ax)
    advised = "" if result.default == "refined" else ", not recommended"
    alone = "" if result.computed else "; no refined"
    shown = [
        (f"refined{advised}", result.refined, _COLOURS[0], 2.4, "-", 3.0),
        (f"recommended ({result.shape}{alone})", result.recommended, _COLOURS[1], 2.2, (0, (7, 1.5, 1.5, 1.5)), 4.0),
        ("linear", result.linear, _OLD, 1.5, (0, (6, 2)), 2.0),
        ("cosine", result.cosine, _COLOURS[3], 1.5, (0, (1, 2)), 2.0),
    ]
    hidden = {"linear"} if result.shape == "linear" else set()
    hidden |= set() if result.computed else {f"refined{advised}"}
    for name, schedule, colour, width, style, order in (row for row in shown if row[0] not in hidden):
        t = _thinned(schedule.total_steps)
        marker = "o" if t.size == 1 else None
        (line,) = ax.plot(t, schedule.multiplier[t], color=colour, linewidth=width, linestyle=style, marker=marker)
        line.set(label=name, zorder=order)
    steps, prior = result.refined.total_steps, result.prior.multiplier
    if prior is not None:
        t = _thinned(prior.size)
        ran = " = recommended" if result.already_ran else ""
        ran += f" ({prior.size:,} updates)" if prior.size != steps else ""
        (line,) = ax.plot(t * (steps / prior.size), prior[t], color="black", linewidth=1.0, zorder=5.0)
        line.set(label=f"logged run{ran}", linestyle=(0, (4, 1.5, 1, 1.5, 1, 1.5)))
    ax.set_ylim(0.0, 1.04)
    ax.set_xlim(0, steps)
    ax.set_xlabel("update of the next run")
    ax.set_ylabel("rate / peak rate")
    _finish(ax)
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, 3.0), layout="constrained").add_subplot()


def _thinned(size: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, size - 1, min(size, _MOST_POINTS)).astype(np.int64))


def _broken(at: NDArray[np.int64], *columns: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Put a nan into every long gap of the axis, so that no line is drawn across it."""
    between = np.diff(at)
    gaps = np.flatnonzero((between > 10 * np.median(between)) & (between > 0.02 * at[-1])) + 1
    return [np.insert(column.astype(np.float64), gaps, np.nan) for column in (at, *columns)]


def _mark(shift: LevelShift, total_steps: int, ax: Axes) -> None:
    """A thin line where the level shifts, with its cause beside it; it is no row of the legend."""
    late = shift.step > 0.8 * total_steps
    ax.axvline(shift.step, color=_SMOOTHED, linewidth=0.8, linestyle=":", label="_child shift")
    ax.annotate(
        "shift" if shift.cause == "unknown" else shift.cause,
        (shift.step, 1.0),
        xytext=(-3 if late else 3, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if late else "left",
        va="top",
        fontsize=7,
        color=_SMOOTHED,
    )


def _log_scale(ax: Axes, lowest: float, highest: float) -> None:
    """Logarithmic y for values in that range, with a few labels in plain numbers."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    span = highest / lowest
    ax.set_yscale("log")
    if span < 5.0:
        ax.yaxis.set_major_locator(MaxNLocator(4))
    else:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if span < 200.0 else (1.0,), numticks=7))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _style(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def legend_rows(ax: Axes) -> int:
    """Rows of an axes' legend, 0 without one."""
    legend = ax.get_legend()
    return 0 if legend is None else -(-len(legend.get_texts()) // int(legend._ncols))  # type: ignore[attr-defined]


def _finish(ax: Axes) -> None:
    _style(ax)
    handles = [h for h in (*ax.get_lines(), *ax.collections) if not str(h.get_label()).startswith("_child")]
    # Names come from files: a leading "_" must not hide them, nor "$" start a formula.
    labels = [drawable(h.get_label(), limit=60) for h in handles]
    # Above the axes: there is no corner that every schedule leaves free.
    legend = ax.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=_columns(labels, _room(ax)),
        borderaxespad=0.3,
        frameon=False,
        fontsize=8,
        handlelength=3.0,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def drawable(name: object, limit: int) -> str:
    """Show a name from outside on one line, in letters for which the font has a glyph; others escaped."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    known = (c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in printable(name))
    return printable("".join(known), limit=limit)


def _room(ax: Axes) -> float:
    """Letters of the legend that fit above an axes."""
    figure, place = ax.get_figure(root=True), ax.get_subplotspec()
    width = 6.4 if figure is None else float(figure.get_figwidth())
    return 13.2 * width * (1.0 if place is None else len(place.colspan) / place.get_gridspec().ncols)


def _columns(labels: list[str], room: float) -> int:
    """Most columns of a legend that fit: one row if it does, else columns as wide as the longest label."""
    if sum(len(label) + 8 for label in labels) < room:
        return max(len(labels), 1)
    return max(1, int(room / (max(map(len, labels)) + 8)))
