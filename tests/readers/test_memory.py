"""Logs that are small on disk and large in memory: what is not wanted is not unpacked, the rest is refused."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from refine import RefineError, read_norms
from refine.readers.base import MAX_NAME

if not Path("/proc/self/status").exists():
    pytest.skip("the memory of a process is not told here", allow_module_level=True)

MOST_MIB = 100
STEPS = list(range(1, 41))
NORMS = [1 + 4 / t for t in STEPS]
READ = """
import sys
from refine import RefineError, read_norms
def most():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) >> 10
read_norms(sys.argv[1])
before = most()
try:
    found = str(read_norms(sys.argv[2]).steps.size)
except RefineError as error:
    found = str(error)
print(most() - before, found)
"""


@pytest.fixture
def read(tmp_path):
    """Read a log in a process of its own, after a small one of its kind; it may not take much more memory."""

    def reading(small, path) -> str:
        command = [sys.executable, "-c", READ, str(small), str(path)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        mib, _, found = done.stdout.strip().partition(" ")
        assert int(mib) < MOST_MIB, done.stdout
        assert found.isprintable()
        return found

    return reading


class TestParquet:
    @pytest.fixture
    def save(self, tmp_path):
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

        def to(name, rows=40, groups=1, **columns):
            table = pa.table({"step": range(rows), "grad_norm": [1 + 4 / (t + 1) for t in range(rows)], **columns})
            with pq.ParquetWriter(tmp_path / name, table.schema, compression="zstd") as writer:
                for _ in range(groups):
                    writer.write_table(table)
            assert (tmp_path / name).stat().st_size < 2**20
            return tmp_path / name

        return to

    def constant(self, rows, text):
        """A column of one long text, which takes no more memory than that here."""
        import pyarrow as pa

        return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text], pa.large_string()))

    @pytest.mark.parametrize("column", ["run", "note"])
    @pytest.mark.parametrize("type", ["string", "dictionary"])
    def test_long_texts(self, save, read, column, type):
        cells = self.constant(1000, "x" * 10**6)
        path = save("bomb.parquet", 1000, **{column: cells if type == "dictionary" else cells.cast("large_string")})
        assert read(save("small.parquet"), path) == "1000"

    def test_long_texts_in_a_long_table(self, save, read):
        rows = 1000
        names = {"metric": self.constant(rows, "grad_norm"), "value": [1.0 + 1 / (t + 1) for t in range(rows)]}
        long = self.constant(rows, "x" * 10**6).cast("large_string")
        small = save("small.parquet", rows, **names)
        assert read(small, save("runs.parquet", rows, **names, run=long)) == str(rows)
        assert read(small, save("notes.parquet", rows, **names, string_value=long)) == str(rows)
        found = read(small, save("names.parquet", rows, **{**names, "metric": long}))
        assert f"a name has 1,000,000 characters and {MAX_NAME:,} are the limit" in found

    def test_what_unpacks_to_more_than_a_log_does(self, save, read):
        small = save("small.parquet")
        runs = [f"{t}{'x' * 3_000_000}" for t in range(100)]
        padding = [os.urandom(10_050) for _ in runs]  # an unwanted column is no excuse
        assert "as no labels do" in read(small, save("labels.parquet", 100, run=runs, other=padding))
        rows = 500_000
        ones = [1.0] * rows
        long = {"metric": self.constant(rows, "grad_norm"), "value": ones, "step": ones, "grad_norm": ones}
        assert "as no log does" in read(small, save("rows.parquet", rows, 20, **long))

    def test_labels_that_are_used(self, save):
        import pyarrow as pa

        run = pa.DictionaryArray.from_arrays(pa.array([1] * 40, pa.int32()), pa.array(["unused", "a"]))
        assert read_norms(save("log.parquet", run=run)).steps.size == 40
        some = save("some.parquet", run=pa.array([7] * 20 + [None] * 20))
        with pytest.raises(RefineError, match='2 runs: "", "7"'):
            read_norms(some)


class TestSqlite:
    TABLES = (
        "CREATE TABLE metrics (key TEXT, value REAL, timestamp INTEGER, run_uuid TEXT, step INTEGER, is_nan BOOLEAN)",
        "CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT)",
        "INSERT INTO params VALUES ('optimizer', 'adamw', 'abc')",
    )
    TRACKIO = (
        "CREATE TABLE metrics (run_id TEXT, timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT)",
        "CREATE TABLE configs (run_id TEXT, run_name TEXT, config TEXT)",
    )
    LONG = "CAST(zeroblob(120000000) AS TEXT)"

    def save(self, path, *statements):
        with closing(sqlite3.connect(path)) as database, database:
            for statement in statements:
                database.execute(statement)
            if self.TABLES[0] in statements:
                rows = [("grad_norm", norm, t, "abc", t, 0) for t, norm in zip(STEPS, NORMS, strict=True)]
                database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", rows)
            else:
                rows = [(t, json.dumps({"grad_norm": norm})) for t, norm in zip(STEPS, NORMS, strict=True)]
                database.executemany("INSERT INTO metrics VALUES ('r', 'now', 'a', ?, ?)", rows)
        return path

    @pytest.mark.parametrize("table", ["metrics", "runs", "params"])
    def test_many_long_names(self, tmp_path, read, table):
        runs = "CREATE TABLE runs (run_uuid TEXT, name TEXT, lifecycle_stage TEXT)"
        row = {
            "metrics": "printf('%d', i) || long, 0.1, 1, 'abc', 41, 0",
            "runs": "'abc', printf('%d', i) || long, 'active'",
            "params": "printf('%d', i) || long, 'x', 'abc'",
        }
        many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120), "
        many += f"x (long) AS (SELECT printf('%.*c', 1000000, 'x')) INSERT INTO {table} SELECT {row[table]} FROM n, x"
        tables = *self.TABLES, runs, "INSERT INTO runs VALUES ('abc', 'a', 'active')"
        small = self.save(tmp_path / "small.db", *tables)
        found = read(small, self.save(tmp_path / "many.db", *tables, many))
        assert found == "40" if table != "metrics" else "a name has 16,385 characters" in found

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="SQLite itself holds the value there")
    @pytest.mark.parametrize("long", [LONG, "zeroblob(120000000)"])
    def test_values_of_any_size(self, tmp_path, read, long):
        for tables, unread, unwanted in (
            (
                self.TABLES,
                [
                    f"INSERT INTO metrics VALUES ('note', {long}, 1, 'abc', 41, 0)",
                    f"INSERT INTO params VALUES ('prompt', {long}, 'abc')",
                    f"INSERT INTO metrics VALUES ('lr', 0.1, {long}, 'abc', 41, 0)",
                ],
                [
                    f"INSERT INTO metrics VALUES ('lr', {long}, 1, 'abc', 41, 0)",
                    f"INSERT INTO metrics VALUES ('lr', 0.1, 1, 'abc', {long}, 0)",
                    f"INSERT INTO metrics VALUES ({long}, 0.1, 1, 'abc', 41, 0)",
                    f"INSERT INTO metrics VALUES ('lr', 0.1, 1, {long}, 41, 0)",
                    f"INSERT INTO params VALUES ('lr', {long}, 'abc')",
                ],
            ),
            (
                self.TRACKIO,
                [f"INSERT INTO metrics VALUES ('r', {long}, 'a', 41, '{{}}')"],
                [
                    f"INSERT INTO metrics VALUES ('r', 'now', 'a', 41, {long})",
                    f"INSERT INTO metrics VALUES ('r', 'now', {long}, 41, '{{}}')",
                    f"INSERT INTO configs VALUES ('r', 'a', {long})",
                ],
            ),
        ):
            small = self.save(tmp_path / "small.db", *tables)
            for statement in [*unread, *unwanted]:
                path = tmp_path / "bomb.db"
                found = read(small, self.save(path, *tables, statement))
                if statement in unwanted:
                    assert "holds a name or a value above 16 MiB" in found, statement
                else:
                    assert found == "40", statement
                path.unlink()
            small.unlink()


def json_with(extra: str) -> str:
    rows = json.dumps([{"step": t, "grad_norm": norm} for t, norm in zip(STEPS, NORMS, strict=True)])
    return f'{{"global_step": 40, "log_history": {rows}, "x": {extra}}}'


@pytest.mark.parametrize("extra", ["[" + "[]," * (5 * 10**6) + "1]", "[" + "{}," * (5 * 10**6) + "1]"])
def test_json_of_brackets(tmp_path, read, extra):
    (tmp_path / "small.json").write_text(json_with("1"))
    (tmp_path / "bomb.json").write_text(json_with(extra))
    assert "the JSON is mostly brackets" in read(tmp_path / "small.json", tmp_path / "bomb.json")


def test_files_beside_a_log_are_read_where_they_matter(tmp_path, read):
    for name, params in (("small", 1), ("bomb", 4000)):
        run = tmp_path / name / "0" / "abc"
        for folder in ("metrics", "params"):
            (run / folder).mkdir(parents=True)
        (run / "meta.yaml").write_text("lifecycle_stage: active\nrun_id: abc\n")
        lines = (f"17 {norm} {t}\n" for t, norm in zip(STEPS, NORMS, strict=True))
        (run / "metrics" / "grad_norm").write_text("".join(lines))
        (run / "params" / "optimizer").write_text("adamw")
        for i in range(params):
            (run / "params" / f"prompt{i}").write_bytes(b"")
            os.truncate(run / "params" / f"prompt{i}", 2**20)
    assert read(tmp_path / "small", tmp_path / "bomb") == "40"
    assert read_norms(tmp_path / "bomb").source.settings == {"optimizer": "adamw"}


@pytest.mark.parametrize("length", [MAX_NAME + 1, 10**7])
def test_names_that_are_none(tmp_path, read, length):
    rows = [{"step": t, "grad_norm": norm} for t, norm in zip(STEPS, NORMS, strict=True)]
    (tmp_path / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows[20]["grad_norm/" * (length // 10) + "x" * (length % 10)] = 1.0
    (tmp_path / "bomb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(tmp_path / "small.jsonl", tmp_path / "bomb.jsonl")
    assert f"a name has {length:,} characters and {MAX_NAME:,} are the limit" in found
