"""Hostile names and contents: escaped where they are shown, refused in one line where they cannot be read."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib.util
import itertools
import json
import lzma
import os
import re
import sqlite3
import threading
import time
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from refine.cli.main import main

from refine import RefineError, fit, read_norms
from refine.default import decays_linearly
from refine.export.tidy import tidy_csv
from refine.health import inspect
from refine.prior import Prior
from refine.readers import opening

PLAIN = "step,grad_norm\n" + "".join(f"{t},{1 + 4 / t}\n" for t in range(1, 101))
LINES = "".join(f'{{"step": {t}, "grad_norm": {1 + 4 / t}}}\n' for t in range(1, 101))
NAMES = [
    "a\nb",
    "a\r\nb",
    "quote'\"`",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202e\u2028\x85",
    "x" * 5000,
    '"""\nraise SystemExit("pwned")\n"""',
    "{__import__('os').system('touch pwned')}",
    "%s%n{0}$HOME`id`",
]


def refusal(*arguments, **options) -> str:
    with pytest.raises(RefineError) as caught:
        read_norms(*arguments, **options)
    return one_line(str(caught.value))


def one_line(text: str) -> str:
    assert text.isprintable()
    assert 10 < len(text) <= 1000
    return text


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def invoke(*arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke


def refused_by_all_commands(run, log: Path) -> str:
    """The error of ``inspect``, ``convert`` and ``fit``: one and the same line; no file is left behind."""
    before = list(Path.cwd().iterdir())
    for command in (["inspect"], ["convert", "-o", "out.csv"], ["fit", "--no-plot", "--out", "new"]):
        done = run(*command, log)
        assert (done.exit_code, done.stdout) == (1, "")
        assert re.fullmatch(r"Error: [^\n]+\n", done.stderr)
        assert list(Path.cwd().iterdir()) == before
    return one_line(done.stderr.strip())


class TestNames:
    @pytest.mark.parametrize("name", [name for name in NAMES if len(name) < 200 and "/" not in name])
    def test_of_files(self, run, tmp_path, name):
        path = tmp_path / f"{name}.csv"
        path.write_text(PLAIN)
        shown = inspect(read_norms(path)).summary()
        assert all(line.isprintable() for line in shown.split("\n"))
        done = run("fit", path, "--json")
        assert json.loads(done.stdout)["source"] == str(path)
        assert_plain_module(Path("refined/refined_schedule.py"))
        path.write_text("step\n1\n")
        refused_by_all_commands(run, path)

    def test_with_a_nul(self):
        assert "cannot read a\\x00b.csv" in refusal("a\0b.csv")

    def test_that_are_no_unicode(self, run, tmp_path):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")
        Path(path).write_text(PLAIN)
        assert "\\udcff.csv" in inspect(read_norms(path)).summary()
        assert run("fit", path).exit_code == 0
        assert_plain_module(Path("refined/refined_schedule.py"))
        assert "\\udcfe.csv does not exist" in refusal(path.replace("\udcff", "\udcfe"))

    @pytest.mark.parametrize("name", [*NAMES, "\0", "\ud800"])
    def test_of_columns_runs_and_settings(self, run, tmp_path, name):
        rows = [
            {"step": t, f"{name}/grad_norm": 1 + 4 / t, f"grad/norm/w{name}": 1.0, f"{name}/lr": 0.1}
            for t in range(1, 101)
        ]
        state = {"global_step": 100, "max_steps": 100, "log_history": rows}
        log = tmp_path / "trainer_state.json"
        log.write_text(json.dumps(state))
        (tmp_path / "args.json").write_text(json.dumps({"optim": name, "lr": 10**400, "warmup_steps": name}))
        norms = read_norms(log, extras=True)
        found = inspect(norms)
        assert norms.source.columns["norm"] == f"{name}/grad_norm"
        assert norms.source.settings["optimizer"] == name
        assert "learning_rate" not in norms.source.settings
        assert all(line.isprintable() for line in found.summary().split("\n"))
        assert json.loads(json.dumps(found.to_dict()))["columns"]["norm"] == f"{name}/grad_norm"
        "".join(tidy_csv(norms)).encode()
        assert one_line(refusal(log, column=name)).count("no column is called") == 1
        assert run("fit", log).exit_code == 0
        assert_plain_module(Path("refined/refined_schedule.py"))
        assert not Path("pwned").exists()
        lines = tmp_path / "runs.jsonl"
        lines.write_text("".join(json.dumps({**row, "run": f"{name}{row['step'] % 2}"}) + "\n" for row in rows))
        assert "the log holds 2 runs" in refused_by_all_commands(run, lines)
        assert read_norms(lines, run=f"{name}1").steps.size == 50


def assert_plain_module(path: Path) -> None:
    """The generated module is ASCII and defines what any such module defines."""
    assert path.read_bytes().isascii()
    spec = importlib.util.spec_from_file_location("generated", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert 0.0 <= module.multiplier(0) <= 1.0


class TestSizes:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("table", PLAIN + "101," + "1" * 10**6 + "\n"),
            ("no newline", PLAIN + "101," + "1" * 10**6),
            ("jsonl", LINES + '{"step": 101, "grad_norm": "' + "1" * 10**6 + '"}\n'),
            ("console", "step 1 | grad_norm 0.5\n" * 5 + "step 2 | grad_norm " + "1" * 10**6 + "\n"),
            ("megatron", " iteration 1/ 9 | grad norm: 0.5 |\n" * 5 + " iteration 2/ 9 | x: " + "1" * 10**6 + " |\n"),
        ],
    )
    def test_a_line_over_the_limit(self, run, make_log, monkeypatch, name, text):
        monkeypatch.setattr(opening, "MAX_LINE", 2**19)
        assert "a line is longer than" in refused_by_all_commands(run, make_log(text))

    def test_a_document_over_the_limit(self, run, make_log, monkeypatch):
        monkeypatch.setattr(opening, "MAX_JSON", 1000)
        assert "is the limit; write its rows as JSON lines" in refused_by_all_commands(
            run, make_log(json.dumps([json.loads(line) for line in LINES.splitlines()]))
        )

    def test_a_line_of_64_mib(self, make_log):
        log = make_log(b"step,grad_norm\n1," + b"1" * 2**26)
        started = time.perf_counter()
        assert "a line is longer than 16 MiB" in refusal(log)
        assert time.perf_counter() - started < 5.0

    @pytest.mark.parametrize(
        "text",
        [
            "x," * 60_000 + "\n1,2\n",
            "step,grad_norm\n" + "1," * 500_000 + "\n",
            "".join(json.dumps({f"k{i}_{j}": 1 for j in range(100)}) + "\n" for i in range(600)),
            json.dumps({f"k{i}": [1] for i in range(60_000)}),
            "metric,step,value\n" + "".join(f"k{i},1,1\n" for i in range(60_000)),
        ],
        ids=["table", "row", "lines", "document", "long"],
    )
    def test_more_columns_than_a_run_has(self, make_log, text):
        assert re.search("more than 50,000 (columns|fields)", refusal(make_log(text)))

    def test_a_folder_of_too_many_files(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(opening, "MAX_ENTRIES", 10)
        for i in range(20):
            (tmp_path / "many" / str(i)).mkdir(parents=True)
        assert "the folder holds more than 10 files; name the log in it" in refused_by_all_commands(
            run, tmp_path / "many"
        )

    @pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**6])
    def test_deep_json(self, run, make_log, text):
        assert "nested too deeply to be a log" in refused_by_all_commands(run, make_log(text))

    def test_a_deep_line_among_others(self, make_log):
        log = make_log(LINES + '{"a":' * 10**5 + "1" + "}" * 10**5 + '\n{"step": 101, "grad_norm": 1}\n')
        assert dict(read_norms(log).dropped) == {"lines without an object": 1}

    def test_deep_json_in_a_state_and_beside_it(self, make_log, tmp_path):
        (tmp_path / "args.json").write_text("[" * 10**5)
        (tmp_path / "training_args.yaml").write_text("[" * 10**4)
        rows = [{"step": t, "grad_norm": 1.0 + 1 / t} for t in range(1, 30)]
        text = json.dumps({"global_step": 1, "log_history": rows})
        assert read_norms(make_log(text, "trainer_state.json")).source.settings == {}
        deep = text[:-1] + ', "x": ' + "[" * 10**5 + "]" * 10**5 + "}"
        assert "nested too deeply" in refusal(make_log(deep, "trainer_state.json"))


def packed(method: str, data: bytes) -> bytes:
    if method == "zstd":
        return pytest.importorskip("zstandard").compress(data)
    return {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}[method](data)


class TestBombs:
    @pytest.mark.parametrize("method", ["gzip", "bzip2", "xz", "zstd"])
    def test_by_ratio(self, run, make_log, method):
        log = make_log(packed(method, bytes(2**26 + 2**21)), "log.csv")
        assert "unpack to more than 300 times as many, as no log does" in refused_by_all_commands(run, log)

    @pytest.mark.parametrize("method", ["gzip", "bzip2", "xz", "zstd"])
    def test_by_size(self, make_log, monkeypatch, method):
        monkeypatch.setattr(opening, "MAX_UNPACKED", 2**20)
        noise = np.random.default_rng(0).bytes(2**21)
        assert "come out of it; name a smaller log" in refusal(make_log(packed(method, noise)))

    @pytest.mark.parametrize("method", ["gzip", "bzip2", "xz", "zstd"])
    def test_cut_off_or_in_layers(self, make_log, method):
        data = packed(method, PLAIN.encode())
        assert read_norms(make_log(data)).steps.size == 100
        assert "damaged" in refusal(make_log(data[:-20]))
        refusal(make_log(packed(method, data)))  # not unpacked twice

    def test_ten_gigabytes_are_refused_by_their_beginning(self, tmp_path):
        log = tmp_path / "bomb.gz"
        block = zlib.compressobj(9, zlib.DEFLATED, -15)
        zeros = block.compress(bytes(2**24)) + block.flush(zlib.Z_FULL_FLUSH)
        with open(log, "wb") as stream:
            stream.write(b"\x1f\x8b\x08\0\0\0\0\0\0\3")
            for _ in range(640):
                stream.write(zeros)
        assert log.stat().st_size > 10**7
        started = time.perf_counter()
        assert "300 times" in refusal(log)
        assert time.perf_counter() - started < 5.0

    def test_in_an_npz(self, run, tmp_path):
        log = tmp_path / "bomb.npz"
        with zipfile.ZipFile(log, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("grad_norm.npy", "w") as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**7,)})
            for _ in range(80):
                stream.write(bytes(10**6))
        assert "as no log does" in refused_by_all_commands(run, log)

    @pytest.mark.parametrize("shape", ["(10**9,)", "(1000000000000,)", "(-1,)", "(2**62, 2**62)"])
    def test_an_array_that_claims_to_be_large(self, run, tmp_path, shape):
        for suffix in ("npy", "npz"):
            head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            data = b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head.encode() + bytes(80)
            log = tmp_path / f"log.{suffix}"
            if suffix == "npy":
                log.write_bytes(data)
            else:
                with zipfile.ZipFile(log, "w") as archive:
                    archive.writestr("grad_norm.npy", data)
            refused_by_all_commands(run, log)


class TestPlaces:
    def test_links_to_themselves(self, run, tmp_path):
        (tmp_path / "loop.csv").symlink_to("loop.csv")
        assert "loop.csv is a link to itself" in refused_by_all_commands(run, tmp_path / "loop.csv")
        (tmp_path / "gone.csv").symlink_to("nowhere.csv")
        assert "gone.csv does not exist" in refused_by_all_commands(run, tmp_path / "gone.csv")

    def test_folders_that_hold_themselves(self, run, tmp_path):
        version = tmp_path / "logs" / "version_0"
        version.mkdir(parents=True)
        (version / "again").symlink_to(tmp_path / "logs")
        (version / "loop.csv").symlink_to("loop.csv")
        (version / "root").symlink_to("/")
        assert "holds no log that refine knows" in refused_by_all_commands(run, tmp_path / "logs")
        (version / "metrics.csv").write_text(
            "epoch,grad_2.0_norm_total,step\n" + "".join(f"0,1.5,{t}\n" for t in range(30))
        )
        assert read_norms(tmp_path / "logs").steps.size == 30

    @pytest.mark.parametrize("name", ["zero", "null", "full", "tty"])
    def test_devices(self, run, name):
        if not Path("/dev", name).exists():
            pytest.skip("no such device")
        assert f"/dev/{name} is not a regular file" in refused_by_all_commands(run, Path("/dev", name))

    def test_a_pipe_that_nobody_writes_to(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(opening, "PATIENCE_S", 0.05)
        os.mkfifo(tmp_path / "pipe")
        assert "is a pipe that nobody writes to" in refused_by_all_commands(run, tmp_path / "pipe")

    def test_a_pipe_whose_writer_is_slow(self, tmp_path, monkeypatch):
        monkeypatch.setattr(opening, "PATIENCE_S", 2.0)
        os.mkfifo(tmp_path / "pipe")

        def write():
            time.sleep(0.1)
            with open(tmp_path / "pipe", "w") as stream:
                for line in PLAIN.splitlines(keepends=True):
                    stream.write(line)
                    stream.flush()
                time.sleep(0.1)

        writer = threading.Thread(target=write)
        writer.start()
        assert read_norms(tmp_path / "pipe").steps.size == 100
        writer.join()

    def test_what_is_no_file_in_a_folder_of_runs(self, tmp_path):
        """None of these is opened: a pipe and a device would never end."""
        for place in (
            "trainer_state.json",
            "version_0/metrics.csv",
            "a/events.out.tfevents.1",
            "b/run.wandb",
            "0/meta.yaml",
        ):
            for kind in ("folder", "pipe", "device", "loop"):
                path = tmp_path / kind / place
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "folder":
                    path.mkdir()
                elif kind == "pipe":
                    os.mkfifo(path)
                else:
                    path.symlink_to("/dev/zero" if kind == "device" else path.name)
        for kind in ("folder", "pipe", "device", "loop"):
            assert "holds no log that refine knows" in refusal(tmp_path / kind)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
    def test_without_permission(self, run, make_log):
        log = make_log(PLAIN)
        log.chmod(0)
        assert "Permission denied" in refused_by_all_commands(run, log)


class TestCode:
    """Nothing in a log is run."""

    def test_yaml_tags_beside_a_log(self, tmp_path):
        text = "optimizer: !!python/object/apply:os.system ['touch pwned']\nlr: 0.5\n"
        (tmp_path / "hparams.yaml").write_text(text.replace("touch pwned", f"touch {tmp_path}/pwned"))
        (tmp_path / "metrics.csv").write_text(
            "epoch,grad_2.0_norm_total,step\n" + "".join(f"0,1.5,{t}\n" for t in range(30))
        )
        assert read_norms(tmp_path).source.settings == {}
        assert not (tmp_path / "pwned").exists()

    def test_yaml_that_unfolds_without_end(self, tmp_path):
        text = "a0: &a0 {lr: 0.5}\n" + "".join(
            f"a{i}: &a{i} {{" + ", ".join(f"k{j}: *a{i - 1}" for j in range(200)) + "}\n" for i in range(1, 6)
        )
        (tmp_path / "hparams.yaml").write_text(text + "optimizer: sgd\n")
        (tmp_path / "metrics.csv").write_text(
            "epoch,grad_2.0_norm_total,step\n" + "".join(f"0,1.5,{t}\n" for t in range(30))
        )
        assert read_norms(tmp_path).source.settings == {"optimizer": "sgd", "learning_rate": 0.5}

    def test_a_pickle_in_an_array(self, run, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "pwned"),)

        for suffix in ("npy", "npz"):
            log = tmp_path / f"log.{suffix}"
            with open(log, "wb") as stream:
                array = np.array([Evil()], dtype=object)
                np.save(stream, array, allow_pickle=True) if suffix == "npy" else np.savez(stream, grad_norm=array)
            assert "Python objects, which only a pickle can restore" in refused_by_all_commands(run, log)
        assert not (tmp_path / "pwned").exists()

    @pytest.mark.parametrize("table", ["metrics", "runs", "params", "configs"])
    def test_views_in_a_database_are_not_asked(self, tmp_path, table):
        log = tmp_path / "log.db"
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS key, i AS value, "
        endless += "i AS step, i AS run_uuid, 0 AS is_nan, i AS name, '' AS lifecycle_stage, '' AS config FROM n"
        with contextlib.closing(sqlite3.connect(log)) as database, database:
            if table != "metrics":
                database.execute("CREATE TABLE metrics (key, value, step, run_uuid, is_nan)")
                rows = [("grad_norm", 1 + 1 / t, t, "a", 0) for t in range(1, 31)]
                database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?)", rows)
            database.execute(f"CREATE VIEW {table} AS {endless}")
        if table == "metrics":
            assert "holds no table of metrics" in refusal(log)
        else:
            assert read_norms(log).steps.size == 30

    def test_a_database_whose_pages_lead_in_circles(self, tmp_path):
        """Nine levels of inner pages, each of whose cells leads to the same next one: 1e13 rows in 700 KB."""
        log = tmp_path / "log.db"
        with contextlib.closing(sqlite3.connect(log)) as database, database:
            database.execute("PRAGMA page_size = 512")
            database.execute("CREATE TABLE metrics (key, value, step, run_uuid, is_nan)")
            database.executemany(
                "INSERT INTO metrics VALUES ('grad_norm', 1.5, ?, 'a', 0)", ((t,) for t in range(20_000))
            )
        data = bytearray(log.read_bytes())
        inner = [at for at in range(512, len(data), 512) if data[at] == 5][:10]
        for at, following in itertools.pairwise(inner):
            page = (following // 512 + 1).to_bytes(4, "big")
            cells = int.from_bytes(data[at + 3 : at + 5], "big")
            places = [at + int.from_bytes(data[at + 12 + 2 * i :][:2], "big") for i in range(cells)]
            for place in (at + 8, *places):
                data[place : place + 4] = page
        log.write_bytes(data)
        assert "the SQLite file cannot be read (interrupted)" in refusal(log)

    def test_the_source_holds_nothing_that_could(self):
        forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "eval", "exec", "execfile"}
        forbidden |= {"unsafe_load", "full_load", "load_all", "FullLoader", "UnsafeLoader"}
        root = Path(opening.__file__).parents[1]
        sources = [*root.rglob("*.py"), *(root.parent / "cli").rglob("*.py")]
        assert len(sources) > 40
        for path in sources:
            with open(path, "rb") as stream:
                tokens = list(tokenize.tokenize(stream.readline))
            code = path.read_text()
            names = {
                token.string
                for before, token in itertools.pairwise(tokens)
                # optimizer.eval() of a package is no eval().
                if token.type == tokenize.NAME and (before.string, token.string) != (".", "eval")
            }
            assert not names & forbidden, path
            assert "yaml.load(" not in code, path
            assert "allow_pickle=True" not in code, path
            assert all("allow_pickle=False" in call for call in re.findall(r"(?:np\.load|read_array)\([^\n]*", code)), (
                path
            )


class TestFoundByFuzzing:
    """What tests/fuzz/fuzz_readers.py has found, each mechanism once."""

    def test_norms_that_are_hardly_numbers_are_dropped(self, make_log):
        norms = read_norms(make_log(PLAIN + "101,1e308\n102,5e-324\n103,-5e-324\n"))
        assert dict(norms.dropped) == {"non-finite": 1, "zero": 2}
        wild = read_norms(
            make_log("step,grad_norm,lr\n" + "".join(f"{t},1e{9 * t - 300},1e300\n" for t in range(1, 67)))
        )
        assert json.dumps(inspect(wild).to_dict(), allow_nan=False)

    @pytest.mark.parametrize("setting", ["NaN", "Infinity", "1e309", "1" + "0" * 400, "true", "[]", '""', "null"])
    def test_settings_that_are_no_numbers_are_left_out(self, make_log, tmp_path, setting):
        (tmp_path / "args.json").write_text(
            f'{{"learning_rate": {setting}, "warmup_steps": {setting}, "optim": "sgd"}}'
        )
        rows = [{"step": t, "grad_norm": 1.0 + 1 / t, "learning_rate": t / 30} for t in range(1, 31)]
        log = make_log(json.dumps({"global_step": 30, "max_steps": 10**400, "log_history": rows}), "trainer_state.json")
        norms = read_norms(log)
        assert norms.source.settings == {"optimizer": "sgd"}
        assert norms.total_steps == 30

    def test_runs_without_a_name(self, make_log):
        log = make_log("run,step,grad_norm\n" + "".join(f"{'a' if t % 2 else ''},{t},1.5\n" for t in range(1, 31)))
        assert '2 runs: "", "a"; choose one with --run' in refusal(log)
        long = "".join(
            json.dumps({"metric": None if t % 2 else "grad_norm", "step": t, "value": 1.5}) + "\n" for t in range(30)
        )
        assert read_norms(make_log(long)).steps.tolist() == list(range(0, 30, 2))

    def test_integers_that_no_float_holds(self, make_log):
        rows = [{"metric": "grad_norm", "step": t, "value": 10**400 if t == 3 else 1.5} for t in range(1, 31)]
        norms = read_norms(make_log("".join(json.dumps(row) + "\n" for row in rows)))
        assert dict(norms.dropped) == {"non-finite": 1}

    def test_a_companion_whose_column_is_empty(self, make_log):
        main = make_log(PLAIN, "main.csv")
        companion = make_log("step,lr,loss\n" + "".join(f"{t},,\n" for t in range(1, 101)), "rates.csv")
        assert "no learning rate or loss" in refusal(main, companion)

    def test_steps_that_overflow_in_a_table(self, make_log):
        rows = "".join(f"{t},1.5,0.1\n" for t in range(1, 30))
        assert "a step is 1e+308" in refusal(make_log(f"step,grad_norm,lr\n-1e308,2.5,0.1\n1e308,1.5,0.1\n{rows}"))

    def test_steps_that_overflow(self, make_log):
        steps = json.dumps([1e308, -1e308, *range(1, 30)]).replace("1e+308", "1e308")
        train = f'{{"iter": {steps}, "grad_norm": {[1.5] * 31}, "train_lr": {[0.1] * 31}}}'
        assert "a step is 1e+308" in refusal(make_log(f'{{"config": {{}}, "history": {{"train": {train}}}}}'))

    def test_an_array_of_odd_floats(self, tmp_path):
        values = np.array([2.0, np.nan, 1e4, 3.0] * 10, dtype=np.longdouble)
        values[4] = np.longdouble("1e4000")
        np.save(tmp_path / "log.npy", values)
        assert dict(read_norms(tmp_path / "log.npy", every=1).dropped) == {"non-finite": 11}

    def test_many_layers_are_converted(self, make_log):
        names = [f"grad_2.0_norm/{i}" for i in range(150)]
        log = make_log(
            ",".join(["step", "grad_norm", *names])
            + "\n"
            + ",".join(["{0}", *["1.5"] * 151]).format(1)
            + "\n"
            + ",".join(["2", *["1.5"] * 151])
            + "\n"
        )
        assert "".join(tidy_csv(read_norms(log, extras=True))).count("grad_norm_l2/") == 150

    def test_long_names_do_not_fill_a_screen(self, make_log):
        names = [f"{'x' * 150}{i}/grad_norm" for i in range(30)]
        text = refusal(make_log(",".join(["step", *names]) + "\n" + "1," * 30 + "1\n"))
        assert " and 27 more; choose one with --column" in text

    def test_rates_whose_squares_are_nothing(self, make_log):
        rates = [1.0] * 5 + [1e-180 * (1 - t / 95) for t in range(95)]
        rows = "".join(f"{t},{1 + 4 / t},{rate}\n" for t, rate in enumerate(rates, 1))
        norms = read_norms(make_log("step,grad_norm,lr\n" + rows))
        assert not decays_linearly(Prior(np.array(rates), 1.0, 0))
        assert decays_linearly(Prior(np.array(rates), 1.0, 5))
        assert fit(norms, optimizer="sgd").recommended.total_steps == 100

    def test_peaks_that_no_float_holds(self):
        assert Prior(None, 1.7e308, 0).suggested_peak(2.0) is None
        assert Prior(None, 0.5, 0).suggested_peak(2.0) == 1.0
