"""Records of a LevelDB log, and the protobuf messages in them; the container of ``.wandb`` files.

Blocks of 32 KiB hold records, each with CRC-32, length and type; one that does not fit in its block goes on in the
next. Nothing of a file is held but one block and one record.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

from .opening import MAX_LINE, Log

__all__ = ["fields", "records"]

_BLOCK = 32 * 1024
_HEAD = 7
_WHOLE, _FIRST, _LAST = 1, 2, 4


def records(log: Log, head: int, lost: Counter[str]) -> Iterator[bytes]:
    """Records whose checksum is right; after a damaged one reading goes on with the next block.

    ``head`` bytes at the start are passed over. ``lost`` counts damaged blocks as "blocks", and a record that was cut
    off at the end of the file as "truncated last record".
    """
    parts, within, done = bytearray(), False, 0
    with open(log.path, "rb") as stream:
        while block := stream.read(_BLOCK):
            at = 0 if done else head
            done += len(block)
            log.report(done)
            while at + _HEAD <= len(block):
                check, size, kind = struct.unpack_from("<IHB", block, at)
                end = at + _HEAD + size
                if check == size == kind == 0:  # padding
                    break
                if end > len(block) < _BLOCK:
                    within = True
                    break
                if zlib.crc32(block[at + _HEAD - 1 : end]) != check:
                    lost["blocks"] += 1
                    within = False
                    break
                if kind in (_WHOLE, _FIRST):
                    parts.clear()
                    within = True
                if within and len(parts) + size <= MAX_LINE:
                    parts += block[at + _HEAD : end]
                else:
                    within = False
                if within and kind in (_WHOLE, _LAST):
                    yield bytes(parts)
                    within = False
                at = end
            else:
                within = within or (len(block) < _BLOCK and any(block[at:]))
    if within:
        lost["truncated last record"] += 1


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    r"""Number and content of those fields of a protobuf message that hold bytes, as far as it is whole.

    Examples
    --------
    >>> list(fields(b"\x08\x96\x01\x12\x02hi"))
    [(2, b'hi')]
    """
    at, end = 0, len(message)
    try:
        while at < end:
            tag, at = _varint(message, at)
            size = 0
            if tag & 7 == 2:
                size, at = _varint(message, at)
                yield tag >> 3, message[at : at + size]
            elif tag & 7 == 0:
                _, at = _varint(message, at)
            else:
                size = {1: 8, 5: 4}[tag & 7]
            at += size
    except (IndexError, KeyError, OverflowError):
        return


def _varint(message: bytes, at: int) -> tuple[int, int]:
    byte = message[at]
    value, shift = byte & 127, 7
    while byte > 127:
        at += 1
        byte = message[at]
        value |= (byte & 127) << shift
        shift += 7
        if shift > 70:
            raise OverflowError
    return value, at + 1
