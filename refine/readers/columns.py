"""Which column of a table is what, by its name.

A name is tried whole and after its last ``/``; W&B's ``<run> - `` is cut, the rest lower-cased,
runs of other characters become ``_``, and up to two prefixes such as ``train`` and a final
``_step`` are taken off. Names that end in ``_epoch`` are averages and never match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

from ..recorded import CLIP, GROUP, TRAVEL
from ..refinement import OptimizerFamily

__all__ = [
    "RUN_NAMES",
    "SYNONYMS",
    "family",
    "find",
    "group",
    "kind_in_name",
    "layer",
    "looks_like_norm",
    "lr_scale",
    "may_matter",
    "named_optimizer",
    "run_in_name",
]

SYNONYMS: dict[str, tuple[str, ...]] = {
    "l2 before clipping": (
        "raw_grad_norm",
        "grad_norm_unclipped",
        "unclipped_grad_norm",
        "grad_norm_pre_clip",
        "pre_clip_grad_norm",
        "grad_norm_before_clip",
    ),
    "l2": (
        "grad_norm",
        "gradient_norm",
        "total_grad_norm",
        "total_gradient_norm",
        "grad_norm_total",
        "global_grad_norm",
        "grad_norm_global",
        "grad_global_norm",
        "grad_2_0_norm_total",
        "l2_norm_grad_global",
        "grad_l2_norm",
        "grad_norm_l2",
        "grad_norms",
        "gradient_norms",
        "gradient_norm_l2",
        "l2_grad_norm",
        "gnorm",
        "gnorm_l2",
        "mean_grad_norm",
    ),
    "l1": (
        "grad_1_0_norm_total",
        "grad_l1_norm",
        "grad_norm_l1",
        "gradient_norm_l1",
        "l1_grad_norm",
        "gnorm_l1",
        "l1_norm_grad_global",
    ),
    "dual": ("grad_dual_norm", "grad_norm_dual", "dual_grad_norm"),
    "step": (
        "train_global_step",
        "trainer_global_step",
        "global_step",
        "step",
        "global_step_max_steps",
        "current_steps",
        "num_updates",
        "iteration",
        "iter",
        "train_iter",
        "update",
        "steps",
        "iterations",
        "updates",
        "batch",
        "_step",
    ),
    "lr": (
        "learning_rate",
        "lr",
        "current_learning_rate",
        "train_lr",
        "lr_group_0",
        "learning_rate_group0",
        "learning_rates",
        "lrs",
    ),
    "loss": (
        "loss",
        "train_loss",
        "training_loss",
        "lm_loss",
        "ce_loss",
        "crossentropyloss",
        "reduced_train_loss",
        "global_avg_loss",
        "loss_train_total",
        "total_loss",
        "loss_out",
        "losses",
    ),
    "samples": ("consumed_samples", "consumed_train_samples", "num_samples", "train_samples", "samples"),
    "tokens": (
        "consumed_tokens",
        "num_tokens",
        "train_tokens",
        "total_tokens",
        "tokens",
        "num_input_tokens_seen",
        "throughput_total_tokens",
        "n_tokens_seen",
    ),
}

_KNOWN = frozenset(name for names in SYNONYMS.values() for name in names)

RUN_NAMES = frozenset(
    {"run", "run_id", "run_name", "Run", "run_uuid", "run.hash", "experiment", "name", "rank", "seed", "trial"}
)
"""Columns that say which of several runs, or which process of one, a row belongs to."""

_PREFIX = re.compile(r"(?:train|training|optim|optimizer|learning|loss_metrics|trainer|metrics|data|opt)_(?=.)")
_OPTIMIZER_LR = re.compile(r"lr[-/](?P<optimizer>[a-z]\w*)(?:[-/](?:group|pg)?[01])?", re.IGNORECASE)
_HELD_OUT = re.compile(r"(?:val|valid|validation|eval|test)[/_]", re.IGNORECASE)
_NOT_A_NORM = re.compile(r"max_grad|clip|param|weight|update|moment|exp_avg|spike|var|std|samples|eval|val|test")
_LAYER = {
    "l2": re.compile(
        r"grad_2\.0_norm[/_](?!total)(?P<a>.+?)(?:_step)?|l2_norm/grad/(?!global)(?P<b>.+)|grad/norm/(?!total)(?P<c>.+)"
        r"|(?:optim/)?grad/(?P<d>.+)\.norm|gradient_norms/(?P<e>.+)|grad_norms?/(?P<f>.*[.\d].*)|(?:grad_l2_norm|grad_norm_l2)/(?P<g>.+)",
        re.IGNORECASE,
    ),
    "l1": re.compile(
        r"grad_1\.0_norm[/_](?!total)(?P<a>.+?)(?:_step)?|l1_norm/grad/(?!global)(?P<b>.+)", re.IGNORECASE
    ),
}
_GROUP = re.compile(rf"(?P<whole>grad_norm_(?:l1|l2|dual)|lr){GROUP}(?P<group>.*)", re.DOTALL)
_RECORDED = frozenset({CLIP, *TRAVEL})
"""What `refine.torch.GradNormRecorder` logs beside norms, rates and losses; by these very names in any log."""

_LR_SCALED = re.compile(r"(?:.*/)?lr\(1e-(?P<power>\d)\)")
_FAMILIES: tuple[tuple[OptimizerFamily, re.Pattern[str]], ...] = (
    ("adam", re.compile(r"adam|amsgrad|adagrad|adafactor|rmsprop|lamb|lion|sign_?sgd|signum", re.IGNORECASE)),
    ("sgd", re.compile(r"(?<!sign)(?<!sign_)sgd|nesterov|momentum", re.IGNORECASE)),
)


def find(role: str, names: Sequence[str]) -> list[int]:
    """Positions of the columns that play a role, best first.

    Norm roles and lr refuse to choose between equals, so all matches are handed on.

    Examples
    --------
    >>> find("l2", ["Step", "run 1 - train/gnorm", "run 1 - train/gnorm__MIN"])
    [1]
    >>> find("lr", ["step", "lr-AdamW", "lr-AdamW-momentum"])
    [1]
    """
    ranked = []
    for position, name in enumerate(names):
        if group(name):
            continue
        forms = _forms(name)
        ranks = [rank for rank, synonym in enumerate(SYNONYMS[role]) if synonym in forms]
        metric = short_name(name)
        if role == "lr" and (_OPTIMIZER_LR.fullmatch(metric) or _LR_SCALED.fullmatch(metric)):
            ranks.append(len(SYNONYMS[role]))
        if ranks:
            ranked.append((min(ranks), position))
    return [position for _, position in sorted(ranked)]


def looks_like_norm(name: str) -> bool:
    """Whether an unknown name may be a gradient norm, to be offered to the user.

    Examples
    --------
    >>> looks_like_norm("my_grad_norm_v2"), looks_like_norm("max_grad_norm"), looks_like_norm("loss")
    (True, False, False)
    """
    if group(name):
        return False
    plain = _plain(name)
    return bool(re.search(r"grad\w*norm|norm\w*grad|gnorm", plain)) and not _NOT_A_NORM.search(plain)


@lru_cache(maxsize=100_000)
def may_matter(name: str) -> bool:
    """Whether a column may play any role at all.

    Examples
    --------
    >>> may_matter("train/grad_norm"), may_matter("lr"), may_matter("gpu_memory")
    (True, True, False)
    """
    metric = short_name(name)
    return (
        name in _RECORDED
        or looks_like_norm(name)
        or not _KNOWN.isdisjoint(_forms(name))
        or bool(_OPTIMIZER_LR.fullmatch(metric) or _LR_SCALED.fullmatch(metric))
        or layer(name) is not None
    )


def group(name: str) -> tuple[str, str] | None:
    """Column of the whole model and name of the one param group that a column is about; None for all others.

    Such a column is never that of the whole model, whatever the group is called.

    Examples
    --------
    >>> group("grad_norm_l2/group:decay"), group("lr/group:a/lr"), group("grad_norm_l2")
    (('grad_norm_l2', 'decay'), ('lr', 'a/lr'), None)
    """
    match = _GROUP.fullmatch(name)
    return (match["whole"], match["group"]) if match else None


def layer(name: str) -> tuple[Literal["l1", "l2"], str] | None:
    """Kind of norm and name of the one tensor or group that a column is about; None for all others.

    Examples
    --------
    >>> layer("grad_2.0_norm/net.0.bias"), layer("l2_norm/grad/global"), layer("grad_1.0_norm/w_step")
    (('l2', 'net.0.bias'), None, ('l1', 'w'))
    """
    metric = short_name(name)
    if group(name) or metric.endswith(("__MIN", "__MAX", "_epoch")):
        return None
    for prefix in ("", "train/", "optim/", "metrics/", "data/"):
        for kind in ("l2", "l1"):
            match = _LAYER[kind].fullmatch(metric.removeprefix(prefix))
            if match:
                return kind, next(filter(None, match.groups()))
    return None


def lr_scale(name: str) -> float:
    """What a column of learning rates has to be multiplied by.

    Examples
    --------
    >>> lr_scale("train/lr(1e-3)"), lr_scale("lr")
    (0.001, 1.0)
    """
    match = _LR_SCALED.fullmatch(short_name(name))
    return float(f"1e-{match['power']}") if match else 1.0


def kind_in_name(name: str) -> Literal["l1", "l2"] | None:
    """Kind of norm that a column's name says.

    Examples
    --------
    >>> kind_in_name("grad_1.0_norm_total"), kind_in_name("gnorm (L2)"), kind_in_name("grad_norm")
    ('l1', 'l2', None)
    """
    words = set(re.split(r"[^a-z0-9.]+", short_name(name).lower()))
    found: list[Literal["l1", "l2"]] = []
    if words & {"l1", "1.0"}:
        found.append("l1")
    if words & {"l2", "2.0"}:
        found.append("l2")
    return found[0] if len(found) == 1 else None


def named_optimizer(names: Iterable[str]) -> OptimizerFamily | None:
    """Optimizer family that learning-rate columns such as ``lr-AdamW`` name, if they agree.

    Examples
    --------
    >>> named_optimizer(["lr-AdamW"]), named_optimizer(["lr/SGD/0"]), named_optimizer(["lr"])
    ('adam', 'sgd', None)
    """
    matches = filter(None, (_OPTIMIZER_LR.fullmatch(short_name(name)) for name in names))
    found = {family(match["optimizer"]) for match in matches} - {None}
    return found.pop() if len(found) == 1 else None


def family(optimizer: str) -> OptimizerFamily | None:
    """Family of an optimizer by its name.

    Examples
    --------
    >>> family("adamw_torch_fused"), family("SGD"), family("muon")
    ('adam', 'sgd', None)
    >>> family("SignSGD")
    'adam'
    """
    found = [name for name, pattern in _FAMILIES if pattern.search(optimizer)]
    return found[0] if len(found) == 1 else None


def run_in_name(name: str) -> str | None:
    """Run of a W&B chart column, ``<run> - <metric>``; None for other names.

    Examples
    --------
    >>> run_in_name("jolly-frog-1 - train/grad_norm"), run_in_name("train/grad_norm")
    ('jolly-frog-1', None)
    """
    run, separator, _ = name.rpartition(" - ")
    return run.strip() if separator and not group(name) else None


def short_name(name: str) -> str:
    """Metric of a W&B chart column, ``<run> - <metric>``; what a group's column is of; other names as they are."""
    part = group(name)
    return part[0] if part else name.rsplit(" - ", 1)[-1].strip()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@lru_cache(maxsize=100_000)
def _forms(name: str) -> frozenset[str]:
    metric = short_name(name)
    if metric == "_step":
        return frozenset({"_step"})  # of W&B: counts calls of wandb.log
    # Helper columns, means over runs (W&B groups) and metrics of held-out data are something else.
    if metric.endswith(("__MIN", "__MAX")) or name.startswith("Group: ") or _HELD_OUT.match(metric):
        return frozenset()
    forms: set[str] = set()
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric)  # gradNorm
    for form in (_plain(text) for whole in (metric, words) for text in (whole, whole.rsplit("/", 1)[-1])):
        if form.endswith("_epoch"):
            return frozenset()
        for _ in range(3):
            forms |= {form, form.removesuffix("_step")}
            form = _PREFIX.sub("", form, count=1) if _PREFIX.match(form) else form
    return frozenset(forms - {""})
