"""Train a small CNN on Fashion-MNIST with SGD and momentum; record the gradient norms of every update.

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb debian    # no root needed
    python examples/record_fashion_mnist.py fashion.csv --data debian/usr/share/datasets/fashion-mnist
    refine fit fashion.csv
    python examples/record_fashion_mnist.py again.csv --data ... --schedule refined

Needs torch (``pip install '.[torch]'``); a minute on one CPU core. The prior schedule is a linear warmup and
a linear decay. The last command trains on the schedule that comes out; ``--lr`` is the peak rate of either.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from refine import Schedule, linear
from refine.torch import GradNormRecorder, ScheduleLR

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def read_idx(path: Path) -> np.ndarray:
    """Unpack an idx file of bytes: two zeros, a type, the number of axes, their lengths (big endian), the data."""
    if not path.is_file():
        raise SystemExit(f"{path} is not there: apt-get download dataset-fashion-mnist, dpkg -x, then --data FOLDER")
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def load(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as float32 of mean 0 and variance 1, shape (n, 1, 28, 28), and labels."""
    images, labels = (read_idx(folder / f"{split}-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    scaled = (torch.tensor(images, dtype=torch.float32) / 255.0 - 0.2860) / 0.3530
    return scaled[:, None], torch.tensor(labels, dtype=torch.int64)


def network() -> nn.Module:
    """Two convolutions and two linear layers, 105,866 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


@torch.no_grad()
def evaluate(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Mean loss and accuracy."""
    device = next(model.parameters()).device
    logits = torch.cat([model(part.to(device)).cpu() for part in images.split(1000)])
    return nn.functional.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def main() -> None:
    """Parse the command line, train, write the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", help="CSV or JSONL file to write")
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder of the four idx files")
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--lr", type=float, default=0.07, help="peak learning rate")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schedule", help="schedule file to train on, instead of warmup and linear decay")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = load(options.data, "train")
    model = network().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9, weight_decay=5e-4)
    schedule = (
        Schedule.load(options.schedule) if options.schedule else linear(options.updates, warmup_steps=options.warmup)
    )
    scheduler = ScheduleLR(optimizer, schedule)

    batches = (torch.randint(len(images), (options.batch_size,)).tolist() for _ in range(schedule.total_steps))
    # The workers' seed comes from a generator of its own, so that the batches depend on --seed alone.
    data = DataLoader(TensorDataset(images, labels), batch_sampler=batches, num_workers=1, generator=torch.Generator())
    with GradNormRecorder(optimizer, options.log, total_steps=schedule.total_steps) as recorder:
        for x, y in data:
            loss = nn.functional.cross_entropy(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            recorder.record(loss=loss)
            optimizer.step()
            scheduler.step()

    train, _ = evaluate(model, images, labels)
    test, accuracy = evaluate(model, *load(options.data, "t10k"))
    print(
        f"{options.log}: {schedule.total_steps} updates, train loss {train:.4f}, test loss {test:.4f}, "
        f"test accuracy {accuracy:.2%}"
    )


if __name__ == "__main__":
    main()
