"""Mutate every sample log and read it: anything but norms or a `RefineError` of one line is a bug.

A fifth of the inputs are schedules, with what lies beside them: they are loaded, described and exported. A tenth are
logs of a recorder, in which a small run goes on (where torch is installed).

    python tests/fuzz/fuzz_readers.py [--seconds 600 | --inputs 100000] [--seed 0] [--samples DIR ...]

Input i of a seed is always the same. Each is read as `refine inspect`, `convert` and `predict` do, in a worker process
with warnings as errors, 10 seconds and 6 GB of memory; what fails is kept in a folder, with its traceback.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

from mutations import Case, Link, mutated
from samples import Sample, gather

from refine import RefineError, RefineWarning, Schedule, fit, fit_loss, read_losses, read_norms
from refine.describe import description, updates_done
from refine.export import render
from refine.export.base import peak_of
from refine.export.tidy import tidy_csv
from refine.health import inspect
from refine.prior import named_schedules, warmup_of
from refine.readers import opening
from refine.schedule import is_schedule
from refine.transfer import peak_advice, retarget

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = [ROOT.parent / "shared/formats", ROOT.parent / "shared/logs", ROOT / "data"]
LIMIT_S = 10.0
LIMIT_BYTES = 6 * 2**30
LONGEST_ERROR = 1000
SMALL_RUN = 100_000
_OF_LOSSES = {"step_column", "lr_column", "every", "run", "logged_steps"}
TORCH = find_spec("torch") is not None


class _Hang(BaseException):
    """Not to be caught by a reader."""


def examine(path: Path, case: Case, companions: Sequence[Path]) -> str:
    """Read an input as the commands do: "read" or "refused"; raises whatever is wrong."""
    try:
        norms = read_norms(path, *companions, **{"extras": True, **case.options})
        found = inspect(norms)
        summary = found.summary()
        assert all(line.isprintable() for line in summary.split("\n")), f"control characters in {summary!r}"
        json.loads(json.dumps(found.to_dict(), allow_nan=False))
        "".join(tidy_csv(norms)).encode()
    except RefineError as error:
        return refused(error)
    if norms.total_steps <= SMALL_RUN:
        try:
            result = fit(norms, optimizer=norms.source.optimizer or "adam")
            for text in (result.summary(), result.summary(verbose=True)):
                assert all(line.isprintable() for line in text.split("\n")), f"control characters in {text!r}"
            json.loads(json.dumps(result.to_dict(), allow_nan=False))
        except RefineError as error:
            refused(error)
    return "read"


def examine_losses(path: Path, case: Case, companions: Sequence[Path]) -> None:
    """Read losses and predict as `refine predict` does; raises whatever is wrong."""
    known = {name: case.options[name] for name in _OF_LOSSES & case.options.keys()}
    try:
        curve = read_losses(path, *companions, **known)
        assert all(note.isprintable() for note in curve.notes), curve.notes
        if curve.total_steps <= SMALL_RUN:
            table = fit_loss(curve).compare(["cosine", "wsd:0.4"], total_steps=2 * curve.total_steps)
            text = table.summary()
            assert all(line.isprintable() for line in text.split("\n")), f"control characters in {text!r}"
            json.dumps(table.to_dicts(), allow_nan=False)
    except RefineError as error:
        refused(error)


def examine_schedule(path: Path, folder: Path) -> str:
    """Open a schedule as the commands do; what they show of it has no control characters, what they save reads back."""
    assert is_schedule(path) in (True, False)
    try:
        schedule = Schedule.load(path)
        described = description(schedule.multiplier)
        texts = [repr(schedule), json.dumps(described), *peak_advice(40, 80, None, peak_lr=peak_of(schedule))]
        texts += [name for name in named_schedules([str(path), "cosine"]) if name != str(path)]
        assert all(text.isprintable() for text in texts), texts
        assert updates_done(schedule) >= 0
        assert warmup_of(schedule) >= 0
        for saved in (schedule, retarget(schedule, 33)):
            for name in ("saved.csv", "saved.json"):
                back = Schedule.load(saved.save(folder / name, force=True))
                assert back == saved
                assert back.provenance == saved.provenance
        for target in ("torch", "hf", "optax", "nanogpt", "csv", "json"):
            for content in render(schedule, target).contents.values():
                "".join(content).encode()
    except RefineError as error:
        return refused(error)
    return "read"


def examine_resume(path: Path, step: int) -> str:
    """Go on in a recorder's log, and read it then: training has to go on, whatever is in the log."""
    from torch import nn, optim

    from refine.torch import GradNormRecorder

    layer = nn.Linear(2, 1)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            recorder = GradNormRecorder(optimizer, path, step=step)
        except RefineError as error:
            return refused(error)
        for _ in range(3):
            layer(layer.weight).sum().backward()
            recorder.record(loss=1.0)
            optimizer.step()
            optimizer.zero_grad()
        recorder.close()
    said = [str(warning.message) for warning in caught]
    assert all(issubclass(warning.category, RefineWarning) for warning in caught), said
    assert len(set(said)) == len(said), said
    assert all(text.isprintable() and len(text) <= LONGEST_ERROR for text in said), said
    if not any("not recorded" in text for text in said):
        with open(path, "rb") as stream:
            last = stream.readlines()[-3:]
        assert len(last) == 3, last
        assert all(b"\0" not in line and line.endswith(b"\n") for line in last), last
    try:
        read_norms(path)
    except RefineError as error:
        return refused(error)
    return "read"


