"""A result as text for people and as a dictionary for machines."""

from __future__ import annotations

import math
import textwrap
from typing import Any, cast

import numpy as np

from .analysis import Refinement
from .default import EXPONENT, SHAPES, Bend
from .describe import description
from .files import printable
from .norms import GradientNorms
from .smoothing import median_width

__all__ = ["summary", "to_dict", "why_no_peak"]


def to_dict(result: Refinement) -> dict[str, Any]:
    """JSON values; None is unknown, never nan."""
    norms, prior, schedule = result.norms, result.prior, result.schedule
    ratio = result.peak_lr_ratio
    return {
        "source": norms.source.name,
        "run": norms.source.run,
        "pooled_logs": norms.pool.logs if norms.pool else 1,
        "clipping": norms.source.clipping,
        "lr_alignment": norms.source.lr_alignment,
        "format": norms.source.format,
        "columns": dict(norms.source.columns),
        "rows": norms.source.rows,
        "points": int(norms.steps.size),
        "first_step": int(norms.steps[0]),
        "last_step": int(norms.steps[-1]),
        "stride": norms.stride,
        "longest_gap": norms.longest_gap,
        "dropped": dict(norms.dropped),
        "out_of_order": norms.out_of_order,
        "logged_steps": norms.total_steps,
        "norm_kind": norms.kind,
        "norm_kind_known": norms.source.kind_known,
        "optimizer": result.optimizer,
        "optimizer_source": result.optimizer_source,
        "smoothing_fraction": result.smoothing,
        "mode": result.mode,
        "decision": result.decision,
        "reason": result.reason or None,
        "progress_ratio": result.progress_ratio,
        "warmup_steps": result.warmup_steps,
        **description(schedule.multiplier),
        "gain_over_linear": _finite(result.gain_over_linear),
        "gain_over_cosine": _finite(result.gain_over_cosine),
        "prior": prior.origin if prior.multiplier is not None else None,
        "prior_warmup_steps": prior.warmup_steps,
        "prior_peak_lr": prior.peak_lr,
        "peak_lr_ratio": ratio,
        "suggested_peak_lr": prior.suggested_peak(ratio),
        "peak_lr_ratio_by_bound": result.peak_lr_ratio_by_bound,
        "suggested_peak_lr_by_bound": prior.suggested_peak(result.peak_lr_ratio_by_bound),
        "distance_lower_bound": result.distance.lower_bound if result.distance else None,
        "peak_lr_from_distance": result.distance.peak_lr if result.distance else None,
        "flags": [flag.to_dict() for flag in result.flags],
        "assumptions": list(result.assumptions),
        "warnings": list(result.warnings),
    }


def summary(result: Refinement) -> str:
    """What was decided (first line), read, assumed and found, and every flag."""
    d = to_dict(result)
    lines = [_headline(result)]

    def block(name: str, *texts: str) -> None:
        for i, text in enumerate(texts):
            first, *rest = textwrap.wrap(text, 105, drop_whitespace=True, replace_whitespace=False) or [""]
            indent = text[: len(text) - len(text.lstrip())]
            lines.append(f"{name if i == 0 else '':9} {indent}{first.lstrip()}")
            lines.extend(f"{'':11} {line}" for line in rest)

    block("read", *_read(result, d))
    block("used", _used(result))
    block("assumed", *d["assumptions"])
    block("found", *_found(result, d))
    block("guard", *_flag_table(result))
    block("warning", *(printable(w, limit=400) for w in d["warnings"]))
    return "\n".join(lines)


def _headline(result: Refinement) -> str:
    updates = f"{result.schedule.total_steps:,} updates"
    if result.fell_back:
        kind = "linear decay with warmup" if result.warmup_steps else "linear decay"
        text = f"{kind}, NOT refined, for {updates}: " + "; ".join(flag.briefly for flag in result.fell_back)
    elif result.mode == "auto":
        which = cast(Bend, result.decision)
        power = "" if which == "linear" else f", (1 - t/T)^{EXPONENT[which]:g},"
        warmup = " with warmup" if result.warmup_steps else ""
        text = f"{SHAPES[which]}{power}{warmup} for {updates}: {result.reason}"
    elif result.decision == "linear":
        text = f"linear decay for {updates}, as asked"
    else:
        overruled = any(flag.advises_linear for flag in result.flags)
        text = f"{result.mode} schedule for {updates}" + (", against the guard's advice" if overruled else "")
    if result.optimizer_source == "assumed":
        text += f"; ASSUMED optimizer {result.optimizer} (--optimizer)"
    return text


def _read(result: Refinement, d: dict[str, Any]) -> list[str]:
    norms = result.norms
    columns = ", ".join(f'{role} "{printable(name)}"' for role, name in d["columns"].items())
    every = "every step" if norms.stride == 1 else f"every {norms.stride} steps"
    gap = norms.longest_gap
    gaps = f", longest gap {gap:,} updates" if gap >= 2 * norms.stride else ""
    texts = [
        printable(norms.source.name)
        + (f', run "{printable(norms.source.run)}"' if norms.source.run else "")
        + f" ({norms.source.format})",
        f"columns: {columns}" if columns else "",
        f"{norms.steps.size:,} points, steps {norms.steps[0]:,} to {norms.steps[-1]:,} of {norms.total_steps:,}, "
        f"{every}{gaps}",
    ]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in norms.dropped.items())
    texts.append(f"dropped: {dropped}" if dropped else "dropped: nothing")
    if norms.source.clipping != "unknown" or norms.source.lr_alignment != "unknown":
        texts.append(_meaning(norms))
    if norms.pool is not None:
        middle, most = np.median(norms.pool.spread), norms.pool.spread.max()
        texts.append(
            f"pooled: median of {norms.pool.logs} logs on the fraction of training; their smoothed norms differ "
            f"by {middle:.1%} in the median, {most:.1%} at most"
        )
    if norms.out_of_order:
        texts.append(
            f"the step goes back {norms.out_of_order:,} x: sorted; where a step was logged twice, the later row is kept"
        )
    return list(filter(None, texts))


