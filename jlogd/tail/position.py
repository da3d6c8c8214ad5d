"""Where a generation has been read up to, and the proof that a file is that generation.

``Run.state`` (little-endian, 80 bytes, version 1)::

    u8 version   u8 flags   u16 head_length   u16 tail_length   u16 zero
    u64 device   u64 inode  u64 start   u64 origin   u64 seen
    u64 head hash   u64 tail hash   u64 chain   u64 prefix hash

* ``start``: first position that was delivered (above 0 after a cut, or ``start_at = "end"``).
* ``origin``: first position that the hashes cover; ``origin <= start``.
* ``seen``: the largest size the file was seen with; bytes up to there existed.
* head: ``[origin, origin + head_length)``; tail: ``[position - tail_length, position)``.
* prefix hash: xxh3_64 in blocks of 256 KiB counted from ``origin``; block k is seeded with
  the hash of block k-1 (the first with 0). ``chain`` is the hash of the last whole block,
  ``prefix`` the hash of the begun block ``[.., position)`` seeded with it. Resuming costs one
  block; each stored (position, prefix) is a rung that a sequential read can verify.

``Run.ladder``: rungs as pairs of u64, ascending, dense near the position and thinning out
exponentially behind it.

Nothing here does I/O.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

import xxhash

HEAD_MAX = 1024  # short files are compared whole; a longer head would not tell more
TAIL_MAX = 1024
BLOCK = 256 << 10  # what a restart re-reads at most per generation
RUNG_STEP = 1 << 20  # progress between two rungs
RUNGS_MAX = 24

_STATE = struct.Struct("<BBHHHQQQQQQQQQ")
assert _STATE.size == 80
_RUNG = struct.Struct("<QQ")
assert _RUNG.size == 16
_VERSION = 1


class StateFlags(IntFlag):
    """What is settled about a generation."""

    NONE = 0
    FINAL = 1  # nothing more is expected; a partial last line was delivered
    SKIPPED = 2  # older than the first generation seen, or a place holder: never delivered


@dataclass(frozen=True, slots=True)
class PositionState:
    """``Run.state`` decoded; the position itself stands in the run."""

    flags: StateFlags
    dev: int
    ino: int
    start: int
    origin: int
    seen: int
    head_length: int
    head_hash: int
    tail_length: int
    tail_hash: int
    chain: int
    prefix: int

    def encode(self) -> bytes:
        """80 bytes."""
        return _STATE.pack(
            _VERSION, self.flags, self.head_length, self.tail_length, 0, self.dev, self.ino, self.start, self.origin,
            self.seen, self.head_hash, self.tail_hash, self.chain, self.prefix,
        )  # fmt: skip

    @classmethod
    def decode(cls, packed: bytes) -> "PositionState | None":
        """None for a state of another version: its file is then unknown, and found to be so."""
        if len(packed) < _STATE.size or packed[0] != _VERSION:
            return None
        _, flags, head_length, tail_length, _, *words = _STATE.unpack_from(packed)
        dev, ino, start, origin, seen, head_hash, tail_hash, chain, prefix = words
        return cls(
            StateFlags(flags), dev, ino, start, origin, seen, head_length, head_hash, tail_length, tail_hash, chain,
            prefix,
        )  # fmt: skip


def digest(content: bytes | bytearray | memoryview, seed: int = 0) -> int:
    """The hash that all proofs use."""
    return xxhash.xxh3_64_intdigest(content, seed)


class PrefixHash:
    """The rolling hash of ``[origin, position)``."""

    def __init__(self, origin: int, chain: int = 0, blocks: int = 0) -> None:
        """Stand after ``blocks`` whole blocks whose last hash is ``chain``."""
        self.origin = origin
        self.chain = chain
        self.position = origin + blocks * BLOCK
        self._block = xxhash.xxh3_64(seed=chain)

    @property
    def prefix(self) -> int:
        """The hash at ``position``."""
        return self._block.intdigest()

    def update(self, content: bytes | memoryview) -> None:
        """Go over the next bytes."""
        view = memoryview(content)
        while view.nbytes:
            room = BLOCK - (self.position - self.origin) % BLOCK
            piece = view[:room]
            self._block.update(piece)
            self.position += piece.nbytes
            if piece.nbytes == room:
                self.chain = self._block.intdigest()
                self._block = xxhash.xxh3_64(seed=self.chain)
            view = view[room:]


@dataclass(slots=True)
class Cursor:
    """Position in one generation, with the bytes that prove it."""

    start: int
    head: bytes
    tail: bytes
    hash: PrefixHash

    @classmethod
    def begin(cls, start: int, origin: int, tail: bytes = b"") -> "Cursor":
        """Stand at ``start`` with nothing read; ``tail`` are the bytes just before it. ``origin`` must be ``start``."""
        assert origin == start
        return cls(start, b"", tail[-TAIL_MAX:], PrefixHash(origin))

    @property
    def position(self) -> int:
        """Next byte to read."""
        return self.hash.position

    def advance(self, content: bytes | memoryview) -> None:
        """``content`` was taken."""
        view = memoryview(content)
        if len(self.head) < HEAD_MAX:
            self.head += bytes(view[: HEAD_MAX - len(self.head)])
        if view.nbytes >= TAIL_MAX:
            self.tail = bytes(view[view.nbytes - TAIL_MAX :])
        else:
            self.tail = (self.tail + bytes(view))[-TAIL_MAX:]
        self.hash.update(view)

    def state(self, flags: StateFlags, dev: int, ino: int, seen: int) -> PositionState:
        """What goes into the run."""
        return PositionState(
            flags, dev, ino, self.start, self.hash.origin, max(seen, self.position), len(self.head),
            digest(self.head), len(self.tail), digest(self.tail), self.hash.chain, self.hash.prefix,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rung:
    """The prefix hash at one position."""

    position: int
    prefix: int


class Ladder:
    """Rungs of one generation; thinned so that the distance between rungs grows with the distance to the end."""

    def __init__(self, packed: bytes = b"") -> None:
        """Decode; trailing bytes that are no whole rung are ignored."""
        usable = len(packed) - len(packed) % _RUNG.size
        self.rungs = [Rung(position, prefix) for position, prefix in _RUNG.iter_unpack(packed[:usable])]

    def due(self, position: int) -> bool:
        """Whether a rung is wanted at ``position``."""
        return position >= (self.rungs[-1].position if self.rungs else 0) + RUNG_STEP

    def add(self, position: int, prefix: int) -> None:
        """A new highest rung."""
        self.rungs.append(Rung(position, prefix))
        if len(self.rungs) > RUNGS_MAX:
            del self.rungs[self._least_useful()]

    def _least_useful(self) -> int:
        end = self.rungs[-1].position + RUNG_STEP

        def cost(index: int) -> float:
            above = self.rungs[index + 1].position
            below = self.rungs[index - 1].position if index else 0
            return (above - below) / (end - self.rungs[index].position)

        return min(range(len(self.rungs) - 1), key=cost)

    def below(self, size: int) -> Iterator[Rung]:
        """Rungs at or below ``size``, ascending."""
        return (rung for rung in self.rungs if rung.position <= size)

    def encode(self) -> bytes:
        """As stored in a run."""
        return b"".join(_RUNG.pack(rung.position, rung.prefix) for rung in self.rungs)
