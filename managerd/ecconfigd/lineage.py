"""Where lines of revisions meet: what of another manager's line is on ours, and what was joined with it before."""

from collections.abc import Iterator, Mapping
from typing import Final

from jlogd.confrepo.model import Commit, CommitId
from jlogd.confrepo.repository import MAIN, SIDE, Repository
from jlogd.runtime.errors import DamageError, RefusedError
from managerd.ecconfigd.committer import JOINED

BESIDE_MAX: Final = 10_000  # revisions of one line beside ours


def replicated(name: str) -> bool:
    """Whether every manager has this ref like the writer's, beside main and rollout."""
    return name.startswith((SIDE, JOINED))


def back(repository: Repository, tip: CommitId) -> Iterator[Commit]:
    """The line that ends with ``tip``, the newest first. DamageError when a part is not here."""
    at: CommitId | None = tip
    while at is not None:
        if at not in repository.store:
            raise DamageError(f"commit {at} is missing")
        commit = repository.commit(at)
        yield commit
        at = commit.parent


def shared(repository: Repository, tip: CommitId) -> Commit | None:
    """The newest revision that main and the line of ``tip`` have both."""
    return next((commit for commit in back(repository, tip) if repository.on_main(commit.id)), None)


def continues(repository: Repository, new: CommitId, old: CommitId | None) -> bool:
    """Whether the line of ``new`` has ``old``."""
    if old is None:
        return True
    floor = repository.commit(old).revision
    for commit in back(repository, new):
        if commit.revision <= floor:
            return commit.id == old
    return False


def beside(repository: Repository, tip: CommitId) -> list[Commit]:
    """What of the line of ``tip`` is not on main, the newest first. RefusedError when that is too much."""
    found: list[Commit] = []
    for commit in back(repository, tip):
        if repository.on_main(commit.id):
            break
        if len(found) == BESIDE_MAX:
            raise RefusedError(f"more than {BESIDE_MAX} revisions beside the main line cannot be joined with it")
        found.append(commit)
    return found


def joined(repository: Repository, refs: Mapping[str, CommitId]) -> set[CommitId]:
    """What was joined with main: revisions beside it that a side branch, or the tip of a joined line, keeps."""
    found: set[CommitId] = set()
    for name, tip in refs.items():
        if replicated(name) and tip not in found:
            found.update(commit.id for commit in beside(repository, tip))
    return found


def known(repository: Repository, tip: CommitId) -> bool:
    """Whether all of the line of ``tip`` is in our history: on main, or joined with it."""
    return repository.on_main(tip) or (tip in repository.store and tip in joined(repository, repository.refs()))


def other_repository(repository: Repository, tip: CommitId) -> bool:
    """Whether the line of ``tip`` begins with another r1 than ours."""
    return repository.ref(MAIN) is not None and shared(repository, tip) is None
