"""The problems in two halves: what `refine fit` recommends is chosen on one and confirmed, once, on the other.

Fixed by a hash of the names before the default of issue 7 was looked for, so that no problem was moved for its result.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Literal

__all__ = ["Half", "halves"]

Half = Literal["choose", "confirm"]


def halves(problems: Iterable[str]) -> dict[str, Half]:
    """Half of every problem of a suite: those with the lowest hashes are chosen on, as many or one fewer.

    Examples
    --------
    >>> halves(["shakespeare", "denoise", "python"])
    {'shakespeare': 'confirm', 'denoise': 'confirm', 'python': 'choose'}
    """
    names = list(problems)
    ordered = sorted(names, key=lambda name: sha256(name.encode()).hexdigest())
    chosen_on = set(ordered[: len(ordered) // 2])
    return {name: "choose" if name in chosen_on else "confirm" for name in names}
