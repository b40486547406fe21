import io
import json
import os
import subprocess
import sys

import pytest
from refine.cli.main import main

import refine
from refine import Schedule, linear


def names(folder):
    return sorted(path.name for path in folder.iterdir())


JSON_KEYS = {
    "already_ran",
    "assumptions",
    "default",
    "files",
    "first_step",
    "flags",
    "format",
    "last_step",
    "norm_kind",
    "not_recommended",
    "optimizer",
    "peak_lr_ratio",
    "points",
    "published",
    "recommended",
    "refined_computed",
    "schedules",
    "source",
    "suggested_peak_lr",
    "warnings",
    "worth",
}
SCHEDULE_KEYS = {
    "decay_exponent",
    "decay_r2",
    "name",
    "peak_fraction",
    "peak_lr_ratio",
    "relative_bound",
    "suggested_peak_lr",
    "warmup_fraction",
}
FILES = [
    "recommended.csv",
    "recommended.csv-metadata.json",
    "recommended.json",
    "refined.csv",
    "refined.csv-metadata.json",
    "refined.json",
    "refined_schedule.py",
    "schedule.png",
]


def test_fit_writes_its_files_and_says_so(run, falling_log, tmp_path):
    done = run("fit", falling_log)
    assert (done.exit_code, done.stderr) == (0, "")
    titles = [line[:13].strip() for line in done.stdout.splitlines()]
    assert list(filter(None, titles)) == ["refined", "recommended", "why", "read", "peak", "remark", "wrote", "use"]
    assert done.stdout.splitlines()[-2:] == [
        "wrote        refined/: refined.csv, .json, recommended.csv, .json, "
        "refined_schedule.py, schedule.png, CSV metadata",
        'use          scheduler = make_scheduler(optimizer, schedule="recommended")  '
        '# or "refined": not recommended here',
    ]
    assert names(tmp_path / "refined") == FILES
    for name in ("refined", "recommended"):
        saved = Schedule.load(f"refined/{name}.csv")
        assert saved.total_steps == 400
        assert saved == Schedule.load(f"refined/{name}.json")
        assert saved.provenance["name"] == name


def test_json_is_one_object_with_all_keys(run, falling_log):
    done = run("fit", falling_log, "--json", "--optimizer", "sgd")
    data = json.loads(done.stdout, parse_constant=pytest.fail)
    assert set(data) >= JSON_KEYS
    assert not {"mode", "decision", "guard", "gain_over_linear", "gain_over_cosine"} & set(data)
    assert (data["points"], data["first_step"], data["last_step"]) == (400, 1, 400)
    assert (data["format"], data["norm_kind"], data["optimizer"]) == ("CSV", "l2", "sgd")
    assert (data["recommended"]["name"], data["recommended"]["k"], data["published"]) == ("linear", 1.0, False)
    assert set(data["recommended"]) == {"name", "k", "hold", "spoke", "reason", "peak_advice"}
    assert "progress_ratio" not in data
    assert data["files"] == {
        "refined.csv": "refined/refined.csv",
        "refined.json": "refined/refined.json",
        "recommended.csv": "refined/recommended.csv",
        "recommended.json": "refined/recommended.json",
        "module": "refined/refined_schedule.py",
        "figure": "refined/schedule.png",
    }
    rows = {row["name"]: row for row in data["schedules"]}
    assert list(rows) == ["refined", "recommended", "linear", "cosine"]
    assert all(set(row) >= SCHEDULE_KEYS for row in rows.values())
    assert 0 < rows["refined"]["warmup_fraction"] <= rows["refined"]["peak_fraction"] < 0.3
    assert rows["linear"]["relative_bound"] == 1.0 > rows["refined"]["relative_bound"]
    assert data["peak_lr_ratio"] == rows["recommended"]["peak_lr_ratio"] > 0
    assert data["suggested_peak_lr"] == rows["recommended"]["suggested_peak_lr"]
    assert set(data["worth"]) == {"cases", "median", "low", "high", "unit"}


def test_json_knows_null_and_no_nan(run, make_log):
    log = make_log("step,grad_norm\n1,1\n2,1\n")
    data = json.loads(run("fit", log, "--json", "--no-plot").stdout, parse_constant=pytest.fail)
    assert data["peak_lr_ratio"] is data["suggested_peak_lr"] is data["prior"] is data["files"]["figure"] is None
    assert {row["decay_exponent"] for row in data["schedules"]} == {None}
    assert data["recommended"]["name"] == "linear"
    assert data["refined_computed"] is False
    assert data["not_recommended"] == ["2 norms are too few"]


