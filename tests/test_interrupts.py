"""Signals and standard streams: whatever stops a command, nothing half-made stays, and no bug is reported."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refine import RefineError, read_norms
from refine.files import clear_abandoned, write_files
from refine.interrupts import uninterrupted, unwinding
from refine.readers import opening

posix = pytest.mark.skipif(os.name != "posix", reason="needs signals and locks of POSIX")

WAIT = """
import os, pathlib, signal, sys, time
for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # whatever the tests were started with
    signal.signal(getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
def wait(result, path):
    path.write_bytes(b"half")
    pathlib.Path(os.environ["READY"]).touch()
    time.sleep(300)
if "READY" in os.environ and "resource_tracker" not in "".join(sys.orig_argv):
    import refine.figures
    refine.figures.save_figure = wait
"""


@pytest.fixture(autouse=True)
def usual_handlers():
    """Those of a program in the foreground, however the tests were started."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield
    assert {signum: signal.getsignal(signum) for signum in usual} == usual
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def start(tmp_path, falling_log, monkeypatch):
    """Start a command in a process group of its own, which waits where it has begun to draw, and come back then."""
    site, ready, started = tmp_path / "site", tmp_path / "ready", []
    site.mkdir()
    (site / "sitecustomize.py").write_text(WAIT)
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)

    def begin(*arguments, waits=True, closed=(), **more):
        ready.unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(site), "TMPDIR": str(tmp_path / "tmp")}
        environment |= {"READY": str(ready)} if waits else {}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
        closing = "".join(f" {number}>&-" for number in closed)
        command = ["sh", "-c", f'exec "$@"{closing}', "sh"] if closed else []
        command += [sys.executable, "-m", "refine.cli", *map(str, arguments)]
        started.append(subprocess.Popen(command, env=environment, start_new_session=True, **pipes))
        while waits and not ready.exists() and started[-1].poll() is None:
            time.sleep(0.01)
        return started[-1]

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in filter(None, (process.stdout, process.stderr)):
            pipe.close()


def left(*folders):
    return [path for folder in folders for path in Path(folder).rglob("*")]


@posix
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 1), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_command_that_is_stopped_leaves_nothing(start, name, code):
    process = start("fit", "log.csv", "--out", "a/b")
    assert list(Path("a/b").glob(".refine-*/refined.csv"))
    process.send_signal(getattr(signal, name))
    assert process.communicate() == ("", "\nAborted!\n")
    assert process.returncode == code
    assert not Path("a").exists()
    assert not left("tmp")


@posix
@pytest.mark.parametrize("whole_group", [False, True])
def test_workers_that_are_stopped_leave_nothing(start, falling_log, whole_group):
    Path("kept").mkdir()
    for name in ("one.csv", "two.csv"):
        Path(name).write_text(falling_log.read_text())
    process = start("fit", "one.csv", "two.csv", "--each", "--jobs", "2", "--out", "a/b")
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    assert process.communicate()[1].endswith("Aborted!\n")
    assert process.returncode == 143
    assert not Path("a").exists()
    assert not left("tmp")


@posix
def test_what_a_killed_process_left_is_cleared_by_the_next_run_alone(start):
    killed = start("fit", "log.csv", "--out", "out")
    killed.kill()
    killed.communicate()
    [old] = Path("out").glob(".refine-*")
    alive = start("fit", "log.csv", "--out", "out")
    [new] = Path("out").glob(".refine-*")  # the one that lives has cleared the other
    assert new != old
    assert start("fit", "log.csv", "--out", "out", "--no-plot", waits=False).wait() == 0
    assert (new / "refined.csv").exists()
    alive.terminate()
    alive.communicate()
    assert not list(Path("out").glob(".refine-*"))
    assert Path("out/refined.csv").exists()  # those of the run that ended


def test_what_cannot_be_told_is_kept_for_a_day(tmp_path):
    names = (".refine-schedule", ".refine-1234_678", ".refine-x", ".refine-abcdefgh.d", ".refine-elsewher")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "refined.csv").touch()
    (tmp_path / names[-1] / ".refine-lock").write_text("another machine")
    (tmp_path / ".refine-zzzzzzzz").mkdir()  # killed before the lock was made
    clear_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for name in names:
        os.utime(tmp_path / name, (0, 0))
    clear_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[:-1])  # without a lock it is none of ours


