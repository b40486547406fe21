"""Figures of the bench, axes-level. pyplot is never touched; colours are legible on white and on black."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from ...diagnostics import RULES
from ...errors import RefineError
from ...files import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_check", "plot_excess", "plot_pairs", "plot_ranks", "svg"]

_COLOURS = ("#2b83c6", "#d1701c", "#4c9a4a", "#a070c0", "#c84f5a")
_MARKERS = ("o", "s", "^", "D", "v")
_GREY = "#808080"


def plot_ranks(
    names: Sequence[str],
    ranks: npt.ArrayLike,
    difference: float,
    *,
    baseline: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Mean ranks, best on top, and the band in which none is told apart from the baseline.

    Parameters
    ----------
    names : sequence of str
    ranks : (k,) array_like
    difference : float
        Critical difference.
    baseline : int, optional
        Its place in ``names``; without it the band begins at the best.
    """
    ax = _axes(ax, len(names))
    values, y = np.asarray(ranks, dtype=np.float64), np.arange(len(names))
    low = values[baseline] - difference if baseline is not None else values[0]
    high = values[baseline if baseline is not None else 0] + difference
    told = "linear" if baseline is not None else "the best"
    ax.axvspan(low, high, color=_GREY, alpha=0.18, linewidth=0, label=f"not told apart from {told}")
    ax.hlines(y, values - difference / 2, values + difference / 2, color=_COLOURS[0], alpha=0.45, linewidth=1.2)
    ax.plot(values, y, "o", color=_COLOURS[0], markersize=4.5, label="mean rank; bars that do not overlap differ")
    if baseline is not None:
        ax.plot(values[baseline], baseline, "o", color=_COLOURS[1], markersize=6)
    _rows(ax, names)
    ax.set_xlim(max(0.0, values.min() - difference / 2) - 0.3, values.max() + difference / 2 + 0.3)
    ax.set_xlabel("mean rank (1 is best)")
    _legend(ax)
    return ax


def plot_excess(names: Sequence[str], excess: Sequence[npt.ArrayLike], *, ax: Axes | None = None) -> Axes:
    """Difference to linear decay of every method (rows), a dot a cell and a bar at the median.

    What diverged (inf) stands at the right edge as a cross.
    """
    ax = _axes(ax, len(names))
    columns = [np.asarray(values, dtype=np.float64) for values in excess]
    edge = _symlog(ax, np.concatenate(columns) if columns else np.zeros(0))
    for y, values in enumerate(columns):
        finite = values[np.isfinite(values)]
        spread = 0.22 * np.sin(2.4 * np.arange(finite.size))
        ax.plot(finite, y + spread, "o", color=_COLOURS[0], alpha=0.6, markersize=3, markeredgewidth=0)
        if lost := int(np.isinf(values).sum()):
            ax.plot(np.full(lost, edge), np.full(lost, y), "x", color=_COLOURS[4], markersize=5, clip_on=False)
        middle = float(np.median(values))
        if np.isfinite(middle):
            ax.vlines(middle, y - 0.36, y + 0.36, color=_COLOURS[1], linewidth=2.2)
    ax.axvline(0.0, color=_GREY, linewidth=1.0)
    _rows(ax, names)
    ax.set_xlabel("% over tuned linear decay (left is better)")
    return ax


