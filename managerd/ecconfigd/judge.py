"""What is wrong with a tree that a commit would make: rules of paths and sizes, then contents, then checks.

Each stage sees only what passed the one before it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

from jlogd.confrepo.model import Commit, Entry, Fault, Scope
from jlogd.confrepo.paths import totals_fault, tree_faults
from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import DamageError
from managerd.ecconfigd.candidate import Candidate
from managerd.ecconfigd.checks import Checks
from managerd.ecconfigd.validate import FAULTS_MAX, Validation

log = logging.getLogger(__name__)


class Judge:
    """See the module. Called by the owner thread, and by others for dry runs; ``close`` once."""

    def __init__(self, nodes: Callable[[], Sequence[Scope]], checks: Checks | None) -> None:
        """``nodes``: those that are known beside the tree's."""
        self._nodes = nodes
        self._checks = checks
        self._sizes = Sizes()
        self._validation = Validation()

    def __call__(self, candidate: Candidate, author: str, message: str) -> list[Fault]:
        """Faults by path and line, at most ``FAULTS_MAX``."""
        faults = sorted(self._tree(candidate)) or self._validation.faults(candidate, self._nodes)
        if not faults and self._checks is not None:
            faults = self._checks.run(candidate, author=author, message=message)
        return faults[:FAULTS_MAX]

    def close(self) -> None:
        """End what runs, remove what was laid out."""
        self._validation.close()
        if self._checks is not None:
            self._checks.close()

    def _tree(self, candidate: Candidate) -> Iterator[Fault]:
        clashes = [_clash(candidate, path, below) for path, below in candidate.clashes()]
        if clashes:
            yield from clashes
            return
        yield from tree_faults(candidate.changes, candidate.names)
        total = totals_fault(self._sizes.after(candidate).values())
        if total is not None:
            yield Fault("", 0, total)


def _clash(candidate: Candidate, path: str, below: str) -> Fault:
    """Of the two the one that was changed is named."""
    if path in candidate.changes:
        return Fault(path, 0, f"is a file, and {below} needs it to be a directory")
    return Fault(below, 0, f"needs {path} to be a directory, and it is a file")


class Sizes:
    """Sizes of every file of the newest tree that was asked about: each content is read once."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: tuple[Commit | None, dict[str, int]] = (None, {})  # replaced whole: any thread may ask

    def after(self, candidate: Candidate) -> dict[str, int]:
        """Path → bytes of the whole tree with the changes made."""
        sizes = dict(self._of(candidate.repository, candidate.commit))
        for path, file in candidate.changes.items():
            if file is None:
                sizes.pop(path, None)
            else:
                sizes[path] = len(file.content)
        return sizes

    def _of(self, repository: Repository, commit: Commit | None) -> dict[str, int]:
        at, sizes = self._known
        if at != commit:
            sizes = dict(sizes)
            for path, _, entry in repository.diff(at, commit):
                if entry is None:
                    sizes.pop(path, None)
                else:
                    sizes[path] = _size(repository, path, entry)
            self._known = commit, sizes
        return sizes


def _size(repository: Repository, path: str, entry: Entry) -> int:
    """A file that cannot be read counts nothing: else nobody could commit what takes its place."""
    try:
        return len(repository.content(entry))
    except DamageError as error:
        log.error("%s cannot be read: %s", path, error)  # noqa: TRY400 - the message says it all
        return 0
