"""Train on handwritten digits in a plain loop, three times: linear decay, then the two schedules that its log gives.

    python examples/with_plain_loop.py runs/plain_loop

Needs torch and scikit-learn, seconds on a CPU. After the first run comes ``refine fit runs/plain_loop/linear.jsonl``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import refine
from refine.torch import GradNormRecorder, ScheduleLR


def train(schedule: refine.Schedule, peak: float, log: Path) -> float:
    """Train on a schedule with a peak learning rate, write the log, return the loss on held-out images."""
    torch.manual_seed(0)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    images = images.float() / 16
    shuffled = torch.randperm(len(images))
    chosen, held_out = shuffled[:1400], shuffled[1400:]
    batches = RandomSampler(chosen, replacement=True, num_samples=64 * schedule.total_steps)
    data = DataLoader(TensorDataset(images[chosen], labels[chosen]), batch_size=64, sampler=batches, num_workers=1)

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak)
    scheduler = ScheduleLR(optimizer, schedule)
    with GradNormRecorder(optimizer, log, total_steps=schedule.total_steps) as recorder:
        for x, y in data:
            loss = cross_entropy(model(x + 0.3 * torch.randn_like(x)), y)
            optimizer.zero_grad()
            loss.backward()
            recorder.record(loss=loss)  # after backward, before clipping
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimizer.step()
            scheduler.step()  # once per update
    scheduler.check_complete()

    model.eval()
    with torch.no_grad():
        return cross_entropy(model(images[held_out]), labels[held_out]).item()


def main() -> None:
    """Train, fit, train again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/plain_loop"), help="a new folder")
    parser.add_argument("--updates", type=int, default=1000)
    options = parser.parse_args()
    out = options.out
    if out.exists():
        parser.error(f"{out} exists; name a new folder")

    peak = 3e-3
    linear = refine.linear(options.updates, warmup_steps=options.updates // 20)
    losses = {f"linear from {peak:.3g}": train(linear, peak, out / "linear.jsonl")}

    result = refine.fit(out / "linear.jsonl")
    print(result.summary())
    result.save(out / "refined")
    for name in ("refined", "recommended"):
        if name == "recommended" and result.already_ran:
            print("recommended is what the first run used: not trained again")
            continue
        new_peak = result.peak_lr(name) or peak
        losses[f"{name} from {new_peak:.3g}"] = train(result.schedules[name], new_peak, out / f"{name}.jsonl")

    for name, loss in losses.items():
        print(f"held-out loss {loss:.4f} with {name}")
    print("(one seed each: no ranking)")


if __name__ == "__main__":
    main()