def plot_pairs(
    cells: Sequence[str],
    methods: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Differences to linear decay of a few methods in every cell (rows), with bars of two standard errors.

    Parameters
    ----------
    cells : sequence of str
    methods : mapping of name to (mean, standard error)
        In %, one a cell; nan where a cell is missing, inf where it diverged.
    """
    ax = _axes(ax, len(cells) * 1.25)
    means = {name: np.asarray(mean, dtype=np.float64) for name, (mean, _) in methods.items()}
    errors = {name: np.nan_to_num(np.asarray(error, dtype=np.float64)) for name, (_, error) in methods.items()}
    ends = [mean + side * errors[name] for name, mean in means.items() for side in (-2.0, 2.0)]
    edge = _symlog(ax, np.concatenate(ends))
    for i, (name, mean) in enumerate(means.items()):
        error = errors[name]
        y = np.arange(len(cells)) + (i - (len(means) - 1) / 2) * 0.18
        finite = np.isfinite(mean)
        colour = _COLOURS[i % len(_COLOURS)]
        ax.hlines(y[finite], (mean - 2 * error)[finite], (mean + 2 * error)[finite], color=colour, linewidth=1.1)
        marker = _MARKERS[i % len(_MARKERS)]
        ax.plot(mean[finite], y[finite], marker, color=colour, markersize=3.5, label=printable(name, limit=60))
        if (lost := np.isinf(mean)).any():
            ax.plot(np.full(int(lost.sum()), edge), y[lost], "x", color=colour, markersize=5, clip_on=False)
    ax.axvline(0.0, color=_GREY, linewidth=1.0)
    _rows(ax, cells)
    ax.set_xlabel("% over tuned linear decay, 2 s.e. (left is better)")
    _legend(ax)
    return ax


def plot_check(name: str, groups: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]], *, ax: Axes | None = None) -> Axes:
    """A check of the log against what refinement lost to linear decay, a mark a cell; the thresholds of `RULES`.

    Parameters
    ----------
    name : str
        Of the check.
    groups : mapping of name to (values, excess)
        Excess in %; inf, where it diverged, stands at the upper edge.
    """
    ax = _axes(ax, 9)
    pairs = {
        group: (np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)) for group, (x, y) in groups.items()
    }
    edge = _symlog(ax, np.concatenate([y for _, y in pairs.values()]), axis="y")
    for i, (group, (x, y)) in enumerate(pairs.items()):
        shown = np.where(np.isposinf(y), edge, y)
        ax.plot(
            x,
            shown,
            _MARKERS[i % len(_MARKERS)],
            color=_COLOURS[i % len(_COLOURS)],
            markersize=5,
            alpha=0.85,
            label=printable(group, limit=60),
        )
    ax.axhline(0.0, color=_GREY, linewidth=1.0)
    for rule in RULES:
        if rule.name == name:
            ax.axvline(rule.threshold, color=_GREY, linewidth=1.0, linestyle="--")
    x = np.concatenate([x for x, _ in pairs.values()])
    x = x[np.isfinite(x)]
    if x.size and x.min() > 0 and x.max() > 20 * x.min():
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"{name} of the log (dashed: thresholds in use)")
    ax.set_ylabel("% over tuned linear")
    _style(ax)
    _legend(ax)
    return ax


def svg(ax: Axes, name: str) -> str:
    """Text of an SVG of the figure of some axes, the same bytes each time; its text stays text."""
    from matplotlib import rc_context

    figure = ax.get_figure(root=True)
    if figure is None:
        raise RefineError(f"the axes of {printable(name)} are in no figure; make them with one")
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _axes(ax: Axes | None, rows: float) -> Axes:
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(7.2, 1.2 + 0.24 * max(rows, 4)), layout="constrained").add_subplot()


def _symlog(ax: Axes, values: NDArray[np.float64], *, axis: Literal["x", "y"] = "x") -> float:
    """Scale an axis linearly within 1 %, by logarithm beyond; return where to put what diverged."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (-1.0, 1.0)
    low, high = min(low, -0.5), max(high, 0.5)
    lost = bool(np.isposinf(values).any())
    edge = high * 3.0 if lost else high
    from matplotlib.ticker import FuncFormatter, NullLocator

    set_scale, set_limits, own = (
        (ax.set_xscale, ax.set_xlim, ax.xaxis) if axis == "x" else (ax.set_yscale, ax.set_ylim, ax.yaxis)
    )
    set_scale("symlog", linthresh=1.0, linscale=1.0)
    set_limits(low * 1.3, edge * 1.3)
    powers = [10.0**k for k in range(0, 300, 1 + int(np.log10(max(edge, 1.0)) // 5))]
    sizes = powers if edge > 30.0 else [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
    ticks = [t for size in sizes for t in (-size, size) if low * 1.3 <= t <= high * 1.3]
    own.set_ticks(sorted({*ticks, 0.0, *([edge] if lost else [])}))
    own.set_major_formatter(FuncFormatter(lambda v, _: "diverged" if lost and v == edge else f"{v:+g}" if v else "0"))
    own.set_minor_locator(NullLocator())
    return edge


def _rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), [printable(name, limit=60) for name in names], parse_math=False)
    ax.set_ylim(len(names) - 0.4, -0.6)
    _style(ax)


def _style(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color=_GREY, alpha=0.3, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8)


def _legend(ax: Axes) -> None:
    # Above the axes: there is no corner that every figure leaves free.
    legend = ax.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderaxespad=0.3, frameon=False, fontsize=8
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
