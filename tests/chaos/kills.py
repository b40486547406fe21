"""Kill refine at random moments, on a roomy and on a full file system, and look at what is left.

    python tests/chaos/kills.py [--kills 200] [--seed 0] [--jobs 2]

Four kinds of runs in turn: ``refine fit --force``, mostly onto an older result, ``refine fit --each --force``, and
recording into JSONL and into CSV with a worker of a DataLoader. Half of them are killed by SIGKILL, which workers
survive, half by SIGTERM; half on a file system that fills up (a tmpfs: run it as root, or under ``unshare -rm``). Half
of the fits are killed at a random moment, half while their files are being written; a third of the recordings before
their first row.

After each: every file is the old one or the new one, whole; a folder holds old files or new ones, not both, unless
SIGKILL struck between the renames; a log has every row that was flushed, reads, and is not locked; SIGTERM leaves
nothing temporary. After the next run, with room: the complete new result, or the log up to its last update; nothing
temporary.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from refine import read_norms

KINDS = ("fit", "each", "jsonl", "csv")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
UPDATES, FLUSH = 400, 10
ROOM = 2**20 * 8
PATIENCE_S = 120

RECORD = f"""
import signal, sys, time, warnings
import torch
from torch.utils.data import DataLoader, TensorDataset
from refine import RefineWarning
from refine.torch import GradNormRecorder

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return {UPDATES}
    def __getitem__(self, index):
        return torch.full((4,), 1.0 + index)

path, done = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
warnings.simplefilter("always")
weight = torch.nn.Parameter(torch.ones(4))
optimizer = torch.optim.SGD([weight], lr=1e-3)
with warnings.catch_warnings(record=True) as told:
    recorder = GradNormRecorder(optimizer, path, step=done or None, total_steps={UPDATES}, buffer_steps=8)
    for i, row in enumerate(DataLoader(Rows(), batch_size=None, num_workers=1)):
        if i < done:
            continue
        optimizer.zero_grad()
        (weight * row).sum().backward()
        recorder.record(loss=1.0)
        optimizer.step()
        if recorder.step % {FLUSH} == 0:
            recorder.flush()
            if not told:
                print(recorder.step, flush=True)
            time.sleep(0.005)
    recorder.close()
print("end", recorder.step, *(w.message for w in told), flush=True)
"""


class Wrong(AssertionError):
    """What must not be."""


def check(condition: bool, text: str) -> None:
    if not condition:
        raise Wrong(text)


def write_log(path: Path, seed: int) -> Path:
    """A log that makes a fit, compressed, so that it is unpacked to a temporary file."""
    norms = 1.0 + np.random.default_rng(seed).random(3000) * np.linspace(2.0, 0.5, 3000)
    rows = "".join(f"{t},{norm:.6f},{0.1 * (1 - t / 3000):.6f}\n" for t, norm in enumerate(norms, 1))
    path.write_bytes(gzip.compress(f"step,grad_norm,lr\n{rows}".encode()))
    return path


def digests(folder: Path) -> dict[str, str]:
    """Of every file below a folder but the temporary ones."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not temporary(path.relative_to(folder)))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def temporary(path: Path) -> bool:
    return any(part.startswith(".refine-") for part in path.parts)


def leftovers(place: Path, scratch: Path) -> list[str]:
    """Temporary files and folders of refine, and folders without anything in the place of the results."""
    empty = [path for path in place.rglob("*") if path.is_dir() and not any(path.iterdir())]
    named = [path for folder in (place, scratch) for path in folder.rglob("*")]
    named = [path for path in named if path.name.startswith(".refine-")]
    return sorted({str(path) for path in empty + named})


