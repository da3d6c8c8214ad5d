"""The segment that is being written: create it whole, append, sync, seal.

``LiveSegment`` knows files and positions; what the frames mean is the journal's business.
Frames go to the file at once and count only after ``sync``. A segment whose write or sync
failed is never written again: the journal rewrites what was not committed into a new one.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from jlogd.journal.frame import CHAIN_BLAKE3, FORMAT_VERSION, Buffer, FrameFields, Kind, encode_frame
from jlogd.journal.mark import INDEX_DISTANCE, IndexEntry, write_index
from jlogd.journal.metadata import (
    SegmentInfo,
    encode_run,
    encode_segment,
    encode_snapshot_end,
    encode_term,
    pack_metadata,
)
from jlogd.journal.model import UNKNOWN, Run, RunFlags, SourceKey, SourceState, Term, Tip
from jlogd.journal.segment import SegmentName, segment_path
from jlogd.runtime.fs import File, FileSystem

MARK_DISTANCE = 1 << 20  # a MARK is written at the latest after this many bytes …
MARK_AGE_S = 1.0  # … or this long after the one before: what a flipped bit in the tail can cost


class LiveSegment:
    """One open segment file. Owned by the journal's writer thread; ``index`` may be read by others."""

    def __init__(self, fs: FileSystem, name: SegmentName, file: File, length: int, now_s: float) -> None:
        """Append from ``length`` on; everything before is synced."""
        self.name = name
        self.index: list[IndexEntry] = []
        self.length = length  # bytes written
        self.synced = length  # bytes known to be on the disk
        self.owed = False  # visible bytes wait for a sync (``sync = "interval"``)
        self.created_s = now_s
        self._fs = fs
        self._file = file
        self._marked_at = length
        self._marked_s = now_s

    def append(self, buffers: Sequence[Buffer], offset: int, time_ns: int) -> None:
        """Write one frame behind the last. OSError: the segment must be given up."""
        if not self.index or self.length - self.index[-1].position >= INDEX_DISTANCE:
            self.index.append(IndexEntry(offset, self.length, time_ns))
        self.length += self._file.pwrite(buffers, self.length)

    def mark_due(self, now_s: float) -> bool:
        """Whether the next group of frames should begin with a MARK."""
        if self.length != self.synced or self.length == self._marked_at:
            return False
        return self.length - self._marked_at >= MARK_DISTANCE or now_s - self._marked_s >= MARK_AGE_S

    def mark(self, buffers: Sequence[Buffer], now_s: float) -> None:
        """Write a MARK frame; only when everything before it is synced."""
        self.length += self._file.pwrite(buffers, self.length)
        self._marked_at, self._marked_s = self.length, now_s

    def sync(self) -> None:
        """Everything appended is on the disk on return. OSError: the segment must be given up."""
        self._file.datasync()
        self.synced = self.length
        self.owed = False

    def assume_synced(self) -> None:
        """Everything appended was synced by other means (syncfs), or the settings do not ask for it."""
        self.synced = self.length

    def seal(self, *, forget: bool = False) -> None:
        """Close a segment that is whole, and leave its index beside it.

        ``forget``: nobody is about to read it (an archive), so its pages are better used for what comes next.
        """
        if forget:
            self._file.forget_cache()
        self._file.close()
        write_index(self._fs, self.name.index_path, self.index)

    def abandon(self) -> None:
        """Close a segment whose tail is in doubt, cutting it to what was committed if the disk lets us."""
        with contextlib.suppress(OSError):
            self._file.truncate(self.synced)
        self._file.close()

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()


def create_segment(
    fs: FileSystem,
    directory: Path,
    tip: Tip,
    epoch: int,
    *,
    journal_id: bytes,
    salt: int,
    subcluster: str,
    sources: dict[SourceKey, SourceState],
    previous: tuple[int, int, int] | None,
    now: tuple[int, float],
) -> LiveSegment:
    """A new segment, its header and its name durable, ready for the frame at ``tip.end``.

    ``previous``: first offset, epoch and length of the predecessor; ``now``: wall ns, monotonic s.
    On OSError nothing stays behind but, at worst, a file without a complete header.
    """
    wall_ns, now_s = now
    first, old_epoch, length = previous or (UNKNOWN, 0, 0)
    info = SegmentInfo(journal_id, FORMAT_VERSION, CHAIN_BLAKE3, epoch, wall_ns, first, old_epoch, length, subcluster)
    term = tip.terms[-1] if tip.terms else None
    buffers: list[Buffer] = []
    kind = Kind.SEGMENT
    for metadata in pack_metadata(_snapshot(info, tip.terms, sources)):
        fields = FrameFields(
            kind, tip.end, 0, term.counter if term else 0, term.nonce if term else 0, salt, tip.chain, wall_ns, wall_ns
        )
        buffers += encode_frame(fields, metadata)
        kind = Kind.NOTE
    name = SegmentName(tip.end, epoch, segment_path(directory, tip.end, epoch))
    file = fs.create(name.path)
    try:
        length = file.pwrite(buffers, 0)
        file.datasync()
        fs.sync_dir(directory)
    except OSError:
        file.close()
        with contextlib.suppress(OSError):
            fs.unlink(name.path)
        raise
    return LiveSegment(fs, name, file, length, now_s)


def _snapshot(info: SegmentInfo, terms: list[Term], sources: dict[SourceKey, SourceState]) -> list[bytes]:
    items = [encode_segment(info)]
    items += [encode_term(term) for term in terms]
    for (source, generation), known in sorted(sources.items()):
        run = Run(source, generation, 0, 0, known.position, RunFlags.NONE, known.state, known.ladder)
        items.append(encode_run(run))
    items.append(encode_snapshot_end())
    return items
