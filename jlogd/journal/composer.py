"""Makes the journal's next frames: offsets, term and chain move along as they are composed.

A ``Draft`` is one frame that is written but not committed, and what it changes once it is.
Nothing here touches files.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from jlogd.journal.frame import (
    Body,
    Buffer,
    FrameFields,
    Framing,
    Kind,
    check_frame,
    content_hash,
    decode_header,
    encode_frame,
    next_chain,
)
from jlogd.journal.metadata import decode_metadata, encode_gap, encode_run, pack_metadata
from jlogd.journal.model import Gap, GapKind, Run
from jlogd.journal.recovery import History
from jlogd.runtime.clock import Clock
from jlogd.runtime.errors import ConflictError, DamageError


@dataclass(slots=True)
class Draft:
    """One frame on its way. ``first``, ``end``: offsets it covers (equal for a note)."""

    buffers: Sequence[Buffer]
    first: int
    end: int
    chain: bytes
    term: tuple[int, int]
    runs: Sequence[Run]
    time_ns: int


class Composer:
    """Composes frames behind each other, from the committed history on. For the writer's thread."""

    def __init__(self, history: History, salt: int, clock: Clock) -> None:
        """``history`` is the journal's committed one; it is only read here."""
        self._history = history
        self._salt = salt
        self._clock = clock
        self._own: tuple[int, int] | None = None
        self.end = history.end  # first offset of the next frame
        self.chain = history.chain

    @property
    def writes_own(self) -> bool:
        """Whether this writer ever composed a frame of its own (a replica only takes others')."""
        return self._own is not None

    def reset(self) -> None:
        """Forget the drafts: the next frame follows the committed end again."""
        self.end, self.chain = self._history.end, self._history.chain

    def records(self, body: Body, count: int, runs: Sequence[Run], framing: Framing) -> Draft:
        """A frame of records."""
        chain = next_chain(self.chain, self.end, self.end + count, body.content)
        fields = self._fields(Kind.RECORDS, count, chain, framing)
        metadata = b"".join(encode_run(run) for run in runs)
        return self._draft(encode_frame(fields, metadata, body), fields, runs)

    def gap(self, gap: Gap, runs: Sequence[Run] = ()) -> Draft:
        """A gap frame, with the positions it moves. ConflictError when an ``offsets`` gap does not begin at the end."""
        count = gap.end - gap.first if gap.kind is GapKind.OFFSETS else 1
        if gap.kind is GapKind.OFFSETS and (gap.first != self.end or count <= 0):
            raise ConflictError(f"gap [{gap.first}, {gap.end}) does not begin at the journal's end {self.end}")
        metadata = encode_gap(gap) + b"".join(encode_run(run) for run in runs)
        chain = next_chain(self.chain, self.end, self.end + count, content_hash(metadata))
        fields = self._fields(Kind.GAP, count, chain)
        return self._draft(encode_frame(fields, metadata), fields, runs)

    def notes(self, runs: Sequence[Run]) -> list[Draft]:
        """Local frames that hold positions without lines."""
        drafts = []
        for metadata in pack_metadata(encode_run(run) for run in runs):
            fields = self._fields(Kind.NOTE, 0, self.chain)
            drafts.append(self._draft(encode_frame(fields, metadata), fields, decode_metadata(metadata).runs))
        return drafts

    def verbatim(self, frame: Buffer) -> Draft:
        """A frame as another writer of the same journal made it. DamageError, FormatError, ConflictError."""
        view = memoryview(frame)
        header = decode_header(view)
        if header.salt != self._salt or header.is_local or len(view) != header.frame_length:
            raise DamageError("frame is not one of this journal, or is local to its writer")
        runs = decode_metadata(check_frame(header, view)).runs
        if header.first_offset != self.end or header.offset_count == 0:
            raise ConflictError(f"frame begins at {header.first_offset}, the replica ends at {self.end}")
        self.end, self.chain = header.end, header.chain
        term = (header.term, header.nonce)
        return Draft([view], header.first_offset, header.end, header.chain, term, runs, header.read_max_ns)

    def mark(self) -> list[Buffer]:
        """A frame that says everything before it is synced; local, in the committed term."""
        now_ns = self._clock.wall_ns()
        last = self._history.terms[-1] if self._history.terms else None
        counter, nonce = (last.counter, last.nonce) if last else (0, 0)
        fields = FrameFields(
            Kind.MARK, self._history.end, 0, counter, nonce, self._salt, self._history.chain, now_ns, now_ns
        )
        return encode_frame(fields, b"")

    def _fields(self, kind: Kind, count: int, chain: bytes, framing: Framing = Framing.LINES) -> FrameFields:
        if self._own is None:
            last = self._history.terms[-1].counter if self._history.terms else 0
            self._own = (last + 1, secrets.randbits(64))
        now_ns = self._clock.wall_ns()
        return FrameFields(kind, self.end, count, *self._own, self._salt, chain, now_ns, now_ns, framing)

    def _draft(self, buffers: Sequence[Buffer], fields: FrameFields, runs: Sequence[Run]) -> Draft:
        self.end, self.chain = fields.first + fields.count, fields.chain
        term = (fields.term, fields.nonce)
        return Draft(buffers, fields.first, self.end, fields.chain, term, runs, fields.read_max_ns)
