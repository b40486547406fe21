"""Parsers on small files, the cache and its checksums, and the real sets where the cache of this machine has them."""

import gzip
import hashlib
import subprocess
import sys
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest

from refine.bench.data import datasets, parsers
from refine.bench.data.collection import DATASETS, DataSet
from refine.bench.data.datasets import Images, Table, available, digest, load_images, load_table, load_text
from refine.bench.data.sources import AbsentDataError, cache_folder
from refine.errors import RefineError

SMALL = Table(np.array([[0.5, 1.0], [2.0, 3.0]]), np.array([1, 0]), 2)
SHA = "2d0c1ff03a2d18de6bd1a9c6b44fe69ca0d3dcb6c6a3c75cbd0ee0a5fb1d92d3"


def rows(found):
    return found.x.tolist(), found.y.tolist(), found.classes


def test_a_table_of_keel(tmp_path):
    """A class 10 after 9, a word of two levels, a constant, two missing values."""
    path = tmp_path / "a.dat"
    path.write_text("@relation a\n@data\n0.1, red, 7, 9\n2, blue, 7, 10\n?, red, 7, 9\n-3e1, red, 7, 9\n4,<null>,7,9\n")
    found = parsers.table(parsers.read_keel(path), 3)
    assert rows(found) == ([[0.1, 0, 1], [2, 1, 0], [-30, 0, 1]], [0, 1, 0], 2)
    assert (found.x.dtype, found.y.dtype) == (np.float64, np.int64)


def test_a_table_of_arff(tmp_path):
    head = "% about\n@relation r\n@attribute a numeric\n@attribute b {p,q,r}\n@attribute class {yes,no}\n@data\n"
    for name, data in {"1.arff": "0.25,q,yes\n1,?,no\n", "2.arff": "?,p,no\n2,p,no\n1e2,q,no\n"}.items():
        (tmp_path / name).write_text(head + data)
    found = parsers.table(parsers.read_arff([tmp_path / "1.arff", tmp_path / "2.arff"]), "class")
    assert rows(found) == ([[0.25, 0, 1], [2, 1, 0], [100, 0, 1]], [1, 0, 0], 2)


def test_a_table_of_r(tmp_path):
    """Factors of numbers are numbers; three levels are three columns."""
    pyreadr = pytest.importorskip("pyreadr")
    frame = pd.DataFrame(
        {"a": [1.5, 2.5, 3.5, np.nan], "b": ["0", "1", "1", "0"], "c": list("xzyx"), "k": list("baab")}
    )
    pyreadr.write_rdata(tmp_path / "a.rda", frame, df_name="A")
    found = parsers.table(parsers.read_rda(tmp_path / "a.rda"), "k")
    assert rows(found) == ([[1.5, 0, 1, 0, 0], [2.5, 1, 0, 0, 1], [3.5, 1, 0, 1, 0]], [1, 0, 0], 2)


def test_images_of_idx(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 9, 8, 7, 255])))
    found = parsers.read_idx(path)
    assert (found.tolist(), found.dtype) == ([[[9, 8]], [[7, 255]]], np.uint8)


@pytest.mark.parametrize(
    "raw", [b"", bytes([0, 0, 8, 1]), bytes([0, 0, 8, 1, 0, 0, 0, 2, 7]), bytes([0, 0, 9, 1, 0, 0, 0, 1, 7])]
)
def test_a_broken_idx_file(tmp_path, raw):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(raw))
    with pytest.raises(RefineError, match=r"a\.gz: not an idx file of bytes .*; delete it to fetch it again"):
        parsers.read_idx(path)


def test_texts_are_joined_in_order_of_paths(tmp_path):
    for name in ("b", "a", "A"):
        (tmp_path / name).write_text(f"{name};")
    assert parsers.read_texts(tmp_path.iterdir()) == b"A;a;b;"


def test_an_absent_reader_is_an_absent_set():
    with pytest.raises(AbsentDataError) as caught:
        parsers.optional("nonsuch_reader.part", "nonsuch-reader")
    assert str(caught.value) == "nonsuch_reader is not installed; pip install 'nonsuch-reader'"


def test_nothing_large_is_imported_to_list_the_sets():
    large = ("torch", "pandas", "pyreadr", "sklearn", "scipy")
    code = f"import sys, refine.bench.data.datasets\nprint([m for m in {large} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A registry of one set in an empty cache, and how often its loader ran."""
    monkeypatch.setenv("REFINE_BENCH_DATA", str(tmp_path))
    ran = []

    def register(content, sha256=None, kind=None):
        def loader():
            ran.append(content)
            if isinstance(content, Exception):
                raise content
            return content

        sha256 = sha256 or digest(content)
        sets = {"own": DataSet("own", kind or type(content), "of the test", "none", sha256, loader)}
        monkeypatch.setattr(datasets, "DATASETS", MappingProxyType(sets))
        return ran

    return register


