"""Parquet: W&B's ``download_history_exports``, Neptune's exporter, pandas and other scripts.

Names tell some frameworks (`runs.facts_of`). A null is a missing value, a nan a logged one. Neptune's tables hold one
value a row, with its metric and a decimal step; tables with a column for the run may hold several. W&B's ``_step``
counts calls of ``wandb.log``. Only the columns that matter are read, a batch at a time; texts are held once each.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RefineError
from ..files import printable
from .arrays import check_unpacked
from .base import Format, ReadOptions, Records
from .columns import RUN_NAMES
from .gather import Growing, check_width
from .long import LongTable, long_columns
from .opening import SMALL, Log

__all__ = ["FORMAT"]

_BATCH = 2**17


def _read(log: Log, options: ReadOptions) -> Records:
    with _file(log) as file:
        names, types = file.schema_arrow.names, file.schema_arrow.types
        check_width(len(names))
        numeric = {name for name, type in zip(names, types, strict=True) if _is_number(type)}
        place = long_columns(names)
        if place is not None and names[place[2]] in numeric:
            return _read_long(log, file, [names[i] for i in place if i is not None], options)
        times = Counter(names)
        wanted = [name for name in names if name in numeric and options.wants(name) and times[name] == 1]
        run = next(
            (name for name in names if name in RUN_NAMES and _is_label(file.schema_arrow.field(name).type)), None
        )
        loaded = wanted + ([run] if run else [])
        _check_size(log, file, loaded)
        cells = {name: Growing() for name in wanted}
        run_names: dict[str, int] = {}
        codes: list[NDArray[np.int64]] = []
        rows = 0
        for batch in _batches(log, file, loaded):
            for name in wanted:
                cells[name].add(*_numbers(batch.column(name)))
            if run:
                of_batch, labels = _labels(batch.column(run))
                known = [run_names.setdefault(label, len(run_names)) for label in labels]
                codes.append(np.array(known, dtype=np.int64)[of_batch])
            rows += batch.num_rows
    return Records(
        "Parquet",
        [cells[name].column(name) for name in wanted],
        rows,
        names=names,
        runs=(list(run_names), np.concatenate(codes)) if len(run_names) > 1 else None,
    )


def _read_long(log: Log, file: Any, names: list[str], options: ReadOptions) -> Records:
    """A table with one value a row; rows without a value are of other kinds of metrics."""
    metric, step, value, *run = names
    table = LongTable(options)
    _check_size(log, file, names)
    for batch in _batches(log, file, names):
        batch = batch.filter(batch.column(value).is_valid())
        numbers = (_floats(batch.column(name)).to_pandas() for name in (step, value))
        table.add(batch.column(metric).to_pandas(), *numbers, *(batch.column(name).to_pandas() for name in run))
    return table.records("Parquet, one value a row", file.schema_arrow.names)


def _check_size(log: Log, file: Any, names: list[str]) -> None:
    """Refuse columns that would unpack to more than any log does: eight bytes a row each, and texts of labels."""
    metadata = file.metadata
    check_unpacked(8 * metadata.num_rows * len(names), log.size)
    texts = {field.name for field in file.schema_arrow if _is_text(field.type)}.intersection(names)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    most = SMALL + 8 * metadata.num_rows
    # To ask for a column makes pyarrow end the process where its metadata are damaged: only if all together are large.
    if texts and sum(group.total_byte_size for group in groups) > most:
        places = [i for i in range(metadata.num_columns) if file.schema.column(i).path in texts]
        pages = sum(group.column(i).total_uncompressed_size for group in groups for i in places)
        if pages > most:
            raise RefineError(f"its texts unpack to {pages:,} bytes, as no labels do; write the numbers alone")


def _batches(log: Log, file: Any, names: list[str]) -> Iterator[Any]:
    done = 0
    for batch in file.iter_batches(batch_size=_BATCH, columns=names):
        yield batch
        done += batch.num_rows
        log.report(log.size * done // max(1, file.metadata.num_rows))


def _numbers(cells: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    present = cells.is_valid().to_numpy(zero_copy_only=False)
    return cells.cast("float64", safe=False).to_numpy(zero_copy_only=False), present


def _floats(cells: Any) -> Any:
    """Cells as float64; of texts, which are numbers in some exports, each but once."""
    import pyarrow as pa

    if pa.types.is_dictionary(cells.type):
        return cells.dictionary.cast("float64", safe=False).take(cells.indices)
    return cells.cast("float64", safe=False)


def _labels(cells: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Cells by the number of their text, and the texts; that of a null is ""."""
    import pyarrow as pa

    if not pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_encode()
    texts = [*cells.dictionary.to_pylist(), ""]
    used, codes = np.unique(cells.indices.fill_null(len(texts) - 1).to_numpy(), return_inverse=True)
    return codes.astype(np.int64), [str(texts[i]) for i in used]


def _is_number(type: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type))


def _is_label(type: Any) -> bool:
    import pyarrow as pa

    of = type.value_type if pa.types.is_dictionary(type) else type
    return bool(_is_text(of) or pa.types.is_integer(of))


def _is_text(type: Any) -> bool:
    import pyarrow as pa

    of = type.value_type if pa.types.is_dictionary(type) else type
    return bool(pa.types.is_string(of) or pa.types.is_large_string(of))


@contextlib.contextmanager
def _file(log: Log) -> Iterator[Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise RefineError("Parquet files need pyarrow: pip install pyarrow") from None
    try:
        with pq.ParquetFile(log.path, pre_buffer=False) as file:
            texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
        # A text of a megabyte in each of a thousand rows is some bytes in the file, and one text in a dictionary.
        with pq.ParquetFile(log.path, pre_buffer=False, buffer_size=2**20, read_dictionary=texts) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise RefineError(f"the Parquet file is damaged ({printable(error)}); copy it again") from None


FORMAT = Format(
    "parquet",
    get="W&B: run.download_history_exports(folder); Neptune: its exporter; your own script (extra: parquet)",
    lost="what the names do not say: --optimizer, --norm-kind",
    sniff=lambda log: log.sample.startswith(b"PAR1"),
    read=_read,
)
