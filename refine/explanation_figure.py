"""The chain from a log to a schedule, drawn: six panels."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from .default import EARLIER, LATER, SEPARABLE, SHAPES, Bend
from .explanation import Explanation, named_power, rho_of
from .figures import (
    _COLOURS,
    _OLD,
    _SMOOTHED,
    _broken,
    _finish,
    _log_scale,
    _style,
    _thinned,
    check_suffix,
    plot_norms,
    save_figure,
)
from .files import printable, write_files
from .prior import logged_rates
from .smoothing import median_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_WINDOW = 0.05


def draw(explanation: Explanation, to: str | os.PathLike[str] | Figure | None = None, *, force: bool = False) -> Figure:
    """Six panels: norms, learning rates, N, what decides, weights, schedules.

    Parameters
    ----------
    explanation : Explanation
        From `explain`.
    to : path or matplotlib.figure.Figure, optional
        A file to write (PNG, PDF or SVG by its suffix), or an empty figure to draw in.
    force : bool
        Replace the file if it exists.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    path = None if to is None or isinstance(to, Figure) else Path(to)
    if path is not None:
        check_suffix(path)
    figure = to if isinstance(to, Figure) else Figure(figsize=(10.0, 10.8))
    figure.set_layout_engine("constrained", h_pad=0.09)
    panels = (_draw_norms, _draw_rates, _draw_squared, _draw_balance, _draw_weights, _draw_schedules)
    for number, (panel, ax) in enumerate(zip(panels, figure.subplots(3, 2).flat, strict=True), 1):
        title = panel(explanation, ax)
        shown = ax.set_title(
            "\n".join(textwrap.wrap(f"{number}  {title}", 66)),
            loc="left",
            fontsize=9.5,
            fontweight="bold",
            pad=22.0,  # a row of the legend below
        )
        shown.set_parse_math(False)
    name = _drawable(explanation.result.norms.source.name, 100)
    heading = [name, *textwrap.wrap(explanation.headline, 115, break_on_hyphens=False)]
    figure.suptitle("\n".join(heading), fontsize=10.5).set_parse_math(False)
    if path is not None:
        write_files({path: lambda temporary: save_figure(figure, temporary)}, force=force)
    return figure


def _draw_norms(explanation: Explanation, ax: Axes) -> str:
    result = explanation.result
    plot_norms(result.norms, result.smoothed, ax=ax)
    ax.set_xlabel("update of the logged run")
    if result.norms.pool is not None:
        return f"Norms of {result.norms.pool.logs} logs, each smoothed, and their median"
    width = median_width(result.norms.steps.size, result.smoothing)
    return f"Norms, and their median over {width:,} points, ends reflected"


def _draw_rates(explanation: Explanation, ax: Axes) -> str:
    norms, prior = explanation.result.norms, explanation.result.prior
    if prior.multiplier is not None:
        at = _thinned(prior.multiplier.size)
        rates = prior.multiplier[at] * (prior.peak_lr or 1.0)
        title = f"The logged run's learning rate, from {_drawable(prior.origin, 60)}"
        ax.plot(at, rates, color=_COLOURS[0], linewidth=1.6)
    else:
        logged, rates = logged_rates(norms)
        if not rates.size:
            return _words(
                ax, "The log holds none: name the run's schedule with --prior-schedule", "Learning rate unknown"
            )
        chosen = _thinned(rates.size)
        ax.plot(*_broken(logged[chosen], rates[chosen]), color=_COLOURS[0], linewidth=1.6)
        title = "The logged learning rates cover a part of the run only"
    ax.set_xlim(0, norms.total_steps)
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel("update of the logged run")
    absolute = prior.multiplier is None or prior.peak_lr is not None
    ax.set_ylabel("learning rate" if absolute else "multiplier of the peak rate")
    _style(ax)
    return title


def _draw_squared(explanation: Explanation, ax: Axes) -> str:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    result, squared, travelled = explanation.result, explanation.squared, explanation.travelled
    chosen = _thinned(squared.size)
    if travelled is not None:
        ax.plot(travelled[chosen], squared[chosen], color=_COLOURS[0], linewidth=2.0, label="by the distance travelled")
    share = (result.norms.updates + 1) / result.norms.total_steps
    ax.plot(share[chosen], squared[chosen], color=_OLD, linestyle="--", linewidth=1.4, label="by time")
    _log_where_wide(ax, squared)
    ax.set_xlim(0.0, 1.0)
    ax.set_ylabel(f"N = {named_power(result)} of the smoothed norms")
    _finish(ax)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    if travelled is None:
        ax.set_xlabel("share of the updates")
        return "N by time; without learning rates no distance"
    ax.set_xlabel("share of the updates, or of the sum of the learning rates")
    return "N by time, and by the distance travelled"


