"""A recorder that is to go on with a file which is damaged, or no file: one warning, and the run goes on."""

import os
import warnings

import pytest
import torch

from refine import RefineError, RefineWarning, read_norms
from refine.torch import GradNormRecorder
from refine.torch.log_file import LogFile

HEAD = b'{"format": "refine-gradient-norms", "format_version": 1, "optimizer": "SGD"}'
BARE = b'{"format": "refine-gradient-norms", "format_version": 1}'
OPEN = b'{"format": "refine-gradient-norms", '

DAMAGED = {
    "not utf-8.csv": b"# " + BARE + b"\nstep,grad_norm_l2\xff\n1,2\n",
    "bare CR.csv": b"# " + BARE + b"\nstep,a\rb\n1,2\n",
    "NUL in the names.csv": b"# " + HEAD + b"\nstep,\0\n1,2\n",
    "open quote.csv": b"# " + HEAD + b'\nstep,"a\n1,2\n',
    "no names.csv": b"# " + HEAD + b"\n\n1,2\n",
    "a row for names.csv": b"# " + HEAD + b"\n1,2,3\n",
    "a name twice.csv": b"# " + HEAD + b"\nstep,a,a\n1,2,3\n",
    "no optimizer.jsonl": BARE + b'\n{"step": 1}\n',
    "optimizer is a list.jsonl": HEAD.replace(b'"SGD"', b'["SGD"]') + b"\n",
    "version is true.jsonl": HEAD.replace(b"1", b"true") + b"\n",
    "no version.jsonl": OPEN + b'"x": 1}\n',
    "cut in the middle.jsonl": HEAD[:60] + b'\n{"step": 1}\n',
    "a list.jsonl": OPEN + b'[1]]\n{"step": 1}\n',
    "deep list.jsonl": OPEN + b'"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "deep object.csv": b"# " + OPEN + b'"x": ' + b'{"a":' * 100_000 + b"}\nstep\n",
    "long number.jsonl": OPEN + b'"x": ' + b"9" * 5000 + b"}\n",
    "not utf-8.jsonl": HEAD.replace(b"SGD", b"SG\xff") + b"\n",
    "zeros.jsonl": b"\0" * 300,
    "lines of zeros.csv": b"\0" * 300 + b"\n\0\n",
    "header and zeros.jsonl": HEAD[:50] + b"\0" * 300,
    "header and zeros.csv": b"# " + HEAD[:50] + b"\0" * 300 + b"\n1\n",
}


def train(path, **options):
    """Five updates, which come out the same whatever is recorded."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with GradNormRecorder(optimizer, path, **options) as recorder:
        for t in range(5):
            weight.grad = torch.full((3,), 1.0 + t)
            recorder.record()
            optimizer.step()
    assert weight[0].item() == pytest.approx(-0.5)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_log_warns_once_and_is_left_as_it_is(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.warns(RefineWarning, match=r"not recorded any more, the run goes on: .* damaged") as told:
        train(path, step=5)
    assert len(told) == 1
    assert path.read_bytes() == DAMAGED[name]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_of_an_endless_header_no_more_is_read_than_a_header_may_hold(tmp_path, monkeypatch, end):
    monkeypatch.setattr("refine.torch.log_file._LONGEST", 1000)
    path = tmp_path / "run.jsonl"
    path.write_bytes(HEAD.removesuffix(b"}") + b', "x": "' + b"y" * 5000 + b'"}' + end)
    whole = path.read_bytes()
    with pytest.warns(RefineWarning, match="its first lines are no text, or have no end: the file is damaged"):
        train(path, step=5)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("text", [b"[1, 2]\n", b"5\n", b"# [1]\nstep\n", b"notes", b"y" * 5000])
def test_what_is_no_log_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.setattr("refine.torch.log_file._LONGEST", 1000)
    path = tmp_path / "run.jsonl"
    path.write_bytes(text)
    with pytest.raises(RefineError, match="exists and is no log of a GradNormRecorder; name another file"):
        train(path, step=5)
    assert path.read_bytes() == text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("step", [None, 5])
def test_a_pipe_is_not_written_to(tmp_path, step):
    """A full one would hold up the run."""
    os.mkfifo(tmp_path / "run.jsonl")
    with pytest.warns(RefineWarning, match=r"cannot write .*run\.jsonl: it is no regular file") as told:
        train(tmp_path / "run.jsonl", step=step)
    assert len(told) == 1


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/full", ".", "run.jsonl"])
def test_what_is_no_file_warns_once(tmp_path, target):
    if target.startswith("/dev") and not os.path.exists(target):
        pytest.skip(f"there is no {target}")
    (tmp_path / "run.jsonl").symlink_to(target)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(tmp_path / "run.jsonl", step=5)
    assert len(told) == 1


def test_a_file_that_shrinks_meanwhile_is_not_filled_up_with_zeros(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    path.write_bytes(HEAD + b'\n{"step": 1}\n{"step": 2}\n{"st')

    def shrinking(text, stream):
        os.truncate(path, len(HEAD) + 1)
        return len(HEAD) + 1 + len(b'{"step": 1}\n')

    monkeypatch.setattr("refine.torch.log_file._end_of", shrinking)
    LogFile(path, append=True).close()
    assert path.read_bytes() == HEAD + b"\n"


def test_the_own_norm_that_zero_has_elsewhere_is_told_once(tmp_path, network, step, rows):
    """As `torch.distributed.optim.ZeroRedundancyOptimizer` keeps it: in an optimizer of its own, a part a process."""

    class Redundancy(torch.optim.Optimizer):
        def __init__(self, parameters, make):
            parameters = list(parameters)
            super().__init__(parameters, {"lr": 0.01})
            self.optim = make(parameters, lr=0.01)

        def step(self, closure=None):
            self.optim.step()

    for make, count in ((torch.optim.AdamW, 1), (torch.optim.SGD, 0)):
        path = tmp_path / f"{make.__name__}.jsonl"
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            optimizer = Redundancy(network.parameters(), make)
            with GradNormRecorder(optimizer, path, buffer_steps=4) as recorder:
                for _ in range(5):
                    step()
                    recorder.record()
                    optimizer.step()
        header, found = rows(path)
        assert (header["optimizer"], len(found)) == (make.__name__, 5)
        assert len(told) == count
        assert all("the own norm of AdamW is not recorded; own_norm=" in str(each.message) for each in told)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_run_that_supersedes_another_is_read_with_its_own_plan(tmp_path, suffix):
    path = tmp_path / f"run.{suffix}"
    for planned, updates, step in ((300, 300, None), (200, 150, 0), (200, 30, 150), (300, 1, 0), (200, 200, 0)):
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9 if planned == 200 else 0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recorder = GradNormRecorder(optimizer, path, step=step, total_steps=planned)
        for _ in range(updates):
            weight.grad = torch.rand(2)
            recorder.record(loss=1.0)
            optimizer.step()
        recorder.close()
    assert path.read_text().count("refine-gradient-norms") == 4  # the third run had the same header as the second
    norms = read_norms(path)
    assert (norms.steps.size, norms.total_steps, norms.source.settings["momentum"]) == (200, 200, 0.9)


@pytest.mark.parametrize("whole_lines", [0, 1, 2])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_log_whose_lines_end_in_carriage_returns_is_left_as_it_is(tmp_path, suffix, whole_lines):
    """What follows the last newline is no line that was cut."""
    path = tmp_path / f"run.{suffix}"
    train(path, step=None)
    lines = path.read_bytes().splitlines()
    text = b"".join(line + (b"\n" if i < whole_lines else b"\r") for i, line in enumerate(lines))
    path.write_bytes(text)
    with pytest.warns(RefineWarning, match="lines end in carriage returns: the file is damaged; move it away") as told:
        train(path, step=3)
    assert len(told) == 1
    assert path.read_bytes() == text


def test_a_path_that_cannot_be_warns_once(network):
    with pytest.warns(RefineWarning, match=r"cannot write a\\x00b\.jsonl: embedded null byte"):
        GradNormRecorder(torch.optim.SGD(network.parameters(), lr=0.1), "a\0b.jsonl").close()
