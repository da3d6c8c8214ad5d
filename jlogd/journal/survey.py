"""What a journal holds, by hopping from header to header: for listings, a hundred times quicker than reading it.

Checksums of bodies are not looked at; ``verify`` does that. Where a header is damaged the
rest of its segment is not counted.
"""

from dataclasses import dataclass

from jlogd.journal.frame import HEADER_LENGTH, Kind, decode_header
from jlogd.journal.reader import Reader
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import OS, File, FileSystem


@dataclass(slots=True)
class Survey:
    """Counts of the committed part of a journal."""

    bytes: int = 0  # of the segment files
    records: int = 0
    gaps: int = 0
    oldest_ns: int | None = None  # read times of the oldest and the newest record
    newest_ns: int | None = None


def survey(reader: Reader, fs: FileSystem = OS) -> Survey:
    """Count what ``reader`` can see. FormatError, OSError."""
    found = Survey()
    names = reader.segments
    for at, name in enumerate(names):
        stop = names[at + 1].first if at + 1 < len(names) else reader.end
        with fs.open_read(name.path) as file:
            found.bytes += file.size()
            _hop(file, stop, found)
    return found


def _hop(file: File, stop: int, found: Survey) -> None:
    position = 0
    while head := file.pread(HEADER_LENGTH, position):
        try:
            header = decode_header(head)
        except DamageError:
            return
        if header.end > stop or (header.first_offset >= stop and header.offset_count == 0):
            return
        position += header.frame_length
        if header.kind == Kind.GAP:
            found.gaps += 1
        elif header.kind == Kind.RECORDS:
            found.records += header.offset_count
            if found.oldest_ns is None:
                found.oldest_ns = header.read_min_ns
            found.newest_ns = header.read_max_ns