def refused(error: RefineError) -> str:
    """A refusal, if its text is as it must be."""
    text = str(error)
    assert text.isprintable(), f"control characters in the error: {text!r}"
    assert len(text) <= LONGEST_ERROR, f"an error of {len(text)} characters: {text}"
    assert "fit into memory" not in text, text
    return "refused"


def lay_out(folder: Path, case: Case) -> tuple[Path, list[Path]]:
    """Write an input below a folder; returns its path and those of its companions."""
    top = folder / case.name
    for place, content in case.files.items():
        path = top / place if place else top
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif content is ...:
            os.mkfifo(path)
        elif isinstance(content, Link):
            path.symlink_to(content.target)
        else:
            path.write_bytes(content)
    if case.companion is None:
        return top, []
    companion = folder / "companion"
    companion.write_bytes(case.companion)
    return top, [companion]


def one(seed: int, index: int, samples: Sequence[Sample], folder: Path) -> tuple[str, float, str]:
    """Outcome of one input, its seconds, and the traceback of a bug."""
    case = mutated(Random(f"{seed}:{index}"), samples)
    try:
        path, companions = lay_out(folder, case)
    except (OSError, ValueError):  # no such file can be
        return "refused", 0.0, ""
    started = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        if case.kind == "schedule":
            outcome, detail = examine_schedule(path / case.target, folder), ""
        elif case.kind == "resume":
            outcome, detail = examine_resume(path, **case.options) if TORCH else "skipped", ""
        else:
            examine_losses(path, case, companions)
            outcome, detail = examine(path, case, companions), ""
    except _Hang:
        outcome, detail = "hang", traceback.format_exc()
    except BaseException:
        outcome, detail = "uncaught", traceback.format_exc()
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    return outcome, time.perf_counter() - started, detail


def work(pipe: Connection, seed: int, folders: list[Path], temporary: Path) -> None:
    """Examine the inputs that the parent names, one by one, until it hangs up."""
    samples = gather(folders)
    if TORCH:
        examine_resume(temporary / f"{os.getpid()}.jsonl", 0)  # imports for seconds, which no input is to answer for

    def hang(*_: Any) -> None:
        raise _Hang

    signal.signal(signal.SIGALRM, hang)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    opening.PATIENCE_S = 0.1
    folder = temporary / str(os.getpid())
    while (index := pipe.recv()) is not None:
        folder.mkdir()
        pipe.send((index, *one(seed, index, samples, folder)))
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class Worker:
    """A process that is restarted when it hangs or dies."""

    arguments: tuple[int, list[Path], Path]
    index: int = -1
    since: float = 0.0
    pipe: Any = field(init=False)
    process: Any = field(init=False)

    def __post_init__(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, *self.arguments))
        self.process.start()
        theirs.close()

    def give(self, index: int) -> None:
        self.index, self.since = index, time.monotonic()
        self.pipe.send(index)

    def restarted(self) -> Worker:
        self.process.kill()
        self.process.join()
        return Worker(self.arguments)


