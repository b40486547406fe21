"""Optimizer updates of a run, from samples, batch, accumulation, processes and epochs."""

from __future__ import annotations

import math
import operator

from .errors import RefineError
from .files import printable

__all__ = ["Steps", "steps_in"]


class Steps(int):
    """A number of updates that remembers its arithmetic: ``str`` shows it, everything else sees the int."""

    arithmetic = ""

    def __str__(self) -> str:
        return f"{self:,} update{'s' * (self != 1)} = {self.arithmetic}" if self.arithmetic else repr(self)

    def __format__(self, specification: str) -> str:
        return format(int(self), specification)


def steps_in(
    *,
    epochs: float,
    samples: int,
    batch_size: int,
    accumulate: int = 1,
    world_size: int = 1,
    drop_last: bool = False,
) -> Steps:
    """Count the optimizer updates of a run.

    ``updates = ceil(epochs * ceil(ceil(samples / (batch_size * world_size)) / accumulate))``; with
    ``drop_last`` the innermost is a floor.

    Parameters
    ----------
    epochs : float
        > 0. A fraction of an update is run as one, as in the Hugging Face Trainer.
    samples : int
        Length of the training set, all processes together.
    batch_size : int
        Samples in one forward pass of one process (``per_device_train_batch_size``).
    accumulate : int
        Batches in an update (``gradient_accumulation_steps``). The rest at the end of an epoch is an update.
    world_size : int
        Processes that share the samples.
    drop_last : bool
        Whether the loader drops the last batch where it is not full.

    Returns
    -------
    Steps
        An int; ``print`` shows how it came about.

    Raises
    ------
    RefineError
        A number that is not a count, or no batch at all.

    Notes
    -----
    So count the Hugging Face Trainer, accelerate and, for whole epochs, Lightning. With ``drop_last`` and several
    processes a ``DistributedSampler`` (Lightning, plain DDP) first repeats samples until they divide by
    ``world_size``, which can make one batch more. A loop that carries accumulated gradients over the end of an
    epoch makes fewer updates.

    Examples
    --------
    >>> print(steps_in(epochs=10, samples=60_000, batch_size=64))
    9,380 updates = 10 epochs x 938 (ceil(60,000 samples / (64 a batch x 1 process)) = 938 batches, 1 an update)
    >>> steps_in(epochs=1.5, samples=100, batch_size=8, accumulate=2, world_size=2) + 0
    6
    """
    counts = {"samples": samples, "batch_size": batch_size, "accumulate": accumulate, "world_size": world_size}
    samples, batch_size, accumulate, world_size = (_count(name, value) for name, value in counts.items())
    if not isinstance(epochs, (int, float)) or isinstance(epochs, bool) or not 0.0 < epochs < math.inf:
        raise RefineError(f"epochs is {printable(repr(epochs))}; it must be a finite number above 0")
    full, rest = divmod(samples, batch_size * world_size)
    batches = full if drop_last else full + bool(rest)
    if batches == 0:
        raise RefineError(
            f"samples is {samples:,} and a full batch of all processes {batch_size * world_size:,}, so drop_last "
            "leaves none; take a smaller batch_size, or keep the last"
        )
    an_epoch = -(-batches // accumulate)
    product = f"{_number(epochs)} epoch{'s' * (epochs != 1)} x {an_epoch:,}"
    whole = product if epochs == int(epochs) else f"ceil({product})"
    batch = f"({batch_size:,} a batch x {world_size:,} process{'es' * (world_size > 1)})"
    loaded = f"{'floor' if drop_last else 'ceil'}({samples:,} samples / {batch}) = {batches:,} batch"
    steps = Steps(math.ceil(epochs * an_epoch))
    steps.arithmetic = f"{whole} ({loaded}{'es' * (batches > 1)}, {accumulate:,} an update)"
    return steps


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else repr(value)


def _count(name: str, value: object) -> int:
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1 or isinstance(value, bool):
        raise RefineError(f"{name} is {printable(repr(value))}; it must be an integer >= 1")
    return count