class Case:
    """One run that is killed: its folder, its own temporary folder and its random numbers."""

    def __init__(self, number: int, seed: int, shared: Path, seconds: dict[str, float]) -> None:
        self.random = random.Random(f"{seed}:{number}")
        self.kind = KINDS[number % 4]
        self.signal = SIGNALS[number // 4 % 2]
        self.full = number // 8 % 2 == 1
        self.in_writing = number // 16 % 2 == 1
        self.shared, self.seconds = shared, seconds
        self.place = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.temporary = Path(tempfile.mkdtemp(prefix="chaos-tmp-"))
        self.said, self.told = self.temporary / "stdout", self.temporary / "stderr"

    def __str__(self) -> str:
        return f"{self.kind} {self.signal.name} {'full' if self.full else 'roomy'}"

    def run(self) -> str:
        if self.full:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", self.place], check=True)
        try:
            return self.fit() if self.kind in ("fit", "each") else self.record()
        finally:
            if self.full:
                subprocess.run(["umount", "-l", self.place], check=True)
            shutil.rmtree(self.place)
            shutil.rmtree(self.temporary)

    def fill(self, most: int) -> None:
        """Leave a random room below ``most`` bytes."""
        if self.full:
            free = os.statvfs(self.place).f_bavail * os.statvfs(self.place).f_frsize
            (self.place / "filler").write_bytes(bytes(max(0, free - self.random.randrange(most))))

    def make_room(self) -> None:
        if self.full:
            (self.place / "filler").unlink()

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        with open(self.said, "w") as out, open(self.told, "w") as error:
            return subprocess.Popen(command, text=True, env=environment, stdout=out, stderr=error)

    def end(self, process: subprocess.Popen[str], delay: float) -> bool:
        """Kill after a delay; whether it was still there."""
        try:
            process.wait(delay)
            return False
        except subprocess.TimeoutExpired:
            process.send_signal(self.signal)
            process.wait(PATIENCE_S)
            return True

    # ------------------------------------------------------------------------------------------------ fit

    def fit(self) -> str:
        old, new = self.shared / f"{self.kind}-old", self.shared / f"{self.kind}-new"
        out = self.place / "results" / "out"
        fresh = self.random.random() < 0.3
        if not fresh:
            shutil.copytree(old, out)
        self.fill(sum(path.stat().st_size for path in new.rglob("*") if path.is_file()))
        process = self.start(fit_command(self.kind, self.shared, "new", out))
        if self.in_writing:
            limit = time.monotonic() + 3 * self.seconds[self.kind]
            while process.poll() is None and time.monotonic() < limit:
                if out.is_dir() and any(temporary(path.relative_to(out)) for path in out.rglob(".refine-*")):
                    break
                time.sleep(0.001)
            delay = self.random.uniform(0.0, 0.7 * self.seconds[self.kind])
        else:
            delay = self.random.uniform(0.0, self.seconds[self.kind])
        killed, error = self.end(process, delay), self.told.read_text()
        check("Traceback" not in error, error)
        if not killed and process.returncode:
            check(self.full and "No space left" in error, error)
        before, after = {} if fresh else digests(old), digests(new)
        state = self.compare(digests(out), before, after)
        if self.signal is signal.SIGTERM:
            check(state != "mixed" or self.kind == "each", "old and new files together")
        if self.signal is signal.SIGTERM or not killed:
            self.check_clean("left")
        self.make_room()
        again = self.start(fit_command(self.kind, self.shared, "new", out))
        check(again.wait(PATIENCE_S) == 0, f"the next run: {self.told.read_text()}")
        check(digests(out) == after, "the next run made another result")
        self.check_clean("after the next run")
        return f"{'killed' if killed else 'had ended'}, {state}"

    def check_clean(self, when: str) -> None:
        left = leftovers(self.place, self.temporary)
        check(not left, f"{when}: {left}")

    @staticmethod
    def compare(found: dict[str, str], before: dict[str, str], after: dict[str, str]) -> str:
        for name, digest in found.items():
            check(digest in (before.get(name), after.get(name)), f"{name} is neither the old nor the new file")
        missing = [name for name in before if name not in found]
        check(not missing, f"lost: {missing}")
        if found == after:
            return "new"
        return "old" if found == before else "mixed"

    # --------------------------------------------------------------------------------------------- record

    def record(self) -> str:
        log = self.place / f"run.{self.kind}"
        self.fill(30_000)
        process = self.start([sys.executable, "-c", RECORD, str(log), "0"])
        early = self.random.random() < 0.3  # before the first row
        while process.poll() is None and not (log.exists() if early else self.said.stat().st_size):
            time.sleep(0.01)
        killed = self.end(process, self.random.uniform(0.0, 0.2 if early else self.seconds["record"]))
        said = self.said.read_text().splitlines()
        flushed = max((int(line) for line in said if line.isdigit()), default=0)
        if not killed:
            error = self.told.read_text()
            check(process.returncode == 0 and said[-1].startswith(f"end {UPDATES}"), f"training ended: {error}{said}")
            check(self.full or flushed == UPDATES, f"not recorded to the end: {said[-1]}")
            check(flushed == UPDATES or "No space left" in said[-1], f"not told: {said[-1]}")
        rows = self.rows(log)
        check(rows >= flushed, f"{flushed} rows were flushed, the log has {rows}")
        self.make_room()
        again = self.start([sys.executable, "-c", RECORD, str(log), str(rows)])
        check(again.wait(PATIENCE_S) == 0, f"resumed: {self.told.read_text()}")
        last = self.said.read_text().splitlines()[-1]
        check(last == f"end {UPDATES}", f"resumed: {last}")
        check(self.rows(log) == UPDATES, f"after the next run the log has {self.rows(log)} rows")
        self.check_clean("after the next run")
        return f"{'killed' if killed else 'had ended'}, {'rows' if rows else 'no row'}"

    @staticmethod
    def rows(log: Path) -> int:
        """Updates in a log, which must be 1, 2, ... without a gap; whole lines count, as for the reader."""
        if not log.exists():
            return 0
        if log.read_bytes().count(b"\n") < (4 if log.suffix == ".csv" else 3):  # too few for a log
            return max(0, log.read_bytes().count(b"\n") - (2 if log.suffix == ".csv" else 1))
        steps = read_norms(log).steps.tolist()
        check(steps == list(range(1, len(steps) + 1)), f"gaps in {steps}")
        return len(steps)


def fit_command(kind: str, shared: Path, which: str, out: Path) -> list[str]:
    logs = [str(shared / which / f"{i}.csv.gz") for i in range(1 if kind == "fit" else 3)]
    each = ["--each", "--jobs", "2"] if kind == "each" else []
    return [sys.executable, "-m", "refine.cli", "fit", *logs, "--out", str(out), "--force", *each]


def prepare(shared: Path) -> dict[str, float]:
    """Logs and complete results of both, and how long it takes to make them."""
    seconds = {"record": 2.5}
    for seed, which in enumerate(("old", "new")):
        (shared / which).mkdir()
        for i in range(3):
            write_log(shared / which / f"{i}.csv.gz", 10 * seed + i)
    for kind in ("fit", "each"):
        for which in ("old", "new"):
            begun = time.monotonic()
            subprocess.run(
                fit_command(kind, shared, which, shared / f"{kind}-{which}"), check=True, capture_output=True
            )
            seconds[kind] = time.monotonic() - begun
        subprocess.run(fit_command(kind, shared, "new", shared / "again"), check=True, capture_output=True)
        check(digests(shared / "again") == digests(shared / f"{kind}-new"), "the same fit makes other files")
        shutil.rmtree(shared / "again")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    shared = Path(tempfile.mkdtemp(prefix="chaos-shared-"))
    counts: Counter[str] = Counter()
    wrong = 0
    try:
        seconds = prepare(shared)
        print({name: round(value, 1) for name, value in seconds.items()})

        def one(number: int) -> tuple[Case, str, bool]:
            case = Case(number, options.seed, shared, seconds)
            try:
                return case, case.run(), True
            except Exception as error:
                return case, f"{type(error).__name__}: {error}", False

        with ThreadPoolExecutor(options.jobs) as pool:
            for number, (case, outcome, well) in enumerate(pool.map(one, range(options.kills))):
                counts[f"{case}: {outcome}" if well else f"WRONG {case}"] += 1
                wrong += not well
                if not well:
                    print(f"run {number}, {case}: {outcome}", flush=True)
    finally:
        shutil.rmtree(shared)
    for text, count in sorted(counts.items()):
        print(f"{count:4} x {text}")
    print(f"seed {options.seed}: {options.kills} runs, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
