"""What refinement was worth, as a small file for the package: `refine.worth` reads it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ...errors import RefineError
from .headline import UNGUARDED
from .prediction import evidence
from .results import checksums, load
from .statistics import BASELINE, CELL, cells, change_of, paired

__all__ = ["worth_json"]

_WHAT = (
    f"What refinement was worth: final loss of {UNGUARDED} (the refined schedule, its dips not yet taken out) "
    "over that of tuned linear decay, each at its own swept peak rate. A case: a problem with an optimizer."
)
_COLUMNS = {
    "rho": "smoothed norm at the end over that at 5 % of the run, in the logs of linear decay; median over seeds",
    "excess": "per cent, mean over seeds; negative: the refined schedule was better; null: a run diverged",
    "changing": "true where a batch size, the labels or the data change during the run",
    "se": "standard error of the excess; null: a run diverged, or a single seed",
}


def worth_json(folders: Sequence[str | os.PathLike[str]]) -> str:
    """Cases of some folders of results, one a line, by suite, problem and optimizer.

    A case whose logs have no positive rho is left out: no log is like it. Numbers have 4 significant digits. The same
    results give the same text.

    Parameters
    ----------
    folders : sequence of path
        As `refine.bench.reporting.results.save` wrote them.

    Raises
    ------
    RefineError
        The results hold no case of ``unguarded(linear)`` at its swept rate, or the files were edited.
    """
    results = [load(folder) for folder in folders]
    found = cells(paired(pd.concat([r.runs for r in results], ignore_index=True)))
    logs = pd.concat([r.logs for r in results], ignore_index=True)
    swept = found[(found["method"] == UNGUARDED) & (found["rates"] == BASELINE.rates)]
    rows = evidence(found, logs, UNGUARDED).merge(swept[[*CELL, "se"]], on=CELL)
    rows = rows[rows["rho"] > 0.0].sort_values(CELL)
    if rows.empty:
        raise RefineError(f"the results hold no case of {UNGUARDED} at its swept rate with rho of its log; train it")
    places = " ".join(f"RESULTS/{r.meta['suite']}" for r in results)
    head = {
        "what": _WHAT,
        "columns": _COLUMNS,
        "made by": f"refine bench report {places} --worth FILE",
    }
    sums = [
        {"suite": r.meta["suite"], "scale": r.meta["scale"], **_sums(folder)}
        for r, folder in zip(results, folders, strict=True)
    ]
    shown = [
        {name: row[name] for name in (*CELL, "family")}
        | {name: _digits(row[name]) for name in ("rho", "excess", "se")}
        | ({"changing": True} if change_of(row["problem"]) not in ("", "steady") else {})
        for row in rows.to_dict("records")
    ]
    blocks = {"sha256": sums, "cases": shown}
    start = json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}")
    return start + "".join(f',\n  "{name}": {_lines(block)}' for name, block in blocks.items()) + "\n}\n"


def _sums(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Checksums of the files that the cases are made from."""
    every = checksums(folder)
    return {name: every[name] for name in ("runs", "logs")}


def _digits(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in rows) + "\n  ]"
