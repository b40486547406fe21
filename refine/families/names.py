"""The families by name: what each is, how text becomes a member, what a fit may vary."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import RefineError
from ..files import printable
from ..schedule import Schedule, check_count
from . import cyclic, decay, plateau
from .base import Curve

__all__ = ["FAMILIES", "Family", "families_table", "from_name", "with_run_warmup"]


@dataclass(frozen=True, slots=True)
class Family:
    """One line of the registry.

    Parameters
    ----------
    function : callable
        ``function(total_steps, *, warmup_steps, **shape) -> Schedule``; its name is the family's.
    curve : callable
        What ``function`` evaluates, for real durations.
    what : str
        A line for people.
    main : str, optional
        The parameter that a bare value sets, as in ``wsd:0.2``.
    fit : mapping, or None
        Parameters that `refine.describe.nearest` fits: two bounds, then the values it starts from. None: it fits none.
    choices : mapping
        Parameters of which it tries every value.
    """

    function: Callable[..., Schedule]
    curve: Curve
    what: str
    main: str | None = None
    fit: Mapping[str, tuple[float, ...]] | None = field(default_factory=dict)
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name in text."""
        return self.function.__name__

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Keyword parameters of the function, ``warmup_steps`` first."""
        return {k: p for k, p in inspect.signature(self.function).parameters.items() if p.kind is p.KEYWORD_ONLY}


_FINAL = (0.0, 1.0, 0.0, 0.2)
_COOLDOWN = (0.0, 1.0, 0.08, 0.2, 0.35, 0.55, 0.85)

_REGISTRY = (
    Family(decay.constant, decay.constant_curve, "one rate"),
    Family(decay.cosine, decay.cosine_curve, "half a cosine", "final_factor", {"final_factor": _FINAL}),
    Family(decay.linear, decay.linear_curve, "straight line", "final_factor", {"final_factor": _FINAL}),
    Family(decay.d2z, decay.linear_curve, "straight line to zero (D2Z)"),
    Family(
        plateau.wsd,
        plateau.wsd_curve,
        "constant, then a cooldown (trapezoid)",
        "cooldown_fraction",
        {"cooldown_fraction": _COOLDOWN, "final_factor": _FINAL},
        {"shape": plateau.COOLDOWN_SHAPES},
    ),
    Family(
        decay.polynomial,
        decay.polynomial_curve,
        "power of the time left",
        "power",
        {"power": (0.05, 50.0, 0.3, 0.7, 1.5, 4.0), "final_factor": _FINAL},
    ),
    Family(
        decay.exponential,
        decay.exponential_curve,
        "same factor at every update",
        "final_factor",
        {"final_factor": (1e-9, 1.0, 1e-3, 0.03, 0.3)},
    ),
    Family(
        decay.inverse_sqrt,
        decay.inverse_sqrt_curve,
        "inverse square root of the updates done",
        "timescale_steps",
        {"timescale_fraction": (1e-4, 10.0, 1e-3, 0.01, 0.1, 1.0)},
    ),
    Family(
        decay.rex,
        decay.rex_curve,
        "reflected exponential (REX)",
        "beta",
        {"beta": (0.01, 100.0, 0.1, 0.5, 1.0, 4.0), "final_factor": _FINAL},
    ),
    Family(
        decay.uba,
        decay.uba_curve,
        "unified budget-aware (UBA)",
        "phi",
        {"phi": (0.02, 100.0, 0.2, 1.0, 4.0)},
    ),
    Family(
        plateau.power,
        plateau.power_curve,
        "power of the updates done, then a cooldown",
        "exponent",
        {"exponent": (0.0, 3.0, 0.1, 0.5, 1.0), "cooldown_fraction": _COOLDOWN},
    ),
    Family(
        plateau.infinite,
        plateau.infinite_curve,
        "cosine to a constant, then an exponential cooldown",
        "constant_factor",
        {
            "constant_factor": (0.05, 1.0, 0.3, 0.6),
            "decay_fraction": (0.0, 1.0, 0.2, 0.5),
            "cooldown_fraction": (0.0, 1.0, 0.1, 0.35),
            "final_factor": (1e-6, 1.0, 0.05),
        },
    ),
    Family(
        plateau.step,
        plateau.step_curve,
        "a drop every so often",
        "factor",
        {
            "factor": (0.01, 1.0, 0.1, 0.5),
            "every_fraction": (0.02, 1.0, 0.05, 0.1, 0.125, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.6, 0.75, 0.9),
        },
    ),
    Family(plateau.multistep, plateau.multistep_curve, "drops at milestones", "milestone_fractions", None),
    Family(
        cyclic.one_cycle,
        cyclic.one_cycle_curve,
        "slow rise, longer fall",
        "warmup_fraction",
        {"initial_factor": (1e-3, 1.0, 0.04, 0.4), "final_factor": _FINAL},
        {"shape": cyclic.ONE_CYCLE_SHAPES},
    ),
    Family(
        cyclic.triangular,
        cyclic.triangular_curve,
        "up and down in straight lines",
        "cycles",
        {"low_factor": (1e-3, 1.0, 0.1, 0.4), "rise_fraction": (0.0, 1.0, 0.1, 0.3, 0.5, 0.7)},
        {"cycles": (1, 2, 3, 4)},
    ),
    Family(
        cyclic.warm_restarts,
        cyclic.warm_restarts_curve,
        "half a cosine, again and again (SGDR)",
        "cycles",
        {"final_factor": _FINAL},
        {"cycles": (2, 3, 4, 5), "growth": (1.0, 2.0)},
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _REGISTRY}
"""Every family, by name. A new one is a function with its curve and a line here."""


def from_name(name: str, total_steps: int) -> Schedule:
    """Build a family member from text: ``NAME``, ``NAME:KEY=VALUE,...`` or ``NAME:VALUE,KEY=VALUE,...``.

    A bare first value sets the family's main parameter (`families_table` shows which). Every ``..._steps`` can also be
    given as ``..._fraction`` of all updates, the warmup too. Several milestones are joined by ``+``.

    Examples
    --------
    >>> from_name("linear:warmup_fraction=0.5", 4).multiplier.tolist()
    [0.5, 1.0, 0.6666666666666666, 0.3333333333333333]
    >>> from_name("wsd:0.5,shape=sqrt", 4).multiplier.round(3).tolist()
    [1.0, 1.0, 1.0, 0.293]
    >>> from_name("multistep:0.5+0.75,factor=0.5", 4).multiplier.tolist()
    [1.0, 1.0, 0.5, 0.25]

    Raises
    ------
    RefineError
        Unknown family or parameter, or a value that is none; the message lists what there is.
    """
    title, _, text = name.partition(":")
    if title not in FAMILIES:
        raise RefineError(
            f"schedule {_quoted(name)} is not a file and not a family{_closest(title, FAMILIES)}; "
            f"families: {', '.join(FAMILIES)}"
        )
    family = FAMILIES[title]
    total_steps = check_count("total_steps", total_steps, least=1)
    kinds = _kinds(family)
    values: dict[str, Any] = {}
    for i, item in enumerate(filter(None, text.split(","))):
        key, equals, value = item.partition("=")
        if not equals and i == 0 and family.main:
            key, value = family.main, item
        if key not in kinds:
            raise RefineError(
                f"schedule {_quoted(name)} has the parameter {_quoted(item)}{_closest(key, kinds)}; "
                f"{title} takes {', '.join(kinds)}"
            )
        if _stem(key) in map(_stem, values):
            raise RefineError(f"schedule {_quoted(name)} sets {_stem(key)} twice; set it once")
        target = key if key in family.parameters else f"{_stem(key)}_steps"
        try:
            values[target] = _parsed(value, kinds[key])
            if target != key:
                values[target] = _share(values[target], total_steps)
        except (ValueError, OverflowError):
            raise RefineError(f"schedule {_quoted(name)}: {key} must be {_KINDS[kinds[key]]}") from None
    return family.function(total_steps, **values)


def with_run_warmup(name: str, warmup_steps: int) -> str:
    """A family's name with the warmup of another run, unless it names one or has a rise of its own.

    Examples
    --------
    >>> [with_run_warmup(name, 100) for name in ("wsd:0.2", "cosine", "linear:warmup_fraction=0.1", "one_cycle")]
    ['wsd:0.2,warmup_steps=100', 'cosine:warmup_steps=100', 'linear:warmup_fraction=0.1', 'one_cycle']
    """
    family = FAMILIES.get(name.partition(":")[0])
    if not warmup_steps or family is None or "warmup_" in name or family.parameters["warmup_steps"].default != 0:
        return name
    return f"{name}{',' if ':' in name else ':'}warmup_steps={warmup_steps}"


_KINDS = {
    "int": "an INTEGER",
    "float": "a NUMBER",
    "share": "a NUMBER in [0, 1]",
    "str": "a WORD",
    "Sequence[int]": "INTEGERS joined by +",
    "Sequence[float]": "NUMBERS joined by +",
}


def _kinds(family: Family) -> dict[str, str]:
    """What each parameter in text is read as; a ``_steps`` without a ``_fraction`` beside it gets one."""
    kinds: dict[str, str] = {}
    for key, parameter in family.parameters.items():
        kinds[key] = str(parameter.annotation).removesuffix(" | None")
        if key.endswith("_steps") and kinds[key] == "int":
            kinds.setdefault(f"{_stem(key)}_fraction", "share")
    return kinds


def _stem(key: str) -> str:
    """Duration that a parameter is about: ``cooldown`` for ``cooldown_steps`` and ``cooldown_fraction``."""
    return key.partition("_steps")[0].partition("_fraction")[0]


def _parsed(text: str, kind: str) -> Any:
    if kind.startswith("Sequence"):
        return tuple(_parsed(part, kind[9:-1]) for part in text.split("+"))
    return int(text) if kind == "int" else text if kind == "str" else float(text)


def _share(fraction: float, total_steps: int) -> int:
    if not 0.0 <= fraction <= 1.0:
        raise ValueError
    return round(fraction * total_steps)


def _quoted(text: str) -> str:
    return "'" + printable(text, limit=80) + "'"


def _closest(word: str, words: Any) -> str:
    import difflib

    close = difflib.get_close_matches(word[:40], list(words), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def families_table() -> str:
    """The families as lines of text: name, what it is, parameters with their defaults (the main one first).

    Examples
    --------
    >>> print(families_table().splitlines()[1])
    cosine         half a cosine                                       final_factor=0
    """
    rows = []
    for family in FAMILIES.values():
        defaults = {k: p.default for k, p in family.parameters.items() if p.default is not None and k != "warmup_steps"}
        main_first = sorted(defaults, key=lambda k: k != family.main)
        rows.append((family.name, family.what, ", ".join(f"{k}={_shown(defaults[k])}" for k in main_first)))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in rows)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
