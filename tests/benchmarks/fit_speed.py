"""Time and memory of ``refine fit --no-plot`` on a million rows against the least that any tool needs.

    python tests/benchmarks/fit_speed.py [--rows 1000000] [--repeats 5]

The baseline imports pandas and scipy.ndimage, reads the file and runs the median filter once. Both sides run
in turn, in processes of their own; medians are compared. Also ``refine --help`` against ``import click``.
Run it by hand, on a quiet machine; quote the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOG = """
import numpy as np
t = np.arange(1, {rows} + 1)
norms = (1 + 5 * np.exp(-t / ({rows} / 50))) * np.exp(0.3 * np.random.default_rng(0).standard_normal({rows}))
with open("log.csv", "w") as stream:
    stream.write("step,grad_norm\\n")
    stream.writelines(f"{{a}},{{b!r}}\\n" for a, b in zip(t.tolist(), norms.tolist(), strict=True))
"""

BASELINE = """
import pandas, scipy.ndimage
norms = pandas.read_csv("log.csv")["grad_norm"].to_numpy()
scipy.ndimage.median_filter(norms, size={width})
"""


def measure(command: list[str], folder: str) -> tuple[float, float]:
    """Wall seconds and peak MB of one process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        raise SystemExit(f"{command} failed")
    return seconds, usage.ru_maxrss / 1024


def compare(name: str, ours: list[str], baseline: list[str], folder: str, repeats: int, units: tuple[str, ...]) -> None:
    """Print both sides and their ratios."""
    pairs = [(measure(baseline, folder), measure(ours, folder)) for _ in range(repeats + 1)][1:]
    for i, unit in enumerate(units):
        base, own = (statistics.median(pair[side][i] for pair in pairs) for side in (0, 1))
        print(f"{name:12} {own:8.3f} {unit:2}   baseline {base:8.3f} {unit:2}   ratio {own / base:.2f}")


def main() -> None:
    """Write the log, run both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    n = options.rows
    refine = str(Path(sys.executable).with_name("refine"))
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: the peak memory of a child starts at that of its parent.
        subprocess.run([sys.executable, "-c", LOG.format(rows=n)], cwd=folder, check=True)
        script = BASELINE.format(width=2 * (n // 10 // 2) + 1)
        fit = [refine, "fit", "log.csv", "--no-plot", "--force"]
        compare("refine fit", fit, [sys.executable, "-c", script], folder, options.repeats, ("s", "MB"))
        compare(
            "--help", [refine, "--help"], [sys.executable, "-c", "import click"], folder, 4 * options.repeats, ("s",)
        )


if __name__ == "__main__":
    main()
