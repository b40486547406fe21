"""Shared data where it exists, and the logs that several tests read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import settings

os.environ.pop("COLUMNS", None)  # outputs are compared as they are where there is no terminal

settings.register_profile("refine", deadline=None, max_examples=50)
settings.load_profile("refine")

ROOT = Path(__file__).resolve().parents[1]
# What is installed is tested: `python -m pytest` puts the checkout first, whose refine/ has no cli.
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != ROOT]
SHARED = Path(os.environ.get("REFINE_SHARED", ROOT.parent / "shared"))


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    return SHARED


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command line in an empty folder."""
    from refine.cli.main import main

    monkeypatch.chdir(tmp_path)

    def invoke(*arguments):
        return CliRunner().invoke(main, [str(a) for a in arguments])

    return invoke


@pytest.fixture
def make_log(tmp_path):
    """Write a log: columns by name, or text as it is."""

    def make(text: str | bytes | None = None, name: str = "log.csv", **columns) -> Path:
        path = tmp_path / name
        if isinstance(text, bytes):
            path.write_bytes(text)
            return path
        if text is None:
            rows = zip(*columns.values(), strict=True)
            text = ",".join(columns) + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
        path.write_text(text)
        return path

    return make


@pytest.fixture
def falling_log(make_log):
    """400 updates whose norms fall early and stay: a log that the guard lets pass."""
    t = np.arange(1, 401)
    rates = np.minimum(t / 20, (401 - t) / 381) * 0.1
    return make_log(step=t, grad_norm=(1 + 4 * np.exp(-t / 15)).round(6), lr=rates)
