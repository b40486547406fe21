"""``trainer_state.json`` of Hugging Face transformers and of what is built on it, and the folders it lies in.

``grad_norm`` is the global l2 norm of all trainable parameters before clipping, of the last update before the row;
``loss`` is a mean over the updates since the row before. ``learning_rate`` is that of the next step before
transformers 4.51, and the one that was used since: the file does not say which, so it is found from where the rates
meet zero (`lr_alignment`). Every checkpoint holds the whole history, so the one with the most steps is read.
``training_args.bin`` is a pickle and is never opened.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RefineError
from ..files import printable
from ..norms import LrAlignment
from .base import Facts, Format, ReadOptions, Records, choose_run, planned
from .gather import Rows, number
from .json_text import parse
from .opening import Log
from .settings import beside, pick

__all__ = ["FORMAT", "lr_alignment"]

_NAME = "trainer_state.json"
_ARGUMENTS = ("args.json", "training_args.json", "training_args.yaml", "axolotl_config.yaml", "axolotl_config.yml")
_TRAIN_ROW = {"epoch", "grad_norm", "learning_rate", "loss", "step"}
_MISSING = (
    "the key grad_norm is absent: transformers logs it since 4.38, and before 5.3 only with clipping on; "
    "log the next run with max_grad_norm above 0 (1e9 never clips)"
)
_STEP = re.compile(r'"global_step"\s*:\s*(\d{1,15})')


def _read(log: Log, options: ReadOptions) -> Records:
    if not log.is_dir:
        return _read_state(log, options)
    runs: dict[str, list[Path]] = {}
    for path in log.files(_NAME):
        folder = path.parent.parent if "checkpoint" in path.parent.name else path.parent
        runs.setdefault(os.path.relpath(folder, log.path), []).append(path)
    run = choose_run(runs, options.run)
    states = [log.sibling(path) for path in sorted(runs[run], key=lambda path: len(path.parts))]
    states.sort(key=_global_step, reverse=True)
    notes: list[str] = []
    for state in states:
        try:
            records = _read_state(state, options)
        except RefineError as error:
            notes.append(f"{printable(os.path.relpath(state.path, log.path))} is passed over: {error}")
            continue
        if len(states) > 1:
            notes.append(f"{printable(os.path.relpath(state.path, log.path))} is read: it goes furthest")
        return records.known_as(records.format, notes=tuple(notes), run=run)
    raise RefineError(notes[0])


def _global_step(log: Log) -> int:
    match = _STEP.search(log.text)
    return int(match[1]) if match else 0


def _read_state(log: Log, options: ReadOptions) -> Records:
    try:
        state = parse(log.read_json_text())
    except RefineError:
        raise
    except ValueError as error:
        raise RefineError(f"the JSON is damaged ({printable(error)}); name that of another checkpoint") from None
    history = state.get("log_history") if isinstance(state, Mapping) else None
    if not isinstance(history, list):
        raise RefineError("log_history is no list of rows; name the trainer_state.json of another checkpoint")
    logged = [row for row in history if isinstance(row, Mapping)]
    rows = Rows(options)
    for row in logged:
        rows.add(row)
    total = planned(state.get("max_steps"))
    folder = log.path.parent
    folders = [folder, folder.parent] if "checkpoint" in folder.name else [folder]
    arguments = next(filter(None, (beside(place, _ARGUMENTS) for place in folders)), {})
    rows.planned_steps = total
    return rows.records(
        "Hugging Face trainer_state.json",
        Facts(norm_kind="l2", clipping="pre", lr_alignment=_alignment(logged, total), mean_loss=True),
        settings={**pick({"train_batch_size": state.get("train_batch_size")}), **arguments},
        missing=_MISSING,
    )


def _alignment(rows: Sequence[Mapping[str, Any]], total: int | None) -> LrAlignment:
    """`lr_alignment` of the train rows; where that is open, losses that only transformers 5 writes decide.

    Rows without norms, as before transformers 4.38, tell by their rates alone.
    """
    train = [row for row in rows if "grad_norm" in row]
    sound = [row for row in train if 0.0 < (number(row["grad_norm"]) or 0.0) < math.inf]
    points = [(number(row.get("step")), number(row.get("learning_rate"))) for row in (sound if train else rows)]
    found = lr_alignment([(t, rate) for t, rate in points if t is not None and rate is not None], total)
    since_5 = any(set(row) == _TRAIN_ROW and _unrounded(row["loss"]) for row in sound)
    if found == "this_step" and len(sound) < len(train) and not since_5:
        return "unknown"  # the next step's rate looks the same once fp16 overflow has held the schedule back
    return "this_step" if found == "unknown" and since_5 else found


def _unrounded(loss: Any) -> bool:
    return isinstance(loss, float) and math.isfinite(loss) and loss != round(loss, 4)


def lr_alignment(points: Sequence[tuple[float, float]], total_steps: int | None) -> LrAlignment:
    """Which step the rate in a row belongs to, from logged steps and rates, in order.

    Update t uses f(t - 1), with f(0) = 0 where there is a warmup and f(total_steps) = 0 where a decay goes to zero.
    The line through the first two rates, if they rise, meets zero at step 0 if rows hold the next step's rate and at
    step 1 if they hold their own; that through the last two, if they fall, at ``total_steps`` or one later.

    Examples
    --------
    >>> lr_alignment([(5, 0.5), (10, 1.0), (15, 1.0)], None), lr_alignment([(5, 0.4), (10, 0.9), (15, 1.0)], None)
    ('next_step', 'this_step')
    >>> lr_alignment([(5, 1.0), (10, 0.5), (15, 0.0)], 15), lr_alignment([(5, 1.0), (10, 0.6), (20, 0.1)], 20)
    ('next_step', 'unknown')
    """
    found: set[LrAlignment] = set()
    for pair, origin, sign in ((points[:2], 0, 1), (points[-2:], total_steps, -1)):
        if len(pair) == 2 and origin is not None:
            (t, rate), (later, rate_later) = pair
            rise = sign * (rate_later - rate)
            if later > t and rise > 0.0 and min(rate, rate_later) >= 0.0:
                zero = t - sign * rate * (later - t) / rise - origin
                for offset, meaning in _OFFSETS:
                    if abs(zero - offset) <= 1e-6 * later:
                        found.add(meaning)
    return found.pop() if len(found) == 1 else "unknown"


_OFFSETS: tuple[tuple[int, LrAlignment], ...] = ((0, "next_step"), (1, "this_step"))


def _is_state(log: Log) -> bool:
    if log.is_dir:
        return bool(log.files(_NAME))
    text = log.text
    return text.lstrip()[:1] == "{" and '"log_history"' in text and '"global_step"' in text


FORMAT = Format(
    "huggingface",
    get="OUTPUT/checkpoint-N/trainer_state.json, or the output folder; TRL, axolotl, LLaMA-Factory, ms-swift too",
    lost="the optimizer, unless its arguments lie beside the file as JSON or YAML; --optimizer",
    sniff=_is_state,
    read=_read,
)
