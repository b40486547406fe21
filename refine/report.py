"""A result as text for people, as a dictionary for machines, and as HTML for notebooks."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from typing import Any

import numpy as np

from .default import words
from .describe import decay_exponent, description, peak_fraction, warmup_fraction
from .diagnostics import RHO
from .files import printable
from .foretold import to_dicts, why_not
from .norms import GradientNorms
from .result import Refinement
from .schedule import Schedule
from .smoothing import median_width
from .text import aligned, beside, paragraph

__all__ = [
    "MOST_LINES",
    "advice",
    "head",
    "recommended_words",
    "refined_words",
    "remarks",
    "summary",
    "to_dict",
    "to_html",
    "why_no_peak",
]

MOST_LINES = 16
"""Of `refine fit` without ``-v``; the last of them name the files and their use."""

_INDENT = 13
_AFTERWARDS = 3
_WHOLE, _GLUE = "(1 - t/T)", "\0"
_KEPT = re.compile(r"\(1 - t/T\)|\d %|\d x\b")
_COLUMNS = (
    "bound: of its loss in theory over that of linear decay, each at its own best peak (convex theory: no promise)",
    "peak LR: over the old one, by equal area, or 1 for a hold; by bound: from the bound on the raw norms",
    "90 % at, peak at: how far into the run; power, R^2: of (1 - t/T) fitted after the peak; last: multiplier",
)
_SOURCES = {"given": "as given", "log": "from the log", "assumed": "assumed"}


def to_dict(result: Refinement) -> dict[str, Any]:
    """JSON values; None is unknown, never nan. Keys about one schedule without its name are of the recommended one."""
    norms, prior = result.norms, result.prior
    own = result.measures["recommended"]
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
        "total_steps": result.recommended.total_steps,
        "warmup_steps": result.warmup_steps,
        "schedules": [_of_schedule(name, schedule, result) for name, schedule in result.schedules.items()],
        "default": result.default,
        "refined_computed": result.computed,
        "not_recommended": [found.words for found in result.against],
        "recommended": {
            "name": result.shape,
            "k": result.choice.k,
            "hold": result.choice.hold,
            "spoke": result.choice.spoke,
            "reason": result.reason,
            "peak_advice": result.choice.peak_advice,
        },
        "worth": None if result.worth is None else result.worth.to_dict(),
        "already_ran": result.already_ran,
        "published": result.published,
        "prior": prior.origin if prior.multiplier is not None else None,
        "prior_warmup_steps": prior.warmup_steps,
        "prior_peak_lr": prior.peak_lr,
        "peak_lr_ratio": own.peak_lr_ratio,
        "suggested_peak_lr": result.peak_lr("recommended"),
        "peak_lr_ratio_by_bound": own.peak_lr_ratio_by_bound,
        "suggested_peak_lr_by_bound": prior.suggested_peak(own.peak_lr_ratio_by_bound),
        "distance_lower_bound": result.distance.lower_bound if result.distance else None,
        "peak_lr_from_distance": result.distance.peak_lr if result.distance else None,
        "predicted_loss": to_dicts(result.predicted),
        "flags": [found.to_dict() for found in result.checks],
        "assumptions": list(result.assumptions),
        "warnings": list(result.warnings),
    }


def _of_schedule(name: str, schedule: Schedule, result: Refinement) -> dict[str, Any]:
    own, prior = result.measures[name], result.prior
    return {
        "name": name,
        **description(schedule.multiplier),
        "relative_bound": own.relative_bound if math.isfinite(own.relative_bound) else None,
        "peak_lr_ratio": own.peak_lr_ratio,
        "suggested_peak_lr": result.peak_lr(name),
        "peak_lr_ratio_by_bound": own.peak_lr_ratio_by_bound,
        "suggested_peak_lr_by_bound": prior.suggested_peak(own.peak_lr_ratio_by_bound),
    }


def summary(result: Refinement, *, verbose: bool = False) -> str:
    """Both schedules, why, what was read and assumed, the peak; ``verbose``: every check and all that was found.

    Without ``verbose`` it is at most `MOST_LINES` long with what the command line writes below it: first the names of
    columns go, then numbers that ``verbose`` has, then the last of the remarks.
    """
    if verbose:
        loss = _block("loss", _loss(result) or f"not predicted: {why_not(result.norms)}")
        above = [*head(result, whole=True), *_block("read", *_read(result)), *_block("peak", _peak(result)), *loss]
        return "\n".join([*above, *_details(result)])
    room = MOST_LINES - _AFTERWARDS
    told = [_block("remark", printable(text, limit=400)) for text in _remarks(result)]
    most = sum(map(len, told))
    predicted = _loss(result)
    loss = _block("loss", predicted) if predicted else []
    above, peak = head(result), [*_block("peak", _peak(result)), *loss]
    short = [*above, *_block("read", _read_briefly(result)), *peak]
    for lines in (
        [*above, *_block("read", *_read(result)), *peak],
        [*above, *_block("read", "; ".join(_read(result))), *peak],
        short,
    ):
        if len(lines) + most <= room:
            return "\n".join([*lines, *(line for own in told for line in own)])
    terse = [
        *head(result, brief=True),
        *_block("read", _read_briefly(result)),
        *_block("peak", _peak(result, brief=True)),
    ]
    told_briefly = _block("loss", _loss(result, brief=True)) if loss else []
    if len(terse) + len(told_briefly) + most <= room:
        terse += told_briefly
    lines = terse if len(terse) + most <= room or len(short) >= room else short
    return "\n".join([*lines, *_as_many(told, room - len(lines))])


def head(result: Refinement, *, brief: bool = False, whole: bool = False) -> list[str]:
    """Both schedules and why: the first lines of all that is printed of a result."""
    refined = refined_words(result, brief=brief) + advice(result, whole=whole)
    return [
        *_block("refined" if result.computed else "NOT refined", refined),
        *_block("recommended", recommended_words(result)),
        *_block("why", printable(result.choice.reason if brief else result.reason, limit=400)),
    ]


def remarks(result: Refinement) -> list[str]:
    """Lines of all notes, those of the log's reader among them."""
    return [line for text in result.notes for line in _block("remark", printable(text, limit=400))]


