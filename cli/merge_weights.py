"""``refine merge-weights``."""

from __future__ import annotations

import json
from typing import Any

import click

from .options import Count, ScheduleName


class Updates(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """Counts of updates, with commas between them."""

    name = "updates"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Refuse what is no count."""
        return [Count(min=0).convert(text, param, ctx) for text in str(value).split(",")]


@click.command()
@click.argument("schedule", metavar="SCHEDULE", type=ScheduleName())
@click.option(
    "--checkpoints",
    type=Updates(),
    required=True,
    metavar="N,N,...",
    help="Updates done at each checkpoint, increasing; 0 is the initial weights, the last one the schedule's end.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def merge_weights(schedule: str, checkpoints: list[int], as_json: bool) -> None:
    """Weights with which the checkpoints of a constant-rate run, merged, stand in for an anneal.

    \b
    Examples:
      refine merge-weights linear --checkpoints 0,1000,2000,3000,4000
      refine merge-weights wsd:0.2 --checkpoints 8000,8500,9000,9500,10000 --json > merge.json
      refine merge-weights refined --checkpoints 9000,9500,10000

    SCHEDULE is a folder or file of refine fit or a family (refine families); it ends with the last checkpoint. Nothing
    is read or merged. With torch, where step-N.pt holds the model's state_dict:

    \b
      import json, pathlib, torch
      found, merged = json.loads(pathlib.Path("merge.json").read_text()), {}
      for n, weight in zip(found["checkpoints"], found["weights"]):
          for name, x in torch.load(f"step-{n}.pt", map_location="cpu").items():
              merged[name] = merged.get(name, 0) + weight * x.double() if x.is_floating_point() else x
      like = torch.load(f"step-{n}.pt", map_location="cpu")
      torch.save({name: x.to(like[name].dtype) for name, x in merged.items()}, "merged.pt")
    """
    from refine.averaging import merge_weights as merge
    from refine.prior import is_file, named_schedule

    found = merge(named_schedule(schedule, None if is_file(schedule) else checkpoints[-1]), checkpoints)
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else found.summary())