def test_the_digest():
    raw = SMALL.x.tobytes() + SMALL.y.tobytes()
    assert digest(SMALL) == hashlib.sha256(raw).hexdigest()
    assert digest(Table(np.asfortranarray(SMALL.x.astype(">f8")), SMALL.y.astype(">i8"), 2)) == digest(SMALL)
    assert digest(b"To be") == hashlib.sha256(b"To be").hexdigest()


def test_a_table_is_made_once(own):
    ran = own(SMALL)
    first, second = load_table("own"), load_table("own")
    assert rows(first) == rows(second) == rows(SMALL)
    assert len(ran) == 1
    assert [p.name for p in cache_folder().iterdir()] == ["own.npz"]


def test_images_and_texts_come_back(own):
    images = Images(
        np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.array([3, 1]), np.zeros((1, 2, 2), np.uint8), np.array([2])
    )
    ran = own(images)
    for _ in range(2):
        assert [part.tolist() for part in load_images("own")] == [part.tolist() for part in images]
    assert len(ran) == 1
    (cache_folder() / "own.npz").unlink()
    own(b"\0To be\xff")
    assert load_text("own") == load_text("own") == b"\0To be\xff"
    assert len(ran) == 2


def test_a_source_with_other_data_is_refused(own):
    own(SMALL, "ab" * 32)
    with pytest.raises(RefineError) as caught:
        load_table("own")
    assert str(caught.value) == (
        f"data set 'own' has sha256 {digest(SMALL)[:12]}, expected abababababab (of the test); "
        f"its source has other data now; delete {cache_folder()}/packages to fetch it again"
    )
    assert list(cache_folder().iterdir()) == []
    with pytest.raises(RefineError, match="expected abababababab"):
        available("own")


def test_a_changed_cache_is_refused(own):
    own(SMALL)
    load_table("own")
    path = cache_folder() / "own.npz"
    other = SMALL.x + np.array([[0, 0], [0, 1e-15]])
    np.savez(path, x=other, y=SMALL.y)
    with pytest.raises(RefineError) as caught:
        load_table("own")
    assert str(caught.value) == (
        f"data set 'own' has sha256 {digest(Table(other, SMALL.y, 2))[:12]}, expected {digest(SMALL)[:12]} "
        f"(of the test); delete {path} to make it again"
    )


@pytest.mark.parametrize("part", [0, 60, -30])
def test_a_broken_cache_is_refused(own, part):
    own(SMALL)
    load_table("own")
    path = cache_folder() / "own.npz"
    path.write_bytes(path.read_bytes()[:part])
    with pytest.raises(
        RefineError,
        match=r"data set 'own' \(of the test\): .*own\.npz cannot be read \(.*\); delete it to make it again",
    ):
        load_table("own")


def test_flipped_bits_of_the_cache_give_the_same_or_one_line(own):
    own(SMALL)
    load_table("own")
    path = cache_folder() / "own.npz"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    said = []
    for place, bit in zip(rng.integers(len(content), size=200), rng.integers(8, size=200), strict=True):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(bit)
        path.write_bytes(damaged)
        try:
            assert rows(load_table("own")) == rows(SMALL)
        except RefineError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all(
        t.startswith("data set 'own' ") and t.endswith(("it to make it again", f"{path} to make it again"))
        for t in said
    )
    assert not any("\n" in t for t in said)


@pytest.mark.parametrize("error", [EOFError("cut"), StopIteration(), KeyError("A"), gzip.BadGzipFile("no gzip")])
def test_a_damaged_package_is_one_line(own, error):
    own(error, "0" * 64, Table)
    for call in (load_table, available):
        with pytest.raises(RefineError) as caught:
            call("own")
        assert not isinstance(caught.value, AbsentDataError)
        assert str(caught.value) == (
            f"data set 'own' (of the test): {cache_folder() / 'packages'} cannot be read "
            f"({type(error).__name__}: {error}); delete it to fetch it again"
        )


def test_an_error_of_a_loader_keeps_its_line(own):
    own(RefineError("a.gz: not an idx file; delete it"), "0" * 64, Table)
    with pytest.raises(RefineError, match=r"^a\.gz: not an idx file; delete it$"):
        load_table("own")


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_a_cut_file_of_a_package(tmp_path, monkeypatch, cut):
    monkeypatch.setenv("REFINE_BENCH_DATA", str(tmp_path))
    folder = tmp_path / "packages" / "dataset-fashion-mnist"
    folder.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{part}-ubyte.gz").write_bytes(gzip.compress(bytes(1000))[:cut])
    with pytest.raises(RefineError, match=r"^data set 'fashion-mnist' .*packages cannot be read|not an idx file"):
        load_images("fashion-mnist")


def test_an_absent_set_is_skipped_by_name(own):
    own(AbsentDataError("Debian package a: apt-get failed (no); copy"), "0" * 64, Table)
    text = "data set 'own' is absent: Debian package a: apt-get failed (no); copy"
    assert available("own") == text
    with pytest.raises(AbsentDataError, match="^data set 'own' is absent: Debian package a"):
        load_table("own")
    assert list(cache_folder().iterdir()) == []


