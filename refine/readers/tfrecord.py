"""TFRecord files, the container of TensorBoard's event files: length, its CRC, data, its CRC, and so on.

Checked a block at a time with numpy, so that damage is found at no noticeable price. Records above 4 KiB, which hold
no scalars, are checked by their header alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["OVERHEAD", "DamagedRecord", "records"]

_BLOCK = 2**22
_CHECKED = 2**12
_LONGEST = 2**24
_HEADER = struct.Struct("<QI")
OVERHEAD = _HEADER.size + 4
"""Bytes that a record takes beside its data."""


def _crc32c_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _crc32c_table()


class DamagedRecord(Exception):
    """The rest of a file cannot be read: ``lost`` bytes, ``truncated`` where just the end is missing."""

    def __init__(self, lost: int, *, truncated: bool = False) -> None:
        super().__init__(f"{lost} bytes lost")
        self.lost = lost
        self.truncated = truncated


def records(path: Path, report: Callable[[int], None] = lambda done: None) -> Iterator[bytes]:
    """Data of each record in order, those above 16 MiB left out; raises `DamagedRecord` where the file breaks off.

    Memory is one block of 4 MiB, or the longest record.
    """
    size, at = path.stat().st_size, 0
    with open(path, "rb") as stream:
        while at < size:
            stream.seek(at)
            block = stream.read(_BLOCK)
            starts, lengths, end, wanted = _split(block)
            if not starts and _LONGEST < wanted <= size - at:
                at += wanted
                continue
            if not starts and len(block) < wanted <= size - at:
                stream.seek(at)
                block = stream.read(wanted)
                starts, lengths, end, wanted = _split(block)
            whole = _first_damaged(block, starts, lengths)
            for start, length in zip(starts[:whole], lengths[:whole], strict=True):
                yield block[start : start + length]
            if whole < len(starts):
                raise DamagedRecord(size - at - starts[whole] + _HEADER.size)
            at += end
            report(at)
            if wanted == 0:
                raise DamagedRecord(size - at)
            if at < size and (at + wanted > size or end == 0):
                raise DamagedRecord(size - at, truncated=True)


def _split(block: bytes) -> tuple[list[int], list[int], int, int]:
    """Starts and lengths of the data of the whole records in a block, where they end, and what the next one needs.

    The last is 0 where the next header is damaged.
    """
    starts: list[int] = []
    lengths: list[int] = []
    here = 0
    while here + _HEADER.size <= len(block):
        length, check = _HEADER.unpack_from(block, here)
        if check != _check_of_length(length):
            return starts, lengths, here, 0
        if here + OVERHEAD + length > len(block):
            return starts, lengths, here, OVERHEAD + length
        starts.append(here + _HEADER.size)
        lengths.append(length)
        here += OVERHEAD + length
    return starts, lengths, here, OVERHEAD


def _first_damaged(block: bytes, starts: list[int], lengths: list[int]) -> int:
    """Which record is the first whose data differ from their CRC; the number of records where none is."""
    size = np.array(lengths, dtype=np.int64)
    begin = np.array(starts, dtype=np.int64)
    order = np.argsort(-size, kind="stable")
    order = order[size[order] <= _CHECKED]
    if not order.size:
        return len(starts)
    data = np.frombuffer(block, dtype=np.uint8)
    check = _crc32c(data, begin[order], size[order])
    stored = np.zeros(order.size, dtype=np.uint32)
    for byte in range(4):
        stored |= data[(begin + size)[order] + byte].astype(np.uint32) << np.uint32(8 * byte)
    bad = order[_masked(check) != stored]
    return int(bad.min()) if bad.size else len(starts)


def _crc32c(data: NDArray[np.uint8], begin: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.uint32]:
    """CRC-32C of many stretches of bytes at once, longest first."""
    crc = np.full(begin.size, 0xFFFFFFFF, dtype=np.uint32)
    longer = np.searchsorted(-size, -np.arange(size[0]), side="left")  # how many have a byte at each place
    for place, active in enumerate(longer):
        part = crc[:active]
        crc[:active] = _TABLE[(part ^ data[begin[:active] + place]) & 0xFF] ^ (part >> np.uint32(8))
    return ~crc


def _masked(crc: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A CRC as TFRecord stores it: rotated, and a constant added."""
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


@lru_cache(maxsize=65_536)
def _check_of_length(length: int) -> int:
    data = np.frombuffer(struct.pack("<Q", length), dtype=np.uint8)
    return int(_masked(_crc32c(data, np.zeros(1, dtype=np.int64), np.full(1, 8)))[0])
