"""Where a log may be: compressed, behind a URL, in a named pipe."""

import bz2
import gzip
import lzma
import os
import sys
import threading

import pytest

from refine import RefineError, read_norms

TEXT = "step,grad_norm\n" + "".join(f"{t},{1 + 1 / t!r}\n" for t in range(1, 41))
VALUES = [1 + 1 / t for t in range(1, 41)]


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(data)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize("name", ["log.csv.packed", "log.csv"])
def test_compressed_logs_are_told_by_their_bytes(make_log, pack, name):
    norms = read_norms(make_log(pack(TEXT.encode()), name=name))
    assert norms.values.tolist() == VALUES
    assert norms.source.format == "CSV"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd])
def test_compressed_logs_that_were_cut_are_refused(make_log, pack):
    packed = pack(os.urandom(2000).hex().encode())
    with pytest.raises(RefineError, match="data is damaged .*; copy the file again"):
        read_norms(make_log(packed[: len(packed) // 2]))


def test_urls_are_read_through_fsspec(make_log, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://runs/log.csv", "w") as stream:
        stream.write(TEXT)
    for url in ("memory://runs/log.csv", make_log(TEXT).as_uri()):
        norms = read_norms(url)
        assert (norms.values.tolist(), norms.source.name) == (VALUES, url)
    with pytest.raises(RefineError, match=r"cannot read memory://none.csv \(FileNotFoundError.*\); check the URL"):
        read_norms("memory://none.csv")
    with pytest.raises(RefineError, match="cannot read nonsense://x"):
        read_norms("nonsense://x")


@pytest.mark.parametrize(
    ("module", "data", "package"),
    [
        ("fsspec", "https://example.invalid/log.csv", r"'fsspec\[http\]'"),
        ("zstandard", b"\x28\xb5\x2f\xfd", "zstandard"),
        ("pyarrow", b"PAR1" + bytes(100) + b"PAR1", "pyarrow"),
        (
            "tensorboard.compat.proto.event_pb2",
            b"\x18\0\0\0\0\0\0\0abcd\x09\0\0\0\0\0\0\0\0brain.Event:2",
            "tensorboard",
        ),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(make_log, monkeypatch, module, data, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RefineError, match=rf"pip install {package}$"):
        read_norms(data if isinstance(data, str) else make_log(data))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipes_are_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(TEXT))
    writer.start()
    assert read_norms(pipe).values.tolist() == VALUES
    writer.join()


def test_progress_goes_from_nothing_to_everything(make_log):
    seen = []
    read_norms(make_log(TEXT * 1), progress=seen.append)
    assert seen
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
