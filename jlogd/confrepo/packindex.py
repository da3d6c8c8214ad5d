"""The index of a pack, version 2: id → offset, in memory.

    magic, 2 | 256 counts: ids up to each first byte | ids, sorted | CRC-32s | offsets | large offsets | two SHA-1

Every read of an object asks every pack, mostly in vain: a search for the bytes within the ids of the same first byte
answers in a microsecond, where bisection in Python takes ten.
"""

import hashlib
import struct
from collections.abc import Iterator
from typing import Final

from jlogd.runtime.errors import DamageError

_MAGIC: Final = b"\377tOc\0\0\0\2"
_FAN_OUT: Final = struct.Struct(">256L")
assert _FAN_OUT.size == 1024
_IDS_BEGIN: Final = len(_MAGIC) + _FAN_OUT.size
_ID: Final = 20
_TRAILER: Final = 2 * 20
_LARGE: Final = 1 << 31  # the offset is a row of the table of large ones


class PackIndex:
    """Immutable: any thread reads."""

    def __init__(self, stored: bytes) -> None:
        """Of a whole file. DamageError."""
        if not stored.startswith(_MAGIC) or len(stored) < _IDS_BEGIN + _TRAILER:
            raise DamageError("not a pack index of version 2")
        if hashlib.sha1(stored[:-_ID], usedforsecurity=False).digest() != stored[-_ID:]:
            raise DamageError("the pack index is damaged: its checksum does not match")
        self._fan_out = (0, *_FAN_OUT.unpack_from(stored, len(_MAGIC)))
        self.count: int = self._fan_out[-1]
        self._offsets_at = _IDS_BEGIN + self.count * (_ID + 4)
        self._large_at = self._offsets_at + 4 * self.count
        if self._large_at + _TRAILER > len(stored) or list(self._fan_out) != sorted(self._fan_out):
            raise DamageError("the pack index is damaged: its counts are wrong")
        self._stored = stored
        self.pack_checksum = stored[-_TRAILER:-_ID]

    def offset(self, name: bytes) -> int | None:
        """Where the object of this id (20 bytes) begins; None when it is not in the pack. DamageError."""
        begin = _IDS_BEGIN + self._fan_out[name[0]] * _ID
        end = _IDS_BEGIN + self._fan_out[name[0] + 1] * _ID
        at = self._stored.find(name, begin, end)
        while at >= 0 and (at - begin) % _ID:  # the same bytes across two ids
            at = self._stored.find(name, at + 1, end)
        return None if at < 0 else self._offset_of((at - _IDS_BEGIN) // _ID)

    def _offset_of(self, row: int) -> int:
        (offset,) = struct.unpack_from(">L", self._stored, self._offsets_at + 4 * row)
        if offset < _LARGE:
            return int(offset)
        at = self._large_at + 8 * (offset - _LARGE)
        if at + 8 > len(self._stored) - _TRAILER:
            raise DamageError("the pack index is damaged: an offset is out of range")
        return int(struct.unpack_from(">Q", self._stored, at)[0])

    def names(self) -> Iterator[str]:
        """Every id, sorted."""
        for at in range(_IDS_BEGIN, _IDS_BEGIN + self.count * _ID, _ID):
            yield self._stored[at : at + _ID].hex()
