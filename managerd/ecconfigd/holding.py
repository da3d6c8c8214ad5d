"""The line ``refs/jlogd/rollout`` in the repository: reading it, adding to it, and what is held back by it.

``hold`` runs before the main line advances to a commit, and what it decides is on the disk first: no ref ever says that
a revision counts without saying that nodes do not get it. ``hold`` and ``save`` run in the store's owner thread, the
rest in any.

A commit is held back when its tree differs from the baseline's, not only from its parent's, in a path for which
``global/rollout.toml`` asks for a rollout. So whatever follows a held revision is held with it, and undoing what was
held frees what follows: from that commit on, once it is confirmed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from jlogd.confrepo.model import ROLLOUT_FILE, Commit, CommitId, File, Revision
from jlogd.confrepo.repository import CONFIRMED, ROLLOUT, Repository
from jlogd.runtime.errors import DamageError, RefusedError
from managerd.ecconfigd.rollout import (
    FILE,
    Document,
    Held,
    Point,
    Policy,
    Rollout,
    from_bytes,
    parse_policy,
    to_bytes,
)


@dataclass(frozen=True, slots=True)
class Line:
    """The rollout line as it is: its newest commit, None before the first, and the document in it."""

    document: Document
    tip: Commit | None = None

    @property
    def length(self) -> int:
        """How many states there were."""
        return self.tip.revision if self.tip else 0


def load(repository: Repository, tip: CommitId | None) -> Line:
    """The state at the commit ``tip`` of the line. DamageError when it is not one."""
    if tip is None:
        return Line(Document())
    commit = repository.commit(tip)
    file = repository.file(commit, FILE)
    if file is None:
        raise DamageError(f"{ROLLOUT} {tip[:8]} has no {FILE}")
    return Line(from_bytes(file.content), commit)


def save(repository: Repository, line: Line, document: Document, *, author: str, message: str, time_s: int) -> Line:
    """One state more after ``line``, durable on return. ConflictError when the line is not there any more."""
    changes = {FILE: File(to_bytes(document))}
    draft = repository.draft(line.tip, changes, author=author, message=message, time_s=time_s)
    commit_id, sealed = repository.seal(draft.content)
    repository.store.add([*draft.objects, sealed])
    repository.advance({ROLLOUT: (line.tip.id if line.tip else None, commit_id)})
    return Line(document, repository.commit(commit_id))


def id_at(repository: Repository, revision: Revision) -> CommitId | None:
    """The commit of the main line with that number."""
    try:
        return repository.at(revision).id
    except RefusedError:
        return None


def confirmed_revision(repository: Repository) -> Revision:
    """The highest that enough managers have; 0 = none."""
    commit_id = repository.ref(CONFIRMED)
    here = commit_id is not None and repository.on_main(commit_id)  # else it is of a line that was left
    return repository.commit(commit_id).revision if commit_id and here else Revision(0)


def in_force(repository: Repository, document: Document) -> Held | None:
    """What is held back now."""
    return document.in_force(lambda revision: id_at(repository, revision), confirmed_revision(repository))


def trial(repository: Repository, document: Document) -> Rollout | None:
    """The rollout that decides what nodes run, if one does."""
    return document.trial(lambda revision: id_at(repository, revision), confirmed_revision(repository))


def policy_of(repository: Repository, commit: Commit) -> Policy:
    """What ``commit`` says about rollouts. A file that does not parse was refused when it was committed."""
    file = repository.file(commit, ROLLOUT_FILE)
    return parse_policy(file.content if file else None)[0]


def hold(repository: Repository, commit: Commit, paths: Sequence[str]) -> str | None:
    """Why nodes do not get ``commit``, a continuation of head, at once; None: they do.

    ``paths``: what it changes against its parent. Its objects are in the store; main is not there yet.
    """
    head = repository.head()
    if head is None:
        return None  # nodes run nothing that could be kept for them
    line = load(repository, repository.ref(ROLLOUT))
    held = in_force(repository, line.document)
    if held is None:
        changed: Iterable[str] = paths if commit.parent == head.id else _changed(repository, head, commit)
        return _begin(repository, line, head, commit, policy_of(repository, head).required(changed))
    running = trial(repository, line.document)
    if running is not None:
        return (
            f"rollout {running.number} of {running.target} is {running.state}, and {_name(commit)} contains its changes"
        )
    baseline = repository.commit(held.baseline.id)
    changed = _changed(repository, baseline, commit)
    patterns = policy_of(repository, head).required(changed, held.patterns)
    return _go_on(repository, line, held, commit, patterns)


def rest(repository: Repository, rollout: Rollout, held: Held) -> Held | None:
    """What is held back from now on, when ``rollout`` is over: its target is the baseline if it ended well."""
    head = repository.head()
    base = rollout.target if rollout.state == "done" else held.baseline
    if head is None or head.revision <= base.revision:
        return None
    changed = _changed(repository, repository.commit(base.id), head)
    patterns = policy_of(repository, head).required(changed, held.patterns)
    first = repository.at(Revision(base.revision + 1))
    free = None if patterns else Point(head.revision, head.id)
    return Held(Point(first.revision, first.id), base, tuple(sorted({*held.patterns, *patterns})), free)


def _begin(repository: Repository, line: Line, head: Commit, commit: Commit, patterns: tuple[str, ...]) -> str | None:
    """Nothing is held so far."""
    if not patterns:
        return None
    first = _first_after(repository, head, commit)
    held = Held(Point(first.revision, first.id), Point(head.revision, head.id), patterns)
    _record(repository, line, held, commit, f"hold {_name(commit)}")
    return _why(patterns, commit)


def _go_on(repository: Repository, line: Line, held: Held, commit: Commit, patterns: tuple[str, ...]) -> str | None:
    """Something is held, and no rollout is active."""
    if patterns:
        every = tuple(sorted({*held.patterns, *patterns}))
        if held.free is not None or every != held.patterns:
            _record(repository, line, replace(held, patterns=every, free=None), commit, f"hold {_name(commit)}")
        return _why(patterns, commit)
    known = held.free is not None and id_at(repository, held.free.revision) == held.free.id
    if not known:
        free = Point(commit.revision, commit.id)
        _record(repository, line, replace(held, free=free), commit, f"hold nothing from {_name(commit)} on")
    return None


def _record(repository: Repository, line: Line, held: Held, commit: Commit, message: str) -> None:
    document = replace(line.document, held=held)
    save(repository, line, document, author=commit.author, message=message, time_s=commit.time_s)


def _first_after(repository: Repository, head: Commit, commit: Commit) -> Commit:
    """The first revision after ``head`` on the way to ``commit``: an import brings many at once."""
    while commit.parent is not None and commit.parent != head.id:
        commit = repository.commit(commit.parent)
    return commit


def _changed(repository: Repository, a: Commit, b: Commit) -> Iterable[str]:
    return (path for path, _, _ in repository.diff(a, b))


def _name(commit: Commit) -> str:
    return f"r{commit.revision}"


def _why(patterns: Sequence[str], commit: Commit) -> str:
    shown = ", ".join(patterns[:3]) + (", …" if len(patterns) > 3 else "")
    return f"{ROLLOUT_FILE} asks for a rollout of {shown}: eccfg rollout start {_name(commit)}"
