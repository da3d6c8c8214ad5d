"""Where replicas lie, and which of them form the main line.

``<data>/archive/<node>/<journal>/NNNN-<journal id hex>/`` is one **incarnation**: one
journal. Its number grows with every new one under the same name; a fork has the same
journal id as an earlier number. A directory without a segment that has a header was
never begun (a crash, a full disk): it counts for nothing and its number may be reused.

Names that are not node or journal names are not ours and are never followed.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jlogd.journal.segment import Walker, list_segments, read_segment_header, visible_segments
from jlogd.runtime.arguments import check_name
from jlogd.runtime.errors import RefusedError, UsageError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.names import is_name

_INCARNATION = re.compile(r"(\d{4,9})-([0-9a-f]{32})")


@dataclass(frozen=True, slots=True, order=True)
class Incarnation:
    """One journal id (or one branch of it) under a name."""

    number: int
    journal_id: bytes
    path: Path

    @property
    def name(self) -> str:
        """The directory's name: what ``--incarnation`` and JSON call its id."""
        return self.path.name


@dataclass(frozen=True, slots=True, order=True)
class Log:
    """One journal of one node in the archive."""

    node: str
    journal: str
    path: Path

    def __str__(self) -> str:
        """``NODE/JOURNAL``."""
        return f"{self.node}/{self.journal}"


def archive_dir(data: Path) -> Path:
    """The directory of all nodes."""
    return data / "archive"


def log_dir(data: Path, node: str, journal: str) -> Path:
    """The directory of one journal's incarnations. UsageError for a name that is not allowed."""
    return archive_dir(data) / check_name("node", node) / check_name("journal", journal)


def incarnation_dir(log: Path, number: int, journal_id: bytes) -> Path:
    """The directory of one incarnation."""
    return log / f"{number:04d}-{journal_id.hex()}"


def list_logs(data: Path, fs: FileSystem = OS) -> list[Log]:
    """Every journal of every node, by name; opens nothing."""
    root = archive_dir(data)
    return [
        Log(node, journal, root / node / journal) for node in _names(fs, root) for journal in _names(fs, root / node)
    ]


def list_incarnations(log: Path, fs: FileSystem = OS) -> list[Incarnation]:
    """Every incarnation directory of a log, begun or not, by number."""
    matches = ((name, _INCARNATION.fullmatch(name)) for name in fs.list_dir(log))
    return sorted(
        Incarnation(int(match[1]), bytes.fromhex(match[2]), log / name) for name, match in matches if match is not None
    )


def is_begun(incarnation: Incarnation, fs: FileSystem = OS) -> bool:
    """True when the incarnation has a segment that counts. FormatError, OSError."""
    for name in visible_segments(list_segments(fs, incarnation.path)):
        with fs.open_read(name.path) as file:
            if read_segment_header(file) is not None or Walker(file).next_sound(0) is not None:
                return True
    return False


def begun_incarnations(log: Path, fs: FileSystem = OS) -> list[Incarnation]:
    """The incarnations of a log that hold a journal, oldest first. FormatError, OSError."""
    return [incarnation for incarnation in list_incarnations(log, fs) if is_begun(incarnation, fs)]


def select_logs(data: Path, patterns: Iterable[str], fs: FileSystem = OS) -> list[Log]:
    """The logs that any ``NODE/JOURNAL`` glob names, by name, each once.

    UsageError for a pattern of another shape, RefusedError when one matches nothing.
    """
    logs = list_logs(data, fs)
    chosen: set[Log] = set()
    for pattern in patterns:
        node, slash, journal = pattern.partition("/")
        if not slash or not node or not journal or "/" in journal:
            raise UsageError(f"{pattern!r} is not NODE/JOURNAL (globs are allowed: 'web*/*')")
        matches = [
            log for log in logs if fnmatch.fnmatchcase(log.node, node) and fnmatch.fnmatchcase(log.journal, journal)
        ]
        if not matches:
            raise RefusedError(f"no log {pattern} in {archive_dir(data)}: see 'managerd logs ls'")
        chosen.update(matches)
    return sorted(chosen)


def find_incarnation(incarnations: list[Incarnation], wanted: str) -> Incarnation | None:
    """By number, by directory name, or by the beginning of the journal id (the newest that fits)."""
    for incarnation in reversed(incarnations):
        if wanted == incarnation.name or (wanted.isdigit() and len(wanted) < 10 and int(wanted) == incarnation.number):
            return incarnation
    for incarnation in reversed(incarnations):
        if len(wanted) >= 4 and incarnation.journal_id.hex().startswith(wanted.lower()):
            return incarnation
    return None


@dataclass(frozen=True, slots=True)
class Piece:
    """The part ``[first, end)`` of one incarnation; ``end`` None: as far as it goes, now and later."""

    incarnation: Incarnation
    first: int
    end: int | None


def main_line(begun: Iterable[tuple[Incarnation, int]]) -> list[Piece]:
    """What counts, in order, of (incarnation, its first offset): each takes over from its first offset on.

    An incarnation with the journal id of an earlier one is a fork of it: the earlier
    branch counts up to the fork's first offset only.
    """
    pieces: list[Piece] = []
    for incarnation, first in begun:
        kept: list[Piece] = []
        for piece in pieces:
            if piece.incarnation.journal_id != incarnation.journal_id:
                kept.append(piece)
            elif piece.first < first:
                end = first if piece.end is None else min(first, piece.end)
                kept.append(Piece(piece.incarnation, piece.first, end))
        pieces = [*kept, Piece(incarnation, first, None)]
    return pieces


def _names(fs: FileSystem, directory: Path) -> list[str]:
    return [name for name in fs.list_dir(directory) if is_name(name) and (directory / name).is_dir()]
