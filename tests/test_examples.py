"""The scripts that record: short runs on small files of the same formats. Their logs in ``data/``."""

import gzip
import subprocess
import sys

import numpy as np
import pytest

from refine import read_norms, refined_schedule, wsd

LOGS = ["fashion_mnist_sgd.csv", "shakespeare_adamw.csv", "shakespeare_adamw_clipped.csv"]


@pytest.fixture
def example(root, tmp_path):
    def run(script, *arguments, check=True):
        command = [sys.executable, root / "examples" / script, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=check)

    return run


@pytest.fixture
def fashion(tmp_path):
    """The four idx files, 200 noise images each."""
    for split in ("train", "t10k"):
        for name, shape in (("images-idx3", (200, 28, 28)), ("labels-idx1", (200,))):
            values = np.random.default_rng(0).integers(10, size=shape, dtype=np.uint8)
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
            (tmp_path / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))
    return tmp_path


@pytest.fixture
def play(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text("Who's there? Nay, answer me: stand, and unfold yourself. Long live the king!\n" * 200)
    return path


def check_log(norms, updates, warmup, family, kind):
    assert (norms.steps.size, norms.total_steps, norms.kind, norms.loss.size) == (updates, updates, kind, updates)
    assert norms.source.optimizer == family
    assert norms.learning_rate.argmax() == warmup - 1


def test_record_fashion_mnist_writes_a_log_that_is_read_without_questions(example, fashion, tmp_path):
    printed = example("record_fashion_mnist.py", "log.csv", "--data", fashion, "--updates", 40, "--warmup", 5).stdout
    assert printed.startswith("log.csv: 40 updates, train loss ")
    assert "test accuracy" in printed
    check_log(read_norms(tmp_path / "log.csv"), 40, 5, "sgd", "l2")


@pytest.mark.parametrize("clip", [[], ["--clip", 0.5]])
def test_record_shakespeare_writes_a_log_that_is_read_without_questions(example, play, tmp_path, clip):
    printed = example("record_shakespeare.py", "log.csv", "--text", play, "--updates", 20, "--warmup", 4, *clip).stdout
    assert printed.startswith("log.csv: 20 updates, train loss ")
    norms = read_norms(tmp_path / "log.csv")
    check_log(norms, 20, 4, "adam", "dual")
    assert norms.values.max() > 0.5, "recorded before clipping"


def test_the_texts_are_joined_in_the_order_of_their_names(example, play, tmp_path):
    (tmp_path / "zounds.txt").write_text("Zounds!" * 300)
    run = ("--text", tmp_path / "zounds.txt", play, "--updates", 2, "--warmup", 0)
    example("record_shakespeare.py", "one.csv", *run)
    example("record_shakespeare.py", "two.csv", *run[:1], *reversed(run[1:3]), *run[3:])
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_a_second_run_trains_on_a_schedule(example, fashion, tmp_path):
    wsd(30, warmup_steps=3, cooldown_steps=10).save(tmp_path / "wsd.csv")
    example("record_fashion_mnist.py", "log.csv", "--data", fashion, "--lr", 0.02, "--schedule", "wsd.csv")
    expected = 0.02 * wsd(30, warmup_steps=3, cooldown_steps=10).multiplier
    np.testing.assert_allclose(read_norms(tmp_path / "log.csv").learning_rate, expected, rtol=1e-8)


def test_absent_images_say_where_to_get_them(example, tmp_path):
    failed = example("record_fashion_mnist.py", "log.csv", "--data", tmp_path, check=False)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "apt-get download dataset-fashion-mnist" in failed.stderr
    assert not (tmp_path / "log.csv").exists()


@pytest.mark.parametrize("name", LOGS)
def test_our_own_logs_are_small_and_read_without_questions(root, name):
    path = root / "data" / name
    assert path.stat().st_size <= 400_000
    updates, warmup = (3000, 150) if "sgd" in name else (2000, 100)
    check_log(read_norms(path), updates, warmup, *(("sgd", "l2") if "sgd" in name else ("adam", "dual")))
    result = refined_schedule(read_norms(path))
    assert (result.optimizer_source, result.warmup_steps, dict(result.norms.dropped)) == ("log", warmup, {})
