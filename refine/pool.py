"""Several logs of one configuration (seeds) as one: the median of their smoothed norms, and the spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .errors import RefineError
from .files import printable
from .norms import GradientNorms, Pool

__all__ = ["MOST_APART", "pool"]

MOST_APART = 10.0
"""Smoothed norms of seeds differ by some per cent; by more than this, highest over lowest, they are no seeds."""


def pool(logs: Sequence[GradientNorms], *, smoothing: float = 0.1) -> GradientNorms:
    """Pool logs of one configuration on the fraction of training.

    Each log is smoothed at its own points by the running median (both ends reflected) and interpolated
    linearly at the points of the one that has most; the pooled norm is the median over the logs. Learning
    rates and losses are pooled likewise, unsmoothed, where all logs have them.

    Parameters
    ----------
    logs : sequence of GradientNorms
        Of one norm kind; run lengths may differ.
    smoothing : float
        Window of the running median, as a fraction of a log's points.

    Returns
    -------
    GradientNorms
        Smoothed already: refine it with ``smoothing=0``.

    Examples
    --------
    >>> logs = [GradientNorms.from_values([level] * 4) for level in (1.0, 2.0, 9.0)]
    >>> pooled = pool(logs)
    >>> pooled.values.tolist(), pooled.pool.lowest.tolist(), pooled.pool.logs
    ([2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0], 3)
    """
    if not logs:
        raise RefineError("no logs to pool; give at least one")
    kinds = {norms.kind for norms in logs}
    if len(kinds) > 1:
        listed = ", ".join(f"{printable(norms.source.name)} ({norms.kind})" for norms in logs)
        raise RefineError(f"the logs hold norms of different kinds: {listed}; choose one with --norm-kind")
    base = max(logs, key=lambda norms: norms.steps.size)
    at = _fraction(base)

    def pooled(columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        rows = []
        for norms, column in zip(logs, columns, strict=True):
            known = np.isfinite(column)
            rows.append(np.interp(at, _fraction(norms)[known], column[known]))
        return np.array(rows)

    norms = pooled([log.smoothed(smoothing) for log in logs])
    rates, losses = ([getattr(log, name) for log in logs] for name in ("learning_rate", "loss"))
    notes = [f"{printable(log.source.name)}: {note}" for log in logs for note in log.source.notes]
    lengths = sorted({log.total_steps for log in logs})
    if len(lengths) > 1:
        notes.append(f"the logged runs have {lengths[0]} to {lengths[-1]} updates: pooled at the fraction of training")
    families = sorted({log.source.optimizer for log in logs if log.source.optimizer is not None})
    if len(families) > 1:
        raise RefineError(
            f"the logs name optimizers of different families, {' and '.join(families)}: logs of one "
            "configuration do not; fit them one by one with --each"
        )
    peaks = sorted({float(f"{np.nanmax(rate):.3g}") for rate in rates if rate is not None})
    if len(peaks) > 1:
        notes.append(
            f"the logged peak rates differ ({', '.join(f'{peak:g}' for peak in peaks)}): "
            "pool logs of one configuration, or fit them with --each"
        )
    clipping = {log.source.clipping for log in logs}
    alignment = {log.source.lr_alignment for log in logs}
    if len(clipping) > 1 or len(alignment) > 1:
        notes.append("the logs do not agree on clipping, or on whose step a rate is: taken as unknown")
    with np.errstate(over="ignore"):
        apart = float(np.median(norms.max(axis=0) / norms.min(axis=0)))
    if apart > MOST_APART:
        raise RefineError(
            f"the smoothed norms differ {apart:,.0f}-fold: logs of one configuration do not; "
            "fit them one by one with --each"
        )
    reasons = {reason: 0 for log in logs for reason in log.dropped}
    return replace(
        base,
        values=np.median(norms, axis=0),
        learning_rate=None if any(r is None for r in rates) else np.median(pooled(rates), axis=0),
        loss=None if any(c is None for c in losses) else np.median(pooled(losses), axis=0),
        dropped={reason: sum(log.dropped.get(reason, 0) for log in logs) for reason in reasons},
        out_of_order=sum(log.out_of_order for log in logs),
        source=replace(
            base.source,
            name=", ".join(log.source.name for log in logs),
            rows=sum(log.source.rows for log in logs),
            kind_known=all(log.source.kind_known for log in logs),
            optimizer=families[0] if families else None,
            notes=tuple(notes),
            clipping=clipping.pop() if len(clipping) == 1 else "unknown",
            lr_alignment=alignment.pop() if len(alignment) == 1 else "unknown",
            window_mean=any(log.source.window_mean for log in logs),
            settings={},
        ),
        extras={},
        dropped_at={},
        rates=None,
        l1=None,
        batch_size=None,
        pool=Pool(len(logs), smoothing, norms.min(axis=0), norms.max(axis=0)),
    )


def _fraction(norms: GradientNorms) -> NDArray[np.float64]:
    """Where the points stand in training, in (0, 1)."""
    fraction: NDArray[np.float64] = (norms.updates + 0.5) / norms.total_steps
    return fraction
