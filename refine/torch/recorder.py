"""`GradNormRecorder`: the norms that refinement needs, of every update, without waiting for the device."""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import os
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from .. import __version__
from ..errors import RefineError, RefineWarning
from ..files import printable
from ..recorded import CLIP, GROUP, TRAVEL
from ..schedule import check_count
from .hooks import capturing, innermost
from .log_file import LogFile
from .meter import Meter, OwnNorm
from .placement import Placement
from .ring import Ring
from .sharding import all_reduce, local, processes, rank
from .sums import Sum

__all__ = ["GradNormRecorder"]

_SECONDS = 10.0
_SETTINGS = ("momentum", "dampening", "nesterov", "eps", "weight_decay", "amsgrad", "maximize")
_ROUNDING = 1e-5
_REPLACED = "replaced"
"""Column of the ring, after the sums: the sum of what was measured in calls that a later one replaces."""

_AGAIN = (
    "record() was called twice between two steps of the optimizer: the last call counts; call it once per update, "
    "after the last backward(); all is well where the loop itself skips updates"
)
_MOST_CALLS = 512
"""Rows without a step of the optimizer; after more its steps run no hooks."""


@dataclass(slots=True, eq=False)
class _Row:
    """An update: its place in the half buffer, what the host knows, and which columns of the ring were measured."""

    step: int
    place: int
    known: dict[str, float] = field(default_factory=dict)
    measured: set[str] = field(default_factory=set)
    stepped: bool = False
    cut: bool = False
    replaced: bool = False
    resumed: bool = False