def _meaning(norms: GradientNorms) -> str:
    """What is known of clipping and learning rates."""
    known = {"pre": "norms before clipping", "post": "norms AFTER clipping"}.get(norms.source.clipping)
    rates = {"this_step": "rates as used in their step", "next_step": "rates of the next step, moved by one"}
    shown = [known, rates.get(norms.source.lr_alignment) if norms.learning_rate is not None else None]
    return "known: " + ", ".join(filter(None, shown)) if any(shown) else ""


def _used(result: Refinement) -> str:
    power = {"sgd": "N = G^2", "adam": "N = G"}[result.optimizer]
    source = {"given": "as given", "log": "from the log", "assumed": "assumed"}[result.optimizer_source]
    width = median_width(result.norms.steps.size, result.smoothing)
    edges = "right end reflected" if result.mode == "paper" else "both ends reflected"
    median = f"median of {width:,} points, {edges}"
    if result.norms.pool is not None:
        median = f"each log's median over {result.norms.pool.smoothing:g} of its points"
    return f"optimizer {result.optimizer} ({source}), so {power}; {result.norms.kind} norm; {median}"


def _found(result: Refinement, d: dict[str, Any]) -> list[str]:
    warm, steps = d["warmup_fraction"], result.schedule.total_steps
    texts = [
        (f"warmup: a line over {result.warmup_steps:,} updates; " if result.warmup_steps else "")
        + f"90 % of the peak at update {round(warm * steps):,} ({warm:.1%}), the peak at "
        f"{round(d['peak_fraction'] * steps):,} ({d['peak_fraction']:.1%})"
    ]
    if d["decay_exponent"] is not None:
        texts.append(f"anneal: like (1 - t/T)^{d['decay_exponent']:.2f}, R^2 {d['decay_r2']:.3f}")
    if d["gain_over_linear"] is not None and d["gain_over_cosine"] is not None:
        texts.append(
            f"gain in the bound: {_percent(d['gain_over_linear'])} over linear decay, "
            f"{_percent(d['gain_over_cosine'])} over cosine, same warmup (convex theory: no promise)"
        )
    texts.extend(_peak(result, d))
    texts.extend(_distance(result))
    return texts


def _distance(result: Refinement) -> list[str]:
    found = result.distance
    if found is None:
        return []
    unit = "l2" if found.norm == "l2" else "the optimizer's own norm"
    texts = [
        f"distance: at least {found.lower_bound:.3g} in {unit} from start to solution (experimental, convex theory; "
        f"{found.samples:,} samples{'' if found.loss_used else ', no losses'})"
    ]
    if found.peak_lr is None:
        return [*texts, "  no peak learning rate from it"]
    return [*texts, f"  so by the bound a peak learning rate of at least {found.peak_lr:.3g}"]


def _peak(result: Refinement, d: dict[str, Any]) -> list[str]:
    """Both rules for the peak learning rate; equal area is the default."""
    area, bound = d["peak_lr_ratio"], d["peak_lr_ratio_by_bound"]

    def becomes(key: str) -> str:
        return "" if d[key] is None else f" ({d['prior_peak_lr']:.3g} becomes {d[key]:.3g})"

    by_bound = "" if bound is None else f"{bound:.2f} times by the bound on the raw norms"
    if area is not None:
        texts = [f"peak learning rate: {area:.2f} times the old one, for equal area{becomes('suggested_peak_lr')}"]
        return texts + ([f"  {by_bound}, {bound / area:.2f} of the above, which is the safer rule"] if by_bound else [])
    texts = [f"peak learning rate: no suggestion, {why_no_peak(result)}"]
    return texts + (
        [f"  {by_bound}{becomes('suggested_peak_lr_by_bound')}: not tried on such logs"] if by_bound else []
    )


def _flag_table(result: Refinement) -> list[str]:
    titles = {
        "norms": "of the norms",
        "refined": f"of the {result.mode} schedule, before guard and warmup",
        "returned": "of the result",
    }
    rows: list[str] = []
    for flag in result.flags:
        if (flag.value is None and result.mode == "linear") or (flag.rule.refining and result.mode == "auto"):
            continue  # nothing was refined
        title = titles[flag.rule.about]
        if title not in rows:
            rows.append(title)
        state = "FELL BACK" if flag in result.fell_back else "WARN" if flag.raised else "ok"
        rows.append(f"  {flag.row(state)}")
    return rows


def _percent(gain: float) -> str:
    return f"{round(100.0 * (gain - 1.0), 1) + 0.0:+.1f}%"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def why_no_peak(result: Refinement) -> str:
    """Why no peak learning rate is suggested."""
    if result.decision == "earlier" and result.prior.multiplier is not None:
        return "no rule is trusted on norms that fall this far; the old one is what was tried with this schedule"
    if result.prior.multiplier is not None and result.peak_lr_ratio_by_bound is None:
        return "every rule fails on norms that fall this far"
    if result.prior.is_constant:
        return "equal area fails after a constant rate"
    if result.norms.learning_rate is None:
        return "the logged run has unknown rates"
    return "the logged run has known rates of a part of it only"
