import json

import numpy as np
import pandas as pd
import pytest

from refine import linear

from .test_loss_table import KEYS
from .test_prediction import STEPS
from .test_prediction import run as made


@pytest.fixture
def log():
    def write(name="log.csv", curve=None, **columns):
        curve = made() if curve is None else curve
        known = {"step": curve.steps, "val_loss": curve.losses, "lr": curve.rates[curve.steps - 1], **columns}
        pd.DataFrame({k: v for k, v in known.items() if v is not None}).to_csv(name, index=False)
        return name

    return write


def test_predict_prints_a_table(run, log):
    done = run("predict", log(), "--schedule", "cosine", "--schedule", "constant", "--total-steps", "6k")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("log       log.csv: validation loss, column val_loss; 86 points from update 600")
    at = next(i for i, line in enumerate(lines) if line.split()[:2] == ["final", "loss"])
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["linear", "cosine", "constant"]
    assert lines[at + 3].endswith("worse")


def test_predict_as_json(run, log):
    found = json.loads(run("predict", log(), "--json", "--peak-lr", "2e-3").stdout, parse_constant=pytest.fail)
    assert found.keys() == {"law", "predictions"}
    assert [list(row) for row in found["predictions"]] == [KEYS] * 5
    assert {row["peak_lr"] for row in found["predictions"]} == {0.002}
    assert found["law"]["files"] == ["log.csv"]
    chosen = json.loads(run("predict", log(), "--json", "--choose", "hold").stdout)
    assert chosen["choice"]["what"] == "hold"
    assert chosen["choice"]["k"] > 0.0


@pytest.mark.parametrize("what", ["cooldown", "peak", "horizon", "hold"])
def test_choices(run, log, what):
    done = run("predict", log(), "--choose", what)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("choice    ")


def test_a_target_loss(run, log):
    done = run("predict", log(), "--choose", "horizon", "--target-loss", "2.4")
    assert "a loss of 2.4 takes " in done.stdout


def test_a_figure_is_written_once(run, log, tmp_path):
    done = run("predict", log(), "--plot", "p.png")
    assert done.stdout.splitlines()[-1] == "wrote     p.png"
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    again = run("predict", log(), "--plot", "p.png")
    assert (again.exit_code, again.stderr.split(";")[0]) == (1, "Error: p.png exists")
    assert run("predict", log(), "--plot", "p.png", "--force").exit_code == 0


def test_several_logs_a_schedule_file_and_a_law(run, log):
    linear(5_000).save("mine.csv")
    other = log("other.csv", made(linear(STEPS, warmup_steps=100), seed=3))
    done = run("predict", log(), other, "--schedule", "mine.csv", "--law", "bound-power", "-v")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.count("\nlog ") + done.stdout.startswith("log ") == 2
    assert "mine.csv" in done.stdout
    assert "bound-power: L = " in done.stdout


def test_a_log_without_rates_and_the_schedule_it_ran(run, log):
    name = log(lr=None)
    done = run("predict", name, "--prior-schedule", "wsd:0.3,warmup_steps=100", "--peak-lr", "1e-3", "--json")
    known = json.loads(run("predict", log("b.csv"), "--json").stdout)
    found = json.loads(done.stdout)
    assert found["predictions"][0]["final_loss"] == pytest.approx(known["predictions"][0]["final_loss"], rel=2e-3)


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({}, ["--schedule", "cosin"], "schedule 'cosin' is not a file and not a family (did you mean cosine?)"),
        ({}, ["--law", "magic"], "law is 'magic'; it must be one of memory, "),
        ({}, ["--plot", "p.gif"], "p.gif must end in one of .png, .pdf, .svg"),
        ({}, ["--loss-column", "los"], 'no column is called "los" (--loss-column)'),
        ({}, ["--target-loss", "2"], "--target-loss goes with --choose horizon"),
        ({}, ["--choose", "horizon", "--target-loss", "0.1"], "not reached in 64,000 updates"),
        ({"lr": None}, [], "the log holds no learning rates; columns: "),
        ({"lr": 1e-3}, [], "the rate never drops, so nothing says what a decay gains"),
        ({"val_loss": np.nan}, [], "no column is known to be a loss"),
    ],
)
def test_predict_refuses_on_one_line(run, log, tmp_path, columns, arguments, message):
    done = run("predict", log(**columns), *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_schedules_and_a_choice_exclude_each_other(run, log):
    assert run("predict", log(), "--choose", "hold", "--schedule", "linear").exit_code == 2
    assert run("predict").exit_code == 2
    assert run("predict", "none.csv").exit_code == 1
