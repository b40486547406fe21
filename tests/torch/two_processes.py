"""Run by torchrun, two processes on gloo: train as asked, record, and compare with one process.

torchrun --nproc-per-node 2 tests/torch/two_processes.py ddp|fsdp|hsdp|tensor|pipeline|sequence|failing FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from refine.torch import GradNormRecorder

UPDATES, BATCH, CLIP = 12, 8, 0.08


def network(hidden: int = 33) -> nn.Sequential:
    """With an odd width, so that FSDP2 splits unevenly."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(20, hidden), nn.Tanh(), nn.Linear(hidden, 20))


def data() -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(2)
    return [torch.randn(BATCH, 20, generator=chance) for _ in range(UPDATES)]


def train(model, parameters, path, batches, *, optimizer=torch.optim.AdamW, clip=True, **options):
    """Each process its share of the batch."""
    made = optimizer(parameters, lr=1e-2)
    with GradNormRecorder(made, path, buffer_steps=8, distance_every=3, total_steps=UPDATES, **options) as recorder:
        for x in batches:
            made.zero_grad()
            loss = (model(x) - x).square().mean()
            loss.backward()
            recorder.record(loss=loss)
            if clip:
                nn.utils.clip_grad_norm_(parameters, CLIP)
            made.step()


def main() -> None:
    how, folder = sys.argv[1], Path(sys.argv[2])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    model = network()
    mine = [x[rank * BATCH // world : (rank + 1) * BATCH // world] for x in data()]
    if how == "ddp":
        train(nn.parallel.DistributedDataParallel(model), list(model.parameters()), folder / "run.jsonl", mine)
    elif how in ("fsdp", "hsdp"):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        shape, names = ((world, 1), ("replicate", "shard")) if how == "hsdp" else ((world,), ("shard",))
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
        train(model, list(model.parameters()), folder / "run.jsonl", mine, per_group=True)
    elif how == "tensor":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        model, mesh = network(34), init_device_mesh("cpu", (world,))
        parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        train(model, list(model.parameters()), folder / "run.jsonl", data(), optimizer=torch.optim.SGD)
    elif how == "pipeline":  # each process trains one layer of what is one model; the losses add up
        layer = model[0] if rank == 0 else model[2]

        class Stage(nn.Module):
            def forward(self, x):
                return layer(x if rank == 0 else x.repeat(1, 2)[:, :33])

        stage = Stage()
        made = torch.optim.AdamW(layer.parameters(), lr=1e-2)
        options = {"process_group": dist.group.WORLD, "buffer_steps": 8, "distance_every": 3}
        with GradNormRecorder(made, folder / "run.jsonl", **options) as recorder:
            for x in data():
                made.zero_grad()
                stage(x).square().mean().backward()
                recorder.record()
                made.step()
    elif how in ("sequence", "sequence failing"):  # gradients of replicated parameters that are sums still due
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import SequenceParallel, parallelize_module

        norm = parallelize_module(nn.LayerNorm(20), init_device_mesh("cpu", (world,)), SequenceParallel())
        made = torch.optim.SGD(norm.parameters(), lr=0.1)
        with GradNormRecorder(made, folder / "run.jsonl", buffer_steps=4) as recorder:
            for x in data():
                made.zero_grad()
                norm(x[None].repeat(1, 2, 1)).to_local().square().sum().backward()
                if how == "sequence failing" and rank == 1:
                    made.param_groups[0]["lr"] = None
                recorder.record()
                made.param_groups[0]["lr"] = 0.1
                made.step()
    elif how == "failing":  # one process cannot measure; the other must not hang
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
        made = torch.optim.SGD(model.parameters(), lr=0.1)
        with GradNormRecorder(made, folder / "run.jsonl", buffer_steps=4) as recorder:
            for x in mine:
                made.zero_grad()
                (model(x) - x).square().mean().backward()
                made.param_groups[0]["lr"] = None if rank == 1 else 0.1
                recorder.record()
                made.param_groups[0]["lr"] = 0.1
                made.step()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
