"""Train on handwritten digits with Lightning, twice: the second run on a schedule that the first one's log gives.

    python examples/with_lightning.py runs/lightning

Needs lightning and scikit-learn, seconds on a CPU. Between the two runs is ``refine fit runs/lightning/first.jsonl``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import refine
from refine.torch.lightning import GradNormCallback, configure


class Classifier(LightningModule):
    """Two convolutions and a linear layer, on images of 8 by 8."""

    def __init__(self, schedule: refine.Schedule, peak: float) -> None:
        super().__init__()
        self.schedule, self.peak = schedule, peak
        convolutions = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
        self.layers = nn.Sequential(*convolutions, nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 10))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Loss on noisy images."""
        images, labels = batch
        return cross_entropy(self.layers(images + 0.3 * torch.randn_like(images)), labels)

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Loss on images as they are."""
        self.log("loss", cross_entropy(self.layers(batch[0]), batch[1]))

    def configure_optimizers(self) -> dict:
        """AdamW on the schedule, stepped every update."""
        return configure(torch.optim.AdamW(self.parameters(), lr=self.peak, weight_decay=0.05), self.schedule)


def train(schedule: refine.Schedule, peak: float, log: Path) -> float:
    """Train on a schedule with a peak learning rate, write the log, return the loss on held-out images."""
    seed_everything(0)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    shuffled = torch.randperm(len(images))
    images, labels = (images.float() / 16).view(-1, 1, 8, 8)[shuffled], labels[shuffled]

    trainer = Trainer(
        max_steps=schedule.total_steps,
        gradient_clip_val=1.0,
        callbacks=[GradNormCallback(log)],
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False),
    )
    module = Classifier(schedule, peak)
    workers = {"num_workers": 1, "persistent_workers": True}
    data = DataLoader(TensorDataset(images[:1400], labels[:1400]), batch_size=64, shuffle=True, **workers)
    held_out = DataLoader(TensorDataset(images[1400:], labels[1400:]), batch_size=len(images), **workers)
    trainer.fit(module, data, held_out)
    return trainer.validate(module, held_out, verbose=False)[0]["loss"]


def main() -> None:
    """Train, refine, train again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/lightning"), help="a new folder")
    parser.add_argument("--updates", type=int, default=1000)
    options = parser.parse_args()
    out = options.out
    if out.exists():
        parser.error(f"{out} exists; name a new folder")

    peak = 3e-3
    first = train(refine.linear(options.updates, warmup_steps=options.updates // 20), peak, out / "first.jsonl")

    result = refine.fit(out / "first.jsonl")
    print(result.summary())
    result.save(out / "refined")
    name = "refined" if result.already_ran else result.default  # never the same schedule twice
    new_peak = result.peak_lr(name) or peak

    second = train(result.schedules[name], new_peak, out / "second.jsonl")
    print(f"held-out loss {first:.4f} with warmup and linear decay from {peak:.3g}")
    print(f"held-out loss {second:.4f} with {name} from {new_peak:.3g} (one seed each: no ranking)")


if __name__ == "__main__":
    main()
