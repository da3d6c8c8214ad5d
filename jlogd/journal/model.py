"""The words of the journal as types: offsets, runs, gaps, entries, options.

An **offset** counts records, dense from 0, u64. All ranges are ``[first, end)``.
A **run** says where consecutive records of a frame came from. A **gap** stands in
for records that are not there, and says why. Pure values: no I/O here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import Any, Literal, NewType

Offset = NewType("Offset", int)

FRAME_RAW_MAX = 4 << 20  # part of the format: a reader may allocate this much and no more
FRAME_STORED_MAX = 3 << 20
FRAME_METADATA_MAX = 64 << 10
UNKNOWN = (1 << 64) - 1  # how the format writes an unknown u64


class RunFlags(IntFlag):
    """How the records of a run end in their source."""

    NONE = 0
    CONTINUED = 1  # each record is a piece of a longer line; the same generation's next record goes on
    NO_NEWLINE = 2  # the record ended its generation without a newline
    FORGET = 4  # local note: this generation need not be remembered any more


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive records of one generation of one source inside a frame.

    ``position`` is where the source stands *after* the run (bytes from the start of
    the generation's content). In the body every record of a followed file ends with a
    newline; for ``CONTINUED`` and ``NO_NEWLINE`` runs that newline is ours, not the
    source's. ``state`` and ``ladder`` belong to ``jlogd.tail`` and are opaque here;
    an empty ``ladder`` means "as before".
    """

    source: bytes  # absolute path as bytes; empty: records appended directly
    generation: int  # u32, counts the contents that a path has had, from 1
    record_count: int  # u32; 0 in a note
    raw_length: int  # u32, bytes of the frame's raw body
    position: int  # u64
    flags: RunFlags = RunFlags.NONE
    state: bytes = b""
    ladder: bytes = b""

    @property
    def source_bytes(self) -> int:
        """Bytes of the source that the run covers (raw bytes less the newlines that are ours)."""
        ours = self.record_count if self.flags & (RunFlags.CONTINUED | RunFlags.NO_NEWLINE) else 0
        return self.raw_length - ours


@dataclass(frozen=True, slots=True)
class SourceState:
    """The last position that the journal holds for one generation of one source."""

    position: int
    state: bytes
    ladder: bytes


SourceKey = tuple[bytes, int]  # (source path, generation)


class GapKind(Enum):
    """What a gap stands for."""

    OFFSETS = "offsets"  # these offsets' records are lost
    SOURCE = "source"  # these bytes of a source were gone before they could be read; takes one offset


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that are not there, and why.

    kind OFFSETS: ``first``/``end`` are offsets. kind SOURCE: ``first``/``end`` are
    positions in ``source``/``generation``; ``end`` may equal ``first`` when only
    "something is missing here" is known. Unknown counts are None.
    """

    kind: GapKind
    first: int
    end: int
    reason: str  # one short stable word or phrase, at most 200 bytes
    lost_records: int | None = None
    lost_bytes: int | None = None
    source: bytes = b""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as a reader gets it; unpacks as ``offset, time_ns, record``."""

    offset: Offset
    time_ns: int  # when it was read from its source, wall clock
    record: bytes  # without its newline; empty for a gap
    source: bytes = b""
    generation: int = 0
    flags: RunFlags = RunFlags.NONE
    gap: Gap | None = None

    def __iter__(self) -> Iterator[Any]:
        """Unpack as ``offset, time_ns, record``."""
        return iter((self.offset, self.time_ns, self.record))


@dataclass(frozen=True, slots=True)
class Base:
    """Where a journal begins when it does not begin at 0: a replica, or the branch of a fork."""

    first: Offset
    chain: bytes
    terms: list["Term"]


@dataclass(frozen=True, slots=True)
class Tip:
    """The committed end of a journal and the history that leads to it, taken at one moment."""

    first: Offset
    end: Offset
    chain: bytes
    terms: list["Term"]


@dataclass(frozen=True, slots=True)
class Damage:
    """A place on disk whose bytes are not what was written; ``[first, end)`` are the offsets that it cost."""

    file: str
    position: int
    first: int
    end: int
    reason: str


Codec = Literal["zstd", "none"]
Sync = Literal["batch", "interval", "os"]


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """How a journal writes. Sizes in bytes, times in seconds."""

    segment_bytes: int = 64 << 20
    segment_age_s: float = 3600.0
    codec: Codec = "zstd"
    sync: Sync = "batch"
    sync_interval_s: float = 1.0  # sync = "interval": at most this much is lost with the power
    subcluster: str = "default"
    proof_age_s: float = 0.0  # keep records this young although every subscriber has them …
    proof_bytes: int = 128 << 20  # … at most so many bytes of segments (see ``retention``)


@dataclass(frozen=True, slots=True)
class Term:
    """One writer's open, as the frames tell it: the counter grows, the nonce makes it unique."""

    counter: int  # u32
    nonce: int  # u64
    first: Offset  # the first offset written in this term