def _draw_balance(explanation: Explanation, ax: Axes) -> str:
    balance, ratio = explanation.balance, explanation.result.progress_ratio
    if balance is None or ratio is None:
        return _words(ax, f"No ratio: {explanation.ratio_unknown}", "Progress ratio unknown: linear decay")
    width = max(1, round(_WINDOW * balance.updates.size))
    excess, noise = (uniform_filter1d(column, width, mode="nearest") for column in (balance.excess, balance.noise))
    chosen = _thinned(excess.size)
    at, above, below = balance.updates[chosen], excess[chosen], noise[chosen]
    ax.plot(
        at, np.where(above > 0.0, above, np.nan), color=_COLOURS[0], linewidth=1.8, label="2 (loss - loss at the end)"
    )
    ax.plot(at, below, color=_COLOURS[1], linewidth=1.8, label="learning rate x N")
    positive = np.concatenate([above[above > 0.0], below[below > 0.0]])
    high = float(positive.max())
    low = max(float(positive.min()), 1e-3 * high)
    _log_scale(ax, low, high)
    ax.set_ylim(0.8 * low, 1.3 * high)
    ax.set_xlim(0, explanation.result.norms.total_steps)
    ax.set_xlabel("update of the logged run")
    ax.set_ylabel(f"running mean over {width:,} points")
    _finish(ax)
    rho = rho_of(explanation.refined)
    rule = f"earlier if below {EARLIER:g}" if rho is not None and rho < SEPARABLE else f"later if above {LATER:g}"
    return f"Progress ratio {ratio:.3g}: {rule}"


def _draw_weights(explanation: Explanation, ax: Axes) -> str:
    norms, weights = explanation.result.norms, explanation.result.weights
    chosen = _thinned(weights.size)
    ax.plot(*_broken(norms.updates[chosen], weights[chosen]), color=_SMOOTHED, linewidth=1.6)
    span = float(weights.max() / weights.min())
    if not _log_where_wide(ax, weights):
        ax.set_ylim(0.0, 1.04)
    ax.set_xlim(0, norms.total_steps)
    ax.set_xlabel("update of the logged run")
    ax.set_ylabel("weight 1/N, largest 1")
    _style(ax)
    return f"The weights 1/N span a factor of {span:.3g}"


def _draw_schedules(explanation: Explanation, ax: Axes) -> str:
    result = explanation.result
    t = _thinned(result.schedule.total_steps)
    for name, schedule, colour, style, width in (
        ("returned", result.schedule, _COLOURS[0], "-", 3.0),
        ("weights 1/N, no guard", explanation.refined.schedule, _COLOURS[4], "--", 1.4),
        ("linear decay", explanation.linear, _COLOURS[6], ":", 2.0),
    ):
        marker = "o" if t.size == 1 else None
        ax.plot(t, schedule.multiplier[t], color=colour, linestyle=style, linewidth=width, marker=marker, label=name)
    ax.set_xlim(0, result.schedule.total_steps)
    ax.set_ylim(0.0, 1.04)
    ax.set_xlabel("update of the next run")
    ax.set_ylabel("multiplier of the peak rate")
    _finish(ax)
    return f"Decided: {SHAPES[cast(Bend, result.decision)]}"


def _log_where_wide(ax: Axes, values: NDArray[np.float64]) -> bool:
    """Logarithmic y where the values span more than a factor of ten."""
    known = values[np.isfinite(values) & (values > 0.0)]
    lowest, highest = float(known.min(initial=np.inf)), float(known.max(initial=0.0))
    if wide := highest > 10.0 * lowest:
        _log_scale(ax, lowest, highest)
    return wide


def _drawable(name: str, limit: int) -> str:
    """Show a name from outside in letters for which the font has a glyph."""
    return printable(name, limit=limit).encode("latin-1", "backslashreplace").decode("latin-1")


def _words(ax: Axes, text: str, title: str) -> str:
    """A panel without axes, for what is not known."""
    ax.set_axis_off()
    shown = "\n".join(textwrap.wrap(printable(text), 52, break_on_hyphens=False))
    ax.text(
        0.5, 0.5, shown, ha="center", va="center", fontsize=10, color=_COLOURS[5], transform=ax.transAxes
    ).set_parse_math(False)
    return title