class GradNormRecorder:
    r"""Record the gradient norms of a training run for ``refine fit``.

    Of every update: its number from 1, :math:`\|g\|_1` and :math:`\|g\|_2` before clipping, the learning rate, the
    loss if given, the factor by which clipping shrank the gradient before the optimizer saw it, and the optimizer's
    own squared norm where that is neither of the two: :math:`\sum_i g_i^2 / (\sqrt{v_i} + \epsilon)` for Adam's family.

    Gradients are read, never written: training is bit for bit the same. The numbers stay on the device and come to the
    host half a buffer at a time, in a copy that nobody waits for. Whatever goes wrong after construction warns once
    and ends the recording, not the run.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its parameters are recorded, groups that are added later too; those without a gradient count as 0.
    path : path-like
        ``.jsonl`` or ``.csv``. The log of another run is refused, unless ``step`` says that this one goes on with it;
        so is one that is being written.
    step : int, optional
        Updates done before, where a run is resumed. Its rows are appended, and supersede those of the same updates.
    total_steps : int, optional
        Updates that the run is planned for, which the log then tells.
    scaler : torch.amp.GradScaler, optional
        Where the loss is scaled: norms are of the unscaled gradient, skipped updates are marked.
    per_group : bool
        Also the norms of every param group, called by its ``"name"`` or its index (``refine fit --per-group``).
    own_norm : {"state", "direction", "none"}
        The optimizer's own squared norm: from the second moments of Adam, RMSprop, Adagrad and their relatives; or
        :math:`\langle g_t, x_t - x_{t+1} \rangle / \eta_t` of any optimizer, weight decay included, for one copy of the
        parameters; or none.
    distance_every : int, optional
        In one of so many updates :math:`\|x_t - x_1\|`, :math:`\langle g_t, x_1 - x_t \rangle` and the norm of the sum
        of their :math:`\eta_t g_t`, from which ``refine fit`` estimates the initial distance. It takes two copies of
        the parameters and some ten passes over them. A resumed run has lost x_1 and logs none.
    process_group : torch.distributed.ProcessGroup, optional
        Processes that hold different parts of the model in plain tensors (pipeline stages, FSDP1). DTensors (FSDP2,
        tensor parallel) tell by themselves, and with DDP process 0 has everything.
    buffer_steps : int
        What a killed process loses at most. Rows are also written every 10 s, unless processes have to agree on when.

    Raises
    ------
    RefineError
        Arguments that cannot be meant, another suffix, a file that is no log of a recorder, the log of another run, a
        second writer. A path that cannot be written warns, and so does a log whose first lines are damaged: nothing is
        recorded, and the file is left as it is.

    Notes
    -----
    Process 0 writes. Where parameters are split over processes, each of them must call `record`, and `close`; one
    all-reduce per half buffer adds up their parts. In a CUDA graph nothing can be recorded: call `record` after its
    replay. Complex gradients count as pairs of real ones.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.SGD([weight], lr=0.5)
    >>> path = Path(tempfile.mkdtemp(), "run.csv")
    >>> with GradNormRecorder(optimizer, path) as recorder:
    ...     for _ in range(2):
    ...         optimizer.zero_grad()
    ...         loss = (weight * torch.tensor([3.0, -4.0])).sum()
    ...         loss.backward()
    ...         recorder.record(loss=loss)  # after backward, before clipping
    ...         optimizer.step()
    >>> print(path.read_text().partition("\n")[2])
    step,grad_norm_l1,grad_norm_l2,grad_norm_dual,clip_coefficient,lr,loss,skipped,resumed
    1,7,5,,1,0.5,-1,,
    2,7,5,,1,0.5,-13.5,,
    <BLANKLINE>
    """

    def __init__(
        self,
        optimizer: Optimizer,
        path: str | os.PathLike[str],
        *,
        step: int | None = None,
        total_steps: int | None = None,
        scaler: torch.amp.GradScaler | None = None,
        per_group: bool = False,
        own_norm: OwnNorm = "state",
        distance_every: int | None = None,
        process_group: Any = None,
        buffer_steps: int = 128,
    ) -> None:
        optimizer = innermost(optimizer)
        if not isinstance(optimizer, Optimizer):
            raise RefineError(f"optimizer is a {type(optimizer).__name__}; it must be a torch.optim.Optimizer")
        if scaler is not None and not hasattr(scaler, "is_enabled"):
            raise RefineError(f"scaler is a {type(scaler).__name__}; it must be a torch.amp.GradScaler")
        if own_norm not in ("state", "direction", "none"):
            raise RefineError(f"own_norm is {own_norm!r}; it must be one of state, direction, none")
        self._optimizer = optimizer
        self._step = 0 if step is None else check_count("step", step, least=0)
        self._planned = None if total_steps is None else check_count("total_steps", total_steps, least=1)
        self._every = None if distance_every is None else check_count("distance_every", distance_every, least=1)
        self._half = max(1, check_count("buffer_steps", buffer_steps, least=1) // 2)
        self._scaled = scaler is not None and scaler.is_enabled()
        self._per_group = per_group
        stages = 1 if process_group is None else torch.distributed.get_world_size(process_group)
        self._meter = Meter(optimizer, scaler=scaler, per_group=per_group, own_norm=own_norm, stages=stages)
        self._parts: list[str] = []
        self._columns: dict[str, int] = {}
        self._ring: Ring | None = None
        self._split = False
        self._rows: list[_Row] = []
        self._sent: list[_Row] = []
        self._open: _Row | None = None
        self._resumed = step is not None
        self._started_at = self._step
        self._sees_steps = self._captured = self._broken = self._closed = False
        self._told: set[str] = set()
        self._lost = False  # what is sent together with other processes failed
        self._clipping = "pre"
        self._reevaluates = isinstance(optimizer, torch.optim.LBFGS)  # several gradients in a step
        foreign = not type(optimizer).__module__.startswith("torch.")
        self._placement = Placement(rewritten=foreign or self._reevaluates)
        self._flushed = time.monotonic()
        self._file: LogFile | None = None
        if rank() == 0 and not _imported_by_worker():
            try:
                self._file = LogFile(path, append=step is not None)
            except RefineError:
                raise
            except (OSError, ValueError) as error:  # such as a path that holds a NUL
                _warn(f"cannot write {printable(path)}: {getattr(error, 'strerror', error)}", stacklevel=3)
        inner = getattr(optimizer, "optim", None)  # of ZeRO, which has no state of its own
        self._inner = inner if isinstance(inner, Optimizer) else optimizer
        self._no_state = own_norm == "state" and self._inner is not optimizer and "eps" in self._inner.defaults
        if self._file is not None and self._file.header:
            self._check_resumed(self._file)
        self._hooks = [optimizer.register_step_post_hook(self._after_step)]
        self._at_exit = _closing(weakref.ref(self))
        atexit.register(self._at_exit)

    def _check_resumed(self, file: LogFile) -> None:
        """Look whether the log is one of the same run."""
        before, mine = file.header.get("optimizer"), type(self._inner).__name__
        if before is None:
            file.close()
            self._file = None
            lack = "its header names no optimizer: the file is damaged; move it away, or name another one"
            _warn(f"cannot write {printable(file.path)}: {lack}", stacklevel=4)
            return
        if before != mine:
            file.close()
            raise RefineError(
                f"{printable(file.path)} is the log of {printable(before)}, this run has {mine}; name another file"
            )
        if self._step == 0:
            warnings.warn(
                f"{printable(file.path)} holds the log of an earlier run, which this one supersedes from update 1 on",
                RefineWarning,
                stacklevel=3,
            )

    @property
    def step(self) -> int:
        """Updates recorded so far, with those before a resume."""
        return self._step

    def attach(self) -> GradNormRecorder:
        """Record whenever the optimizer steps, without calls of `record`, and so without losses.

        The optimizer gets its gradients after clipping: those are then the norms.
        """
        if len(self._hooks) == 1:
            self._clipping = "unknown"
            self._hooks.append(self._optimizer.register_step_pre_hook(self._before_step))
        return self

    def record(self, loss: Tensor | float | None = None) -> None:
        """Measure the present gradients: once per update, after ``backward`` and before clipping.

        Parameters
        ----------
        loss : Tensor or float, optional
            Of this update, one number. A tensor stays where it is. Anything else is left out, with a warning.
        """
        if len(self._hooks) > 1:
            raise RefineError("this recorder is attached to its optimizer and records by itself; call attach or record")
        self._update(loss)

    def flush(self) -> None:
        """Write what is in the buffer; where parameters are split, in all processes."""
        if self._open is not None:
            self._open.cut = True
        try:
            self._send()
            self._write(wait=True)
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Write what is left and let go of file and optimizer; where parameters are split, in all processes."""
        self._close(complete=True)

    def __enter__(self) -> GradNormRecorder:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._close(complete=error is None)

    def __del__(self) -> None:
        if hasattr(self, "_at_exit"):
            self._close(complete=False)

    def _before_step(self, _: Optimizer, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if options.get("closure", arguments[1] if len(arguments) > 1 else None) is not None:
            self._fail(RefineError("step(closure) makes its own gradients; call record() in the closure, not attach()"))
        self._update(None)

    def _update(self, loss: Tensor | float | None) -> None:
        if torch.compiler.is_compiling():
            _untraced(self._begin, loss)
        else:
            self._begin(loss)

    def _after_step(self, *_: object) -> None:
        if torch.compiler.is_compiling():
            _untraced(self._complete)
        else:
            self._complete()

    def _begin(self, loss: Tensor | float | None) -> None:
        """Begin the row of an update."""
        if self._closed or self._lost or capturing():
            return
        # Unless a scaler skips it, every update is a step: a second call before it replaces the first.
        again = self._open if self._sees_steps and not self._may_skip else None
        self._step += again is None
        try:
            self._plan()
            if not self._idle:
                slow = self._rows and not self._split and _since(self._flushed) > _SECONDS
                if again is None and (slow or self._place >= self._half):
                    self._send()
                self._write(wait=False)
        except Exception as error:
            self._fail(error)
        # In every process and whatever went wrong, so that all of them send together.
        row = self._open = again or _Row(self._step, self._place, resumed=self._resumed)
        if self._idle:
            return
        if again is None:
            self._rows.append(row)
        self._resumed = False

        def measure() -> None:
            if again is not None:
                row.known.clear()
                row.measured.clear()
                self._replace(slice(row.place, row.place + 1), row)
            due = self._every is not None and (self._step - self._started_at - 1) % self._every == 0
            self._note(row, loss)
            found = self._meter.before_step(self._putter(row), sample=due and self._started_at == 0)
            if not (found or self._split):
                self._tell("no parameter has a gradient: call record() after backward() and before zero_grad()")

        self._measure(row, measure)

    def _complete(self) -> None:
        """Complete the row with what the optimizer saw and made of it."""
        if capturing():
            self._sees_steps, self._captured = False, True  # its replays run no hook
            return
        row, self._open = self._open, None
        first = not (self._sees_steps or self._captured or self._may_skip)
        if first and row is not None and self._step - self._started_at > _MOST_CALLS:
            self._captured = True
        self._sees_steps = not self._captured
        if row is None or self._closed:
            return
        row.stepped = True
        earlier = self._join(row) if first and self._sees_steps else 0
        if self._idle:
            return

        def measure() -> None:
            if earlier:
                self._replace(slice(earlier), row)
            self._meter.after_step(self._putter(row), clipped=self._clipping == "pre")

        self._measure(row, measure)

    def _join(self, row: _Row) -> int:
        """Make one row of the first update of all calls before its step; returns how many are replaced in the ring."""
        if row.step == self._started_at + 1:
            return 0
        earlier = self._rows[:-1]
        # A row that was sent already is taken back as a resumed run takes back the updates that it does again.
        row.resumed = earlier[0].resumed if earlier and earlier[0].step == self._started_at + 1 else True
        row.step = self._step = self._started_at + 1
        self._rows = self._rows[-1:]
        return len(earlier)

    def _replace(self, rows: slice, by: _Row) -> None:
        """Let the last of several calls count."""
        by.replaced = True
        if self._ring is not None:
            self._ring.replace(rows, by.place, self._columns[_REPLACED])

    @property
    def _idle(self) -> bool:
        """Whether there is nothing to write to, nor another process that waits for this one."""
        return not self._split and (self._file is None or self._broken)

    @property
    def _place(self) -> int:
        """Of the next row in the half buffer."""
        return self._rows[-1].place + 1 if self._rows else 0

    @property
    def _may_skip(self) -> bool:
        """Whether an update may make no step: not of a fused optimizer, which the scaler calls all the same."""
        return self._scaled and not getattr(self._optimizer, "_step_supports_amp_scaling", False)

    def _measure(self, row: _Row, work: Callable[[], None]) -> None:
        """Measure; where that fails leave nothing of the row, nor of its sum over processes."""
        self._meter.settled = False
        try:
            if not self._broken:
                with np.errstate(all="ignore"), torch.no_grad():
                    work()
                return
        except Exception as error:
            self._fail(error)
        with contextlib.suppress(Exception):
            if self._split and not self._meter.settled:
                self._meter.settle()
            if self._ring is not None:
                self._ring.spoil(row.place)

    def _plan(self) -> None:
        """Lay out the columns, at first and where groups were added: sums over processes before the others."""
        parts = self._meter.parts
        if parts == self._parts:
            return
        if self._ring is not None:
            self._send()
            self._write(wait=True)
        self._parts, self._split = parts, self._meter.find_split()
        sums = self._sums
        columns = [*sums, "loss", *(f"lr{part}" for part in parts)]
        self._columns = {name: i for i, name in enumerate(columns)}
        if self._split or self._file is not None:
            self._ring = Ring(self._half, len(columns), len(sums) if self._split else 0, self._meter.device)

    @property
    def _sums(self) -> list[str]:
        """Columns of the ring that are added up over processes."""
        return [*self._meter.sums, _REPLACED]

    def _note(self, row: _Row, loss: Tensor | float | None) -> None:
        """Loss and learning rates: on the host where they are there, else with the sums."""
        for part, group in zip(self._parts, self._optimizer.param_groups, strict=False):
            self._note_one(row, f"lr{part}", group["lr"])
        try:
            if loss is not None:
                self._note_one(row, "loss", local(loss))
        except Exception:
            kind = printable(type(loss).__name__)
            self._tell(f"a loss of type {kind} is not recorded; give one real number, such as its mean")

    def _note_one(self, row: _Row, name: str, value: Any) -> None:
        is_tensor = isinstance(value, Tensor)
        odd = value.numel() != 1 or value.is_complex() if is_tensor else np.iscomplexobj(value)
        if odd or isinstance(value, (str, bytes)):
            raise RefineError(f"{name} must be one number")
        if is_tensor and value.device.type != "cpu":
            self._putter(row)(name, value.reshape(()))
        else:
            row.known[name] = float(value)

    def _putter(self, row: _Row) -> Callable[[str, Sum], None]:
        ring, columns = self._ring, self._columns

        def put(name: str, value: Sum) -> None:
            if ring is not None:
                ring.put(row.place, columns[name], value)
                row.measured.add(name)

        return put

    def _send(self) -> None:
        """Send the buffer to the host, after what was sent before it has arrived."""
        self._write(wait=True)
        rows, self._rows, self._open, self._flushed = self._rows, [], None, time.monotonic()
        if not rows or self._lost:
            return
        try:
            if self._ring is not None:
                self._ring.send()
                self._sent = rows
            elif self._split:  # it could not be made here; the others wait for this one all the same
                all_reduce(torch.full((self._half, len(self._sums)), math.nan, device=self._meter.device))
        except Exception:
            self._lost = True
            raise

    def _write(self, *, wait: bool) -> None:
        """Write what has arrived."""
        values = self._ring.arrived(wait=wait) if self._ring is not None and self._sent else None
        if values is None:
            return
        rows, self._sent = self._sent, []
        if self._file is not None:
            try:
                lost = self._file.append([self._line(row, values[row.place]) for row in rows], self._header())
                if lost:
                    self._tell(
                        f"{printable(self._file.path)} has no column for {printable(lost)}: a .jsonl takes new ones"
                    )
            except OSError as error:
                _warn(f"cannot write {printable(self._file.path)}: {error.strerror}")
                self._file.close()
                self._file = None
        self._tell(self._placement.clipped())

    def _line(self, row: _Row, values: NDArray[np.float64]) -> dict[str, float]:
        """A row of the log; nan where there is nothing."""

        def found(name: str) -> float:
            return float(values[self._columns[name]]) if name in self._columns else math.nan

        def known(name: str) -> float:
            return row.known.get(name, found(name) if name in row.measured else math.nan)

        l1, square, own = ({p: found(f"{sort}{p}") for p in self._parts} for sort in ("l1", "square", "own"))
        whole = sum(square.values())
        after = found("after") if self._clipping == "pre" else whole  # attached it sees the same
        factor = _factor(after, whole) if row.stepped else math.nan
        complete = all(own[p] or not l1[p] for p in self._parts)
        self._check_scale(factor)
        # A fused step is called by the scaler even where it does nothing.
        seen = self._sees_steps and not getattr(self._optimizer, "_step_supports_amp_scaling", False)
        finite = math.isfinite(whole)
        skipped = not (row.stepped or (row.cut and finite)) if seen else self._scaled and not finite
        # What is not finite is skipped, by a scaler or by the loop itself.
        again = (skipped and finite) or (row.replaced and math.isfinite(found(_REPLACED)))
        self._tell(_AGAIN if again and not self._reevaluates else "")
        if self._no_state and row.stepped and not any(own.values()):
            self._tell(
                f"{type(self._optimizer).__name__} has in each process the state of some parameters only: the own norm "
                f'of {type(self._inner).__name__} is not recorded; own_norm="direction" measures it'
            )
        if self._clipping == "pre" and any(f"l1{p}" in row.measured for p in self._parts):
            self._tell(self._placement.compare(whole, after if row.stepped else math.nan))
        line = {
            "step": row.step,
            "grad_norm_l1": sum(l1.values()),
            "grad_norm_l2": whole**0.5,
            "grad_norm_dual": (sum(own.values()) or math.nan) / factor if complete else math.nan,
            CLIP: factor,
            "lr": known(f"lr{self._parts[0]}"),
            "loss": known("loss"),
            "skipped": 1 if skipped else math.nan,
            "resumed": 1 if row.resumed else math.nan,
        }
        if self._every is not None:
            line |= dict.fromkeys(TRAVEL, math.nan)
        if found("sum"):
            travel = found("distance") ** 0.5, found("dot"), found("sum") ** 0.5
            line |= dict(zip(TRAVEL, travel, strict=True))
        for p in self._parts if self._per_group else ():
            line |= {f"grad_norm_l1{p}": l1[p], f"grad_norm_l2{p}": square[p] ** 0.5}
            line |= {f"grad_norm_dual{p}": (own[p] or math.nan) / factor, f"lr{p}": known(f"lr{p}")}
        return line

    def _check_scale(self, factor: float) -> None:
        """Tell of a loss scaler that the recorder was not given: the gradient shrinks by a power of two."""
        mantissa, exponent = math.frexp(factor)
        if not self._scaled and exponent < -2 and abs(mantissa - 0.5) < _ROUNDING:
            self._scaled = True
            self._tell(
                f"the gradient shrinks {2 ** (1 - exponent):,}-fold between record() and the step: the loss is scaled, "
                "and so are the recorded norms; give scaler=... to GradNormRecorder"
            )

    def _tell(self, text: str) -> None:
        """Warn once of each thing; of nothing where the text is empty."""
        if text and text not in self._told:
            self._told.add(text)
            warnings.warn(text, RefineWarning, stacklevel=2)

    def _header(self) -> dict[str, Any]:
        """What holds for the whole run."""
        groups = self._optimizer.param_groups
        settings = {name: groups[0][name] for name in _SETTINGS if isinstance(groups[0].get(name), (bool, int, float))}
        betas = groups[0].get("betas")
        if isinstance(betas, (tuple, list)):
            settings |= {f"beta{i}": float(beta) for i, beta in enumerate(betas, 1)}
        return {
            "generator": f"refine {__version__}",
            "optimizer": type(self._inner).__name__,
            "clipping": self._clipping,
            "planned_steps": self._planned,
            "processes": processes(),
            "settings": settings,
            **({"groups": [part.removeprefix(GROUP) for part in self._parts]} if self._per_group else {}),
        }

    def _fail(self, error: Exception) -> None:
        """Turn whatever goes wrong into one warning and the end of the recording."""
        if not self._broken:
            self._broken = True
            self._meter.forget()
            _warn(f"{type(error).__name__} at update {self._step}: {printable(error)}")

    def _close(self, *, complete: bool) -> None:
        """End the recording; without ``complete`` nothing that other processes would have to join in."""
        if self._closed:
            return
        if self._open is not None:
            self._open.cut = True
        try:
            if self._file is None or not self._file.inherited:  # else the rows are copies of a parent's
                if complete or not self._split:
                    self._send()
                self._write(wait=True)
        except Exception as error:
            self._fail(error)
        self._closed = True
        self._ring, self._rows, self._sent, self._open = None, [], [], None
        self._meter.forget()
        atexit.unregister(self._at_exit)
        for hook in self._hooks:
            hook.remove()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


def _factor(after: float, before: float) -> float:
    """By what the gradient shrank before the step, 1 if by nothing but rounding; nan where unknown."""
    if not (before > 0.0 and math.isfinite(before) and after > 0.0 and math.isfinite(after)):
        return math.nan
    factor = (after / before) ** 0.5
    return 1.0 if abs(factor - 1.0) < _ROUNDING else factor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _untraced(call: Callable[..., None], *arguments: Any) -> None:
    """What torch.compile leaves as it is."""
    call(*arguments)


def _imported_by_worker() -> bool:
    """Whether a process that was spawned is importing the script, as it does before it gets its work."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def _since(moment: float) -> float:
    return time.monotonic() - moment


def _closing(recorder: weakref.ref[GradNormRecorder]) -> Callable[[], None]:
    """What to do at the end of the process, without keeping a recorder alive."""

    def close() -> None:
        found = recorder()
        if found is not None:
            found._close(complete=False)

    return close


def _warn(text: str, stacklevel: int = 2) -> None:
    text = f"gradient norms are not recorded any more, the run goes on: {text}"
    warnings.warn(text, RefineWarning, stacklevel=stacklevel)
