"""A tree as it would be: a revision and what is to change in it. Nothing is flattened or copied that is not asked for.

Owned by one thread. Paths are the repository's. Writes come first, then questions.
"""

from typing import TYPE_CHECKING

from jlogd.confrepo.model import Changes, Commit, Entry, File

if TYPE_CHECKING:
    from jlogd.confrepo.repository import Repository


class Candidate:
    """See the module."""

    def __init__(self, repository: "Repository", commit: Commit | None, changes: Changes | None = None) -> None:
        """``commit`` None: the empty tree."""
        self.repository = repository
        self.commit = commit

    @property
    def changes(self) -> Changes:
        """What differs from the revision; sorted by path."""
        raise NotImplementedError

    def put(self, path: str, file: File | None) -> None:
        """Set the file at ``path``; None removes it."""
        raise NotImplementedError

    def file(self, path: str) -> File | None:
        """The file at ``path``."""
        raise NotImplementedError

    def below(self, path: str) -> dict[str, File | Entry]:
        """Every file at ``path`` or below it."""
        raise NotImplementedError

    def names(self, directory: str) -> dict[str, bool]:
        """What is in a directory: name → whether it is a directory; "" = the top."""
        raise NotImplementedError
