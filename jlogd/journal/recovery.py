"""Opening a journal for writing: find the segments that count, sync the tail, then trust it.

Reads the last segment only (bounded by ``segment_bytes``), whatever the backlog. Only the
holder of the writer's lock may call this: it cuts a torn tail.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from jlogd.journal.frame import CHAIN_ORIGIN, Kind
from jlogd.journal.mark import INDEX_DISTANCE, Committed, IndexEntry, write_index
from jlogd.journal.metadata import SegmentInfo
from jlogd.journal.model import UNKNOWN, Damage, Offset, Run, RunFlags, SourceKey, SourceState, Term, Tip
from jlogd.journal.segment import (
    READ_CHUNK,
    FrameView,
    SegmentHeader,
    SegmentName,
    Walker,
    list_segments,
    read_segment_header,
    scan_segment,
    visible_segments,
)
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import File, FileSystem


@dataclass(slots=True)
class Recovery:
    """What ``open`` found on the disk, and what it did."""

    cut_bytes: int = 0  # torn tail, never committed
    damage: list[Damage] = field(default_factory=list)


class History:
    """Terms, chain, end and source positions, as frames move them along."""

    def __init__(self, first: int, chain: bytes, terms: list[Term]) -> None:
        """Begin at ``first`` with what a segment header says."""
        self.end = first
        self.chain = chain
        self.terms = list(terms)
        self.sources: dict[SourceKey, SourceState] = {}

    def note_term(self, counter: int, nonce: int, first: int) -> None:
        """A frame of this term begins at ``first``."""
        if not self.terms or (self.terms[-1].counter, self.terms[-1].nonce) != (counter, nonce):
            self.terms.append(Term(counter, nonce, Offset(first)))

    def note_runs(self, runs: list[Run]) -> None:
        """Remember the newest position of each generation."""
        for run in runs:
            key = (run.source, run.generation)
            if run.flags & RunFlags.FORGET:
                self.sources.pop(key, None)
            elif run.source:
                old = self.sources.get(key)
                ladder = run.ladder or (old.ladder if old else b"")
                self.sources[key] = SourceState(run.position, run.state, ladder)

    def prune(self, kept: int) -> None:
        """Remember at most the newest ``kept`` generations of each source (a replica never hears of FORGET)."""
        newest: dict[bytes, int] = {}
        for source, generation in self.sources:
            newest[source] = max(generation, newest.get(source, 0))
        for key in [key for key in self.sources if key[1] <= newest[key[0]] - kept]:
            del self.sources[key]

    def note_frame(self, view: FrameView) -> None:
        """Take over what a committed frame says."""
        header = view.header
        if header.kind in (Kind.RECORDS, Kind.GAP):
            self.note_term(header.term, header.nonce, header.first_offset)
            self.chain = header.chain
            self.end = header.end
        self.note_runs(view.metadata.runs)


@dataclass(slots=True)
class Loaded:
    """An existing journal, ready to be written on."""

    journal_id: bytes
    first: int
    epoch: int  # highest used by any segment file
    history: History
    previous: tuple[int, int, int]  # first, epoch and length of the last segment
    recovery: Recovery


def load(fs: FileSystem, directory: Path, committed: Committed | None) -> Loaded | None:
    """What the directory holds; None when it never held a usable segment. DamageError, FormatError, OSError."""
    names = list_segments(fs, directory)
    epoch = max((name.epoch for name in names), default=0)
    visible = visible_segments(names)
    recovery = Recovery()
    while visible:
        last = visible[-1]
        with fs.open_write(last.path) as file:
            file.datasync()
            header = read_segment_header(file)
            if header is None and Walker(file).next_sound(0) is not None:
                header = _rebuilt_header(fs, visible, committed, recovery)
            if header is not None:
                history, length = _scan(fs, last, file, header, recovery, committed)
                fs.sync_dir(directory)
                return Loaded(
                    header.info.journal_id, visible[0].first, epoch, history, (last.first, last.epoch, length), recovery
                )
        recovery.cut_bytes += last.path.stat().st_size
        fs.unlink(last.path)  # its header never was complete, so nothing in it was committed
        names.remove(last)
        visible = visible_segments(names)
    return None


def _scan(
    fs: FileSystem,
    name: SegmentName,
    file: File,
    header: SegmentHeader,
    recovery: Recovery,
    committed: Committed | None,
) -> tuple[History, int]:
    history = History(header.first, header.chain, header.terms)
    history.note_runs(header.runs)
    index: list[IndexEntry] = []

    def on_frame(view: FrameView) -> None:
        if view.header.offset_count and (not index or view.position - index[-1].position >= INDEX_DISTANCE):
            index.append(IndexEntry(view.header.first_offset, view.position, view.header.read_min_ns))
        history.note_frame(view)

    synced = synced_end(committed, header)
    scan = scan_segment(file, header, on_frame, synced=synced)
    size = file.size()
    if scan.end < synced:
        recovery.damage.append(
            Damage(
                str(name.path), scan.length, scan.end, synced, "committed records at the tail are damaged and were cut"
            )
        )
        _keep_aside(fs, name, file)
    if size > scan.length:
        file.truncate(scan.length)
        file.datasync()
        recovery.cut_bytes += size - scan.length
    write_index(fs, name.index_path, index)
    recovery.damage += [
        Damage(str(name.path), place.position, header.first, scan.end, place.reason) for place in scan.damage
    ]
    return history, scan.length


def synced_end(committed: Committed | None, header: SegmentHeader) -> int:
    """The end that the mark proves to have been on the disk; 0 when it proves nothing about this journal."""
    return committed.synced if committed is not None and committed.journal_id == header.info.journal_id else 0


def _keep_aside(fs: FileSystem, name: SegmentName, file: File) -> None:
    """A copy of a segment that is about to be cut although its tail had been committed. Best effort."""
    with contextlib.suppress(OSError), fs.create(name.path.with_suffix(".damaged")) as aside:
        position = 0
        while chunk := file.pread(READ_CHUNK, position):
            position += aside.pwrite([chunk], position)


def _rebuilt_header(
    fs: FileSystem, visible: list[SegmentName], committed: Committed | None, recovery: Recovery
) -> SegmentHeader:
    """The header of a last segment whose own is damaged: from its predecessor and the committed mark."""
    last = visible[-1]
    history = History(last.first, CHAIN_ORIGIN, [])
    journal_id = committed.journal_id if committed else None
    if len(visible) > 1:
        with fs.open_read(visible[-2].path) as file:
            before = read_segment_header(file)
            if before is not None:
                journal_id = before.info.journal_id
                history = History(before.first, before.chain, before.terms)
                history.note_runs(before.runs)
                scan_segment(file, before, history.note_frame)
    if journal_id is None:
        raise DamageError(f"{last.path}: the segment's header is damaged and nothing else names the journal")
    recovery.damage.append(
        Damage(
            str(last.path), 0, last.first, last.first, "segment header damaged; positions of idle sources may be old"
        )
    )
    info = SegmentInfo(journal_id, 1, 1, last.epoch, 0, UNKNOWN, 0, 0)
    runs = [
        Run(source, generation, 0, 0, known.position, RunFlags.NONE, known.state, known.ladder)
        for (source, generation), known in history.sources.items()
    ]
    salt = int.from_bytes(journal_id[:4], "little")
    return SegmentHeader(info, salt, last.first, history.chain, 0, 0, history.terms, runs, 0)


def tip_of(first: int, history: History) -> Tip:
    """The history as one value."""
    return Tip(Offset(first), Offset(history.end), history.chain, list(history.terms))
