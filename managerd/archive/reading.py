"""Reading a log's main line, or one incarnation of it, in a process of its own.

``open_log`` gives the parts in order; whoever reads walks them one after the other.
Nothing here writes, locks, or needs more than read permission.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from jlogd.journal.reader import Reader
from jlogd.journal.select import bounds
from jlogd.runtime.arguments import RecordRange
from jlogd.runtime.errors import RefusedError
from jlogd.runtime.fs import OS, FileSystem
from managerd.archive.layout import Incarnation, Log, Piece, begun_incarnations, find_incarnation, main_line


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """An open incarnation of a log, and which of its offsets count: ``[first, end)``, end None = all it has."""

    log: Log
    incarnation: Incarnation
    reader: Reader
    first: int
    end: int | None

    def range(self, wanted: RecordRange) -> tuple[int, int]:
        """The offsets to walk for ``wanted``."""
        return bounds(self.reader, wanted, self.first, self.end)

    @property
    def end_now(self) -> int:
        """First offset after what counts at present."""
        return self.reader.end if self.end is None else min(self.end, self.reader.end)


class OpenLog:
    """The parts of one log, oldest first. Close it, or use it as a context."""

    def __init__(self, log: Log, parts: list[Part]) -> None:
        """Own the readers of ``parts``."""
        self.log = log
        self.parts = parts

    def missing_before(self, part: Part) -> tuple[int, int] | None:
        """The offsets that never came between ``part`` and what precedes it of the same journal."""
        earlier = self.parts[: self.parts.index(part)]
        ends = [other.end_now for other in earlier if other.incarnation.journal_id == part.incarnation.journal_id]
        return (ends[-1], part.first) if ends and ends[-1] < part.first else None

    def close(self) -> None:
        """Close every reader."""
        for part in self.parts:
            part.reader.close()

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every reader."""
        self.close()


def open_log(log: Log, incarnation: str | None = None, fs: FileSystem = OS) -> OpenLog:
    """The main line, or one whole incarnation. RefusedError when it is not there; DamageError, FormatError, OSError."""
    begun = begun_incarnations(log.path, fs)
    if incarnation is not None:
        chosen = find_incarnation(begun, incarnation)
        if chosen is None:
            names = ", ".join(item.name for item in begun) or "none"
            raise RefusedError(f"{log} has no incarnation {incarnation}: there are {names}")
        begun = [chosen]
    readers: dict[Path, Reader] = {}
    try:
        for item in begun:
            readers[item.path] = Reader.open(item.path, fs)
        pieces = main_line((item, readers[item.path].first) for item in begun)
    except BaseException:
        for reader in readers.values():
            reader.close()
        raise
    used = {piece.incarnation.path for piece in pieces}
    for path, reader in readers.items():
        if path not in used:
            reader.close()
    return OpenLog(log, [_part(log, piece, readers[piece.incarnation.path]) for piece in pieces])


def _part(log: Log, piece: Piece, reader: Reader) -> Part:
    return Part(log, piece.incarnation, reader, piece.first, piece.end)
