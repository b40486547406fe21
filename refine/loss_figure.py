"""The figure of `refine predict`: logged losses, predicted curves with their bands, the rates below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .figures import _COLOURS, _DASHES, _OLD, _RAW, _style, _thinned, drawable
from .loss_table import LossTable, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["apart", "plot_predictions"]

_COLOURED = 6
"""Schedules that get a colour each; of more only the best three, the reference and the worst."""

_SHOWN = 0.3
"""Share of the horizon from which on losses set the range: before, they fall too steeply."""

_LINE = 0.16
"""Inches of a label."""


def plot_predictions(table: LossTable) -> Figure:
    """Logged losses and predicted curves with 90 % bands above, the learning rates below.

    Parameters
    ----------
    table : LossTable
        From `LossLaw.compare`. A label at the end of each curve gives its final loss and bar.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    rows = table.rows
    height = max(3.4, 0.6 + _LINE * 1.15 * len(rows))
    figure = Figure(figsize=(8.6, height + 1.7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[height, 1.3])
    _logged(table, upper)
    drawn = [(row, *_look(rows, number)) for number, row in enumerate(rows)]
    for row, colour, dashes, plain in drawn:
        found = row.prediction
        width = 1.0 if plain else 1.8
        upper.plot(found.steps, found.losses, color=colour, linestyle=dashes, linewidth=width, zorder=2 if plain else 3)
        if len(rows) <= _COLOURED or row is rows[0] or row.is_reference:
            upper.fill_between(found.steps, found.lower, found.upper, color=colour, alpha=0.13, linewidth=0.0)
        t = _thinned(found.total_steps)
        lower.plot(t, found.rates[t], color=colour, linestyle=dashes, linewidth=0.8 if plain else 1.4)
    longest = max(row.prediction.total_steps for row in rows)
    low, high = _range(table, longest)
    upper.set(ylabel=f"{table.law.runs[0].sort} loss", xlim=(0, longest), ylim=(low, high))
    lower.set(xlabel="update", ylabel="rate")
    lower.set_ylim(bottom=0.0)
    lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    _end_of_log(table, (upper, lower), longest)
    _labels(upper, drawn, height, (low, high))
    for ax in (upper, lower):
        _style(ax)
    return figure


def apart(wanted: NDArray[np.float64], least: float, low: float, high: float) -> NDArray[np.float64]:
    """Places near the wanted ones, in their order, at least so far apart, within [low, high] where they fit; (n,).

    Examples
    --------
    >>> apart(np.array([1.0, 1.1, 3.0]), 0.5, 0.0, 4.0).round(3).tolist()
    [0.8, 1.3, 3.0]
    """
    order = np.argsort(wanted, kind="stable")
    groups: list[tuple[float, int]] = []  # center of a stack of labels, and how many
    for value in wanted[order]:
        center, count = float(value), 1
        while groups and center - 0.5 * least * count < groups[-1][0] + 0.5 * least * groups[-1][1]:
            before, number = groups.pop()
            center = (before * number + center * count) / (number + count)
            count += number
        groups.append((center, count))
    placed = np.concatenate([center + least * (np.arange(count) - 0.5 * (count - 1)) for center, count in groups])
    # Stacks that the limits cut are pushed in from either end.
    floor = low + least * (np.arange(placed.size) + 0.5)
    ceiling = high - least * (np.arange(placed.size)[::-1] + 0.5)
    placed = np.maximum(np.minimum(placed, ceiling), floor)
    found: NDArray[np.float64] = np.empty_like(placed)
    found[order] = placed
    return found


def _look(rows: tuple[Row, ...], number: int) -> tuple[str, object, bool]:
    """Colour, dashes, and whether it stays in the background; in grey the dashes tell."""
    if rows[number].is_reference:
        return "#1d2b3a", (0, (5, 2)), False
    coloured = [n for n, row in enumerate(rows) if not row.is_reference]
    if len(rows) > _COLOURED:
        coloured = [*coloured[:3], coloured[-1]]
    if number not in coloured:
        return "#9a9a9a", "-", True
    place = coloured.index(number)
    return _COLOURS[place % len(_COLOURS)], "-" if place == 0 else _DASHES[(place - 1) % len(_DASHES)], False


def _logged(table: LossTable, ax: Axes) -> None:
    """Losses of the logs, and the law through the points that it was fitted to."""
    law = table.law
    for run, points, view in zip(law.runs, law.fit.curves, law.fit.views, strict=True):
        t = _thinned(run.steps.size)
        many = run.steps.size > 500
        ax.plot(
            run.steps[t], run.losses[t], ".", color=_RAW, markersize=1.5 if many else 4.0, zorder=1, rasterized=many
        )
        if many:
            ax.plot(points.at, points.losses, "o", color=_OLD, markersize=2.6, zorder=2)
        ax.plot(points.at, law.fit.losses(view), color="black", linewidth=0.9, zorder=2.5)


def _range(table: LossTable, longest: int) -> tuple[float, float]:
    """Losses that are shown: those of all bands and points in the later part of the horizon, and of every end."""
    seen = []
    for row in table.rows:
        found = row.prediction
        late = found.steps >= min(_SHOWN * longest, float(found.total_steps))
        seen += [found.lower[late], found.upper[late]]
    for points in table.law.fit.curves:
        late = points.at >= min(_SHOWN * longest, float(points.at[-1]))
        seen.append(points.losses[late & (points.at <= longest)])
    values = np.concatenate(seen)
    room = 0.06 * float(np.ptp(values)) or 0.01 * float(values.max())
    return float(values.min()) - room, float(values.max()) + room


def _end_of_log(table: LossTable, axes: tuple[Axes, Axes], longest: int) -> None:
    ends = table.law.logged_steps
    if ends >= 0.98 * longest:
        return
    for ax in axes:
        ax.axvline(ends, color=_OLD, linewidth=1.0, linestyle=(0, (2, 2)), zorder=1)
    place = axes[0].get_xaxis_transform()
    axes[0].text(ends, 0.99, " the log ends", transform=place, fontsize=8, color="#5a5a5a", va="top")


def _labels(ax: Axes, drawn: list[tuple[Row, str, object, bool]], height: float, shown: tuple[float, float]) -> None:
    """Name, final loss and bar to the right of every curve's end, none over another."""
    ends = np.array([row.prediction.final_loss for row, *_ in drawn])
    low, high = shown
    least = (high - low) * _LINE * 1.05 / height
    for (row, colour, _, plain), place, end in zip(drawn, apart(ends, least, low, high), ends, strict=True):
        found = row.prediction
        text = ax.annotate(
            f"{drawable(found.name, limit=34)}  {found.final_loss:.4f} ± {found.bar:.4f}",
            xy=(found.total_steps, end),
            xytext=(1.045, place),
            textcoords=("axes fraction", "data"),
            color="#5a5a5a" if plain else colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": "#b0b0b0",
                "linewidth": 0.6,
                "shrinkA": 2.0,
                "shrinkB": 0.0,
                "relpos": (0.0, 0.5),
                "patchA": None,  # else a steep leader starts below its label, beside the next
            },
        )
        text.set_parse_math(False)
