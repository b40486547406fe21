"""refine compare, retarget, continue and families, as a user meets them."""

import csv
import io
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from refine import Schedule, constant, cosine, linear

KEYS = ["name", "relative_bound", "tight_bound", "peak_lr_ratio", "warmup_fraction", "area", "final_factor"]
KEYS += ["predicted_loss", "predicted_low", "predicted_high"]


def test_compare_a_log_with_families(run, falling_log, tmp_path):
    done = run("compare", falling_log, "linear", "wsd:0.2", "--optimizer", "sgd", "--plot", "c.png")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["bound", "guarantee", "best", "peak", "LR", "90", "%", "at", "area", "last"]
    assert {line.split("  ")[0].strip() for line in lines[1:5]} == {"refined", "linear", "wsd:0.2", "logged run"}
    assert "a bound of convex theory" in done.stdout
    assert "20 updates" in done.stdout
    assert lines[-1] == "wrote     c.png"
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    again = run("compare", falling_log, "linear", "--plot", "c.png")
    assert again.exit_code == 1
    assert again.stderr.startswith("Error: c.png exists; ")


def test_compare_as_json_and_csv(run, falling_log):
    rows = json.loads(run("compare", falling_log, "cosine", "--json").stdout, parse_constant=pytest.fail)
    assert [list(row) for row in rows] == [KEYS] * 4  # refined and recommended, which the logged run was
    assert {row["name"] for row in rows} >= {"refined", "cosine"}
    assert rows[0]["relative_bound"] == 1.0
    assert [row["relative_bound"] for row in rows] == sorted(row["relative_bound"] for row in rows)
    table = list(csv.DictReader(io.StringIO(run("compare", falling_log, "cosine", "--csv").stdout)))
    assert [row["name"] for row in table] == [row["name"] for row in rows]
    assert [float(row["area"]) for row in table] == [row["area"] for row in rows]
    assert run("compare", "linear", "--total-steps", 10, "--json", "--csv").exit_code == 2


