"""Side branches: what a second writer took and could not be merged. Which files' changes are only there?

A file counts when merging its change into head would change head, or conflict.
"""

from typing import Final

from jlogd.confrepo.merge import merge_file
from jlogd.confrepo.model import Commit, CommitId
from jlogd.confrepo.repository import SIDE, Repository
from managerd.ecconfigd.rights import Gate
from managerd.v1 import config_pb2 as pb

STEPS_MAX: Final = 10_000  # revisions that a second writer may have taken
PATHS_MAX: Final = 1000


def side_branches(repository: Repository, gate: Gate) -> list[pb.SideBranch]:
    """All of them by name, with those of their files that the caller may read."""
    return [
        pb.SideBranch(name=name.removeprefix(SIDE), id=tip, paths=gate.readable(_only_there(repository, tip)))
        for name, tip in sorted(repository.refs().items())
        if name.startswith(SIDE)
    ]


def _only_there(repository: Repository, tip: CommitId) -> list[str]:
    side, common, head = repository.commit(tip), _common(repository, tip), repository.head()
    found: list[str] = []
    for path, _, _ in repository.diff(common, side):
        base, mine, theirs = (repository.file(commit, path) for commit in (common, side, head))
        merged = merge_file(path, base, mine, theirs)
        if merged.conflict is not None or merged.file != theirs:
            found.append(path)
        if len(found) == PATHS_MAX:
            break
    return found


def _common(repository: Repository, tip: CommitId) -> Commit | None:
    """The newest revision of the branch that is on the main line."""
    at: CommitId | None = tip
    for _ in range(STEPS_MAX):
        if at is None or repository.on_main(at):
            break
        at = repository.commit(at).parent
    return repository.commit(at) if at is not None else None
