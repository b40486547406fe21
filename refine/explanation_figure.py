"""The chain from a log to the schedules, drawn: a panel for each step of which something is known."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
    drawable,
    legend_rows,
    plot_norms,
    plot_result,
    save_figure,
)
from .files import write_files
from .foretold import law_of
from .level_shifts import shifts_of
from .prior import logged_rates
from .worth import LIKE, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_SHOWN_KS = (0.5, 1.0, 2.0, 4.0, 10.0, 20.0)


def draw(explanation: Explanation, to: str | os.PathLike[str] | Figure | None = None, *, force: bool = False) -> Figure:
    """Norms, learning rates, N, what decides, the weights, the benchmark cases, the schedules: what is known of these.

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
    panels = [_draw_norms, _draw_squared, _draw_weights, _draw_holds, _draw_worth, _draw_schedules]
    if explanation.result.predicted:
        panels.insert(-1, _draw_losses)
    if logged_rates(explanation.result.norms)[1].size or explanation.result.prior.multiplier is not None:
        panels.insert(1, _draw_rates)
    rows = (len(panels) + 1) // 2
    figure = to if isinstance(to, Figure) else Figure(figsize=(10.0, 3.6 * rows))
    figure.set_layout_engine("constrained", h_pad=0.09)
    grid = figure.add_gridspec(rows, 2)
    for number, panel in enumerate(panels):
        # Of an odd number the last, the schedules, has a row of its own.
        alone = number == len(panels) - 1 and len(panels) % 2
        ax = figure.add_subplot(grid[number // 2, slice(None) if alone else number % 2])
        title = f"{number + 1}  {panel(explanation, ax)}"
        shown = ax.set_title(
            "\n".join(textwrap.wrap(title, 110 if alone else 50)),
            loc="left",
            fontsize=9.5,
            fontweight="bold",
            pad=8.0 + 14.0 * legend_rows(ax),
        )
        shown.set_parse_math(False)
    name = drawable(explanation.result.norms.source.name, 100)
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
    return f"Norms, and their median over {100 * result.smoothing:g} % of the updates"


def _draw_losses(explanation: Explanation, ax: Axes) -> str:
    result = explanation.result
    law = law_of(result.norms)
    assert law is not None  # there are predictions
    [points], [view] = law.fit.curves, law.fit.views
    ax.plot(points.at, points.losses, "o", color=_OLD, markersize=2.5, label="logged")
    ax.plot(points.at, law.fit.losses(view), color="black", linewidth=0.9, label="the law")
    names = ("refined", "recommended", "linear") if result.computed else ("recommended", "linear")
    for number, name in enumerate(names):
        found = law.predict(result.schedules[name], peak_lr=result.peak_lr(name), name=name)
        colour = _OLD if name == "linear" else _COLOURS[number]
        ax.plot(found.steps, found.losses, color=colour, linewidth=1.5, linestyle=("-", "--", "-.")[number], label=name)
        ax.fill_between(found.steps, found.lower, found.upper, color=colour, alpha=0.12, linewidth=0.0)
    late = points.losses[points.at >= 0.3 * points.at[-1]]
    ends = [value for found in result.predicted.values() for value in (found.low, found.high)]
    ax.set_ylim(min(*ends, float(late.min())), max(*ends, float(late.max())))
    ax.set_xlim(0, result.refined.total_steps)
    ax.set_xlabel("update")
    ax.set_ylabel(f"{law.runs[0].sort} loss")
    _finish(ax)
    return "Loss: logged, by the law, and predicted with 90 % bands"


def _draw_rates(explanation: Explanation, ax: Axes) -> str:
    norms, prior = explanation.result.norms, explanation.result.prior
    if prior.multiplier is not None:
        at = _thinned(prior.multiplier.size)
        rates = prior.multiplier[at] * (prior.peak_lr or 1.0)
        title = f"The logged run's learning rate, from {drawable(prior.origin, 60)}"
        ax.plot(at, rates, color=_COLOURS[0], linewidth=1.6)
    else:
        logged, rates = logged_rates(norms)
        chosen = _thinned(rates.size)
        ax.plot(*_broken(logged[chosen], rates[chosen]), color=_COLOURS[0], linewidth=1.6)
        title = "The logged learning rates cover a part of the run only"
    ax.set_xlim(0, norms.total_steps)
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel("update of the logged run")
    absolute = prior.multiplier is None or prior.peak_lr is not None
    ax.set_ylabel("learning rate" if absolute else "rate / peak rate")
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


def _draw_holds(explanation: Explanation, ax: Axes) -> str:
    """The predicted final loss over the k, which the ticks name by the share of the run for which the peak is held."""
    from matplotlib.ticker import FixedLocator, NullLocator

    choice, holds = explanation.result.choice, explanation.holds
    if not holds:
        ax.set_axis_off()
        text = "\n".join(textwrap.wrap(drawable(explanation.holds_unknown, 400), 48))
        ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=9.0).set_parse_math(False)
        return "How long to hold the peak: the losses do not say"
    ks = [each.k for each in holds]
    low, high = ([getattr(each, end) for each in holds] for end in ("low", "high"))
    ax.fill_between(ks, low, high, color=_COLOURS[0], alpha=0.15, linewidth=0.0, label="90 %")
    ax.plot(ks, [each.percent for each in holds], color=_COLOURS[0], linewidth=1.8, label="predicted")
    ax.axhline(0.0, color="black", linewidth=0.8)
    chosen = next(each for each in holds if each.k == choice.k)
    ax.plot([chosen.k], [chosen.percent], "D", color=_COLOURS[1], markersize=6.0, label="recommended")
    _finish(ax)
    ax.set_xscale("log")
    ax.set_xlim(ks[0], ks[-1])
    ax.xaxis.set_major_locator(FixedLocator(_SHOWN_KS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda k, _: "peak/2" if k < 1.0 else f"{100.0 * (1.0 - 1.0 / k):.0f} %")
    ax.yaxis.set_major_formatter("{x:+g} %")
    ax.set_xlabel("share of the run for which the peak is held")
    ax.set_ylabel("final loss over linear decay")
    return f"How long to hold the peak: {100.0 * choice.hold:.0f} % of the run"


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


def _draw_worth(explanation: Explanation, ax: Axes) -> str:
    """What the refined schedule lost in the benchmark, over rho; the cases like this log are marked."""
    from matplotlib.ticker import FixedLocator, NullLocator

    result = explanation.result
    rho, excess = measured(result.optimizer, changing=bool(shifts_of(result.norms)))
    own = rho_of(result)
    worst = np.nanmax(excess, where=np.isfinite(excess), initial=1.0)
    shown = np.where(np.isfinite(excess), excess, 2.0 * worst)  # a run that diverged, above all others
    like = np.zeros(rho.size, dtype=bool)
    if result.worth is not None and own is not None:
        nearest = np.argsort(np.abs(np.log(rho / own)), kind="stable")
        like[nearest[: result.worth.cases]] = True
    kinds = ((~like, _OLD, "o", "other cases"), (like, _COLOURS[0], "D", "cases most like this log"))
    for chosen, colour, marker, label in kinds:
        if chosen.any():
            ax.plot(rho[chosen], shown[chosen], marker, color=colour, markersize=4.5, alpha=0.85, label=label)
    ax.set_xscale("log")
    ax.set_yscale("symlog", linthresh=0.5)
    ax.axhline(0.0, color="black", linewidth=0.8)
    low, high = float(rho.min()), float(rho.max())
    if own is not None and np.isfinite(own) and own > 0.0:
        ax.axvspan(own / LIKE, own * LIKE, color=_COLOURS[0], alpha=0.08, linewidth=0.0)
        ax.axvline(own, color=_COLOURS[0], linewidth=1.2, linestyle="--", label=f"this log, {own:.2g}")
        low, high = min(low, own), max(high, own)
    _finish(ax)
    ax.set_xlim(low / 1.3, high * 1.3)
    ax.set_ylim(min(-1.0, 2.0 * float(shown.min())), max(10.0, 3.0 * float(shown.max())))
    decades = [at for at in (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0) if low / 1.3 <= at <= high * 1.3]
    ax.xaxis.set_major_locator(FixedLocator(decades))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_major_locator(FixedLocator([-10, -1, 0, 1, 10, 100, 1000]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:+g} %")
    ax.set_xlabel("norm at the end / norm at 5 % of the run")
    ax.set_ylabel("loss of refined over linear")
    median = "no case like this log" if result.worth is None else f"median loss {result.worth.median:+.2g} %"
    return f"What refinement was worth: {median}"


def _draw_schedules(explanation: Explanation, ax: Axes) -> str:
    plot_result(explanation.result, ax=ax)
    return f"The schedules; where none is named, {explanation.result.default} is used"


def _log_where_wide(ax: Axes, values: NDArray[np.float64]) -> bool:
    """Logarithmic y where the values span more than a factor of ten."""
    known = values[np.isfinite(values) & (values > 0.0)]
    lowest, highest = float(known.min(initial=np.inf)), float(known.max(initial=0.0))
    if wide := highest > 10.0 * lowest:
        _log_scale(ax, lowest, highest)
    return wide
