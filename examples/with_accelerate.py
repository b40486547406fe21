"""Train on handwritten digits with accelerate, twice: the second run on a schedule that the first one's log gives.

    python examples/with_accelerate.py runs/accelerate
    torchrun --nproc-per-node 2 examples/with_accelerate.py runs/accelerate_2

Needs accelerate and scikit-learn, seconds on a CPU. Between the two runs is ``refine fit FOLDER/first.jsonl``.
The schedule is not prepared: accelerate would step it once per process in every update.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import refine
from refine.torch import GradNormRecorder, ScheduleLR


def train(accelerator: Accelerator, epochs: int, schedule: refine.Schedule, peak: float, log: Path) -> float:
    """Train on a schedule with a peak learning rate, write the log, return the loss on held-out images."""
    torch.manual_seed(0)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    shuffled = torch.randperm(len(images))
    images, labels = (images.float() / 16)[shuffled], labels[shuffled]
    data = TensorDataset(images[:1400], labels[:1400])
    loader = DataLoader(data, batch_size=16, shuffle=True, num_workers=1, persistent_workers=True)

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.05)
    scheduler = ScheduleLR(optimizer, schedule)  # stays out of prepare
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    # With fp16 accelerator.scaler is what unscales the norms; otherwise it is None.
    with GradNormRecorder(optimizer, log, total_steps=schedule.total_steps, scaler=accelerator.scaler) as recorder:
        for _ in range(epochs):
            for x, y in loader:
                with accelerator.accumulate(model):
                    loss = cross_entropy(model(x + 0.3 * torch.randn_like(x)), y)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:  # the last batch of an update
                        recorder.record(loss=loss)
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                        scheduler.step()
                    optimizer.zero_grad()
    scheduler.check_complete()

    model.eval()
    with torch.no_grad():
        return cross_entropy(model(images[1400:].to(accelerator.device)).cpu(), labels[1400:]).item()


def main() -> None:
    """Train, refine, train again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/accelerate"), help="a new folder")
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    out, epochs = options.out, options.epochs
    if (out / "first.jsonl").exists():
        parser.error(f"{out} has a log; name a new folder")

    accelerator = Accelerator(gradient_accumulation_steps=2, cpu=not torch.cuda.is_available())
    world = accelerator.num_processes
    updates = refine.steps_in(epochs=epochs, samples=1400, batch_size=16, accumulate=2, world_size=world)
    accelerator.print(updates)
    peak = 3e-3
    first = train(accelerator, epochs, refine.linear(updates, warmup_steps=updates // 20), peak, out / "first.jsonl")

    accelerator.wait_for_everyone()  # process 0 has written the log
    result = refine.fit(out / "first.jsonl")
    accelerator.print(result.summary())
    if accelerator.is_main_process:
        result.save(out / "refined")
    name = "refined" if result.already_ran else result.default  # never the same schedule twice
    new_peak = result.peak_lr(name) or peak

    second = train(accelerator, epochs, result.schedules[name], new_peak, out / "second.jsonl")
    accelerator.print(f"held-out loss {first:.4f} with warmup and linear decay from {peak:.3g}")
    accelerator.print(f"held-out loss {second:.4f} with {name} from {new_peak:.3g} (one seed each: no ranking)")
    accelerator.end_training()


if __name__ == "__main__":
    main()