def _block(title: str, *texts: str) -> list[str]:
    """Paragraphs under one title; neither a formula nor a percentage is broken."""
    lines: list[str] = []
    for text in texts:
        whole = _KEPT.sub(lambda found: found[0].replace(" ", _GLUE), text)
        lines += paragraph("" if lines else title, whole, indent=_INDENT, hanging=0)
    return [line.replace(_GLUE, " ") for line in lines]


def refined_words(result: Refinement, *, brief: bool = False) -> str:
    """What the refined schedule looks like, and its bound."""
    schedule = result.refined
    h, steps = schedule.multiplier, schedule.total_steps
    if not result.computed:
        return f"linear decay over {steps:,} updates stands in its place"
    peak, near = peak_fraction(h), warmup_fraction(h)
    if round(peak * steps) == 0:
        rise = f"falls from the first of {steps:,} updates on"
    elif round(peak * steps) <= result.warmup_steps and not result.published:
        rise = f"peaks after the warmup, {result.warmup_steps:,} of {steps:,} updates, then falls"
    else:
        rises, within = ("peaks", "") if brief else ("rises to its peak", f" (90 % of it at {_percent(near)})")
        rise = f"{rises} at {_percent(peak)} of {steps:,} updates{within}, then falls"
    anneal = decay_exponent(h)
    change = round(100.0 * (result.measures["refined"].relative_bound - 1.0), 1)
    falls = f"{'as published, ' if result.published else ''}{rise}{f' like {_WHOLE}^{anneal[0]:.2f}' if anneal else ''}"
    if brief:
        return falls
    versus = f"{abs(change):.1f} % {'below' if change < 0.0 else 'above'} that of linear decay"
    return f"{falls}; its bound in theory is {versus if change else 'that of linear decay'}"


def advice(result: Refinement, *, whole: bool = False) -> str:
    """Whether the checks advise against the refined schedule, and the first reason; ``whole``: every one."""
    if not result.against:
        return "; no check speaks against it"
    grave = [found for found in result.against if found.rule.action == "not computed"]
    first, *others = [found.words for found in grave or result.against]
    more = f"; {len(others)} more reason{'s' * (len(others) > 1)} with -v" if others else ""
    shown = "; ".join([first, *others]) if whole else f"{first}{more}"
    return f"; {'not recommended' if result.computed else 'not computed'}: {shown}"


def recommended_words(result: Refinement) -> str:
    """What the recommended schedule looks like."""
    steps = result.recommended.total_steps
    warmup = f", the first {result.warmup_steps:,} of them warmup" if result.warmup_steps > 1 else ""
    ran = ": your run already used it, nothing to change" if result.already_ran else ""
    return f"{words(result.choice, steps)}{warmup}{ran}"