@posix
@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "dangling"])
def test_a_lock_that_is_none_is_left_alone(tmp_path, kind):
    staging, target = tmp_path / ".refine-abcdefgh", tmp_path / "target"
    staging.mkdir()
    target.write_text(os.uname().nodename)
    lock = staging / ".refine-lock"
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "dangling": lambda path: os.symlink("nowhere", path)}
    make.get(kind, lambda path: os.symlink(target, path))(lock)
    os.utime(staging, (0, 0))
    script = "import sys, pathlib; from refine.files import clear_abandoned; clear_abandoned(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, timeout=60)
    assert os.path.lexists(lock)
    assert target.exists()


@posix
def test_signals_wait_until_all_files_are_moved(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    write_files({first: ["old"], second: ["old"]})
    replace = os.replace

    def interrupted(source, target):
        signal.raise_signal(signal.SIGINT)
        replace(source, target)

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_files({first: ["new"], second: ["new"]}, force=True)
    assert (first.read_text(), second.read_text()) == ("new", "new")
    assert len(left(tmp_path)) == 2


@posix
def test_signals_wait_while_folders_are_made_and_removed(tmp_path, monkeypatch):
    from refine import files

    def interrupted(function):
        def run(*arguments, **more):
            signal.raise_signal(signal.SIGINT)
            made = function(*arguments, **more)
            signal.raise_signal(signal.SIGINT)
            return made

        return run

    monkeypatch.setattr(files.tempfile, "mkdtemp", interrupted(files.tempfile.mkdtemp))
    monkeypatch.setattr(files.shutil, "rmtree", interrupted(files.shutil.rmtree))
    written = []
    with pytest.raises(KeyboardInterrupt):
        write_files({tmp_path / "a" / "b" / "x": written.append})
    assert not written
    assert not left(tmp_path)


@posix
def test_a_handler_that_takes_note_does_not_stop_the_writing(tmp_path):
    noted = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: noted.append(signum))
    try:

        def content(path):
            signal.raise_signal(signal.SIGTERM)
            path.write_text("all")

        write_files({tmp_path / "x": content, tmp_path / "y": content})
    finally:
        signal.signal(signal.SIGTERM, before)
    assert noted == [signal.SIGTERM] * 2
    assert (tmp_path / "x").read_text() == (tmp_path / "y").read_text() == "all"


