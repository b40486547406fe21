import gzip
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from refine.cli.main import main

import refine.schedule as module
from refine import RefineError, Schedule, constant, cosine, linear
from refine.digits import csv_rows, json_rows, on_grid
from refine.prior import is_file, named_schedule
from refine.readers import opening
from refine.schedule import is_schedule, metadata_path

rates = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=50).filter(lambda r: max(r) > 0)


def test_the_value_is_immutable_and_a_copy():
    given_values = np.array([0.5, 1.0])
    schedule = Schedule(given_values, {"source": "x"})
    given_values[0] = 0.9
    assert schedule.multiplier.tolist() == [0.5, 1.0]
    with pytest.raises(ValueError, match="read-only"):
        schedule.multiplier[0] = 0.7
    with pytest.raises(AttributeError):
        schedule.multiplier = given_values
    with pytest.raises(TypeError):
        schedule.provenance["source"] = "y"


@pytest.mark.parametrize("values", [[1.0, 0.5], np.float32([1.0, 0.5]), np.array([1.0, 9.0, 0.5])[::2], (1, 0.5)])
def test_any_array_in_float64_out(values):
    assert Schedule(values).multiplier.dtype == np.float64
    assert Schedule(values).multiplier.tolist() == [1.0, 0.5]


def test_steps_count_from_0_and_the_last_multiplier_holds():
    schedule = Schedule([0.5, 1.0, 0.25])
    assert [schedule.at(t) for t in (0, 1, 2, 3, 10**12)] == [0.5, 1.0, 0.25, 0.25, 0.25]
    assert schedule.at([[0, 5]]).tolist() == [[0.5, 0.25]]
    for step in (-1, 0.5, "0", [1, -2]):
        with pytest.raises(RefineError, match="steps are integers, counted from 0"):
            schedule.at(step)


def test_repr_shows_first_peak_and_last():
    assert (
        repr(Schedule([0.1, 0.2, 1.0, 1 / 3]))
        == "Schedule(total_steps=4, first=0.1, peak=1 at update 2, last=0.333333)"
    )


def test_equality_is_that_of_the_multipliers():
    assert linear(5) == Schedule(linear(5).multiplier, {"other": 1})
    assert hash(linear(5)) == hash(Schedule(linear(5).multiplier))
    assert hash(Schedule([1.0, -0.0])) == hash(Schedule([1.0, 0.0]))
    assert linear(5) != linear(6)
    assert linear(5) != "linear"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"multiplier has shape \(0,\); it must be \(T,\)"),
        ([[1.0]], r"multiplier has shape \(1, 1\)"),
        ([1.0, np.nan], r"multiplier\[1\] is nan; multipliers must be finite and >= 0"),
        ([1.0, -0.1], r"multiplier\[1\] is -0.1"),
        ([0.5, 0.9], r"the largest multiplier is 0.9; it must be 1: Schedule.from_rates divides by it"),
        (["a"], "multiplier is not an array of numbers"),
        ([1.0, 1.0, float("inf")], r"multiplier\[2\] is inf"),
    ],
)
def test_what_is_not_a_schedule_is_refused(values, message):
    with pytest.raises(RefineError, match=message):
        Schedule(values)


def test_provenance_holds_json_values_only():
    for value in (float("nan"), {1, 2}, object()):
        with pytest.raises(RefineError, match="provenance must hold JSON values only"):
            Schedule([1.0], {"x": value})


def test_any_integer_is_a_step():
    assert linear(1000).at(np.uint8(5)) == linear(1000).at(5)


def test_from_rates_refuses_rates_without_a_peak():
    with pytest.raises(RefineError, match="the largest rate is 0.0; it must be finite and positive"):
        Schedule.from_rates([0.0, 0.0])


