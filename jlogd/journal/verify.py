"""Read a whole journal and prove it: checksums, decompression, counts, chain, source positions.

What is checked of each frame from the oldest kept offset to the committed end:

* header and body checksums (the reader does that; what fails is damage, named with its place);
* the body decompresses to the stated length and holds the stated number of records, and the
  runs add up to it;
* the chain links to the frame before. A gap that some reader put in the place of damage carries
  no true chain: there the linking starts anew;
* each run of a source begins where the one before ended. A run that begins later has lost bytes,
  unless a gap of that source, an ``offsets`` gap or a local note says otherwise. Beginning
  earlier is right: a power cut may have shortened the source.

A gap is a fact, not damage.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jlogd.journal.frame import Framing, Kind, content_hash, gap_chain, next_chain, split_records
from jlogd.journal.model import Damage, Gap, GapKind, Run, SourceKey
from jlogd.journal.reader import Reader
from jlogd.journal.segment import FrameView, Walker, read_segment_header, walk
from jlogd.journal.select import frame_damage, is_damage_gap, lost_tail
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.lines import count_lines


@dataclass(slots=True)
class Report:
    """What verification found; reports of several journals can be added up."""

    frames: int = 0
    records: int = 0
    gaps: list[tuple[Path, Gap]] = field(default_factory=list)  # the journal's directory, the gap
    damage: list[Damage] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing is damaged."""
        return not self.damage

    def add(self, other: "Report") -> None:
        """Take over what ``other`` found."""
        self.frames += other.frames
        self.records += other.records
        self.gaps += other.gaps
        self.damage += other.damage


def verify(path: Path, *, fs: FileSystem = OS, on_frame: Callable[[int], None] = lambda _: None) -> Report:
    """Verify the journal in ``path``; ``on_frame`` gets each frame's length on disk. OSError.

    Where a newer version's format ends the walk, that is one more item of damage: a flipped bit looks the same.
    """
    report = Report()
    try:
        _verify(path, fs, on_frame, report)
    except DamageError as error:
        report.damage.append(Damage(str(path), 0, 0, 0, str(error)))
    return report


def _verify(path: Path, fs: FileSystem, on_frame: Callable[[int], None], report: Report) -> None:
    with Reader.open(path, fs) as reader:
        check = _Check(reader, fs, report)
        for view in reader.frames(reader.first):
            check.frame(view)
            on_frame(view.header.frame_length)
        report.damage += reader.damage
        report.damage += lost_tail(reader, fs)
        report.damage += silent_damage(reader, fs)
        report.damage.sort(key=lambda damage: (damage.first, damage.end))


def silent_damage(reader: Reader, fs: FileSystem = OS) -> list[Damage]:
    """Bad places that cost no record (segment headers, notes, marks), which readers pass without a word.

    ``reader`` has read the journal, so that ``reader.damage`` has the others. FormatError, OSError.
    """
    known = {(damage.file, damage.position) for damage in reader.damage}
    found = []
    names = reader.segments
    for at, name in enumerate(names):
        stop = names[at + 1].first if at + 1 < len(names) else reader.end
        offset = name.first
        with fs.open_read(name.path) as file:
            if read_segment_header(file) is None and (str(name.path), 0) not in known:
                found.append(Damage(str(name.path), 0, offset, offset, "segment header is damaged"))
                known.add((str(name.path), 0))
            walker = Walker(file)
            while offset < stop and (item := walker.next()) is not None:
                if isinstance(item, FrameView):
                    offset = max(offset, item.header.end)
                    continue
                if (str(name.path), item.position) not in known:
                    found.append(Damage(str(name.path), item.position, offset, offset, item.reason))
                if item.resume is None:
                    break
                walker.skip_to(item.resume)
    return found


class _Check:
    """The state of one walk: the chain so far, and where each source stands."""

    def __init__(self, reader: Reader, fs: FileSystem, report: Report) -> None:
        self._reader = reader
        self._fs = fs
        self._report = report
        start = reader.chain_at(reader.first)
        self._chain = start[1] if start is not None else None  # None: not known here
        self._positions: dict[SourceKey, int] = {}
        self._notes: set[tuple[bytes, int, int]] | None = None
        with fs.open_read(reader.segments[0].path) as file:
            header = read_segment_header(file)
        for run in header.runs if header is not None else ():
            self._positions[run.source, run.generation] = run.position

    def frame(self, view: FrameView) -> None:
        """Check one frame and go on behind it."""
        gap = view.gap()
        if gap is not None and is_damage_gap(self._reader, gap):
            self._chain = None
            self._positions.clear()
            return
        self._report.frames += 1
        try:
            if gap is not None:
                self._gap(view, gap)
            else:
                self._records(view)
        except DamageError as error:
            self._report.damage.append(frame_damage(self._reader, view, error))
            self._chain = view.header.chain

    def _gap(self, view: FrameView, gap: Gap) -> None:
        header = view.header
        self._report.gaps.append((self._reader.path, gap))
        if gap.kind is GapKind.OFFSETS:
            self._positions.clear()
            self._chain = None if header.chain == gap_chain(header.salt, header.end) else header.chain
            return
        self._positions.pop((gap.source, gap.generation), None)
        at = header.header_length
        self._link(view, content_hash(view.frame[at : at + header.metadata_length]))

    def _records(self, view: FrameView) -> None:
        header = view.header
        body = view.body()
        if header.framing == Framing.LINES:
            lines = count_lines(body)
            if lines != header.offset_count or not body.endswith(b"\n"):
                raise DamageError(f"body holds {lines} lines, its header says {header.offset_count}")
        else:
            split_records(header.framing, body, header.offset_count)
        runs = view.runs()
        if runs and (sum(r.record_count for r in runs), sum(r.raw_length for r in runs)) != (
            header.offset_count,
            len(body),
        ):
            raise DamageError("runs do not add up to the frame's records")
        self._report.records += header.offset_count
        self._link(view, content_hash(body))
        for run in runs:
            self._source(view, run)

    def _link(self, view: FrameView, content: bytes) -> None:
        header = view.header
        before, self._chain = self._chain, header.chain
        if before is not None and next_chain(before, header.first_offset, header.end, content) != header.chain:
            raise DamageError("chain does not link to the frame before")

    def _source(self, view: FrameView, run: Run) -> None:
        if not run.source:
            return
        key = (run.source, run.generation)
        before, start = self._positions.get(key), run.position - run.source_bytes
        self._positions[key] = run.position
        if before is not None and start > before and (*key, start) not in self._noted():
            path = run.source.decode(errors="backslashreplace")
            reason = (
                f"bytes {before} to {start} of {path} (generation {run.generation}) are missing and no gap says why"
            )
            self._report.damage.append(frame_damage(self._reader, view, DamageError(reason)))

    def _noted(self) -> set[tuple[bytes, int, int]]:
        """Every position that a local note sets; read only when something has to be explained."""
        if self._notes is None:
            self._notes = set()
            for name in self._reader.segments:
                with self._fs.open_read(name.path) as file:
                    for view in walk(Walker(file), []):
                        if view.header.kind == Kind.NOTE:
                            self._notes.update((run.source, run.generation, run.position) for run in view.runs())
        return self._notes
