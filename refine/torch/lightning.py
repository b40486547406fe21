"""Lightning: a callback that records, and what ``configure_optimizers`` returns for a schedule."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    except ImportError as error:
        raise ImportError("refine.torch.lightning needs Lightning: pip install lightning") from error

from ..errors import RefineError
from .recorder import GradNormRecorder
from .scheduler import ScheduleLR

__all__ = ["GradNormCallback", "configure"]


def configure(optimizer: Optimizer, schedule: Any, **options: Any) -> dict[str, Any]:
    """What ``configure_optimizers`` returns to train on a schedule, stepped every update.

    Lightning's own default steps a scheduler once an epoch.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    schedule : Schedule, path or mapping
    **options
        Of `ScheduleLR`, as ``schedule`` is.

    Examples
    --------
    >>> from refine import linear
    >>> configure(torch.optim.SGD([torch.zeros(1)], lr=0.1), linear(100))["lr_scheduler"]["interval"]
    'step'
    """
    scheduler = ScheduleLR(optimizer, schedule, **options)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class GradNormCallback(Callback):
    """Record the gradient norms of every update, before clipping.

    Parameters
    ----------
    path : path-like
        ``.jsonl`` or ``.csv``. A run that resumes goes on with it. One that starts from the beginning is refused where
        it holds the log of another one, unless ``step=0`` says that it supersedes that.
    **options
        Of `GradNormRecorder`; the trainer itself tells ``total_steps`` and ``scaler``.

    Raises
    ------
    RefineError
        When training starts: several optimizers, an optimizer that is not torch's (DeepSpeed), the log of another run.

    Notes
    -----
    The loss is that of an update, of process 0. At the end `ScheduleLR.check_complete` is called where there is one.

    Examples
    --------
    >>> from lightning.pytorch import Trainer
    >>> Trainer(callbacks=[GradNormCallback("run.jsonl")])  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        self._path = path
        self._options = options
        self._recorder: GradNormRecorder | None = None
        self._scaler: Any = None
        self._loss: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a log, or go on with it."""
        if len(trainer.optimizers) != 1:
            raise RefineError(
                f"the module has {len(trainer.optimizers)} optimizers and GradNormCallback records one; build a "
                "GradNormRecorder for each in on_train_start, and record in training_step"
            )
        planned = trainer.estimated_stepping_batches if pl_module.automatic_optimization else 0
        self._loss, self._scaler = None, getattr(trainer.precision_plugin, "scaler", None)
        known = {
            "step": trainer.global_step or self._options.get("step"),
            "total_steps": int(planned) if 0 < planned < math.inf else None,
            "scaler": self._scaler,
        }
        self._recorder = GradNormRecorder(trainer.optimizers[0], self._path, **{**self._options, **known})

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add up what is backpropagated, of each batch of an accumulation its share."""
        loss = loss.detach().float()
        if self._scaler is not None:
            loss = loss / self._scaler.scale(torch.ones((), device=loss.device))  # get_scale() would wait for it
        self._loss = loss if self._loss is None else self._loss + loss

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure: all batches of an accumulation are done, nothing is clipped."""
        if self._recorder is not None:
            self._recorder.record(loss=self._loss)
        self._loss = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write what there is: a run that resumes from the checkpoint goes on behind it."""
        if self._recorder is not None:
            self._recorder.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the log, and compare the updates with the horizon of the schedule."""
        self._end(None)
        for configured in trainer.lr_scheduler_configs:
            if isinstance(configured.scheduler, ScheduleLR):
                configured.scheduler.check_complete()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what there is."""
        self._end(exception)

    def _end(self, exception: BaseException | None) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.__exit__(exception)
