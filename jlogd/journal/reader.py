"""Reading a journal: any process, any number, read permission only, also on a full disk.

A reader gives every offset of ``[first, end)`` exactly once and in order: records where frames
are sound, and one ``offsets`` gap wherever they are not (removed, damaged, missing). Gaps that
the reader makes up are the same for every reader of the same bytes. Reading never blocks on the
writer and never sees what was not committed.

Not thread-safe: one reader a thread.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from jlogd.journal.frame import FrameFields, Kind, check_frame, decode_header, encode_frame, gap_chain
from jlogd.journal.mark import is_locked, read_committed, read_index
from jlogd.journal.metadata import decode_metadata, encode_gap
from jlogd.journal.model import Damage, Entry, Gap, GapKind, Offset, Term, Tip
from jlogd.journal.recovery import History, synced_end
from jlogd.journal.segment import (
    BadPlace,
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
from jlogd.runtime.fs import OS, File, FileSystem

LiveIndex = Callable[[], tuple[Path, list[tuple[int, int, int]]] | None]


class _Segment:
    """One open segment and, once known, its header."""

    def __init__(self, fs: FileSystem, name: SegmentName) -> None:
        self.name = name
        self.file: File = fs.open_read(name.path)
        try:
            self.header: SegmentHeader | None = read_segment_header(self.file)
        except BaseException:
            self.file.close()
            raise


class Reader:
    """See the module's text. ``damage`` collects what was stepped over so far."""

    def __init__(
        self,
        path: Path,
        fs: FileSystem = OS,
        *,
        journal_id: bytes | None = None,
        tip: Callable[[], Tip] | None = None,
        live_index: LiveIndex | None = None,
    ) -> None:
        """``tip`` and ``live_index`` come from a journal open in this process; other readers find them on disk."""
        self.path = path
        self.damage: list[Damage] = []
        self._fs = fs
        self._tip = tip
        self._live_index = live_index
        self._id = journal_id
        self._names: list[SegmentName] = []
        self._end = 0
        self._segment: _Segment | None = None
        self._place: tuple[SegmentName, int, int] | None = None  # segment, position, offset: where to go on
        self._header_length = 0
        self.refresh()

    @classmethod
    def open(cls, path: Path, fs: FileSystem = OS) -> "Reader":
        """A reader for a journal that another process may write. FormatError, OSError; DamageError without one."""
        reader = cls(Path(path), fs)
        if not reader._names:
            raise DamageError(f"{path}: no journal here (no segment with a complete header)")
        return reader

    @property
    def id(self) -> bytes:
        """Journal id, 16 bytes."""
        if self._id is None:
            for name in self._names:
                with self._fs.open_read(name.path) as file:  # not `_open`: a walk may be in the middle of another
                    header = read_segment_header(file)
                if header is not None:
                    self._id = header.info.journal_id
                    break
            else:
                committed = read_committed(self._fs, self.path / "committed")
                self._id = committed.journal_id if committed else bytes(16)
        return self._id

    @property
    def first(self) -> Offset:
        """Oldest offset kept."""
        return Offset(self._names[0].first) if self._names else Offset(0)

    @property
    def end(self) -> Offset:
        """Committed end, as of the last ``refresh`` (always current inside the writer's process)."""
        return self._tip().end if self._tip is not None else Offset(self._end)

    @property
    def segments(self) -> list[SegmentName]:
        """The segment files that count, oldest first."""
        return list(self._names)

    def refresh(self) -> None:
        """Look for new and removed segments and, in another process, for a new end."""
        self._names = visible_segments(list_segments(self._fs, self.path))
        if self._tip is None:
            while self._names and not self._has_header(self._names[-1]):
                self._names.pop()
            self._end = self._find_end()

    # ------------------------------------------------------------------ frames and records

    def frames(self, first: int, end: int | None = None) -> Iterator[FrameView]:
        """Frames that cover ``[first, end)`` in order, gap frames for what is missing. Local frames are left out.

        The first frame may begin below ``first`` when ``first`` lies inside it. ``end`` defaults to the
        committed end at the time of each step. FormatError, OSError.
        """
        offset = first
        while offset < self._limit(end):
            if not self._names or offset < self._names[0].first or not self._covers(offset):
                self.refresh()
                if not self._names:
                    return
            if offset < self._names[0].first:
                view = self._removed_gap(offset, min(self._names[0].first, self._limit(end)))
                yield view
                offset = view.header.end
                continue
            at = self._index_of(offset)
            before = offset
            try:
                for view in self._segment_frames(self._names[at], at, offset, end):
                    yield view
                    offset = view.header.end
            except FileNotFoundError:
                self.refresh()  # removed by retention between the listing and the open
                continue
            if offset == before:
                self.refresh()
                if self._index_of(offset) == at:
                    return

    def read(self, first: int | None = None, end: int | None = None) -> Iterator[Entry]:
        """Every entry of ``[first, end)``; a gap is one entry. Damage found while reading becomes a gap too."""
        start = self.first if first is None else first
        for view in self.frames(start, end):
            try:
                entries = list(view.entries())
            except DamageError as error:
                header = view.header
                gap = Gap(GapKind.OFFSETS, header.first_offset, header.end, f"damaged: {error}")
                entries = [Entry(Offset(header.first_offset), header.read_max_ns, b"", gap=gap)]
            for entry in entries:
                if entry.offset >= start and (end is None or entry.offset < end):
                    yield entry

    def offset_at(self, time_ns: int) -> Offset:
        """The first offset whose frame was read at or after ``time_ns``; the end when there is none."""
        low, high = 0, len(self._names)
        while low < high:
            middle = (low + high) // 2
            view = next(self._segment_frames(self._names[middle], middle, self._names[middle].first, None), None)
            if view is None or view.header.read_max_ns >= time_ns:
                high = middle
            else:
                low = middle + 1
        start = self._names[max(low - 1, 0)].first if self._names else 0
        for view in self.frames(start):
            if view.header.read_max_ns >= time_ns:
                return Offset(max(view.header.first_offset, start))
        return self.end

    def chain_at(self, offset: int) -> tuple[Term, bytes] | None:
        """Term and chain of the frame that ends at ``offset``; None when that is not known here."""
        if self._tip is not None:
            tip = self._tip()
            if offset == tip.end and tip.terms:
                return tip.terms[-1], tip.chain
        self.refresh()
        for name in self._names:
            if name.first == offset:
                header = self._open(name).header
                if header is not None:
                    return Term(header.term, header.nonce, Offset(offset)), header.chain
        at = self._index_of(offset - 1)
        if at < 0 or offset > self.end:
            return None
        begin = self._index_start(self._names[at], offset - 1)[1]
        for view in self._segment_frames(self._names[at], at, begin, None):
            if view.header.end == offset:
                header_fields = view.header
                return Term(header_fields.term, header_fields.nonce, Offset(offset)), header_fields.chain
            if view.header.end > offset:
                return None
        return None

    def bytes_from(self, offset: int) -> int:
        """Bytes on disk from (about) ``offset`` to the end."""
        at = max(self._index_of(offset), 0)
        sizes = [name.path.stat().st_size for name in self._names[at:]]
        return max(sum(sizes) - (self._start(self._names[at], offset)[0] if at < len(self._names) else 0), 0)

    # ------------------------------------------------------------------ segments

    def _limit(self, end: int | None) -> int:
        return self.end if end is None else min(end, self.end)

    def _index_of(self, offset: int) -> int:
        low, high = 0, len(self._names)
        while low < high:
            middle = (low + high) // 2
            if self._names[middle].first <= offset:
                low = middle + 1
            else:
                high = middle
        return low - 1

    def _covers(self, offset: int) -> bool:
        """Whether the known list of segments can be trusted for ``offset``."""
        return self._index_of(offset) < len(self._names) - 1 or self._tip is None or self._place is not None

    def _open(self, name: SegmentName) -> _Segment:
        if self._segment is None or self._segment.name != name:
            segment = _Segment(self._fs, name)
            if self._segment is not None:
                self._segment.file.close()
            self._segment = segment
        return self._segment

    def _has_header(self, name: SegmentName) -> bool:
        segment = self._open(name)
        return segment.header is not None or Walker(segment.file).next_sound(0) is not None

    def _find_end(self) -> int:
        """The end as another process can know it: the living writer's mark, else what the last segment holds."""
        if not self._names:
            return 0
        name = self._names[-1]
        committed = read_committed(self._fs, self.path / "committed")
        if committed is not None and committed.end >= name.first and is_locked(self.path / "lock"):
            return committed.end
        segment = self._open(name)
        header = segment.header
        if header is None:
            return max((view.header.end for view in _sound_frames(segment.file)), default=name.first)
        history = History(header.first, header.chain, header.terms)
        synced = synced_end(committed, header)
        return max(scan_segment(segment.file, header, history.note_frame, synced=synced).end, synced)

    def _index_start(self, name: SegmentName, offset: int) -> tuple[int, int]:
        """Position and offset of an indexed frame at or before ``offset``."""
        live = self._live_index() if self._live_index is not None else None
        entries = live[1] if live is not None and live[0] == name.path else read_index(self._fs, name.index_path)
        best = None
        for entry in entries:
            if entry[0] <= offset and name.first <= entry[0]:
                best = entry
        if best is not None:
            return best[1], best[0]
        header = self._open(name).header
        return (header.length if header else 0), name.first

    def _start(self, name: SegmentName, offset: int) -> tuple[int, int]:
        if self._place is not None and self._place[0] == name and self._place[2] == offset:
            return self._place[1], offset
        return self._index_start(name, offset)

    def _segment_frames(self, name: SegmentName, at: int, offset: int, end: int | None) -> Iterator[FrameView]:
        """The frames of one segment from ``offset`` on, up to the next segment or the limit."""
        segment = self._open(name)
        position, begin = self._start(name, offset)
        salt = segment.header.salt if segment.header else None
        walker = Walker(segment.file, position, salt=salt)
        bad: BadPlace | None = None
        expected = begin
        while expected < min(self._segment_end(at), self._limit(end)):
            item = walker.next()
            if item is None or (isinstance(item, BadPlace) and item.resume is None):
                if at == len(self._names) - 1 and self._was_rolled(name):
                    self._place = None
                    return
                bad = item or bad or BadPlace(walker.position, None, "frames are missing")
                stop = min(self._segment_end(at), self._limit(None))
                if max(expected, offset) < stop:
                    yield self._damage_gap(name, bad, max(expected, offset), stop, None)
                return
            if isinstance(item, BadPlace):
                bad = item
                walker.skip_to(item.resume or 0)
                continue
            header = item.header
            if header.offset_count == 0 or header.end <= expected:
                continue
            if header.first_offset > expected:
                if header.first_offset > offset:
                    place = bad or BadPlace(item.position, item.position, "frames are missing")
                    yield self._damage_gap(name, place, max(expected, offset), header.first_offset, header.term)
                expected = header.first_offset
                if expected >= self._limit(end):
                    return
            bad = None
            expected = header.end
            self._place = (name, walker.position, expected)
            if expected > offset:
                yield _cut_gap(item, offset)

    def _segment_end(self, at: int) -> int:
        return self._names[at + 1].first if at + 1 < len(self._names) else self._limit(None)

    def _was_rolled(self, name: SegmentName) -> bool:
        """Whether a newer segment has appeared behind ``name``."""
        self.refresh()
        return not self._names or self._names[-1] != name

    # ------------------------------------------------------------------ gaps made up by the reader

    def _removed_gap(self, first: int, end: int) -> FrameView:
        header = self._open(self._names[0]).header
        chain = header.chain if header and end == header.first else gap_chain(self._salt(), end)
        term = (header.term, header.nonce) if header else (0, 0)
        gap = Gap(GapKind.OFFSETS, first, end, "removed", lost_records=end - first)
        return _gap_frame(gap, chain, term, self._salt(), header.info.created_ns if header else 0)

    def _damage_gap(self, name: SegmentName, place: BadPlace, first: int, end: int, term: int | None) -> FrameView:
        damage = Damage(str(name.path), place.position, first, end, place.reason)
        if damage not in self.damage:
            self.damage.append(damage)
        header = self._open(name).header
        next_name = self._names[self._index_of(end)] if self._index_of(end) >= 0 else None
        chain = gap_chain(self._salt(), end)
        if next_name is not None and next_name.first == end and next_name != name:
            with self._fs.open_read(next_name.path) as file:
                following = read_segment_header(file)
            chain = following.chain if following else chain
        known = (header.term, header.nonce) if header else (term or 0, 0)
        gap = Gap(GapKind.OFFSETS, first, end, f"damaged: {place.reason}", lost_records=end - first)
        return _gap_frame(gap, chain, known, self._salt(), header.info.created_ns if header else 0)

    def _salt(self) -> int:
        return int.from_bytes(self.id[:4], "little")

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Close the open segment."""
        if self._segment is not None:
            self._segment.file.close()
            self._segment = None

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close the reader."""
        self.close()


