"""What a commit asks for, and what that makes of a tree. Pure over the lookups of ``Candidate``.

    put PATH          the file as given
    delete PATH       the file, or the directory with everything in it
    copy SRC DST      DST becomes SRC; with ``overlay`` what is only in DST stays
    revert REV        the inverse of what REV changed, three-way: what came later in other keys stays
    rollback REV      the tree as it was at REV

Edits apply one after the other, each to what the ones before it left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from jlogd.confrepo.model import Conflict, Fault, File

if TYPE_CHECKING:
    from managerd.ecconfigd.candidate import Candidate


@dataclass(frozen=True, slots=True)
class Put:
    """A file as it should be."""

    path: str
    file: File


@dataclass(frozen=True, slots=True)
class Delete:
    """A file, or a directory with everything in it."""

    path: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A file or directory. ``overlay``: keep what is only in the target."""

    source: str
    target: str
    overlay: bool = False


@dataclass(frozen=True, slots=True)
class Revert:
    """Undo that revision (a REV text)."""

    revision: str


@dataclass(frozen=True, slots=True)
class Rollback:
    """The tree as it was at that revision (a REV text)."""

    revision: str


Edit: TypeAlias = Put | Delete | Copy | Revert | Rollback


@dataclass(frozen=True, slots=True)
class Edited:
    """What applying edits met: ``read`` are the paths whose contents were copied elsewhere."""

    faults: tuple[Fault, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    read: tuple[str, ...] = ()


def apply(edits: Sequence[Edit], candidate: "Candidate") -> Edited:
    """Change ``candidate`` by ``edits``. RefusedError for a revision that is not there."""
    raise NotImplementedError
