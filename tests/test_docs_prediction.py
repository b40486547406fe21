"""docs/prediction.md: what its commands print, and its Python."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from refine.prediction import calibration

TEXT = (Path(__file__).parents[1] / "docs" / "prediction.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n\$ refine (.*?)\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(("command", "printed"), BLOCKS, ids=[command[-40:] for command, _ in BLOCKS])
def test_commands_print_this(command, printed, root, tmp_path):
    (tmp_path / "data").symlink_to(root / "data")
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-m", "refine.cli", *command.split()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    cut = printed.endswith("...\n")
    assert done.stdout.startswith(printed.removesuffix("...\n")) if cut else done.stdout == printed


def test_there_are_commands():
    assert len(BLOCKS) == 3


def test_the_python_runs(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "prediction.md", "exec"), {})
    assert " worse\nwsd:0.4\n" in capsys.readouterr().out


def test_what_the_bars_were_measured_on():
    known = calibration()
    assert f"{known.cases:,} predictions of {known.groups} models" in " ".join(TEXT.split())
    assert f"{known.coverage:.0%} of a model's" in " ".join(TEXT.split())
