import json
import re
from unicodedata import normalize

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from refine.cli.main import main

from refine import RefineError, Schedule
from refine.batch import FIELDS, fit_each, fit_groups, folder_names
from refine.files import safe_names
from refine.readers import ReadOptions


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three good logs, named from outside the folder that they are in."""
    monkeypatch.chdir(tmp_path)
    t = np.arange(1, 301)
    names = []
    for seed in range(3):
        norms = (1 + 3 * np.exp(-t / 15)) * np.random.default_rng(seed).lognormal(sigma=0.1, size=300)
        names.append(f"run{seed}.csv")
        rows = "".join(f"{a},{b!r}\n" for a, b in zip(t.tolist(), norms.tolist(), strict=True))
        (tmp_path / names[-1]).write_text("step,grad_norm\n" + rows)
    return names


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_each_run_gets_the_folder_and_the_schedule_that_it_gets_alone(runs, tmp_path):
    how = ("--no-plot", "--optimizer", "sgd")
    done = invoke("fit", *runs, "--each", "--out", "all", *how)
    assert (done.exit_code, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    titles = "run points updates optimizer warmup norms recommended refined at bound use peak LR warnings"
    assert head.split() == titles.split()
    assert [row.split()[:5] for row in rows[:3]] == [[f"run{i}", "300", "300", "sgd", "6"] for i in range(3)]
    assert {(row.split()[6], row.split()[-2]) for row in rows[:3]} == {("linear", "unknown")}
    assert rows[3].startswith("columns   norms: at the end over those at 5 % of the run; ")
    assert rows[-1] == "wrote     all/: a folder for each of 3 of 3 runs"
    for title in ("norms", "recommended", "peak LR", "refined at", "bound", "use"):
        assert f"{title}: " in " ".join(" ".join(rows[3:-1]).split())
    for name in runs:
        alone = invoke("fit", name, "--out", "alone", "--force", *how)
        assert alone.exit_code == 0
        for schedule in ("refined", "recommended"):
            each = Schedule.load(f"all/{name[:-4]}/{schedule}.csv")
            assert each.multiplier.tolist() == Schedule.load(f"alone/{schedule}.csv").multiplier.tolist()
            assert each.provenance["source"] == str(tmp_path / name)
    refined = [Schedule.load(f"all/run{i}/refined.csv").multiplier.tolist() for i in range(3)]
    assert refined[0] != refined[1] != refined[2]


def test_a_run_that_fails_stops_no_other(runs, tmp_path):
    (tmp_path / "bad.csv").write_text("step,loss\n1,2\n")
    done = invoke("fit", "bad.csv", *runs, "--each", "--out", "all", "--no-plot", "--json")
    assert done.exit_code == 1
    assert "bad.csv: no column is known to be a gradient norm" in done.stderr
    rows = json.loads(done.stdout)
    assert [row["error"] is None for row in rows] == [False, True, True, True]
    assert rows[1]["folder"] == "all/run0"
    assert set(rows[1]) == {"log", "run", "folder", "error", *FIELDS}
    assert (rows[1]["recommended"], rows[1]["default"]) == ("linear", "recommended")
    assert 0.3 < rows[1]["rho"] < 1 > rows[1]["refined_bound"] > 0.9
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["run0", "run1", "run2"]


def test_an_existing_result_stops_no_other_and_hides_no_error_of_the_log(runs, tmp_path):
    assert invoke("fit", runs[0], "--each", "--out", "all", "--no-plot").exit_code == 0
    stamp = (tmp_path / "all" / "run0" / "recommended.csv").stat().st_mtime_ns
    (tmp_path / "all" / "missing").mkdir()
    (tmp_path / "all" / "missing" / "recommended.csv").write_text("")
    done = invoke("fit", *runs, "missing.csv", "--each", "--out", "all", "--no-plot")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "wrote     all/: a folder for each of 2 of 4 runs"
    assert done.stderr.splitlines() == [
        "Error: all/run0/recommended.csv exists; choose another folder with --out, or replace it with --force",
        "Error: missing.csv does not exist; check the path",
    ]
    assert (tmp_path / "all" / "run0" / "recommended.csv").stat().st_mtime_ns == stamp
    assert invoke("fit", *runs, "--each", "--out", "all", "--no-plot", "--force").exit_code == 0


def test_a_log_named_again_counts_once(runs, tmp_path):
    (tmp_path / "link.csv").symlink_to("run0.csv")
    alone = json.loads(invoke("fit", "run0.csv", "--no-plot", "--json").stdout)
    for again, said in (
        ("run0.csv", "run0.csv is named twice"),
        ("./run0.csv", "./run0.csv is the same file as run0.csv"),
        (str(tmp_path / "run0.csv"), f"{tmp_path}/run0.csv is the same file as run0.csv"),
        ("link.csv", "link.csv is the same file as run0.csv"),
    ):
        found = json.loads(invoke("fit", "run0.csv", again, "--no-plot", "--json", "--force").stdout)
        assert f"{said}: it counts once" in found["warnings"]
        assert found["pooled_logs"] == alone["pooled_logs"]
        assert found["source"] == "run0.csv"
        assert found["schedules"] == alone["schedules"]
    assert "it counts once" in invoke("fit", "run0.csv", "link.csv", "--no-plot", "--force").stdout
    found = json.loads(invoke("fit", "run0.csv", "run1.csv", "link.csv", "--no-plot", "--json", "--force").stdout)
    assert (found["pooled_logs"], found["source"]) == (2, "run0.csv, run1.csv")
    assert "run0.csv: link.csv is the same file as run0.csv: it counts once" in found["warnings"]
    assert "link.csv is the same file as run0.csv: it counts once" in invoke("inspect", "run0.csv", "link.csv").stdout


def test_each_fits_a_log_named_again_once_and_says_so(runs, tmp_path):
    (tmp_path / "link.csv").symlink_to("run0.csv")
    done = invoke("fit", *runs, "link.csv", "run1.csv", "--each", "--out", "all", "--no-plot")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "wrote     all/: a folder for each of 3 of 5 runs"
    assert done.stderr.splitlines() == [
        "Error: link.csv is the same file as run0.csv: it is fitted once; leave it out",
        "Error: run1.csv is named twice: it is fitted once; leave it out",
    ]
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["run0", "run1", "run2"]


def test_several_logs_without_each_are_pooled(runs, tmp_path):
    done = invoke("fit", *runs, "--no-plot", "--json")
    found = json.loads(done.stdout)
    assert (found["pooled_logs"], found["source"]) == (3, "run0.csv, run1.csv, run2.csv")
    (tmp_path / "loss.csv").write_text("step,loss\n1,2\n2,1\n")
    done = invoke("fit", *runs, "loss.csv", "--no-plot", "--out", "x")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: loss.csv: no gradient norm, while 3 other logs hold norms")


def test_rates_in_a_file_of_their_own_are_joined(runs, tmp_path):
    rates = "".join(f"{t},{0.1 * min(t / 30, 1)!r}\n" for t in range(1, 301))
    (tmp_path / "rates.csv").write_text("step,lr\n" + rates)
    for order in ([runs[0], "rates.csv"], ["rates.csv", runs[0]]):
        found = json.loads(invoke("fit", *order, "--no-plot", "--json", "--force").stdout)
        assert (found["prior_peak_lr"], found["prior_warmup_steps"], found["columns"]["lr"]) == (0.1, 30, "lr")


def test_all_runs_of_one_log_are_fitted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{r},{t},{1 + (r == 'a/b') + 1 / t!r}\n" for r in ("a/b", "c") for t in range(1, 101))
    (tmp_path / "runs.csv").write_text("run,step,grad_norm\n" + rows)
    done = invoke("fit", "runs.csv", "--each", "--no-plot", "--json")
    rows = json.loads(done.stdout)
    assert [(row["run"], row["folder"], row["error"]) for row in rows] == [
        ("a/b", "refined/runs/a_b", None),
        ("c", "refined/runs/c", None),
    ]
    alone = ("--run", "c", "--no-plot", "--out", "alone")
    assert invoke("fit", "runs.csv", *alone).exit_code == 0
    each, alone = (Schedule.load(f"{folder}/refined.csv") for folder in ("refined/runs/c", "alone"))
    assert each.multiplier.tolist() == alone.multiplier.tolist()
    table = invoke("fit", "runs.csv", "--each", "--no-plot", "--force").stdout
    assert [line.split()[0] for line in table.splitlines()[1:3]] == ["runs/a_b", "runs/c"]


def test_folders_are_made_by_many_processes_at_once(tmp_path):
    from refine.files import write_files

    def write(i):
        write_files({tmp_path / "a" / "b" / f"{i}" / "x.txt": ["x"]})

    import joblib

    for _ in range(5):
        joblib.Parallel(n_jobs=6, backend="threading")(joblib.delayed(write)(f"{_}-{i}") for i in range(6))
    assert len(list((tmp_path / "a" / "b").iterdir())) == 30


def test_options_of_each_need_it(runs):
    done = invoke("fit", *runs, "--jobs", "2")
    assert done.exit_code == 2
    assert "--jobs, --engine and --address go with --each" in done.stderr
    done = invoke("fit", *runs, "--each", "--address", "tcp://x", "--out", "y")
    assert done.exit_code == 1
    assert "--address is for --engine dask or ray" in done.stderr


def test_folders_are_named_after_their_logs():
    assert folder_names(["a/x.csv", "b/x.csv", "/abs/y.json.gz"]) == ["a_x", "b_x", "y"]
    assert folder_names(["x.csv", "x.csv", "../x.csv", "."]) == ["x", "x-2", "x-3", "log"]
    assert folder_names(["lr0.1.csv", "lr0.01.csv", "v1.2.log.GZ", "b.c"]) == ["lr0.1", "lr0.01", "v1.2", "b.c"]
    assert folder_names(["a/m.csv", "a/m.json", "b/n.csv"]) == ["m.csv", "m.json", "n"]
    assert folder_names([".hidden", "-", ".csv"]) == ["hidden", "-", "csv"]
    assert folder_names(["s3://bucket/run.csv", "https://me:pw@host/x.csv?token=1#a"]) == ["run", "x"]
    assert folder_names(["https://me:pw@host/x.csv?token=1", "x.csv"]) == ["host_x", "x"]


def test_names_that_can_stay_do_and_the_others_are_told_apart():
    assert safe_names(["a_b", "a_b", "a_b-2"]) == ["a_b", "a_b-3", "a_b-2"]
    assert safe_names(["a/b", "a_b", "a_b-2"]) == ["a_b-3", "a_b", "a_b-2"]
    assert safe_names(["x", "X", "x-2"]) == ["x", "X-3", "x-2"]
    assert safe_names(["\u00e9", "e\u0301", "\ufb01", "fi"]) == ["\u00e9", "e\u0301-2", "\ufb01", "fi-2"]
    assert safe_names(["CON", "nul.txt", "com1 .x", "Lpt\u00b9", "console"]) == [
        "_CON",
        "_nul.txt",
        "_com1 .x",
        "_Lpt\u00b9",
        "console",
    ]
    assert safe_names(["", ".", " . ", "...a. ", "\n\x1b[31m", "\udc80"], "log") == [
        "log",
        "log-2",
        "log-3",
        "a",
        "__[31m",
        "_",
    ]
    assert safe_names(["lr=0.1, wd=1e-4", "layers.0", 'a:*?"<>|b']) == ["lr=0.1, wd=1e-4", "layers.0", "a_______b"]
    long = safe_names(["x" * 300, "x" * 255, "x" * 300 + "2", "\u00e9" * 150])
    assert [len(name.encode()) for name in long] == [255, 255, 255, 254]
    assert long[1:3] == ["x" * 255, "x" * 253 + "-3"]


_NAMES = st.one_of(
    st.text(max_size=6),
    st.text(alphabet="aA_-2./\\ \n\u00e9\u0301\u0130\u0131\u00df\ufb01", max_size=6),
    st.sampled_from(["a_b", "a_b-2", "a_b-2-2", "a/b", "CON", "con.x", "LPT1", "x" * 255, "X" * 300, "\u00e9" * 128]),
)


@given(st.lists(_NAMES, max_size=12), st.sampled_from(["run", "group"]))
def test_folder_names_are_as_many_as_names_and_safe_everywhere(names, word):
    found = safe_names(names, word)
    assert len(found) == len(names)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        for fold in (str.lower, str.upper, str.casefold):
            assert len({normalize(form, fold(normalize(form, name))) for name in found}) == len(names)
    for name, folder in zip(names, found, strict=True):
        assert 1 <= len(folder.encode()) <= 255
        assert folder.isprintable()
        assert not set(folder) & set('<>:"/\\|?*')
        assert not folder.startswith((".", " "))
        assert not folder.endswith((".", " "))
        assert not re.fullmatch(r"(con|prn|aux|nul|(com|lpt)\d)", folder.split(".")[0].strip().lower())
        if safe_names([name], word) == [name]:  # it can stay, unless an equal one came first
            assert folder == name or any(_same(name, other) for other in names[: names.index(name) + 1])
    assert safe_names(found, word) == found


def _same(name, other):
    return normalize("NFKC", name.upper().casefold()) == normalize("NFKC", other.upper().casefold())


def test_runs_whose_names_look_like_another_ones_folder_lose_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["a/b", "a_b", "a_b-2", "A_b", "lr0.1", "lr0.01", "x" * 300, "x" * 300 + "y", "con", "\x1b[31m"]
    rows = [f"{name},{t},{1 + i + 1 / t!r}\n" for i, name in enumerate(names) for t in range(1, 61)]
    (tmp_path / "runs.csv").write_text("run,step,grad_norm\n" + "".join(rows))
    done = invoke("fit", "runs.csv", "--each", "--out", "out", "--no-plot", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert [row["run"] for row in found] == sorted(names)
    sources = {Schedule.load(row["folder"]).provenance["run"] for row in found}
    assert sources == set(names)
    table = invoke("fit", "runs.csv", "--each", "--out", "table", "--no-plot").stdout.splitlines()[1 : len(names) + 1]
    shown = [line.split("  ")[0] for line in table]
    assert len(set(shown)) == len(names)
    assert [len(line) for line in shown if "..." in line] == [40, 40]


@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_gives_the_same(runs):
    distributed = pytest.importorskip("distributed")
    how = {"optimizer": "sgd", "published": True}
    local = fit_each(runs, "local", ReadOptions(), how, plot=False)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        remote = fit_each(runs, "remote", ReadOptions(), how, plot=False, engine="dask", address=address)
    assert [{**row, "folder": ""} for row in remote] == [{**row, "folder": ""} for row in local]
    for name in ("run0", "run1", "run2"):
        assert Schedule.load(f"remote/{name}/refined.csv") == Schedule.load(f"local/{name}/refined.csv")


def test_a_missing_cluster_is_one_line(runs):
    pytest.importorskip("distributed")
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(RefineError, match=r"--engine ray is not installed: pip install ray$"):
            fit_each(runs, "x", ReadOptions(), {}, engine="ray")


@pytest.fixture
def of_groups(tmp_path, monkeypatch):
    """A log with the norms of three param groups, as `refine.torch.GradNormRecorder` writes it."""
    monkeypatch.chdir(tmp_path)
    header = {"format": "refine-gradient-norms", "format_version": 1, "optimizer": "AdamW", "clipping": "pre"}
    lines = [json.dumps(header)]
    for t in range(1, 201):
        row = {"step": t, "grad_norm_l2": 2.0 + 1 / t, "grad_norm_dual": 3.0 + 6 / t, "lr": 0.1 * min(t / 20, 1)}
        for name, norm in (("decay", 1.0 + 4 / t), ("a/b", 1.0 + t / 200), ("../x\n", float("nan"))):
            row |= {f"grad_norm_dual/group:{name}": norm, f"lr/group:{name}": row["lr"] / 2}
        lines.append(json.dumps(row).replace("NaN", "null"))
    (tmp_path / "run.jsonl").write_text("\n".join(lines) + "\n")
    return "run.jsonl"


def test_each_param_group_gets_a_schedule(of_groups, tmp_path):
    done = invoke("fit", of_groups, "--per-group", "--no-plot", "--out", "out")
    assert done.exit_code == 1
    head, *lines = done.stdout.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("wrote "))
    rows, wrote, use = lines[:2], lines[place], lines[place + 1]
    assert lines[2].startswith("columns   norms: ")
    assert head.split()[:3] == ["group", "points", "updates"]
    assert [row.split()[:4] for row in rows] == [["decay", "200", "200", "adam"], ["a/b", "200", "200", "adam"]]
    assert wrote == "wrote     out/: a folder for each of 2 of 3 groups"
    assert use == ('use       ScheduleLR(optimizer, {"decay": "out/decay", "a/b": "out/a_b"})')
    assert done.stderr == (
        'Error: group "../x\\n": run.jsonl: column "grad_norm_dual/group:../x\\n" holds no finite number in 200 rows; '
        "choose another with --column\n"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_b", "decay"]
    for name, folder in (("decay", "decay"), ("a/b", "a_b")):
        columns = ("--column", f"grad_norm_dual/group:{name}", "--lr-column", f"lr/group:{name}")
        assert invoke("fit", of_groups, *columns, "--no-plot", "--out", "alone", "--force").exit_code == 0
        for kind in ("refined.json", "recommended.json", ""):
            of_group, alone = (Schedule.load(f"{place}/{kind}") for place in (f"out/{folder}", "alone"))
            assert of_group == alone
        assert of_group.provenance["columns"]["norm"] == f"grad_norm_dual/group:{name}"
        assert of_group.provenance["prior_peak_lr"] == 0.05
    assert invoke("fit", of_groups, "--no-plot", "--out", "whole").exit_code == 0
    assert Schedule.load("whole").provenance["columns"]["lr"] == "lr"


def test_groups_as_json_and_from_python(of_groups):
    done = invoke("fit", of_groups, "--per-group", "--no-plot", "--json", "--out", "out")
    found = json.loads(done.stdout)
    assert [(row["log"], row["group"], row["folder"], row["error"] is None) for row in found] == [
        ("run.jsonl", "decay", "out/decay", True),
        ("run.jsonl", "a/b", "out/a_b", True),
        ("run.jsonl", "../x\n", "out/_x_", False),
    ]
    assert found == fit_groups(of_groups, "out", ReadOptions(), {}, force=True, plot=False)
    with pytest.raises(RefineError, match=r"out/decay/recommended\.csv exists; choose another folder with --out, or"):
        fit_groups(of_groups, "out", ReadOptions(), {}, plot=False)


def test_group_folders_lie_below_the_given_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [
        "..",
        ".",
        "",
        "/",
        "../../etc",
        "a",
        "A",
        "a-2",
        "a",
        "x" * 300,
        "\u00e9/\U0001f600",
        "con\0",
        ".git",
        "layers.0",
    ]
    names = list(dict.fromkeys(names))
    header = '{"format": "refine-gradient-norms", "format_version": 1, "optimizer": "SGD", "clipping": "pre"}'
    rows = [{"step": t, "grad_norm_l2": 1.0} | {f"grad_norm_l2/group:{n}": 1 + 1 / t for n in names} for t in (1, 2, 3)]
    (tmp_path / "run.jsonl").write_text("\n".join([header, *map(json.dumps, rows)]) + "\n")
    found = fit_groups("run.jsonl", "out", ReadOptions(), {}, plot=False)
    assert [(row["group"], row["error"]) for row in found] == [(name, None) for name in names]
    folders = [row["folder"] for row in found]
    assert len({folder.lower() for folder in folders}) == len(names)
    assert sorted(folders) == sorted(f"out/{path.name}" for path in (tmp_path / "out").iterdir())
    assert not any(path.name.startswith(".") for path in (tmp_path / "out").iterdir())
    done = invoke("fit", "run.jsonl", "--per-group", "--no-plot", "--out", "printed")
    assert done.exit_code == 0
    use = next(line for line in done.stdout.splitlines() if line.startswith("use "))
    mapping = eval(use.removeprefix("use       ScheduleLR(optimizer, ").removesuffix(")"))  # is Python
    assert {name: place.replace("printed/", "out/") for name, place in mapping.items()} == {
        row["group"]: row["folder"] for row in found
    }


def test_per_group_takes_one_log_that_has_groups(of_groups, runs):
    for more in (["--each"], [runs[0]]):
        done = invoke("fit", of_groups, "--per-group", *more)
        assert done.exit_code == 2
        assert "Error: --per-group takes one LOG, and not --each" in done.stderr
    done = invoke("fit", runs[0], "--per-group")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        'Error: run0.csv: no column holds "grad_norm" of one param group; record the next run with '
        "GradNormRecorder(..., per_group=True)\n"
    )
