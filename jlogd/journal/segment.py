"""Segments: files of frames, named by first offset and epoch; which of them count; how to walk one.

A segment begins with its header: one SEGMENT frame and as many NOTE frames as the snapshot of
terms and source positions needs, the last one marked. A segment without a complete header was
never used: nothing in it was committed.

Which segments count: in order of epoch, each one hides everything at or after its first offset
that older epochs wrote. So a deposed holder that wakes late, a torn tail, and frames whose sync
failed are all hidden by the next segment, and a segment ends where the next one begins.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jlogd.journal.frame import (
    ALIGNMENT,
    FRAME_MAX,
    HEADER_LENGTH,
    MAGIC,
    FrameHeader,
    Kind,
    check_frame,
    decode_header,
    load_body,
    split_records,
)
from jlogd.journal.metadata import Metadata, SegmentInfo, decode_metadata
from jlogd.journal.model import Entry, Gap, Offset, Run, Term
from jlogd.runtime.errors import DamageError, FormatError
from jlogd.runtime.fs import File, FileSystem

SUFFIX = ".jls"
_NAME = re.compile(r"^(\d{20})-([0-9a-f]{12})\.jls$")
READ_CHUNK = 64 << 10  # one pread while walking: covers many small frames; a larger one is read by itself


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """Where a segment begins, who wrote it, and its file."""

    first: int
    epoch: int
    path: Path

    @property
    def index_path(self) -> Path:
        """The sidecar that finds offsets and times."""
        return self.path.with_suffix(".idx")


def segment_path(directory: Path, first: int, epoch: int) -> Path:
    """The file name of a segment."""
    return directory / f"{first:020d}-{epoch:012x}{SUFFIX}"


def list_segments(fs: FileSystem, directory: Path) -> list[SegmentName]:
    """All segment files of a directory, used or not."""
    return [
        SegmentName(int(match[1]), int(match[2], 16), directory / name)
        for name in fs.list_dir(directory)
        if (match := _NAME.match(name))
    ]


def visible_segments(names: list[SegmentName]) -> list[SegmentName]:
    """Those that count, by first offset (see the module's text)."""
    visible: list[SegmentName] = []
    for name in sorted(names, key=lambda name: (name.epoch, name.first)):
        while visible and visible[-1].first >= name.first:
            visible.pop()
        visible.append(name)
    return visible


class FrameView(NamedTuple):
    """One checked frame: its place, its header, and all its bytes as they stand on disk (padding included)."""

    position: int
    header: FrameHeader
    frame: memoryview
    metadata: Metadata

    def runs(self) -> list[Run]:
        """Where the records came from."""
        return self.metadata.runs

    def gap(self) -> Gap | None:
        """The gap, when the frame is one."""
        return self.metadata.gap

    def body(self) -> bytes:
        """The raw body, decompressed. DamageError when it is not what the header says."""
        return load_body(self.header, self.frame)

    def entries(self) -> Iterator[Entry]:
        """Every record of the frame; a gap gives one entry. DamageError."""
        header = self.header
        if header.kind == Kind.GAP:
            gap = self.metadata.gap
            source, generation = (gap.source, gap.generation) if gap else (b"", 0)
            yield Entry(Offset(header.first_offset), header.read_max_ns, b"", source, generation, gap=gap)
        if header.kind != Kind.RECORDS:
            return
        records = split_records(header.framing, self.body(), header.offset_count)
        runs = self.metadata.runs or [Run(b"", 0, len(records), 0, 0)]
        if sum(run.record_count for run in runs) != len(records):
            raise DamageError("runs do not add up to the frame's records")
        at = 0
        for run in runs:
            for record in records[at : at + run.record_count]:
                offset = Offset(header.first_offset + at)
                yield Entry(offset, header.read_max_ns, record, run.source, run.generation, run.flags)
                at += 1


class BadPlace(NamedTuple):
    """A place where no sound frame begins; ``resume`` is where the next one does (None: nowhere later)."""

    position: int
    resume: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The decoded header of a segment."""

    info: SegmentInfo
    salt: int
    first: int
    chain: bytes
    term: int
    nonce: int
    terms: list[Term]
    runs: list[Run]
    length: int  # bytes of the header frames


class Walker:
    """Walks the frames of one segment file forwards, checking each; never raises on bad bytes.

    FormatError does come out: frames of a newer version are not damage.
    """

    def __init__(self, file: File, position: int = 0, *, salt: int | None = None) -> None:
        """Begin at ``position``, which must be where a frame begins."""
        self._file = file
        self._salt = salt
        self._chunk = b""
        self._chunk_at = position
        self.position = position

    def next(self) -> FrameView | BadPlace | None:
        """The frame at ``position`` (and move past it), a bad place (and stay), or None at the end of the file."""
        try:
            view = self._frame_at(self.position)
        except FormatError:
            raise
        except DamageError as error:
            return BadPlace(self.position, self.next_sound(self.position + ALIGNMENT), str(error))
        if view is not None:
            self.position += view.header.frame_length
        return view

    def skip_to(self, position: int) -> None:
        """Go on at ``position``."""
        self.position = position

    def _view(self, position: int, length: int) -> memoryview:
        """Up to ``length`` bytes at ``position``, through the chunk in memory."""
        at = position - self._chunk_at
        if at < 0 or at + length > len(self._chunk):
            self._chunk = self._file.pread(max(length, READ_CHUNK), position)
            self._chunk_at, at = position, 0
        return memoryview(self._chunk)[at : at + length]

    def _frame_at(self, position: int) -> FrameView | None:
        head = self._view(position, HEADER_LENGTH)
        if not head:
            return None
        header = decode_header(head)
        if self._salt is not None and header.salt != self._salt:
            raise DamageError("frame belongs to another journal")
        frame = self._view(position, header.frame_length)
        metadata = check_frame(header, frame)
        return FrameView(position, header, frame, decode_metadata(metadata))

    def next_sound(self, position: int) -> int | None:
        """The next place at or after ``position`` where a sound frame begins."""
        size = self._file.size()
        while position < size:
            chunk = self._file.pread(READ_CHUNK + len(MAGIC), position)
            found = chunk.find(MAGIC)
            while found >= 0:
                place = position + found
                if place % ALIGNMENT == 0 and self._is_sound(place):
                    return place
                found = chunk.find(MAGIC, found + 1)
            position += READ_CHUNK
        return None

    def _is_sound(self, position: int) -> bool:
        try:
            return self._frame_at(position) is not None
        except DamageError:
            return False


def read_segment_header(file: File) -> SegmentHeader | None:
    """The header of a segment; None when it is not complete. FormatError for a newer version."""
    walker = Walker(file)
    info: SegmentInfo | None = None
    first_view: FrameView | None = None
    terms: list[Term] = []
    runs: list[Run] = []
    while True:
        view = walker.next()
        if not isinstance(view, FrameView):
            return None
        if (info is None) != (view.header.kind == Kind.SEGMENT):
            return None
        if view.metadata.segment is not None:
            info, first_view = view.metadata.segment, view
            if info.format_version > 1:
                raise FormatError(
                    f"{file.path}: journal format {info.format_version} is newer than this version, which reads 1"
                )
        terms += view.metadata.terms
        runs += view.metadata.runs
        if view.metadata.snapshot_end and info is not None and first_view is not None:
            head = first_view.header
            return SegmentHeader(
                info, head.salt, head.first_offset, head.chain, head.term, head.nonce, terms, runs, walker.position
            )


class Scan(NamedTuple):
    """What a complete walk over a segment found."""

    length: int  # bytes up to the end of the last frame that counts
    end: int  # first offset after it
    damage: list[BadPlace]  # places inside, each with a later proof that its bytes had been committed


def scan_segment(file: File, header: SegmentHeader, on_frame: Callable[[FrameView], None], *, synced: int = 0) -> Scan:
    """Walk all frames after the header in offset order and decide what counts.

    A bad place with a MARK behind it, or with a sound frame behind it that begins below ``synced``,
    is damage: what was there had been synced. Any other bad place is the torn tail of a power cut,
    even when sound frames follow: none of them was ever committed. (A note that stands *at*
    ``synced`` proves nothing, it may have been written after that sync.)
    """
    walker = Walker(file, header.length, salt=header.salt)
    end, length = header.first, header.length
    damage: list[BadPlace] = []
    doubtful: list[BadPlace] = []  # bad places not yet proven to be damage, and the frames behind them
    waiting: list[FrameView] = []
    while (item := walker.next()) is not None:
        if isinstance(item, BadPlace):
            doubtful.append(item)
            if item.resume is None:
                break
            walker.skip_to(item.resume)
            continue
        if doubtful:
            waiting.append(item._replace(frame=memoryview(b"")))  # the bytes are not needed, their memory is
            if item.header.kind != Kind.MARK and item.header.first_offset >= synced:
                continue
        for view in waiting or (item,):
            if view.header.first_offset >= end:  # a copy of an earlier frame is not a later one
                on_frame(view)
                end = view.header.end
        length = walker.position
        damage += doubtful
        doubtful, waiting = [], []
    return Scan(length, end, damage)


def walk(walker: Walker, damage: list[BadPlace]) -> Iterator[FrameView]:
    """All sound frames from the walker's position on; bad places go to ``damage``."""
    while (item := walker.next()) is not None:
        if isinstance(item, BadPlace):
            damage.append(item)
            if item.resume is None:
                return
            walker.skip_to(item.resume)
        else:
            yield item


assert FRAME_MAX <= 4 << 20  # a frame always fits one message of the session
