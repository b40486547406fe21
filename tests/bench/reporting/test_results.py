"""Results are read back as they were written, and only so."""

import gzip
import hashlib
import json
import math
import re

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from refine import RefineError
from refine.bench.reporting.results import Results, load, save
from refine.bench.suites import SUITES
from refine.files import printable

from .synthetic import results

NAMES = ("runs.csv.gz", "logs.csv", "costs.csv", "meta.json")


@pytest.fixture(scope="module")
def small():
    return results(problems=2, seeds=2)


@pytest.fixture
def folder(small, tmp_path):
    save(small, tmp_path / "a" / "b")
    return tmp_path / "a" / "b"


def changed(of, **columns):
    return Results(**{"runs": of.runs, "logs": of.logs, "costs": of.costs, "meta": of.meta, **columns})


def text_of(path):
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()


def content(folder):
    return {name: (folder / name).read_bytes() for name in NAMES}


def test_round_trip(small, folder):
    found = load(folder)
    keys = ["suite", "problem", "optimizer", "method", "warmup", "rates", "seed"]
    expected = small.runs.sort_values(keys, ignore_index=True)
    assert_frame_equal(found.runs[list(expected)], expected, rtol=1e-6, check_dtype=False)
    assert found.runs["seed"].dtype == "int64"
    assert found.logs["late rise"].isna().all()
    logs = small.logs.sort_values(["problem", "optimizer", "method", "seed"], ignore_index=True)
    assert_frame_equal(found.logs[["default", "k"]], logs[["default", "k"]], rtol=1e-6)
    assert set(found.logs["default"]) == {"linear", "held"}
    assert found.runs["test_loss"].isna().all()
    assert found.meta == small.meta


def test_the_same_results_give_the_same_bytes(small, folder, tmp_path):
    save(load(folder), tmp_path / "again")
    assert content(folder) == content(tmp_path / "again")
    shuffled = {name: getattr(small, name).sample(frac=1.0, random_state=3) for name in ("runs", "logs", "costs")}
    save(changed(small, **shuffled), tmp_path / "shuffled")
    assert content(folder) == content(tmp_path / "shuffled")


def test_numbers_are_written_with_7_digits(small, tmp_path):
    runs = small.runs.head(4).assign(loss=[math.inf, 1 / 3, 2e-9 / 3, math.nan])
    save(changed(small, runs=runs), tmp_path / "x")
    text = text_of(tmp_path / "x" / "runs.csv.gz")
    for shown in (",inf,", ",0.3333333,", ",6.666667e-10,", ",0.3,,"):
        assert text.count(shown) == 1, shown
    assert math.isinf(load(tmp_path / "x").runs["loss"].max())


@pytest.mark.parametrize("name", NAMES)
def test_an_edited_file_is_refused(folder, name):
    path = folder / name
    text = text_of(path)
    text = text.replace("cpu", "gpu") if name == "meta.json" else text.replace("linear", "Linear", 1)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    with pytest.raises(RefineError, match=rf"{name} was edited after it was written; write it again from the store$"):
        load(folder)


def signed(folder, **changes):
    """Rewrite the meta data with sums that fit: an edit that the checksums cannot see."""
    meta = json.loads((folder / "meta.json").read_text()) | changes
    sums = meta.pop("sha256")
    sums["meta"] = hashlib.sha256((json.dumps(meta, indent=2, sort_keys=True) + "\n").encode()).hexdigest()
    (folder / "meta.json").write_text(json.dumps(meta | {"sha256": sums}))


ALL = ", ".join(
    (
        "smoke, convex, deep, recommended-convex, recommended-deep, peaks-deep",
        "convex-choose, convex-confirm, deep-choose, deep-confirm",
        "changing-choose, changing-confirm, changing-deep-choose, changing-deep-confirm, peaks-choose, peaks-confirm",
    )
)


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("suite", "convex\n```\nrm", ALL),
        ("suite", ["convex"], ALL),
        ("scale", "huge", "smoke, cpu, gpu"),
    ],
)
def test_an_unknown_suite_or_scale_is_refused(folder, key, value, known):
    signed(folder, **{key: value})
    shown = re.escape(printable(value))
    message = (
        rf"meta.json has the {key} {shown}, which is none of {known}: was it edited\? Write it again from the store$"
    )
    with pytest.raises(RefineError, match=message):
        load(folder)


def test_known_suites_are_those_that_there_are(folder):
    assert set(ALL.split(", ")) == set(SUITES)
    for suite in SUITES:
        signed(folder, suite=suite)
        assert load(folder).meta["suite"] == suite


def test_files_of_another_version_are_refused(folder):
    path = folder / "costs.csv"
    text = pd.read_csv(path).drop(columns="at_limit").to_csv(index=False)
    path.write_text(text)
    sums = json.loads((folder / "meta.json").read_text())["sha256"]
    sums["costs"] = hashlib.sha256(text.encode()).hexdigest()
    signed(folder, sha256=sums)
    with pytest.raises(RefineError, match=r"costs.csv was written by another version of refine; write it again from"):
        load(folder)


def test_a_damaged_archive_is_refused(folder):
    packed = (folder / "runs.csv.gz").read_bytes()
    (folder / "runs.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(RefineError, match=r"runs.csv.gz was edited after it was written"):
        load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": {}}', "\x00"])
def test_meta_data_that_are_none(folder, text):
    (folder / "meta.json").write_text(text)
    with pytest.raises(RefineError, match="meta.json was edited after it was written"):
        load(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(RefineError, match=rf"cannot read .*{name}: No such file .*; name a folder that the bench"):
        load(folder)


def test_text_is_not_taken_for_something_else(small, tmp_path):
    runs = small.runs.head(3).assign(problem=["NA", "1.50", 'a,"b"\nc'], method="nan")
    save(changed(small, runs=runs), tmp_path / "x")
    assert sorted(load(tmp_path / "x").runs["problem"]) == ["1.50", "NA", 'a,"b"\nc']
    assert set(load(tmp_path / "x").runs["method"]) == {"nan"}


def test_what_is_refused(small, folder):
    before = content(folder)
    for bad, message in (
        (
            changed(small, runs=small.runs.drop(columns="loss")),
            "runs lacks the column loss; give all of suite, problem,",
        ),
        (
            changed(small, costs=small.costs.assign(x=1)),
            "costs has an unknown column x; its columns are suite, problem,",
        ),
        (
            changed(small, runs=pd.concat([small.runs, small.runs.head(1)])),
            "runs has two rows for convex, set 00, sgd, linear, tuned, swept, 0; keep one",
        ),
        (changed(small, meta={"suite": "convex"}), "the meta data lack scale, versions, machine, finished, runs, seco"),
    ):
        with pytest.raises(RefineError, match=f"^{message}"):
            save(bad, folder, force=True)
    with pytest.raises(RefineError, match="exists; choose another place, or overwrite it"):
        save(small, folder)
    assert content(folder) == before


def test_the_sums_are_those_of_the_files(folder):
    assert set(json.loads((folder / "meta.json").read_text())["sha256"]) == {"runs", "logs", "costs", "meta"}
