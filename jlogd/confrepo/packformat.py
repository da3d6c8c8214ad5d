"""Git packs, version 2: bytes to objects, within limits, and back.

    "PACK" | version 2 | count | count x (type and size | [base] | zlib of content or delta) | SHA-1 of all before

Nothing is allocated for what a header claims: sizes are summed and compared first, and inflating stops at the claimed
size. A delta may stand on an object of the same pack only. Ids are computed from the bytes, never taken from anybody.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from mmap import mmap
from typing import Final

from dulwich.errors import ApplyDeltaError
from dulwich.object_format import DEFAULT_OBJECT_FORMAT
from dulwich.pack import apply_delta, pack_object_header, write_pack_index_v2

from jlogd.confrepo.contents import check_content, object_id
from jlogd.runtime.errors import DamageError

PIECE_BYTES: Final = 1 << 20
DELTA_DEPTH_MAX: Final = 4096  # git writes at most 50 by default, 4095 when told to
_HEADER: Final = struct.Struct(">4sLL")
assert _HEADER.size == 12
_CHECKSUM_BYTES: Final = 20
_PLAIN: Final = frozenset({1, 2, 3, 4})  # commit, tree, blob, tag
_OFFSET_DELTA, _ID_DELTA = 6, 7
_TAIL_WINDOW: Final = 64 << 10  # how much packed input is handed to zlib at a time

Buffer = bytes | mmap


@dataclass(frozen=True, slots=True)
class Packed:
    """One object where it stands in the pack."""

    offset: int
    end: int
    kind: int  # of the content, or one of the two delta kinds
    base: int | str | None  # a delta's: offset, or id
    content: bytes  # or the delta


@dataclass(frozen=True, slots=True)
class Indexed:
    """One object of a pack that was read as a whole."""

    id: str
    kind: int
    offset: int
    crc: int


def read_at(pack: Buffer, offset: int, end: int, bytes_max: int) -> Packed:
    """The object that begins at ``offset``; nothing is read at or after ``end``. DamageError."""
    at = offset
    try:
        byte = pack[at]
        kind, size, shift = (byte >> 4) & 7, byte & 15, 4
        at += 1
        while byte & 0x80:
            byte = pack[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
        if size > bytes_max:
            raise DamageError(f"an object of the pack claims {size} bytes, {bytes_max} are left")
        base: int | str | None = None
        if kind == _OFFSET_DELTA:
            base, at = _base_offset(pack, offset, at)
        elif kind == _ID_DELTA:
            base, at = pack[at : at + 20].hex(), at + 20
        elif kind not in _PLAIN:
            raise DamageError(f"the pack has an object of unknown type {kind}")
    except IndexError:
        raise DamageError("the pack ends within an object") from None
    content, stop = _inflate(pack, at, end, size)
    return Packed(offset, stop, kind, base, content)


def _base_offset(pack: Buffer, offset: int, at: int) -> tuple[int, int]:
    byte = pack[at]
    at += 1
    distance = byte & 0x7F
    while byte & 0x80:
        byte = pack[at]
        at += 1
        distance = ((distance + 1) << 7) | (byte & 0x7F)
        if distance > offset:
            break
    if not 0 < distance <= offset - _HEADER.size:
        raise DamageError("a delta of the pack stands on something outside of it")
    return offset - distance, at


def _inflate(pack: Buffer, at: int, end: int, size: int) -> tuple[bytes, int]:
    """Content of ``size`` bytes, and where its zlib stream ends."""
    machine = zlib.decompressobj()
    pieces: list[bytes] = []
    left = size + 1  # one more than claimed shows a stream that goes on
    try:
        while not machine.eof and left > 0 and at < end:
            window = pack[at : min(end, at + _TAIL_WINDOW)]
            piece = machine.decompress(window, left)
            at += len(window) - len(machine.unconsumed_tail) - len(machine.unused_data)
            left -= len(piece)
            pieces.append(piece)
            if not piece and machine.unconsumed_tail:
                break
    except zlib.error as error:
        raise DamageError(f"an object of the pack does not inflate: {error}") from error
    if not machine.eof or left != 1:
        raise DamageError("an object of the pack is cut off, or not as long as it says")
    return b"".join(pieces), at


def patch(base: bytes, delta: bytes, bytes_max: int) -> bytes:
    """The result of a delta; its claimed size is checked before anything is built. DamageError."""
    size, _ = _varint(delta, _varint(delta, 0)[1])
    if size > bytes_max:
        raise DamageError(f"a delta of the pack makes {size} bytes, {bytes_max} are left")
    try:
        return b"".join(apply_delta(base, delta))
    except (ApplyDeltaError, ValueError, IndexError, AssertionError) as error:
        raise DamageError(f"a delta of the pack cannot be applied: {error}") from error


def _varint(delta: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(delta) and shift < 63:
        byte = delta[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
    raise DamageError("a delta of the pack is cut off")


class PackReader:
    """Reads a whole pack that somebody else made, once, front to back, and computes every id.

    ``bytes_max`` bounds what all objects and deltas together inflate to. Only results of deltas are kept (another one
    may stand on them); what stands whole in the pack is read again when it is needed.
    """

    def __init__(self, pack: Buffer, bytes_max: int) -> None:
        """Check the header and the checksum. DamageError."""
        if len(pack) < _HEADER.size + _CHECKSUM_BYTES:
            raise DamageError("the pack is cut off")
        magic, version, self.count = _HEADER.unpack(pack[: _HEADER.size])
        if magic != b"PACK" or version != 2:
            raise DamageError("not a git pack of version 2")
        self._end = len(pack) - _CHECKSUM_BYTES
        if self.count > (self._end - _HEADER.size) // 9:  # the shortest object: one byte and an empty zlib stream
            raise DamageError(f"the pack claims {self.count} objects, and is too short for them")
        self.checksum = pack[self._end :]
        if hashlib.sha1(memoryview(pack)[: self._end], usedforsecurity=False).digest() != self.checksum:
            raise DamageError("the pack's checksum does not match: it was damaged on the way")
        self._pack = pack
        self._bytes_max = self._left = bytes_max
        self._offsets: dict[str, int] = {}
        self._results: dict[int, tuple[int, bytes]] = {}  # offset of a delta → type, what it makes
        self._plain: set[int] = set()

    def objects(self) -> Iterator[tuple[Indexed, bytes]]:
        """Every object with its content, deltas resolved; those on later objects last. DamageError."""
        waiting: list[Packed] = []
        at = _HEADER.size
        for _ in range(self.count):
            packed = read_at(self._pack, at, self._end, self._left)
            self._left -= len(packed.content)
            at = packed.end
            base = self._base(packed)
            if packed.kind in _PLAIN:
                yield self._settle(packed, packed.kind, packed.content)
            elif base is None:
                waiting.append(packed)
            else:
                yield self._settle(packed, base[0], self._patched(base[1], packed.content))
        if at != self._end:
            raise DamageError("the pack has bytes after its last object")
        yield from self._resolve(waiting)

    def _resolve(self, waiting: list[Packed]) -> Iterator[tuple[Indexed, bytes]]:
        for _ in range(DELTA_DEPTH_MAX):
            if not waiting:
                return
            still: list[Packed] = []
            for packed in waiting:
                base = self._base(packed)
                if base is None:
                    still.append(packed)
                else:
                    yield self._settle(packed, base[0], self._patched(base[1], packed.content))
            if len(still) == len(waiting):
                break
            waiting = still
        raise DamageError("a delta of the pack stands on an object outside of it")

    def _patched(self, base: bytes, delta: bytes) -> bytes:
        content = patch(base, delta, self._left)
        self._left -= len(content)
        return content

    def _base(self, packed: Packed) -> tuple[int, bytes] | None:
        if packed.base is None:
            return None
        offset = packed.base if isinstance(packed.base, int) else self._offsets.get(packed.base, 0)
        if offset in self._plain:
            whole = read_at(self._pack, offset, self._end, self._bytes_max)
            return whole.kind, whole.content
        return self._results.get(offset)

    def _settle(self, packed: Packed, kind: int, content: bytes) -> tuple[Indexed, bytes]:
        name = object_id(kind, content)
        if name in self._offsets:
            raise DamageError(f"the pack has object {name} twice")
        check_content(kind, content, name)
        self._offsets[name] = packed.offset
        if packed.kind in _PLAIN:
            self._plain.add(packed.offset)
        else:
            self._results[packed.offset] = (kind, content)
        crc = zlib.crc32(self._pack[packed.offset : packed.end])
        return Indexed(name, kind, packed.offset, crc), content


def entry_header(kind: int, size: int) -> bytes:
    """What stands before the zlib stream of an object of ``size`` bytes, no delta."""
    return bytes(pack_object_header(kind, None, size, DEFAULT_OBJECT_FORMAT))


def pack_entry(kind: int, content: bytes) -> bytes:
    """One object as it stands in a pack, no delta."""
    return entry_header(kind, len(content)) + zlib.compress(content)


def pack_pieces(count: int, entries: Iterable[bytes], piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """A whole pack of ``count`` objects, in pieces of at most ``piece_bytes``; ``entries``: whole or in fragments."""
    digest = hashlib.sha1(usedforsecurity=False)
    buffer = bytearray(_HEADER.pack(b"PACK", 2, count))
    for entry in entries:
        buffer += entry
        while len(buffer) >= piece_bytes:
            piece = bytes(buffer[:piece_bytes])
            del buffer[:piece_bytes]
            digest.update(piece)
            yield piece
    digest.update(buffer)
    buffer += digest.digest()
    yield from (bytes(buffer[at : at + piece_bytes]) for at in range(0, len(buffer), piece_bytes))


def index_bytes(entries: Sequence[Indexed], checksum: bytes) -> bytes:
    """The pack's index, version 2."""
    file = BytesIO()
    ordered = sorted((bytes.fromhex(entry.id), entry.offset, entry.crc) for entry in entries)
    write_pack_index_v2(file, ordered, checksum)
    return file.getvalue()