def test_worth_is_null_where_no_case_is_alike(run, root):
    data = json.loads(run("fit", root / "data" / "shakespeare_adamw.csv", "--json", "--no-plot").stdout)
    assert data["worth"] is None
    assert (data["recommended"]["name"], data["recommended"]["spoke"]) == ("held", "loss")
    assert data["already_ran"] is False
    assert json.loads(run("inspect", root / "data" / "shakespeare_adamw.csv", "--json").stdout)["decision"] == "held"


@pytest.mark.parametrize("published", [False, True])
def test_published(run, falling_log, published):
    how = ("--json", "--no-plot", "--total-steps", 123, "--optimizer", "sgd")
    data = json.loads(run("fit", falling_log, *how, *["--published"] * published).stdout)
    assert data["published"] is published
    result = refine.fit(falling_log, optimizer="sgd", total_steps=123, published=published)
    assert Schedule.load("refined/refined.json") == result.refined
    plain = refine.fit(falling_log, optimizer="sgd", total_steps=123)
    assert Schedule.load("refined/recommended.json") == result.recommended == plain.recommended
    assert (result.refined == plain.refined) is not published


def test_the_library_gives_the_same(run, falling_log):
    run("fit", falling_log, "--optimizer", "sgd", "--smoothing-fraction", 0.2)
    norms = refine.read_norms(falling_log)
    result = refine.fit(norms, optimizer="sgd", smoothing=0.2)
    assert Schedule.load("refined/refined.csv") == result.refined
    assert Schedule.load("refined/recommended.csv") == result.recommended


def test_options_reach_the_reader(run, make_log):
    log = make_log("a,b,c\n" + "".join(f"{t},0.5,{0.1 / t}\n" for t in range(1, 41)))
    done = run("fit", log, "--column", "b", "--step-column", "a", "--lr-column", "c", "--norm-kind", "l1", "--json",
               "--logged-steps", 44, "--no-plot", "--peak-lr", 0.3, "--published")  # fmt: skip
    data = json.loads(done.stdout)
    assert data["columns"] == {"norm": "b", "step": "a", "lr": "c"}
    assert (data["norm_kind"], data["logged_steps"], data["prior_peak_lr"]) == ("l1", 44, 0.3)
    assert data["published"] is True


def test_a_prior_schedule_by_name_or_file(run, make_log):
    log = make_log("step,grad_norm\n" + "".join(f"{t},0.5\n" for t in range(1, 41)))
    named = json.loads(run("fit", log, "--prior-schedule", "linear:warmup_steps=4", "--json", "--no-plot").stdout)
    linear(40, warmup_steps=4).save("prior.csv")
    filed = json.loads(run("fit", log, "--prior-schedule", "prior.csv", "--json", "--no-plot", "--force").stdout)
    assert named["prior_warmup_steps"] == filed["prior_warmup_steps"] == 4
    assert named["peak_lr_ratio"] == filed["peak_lr_ratio"] == pytest.approx(1.0)