def _sound_frames(file: File) -> Iterator[FrameView]:
    walker = Walker(file)
    while (item := walker.next()) is not None:
        if isinstance(item, FrameView):
            yield item
        elif item.resume is None:
            return
        else:
            walker.skip_to(item.resume)


def _gap_frame(gap: Gap, chain: bytes, term: tuple[int, int], salt: int, time_ns: int) -> FrameView:
    fields = FrameFields(Kind.GAP, gap.first, gap.end - gap.first, *term, salt, chain, time_ns, time_ns)
    metadata = encode_gap(gap)
    frame = memoryview(b"".join(encode_frame(fields, metadata)))
    header = decode_header(frame)
    return FrameView(0, header, frame, decode_metadata(check_frame(header, frame)))


def _cut_gap(view: FrameView, offset: int) -> FrameView:
    """A written ``offsets`` gap that begins below ``offset``, cut to begin there; other frames as they are."""
    gap = view.gap()
    if gap is None or gap.kind is not GapKind.OFFSETS or view.header.first_offset >= offset:
        return view
    header = view.header
    rest = Gap(GapKind.OFFSETS, offset, header.end, gap.reason, lost_records=header.end - offset)
    return _gap_frame(rest, header.chain, (header.term, header.nonce), header.salt, header.read_max_ns)