def _where(detail: str) -> str:
    """The last line of a traceback, and the last place in refine."""
    places = re.findall(r'File ".*/(refine/.*)", line (\d+)', detail)
    return f"{':'.join(places[-1]) if places else ''} {detail.strip().splitlines()[-1][:160]!r}"


def run(seed: int, inputs: int, seconds: float, folders: list[Path], jobs: int) -> bool:
    """Examine inputs until either limit; prints the summary and returns whether all went well."""
    kept = Path(tempfile.mkdtemp(prefix="refine-fuzz-"))
    fast = Path("/dev/shm")
    temporary = Path(tempfile.mkdtemp(prefix="refine-fuzz-", dir=fast if fast.is_dir() else None))
    samples = gather(folders)
    counts: Counter[str] = Counter()
    bugs: dict[str, list[int]] = defaultdict(list)
    slowest, begun, following = (0.0, -1), time.monotonic(), 0
    workers = [Worker((seed, folders, temporary)) for _ in range(jobs)]

    def done(index: int, outcome: str, took: float, detail: str) -> None:
        nonlocal slowest
        counts[outcome] += 1
        slowest = max(slowest, (took, index))
        if detail:
            bugs[_where(detail)].append(index)
            folder, case = kept / f"{outcome}-{seed}-{index}", mutated(Random(f"{seed}:{index}"), samples)
            lay_out(folder / "input", case)
            (folder / "traceback.txt").write_text(f"{detail}\n{case.options}\n", errors="backslashreplace")

    try:
        for worker in workers:
            worker.give(following)
            following += 1
        while any(worker.index >= 0 for worker in workers):
            ready = wait([worker.pipe for worker in workers if worker.index >= 0], timeout=1.0)
            for place, worker in enumerate(workers):
                late = worker.index >= 0 and time.monotonic() - worker.since > 2 * LIMIT_S + 10.0
                if worker.pipe in ready or late:
                    try:
                        if late:
                            raise TimeoutError
                        done(*worker.pipe.recv())
                    except (EOFError, OSError) as error:
                        what = "hang" if isinstance(error, TimeoutError) else "uncaught"
                        done(worker.index, what, LIMIT_S, f"the worker was killed: {what}")
                        workers[place] = worker = worker.restarted()
                    if following < inputs and time.monotonic() - begun < seconds:
                        worker.give(following)
                        following += 1
                    else:
                        worker.index = -1
    except KeyboardInterrupt:
        pass
    finally:
        for worker in workers:
            worker.process.kill()
        shutil.rmtree(temporary, ignore_errors=True)
    wrong = counts["uncaught"] + counts["hang"]
    for text, indices in sorted(bugs.items()):
        print(f"{len(indices):6} x {text}, first input {indices[0]}")
    print(
        f"seed {seed}, {len(samples)} samples: {counts.total():,} inputs "
        f"in {time.monotonic() - begun:.0f} s: {counts['refused']:,} refused, {counts['read']:,} read, "
        + (f"{counts['skipped']:,} without torch, " if counts["skipped"] else "")
        + f"{counts['uncaught']} uncaught, {counts['hang']} hangs over {LIMIT_S:g} s; "
        f"slowest {slowest[0]:.2f} s (input {slowest[1]})" + (f"; see {kept}" if wrong else "")
    )
    if not wrong:
        kept.rmdir()
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--inputs", type=int, default=None, help="default: 10000, or any number with --seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=Path, action="append", help="folders of samples beside those made here")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    inputs = given.inputs or (10_000 if given.seconds == float("inf") else sys.maxsize)
    folders = [folder for folder in given.samples or SAMPLES if folder.is_dir()]
    sys.exit(0 if run(given.seed, inputs, given.seconds, folders, given.jobs) else 1)


if __name__ == "__main__":
    main()
