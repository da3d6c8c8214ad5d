"""Write down what damage has cost: each damaged segment anew, as its sound frames and gap frames.

Readers already give a gap in the place of damage, so a journal works without repair;
afterwards the files themselves are sound again. The gaps written are the very ones
that readers made up. The damaged original stays beside the segment as ``NAME.damaged``.

Order on the disk: copy of the original, new file whole and synced, index gone, then one
rename; a crash anywhere leaves the old or the new segment. Takes the writer's lock.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jlogd.journal.frame import CHAIN_ORIGIN, Kind
from jlogd.journal.live import create_segment
from jlogd.journal.mark import WriterLock, read_committed
from jlogd.journal.model import Gap, Offset, Tip
from jlogd.journal.reader import Reader
from jlogd.journal.recovery import History, tip_of
from jlogd.journal.segment import (
    FrameView,
    SegmentName,
    Walker,
    list_segments,
    read_segment_header,
    scan_segment,
    visible_segments,
    walk,
)
from jlogd.journal.verify import silent_damage
from jlogd.runtime.errors import DamageError, StorageError
from jlogd.runtime.fs import OS, File, FileSystem

_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Repaired:
    """One segment that was written anew."""

    segment: Path
    original: Path  # the damaged bytes, kept
    gaps: list[Gap] = field(default_factory=list)  # written in the place of what was lost


def repair(path: Path, fs: FileSystem = OS) -> list[Repaired]:
    """Repair the journal in ``path``; empty when nothing is damaged.

    LockedError while a writer has it, DamageError when there is no journal, FormatError, StorageError.
    """
    if not list_segments(fs, path):
        raise DamageError(f"{path}: no journal here")
    try:
        lock = WriterLock(path / "lock")
        try:
            return _repair(path, fs)
        finally:
            lock.release()
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from error


def _repair(path: Path, fs: FileSystem) -> list[Repaired]:
    names = visible_segments(list_segments(fs, path))
    while names and not _is_used(names[-1], fs):
        names.pop()
    if not names:
        raise DamageError(f"{path}: no journal here (no segment with a complete header)")
    end = _end(path, names[-1], fs)
    tip = Tip(Offset(names[0].first), Offset(end), CHAIN_ORIGIN, [])
    with Reader(path, fs, tip=lambda: tip) as reader:
        for _ in reader.frames(reader.first):
            pass  # finds the damage
        files = {damage.file for damage in [*reader.damage, *silent_damage(reader, fs)]}
        damaged = [at for at, name in enumerate(names) if str(name.path) in files]
        return [_rewrite(reader, names, at, end, fs) for at in damaged]


def _end(path: Path, last: SegmentName, fs: FileSystem) -> int:
    """The committed end as far as anything on the disk proves it."""
    with fs.open_read(last.path) as file:
        header = read_segment_header(file)
        if header is not None:
            found = scan_segment(file, header, lambda _: None).end
        else:
            found = max((view.header.end for view in walk(Walker(file), [])), default=last.first)
    committed = read_committed(fs, path / "committed")
    return max(found, committed.end) if committed is not None else found


def _is_used(name: SegmentName, fs: FileSystem) -> bool:
    with fs.open_read(name.path) as file:
        return read_segment_header(file) is not None or Walker(file).next_sound(0) is not None


def _rewrite(reader: Reader, names: list[SegmentName], at: int, end: int, fs: FileSystem) -> Repaired:
    name = names[at]
    stop = names[at + 1].first if at + 1 < len(names) else end
    original = _keep_original(name, fs)
    beside = name.path.with_name(f".{name.path.name}.new")
    fs.unlink(beside, missing_ok=True)
    gaps: list[Gap] = []
    with fs.open_read(name.path) as old, fs.create(beside) as new:
        position = 0
        for view in _frames(reader, names, at, stop, old, fs):
            position += new.pwrite([view.frame], position)
            gap = view.gap()
            if gap is not None and gap.reason.startswith("damaged: "):
                gaps.append(gap)
        new.datasync()
    fs.unlink(name.index_path, missing_ok=True)
    fs.sync_dir(name.path.parent)  # an index of the old file must not come back beside the new one
    fs.rename(beside, name.path)
    return Repaired(name.path, original, gaps)


def _frames(
    reader: Reader, names: list[SegmentName], at: int, stop: int, old: File, fs: FileSystem
) -> Iterator[FrameView]:
    """Every frame of the new segment: its header, and what covers ``[first, stop)`` without a hole."""
    header = read_segment_header(old)
    if header is None:
        yield from _new_header(reader, names, at, fs)
    offset = names[at].first
    for view in walk(Walker(old), []):
        fields = view.header
        if header is None and fields.kind == Kind.SEGMENT:
            continue
        if fields.offset_count and (fields.end <= offset or fields.first_offset >= stop):
            continue
        if fields.offset_count and fields.first_offset > offset:
            yield from reader.frames(offset, fields.first_offset)
        offset = max(offset, fields.end) if fields.offset_count else offset
        yield view
    if offset < stop:
        yield from reader.frames(offset, stop)


def _new_header(reader: Reader, names: list[SegmentName], at: int, fs: FileSystem) -> Iterator[FrameView]:
    """The frames of a segment header, from what the segment before tells."""
    name = names[at]
    history = History(name.first, CHAIN_ORIGIN, [])
    if at:
        with fs.open_read(names[at - 1].path) as file:
            before = read_segment_header(file)
            if before is not None:
                history = History(before.first, before.chain, before.terms)
                history.note_runs(before.runs)
                scan_segment(file, before, history.note_frame)
    history.end = name.first
    scratch = name.path.parent / ".header"
    fs.make_dirs(scratch)
    for left in list_segments(fs, scratch):
        fs.unlink(left.path)
    made = create_segment(
        fs, scratch, tip_of(name.first, history), name.epoch,
        journal_id=reader.id, salt=int.from_bytes(reader.id[:4], "little"), subcluster="",
        sources=history.sources, previous=(names[at - 1].first, names[at - 1].epoch, 0) if at else None,
        now=(0, 0.0),
    )  # fmt: skip
    made.close()
    with fs.open_read(made.name.path) as file:
        yield from list(walk(Walker(file), []))
    fs.unlink(made.name.path)


def _keep_original(name: SegmentName, fs: FileSystem) -> Path:
    number = 1
    while True:
        suffix = ".damaged" if number == 1 else f".damaged.{number}"
        kept = name.path.with_name(name.path.name + suffix)
        if not kept.exists():
            break
        number += 1
    with fs.open_read(name.path) as old, fs.create(kept) as copy:
        position = 0
        while piece := old.pread(_COPY_BYTES, position):
            position += copy.pwrite([piece], position)
        copy.datasync()
    fs.sync_dir(kept.parent)
    return kept
