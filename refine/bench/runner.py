"""Training what a suite still needs, in parallel through joblib, and keeping each result as soon as it is there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RefineError
from ..parallel import parallel
from .methods import Fitted
from .noise import STEADY
from .outcome import Outcome
from .packages import PACKAGES, train_package
from .plan import Cell
from .problems import Optimizer, Problem, Scale
from .store import Run, Store
from .suites import SUITES, Suite

__all__ = ["cells", "run_suite"]

DEFINITION = 1
"""Raised whenever a change makes a run another one than before: earlier stores are then refused."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Runs that are trained together, by one process: every seed with as many arms; one run where it is a package's."""

    problem: Problem
    optimizer: Optimizer
    scale: Scale
    seeds: tuple[int, ...]
    runs: tuple[tuple[Run, ...], ...]
    multipliers: Mapping[tuple[str, str], NDArray[np.float64]]

    @property
    def size(self) -> int:
        """Number of runs."""
        return sum(map(len, self.runs))


Progress = Callable[[int, int, int], None]
"""Called with the round, the runs that are done in it and how many it has."""


def run_suite(
    name: str,
    store_path: str | os.PathLike[str],
    *,
    scale: Scale | None = None,
    only: Sequence[str] = (),
    engine: str = "local",
    address: str | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Train whatever a suite still needs and keep it in a store.

    Interrupted, it goes on where it stopped: a batch of runs enters the store as a whole as soon as it is done.

    Parameters
    ----------
    name : str
        Of `refine.bench.suites.SUITES`.
    store_path : path-like
    scale : {"smoke", "cpu", "gpu"}, optional
        Sizes and lengths; by default those of the suite.
    only : sequence of str
        Problems; by default all.
    engine, address, jobs
        As in `refine.parallel.parallel`. The workers of a cluster need this package with its extra ``bench``, and the
        data in their own caches or a network to fetch it.
    progress : callable, optional

    Returns
    -------
    dict
        Problems that were skipped, and why.
    """
    _need()
    suite = SUITES[name]
    scale = scale or suite.scale
    if scale == "gpu" and engine == "local":
        jobs = jobs or 1  # one network fills the device
    problems, skipped = _available(suite, only)
    with parallel(engine, address, jobs), Store(store_path, _identity(name, scale)) as store:
        for problem in problems:
            store.agree(**{f"problem {problem.name}": _definition(problem, scale)})
        earlier = json.loads(store.meta.get("skipped", "{}"))
        fine = {problem.name for problem in problems}
        store.note(skipped=json.dumps({k: v for k, v in (earlier | skipped).items() if k not in fine}))
        store.note(**_machine(scale, store.meta))
        todo: list[tuple[Problem, Optimizer, dict[tuple[str, str], Fitted]]] = [
            (problem, optimizer, {}) for problem in problems for optimizer in problem.optimizers
        ]
        count, started = 0, time.perf_counter()
        while found := [(parts, cell) for parts in todo if (cell := _cell(store, suite, scale, *parts)).missing]:
            todo = [parts for parts, _ in found]
            batches = [batch for _, cell in found for batch in _batches(cell, scale)]
            # The longest first, so that no process is left alone with one.
            batches.sort(key=lambda batch: batch.size * batch.problem.steps[scale], reverse=True)
            count += 1
            total, done = sum(batch.size for batch in batches), 0
            for outcomes in _trained(batches):
                store.add(outcomes)
                spent = float(store.meta.get("wall_seconds", "0")) + time.perf_counter() - started
                started = time.perf_counter()
                store.note(finished=datetime.now(timezone.utc).strftime("%Y-%m-%d"), wall_seconds=f"{spent:.2f}")
                done += len(outcomes)
                if progress is not None:
                    progress(count, done, total)
    return skipped


def _need() -> None:
    """Refuse early, by name, where the extra is not installed."""
    for package in ("torch", "joblib"):
        if importlib.util.find_spec(package) is None:
            raise RefineError(f"refine bench needs {package}, which is not installed: pip install {package}")


def _trained(batches: Sequence[Batch]) -> Iterator[list[tuple[Run, Outcome]]]:
    """Train all, and give each as soon as it is done; a backend that cannot do that gives them a few at a time."""
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    backend, jobs = joblib.parallel.get_active_backend()
    tasks = [joblib.delayed(train_batch)(batch) for batch in batches]
    try:
        if backend.supports_return_generator:
            yield from joblib.Parallel(return_as="generator_unordered")(tasks)
            return
        few = 4 * backend.effective_n_jobs(jobs)
        for first in range(0, len(tasks), few):
            yield from joblib.Parallel()(tasks[first : first + few])
    except TerminatedWorkerError:
        raise RefineError(
            "a worker process was killed, perhaps for want of memory; "
            "the same command goes on where it stopped: give it fewer --jobs"
        ) from None


def train_batch(batch: Batch) -> list[tuple[Run, Outcome]]:
    """Train the runs of a batch, in this process."""
    import torch

    device = "cuda" if batch.scale == "gpu" and torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        task = _task(batch, device)
        first = batch.runs[0][0]
        if first.schedule in PACKAGES:
            multiplier = batch.multipliers[first.schedule, ""]
            outcome = train_package(task, batch.optimizer, first.schedule, multiplier, first.rate, first.seed)
            return [(first, outcome)]
        from .batched import train

        multipliers = np.array([[batch.multipliers[run.schedule, run.log] for run in row] for row in batch.runs])
        rates = np.array([[run.rate for run in row] for row in batch.runs])
        outcomes = train(task, batch.optimizer, multipliers, rates, list(batch.seeds), record=first.record)
        return [pair for row in zip(batch.runs, outcomes, strict=True) for pair in zip(*row, strict=True)]
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


_TASKS: dict[tuple[str, Scale, str], Any] = {}
"""The task that this process trained last: most batches of a process are of one problem."""


def _task(batch: Batch, device: str) -> Any:
    key = (batch.problem.name, batch.scale, device)
    if key not in _TASKS:
        _TASKS.clear()
        _TASKS[key] = batch.problem.make(batch.scale, device)
    return _TASKS[key]


def cells(store: Store) -> Iterator[Cell]:
    """Every problem with every optimizer, as far as a store has got."""
    meta = store.meta
    name, scale = meta.get("suite", ""), meta.get("scale", "")
    if name not in SUITES or meta.get("definition") != str(DEFINITION):
        raise RefineError(
            f"{store.path} holds the suite {name or 'of no name'} as another version of refine defines it; "
            "report it with that version, or run the suite again into another --store"
        )
    suite = SUITES[name]
    for problem in suite.problems:
        if store.has(problem.name):
            store.agree(**{f"problem {problem.name}": _definition(problem, scale)})  # type: ignore[arg-type]
            for optimizer in problem.optimizers:
                yield _cell(store, suite, scale, problem, optimizer)  # type: ignore[arg-type]


def _cell(
    store: Store,
    suite: Suite,
    scale: Scale,
    problem: Problem,
    optimizer: Optimizer,
    fits: dict[tuple[str, str], Fitted] | None = None,
) -> Cell:
    return Cell(problem, optimizer, scale, suite.protocol, store.outcomes(problem.name, optimizer.name), fits)


def _batches(cell: Cell, scale: Scale) -> Iterator[Batch]:
    """Cut what a cell wants into rectangles of seeds and arms, none larger than the problem can take at once."""

    def batch(seeds: tuple[int, ...], runs: tuple[tuple[Run, ...], ...]) -> Batch:
        pairs = {(run.schedule, run.log) for row in runs for run in row}
        multipliers = {pair: cell.multiplier(*pair) for pair in pairs}
        return Batch(cell.problem, cell.optimizer, scale, seeds, runs, multipliers)

    waiting: dict[tuple[bool, int], list[Run]] = {}
    for run in cell.missing:
        if run.schedule in PACKAGES:
            yield batch((run.seed,), ((run,),))
        else:
            waiting.setdefault((run.record, run.seed), []).append(run)
    most = cell.problem.runs_at_once[scale]
    while waiting:
        record = next(iter(waiting))[0]
        keys = [key for key in waiting if key[0] == record][:most]
        arms = min(max(1, most // len(keys)), *(len(waiting[key]) for key in keys))
        yield batch(tuple(seed for _, seed in keys), tuple(tuple(waiting[key][:arms]) for key in keys))
        waiting = {key: rest for key, runs in waiting.items() if (rest := runs[arms:] if key in keys else runs)}


def _available(suite: Suite, only: Sequence[str]) -> tuple[list[Problem], dict[str, str]]:
    """Problems whose data is there, fetched now if need be, and why the others are not."""
    from .data.datasets import available

    names = [problem.name for problem in suite.problems]
    if unknown := [name for name in only if name not in names]:
        raise RefineError(f"problem {unknown[0]!r} is not in this suite; it has {', '.join(names)}")
    reasons = {p.name: available(p.data) for p in suite.problems if not only or p.name in only}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    problems = [problem for problem in suite.problems if problem.name in reasons and problem.name not in skipped]
    if not problems:
        raise RefineError(f"no problem of the suite can be had; the first: {next(iter(skipped.values()))}")
    return problems, skipped


def _identity(name: str, scale: Scale) -> dict[str, str]:
    """What all runs of a store have in common."""
    return {"suite": name, "scale": scale, "definition": str(DEFINITION)}


def _definition(problem: Problem, scale: Scale) -> str:
    """Digest of what makes the runs of a problem what they are."""
    optimizers = [{**asdict(optimizer), "rate": None} for optimizer in problem.optimizers]
    changing = [] if problem.noise == STEADY else [asdict(problem.noise)]
    told = [problem.data, optimizers, problem.steps[scale], *changing]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def _machine(scale: Scale, known: Mapping[str, str]) -> dict[str, str]:
    """Where and with what it runs; all of it where a store was gone on with elsewhere."""
    import torch

    from .. import __version__

    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    if scale == "gpu" and torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    versions = {"refine": __version__, "torch": torch.__version__, "numpy": np.__version__}
    versions["python"] = platform.python_version()
    before = json.loads(known.get("versions", "{}"))
    return {
        "machine": _added(known.get("machine", ""), machine, "; "),
        "versions": json.dumps({name: _added(before.get(name, ""), text, " / ") for name, text in versions.items()}),
    }


def _added(before: str, now: str, between: str) -> str:
    return before if now in before.split(between) else between.join(filter(None, (before, now)))