def test_a_package_of_another_release(tmp_path, monkeypatch):
    monkeypatch.setenv("REFINE_BENCH_DATA", str(tmp_path))
    folder = tmp_path / "packages" / "r-cran-mlbench"
    folder.mkdir(parents=True)
    assert available("glass") == (
        f"data set 'glass' is absent: {folder} holds 0 files Glass.rda, expected one; delete it to fetch it again"
    )


def test_names_and_kinds_are_checked():
    with pytest.raises(RefineError, match="^data set 'cifar' is not known; choose one of iris, wine, "):
        load_table("cifar")
    with pytest.raises(RefineError) as caught:
        load_images("shakespeare")
    assert str(caught.value) == "data set 'shakespeare' holds bytes, not Images; use fashion-mnist"


def test_the_registry():
    assert all(name == data.name and len(data.sha256) == 64 for name, data in DATASETS.items())
    assert len({data.sha256 for data in DATASETS.values()}) == len(DATASETS)
    assert sum(data.kind is Table for data in DATASETS.values()) >= 20


@pytest.mark.parametrize("name", ["iris", "wine", "digits", "breast-cancer"])
def test_the_sets_of_scikit_learn(name, tmp_path, monkeypatch):
    bundled = pytest.importorskip("sklearn.datasets")
    monkeypatch.setenv("REFINE_BENCH_DATA", str(tmp_path))
    x, y = getattr(bundled, f"load_{name.replace('-', '_')}")(return_X_y=True)
    found = load_table(name)
    np.testing.assert_array_equal(found.x, x[:, np.ptp(x, axis=0) > 0])
    np.testing.assert_array_equal(found.y, y)


def cached(name):
    """Skip where the set is not in the cache of this machine: no test downloads."""
    if not (cache_folder() / f"{name}.npz").exists():
        pytest.skip(f"data set {name!r} is not in {cache_folder()}; refine bench fetches it")


SHAPES = {
    "iris": (150, 4, 3),
    "wine": (178, 13, 3),
    "digits": (1797, 61, 10),
    "breast-cancer": (569, 30, 2),
    "vehicle": (846, 18, 4),
    "letter": (20000, 16, 26),
    "dna": (3186, 180, 3),
    "satellite": (6435, 36, 6),
    "shuttle": (58000, 9, 7),
    "glass": (214, 9, 6),
    "sonar": (208, 60, 2),
    "ionosphere": (351, 33, 2),
    "pima": (768, 8, 2),
    "spam": (4601, 57, 2),
    "musk": (476, 166, 2),
    "german-credit": (1000, 59, 2),
    "segment": (2310, 18, 7),
    "pendigits": (10992, 16, 10),
    "vowel": (528, 10, 11),
    "optdigits": (5620, 62, 10),
    "magic": (19020, 10, 2),
    "texture": (5500, 40, 11),
}


@pytest.mark.parametrize("name", [data.name for data in DATASETS.values() if data.kind is Table])
def test_a_real_table(name):
    cached(name)
    found = load_table(name)
    assert (*found.x.shape, found.classes) == SHAPES[name]
    assert np.isfinite(found.x).all()
    assert (np.ptp(found.x, axis=0) > 0).all()
    assert np.bincount(found.y, minlength=found.classes).min() > 0


COUNTS = {
    "glass": [70, 76, 17, 13, 9, 29],
    "magic": [12332, 6688],
    "pendigits": [1143, 1143, 1144, 1055, 1144, 1055, 1056, 1142, 1055, 1055],
    "pima": [500, 268],
    "satellite": [703, 626, 1358, 1533, 707, 1508],
    "segment": [330] * 7,
    "shuttle": [10, 13, 3267, 50, 171, 8903, 45586],
    "sonar": [111, 97],
    "spam": [2788, 1813],
    "vowel": [48] * 11,
}
"""Rows of each class by the ``.names`` files of the UCI Machine Learning Repository."""


@pytest.mark.parametrize("name", COUNTS)
def test_rows_of_each_class(name):
    cached(name)
    assert np.bincount(load_table(name).y).tolist() == COUNTS[name]


def test_the_real_images():
    cached("fashion-mnist")
    found = load_images("fashion-mnist")
    assert [part.shape for part in found] == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    assert np.bincount(found.train_labels).tolist() == [6000] * 10
    assert np.bincount(found.test_labels).tolist() == [1000] * 10
    assert found.train.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "size", "line"),
    [
        ("shakespeare", 5_057_198, b"\nTo be, or not to be,--that is the question:--"),
        ("python-source", 15_850_680, b"\ndef solve(f, *symbols, **flags):\n"),
    ],
)
def test_the_real_texts(name, size, line):
    cached(name)
    found = load_text(name)
    assert len(found) == size
    assert found.count(line) == 1
