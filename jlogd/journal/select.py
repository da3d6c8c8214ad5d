"""Which bytes of a frame are wanted: by offset, read time and source, without touching single records.

A frame has one read time, so time selects whole frames. Only the frames at the edges of an
offset range are searched for record borders.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from jlogd.journal.frame import Framing, Kind, split_records
from jlogd.journal.mark import is_locked, read_committed
from jlogd.journal.model import Damage, Gap, GapKind, Run
from jlogd.journal.reader import Reader
from jlogd.journal.segment import FrameView
from jlogd.runtime.arguments import RecordRange
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import OS, FileSystem

_LENGTH = struct.Struct("<I")


class Slice(NamedTuple):
    """Consecutive records of one run: ``records`` many from offset ``first``, bytes ``[start, end)`` of the body."""

    run: Run
    first: int
    records: int
    start: int
    end: int


def slices(view: FrameView, body: bytes, wanted: RecordRange) -> Iterator[Slice]:
    """The wanted parts of a frame with records, in order. DamageError when its runs do not add up."""
    header = view.header
    if header.kind != Kind.RECORDS or not wanted.has_time(header.read_max_ns):
        return
    runs = view.runs() or [Run(b"", 0, header.offset_count, len(body), 0)]
    if (sum(r.record_count for r in runs), sum(r.raw_length for r in runs)) != (header.offset_count, len(body)):
        raise DamageError("runs do not add up to the frame's records")
    low = header.first_offset if wanted.first is None else wanted.first
    high = header.end if wanted.end is None else wanted.end
    offset, at = header.first_offset, 0
    for run in runs:
        first, end = max(low, offset), min(high, offset + run.record_count)
        if first < end and wanted.source in (None, run.source):
            start = _skip(header.framing, body, at, first - offset)
            whole = end == offset + run.record_count
            stop = at + run.raw_length if whole else _skip(header.framing, body, start, end - first)
            yield Slice(run, first, end - first, start, stop)
        offset += run.record_count
        at += run.raw_length


def slice_records(view: FrameView, body: bytes, part: Slice) -> list[bytes]:
    """The single records of a slice. DamageError when their number is not the slice's."""
    return split_records(view.header.framing, body[part.start : part.end], part.records)


def _skip(framing: int, body: bytes, at: int, count: int) -> int:
    """The position ``count`` records after the one that begins ``at``."""
    for _ in range(count):
        if framing == Framing.LINES:
            at = body.find(b"\n", at) + 1
            if at == 0:
                raise DamageError("body holds fewer lines than its header says")
        else:
            if at + _LENGTH.size > len(body):
                raise DamageError("body holds fewer records than its header says")
            at += _LENGTH.size + _LENGTH.unpack_from(body, at)[0]
    return at


def bounds(reader: Reader, wanted: RecordRange, first: int | None = None, end: int | None = None) -> tuple[int, int]:
    """The offsets to walk for ``wanted`` within ``[first, end)``; frames are taken to be in order of read time."""
    low = reader.first if first is None else first
    high = reader.end if end is None else end
    if wanted.first is not None:
        low = max(low, wanted.first)
    if wanted.end is not None:
        high = min(high, wanted.end)
    if wanted.since_ns is not None:
        low = max(low, reader.offset_at(wanted.since_ns))
    if wanted.until_ns is not None:
        high = min(high, reader.offset_at(wanted.until_ns))
    return low, max(low, high)


def frame_damage(reader: Reader, view: FrameView, error: Exception) -> Damage:
    """Damage inside a frame whose checksums hold: its content is not what its header says."""
    at = max((name for name in reader.segments if name.first <= view.header.first_offset), default=None)
    file = str(at.path if at else reader.path)
    return Damage(file, view.position, view.header.first_offset, view.header.end, str(error))


def is_damage_gap(reader: Reader, gap: Gap) -> bool:
    """True when the reader itself put this gap in the place of damaged bytes."""
    return gap.kind is GapKind.OFFSETS and any(d.first == gap.first and d.end == gap.end for d in reader.damage)


def lost_tail(reader: Reader, fs: FileSystem = OS) -> list[Damage]:
    """What the last commit of a writer that is gone had confirmed and the files do not hold; empty or one item.

    A flipped bit in the youngest frames looks like a torn tail, which nobody had confirmed;
    the ``committed`` file tells the two apart.
    """
    if not reader.segments or _committed_end(reader, fs) <= reader.end or is_locked(reader.path / "lock"):
        return []
    reader.refresh()  # a writer may have committed and gone since the reader looked
    end = _committed_end(reader, fs)
    if end <= reader.end:
        return []
    last = reader.segments[-1].path
    return [Damage(str(last), last.stat().st_size, reader.end, end, "committed records are not in the file")]


def _committed_end(reader: Reader, fs: FileSystem) -> int:
    committed = read_committed(fs, reader.path / "committed")
    return committed.end if committed is not None and committed.journal_id == reader.id else 0
