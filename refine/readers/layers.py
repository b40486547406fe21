"""Totals of the norms of single layers or groups, where a log holds no total."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..norms import NormKind
from ..refinement import OptimizerFamily
from .base import Column, Records
from .columns import layer

__all__ = ["total_of_layers"]


def total_of_layers(
    records: Records, wanted: NormKind | None, optimizer: OptimizerFamily | None
) -> tuple[Column, list[str]] | None:
    """Total of the norms of all layers where no total is logged: root of the sum of squares (l2), or the sum (l1).

    Only steps at which all layers are present count.
    """
    layers: dict[str, list[Column]] = {"l2": [], "l1": []}
    for column in records.columns:
        found = layer(column.name)
        if found is not None and column.values.size:
            layers[found[0]].append(column)
    order = ["l2", "l1"] if wanted == "l2" or (wanted is None and optimizer == "sgd") else ["l1", "l2"]
    kind = next((k for k in order if layers[k] and wanted in (None, k)), None)
    if kind is None:
        return None
    parts = layers[kind]
    in_rows = parts[0].steps is None
    places: list[NDArray[np.float64]] = []
    for part in parts:
        places.append(part.places.astype(np.float64) if part.steps is None else part.steps)
    common, per_part = places[0], [part.values for part in parts]
    if any(not np.array_equal(place, common) for place in places[1:]):
        last = [_last_of_each(place, values) for place, values in zip(places, per_part, strict=True)]
        common = last[0][0]
        for place, _ in last[1:]:
            common = np.intersect1d(common, place, assume_unique=True)
        per_part = [values[np.searchsorted(place, common)] for place, values in last]
    total = np.zeros(common.size)
    for values in per_part:
        total = np.hypot(total, values) if kind == "l2" else total + values
    name = f"total of {len(parts)} {kind} norms, {parts[0].name} ..."
    column = Column(name, total, rows=common.astype(np.int64)) if in_rows else Column(name, total, steps=common)
    how = "root of the sum of squares" if kind == "l2" else "sum"
    return column, [
        f"the norm is the total ({how}) of {len(parts)} logged parts; a part that was not logged is missing"
    ]


def _last_of_each(
    place: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    unique, first_reversed = np.unique(place[::-1], return_index=True)
    return unique, values[::-1][first_reversed]