def _read(result: Refinement) -> list[str]:
    norms, source = result.norms, result.norms.source
    columns = ", ".join(f'{role} "{printable(name, limit=60)}"' for role, name in source.columns.items())
    run = f', run "{printable(source.run)}"' if source.run else ""
    format = "" if source.format == source.name else f" ({source.format})"
    place = f"{printable(source.name)}{run}{format}" + (f": {columns}" if columns else "")
    gap = f", longest gap {norms.longest_gap:,} updates" if norms.longest_gap >= 2 * norms.stride else ""
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in norms.dropped.items()) or "nothing"
    back = f"; the step goes back {norms.out_of_order:,} x: sorted, later rows kept" if norms.out_of_order else ""
    texts = [
        place,
        f"{norms.steps.size:,} points, steps {norms.steps[0]:,} to {norms.steps[-1]:,} of {norms.total_steps:,}, "
        f"{norms.spacing}{gap}; dropped: {dropped}{back}",
    ]
    if norms.pool is not None:
        middle, most = np.median(norms.pool.spread), norms.pool.spread.max()
        texts.append(
            f"pooled: median of {norms.pool.logs} logs on the fraction of training; their smoothed norms differ "
            f"by {middle:.1%} in the median, {most:.1%} at most"
        )
    return [*texts, _taken(result)]


def _read_briefly(result: Refinement) -> str:
    """What matters of `_read` where there is little room: all that was assumed, gaps and losses; not the columns."""
    norms, source = result.norms, result.norms.source
    pooled = f", the median of {norms.pool.logs} logs" if norms.pool else ""
    name = source.name if norms.pool else source.name.rpartition("/")[2] or source.name
    found = [f"{printable(name)}: {norms.steps.size:,} norms of {norms.total_steps:,} updates{pooled}"]
    if norms.longest_gap >= 2 * norms.stride:
        found.append(f"longest gap {norms.longest_gap:,} updates")
    if norms.dropped:
        found.append(f"{sum(norms.dropped.values()):,} rows dropped")
    if norms.out_of_order:
        found.append("sorted by step")
    return "; ".join([*found, _taken(result)])


def _taken(result: Refinement) -> str:
    known = "" if result.optimizer_source == "assumed" else f"optimizer {result.optimizer} {_used_source(result)}; "
    return f"{known}assumed: {'; '.join(result.assumptions)}"


def _used_source(result: Refinement) -> str:
    return _SOURCES[result.optimizer_source]


def _peak(result: Refinement, *, brief: bool = False) -> str:
    """The suggested peak learning rate of both schedules, by equal area, and what the losses say of it."""
    prior = result.prior
    advised = f"; {result.choice.peak_advice}" if result.choice.peak_advice else ""
    advised = "; ".join(advised.split("; ")[:2]) if brief else advised  # without what it would gain
    if result.already_ran or result.choice.keeps_peak:
        kept = "keep the old one" + ("" if prior.peak_lr is None else f", lr={prior.peak_lr:.3g}")
        kept += "" if result.already_ran else ", for which the hold was chosen"
        other = result.peak_lr("refined") if result.computed else None
        return f"{kept}{'' if other is None else f'; with refined lr={other:.3g}'}{advised}"
    rates = []
    for name in ("recommended", "refined") if result.computed else ("recommended",):
        ratio = result.measures[name].peak_lr_ratio
        if ratio is None:
            return f"no learning rate is suggested: {why_no_peak(result)}{advised}"
        rate = result.peak_lr(name)
        times = "" if brief else f" ({ratio:.2f} x)"
        rates.append(f"{ratio:.2f} x the old with {name}" if rate is None else f"lr={rate:.3g} with {name}{times}")
    if result.computed and rates[0].replace("recommended", "refined") == rates[1]:
        rates = [f"{rates[0]} and refined"]
    old = "" if prior.peak_lr is None else f"; the old one was {prior.peak_lr:.3g}"
    why = "" if brief else ": all rates add up to the old sum"
    return f"{', '.join(rates)}{why}{old}{advised}"


def _loss(result: Refinement, *, brief: bool = False) -> str:
    """Predicted final losses at the suggested peaks; empty without losses in the log."""
    predicted = result.predicted
    if not predicted:
        return ""
    names = [n for n in ("refined", "recommended", "linear") if n != "refined" or result.computed]
    if brief:
        widest = max(predicted[name].bar for name in names)
        return f"{', '.join(f'{name} {predicted[name].final_loss:.4g}' for name in names)} (+- {widest:.2g})"
    told = ", ".join(f"{name} {predicted[name].words}" for name in names)
    return f"predicted: {told}"


def _remarks(result: Refinement) -> list[str]:
    """Raised checks that only warn, and notes."""
    return [*(found.words for found in result.checks if found.raised and found.rule.action == "warn"), *result.notes]


