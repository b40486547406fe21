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

import numpy as np

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


def compare(name: str, ours: list[str], baseline: list[str], folder: str, repeats: int) -> None:
    """Print both sides and their ratios."""
    pairs = [(measure(baseline, folder), measure(ours, folder)) for _ in range(repeats + 1)][1:]
    for i, unit in ((0, "s"), (1, "MB")):
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
        t = np.arange(1, n + 1)
        norms = (1 + 5 * np.exp(-t / (n / 50))) * np.exp(0.3 * np.random.default_rng(0).standard_normal(n))
        with open(Path(folder) / "log.csv", "w") as stream:
            stream.write("step,grad_norm\n")
            stream.writelines(f"{a},{b!r}\n" for a, b in zip(t.tolist(), norms.tolist(), strict=True))
        script = BASELINE.format(width=2 * (n // 10 // 2) + 1)
        fit = [refine, "fit", "log.csv", "--no-plot", "--force"]
        compare("refine fit", fit, [sys.executable, "-c", script], folder, options.repeats)
        compare("--help", [refine, "--help"], [sys.executable, "-c", "import click"], folder, 4 * options.repeats)


if __name__ == "__main__":
    main()
