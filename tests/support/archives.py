"""Makes archives for tests: node journals written by the real writer, shipped frame by frame into replicas."""

from collections.abc import Sequence
from pathlib import Path

from jlogd.journal.journal import Journal
from jlogd.journal.model import Base, Offset, Run, RunFlags
from managerd.archive import Archive, Replica

SOURCE = b"/var/log/app.log"


def run_of(
    lines: Sequence[bytes],
    position: int,
    *,
    source: bytes = SOURCE,
    generation: int = 1,
    flags: RunFlags = RunFlags.NONE,
) -> tuple[bytes, Run]:
    """A block of lines and its run; ``position`` is where the source stood before it."""
    block = b"".join(line + b"\n" for line in lines)
    ours = len(lines) if flags & (RunFlags.CONTINUED | RunFlags.NO_NEWLINE) else 0
    return block, Run(source, generation, len(lines), len(block), position + len(block) - ours, flags)


class Writer:
    """Appends lines to a journal as a tailer would, keeping each source's position."""

    def __init__(self, journal: Journal, position: int | None = None) -> None:
        """Write to ``journal``, whose sources stand where it says; ``position`` is another place of ``SOURCE``."""
        self.journal = journal
        self._positions = {key: state.position for key, state in journal.sources.items()}
        if position is not None:
            self._positions[SOURCE, 1] = position

    def lines(
        self, *lines: bytes, source: bytes = SOURCE, generation: int = 1, flags: RunFlags = RunFlags.NONE
    ) -> None:
        """One frame of one run, committed."""
        key = (source, generation)
        block, run = run_of(lines, self._positions.get(key, 0), source=source, generation=generation, flags=flags)
        self._positions[key] = run.position
        self.journal.append_lines(block, [run])
        self.journal.commit()

    def skip(self, count: int, *, source: bytes = SOURCE, generation: int = 1) -> None:
        """Move the position on without lines."""
        key = (source, generation)
        self._positions[key] = self._positions.get(key, 0) + count


def ship(journal: Journal, replica: Replica, archive: Archive | None = None) -> None:
    """Copy every frame that the replica does not have; committed when ``archive`` is given."""
    for view in journal.reader().frames(replica.journal.append_end):
        replica.journal.append_frame(view.frame)
    if archive is not None:
        archive.commit([replica])


def replicate(archive: Archive, node: str, name: str, journal: Journal) -> Replica:
    """Begin a replica of the whole journal and ship everything."""
    replica = archive.begin(node, name, journal.id, first=journal.first)
    ship(journal, replica, archive)
    return replica


def base_at(journal: Journal, offset: int) -> Base:
    """What a fork at ``offset`` begins with."""
    known = journal.reader().chain_at(offset)
    assert known is not None
    return Base(Offset(offset), known[1], [term for term in journal.tip().terms if term.first < offset])


def archive_in(path: Path, **options: object) -> Archive:
    """An archive's writer over ``path``."""
    return Archive.open(path, epoch=1, **options)  # type: ignore[arg-type]
