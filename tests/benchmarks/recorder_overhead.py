"""Time and memory that recording gradient norms adds to an update, against three other ways to look at gradients.

    python tests/benchmarks/recorder_overhead.py [--rounds 20] [--block 16] [--threads 1] [--profile]

A small CNN with SGD, in two batch sizes, and a small transformer with AdamW on the CPU; where there is a GPU, a
transformer of 124 million parameters in bf16 with fused AdamW too. Each loop runs alone; with `GradNormRecorder`,
without and with the optimizer's own norm; with ``clip_grad_norm_`` and a CSV of ``.item()``; with a histogram of 64
bins of every gradient, as ``wandb.watch`` takes it. All in turn, each on its own copy, a block of updates each, in
another order every round; the recorder flushes once a block, the rates are so small that nothing is learned. Medians,
and the median over the rounds of the ratio to the loop alone in the same round; "after backward" is the part that the
host spends there, in the same per cent, which is less noisy.

Memory: on a GPU the highest of the allocator in an update; on a CPU the tensors that are held between updates.

``--profile`` counts, by torch.profiler, what waits for the device in an update; on a GPU, between ``backward`` and
the end of the update, ``set_sync_debug_mode("error")`` is on. Run it by hand, on a quiet machine; quote the ratios.
On a machine that is not quiet, ``--cpu-time --threads 1`` counts the seconds of this process alone.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from refine.torch import GradNormRecorder

ALONE, CLIP, HISTOGRAMS = "loop alone", "clip_grad_norm_ and .item()", "histogram of each gradient"
RECORDERS: dict[str, Literal["none", "state"]] = {"recorder: l1, l2": "none", "recorder: l1, l2, own": "state"}
SIDES = (ALONE, *RECORDERS, CLIP, HISTOGRAMS)
WAITS = (
    "aten::_local_scalar_dense",
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
    "Memcpy DtoH (Device -> Pageable)",
    "Memcpy DtoH (Device -> Pinned)",
)
"""All but the last wait; that one is the recorder's copy."""

Record = Callable[[Tensor], object]


class Transformer(nn.Module):
    """Decoder, GPT-2's shape: normalised inputs, learned positions, the head is the embedding."""

    def __init__(self, vocabulary: int, context: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers + 1))
        sizes = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
        self.maps = nn.ModuleList(nn.Linear(*size) for _ in range(layers) for size in sizes)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(tokens) + self.place.weight
        for i in range(len(self.maps) // 4):
            mix, out, up, down = self.maps[4 * i : 4 * i + 4]
            parts = mix(self.norms[2 * i](x)).unflatten(-1, (3, self.heads, -1)).movedim(2, 0).transpose(2, 3)
            x = x + out(scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2))
            x = x + down(gelu(up(self.norms[2 * i + 1](x))))
        return nn.functional.linear(self.norms[-1](x), self.embed.weight)


@dataclass
class Task:
    """A loop: what it trains, and the loss of a batch."""

    name: str
    device: torch.device
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[], Tensor]

    def backward(self) -> Tensor:
        """Gradients and loss of a batch."""
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        return loss

    def update(self, record: Record) -> None:
        """One update."""
        record(self.backward())
        self.optimizer.step()

    def wait(self) -> None:
        """Until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def cnn(batch: int) -> Task:
    """That of examples/record_fashion_mnist.py, whose batch is 64."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)
    images, labels = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    return Task(
        f"cnn, batch {batch}", torch.device("cpu"), model, optimizer, lambda: cross_entropy(model(images), labels)
    )


def transformer(name: str, device: str, shape: tuple[int, int, int, int, int], batch: int) -> Task:
    """On random tokens; on a GPU bf16 by autocast."""
    torch.manual_seed(0)
    model = Transformer(*shape).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=device == "cuda")
    tokens = torch.randint(shape[0], (batch, shape[1]), device=device)
    targets = torch.randint(shape[0], (batch * shape[1],), device=device)

    def loss() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return cross_entropy(model(tokens).flatten(0, 1), targets)

    return Task(name, torch.device(device), model, optimizer, loss)


TASKS = {
    "cnn": lambda: cnn(64),
    "cnn, batch 256": lambda: cnn(256),
    "small": lambda: transformer("small", "cpu", (84, 64, 128, 4, 4), batch=16),
    "gpt2": lambda: transformer("gpt2", "cuda", (50304, 1024, 768, 12, 12), batch=16),
}


def nothing(loss: Tensor) -> None:
    """Record nothing."""


@contextlib.contextmanager
def opened(side: str, task: Task, folder: Path, block: int) -> Iterator[Record]:
    """What a side does after ``backward``."""
    path = folder / f"{SIDES.index(side)}.csv"
    path.unlink(missing_ok=True)
    if side in RECORDERS:
        with GradNormRecorder(task.optimizer, path, own_norm=RECORDERS[side], buffer_steps=2 * block) as recorder:
            yield lambda loss: recorder.record(loss=loss)
    elif side == CLIP:
        with open(path, "w", newline="") as stream:
            log = csv.writer(stream)
            parameters = list(task.model.parameters())
            yield lambda loss: log.writerow([nn.utils.clip_grad_norm_(parameters, 1.0).item(), loss.item()])
    else:
        yield nothing


