"""A journal at a glance, for status and listings: reads files only, from any process."""

from dataclasses import dataclass
from pathlib import Path

from jlogd.journal.checkpoint import read_checkpoints
from jlogd.journal.mark import read_committed
from jlogd.journal.model import Offset, SourceKey, SourceState
from jlogd.journal.reader import Reader
from jlogd.journal.recovery import History, synced_end
from jlogd.journal.segment import read_segment_header, scan_segment
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import OS, FileSystem


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a subscriber is behind: records, bytes on disk, seconds since the oldest of them was read."""

    records: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SubscriberView:
    """A subscriber as its file says."""

    name: str
    checkpoint: Offset
    lag: Lag


@dataclass(frozen=True, slots=True)
class JournalView:
    """What ``jlogd status`` and ``journal ls`` say of one journal."""

    name: str
    id: str  # hex
    path: Path
    first: Offset
    end: Offset
    bytes: int  # of the segment files
    segments: int
    subscribers: list[SubscriberView]


def inspect(path: Path, now_ns: int, *, fs: FileSystem = OS) -> JournalView:
    """Look at the journal in ``path``. DamageError when there is none, FormatError, OSError."""
    with Reader.open(path, fs) as reader:
        subscribers = [
            SubscriberView(name, subscriber.checkpoint, lag_of(reader, subscriber.checkpoint, now_ns))
            for name, subscriber in sorted(read_checkpoints(fs, path / "subscribers").items())
        ]
        return JournalView(
            path.name, reader.id.hex(), path, reader.first, reader.end, reader.bytes_from(reader.first),
            len(reader.segments), subscribers,
        )  # fmt: skip


def lag_of(reader: Reader, checkpoint: int, now_ns: int) -> Lag:
    """How far ``checkpoint`` is behind the end of the journal."""
    if checkpoint >= reader.end:
        return Lag(0, 0, 0.0)
    oldest = next(reader.frames(checkpoint), None)
    age_s = max(now_ns - oldest.header.read_min_ns, 0) / 1e9 if oldest else 0.0
    return Lag(reader.end - checkpoint, reader.bytes_from(checkpoint), round(age_s, 3))


def committed_sources(path: Path, *, fs: FileSystem = OS) -> dict[SourceKey, SourceState]:
    """The positions that a writer would start from, read without its lock."""
    with Reader.open(path, fs) as reader, fs.open_read(reader.segments[-1].path) as file:
        header = read_segment_header(file)
        if header is None:
            raise DamageError(f"{file.path}: the segment's header is damaged")
        history = History(header.first, header.chain, header.terms)
        history.note_runs(header.runs)
        synced = synced_end(read_committed(fs, path / "committed"), header)
        scan_segment(file, header, history.note_frame, synced=synced)
        return history.sources