BAD_INPUT = {
    "missing": (None, "does not exist; check the path"),
    "empty": (b"", "the file is empty"),
    "header": (b"step,grad_norm\n", "the file holds a header and no rows"),
    "one row": (b"step,grad_norm\n1,2\n", "at least 2 are needed"),
    "all nan": (b"step,grad_norm\n1,nan\n2,nan\n", "holds no finite number"),
    "text": (b"step,grad_norm\n1,1\n2,x\n", 'holds "x" in row 2'),
    "no column": (b"step,loss\n1,1\n2,1\n", "no column is known to be a gradient norm"),
    "two columns": (b"step,a/grad_norm,b/grad_norm\n1,1,1\n2,1,1\n", '"a/grad_norm", "b/grad_norm"'),
    "encoding": (b"step,grad_norm,\xff\n1,1,1\n2,1,1\n", "is not UTF-8"),
    "binary": (bytes(range(256)), "the file is binary"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_exit_code_1_and_nothing_written(run, make_log, tmp_path, case):
    content, message = BAD_INPUT[case]
    log = tmp_path / "log.csv" if content is None else make_log(content)
    before = names(tmp_path)
    for extra in ([], ["--json"]):
        done = run("fit", log, *extra)
        assert (done.exit_code, done.stdout) == (1, "")
        assert message in done.stderr
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1
        assert names(tmp_path) == before


def test_a_directory_an_existing_output_and_a_file_in_the_way(run, falling_log, tmp_path):
    for arguments, message in (
        (("fit", tmp_path), "name the log in it"),
        (("fit", falling_log, "--column", "nope"), 'no column is called "nope" (--column); columns: "step"'),
        (("fit", falling_log, "--out", falling_log), "is not a folder; choose another one with --out"),
        (("fit", falling_log, "--out", "/proc/refine"), "cannot write /proc/refine"),
        (("fit", falling_log, "--prior-schedule", "best"), "families: constant, cosine, linear"),
        (("plot", "linear"), "linear has no length of its own"),
        (("plot", "none.csv"), "cannot read none.csv"),
        (("plot", "refined/refined_schedule.py"), "is code; name its folder, or a .csv or .json file beside it"),
        (("plot", "linear", "--total-steps", "9", "-o", "x.gif"), "must end in one of .png, .pdf, .svg"),
    ):
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert names(tmp_path) == ["log.csv"]
    assert run("fit", falling_log, "--no-plot").exit_code == 0
    stamp = (tmp_path / "refined" / "refined.csv").stat().st_mtime_ns
    done = run("fit", falling_log)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "refined/recommended.csv exists; choose another folder with --out, or replace it with --force" in done.stderr
    assert (tmp_path / "refined" / "refined.csv").stat().st_mtime_ns == stamp
    assert run("fit", falling_log, "--force").exit_code == 0


def test_an_error_of_the_log_comes_before_an_output_that_exists(run, falling_log, tmp_path):
    (tmp_path / "log.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "there").mkdir()
    for name in ("there/refined.csv", "there.png", "there.csv"):
        (tmp_path / name).write_text("")
    steps = ("--total-steps", 500)
    for command, out in (
        (("fit",), ("--out", "there")),
        (("fit", "--each"), ("--out", ".")),
        (("fit", "--per-group"), ("--out", "there")),
        (("continue", "--at", 400, *steps), ("--out", "there")),
        (("explain",), ("--out", "there.png")),
        (("compare", "linear", "--norms"), ("--plot", "there.png")),
        (("plot", "linear", *steps, "--norms"), ("--out", "there.png")),
        (("convert",), ("--out", "there.csv")),
        (("inspect",), ("--plot", "there.png")),
    ):
        done = run(*command, "log.png", *out)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), command
        assert "log.png" in done.stderr
        assert "exists" not in done.stderr
        if "--per-group" not in command:
            done = run(*command, falling_log, *(out if "--each" not in command else ("--out", "each")))
            assert ("exists; " in done.stderr) == ("--each" not in command), command
    for command, out in (("retarget", ("--out", "there")), ("plot", ("--out", "there.png"))):
        assert "none.json" in run(command, "none.json", *steps, *out).stderr
        linear(9).save("s.json", force=True)
        assert "exists; " in run(command, "s.json", *steps, *out).stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--total-steps", "0"],
        ["--total-steps", "x"],
        ["--smoothing-fraction", "2"],
        ["--logged-steps", "0"],
        ["--every", "0"],
        ["--peak-lr", "0"],
        ["--peak-lr", "nan"],
        ["--smoothing-fraction", "nan"],
        ["--optimizer", "muon"],
        ["--mode", "refined"],
        ["--no-guard"],
        ["--nope"],
    ],
)
def test_usage_errors_exit_with_2(run, falling_log, tmp_path, options):
    done = run("fit", falling_log, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert names(tmp_path) == ["log.csv"]


def test_a_bug_is_one_line_too(run, falling_log, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("refine.batch.refine_norms", fail)
    done = run("fit", falling_log)
    assert done.exit_code == 1
    assert done.stderr == (
        "Error: refine failed (ZeroDivisionError: two lines); "
        "this is a bug: REFINE_DEBUG=1 shows where, please report it\n"
    )


def test_a_rough_schedule_warns_on_one_line(run, make_log):
    log = make_log("step,grad_norm\n" + "".join(f"{t},{1 + t * 7919 % 97}\n" for t in range(1, 9001)))
    rough = ("--smoothing-fraction", 0, "--no-plot", "--published", "--optimizer", "sgd")
    done = run("fit", log, *rough)
    assert done.exit_code == 0
    assert done.stderr.startswith("Warning: refined is too rough for the module")
    assert done.stderr.count("\n") == 1
    again = run("fit", log, *rough, "--force", "--json")
    assert "too rough for the module" in json.loads(again.stdout)["warnings"][-1]


def test_plot(run, falling_log, tmp_path):
    run("fit", falling_log)
    done = run(
        "plot", "refined/refined.json", "cosine", "linear:warmup_fraction=0.05", "--norms", falling_log, "-o", "a.svg"
    )
    assert (done.exit_code, done.stdout) == (0, "wrote     a.svg\n")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert "exists" in run("plot", "refined/refined.json", "-o", "a.svg").stderr
    assert run("plot", "refined/refined.json", "-o", "a.svg", "--force").exit_code == 0
    assert run("plot", "constant", "cosine", "--total-steps", 100, "-o", "b.pdf").exit_code == 0
    assert names(tmp_path) == ["a.svg", "b.pdf", "log.csv", "refined"]


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_has_help_with_examples_and_explained_options(run, command):
    done = run(command, "--help")
    assert done.exit_code == 0
    assert f"refine {command} " in done.stdout.split("Examples:")[1]
    for option in main.commands[command].params:
        if option.param_type_name == "option":
            assert option.help
    assert "\b" not in done.stdout


def test_the_console_script_and_the_module_are_the_same(tmp_path):
    script = os.path.join(os.path.dirname(sys.executable), "refine")
    for command in ([script], [sys.executable, "-m", "refine.cli"]):
        done = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == f"refine, version {refine.__version__}\n"


def test_inspect_prints_a_report_or_json(run, falling_log, tmp_path):
    done = run("inspect", falling_log, "--plot", "log.png")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "points       400 of 400 rows" in done.stdout
    assert done.stdout.endswith("wrote        log.png\n")
    assert (tmp_path / "log.png").read_bytes().startswith(b"\x89PNG")
    again = run("inspect", falling_log, "--plot", "log.png")
    assert (again.exit_code, again.stdout) == (1, "")
    data = json.loads(run("inspect", falling_log, "--json").stdout)
    keys = {"format", "points", "first_step", "last_step", "norm_kind", "clipping", "lr_alignment", "dropped"}
    assert keys < set(data)
    assert (data["points"], data["warmup_steps"]) == (400, 20)


@pytest.mark.parametrize("width", [80, 100, 115, 120])
def test_inspect_fits_the_terminal(run, root, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("shakespeare_adamw", "fashion_mnist_sgd"):
        lines = run("inspect", root / "data" / f"{name}.csv").stdout.splitlines()
        assert not [line for line in lines if len(line) > width and len(line[13:].split()) > 1]
        beside = any(line.startswith("checks       points") for line in lines)
        assert beside or width == 80  # there a long table is below its title
        assert beside != ("checks" in lines)
        assert "             rho: the smoothed norm at the end over that at 5 % of the run" in lines


def test_inspect_shows_logs_that_are_too_short_to_fit(run, make_log):
    assert json.loads(run("inspect", make_log(step=[5, 10], grad_norm=[1.0, 2.0]), "--json").stdout)["points"] == 2


def test_convert_writes_what_fit_reads(run, make_log, tmp_path):
    log = make_log("step,grad_norm,loss,lr\n2,0.1,,\n1,0.30000000000000004,2.5,0.1\n3,nan,1,0.1\n4,1e-300,1,\n")
    done = run("convert", log, "-o", "tidy.csv")
    assert (done.exit_code, done.stdout) == (0, "wrote     tidy.csv: 3 rows\n")
    text = "step,grad_norm,lr,loss\n1,0.30000000000000004,0.1,2.5\n2,0.1,,\n4,1e-300,,1.0\n"
    assert (tmp_path / "tidy.csv").read_text() == text
    assert run("convert", log, "-o", "-").stdout == text
    assert run("convert", "tidy.csv", "-o", "-").stdout == text
    assert "tidy.csv exists" in run("convert", log, "-o", "tidy.csv").stderr


def test_convert_keeps_the_other_norms(run, make_log):
    log = make_log("step,grad_norm,grad_norm_l1,grad_2.0_norm/w\n1,1,10,0.5\n2,2,20,0.25\n")
    assert run("convert", log, "-o", "-").stdout == (
        "step,grad_norm,lr,loss,grad_norm_l1,grad_norm_l2/w\n1,1.0,,,10.0,0.5\n2,2.0,,,20.0,0.25\n"
    )


def test_convert_writes_the_norm_that_fit_uses(run, make_log):
    log = make_log("step,learning/grad_norm,learning/raw_grad_norm\n1,1,5\n2,1,6\n")
    assert run("convert", log, "-o", "-").stdout == "step,grad_norm,lr,loss\n1,5.0,,\n2,6.0,,\n"
    assert "would hold CSV; name it .csv" in run("convert", log, "-o", "x.parquet").stderr


def test_formats_lists_every_format(run):
    from refine.readers import FORMATS

    done = run("formats")
    assert done.exit_code == 0
    for format in FORMATS:
        assert any(line.startswith(format.name) for line in done.stdout.splitlines())


def test_a_log_from_standard_input(tmp_path, falling_log):
    script = os.path.join(os.path.dirname(sys.executable), "refine")
    with open(falling_log, "rb") as stream:
        done = subprocess.run([script, "inspect", "-", "--json"], stdin=stream, capture_output=True, check=True)
    assert json.loads(done.stdout)["points"] == 400
    assert done.stderr == b""


def test_the_progress_bar_is_for_terminals_and_for_the_patient(monkeypatch):
    from refine.cli import progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, patience, shown in ((Terminal(), 0.0, True), (Terminal(), 60.0, False), (io.StringIO(), 0.0, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(progress, "_PATIENCE_S", patience)
        with progress.reading() as report:
            for share in (0.25, 0.5, 1.0):
                if report is not None:
                    report(share)
        assert ("reading" in stream.getvalue()) == shown
        assert (report is None) == (not stream.isatty())
