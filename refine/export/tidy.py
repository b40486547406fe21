"""What was read of a log as one tidy CSV: nothing smoothed, nothing filled. `refine convert`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..files import printable
from ..norms import GradientNorms

__all__ = ["tidy_csv"]

_CHUNK = 100_000


def tidy_csv(norms: GradientNorms) -> Iterator[str]:
    """Text of ``step,grad_norm,lr,loss``, then ``grad_norm_l1``, ``grad_norm_dual`` and single layers where logged.

    ``grad_norm`` is the l2 norm, empty in a log without one; ``batch_size`` stands last, where it changes. Rows are
    those that `refine fit` uses; what the log does not say is empty. Numbers read back exactly.

    Examples
    --------
    >>> norms = GradientNorms.from_values([2.0, 1.0], kind="l1", loss=[0.5, float("nan")])
    >>> print("".join(tidy_csv(norms)), end="")
    step,grad_norm,lr,loss,grad_norm_l1
    1,,,0.5,2.0
    2,,,,1.0
    """
    columns: dict[str, NDArray[np.float64] | None] = {"grad_norm": None, "lr": norms.learning_rate, "loss": norms.loss}
    columns["grad_norm" if norms.kind == "l2" else f"grad_norm_{norms.kind}"] = norms.values
    for name, extra in norms.extras.items():
        columns["grad_norm" if name == "grad_norm_l2" else printable(name)] = extra
    if norms.batch_size is not None:
        columns["batch_size"] = norms.batch_size[norms.updates]
    for start in range(0, norms.steps.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        missing = np.full(norms.steps[part].size, np.nan)
        parts = {name: missing if values is None else values[part] for name, values in columns.items()}
        frame = pd.DataFrame({"step": norms.steps[part], **parts})
        yield frame.to_csv(index=False, header=start == 0, lineterminator="\n")