def test_compare_schedule_files_on_constant_norms_or_those_of_a_log(run, falling_log):
    linear(400, warmup_steps=40).save("mine.csv")
    alone = json.loads(run("compare", "mine.csv", "cosine", "--json").stdout)
    assert {row["name"] for row in alone} == {"mine.csv", "cosine"}
    (mine,) = (row for row in alone if row["name"] == "mine.csv")
    assert mine["peak_lr_ratio"] == 1.0  # the first one named
    on_log = run("compare", "mine.csv", "--norms", falling_log, "--json")
    assert json.loads(on_log.stdout) == json.loads(run("compare", "mine.csv", falling_log, "--json").stdout)
    assert json.loads(run("compare", "mine.csv", "cosine", "--norms", "constant", "--json").stdout) == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["linear", "--norms", "1/t", "--total-steps", 9], "--norms is '1/t'; it must be a log or the word constant"),
        (["linear", "--norms", "constant"], "families have no length of their own; give the number of updates"),
        (["cosin", "--total-steps", 9], "schedule 'cosin' is not a file and not a family (did you mean cosine?)"),
        (["linear:a=1", "--total-steps", 9], "has the parameter 'a=1'"),
        (["a.csv", "b.csv"], "b.csv has 20 updates and a.csv 10; schedules of one length are compared"),
        (["nowhere/run.log"], "schedule 'nowhere/run.log' is not a file and not a family"),
        (["linear", "--total-steps", 9, "--plot", "c.gif"], "c.gif must end in one of .png, .pdf, .svg"),
    ],
)
def test_compare_refuses_on_one_line(run, arguments, message):
    linear(10).save("a.csv")
    linear(20).save("b.csv")
    done = run("compare", *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_log_and_norms_contradict_each_other(run, falling_log):
    done = run("compare", falling_log, "linear", "--norms", "constant")
    assert done.exit_code == 1
    assert "names the norms" in done.stderr


def test_retarget_keeps_the_warmup_and_writes_all_formats(run, tmp_path):
    linear(1000, warmup_steps=100).save("s.json")
    done = run("retarget", "s.json", "--total-steps", 4000)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "s.json: 1,000 updates become 4,000, 100 of them warmup"
    assert "for 4 times the updates, real runs wanted 0.72 to 0.87 times the peak" in done.stdout
    names = {path.name for path in (tmp_path / "retargeted").iterdir()}
    assert names == {
        "schedule.csv", "schedule.csv-metadata.json", "schedule.json", "refined_schedule.py", "schedule.png",
    }  # fmt: skip
    found = Schedule.load("retargeted/schedule.json")
    assert_allclose(found.multiplier, linear(4000, warmup_steps=100).multiplier, rtol=1e-12)
    assert run("retarget", "s.json", "--total-steps", 4000).exit_code == 1  # exists
    assert run("retarget", "s.json").exit_code == 2
    assert run("retarget", "s.json", "--total-steps", 5, "--batch-size", 1, 2).exit_code == 2


def test_retarget_to_another_batch_size(run):
    linear(1000, warmup_steps=100).save("s.json")
    done = run("retarget", "s.json", "--batch-size", 256, 1024, "--json", "--no-plot")
    data = json.loads(done.stdout)
    assert (data["old_steps"], data["total_steps"], data["warmup_steps"]) == (1000, 250, 25)
    assert "4 times the peak learning rate with SGD (arXiv:1706.02677)" in data["advice"][0]
    assert data["files"]["figure"] is None
    assert Schedule.load(data["files"]["json"]).total_steps == 250


def test_retarget_refuses_on_one_line(run):
    linear(1000, warmup_steps=100).save("s.json")
    done = run("retarget", "s.json", "--total-steps", 50)
    assert done.exit_code == 1
    assert done.stderr == (
        "Error: the warmup takes 100 updates of 50, which leaves no anneal: give a longer run, or a shorter warmup "
        "(refine retarget --warmup-steps)\n"
    )
    assert "cannot read none.json" in run("retarget", "none.json", "--total-steps", 5).stderr


@pytest.fixture
def constant_log(make_log):
    t = np.arange(1, 601)
    return make_log(step=t, grad_norm=np.ones(600), lr=0.1 * constant(600, warmup_steps=20).multiplier)


def test_continue_cools_down_from_a_constant_phase(run, constant_log, tmp_path):
    done = run("continue", constant_log, "--at", 600, "--total-steps", 800, "--optimizer", "sgd")
    assert done.exit_code == 0, done.output
    first = done.stdout.splitlines()[0]
    assert first == "600 of 800 updates are done: anneal over 200 from 0.0872 on (now 0.1)"
    longer = run("continue", constant_log, "--at", 300, "--total-steps", 800, "--no-plot", "--out", "longer")
    assert longer.stdout.startswith("300 of 800 updates are done: hold 0.1 for ")
    assert "last_epoch=599" in done.stdout
    assert (tmp_path / "continued" / "schedule.png").is_file()
    h = Schedule.load("continued/schedule.json").multiplier
    assert h.size == 800
    assert_allclose(h[:600], constant(600, warmup_steps=20).multiplier, rtol=1e-6)
    now = run("continue", constant_log, "--at", 600, "--cooldown-steps", 100, "--json", "--force", "--no-plot")
    data = json.loads(now.stdout, parse_constant=pytest.fail)
    assert (data["total_steps"], data["hold_steps"], data["anneal_steps"]) == (700, 0, 100)
    assert Schedule.load(data["files"]["csv"]).total_steps == 700


def test_the_module_of_a_continued_run_resumes_at_the_next_update(run, constant_log, monkeypatch):
    import runpy

    import torch

    run("continue", constant_log, "--at", 600, "--total-steps", 800, "--no-plot")
    made = runpy.run_path("continued/refined_schedule.py")
    schedule = Schedule.load("continued/schedule.json")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    scheduler = made["make_scheduler"](optimizer, last_epoch=599)
    for t in range(600, 800):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * schedule.at(t), abs=2e-4)
        optimizer.step()
        scheduler.step() if t < 799 else None


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--at", 600], 2, "give --total-steps N or --cooldown-steps N"),
        (["--at", 600, "--cooldown-steps", 9, "--total-steps", 700], 2, "give --total-steps N or --cooldown-steps N"),
        (["--at", 600, "--cooldown-steps", 9, "--rewarm"], 2, "--rewarm goes with --total-steps"),
        (["--at", 600, "--total-steps", 600], 1, "total_steps is 600 and 600 updates are done; it must be more"),
        (["--at", 900, "--total-steps", 1000], 1, "the logged rates end at update 600; name an earlier one"),
    ],
)
def test_continue_refuses(run, constant_log, tmp_path, options, code, message):
    done = run("continue", constant_log, *options)
    assert done.exit_code == code
    assert message in done.stderr
    assert not (tmp_path / "continued").exists()


def test_continue_after_a_finished_cosine_needs_rewarming_and_says_so(run, make_log):
    t = np.arange(1, 401)
    rates = 0.1 * cosine(400).multiplier
    rates[-1] = 0.0
    log = make_log(step=t, grad_norm=np.ones(400), lr=rates)
    done = run("continue", log, "--at", 400, "--total-steps", 800)
    assert done.exit_code == 1
    assert "the present rate is 0" in done.stderr
    assert "--rewarm" in done.stderr
    assert run("continue", log, "--at", 400, "--total-steps", 800, "--rewarm").exit_code == 0


def test_families_lists_every_family(run):
    from refine.families import FAMILIES

    listed = [line.split()[0] for line in run("families").stdout.splitlines()]
    assert listed == list(FAMILIES)
