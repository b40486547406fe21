import json

import numpy as np
import pytest

from refine import read_norms
from refine.explanation import explain


def test_explain_prints_the_chain_and_draws_it(run, falling_log, tmp_path):
    done = run("explain", falling_log, "--optimizer", "sgd")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    found = explain(read_norms(falling_log, optimizer="sgd"), optimizer="sgd")
    assert lines[:6] == run("fit", falling_log, "--optimizer", "sgd").stdout.splitlines()[:6]
    assert done.stdout == found.summary() + "\nwrote        explain.png\n"
    numbers = [row[:12].split() for row in lines if row[:2].strip().isdigit()]
    assert numbers == [[str(i), name] for i, (name, _) in enumerate(found.steps, 1)]
    assert max(map(len, lines)) <= 115
    assert (tmp_path / "explain.png").read_bytes().startswith(b"\x89PNG")


def test_explain_never_overwrites_unless_forced(run, falling_log, tmp_path):
    (tmp_path / "explain.png").write_text("mine")
    done = run("explain", falling_log)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Error: explain.png exists; choose another place, or overwrite it (--force)\n"
    assert (tmp_path / "explain.png").read_text() == "mine"
    assert run("explain", falling_log, "--force").exit_code == 0
    assert (tmp_path / "explain.png").read_bytes().startswith(b"\x89PNG")


def test_explain_json_is_one_object(run, falling_log):
    done = run("explain", falling_log, "--json", "-o", "why.svg", "--optimizer", "sgd", "--total-steps", 123)
    data = json.loads(done.stdout, parse_constant=pytest.fail)
    assert data["figure"] == "why.svg"
    assert (data["optimizer"], data["exponent"], data["prior_peak_lr"]) == ("sgd", 2, 0.1)
    assert [step["name"] for step in data["steps"]][:3] == ["read", "smooth", "rates"]
    assert set(data["changes"]) == {"one rise, one fall", "refined", "recommended"}
    assert data["changes"]["refined"]["updates"] > 100
    assert data["changes"]["recommended"] == {"updates": 0, "most": 0.0}


def test_options_reach_the_library(run, make_log):
    log = make_log(a=range(1, 41), b=[0.5, 0.7] * 20)
    data = json.loads(run("explain", log, "--column", "b", "--step-column", "a", "--optimizer", "adam", "--json",
                          "--prior-schedule", "linear:warmup_steps=4", "--peak-lr", 0.3, "--smoothing-fraction",
                          0.5).stdout)  # fmt: skip
    assert (data["prior_warmup_steps"], data["prior_peak_lr"], data["smoothing_fraction"]) == (4, 0.3, 0.5)


def test_several_logs_are_pooled(run, make_log):
    t = np.arange(1, 101)
    logs = [make_log(name=f"{i}.csv", step=t, grad_norm=1 + i + np.exp(-t / 9), lr=101.0 - t) for i in range(3)]
    done = run("explain", *logs, "--optimizer", "adam")
    assert done.exit_code == 0
    assert "the median of 3 logs" in " ".join(done.stdout.split())
    fitted = json.loads(run("fit", *logs, "--optimizer", "adam", "--json").stdout)
    found = json.loads(run("explain", *logs, "--optimizer", "adam", "--json", "--force").stdout)
    assert {key: found[key] for key in fitted if key != "files"} == {k: v for k, v in fitted.items() if k != "files"}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_the_reader_notes_is_told_as_fit_tells_it(run, falling_log, optimizer):
    how = (falling_log, falling_log, "--optimizer", optimizer)
    explained, fitted = run("explain", *how), run("fit", *how, "--no-plot")
    assert (explained.exit_code, fitted.exit_code) == (0, 0)
    said = f"remark       {falling_log} is named twice: it counts once"
    for done in (explained, fitted):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("remark") and "named twice" in line)
        assert said.startswith(line)
    assert (
        f"{falling_log} is named twice: it counts once"
        in json.loads(run("explain", *how, "--json", "--force").stdout)["warnings"]
    )


def test_errors_are_one_line(run, make_log, falling_log, tmp_path):
    for arguments, code, text in (
        (("missing.csv",), 1, "does not exist"),
        ((falling_log, "-o", "a.gif"), 1, "must end in one of .png, .pdf, .svg"),
        ((make_log("step,loss\n1,1\n2,1\n", "b.csv"),), 1, "no column is known"),
        ((falling_log, "--smoothing-fraction", 2), 2, "not in the range"),
        ((), 2, "Missing argument"),
    ):
        done = run("explain", *arguments)
        assert (done.exit_code, done.stdout) == (code, "")
        assert text in done.stderr
        assert code == 2 or len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("explain*"))


def test_hostile_names_do_not_reach_the_terminal(run, make_log):
    log = make_log("step,\x1b[31mgrad_norm $x^$\n" + "".join(f"{t},0.5\n" for t in range(1, 41)), "a $x^$ \x1b[2J.csv")
    done = run("explain", log, "--column", "\x1b[31mgrad_norm $x^$", "--optimizer", "adam")
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert r"\x1b[2J.csv" in done.stdout