def _as_many(told: list[list[str]], room: int) -> list[str]:
    """The first remarks that fit in so many lines, and how many there are besides."""
    lines: list[str] = []
    for place, own in enumerate(told):
        left = len(told) - place
        if len(lines) + len(own) + (left > 1) > room:
            return [*lines, *_block("remark", f"{left}{' more' if lines else ''}: see refine fit -v")]
        lines += own
    return lines


def _details(result: Refinement) -> list[str]:
    """Everything else: what was used and found, every check, every warning."""
    return [
        *_block("used", *_used(result)),
        *_block("found", *_found(result)),
        *beside("schedules", _table(result), indent=_INDENT),
        *_block("", *_COLUMNS),
        *beside("checks", [found.row for found in result.checks], indent=_INDENT),
        *_block("", RHO),
        *_block("warning", *(printable(text, limit=400) for text in result.warnings)),
    ]


def _used(result: Refinement) -> list[str]:
    power = {"sgd": "N = G^2", "adam": "N = G"}[result.optimizer]
    norms = result.norms
    if norms.pool is not None:
        median = f"each log's median over {100 * norms.pool.smoothing:g} % of its updates, both ends reflected"
    elif result.published:
        median = f"median of {median_width(norms.steps.size, result.smoothing):,} points, right end reflected"
    else:
        median = f"median over {100 * result.smoothing:g} % of the updates, both ends reflected"
    meaning = _meaning(norms)
    optimizer = f"optimizer {result.optimizer} ({_used_source(result)}), so {power}; {norms.kind} norm; {median}"
    return [optimizer, *([meaning] if meaning else [])]


def _meaning(norms: GradientNorms) -> str:
    """What is known of clipping and learning rates."""
    known = {"pre": "norms before clipping", "post": "norms AFTER clipping"}.get(norms.source.clipping)
    rates = {"this_step": "rates as used in their step", "next_step": "rates of the next step, moved by one"}
    shown = [known, rates.get(norms.source.lr_alignment) if norms.learning_rate is not None else None]
    return "known: " + ", ".join(filter(None, shown)) if any(shown) else ""


def _found(result: Refinement) -> list[str]:
    texts = [f"{words(result.choice)}: {printable(result.choice.reason, limit=400)}"]
    if result.distance is not None:
        found = result.distance
        unit = "l2" if found.norm == "l2" else "the optimizer's own norm"
        rate = "no peak learning rate from it"
        if found.peak_lr is not None:
            rate = f"so by the bound a peak learning rate of at least {found.peak_lr:.3g}"
        texts.append(
            f"distance: at least {found.lower_bound:.3g} in {unit} from start to solution (experimental, convex "
            f"theory; {found.samples:,} samples{'' if found.loss_used else ', no losses'}); {rate}"
        )
    return texts


def _table(result: Refinement) -> list[str]:
    """A row a schedule: bound, peaks by both rules, shape."""
    titles = ("", "bound", "peak LR", "by bound", "90 % at", "peak at", "power", "R^2", "last")
    rows: list[tuple[str, ...]] = [titles]
    for name, schedule in result.schedules.items():
        d = _of_schedule(name, schedule, result)
        rows.append(
            (
                name,
                _shown(d["relative_bound"], ".4f"),
                *(_shown(d[key], ".3f", "x ") for key in ("peak_lr_ratio", "peak_lr_ratio_by_bound")),
                f"{d['warmup_fraction']:.1%}",
                f"{d['peak_fraction']:.1%}",
                _shown(d["decay_exponent"], ".2f"),
                _shown(d["decay_r2"], ".3f"),
                f"{d['last_multiplier']:.2g}",
            )
        )
    return aligned(rows)


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f} %"


def _shown(value: float | None, form: str, before: str = "") -> str:
    return "unknown" if value is None else f"{before}{value:{form}}"


def why_no_peak(result: Refinement) -> str:
    """Why no peak learning rate is suggested."""
    if result.prior.multiplier is not None and result.measures["recommended"].peak_lr_ratio_by_bound is None:
        return "every rule for it fails on norms that fall this far"
    if result.prior.is_constant:
        return "the rule for it, equal sums of rates, fails after a constant rate"
    if result.norms.learning_rate is None:
        return "the rates of the logged run are unknown (--prior-schedule, --peak-lr)"
    return "the rates are known for a part of the logged run only (--prior-schedule)"


def to_html(result: Refinement) -> str:
    """The summary and the figure, for a notebook: text from outside escaped, nothing loaded from anywhere."""
    stream = io.BytesIO()
    result.plot().savefig(stream, format="png", dpi=110)
    picture = base64.b64encode(stream.getvalue()).decode("ascii")
    return (
        f"<pre>{html.escape(result.summary())}</pre>\n"
        f'<img alt="schedules over updates, above the gradient norms" src="data:image/png;base64,{picture}">'
    )
