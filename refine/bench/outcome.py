"""What comes out of a run; free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray

__all__ = ["Log", "Outcome", "finite"]


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """What was recorded of every update, shape (T,): norms of the whole gradient before clipping, the batch's loss."""

    l2: NDArray[np.float64]
    l1: NDArray[np.float64]
    loss: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Of one finished run. A loss that is not finite is `inf`; ``seconds`` is its share of the tensor program's.

    ``error`` is the share of the training data that is classified wrongly, of tables.
    """

    train_loss: float
    test_loss: float | None
    seconds: float
    log: Log | None = None
    error: float | None = None

    @property
    def loss(self) -> float:
        """What schedules are judged by: the loss on held-out data, on training data where there is no other."""
        return self.train_loss if self.test_loss is None else self.test_loss


def finite(loss: SupportsFloat) -> float:
    """A loss, or `inf` where it is not a finite number."""
    found = float(loss)
    return found if math.isfinite(found) else math.inf
