"""Recording in the Hugging Face `Trainer`; a schedule needs no helper.

>>> from transformers import Trainer  # doctest: +SKIP
>>> trainer = Trainer(model, args, optimizers=(optimizer, ScheduleLR(optimizer, schedule)), ...)  # doctest: +SKIP
>>> record(trainer, "run.jsonl")  # doctest: +SKIP
>>> trainer.train()  # doctest: +SKIP

With the optimizer and the param groups that the Trainer makes of its arguments, before ``train()``:
``trainer.lr_scheduler = ScheduleLR(trainer.create_optimizer(), schedule)``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError("refine.torch.huggingface needs transformers: pip install 'transformers[torch]'") from error

from ..errors import RefineWarning
from .recorder import GradNormRecorder
from .scheduler import ScheduleLR

__all__ = ["Recording", "record"]


def record(trainer: Trainer, path: str | os.PathLike[str], **options: Any) -> Recording:
    """Record the gradient norms of every update of a Trainer, before clipping.

    Parameters
    ----------
    trainer : transformers.Trainer
        Of any subclass. While it trains, ``backward`` and ``clip_grad_norm_`` of its accelerator are wrapped: they see
        losses, and gradients before they are clipped.
    path : path-like
        ``.jsonl`` or ``.csv``. A run that resumes from a checkpoint goes on with it. One that starts from the beginning
        is refused where it holds the log of another one, unless ``step=0`` says that it supersedes that.
    **options
        Of `GradNormRecorder`; the Trainer itself tells ``total_steps`` and ``scaler``.

    Returns
    -------
    Recording
        The callback, which is added to the trainer. After an error in ``train()`` a notebook calls its ``close()``.

    Notes
    -----
    The loss is that of an update, of process 0. With DeepSpeed nothing is recorded, with a warning: the gradients are
    not where torch keeps them. At the end `ScheduleLR.check_complete` is called where there is one.
    """
    callback = Recording(trainer, path, options)
    trainer.add_callback(callback)
    return callback


class Recording(TrainerCallback):
    """What `record` adds to a Trainer."""

    def __init__(self, trainer: Trainer, path: str | os.PathLike[str], options: dict[str, Any]) -> None:
        self._trainer = trainer
        self._path = path
        self._options = options
        self._recorder: GradNormRecorder | None = None
        self._restore: list[Callable[[], None]] = []
        self._begin_update()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start a log, or go on with it."""
        first = self._options.get("step") if self._recorder is None else 0  # 0: its last attempt was cut off
        self.close()
        self._begin_update()
        if self._trainer.is_deepspeed_enabled:
            _warn("DeepSpeed keeps the gradients to itself; set logging_steps=1 and fit trainer_state.json")
            return
        accelerator = self._trainer.accelerator
        known = {"step": state.global_step or first, "total_steps": state.max_steps, "scaler": accelerator.scaler}
        self._recorder = GradNormRecorder(kwargs["optimizer"], self._path, **{**self._options, **known})
        self._wrap(accelerator, "backward", self._add_loss)
        self._wrap(accelerator, "clip_grad_norm_", lambda *_, **__: self._measure())

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure now where nothing was clipped; later versions of the Trainer measure the norm even then."""
        if self._recorder is not None and not self._measured and args.max_grad_norm:
            _warn("this Trainer clips them without accelerator.clip_grad_norm_; set max_grad_norm=0")
            self._end(complete=True)
        self._measure()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Get ready for the next update."""
        self._begin_update()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write what there is: a run that resumes from the checkpoint goes on behind it."""
        if self._recorder is not None:
            self._recorder.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Complete the log, and compare the updates with the horizon of the schedule."""
        self._end(complete=True)
        if isinstance(scheduler := kwargs["lr_scheduler"], ScheduleLR):
            scheduler.check_complete()

    def close(self) -> None:
        """Write what there is and let go of the file, after training was cut off."""
        self._end(complete=False)

    def _begin_update(self) -> None:
        self._measured = False
        self._loss: Tensor | None = None

    def _add_loss(self, loss: Tensor | None = None, *_: Any, **__: Any) -> None:
        """Add up what is backpropagated, of each batch of an accumulation its share."""
        if loss is None:
            return
        share = loss.detach().float() / self._trainer.accelerator.gradient_accumulation_steps
        self._loss = share if self._loss is None else self._loss + share

    def _measure(self) -> None:
        if self._recorder is not None and not self._measured:
            self._measured = True
            self._recorder.record(loss=self._loss)

    def _wrap(self, accelerator: Any, name: str, before: Callable[..., None]) -> None:
        """Call ``before`` at every call of a method of this one object, until the end."""
        method, own = getattr(accelerator, name), vars(accelerator).get(name)

        def wrapped(*args: Any, **options: Any) -> Any:
            before(*args, **options)
            return method(*args, **options)

        setattr(accelerator, name, wrapped)
        self._restore.append(lambda: delattr(accelerator, name) if own is None else setattr(accelerator, name, own))

    def _end(self, *, complete: bool) -> None:
        recorder, self._recorder = self._recorder, None
        while self._restore:
            self._restore.pop()()
        if recorder is not None:
            recorder.__exit__(None if complete else InterruptedError())


def _warn(text: str) -> None:
    warnings.warn(f"gradient norms are not recorded: {text}", RefineWarning, stacklevel=2)
