"""Arrays of numpy, as scripts save them and as they must not be."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile

import numpy as np
import pytest

from refine import RefineError, read_norms

T = np.arange(1, 41)
NORMS = np.random.default_rng(0).lognormal(size=40)


@pytest.fixture
def save(tmp_path):
    def to(array=None, **named):
        path = tmp_path / ("log.npy" if array is not None else "log.npz")
        if array is None:
            np.savez_compressed(path, **named)
        else:
            np.save(path, array)
        return path

    return to


def test_named_sample(shared):
    norms = read_norms(shared / "formats/rendered/named.npz")
    truth = np.genfromtxt(shared / "formats/rendered/TRUTH_first.csv", delimiter=",", names=True)
    kept = truth["skipped"] == 0
    assert norms.steps.tolist() == truth["step"][kept].tolist()
    assert norms.values.tolist() == truth["l2"][kept].tolist()
    assert norms.learning_rate is not None
    assert norms.learning_rate.tolist() == truth["lr"][kept].tolist()
    assert (norms.steps.size, norms.steps[0], norms.steps[-1]) == (228, 1, 230)
    assert norms.dropped == {"non-finite": 2}


def test_bare_sample(shared):
    path = shared / "formats/rendered/grad_norm_only.npy"
    with pytest.raises(RefineError, match="say with --every K how many updates lie between two rows"):
        read_norms(path)
    norms = read_norms(path, every=10)
    kept = np.flatnonzero(np.isfinite(np.load(path)))
    assert norms.steps.tolist() == (10 * (kept + 1)).tolist()
    assert norms.values.tolist() == np.load(path)[kept].tolist()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2"])
def test_two_columns(save, dtype):
    table = np.stack([T, NORMS], axis=1).astype(dtype)
    norms = read_norms(save(table))
    assert norms.steps.tolist() == T.tolist()
    assert norms.values.tolist() == table[:, 1].astype(np.float64).tolist()
    assert any("no header" in note for note in norms.source.notes)
    assert read_norms(save(np.asfortranarray(table))).values.tolist() == norms.values.tolist()


def test_structured(save):
    fields = [("step", "i4"), ("grad_norm", "f4"), ("lr", "f8"), ("who", "U5"), ("x", "f4", (2,))]
    table = np.zeros(40, dtype=fields)
    table["step"], table["grad_norm"], table["lr"] = T, NORMS, 1e-3
    norms = read_norms(save(table))
    assert norms.values.tolist() == NORMS.astype(np.float32).astype(np.float64).tolist()
    assert norms.learning_rate is not None
    assert norms.source.columns == {"norm": "grad_norm", "step": "step", "lr": "lr"}


def test_npz_resumed_and_of_several_lengths(save):
    steps = np.concatenate([T[:30], T[20:]])
    values = np.concatenate([NORMS[:30] + 1, NORMS[20:]])
    norms = read_norms(save(iter=steps, gnorm=values, loss=np.ones(7), lr=np.float64(0.1), who=np.array(["a"])))
    assert norms.values.tolist() == [*(NORMS[:20] + 1), *NORMS[20:]]
    assert norms.dropped == {"superseded": 10}
    assert norms.source.notes == ("arrays of other lengths are left out: loss",)


def test_npz_without_known_names(save):
    path = save(arr_0=NORMS)
    with pytest.raises(RefineError, match='columns: "arr_0"; choose one with --column'):
        read_norms(path)
    assert read_norms(path, column="arr_0", every=1).values.tolist() == NORMS.tolist()


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([{}, 1], dtype=object), "holds Python objects, which only a pickle can restore"),
        (np.array(["a", "b"]), "shape \\(2,\\) and type <U1; save numbers"),
        (np.ones((2, 3, 4)), "shape \\(2, 3, 4\\)"),
        (np.ones((2, 100)), "shape \\(2, 100\\)"),
        (np.ones((9, 3)), "no header and 3 columns"),
        (np.float64(1), "shape \\(\\)"),
        (np.ones(0), "empty"),
        (np.ones(4, dtype=complex), "complex128"),
    ],
)
def test_refused(save, array, text):
    with pytest.raises(RefineError, match=text):
        read_norms(save(np.asarray(array)))


def test_objects_in_npz(save):
    with pytest.raises(RefineError, match="holds Python objects"):
        read_norms(save(step=T, grad_norm=np.array([{}] * 40, dtype=object)))
    norms = read_norms(save(step=T, grad_norm=NORMS, config=np.array([{}], dtype=object)))  # not even opened
    assert norms.values.tolist() == NORMS.tolist()


def test_zip_bomb_is_refused_by_its_declared_size(tmp_path):
    path = tmp_path / "bomb.npz"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (2**24,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("grad_norm.npy", "w") as stream:
        stream.write(head.getvalue())
        for _ in range(128):
            stream.write(bytes(2**20))
    with pytest.raises(RefineError, match=r"bytes unpack to 134,217,\d+, as no log does"):
        read_norms(path)


def test_shape_larger_than_the_file(tmp_path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)})
    (tmp_path / "a.npy").write_bytes(head.getvalue() + bytes(80))
    with pytest.raises(RefineError, match="npy file is damaged"):
        read_norms(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("grad_norm.npy", head.getvalue() + bytes(80))
    with pytest.raises(RefineError, match="npz file is damaged"):
        read_norms(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_damage_is_no_traceback(save, tmp_path, kind):
    path = save(NORMS) if kind == "npy" else save(step=T, grad_norm=NORMS)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(RefineError) as error:
            read_norms(path, every=1 if kind == "npy" else None)
        assert "\n" not in str(error.value)
    for _ in range(300):
        at = int(random.integers(len(whole) if kind == "npz" else 128))
        path.write_bytes(whole[:at] + struct.pack("B", random.integers(256)) + whole[at + 1 :])
        with contextlib.suppress(RefineError):
            read_norms(path, every=1 if kind == "npy" else None)