@posix
def test_a_program_that_is_ended_while_it_writes_cleans_up_and_ends(tmp_path):
    text = (
        "import os, pathlib, signal, sys\nfrom refine.files import write_files\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "write_files({pathlib.Path(sys.argv[1], 'a', 'x'): lambda path: os.kill(os.getpid(), signal.SIGTERM)})\n"
    )
    done = subprocess.run([sys.executable, "-c", text, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")
    assert not left(tmp_path)


@posix
def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with unwinding() as came, uninterrupted() as interruptible, interruptible():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert came == []


@posix
def test_another_signal_breaks_no_clean_up_but_one_that_was_lost_may_be_repeated():
    cleaned = []

    def stopped():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            try:
                raise OSError
            except OSError:
                signal.raise_signal(signal.SIGTERM)
            cleaned.append(True)

    with unwinding() as came:
        with pytest.raises(KeyboardInterrupt):
            stopped()
        assert cleaned
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert came == [signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGINT]


@posix
def test_an_interruption_that_comes_out_as_something_else_is_one(run, falling_log, monkeypatch):
    def lost(*_, **__):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("cannot load module") from None

    monkeypatch.setattr("refine.batch.fit_logs", lost)
    done = run("fit", "log.csv")
    assert (done.exit_code, done.stdout, done.stderr) == (143, "", "Aborted!\n")


@posix
def test_a_table_whose_reading_is_interrupted_is_not_said_to_be_damaged(make_log, monkeypatch):
    class Interrupted(opening._Watched):
        def read(self, size=-1):
            data = super().read(size)
            if not data:
                signal.raise_signal(signal.SIGINT)
            return data

    monkeypatch.setattr(opening, "_Watched", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_norms(make_log(step=[1, 2, 3], grad_norm=[1.0, 2.0, 3.0]))


@posix
def test_a_database_whose_reading_is_interrupted_is_not_said_to_be_damaged(make_log, monkeypatch):
    from refine.readers import sqlite

    path = make_log(b"", "log.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (x)")
        database.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(1000)])
        database.commit()
    monkeypatch.setattr(sqlite, "_INSTRUCTIONS", 100)

    class Interrupted:
        def __next__(self):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 2:
                signal.raise_signal(signal.SIGINT)
            return self.calls

    def busy():
        with sqlite.connected(opening.Log(path, "log.db")) as database:
            database.execute("SELECT count(*) FROM t AS a, t AS b").fetchall()

    with pytest.raises(RefineError, match="interrupted"):  # it leads in circles
        busy()
    monkeypatch.setattr(sqlite.itertools, "count", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        busy()


@posix
def test_an_interruption_of_generated_code_changes_no_exit_code(start):
    site = Path("site/sitecustomize.py")
    site.write_text(
        "import refine.batch\ndef fit_logs(*_, **__):\n    exec('raise KeyboardInterrupt')\n"
        "refine.batch.fit_logs = fit_logs\n"
    )
    process = start("fit", "log.csv", waits=False)
    assert process.communicate() == ("", "\nAborted!\n")
    assert process.returncode == 1


@posix
def test_an_interruption_of_the_imports_is_told_as_any_other(tmp_path):
    text = (
        "import signal, sys\nfrom refine.cli.__main__ import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'refine.cli.fit': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\nrun()\n"
    )
    # Not from the checkout: `-c` puts the current folder first, and the checkout's refine/ holds no refine/cli.
    done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "\nAborted!\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", ["fit log.csv --no-plot", "convert log.csv -o -", "formats", "--help", "fit -h"])
def test_an_output_that_cannot_be_written_is_one_line(start, arguments):
    why = "No space left on device"
    with open("/dev/full", "w") as full:
        process = start(*arguments.split(), waits=False, stdout=full)
        assert process.communicate() == (None, f"Error: cannot write to standard output: {why}\n")
        assert process.returncode == 1
        again = [*arguments.split(), *(["--force"] if "log.csv --no-plot" in arguments else [])]
        process = start(*again, waits=False, stdout=full, stderr=full)
        assert process.wait() == 1
    assert Path("refined/recommended.csv").exists() == arguments.startswith("fit l")


@posix
@pytest.mark.parametrize("arguments", ["fit log.csv --no-plot", "convert log.csv -o -", "formats", "--help"])
def test_a_pipe_that_nobody_reads_ends_it_silently(start, arguments):
    read, write = os.pipe()
    os.close(read)
    process = start(*arguments.split(), waits=False, stdout=write)
    os.close(write)
    assert process.communicate() == (None, "")
    assert process.returncode == 1


@posix
@pytest.mark.parametrize(
    ("closed", "arguments", "code", "said"),
    [
        ((0,), "fit - --no-plot", 1, "Error: -: the file is empty"),
        ((1,), "fit log.csv --no-plot", 1, "Error: cannot write to standard output: Bad file descriptor\n"),
        ((2,), "fit log.csv --no-plot", 0, ""),
        ((2,), "fit none.csv --no-plot", 1, ""),
        ((0, 1, 2), "fit log.csv --no-plot", 1, ""),
        ((2,), "fit log.csv again.csv --each --no-plot --out refined", 0, ""),
        ((0, 2), "fit log.csv again.csv --each --no-plot --out refined", 0, ""),
    ],
)
def test_standard_streams_that_are_closed(start, closed, arguments, code, said):
    shutil.copy("log.csv", "again.csv")
    process = start(*arguments.split(), waits=False, closed=closed)
    _, stderr = process.communicate()
    assert process.returncode == code
    assert stderr.startswith(said) if said else stderr == ""
    assert any(Path("refined").rglob("recommended.csv")) == ("log.csv" in arguments)


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_as_python_ends_changes_nothing(name, tmp_path):
    script = f"""
import atexit, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(signal.raise_signal, signal.{name})
from refine.cli.__main__ import run
run()
"""
    command = [sys.executable, "-c", script, "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@posix
def test_what_a_killed_reader_had_unpacked_goes_with_the_next_one(tmp_path, falling_log, monkeypatch):
    import gzip

    packed = tmp_path / "log.csv.gz"
    packed.write_bytes(gzip.compress(falling_log.read_bytes()))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    script = """
import os, sys
from refine.readers.opening import opened
with opened(sys.argv[1]) as log:
    assert log.path.is_file()
    os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    subprocess.run([sys.executable, "-c", script, packed], env=environment, check=False)
    [left] = (tmp_path / "tmp").iterdir()
    with opening.opened(str(packed)) as log:
        assert not left.exists()
        with opening.opened(str(packed)):  # what is in use stays
            assert log.path.is_file()
    assert not list((tmp_path / "tmp").iterdir())
