"""What changes during a run: the batch size, the share of wrong labels, the data that minibatches are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["NETWORK_CHANGES", "STEADY", "TABLE_CHANGES", "TEXT_CHANGES", "WRONG", "Noise", "Stairs"]

Stairs: TypeAlias = tuple[tuple[float, float], ...]
"""Pairs (share of the run, value from there on), the first at 0."""

WRONG = 0.1
"""Share of the labels of a table that are wrong all the time, so that none of the tables is separable."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How the noise of the gradients changes over a run, whatever its schedule.

    Attributes
    ----------
    batch : Stairs
        Size of the minibatches; empty: the task's own.
    wrong : Stairs
        Share of the labels of a minibatch that are drawn at random.
    source : Stairs
        Which text minibatches are drawn from, 0 or 1.
    """

    batch: Stairs = ()
    wrong: Stairs = ((0.0, 0.0),)
    source: Stairs = ((0.0, 0.0),)

    def size(self, done: float, usual: int) -> int:
        """Batch size where a share of the run is done."""
        return int(_at(self.batch, done)) if self.batch else usual

    def share_wrong(self, done: float) -> float:
        """Share of wrong labels there."""
        return _at(self.wrong, done)

    def text(self, done: float) -> int:
        """Index of the text there."""
        return int(_at(self.source, done))

    def sizes(self, steps: int) -> NDArray[np.float64] | None:
        """Batch size of every update, shape (T,), as a log would hold it; None where it does not change.

        Examples
        --------
        >>> Noise(batch=((0.0, 8), (0.5, 64))).sizes(4).tolist()
        [8.0, 8.0, 64.0, 64.0]
        """
        if not self.batch:
            return None
        return np.array([_at(self.batch, step / steps) for step in range(steps)], dtype=np.float64)


def _at(stairs: Stairs, done: float) -> float:
    return next(value for start, value in reversed(stairs) if start <= done)


STEADY = Noise()


def _even(*sizes: float) -> Stairs:
    return tuple((place / len(sizes), size) for place, size in enumerate(sizes))


TABLE_CHANGES: Mapping[str, Noise] = MappingProxyType(
    {
        "steady": STEADY,
        "batch up": Noise(_even(8, 64)),
        "batch down": Noise(_even(64, 8)),
        "batch up in stairs": Noise(_even(8, 16, 32, 64, 128)),
        "batch down in stairs": Noise(_even(128, 64, 32, 16, 8)),
        "dirty first": Noise(wrong=((0.0, 0.5), (2 / 3, 0.0))),
        "dirty middle": Noise(wrong=((0.0, 0.0), (1 / 3, 0.5), (2 / 3, 0.0))),
        "dirty last": Noise(wrong=((0.0, 0.0), (2 / 3, 0.2))),
    }
)
"""Of logistic regression on tables."""

NETWORK_CHANGES: Mapping[str, Noise] = MappingProxyType(
    {
        "steady": STEADY,
        "batch up": Noise(_even(16, 128)),
        "batch down": Noise(_even(128, 16)),
        "dirty first": Noise(wrong=((0.0, 0.4), (2 / 3, 0.0))),
        "dirty last": Noise(wrong=((0.0, 0.0), (2 / 3, 0.4))),
    }
)
"""Of a network on images."""

TEXT_CHANGES: Mapping[str, Noise] = MappingProxyType(
    {
        "batch up": Noise(_even(2, 16)),
        "batch down": Noise(_even(16, 2)),
        "other text": Noise(source=((0.0, 0.0), (0.5, 1.0))),
    }
)
"""Of a transformer; the first text is another one than that which is held out."""