@contextlib.contextmanager
def hooked(side: str, task: Task) -> Iterator[None]:
    """Hooks that take a histogram of every gradient, for the side that has them."""

    def histogram(gradient: Tensor) -> None:
        flat = gradient.detach().flatten().float()
        low, high = flat.min().item(), flat.max().item()
        counts.append(torch.histc(flat, 64, low, high).tolist())

    counts: list[list[float]] = []
    handles = [p.register_hook(histogram) for p in task.model.parameters()] if side == HISTOGRAMS else []
    yield
    for handle in handles:
        handle.remove()


def seconds(task: Task, side: str, record: Record, updates: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Of an update, over a block of them: all of it, and on the host what comes after ``backward``."""
    after = 0.0
    with hooked(side, task):
        task.wait()
        start = clock()
        for _ in range(updates):
            loss = task.backward()
            middle = clock()
            record(loss)
            task.optimizer.step()
            after += clock() - middle
        task.wait()
        return (clock() - start) / updates, after / updates


def held() -> int:
    """Bytes of all tensors there are, each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors()}
    return sum(storages.values())


def tensors() -> Iterator[Tensor]:
    """Alive in this process."""
    gc.collect()
    yield from (t for t in gc.get_objects() if issubclass(type(t), Tensor) and t.layout is torch.strided)


def memory(task: Task, record: Record) -> int:
    """Bytes between updates; on a GPU the most in one."""
    if task.device.type == "cpu":
        return held()
    torch.cuda.reset_peak_memory_stats()
    task.update(record)
    return torch.cuda.max_memory_allocated()


def compare(build: Callable[[], Task], rounds: int, block: int, clock: Callable[[], float], folder: Path) -> None:
    """Print the table of a task; every side has a copy."""
    tasks = {side: build() for side in SIDES}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    used: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        records = {}
        for side, task in tasks.items():
            seconds(task, ALONE, nothing, 3, clock)
            before = memory(task, nothing)
            records[side] = stack.enter_context(opened(side, task, folder, block))
            seconds(task, side, records[side], block + 2, clock)
            used[side] = memory(task, records[side]) - before
        for turn in range(rounds):
            for side in random.Random(turn).sample(SIDES, len(SIDES)):
                times[side].append(seconds(tasks[side], side, records[side], block, clock))
    task = tasks[ALONE]
    size = sum(p.numel() for p in task.model.parameters())
    where = torch.cuda.get_device_name() if task.device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"\n{task.name}: {size:,} parameters, {type(task.optimizer).__name__}, {where}, torch {torch.__version__}")
    print(f"{'':28} {'ms an update':>12} {'extra':>8} {'quartiles':>18} {'after backward':>14} {'extra memory':>14}")
    for side in SIDES:
        pairs = list(zip(times[side], times[ALONE], strict=True))
        extra = [100.0 * (own[0] / base[0] - 1.0) for own, base in pairs]
        late = statistics.median(100.0 * (own[1] - base[1]) / base[0] for own, base in pairs)
        low, middle, high = statistics.quantiles(extra, n=4)
        print(
            f"{side:28} {1e3 * statistics.median(own[0] for own, _ in pairs):12.3f} {middle:+7.2f}% "
            f"{f'{low:+.2f} to {high:+.2f}':>18} {late:+13.2f}% {used[side] / 1e6:11.3f} MB"
        )


def profile(task: Task, block: int, folder: Path) -> None:
    """Print how often an update waits, and for what."""
    on_gpu = task.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *[torch.profiler.ProfilerActivity.CUDA] * on_gpu]
    updates = 3 * block
    print(f"\n{task.name}: what waits in {updates} updates with {updates // block} flushes, calls per update")
    task.update(nothing)
    for side in (ALONE, *RECORDERS, CLIP):
        with opened(side, task, folder, block) as record, torch.profiler.profile(activities=activities) as found:
            for _ in range(updates):
                loss = task.backward()
                with errors_at_waits(on_gpu and side != CLIP):
                    record(loss)
                    task.optimizer.step()
        counts = [f"{e.count / updates:.2f} {e.key}" for e in found.key_averages() if e.key in WAITS]
        print(f"{side:28} {', '.join(counts) or 'nothing'}")


@contextlib.contextmanager
def errors_at_waits(on: bool) -> Iterator[None]:
    """PyTorch raises where its operators wait for the GPU."""
    if on:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if on:
            torch.cuda.set_sync_debug_mode("default")


def main() -> None:
    """Run the tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--block", type=int, default=16, help="updates of a side in a round")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--only", choices=TASKS, action="append")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    names = options.only or [name for name in TASKS if name != "gpt2" or torch.cuda.is_available()]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if options.profile:
                profile(TASKS[name](), options.block, Path(folder))
            else:
                compare(TASKS[name], options.rounds, options.block, clock, Path(folder))


if __name__ == "__main__":
    main()