@given(rates)
def test_files_read_back_exactly(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("s")
    schedule = Schedule.from_rates(values, {"source": 'a "name"\n', "kept": [1, None]})
    for name in ("s.csv", "s.json"):
        back = Schedule.load(schedule.save(folder / name))
        assert back == schedule
        assert back.provenance == schedule.provenance
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize("seed", range(3))
def test_large_files_read_back_exactly_by_the_fast_way(seed):
    rng = np.random.default_rng(seed)
    exact = np.concatenate([rng.random(200_000) ** rng.integers(1, 5), [1.0, 1e-5, 0.1, 1e-300]])
    for values in (on_grid(exact), exact):
        table = np.array([row.split(",") for row in "".join(csv_rows(values)).splitlines()])
        assert np.array_equal(table[:, 0].astype(int), np.arange(values.size))
        assert np.array_equal(table[:, 1].astype(float), values)
        assert np.array_equal(json.loads("[" + "".join(json_rows(values)) + "]"), values)


def test_the_grid_moves_nothing_that_matters():
    values = np.random.default_rng(0).random(10_000) ** 3
    assert_allclose(on_grid(values), values, rtol=1e-10, atol=0)
    assert np.array_equal(on_grid(values), on_grid(on_grid(values)))
    assert on_grid(np.array([1.0, 1e-20])).tolist() == [1.0, 1e-20]


def test_csv_is_two_bare_columns_and_its_provenance_a_file_beside_it(tmp_path):
    path = linear(2, warmup_steps=0).save(tmp_path / "s.csv")
    assert path.read_text() == "step,multiplier\n0,1.0\n1,0.5\n"
    about = json.loads((tmp_path / "s.csv-metadata.json").read_text())
    assert (about["url"], about["@context"]) == ("s.csv", "http://www.w3.org/ns/csvw")
    assert about["dc:provenance"]["provenance"] == dict(linear(2).provenance)
    (tmp_path / "s.csv-metadata.json").unlink()
    assert Schedule.load(path) == linear(2)


def test_a_csv_that_is_not_what_its_metadata_says_is_refused(tmp_path):
    path = linear(3).save(tmp_path / "s.csv")
    path.write_text(path.read_text().replace("2,0.33333333333333331\n", "").rsplit("2,", 1)[0])
    with pytest.raises(RefineError, match="it announces 3 updates and holds 2; the file is incomplete"):
        Schedule.load(path)
    (tmp_path / "s.csv-metadata.json").write_text("{")
    with pytest.raises(RefineError, match="s.csv is not a schedule"):
        Schedule.load(path)


def test_any_step_multiplier_csv_is_read(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("step,multiplier\r\n0,0.5\r\n1,1\r\n")
    assert Schedule.load(path).multiplier.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not a schedule"),
        ("a.json", "[" * 100_000, "is not a schedule"),
        ("a.json", "{" * 3 + '"a":' * 100_000, "is not a schedule"),
        ("a.json", '{"format": "other", "multiplier": [1]}', 'it lacks "format": "refine-schedule"'),
        ("a.json", '{"format": "refine-schedule", "multiplier": ["1"]}', "must hold numbers only"),
        (
            "a.json",
            '{"format": "refine-schedule", "format_version": 99, "total_steps": 1, "multiplier": [1]}',
            "its format version is 99, this refine reads up to 1; upgrade lr-refine",
        ),
        (
            "a.json",
            '{"format": "refine-schedule", "format_version": 1, "total_steps": 2, "multiplier": [1]}',
            "it announces 2 updates and holds 1; the file is incomplete",
        ),
        (
            "a.json",
            '{"format": "refine-schedule", "format_version": 1, "total_steps": 1, "multiplier": [NaN]}',
            r"multiplier\[0\] is nan",
        ),
        (
            "a.json",
            '{"format": "refine-schedule", "format_version": 1, "total_steps": 1, "multiplier": [1' + "0" * 400 + "]}",
            "is not a schedule",
        ),
        ("a.csv", "", "its first line must be step,multiplier"),
        ("a.csv", "step,multiplier\n", "multiplier has shape"),
        ("a.csv", "step,multiplier\n1,1\n", "with the steps 0, 1, 2, ... in order"),
        ("a.csv", "step,multiplier\n0,x\n", "is not a schedule"),
        ("a.csv", "step,multiplier\n0,1,2\n", "its rows must be step,multiplier"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(RefineError, match=message) as error:
        Schedule.load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(RefineError, match=r"cannot read .*none.csv: No such file or directory; check the path"):
        Schedule.load(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(RefineError, match="is not UTF-8 text"):
        Schedule.load(tmp_path / "b.csv")


def test_saving_refuses_other_suffixes_and_existing_files(tmp_path):
    with pytest.raises(RefineError, match=r"saved as .csv or .json, not '.yaml'"):
        linear(2).save(tmp_path / "s.yaml")
    path = linear(2).save(tmp_path / "s.json")
    with pytest.raises(RefineError, match="exists; choose another place, or overwrite it .--force."):
        linear(3).save(path)
    assert Schedule.load(linear(3).save(path, force=True)) == linear(3)
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]


@pytest.mark.parametrize("family", [linear, constant])
def test_resampling_is_exact_where_the_shape_is_straight(family):
    for small, large in ((10, 1000), (1000, 10), (7, 5)):
        assert_allclose(family(small).resample(large).multiplier, family(large).multiplier, rtol=1e-12)


def test_resampling_commutes_and_keeps_the_shape():
    fine = cosine(100_000)
    assert_allclose(fine.resample(500).multiplier, cosine(500).multiplier, atol=1e-4)
    assert_allclose(fine.resample(5000).resample(500).multiplier, fine.resample(500).multiplier, atol=1e-4)
    assert fine.resample(100_000) is fine
    assert fine.resample(10).provenance["resampled_from"] == 100_000


@given(rates, st.integers(1, 100))
def test_resampling_gives_a_schedule(values, total_steps):
    schedule = Schedule.from_rates(values).resample(total_steps)
    assert schedule.total_steps == total_steps  # all else the constructor checks


@pytest.mark.parametrize("total_steps", [0, -1, 1.5, True, "9"])
def test_a_horizon_is_a_positive_integer(total_steps):
    with pytest.raises(RefineError, match="it must be an integer >= 1, counted in updates"):
        linear(3).resample(total_steps)


def test_what_looks_like_a_schedule(tmp_path):
    schedule = linear(5)
    schedule.save(tmp_path / "out" / "schedule.json")
    compact = json.dumps(json.loads((tmp_path / "out" / "schedule.json").read_text()), separators=(",", ":"))
    (tmp_path / "compact.json").write_text(compact)
    (tmp_path / "log.json").write_text('{"format": "other"}')
    (tmp_path / "log.csv").write_text("step,grad_norm\n1,2\n")
    schedule.save(tmp_path / "s.csv")
    for name in ("compact.json", "s.csv", "log.csv"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    (tmp_path / "cut.csv.gz").write_bytes((tmp_path / "s.csv.gz").read_bytes()[:12])
    for name in ("out", "out/schedule.json", "compact.json", "compact.json.gz", "s.csv"):
        assert is_schedule(tmp_path / name)
        assert Schedule.load(tmp_path / name) == schedule
    assert is_schedule(tmp_path / "s.csv.gz")
    for name in ("log.json", "log.csv", "log.csv.gz", "cut.csv.gz", "none.json", "."):
        assert not is_schedule(tmp_path / name)


@pytest.mark.parametrize("default", ["refined", "recommended", None, "Refined", ["refined"]])
def test_a_folder_of_a_fit_stands_for_its_default(tmp_path, default):
    assert not is_schedule(tmp_path)
    with pytest.raises(RefineError, match="holds no result of refine; name the .json or .csv file of a schedule"):
        Schedule.load(tmp_path)
    for name, schedule in (("refined", cosine(5)), ("recommended", linear(5))):
        Schedule(schedule.multiplier, {"default": default}).save(tmp_path / f"{name}.json")
    assert is_schedule(tmp_path)
    assert is_file(str(tmp_path))
    expected = cosine(5) if default == "refined" else linear(5)
    assert Schedule.load(tmp_path) == named_schedule(str(tmp_path), None) == expected
    assert Schedule.load(tmp_path / "recommended.json") == linear(5)


def test_a_folder_of_two_results_is_refused(tmp_path):
    for name in ("recommended", "schedule"):
        linear(5).save(tmp_path / f"{name}.json")
    assert is_schedule(tmp_path)
    with pytest.raises(RefineError, match="holds two results, recommended.json and schedule.json; name the .json or"):
        Schedule.load(tmp_path)


def test_a_folder_that_lost_its_default_is_refused(tmp_path):
    Schedule(linear(5).multiplier, {"default": "refined"}).save(tmp_path / "recommended.json")
    with pytest.raises(RefineError, match=r"cannot read .*refined.json: No such file or directory; check the path"):
        Schedule.load(tmp_path)


def test_an_array_of_it_is_its_multipliers():
    schedule = linear(4)
    seen = np.asarray(schedule)
    assert (seen.dtype, seen.tolist()) == (np.float64, [1.0, 0.75, 0.5, 0.25])
    assert np.shares_memory(seen, schedule.multiplier)
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 2.0
    copied = np.array(schedule)
    copied[0] = 2.0
    assert schedule.at(0) == 1.0
    narrow = np.asarray(schedule, dtype=np.float32)
    assert (narrow.dtype, narrow.tolist()) == (np.float32, [1.0, 0.75, 0.5, 0.25])
    assert np.sum(schedule) == 2.5
    assert Schedule(schedule) == schedule


def test_an_array_of_it_is_copied_as_asked():
    schedule = linear(4)
    assert np.shares_memory(schedule.__array__(), schedule.multiplier)
    assert np.shares_memory(schedule.__array__(np.float64, copy=False), schedule.multiplier)
    assert not np.shares_memory(schedule.__array__(copy=True), schedule.multiplier)
    assert schedule.__array__(copy=True).flags.writeable
    assert schedule.__array__("float32").dtype == np.float32
    with pytest.raises(ValueError, match="dtype is float32 and multipliers are float64; that needs a copy"):
        schedule.__array__(np.float32, copy=False)


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="numpy 1 takes copy=False as: if needed")
def test_numpy_2_passes_copy_on():
    schedule = linear(4)
    assert np.shares_memory(np.array(schedule, copy=False), schedule.multiplier)
    with pytest.raises(ValueError, match="that needs a copy"):
        np.asarray(linear(4), dtype=np.float32, copy=False)


def make_odd(kind, path):
    """What is no file, or is none that anybody could read."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))  # an absolute one may be too long
    elif kind == "folder":
        path.mkdir()
    elif kind == "6 GB":
        path.write_text("step,multiplier\n0,1.0\n" if path.suffix == ".csv" else '{"format": "refine-schedule", ')
        os.truncate(path, 6 * 2**30)
    else:
        path.symlink_to({"zero": "/dev/zero", "full": "/dev/full", "loop": path.name, "gone": "nowhere"}[kind])


ODD = {
    "pipe": "is a pipe that nobody writes to; start the writer first",
    "socket": "is not a regular file",
    "zero": "is not a regular file",
    "full": "is not a regular file",
    "loop": "Too many levels of symbolic links; check the path",
    "gone": "No such file or directory; check the path",
    "6 GB": "holds 6,144 MiB and [0-9,]+ MiB is the limit",
}


def refusal(path):
    with pytest.raises(RefineError) as caught:
        Schedule.load(path)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 700
    return text


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "PATIENCE_S", 0.05)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["s.csv", "s.json", "folder/recommended.json", "folder/refined.json"])
def test_what_is_no_file_is_refused_at_once(here, kind, name):
    path = here / name
    path.parent.mkdir(exist_ok=True)
    if path.name == "refined.json":
        Schedule([1.0], {"default": "refined"}).save(path.with_name("recommended.json"))
    make_odd(kind, path)
    named = path if path.parent == here else path.parent
    text = refusal(named)
    assert path.name in text
    assert re.search(ODD[kind], text)
    for command in ("export --to csv -o -", "describe", "retarget --total-steps 9", "merge-weights --checkpoints 1,2"):
        done = CliRunner().invoke(main, [*command.split(), str(named)])
        assert (done.exit_code, done.stdout) == (1, "")
        assert [line for line in done.stderr.splitlines() if not line.startswith("Note: ")] == [f"Error: {text}"]
    is_schedule(path)  # at once


@pytest.mark.parametrize("kind", [*ODD, "folder"])
def test_a_file_beside_a_csv_that_is_none_is_refused_at_once(here, kind):
    path = linear(3).save(here / "s.csv")
    metadata_path(path).unlink()
    make_odd(kind, metadata_path(path))
    text = refusal(path)
    assert "s.csv-metadata.json" in text
    assert re.search({**ODD, "folder": "Is a directory"}[kind], text)


@pytest.mark.parametrize(
    "command",
    [
        "plot A B",
        "compare A linear",
        "fit LOG --prior-schedule A",
        "continue LOG --at 9 --total-steps 99 --prior-schedule A",
    ],
)
@pytest.mark.parametrize("kind", ["zero", "6 GB", "gone", "metadata"])
def test_all_commands_refuse_in_one_line(here, kind, command):
    (here / "log.csv").write_text("step,grad_norm\n" + "".join(f"{t},{1 + 4 / t}\n" for t in range(1, 31)))
    if kind == "metadata":
        linear(30).save(here / "A.csv")
        (here / "A.csv-metadata.json").write_text("[]")
    else:
        make_odd(kind, here / "A.csv")
    names = {"A": "A.csv", "B": "linear", "LOG": "log.csv"}
    done = CliRunner().invoke(main, [names.get(word, word) for word in command.split()])
    assert done.exit_code == 1
    assert re.fullmatch(r"Error: [^\n]+\n", done.stderr)
    assert "this is a bug" not in done.stderr
    assert "A.csv" in done.stderr


def test_pipes_and_compressed_files_are_read(here):
    saved = Schedule(cosine(50).multiplier, {"a": 1})
    for name in ("s.csv", "s.json"):
        data = saved.save(here / name).read_bytes()
        (here / name).unlink()
        os.mkfifo(here / name)
        writer = threading.Thread(target=(here / name).write_bytes, args=(data,))
        writer.start()
        assert Schedule.load(here / name) == saved
        writer.join()
        (here / name).unlink()
        (here / name).write_bytes(gzip.compress(data))
        assert Schedule.load(here / name) == saved
        assert Schedule.load(here / name).provenance == saved.provenance
        (here / name).write_bytes(gzip.compress(data)[:-9])
        assert "the gzip data is damaged" in refusal(here / name)
    (here / "s.csv").write_bytes(gzip.compress(b"step,multiplier\n" + bytes(10**8)))
    assert "unpack to more than 300 times as many" in refusal(here / "s.csv")


def test_a_plain_file_needs_no_reader(tmp_path):
    for name in ("s.csv", "s.json"):
        path = linear(9).save(tmp_path / name)
        script = f"import sys, refine; refine.Schedule.load({str(path)!r}); print('pandas' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_rows_are_read_exactly_block_by_block(tmp_path, monkeypatch, size):
    saved = Schedule.from_rates(np.random.default_rng(size).random(300) ** 9)
    path = saved.save(tmp_path / "s.csv")
    monkeypatch.setattr(module, "_BLOCK", max(size, 40))
    assert Schedule.load(path) == saved
    text = path.read_text().replace("\n", "\n\n").replace("150,", "151,")
    path.write_text(text)
    assert "with the steps 0, 1, 2, ... in order" in refusal(path)


HEADS = [
    ("format_version", "true", "its format version is True"),
    ("format_version", "-5", "its format version is -5"),
    ("format_version", "1" + "0" * 400, "its format version is 10000"),
    ("format_version", json.dumps("x\x1b" * 999), r"its format version is 'x\x1bx"),
    ("total_steps", "true", "it announces True updates and holds 2; the file is incomplete"),
    ("total_steps", json.dumps(["\x1b"] * 9999), "updates and holds 2; the file is incomplete"),
    ("total_steps", "1e999", "it announces inf updates"),
    ("provenance", "[]", "its header is damaged; write it again with refine"),
    ("provenance", '{"a": NaN}', "provenance must hold JSON values only"),
    ("provenance", '{"a": ' + "[" * 450 + "]" * 450 + "}", "nested no more than 400 deep"),
    ("provenance", '{"a": ' + "[" * 99_999 + "]" * 99_999 + "}", "the JSON is damaged"),
    ("provenance", '{"a": "' + "x" * 2**25 + '"}', "at most 16,777,216 are taken"),
    ("provenance", '{"a": "' + "x" * (2**26 + 999) + '"}', "64 MiB"),
    ("provenance", '{"a": [' + "[]," * 2_100_000 + "1]}", "or 2,000,000 texts and lists, beside its multipliers"),
]


@pytest.mark.parametrize(("key", "value", "message"), HEADS, ids=range(len(HEADS)))
@pytest.mark.parametrize("name", ["s.csv", "s.json"])
def test_headers_that_are_none_are_refused(tmp_path, name, key, value, message):
    head = {"format_version": "1", "total_steps": "2", "provenance": "{}", key: value}
    inside = ", ".join(f'"{name}": {text}' for name, text in head.items())
    path = tmp_path / name
    if name == "s.csv":
        path.write_text("step,multiplier\n0,1\n1,0.5\n")
        metadata_path(path).write_text(f'{{"dc:provenance": {{{inside}}}}}')
    else:
        path.write_text(f'{{"format": "refine-schedule", "multiplier": [1, 0.5], {inside}}}')
    assert message in refusal(path)


@pytest.mark.parametrize(
    "text", ["[]", "1", "null", '"x"', "true", "NaN", "", "{", "\0" * 99, "[" * 99_999, "1" * 5000]
)
def test_metadata_that_is_no_object_is_refused(tmp_path, text):
    path = linear(3).save(tmp_path / "s.csv")
    metadata_path(path).write_text(text)
    assert "s.csv is not a schedule: s.csv-metadata.json beside it: the JSON is " in refusal(path)


def test_metadata_of_others_is_left_alone(tmp_path):
    path = linear(3).save(tmp_path / "s.csv")
    metadata_path(path).write_text('{"@context": "http://www.w3.org/ns/csvw", "url": "s.csv"}')
    assert Schedule.load(path) == linear(3)
    assert not Schedule.load(path).provenance


@pytest.mark.parametrize(
    "rows",
    [
        "0,true",
        '"0","1"',
        "0,1\0",
        "\0" * 10_000,
        "0,0x1p-1",
        "0,1_0",
        "0,\u0661",
        "0,1j",
        "0,1\n1,",
        "0,1\n1",
        "0,1\x0c1,0.5",
        "0,1\u20281,0.5",
        "0," + "1" * 10**7,
        "0,1" + ",1" * 10**5,
        "nan,1",
        "# nothing",
        "\n" * 10**6,
        "0,\x1b[31m",
    ],
    ids=range(18),
)
def test_rows_that_are_none_are_refused(tmp_path, rows):
    path = tmp_path / "s.csv"
    path.write_text("step,multiplier\n" + rows + "\n")
    assert "is not a schedule: " in refusal(path)


def test_more_than_any_run_has_updates_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_STEPS", 20)
    monkeypatch.setattr(module, "_BLOCK", 64)
    for name in ("s.csv", "s.json"):
        assert Schedule.load(Schedule(np.ones(20)).save(tmp_path / name, force=True)) == Schedule(np.ones(20))
        assert "it holds more than" in refusal(Schedule(np.ones(21)).save(tmp_path / name, force=True))
        monkeypatch.setattr(module, "_MOST_PARTS", 20)  # of JSON, those that are counted before it is parsed
        assert "it holds more than" in refusal(Schedule(np.ones(99)).save(tmp_path / name, force=True))


def test_a_folder_without_a_result_says_so(here):
    (here / "logs").mkdir()
    for command in ("export --to csv -o -", "describe"):
        done = CliRunner().invoke(main, [*command.split(), "logs"])
        assert (done.exit_code, done.stdout) == (1, "")
        assert "logs holds no result of refine; name the .json or .csv file" in done.stderr
    (here / "linear").mkdir()
    assert CliRunner().invoke(main, ["export", "linear", "--total-steps", "9", "--to", "csv", "-o", "-"]).exit_code == 0
