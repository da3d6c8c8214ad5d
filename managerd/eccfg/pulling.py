"""Taking in what others committed: decide everything, note it, do it. What is half done is finished by the next pull.

decide   each path that changed there, against what is here (below); nothing is written
note     contents durable in the base, then ``pull.json`` with every step and the index as it will be
do       each file: is what was expected → replaced; is what is wanted → left; anything else → conflict
end      the index, then ``pull.json`` goes

here                     there          the file becomes
unchanged, missing       any            theirs
the same as there        any            as it is
changed                  changed        merged three-way; what does not merge: refuse | mine | theirs | manual
deleted                  deleted        deleted
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from jlogd.confrepo import model as m
from jlogd.confrepo.merge import merge_file
from jlogd.runtime.errors import DamageError, RefusedError
from managerd.eccfg.client import Change
from managerd.eccfg.index import Entry, Index, blob_id
from managerd.eccfg.markers import with_markers
from managerd.eccfg.working import Kind, Local, Remote, WorkingCopy
from managerd.v1 import config_pb2 as pb

SIDES = ("mine", "base", "theirs")


class Choice(StrEnum):
    """What to do where both sides changed a file and the changes do not merge."""

    REFUSE = "refuse"
    MINE = "mine"
    THEIRS = "theirs"
    MANUAL = "manual"


@dataclass(slots=True)
class Pulled:
    """What a pull did. Paths; ``conflicts``: both sides of those that kept it from doing anything (REFUSE only)."""

    revision: m.Revision
    id: str
    updated: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # --mine
    manual: list[str] = field(default_factory=list)
    conflicts: list[m.Conflict] = field(default_factory=list)


@dataclass(slots=True)
class _Plan:
    """Every step, decided."""

    pulled: Pulled
    index: Index
    contents: dict[m.ObjectId, bytes] = field(default_factory=dict)
    steps: dict[str, tuple[Entry | None, m.File | None]] = field(default_factory=dict)  # path → (expected, wanted)

    def step(self, path: str, expected: Entry | None, wanted: m.File | None) -> None:
        """``path`` becomes ``wanted`` if it still is ``expected``."""
        self.steps[path] = (expected, wanted)
        if wanted is not None:
            self.contents[blob_id(wanted.content)] = wanted.content


def pull(copy: WorkingCopy, remote: Remote, choice: Choice = Choice.REFUSE, *, revision: str = "") -> Pulled:
    """Bring the working copy to ``revision`` (default HEAD), all or nothing; see the module. Hold the lock.

    ``conflicts`` in the answer: nothing was changed. RefusedError, DamageError, and what the manager says.
    """
    finish(copy)
    answer = remote.tree(revision, since=copy.index.id)
    if answer.revision.id == copy.index.id:
        return Pulled(copy.index.revision, copy.index.id)
    if answer.revision.revision < copy.index.revision and not revision:
        raise RefusedError(
            f"the manager is at r{answer.revision.revision}, this working copy at r{copy.index.revision}: "
            f"that manager is behind, or was restored; ask another one, or clone again"
        )
    plan = _decide(copy, answer.revision, answer.changes, choice)
    if plan.pulled.conflicts:
        return plan.pulled
    _note(copy, plan)
    finish(copy)
    return plan.pulled


# ---------------------------------------------------------------------- decide


def _decide(copy: WorkingCopy, revision: pb.Revision, changes: Iterable[Change], choice: Choice) -> _Plan:
    local = {each.path: each for each in copy.changes()}
    old = copy.index
    index = Index(
        m.Revision(revision.revision), revision.id, dict(old.entries), set(old.added), set(old.removed),
        dict(old.conflicts),
    )  # fmt: skip
    plan = _Plan(Pulled(index.revision, index.id), index)
    for change in changes:
        theirs = _file_of(change)
        copy.files.check(change.path, theirs)
        if change.path in old.conflicts and choice is not Choice.MINE:
            raise RefusedError(f"{change.path} is still in conflict and changed again: 'eccfg resolve' it first")
        _decide_file(copy, plan, local.get(change.path), change.path, theirs, choice)
    _clear_the_way(copy, plan, local)
    return plan


def _file_of(change: Change) -> m.File | None:
    if change.mode == 0:
        return None
    content = change.content or b""
    if blob_id(content) != change.id:
        raise DamageError(f"{change.path}: the manager sent other bytes than it named: try again, then see its disk")
    return m.File(content, change.mode)


def _decide_file(
    copy: WorkingCopy, plan: _Plan, local: Local | None, path: str, theirs: m.File | None, choice: Choice
) -> None:
    index = plan.index
    if local is not None and local.kind is Kind.SPECIAL:
        raise RefusedError(f"{path} cannot be put: {local.special} is in the way: move it, then pull again")
    base = copy.base_file(path)
    if theirs is None:
        index.entries.pop(path, None)
    else:
        index.entries[path] = Entry(theirs.mode, blob_id(theirs.content), len(theirs.content))
        plan.contents[index.entries[path].id] = theirs.content
    here = copy.local_file(path)
    if local is None or local.kind is Kind.MISSING or here == theirs:
        _unstage(index, path)
        if here != theirs:
            plan.step(path, copy.files.local(path), theirs)
            plan.pulled.updated.append(path)
        return
    mine = None if local.kind is Kind.DELETED else here
    merged = merge_file(path, base, mine, theirs) if local.kind is not Kind.UNKNOWN else None
    if merged is not None and merged.conflict is None:
        _take(copy, plan, path, merged.file, theirs)
        plan.pulled.merged.append(path)
    elif choice is Choice.REFUSE:
        conflict = merged.conflict if merged is not None else None
        plan.pulled.conflicts.append(conflict or _whole(path, base, here, theirs))
    elif choice is Choice.THEIRS:
        _take(copy, plan, path, theirs, theirs)
        plan.pulled.updated.append(path)
    elif choice is Choice.MINE:
        _stage(index, path, mine, theirs)
        plan.pulled.kept.append(path)
    else:
        _by_hand(copy, plan, path, base, mine, theirs)
        plan.pulled.manual.append(path)


def _take(copy: WorkingCopy, plan: _Plan, path: str, wanted: m.File | None, theirs: m.File | None) -> None:
    """``path`` becomes ``wanted``; what still differs from theirs is staged."""
    _stage(plan.index, path, wanted, theirs)
    plan.step(path, copy.files.local(path), wanted)


def _stage(index: Index, path: str, mine: m.File | None, theirs: m.File | None) -> None:
    _unstage(index, path)
    if mine is None and theirs is not None:
        index.removed.add(path)
    elif mine is not None and theirs is None:
        index.added.add(path)


def _unstage(index: Index, path: str) -> None:
    index.added.discard(path)
    index.removed.discard(path)
    index.conflicts.pop(path, None)


def _whole(path: str, base: m.File | None, mine: m.File | None, theirs: m.File | None) -> m.Conflict:
    contents = [side.content if side is not None else None for side in (base, mine, theirs)]
    return m.Conflict(path, (), *contents)


def _by_hand(
    copy: WorkingCopy, plan: _Plan, path: str, base: m.File | None, mine: m.File | None, theirs: m.File | None
) -> None:
    """The file with both sides between markers, and the sides beside it."""
    wanted = with_markers(base, mine, theirs, revision=f"r{plan.index.revision}")
    _take(copy, plan, path, wanted, theirs)
    sides = {f"{path}.{name}": side for name, side in zip(SIDES, (mine, base, theirs), strict=True) if side is not None}
    for name, side in sides.items():
        plan.step(name, copy.files.local(name), side)
    plan.index.conflicts[path] = list(sides)


def _clear_the_way(copy: WorkingCopy, plan: _Plan, local: Mapping[str, Local]) -> None:
    """A file of ours where theirs needs a directory, or below where theirs is a file, is a conflict."""
    gone = {path for path, (_, wanted) in plan.steps.items() if wanted is None}
    for path, (_, wanted) in plan.steps.items():
        if wanted is None:
            continue
        blocking = [name for name in copy.files.in_the_way(path) if name not in gone]
        if blocking:
            ours = "yours" if blocking[0] in local else "here"
            raise RefusedError(f"{path} cannot be put: {blocking[0]} ({ours}) is in the way: move it, then pull again")


# ---------------------------------------------------------------------- note and do


def _note(copy: WorkingCopy, plan: _Plan) -> None:
    copy.metadata.keep(plan.contents)
    steps = [
        [path, _pair(expected), _pair(_entry_of(wanted) if wanted is not None else None)]
        for path, (expected, wanted) in plan.steps.items()
    ]
    copy.metadata.write_pull({"steps": steps, "index": plan.index.encode().decode()})


def _entry_of(file: m.File) -> Entry:
    return Entry(file.mode, blob_id(file.content))


def _pair(entry: Entry | None) -> list[Any] | None:
    return [entry.mode, entry.id] if entry is not None else None


def finish(copy: WorkingCopy) -> bool:
    """Do what was noted, whatever of it is done already; whether there was anything. Hold the lock."""
    document = copy.metadata.read_pull()
    if document is None:
        return False
    where = copy.metadata.directory / "pull.json"
    index = Index.decode(document["index"].encode(), where)
    changes: dict[str, m.File | None] = {}
    for path, expected, wanted in document["steps"]:
        found = _pair(copy.files.local(path))
        file = m.File(copy.metadata.content(wanted[1]), wanted[0]) if wanted is not None else None
        if found == expected:
            changes[path] = file
        elif found != wanted:  # edited since it was decided: the edit stays, theirs stands beside it
            beside = f"{path}.theirs"
            index.conflicts[path] = [beside] if file is not None else []
            changes.update({beside: file} if file is not None else {})
    copy.files.apply(changes)
    copy.index = index
    for path, file in changes.items():
        entry = index.entries.get(path)
        if entry is not None and file is not None and entry.same_file(_entry_of(file)):
            copy.refresh(path)
    copy.metadata.write(index)
    copy.metadata.end_pull()
    copy.metadata.forget_unused({entry.id for entry in index.entries.values()})
    return True


# ---------------------------------------------------------------------- resolve


def resolve(copy: WorkingCopy, paths: Iterable[str]) -> list[str]:
    """The conflict is solved: files beside go. RefusedError for a path without conflict, or with markers in it."""
    chosen = sorted(set(paths))
    for path in chosen:
        if path not in copy.index.conflicts:
            raise RefusedError(f"{path} is not in conflict; see 'eccfg status'")
        file = copy.local_file(path)
        if file is not None and b"\n<<<<<<< mine" in b"\n" + file.content:
            raise RefusedError(
                f"{path} still has conflict markers (<<<<<<< mine): choose, take them out, resolve again"
            )
    copy.files.apply({name: None for path in chosen for name in copy.index.conflicts[path]})
    for path in chosen:
        del copy.index.conflicts[path]
        _restage(copy, path)
    copy.metadata.write(copy.index)
    return chosen


def _restage(copy: WorkingCopy, path: str) -> None:
    """Stage what the person left: a file, or none."""
    here, base = copy.local_file(path), copy.index.entries.get(path)
    copy.index.added.discard(path)
    copy.index.removed.discard(path)
    if here is None and base is not None:
        copy.index.removed.add(path)
    elif here is not None and base is None:
        copy.index.added.add(path)
