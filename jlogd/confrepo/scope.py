"""Which objects somebody needs: a node its own layers, a manager everything; minus what he has.

Trees are walked beside those of ``have``; what is equal is skipped, so a small change costs little in a large tree.
"""

import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

from jlogd.confrepo import model as m
from jlogd.confrepo.commits import parents_of
from jlogd.confrepo.contents import BLOB, COMMIT, DIRECTORY, TREE
from jlogd.confrepo.objects import ObjectStore
from jlogd.confrepo.trees import EMPTY_TREE, TREE_DEPTH_MAX, entries_of, find
from jlogd.runtime.errors import DamageError

Needed = tuple[str, int]  # id, type
_SUBMODULE: Final = 0o160000  # a commit of another repository: nothing that could be here
_OBJECTS_MAX: Final = 8 * m.FILES_MAX  # below one tree: one that names itself again and again has billions


def scope_objects(
    store: ObjectStore, commit_id: m.CommitId, scope: m.Scope | None, have: Sequence[m.CommitId] = ()
) -> list[m.ObjectId]:
    """The commit, the trees on the way, the own layers; without what is in the ``have`` commits' same scope.

    ``scope`` None: everything reachable, all parents included, that is not reachable from ``have``. Unknown ``have``
    ids are ignored. MissingError when the store itself lacks something.
    """
    return [m.ObjectId(name) for name, _ in _needed(store, [commit_id], scope, have)]


def reachable(store: ObjectStore, want: Sequence[m.CommitId], have: Sequence[m.CommitId] = ()) -> list[m.ObjectId]:
    """Everything reachable from ``want`` and not from ``have``."""
    return [m.ObjectId(name) for name, _ in _needed(store, want, None, have)]


def check_scope(
    store: ObjectStore, commit_id: m.CommitId, scope: m.Scope | None, have: Sequence[m.CommitId] = ()
) -> None:
    """Every object of the scope is here and hashes right; ``have``: what was checked before. DamageError."""
    for name, kind in _needed(store, [commit_id], scope, have):
        if store.raw(name)[0] != kind:
            raise DamageError(f"{store.path}: object {name} is not of the type that its tree says")


def check_present(store: ObjectStore, commit_id: m.CommitId, have: Sequence[m.CommitId] = ()) -> None:
    """Everything reachable is here; ``have``: where that is known. Commits and trees are read, files are not."""
    for name, _ in _needed(store, [commit_id], None, have):
        if name not in store:
            raise DamageError(f"{store.path}: object {name} is missing")


def kept_objects(store: ObjectStore, commits: Sequence[m.CommitId], scope: m.Scope | None) -> set[str]:
    """What these commits need, for ``ObjectStore.keep_only``."""
    return {name for commit_id in commits for name, _ in _needed(store, [commit_id], scope, ())}


def _needed(
    store: ObjectStore, want: Sequence[m.CommitId], scope: m.Scope | None, have: Sequence[m.CommitId]
) -> Iterable[Needed]:
    known = [commit_id for commit_id in have if commit_id in store]
    if scope is None:
        parts = _history(store, want, known)
    else:
        parts = (_layers(store, commit_id, scope, known) for commit_id in want if commit_id not in known)
    return dict.fromkeys(chain.from_iterable(parts))  # each once, in order


# ---------------------------------------------------------------------- one node


def _layers(store: ObjectStore, commit_id: m.CommitId, scope: m.Scope, have: Sequence[m.CommitId]) -> Iterator[Needed]:
    yield commit_id, COMMIT
    root = store.commit(commit_id).tree
    had = [store.commit(other).tree for other in have]
    for path in ("", scope.subcluster):
        yield from _on_the_way(store, root, had, path)
    for layer in scope.layers:
        entry = find(store, root, layer)
        if entry is not None and entry.mode == DIRECTORY:
            olds = (find(store, other, layer) for other in had)
            yield from _below(store, entry.id, {old.id for old in olds if old is not None and old.mode == DIRECTORY})


def _on_the_way(store: ObjectStore, root: str, had: Sequence[str], path: str) -> Iterator[Needed]:
    entry = find(store, root, path)
    if entry is not None and entry.mode == DIRECTORY and all(find(store, old, path) != entry for old in had):
        yield entry.id, TREE


def _below(store: ObjectStore, tree_id: str, olds: set[m.ObjectId]) -> tuple[Needed, ...]:
    """The tree and what is in it, without what trees of the same place, ``olds``, have under the same names."""
    if tree_id in olds:
        return ()
    key = (tree_id, frozenset(olds))
    found = store.differences.get(key)
    if found is None:
        found = tuple(islice(_walk(store, tree_id, olds, 0), _OBJECTS_MAX + 1))
        if len(found) > _OBJECTS_MAX:
            raise DamageError(f"{store.path}: tree {tree_id} has more than {_OBJECTS_MAX} files and directories")
        store.differences.put(key, found, len(found) + 1)
    return found


def _walk(store: ObjectStore, tree_id: str, olds: Iterable[str], depth: int) -> Iterator[Needed]:
    if depth > TREE_DEPTH_MAX:
        raise DamageError(f"{store.path}: directories are more than {TREE_DEPTH_MAX} deep")
    yield tree_id, TREE
    others = [entries_of(store, old) for old in olds]
    for name, entry in entries_of(store, tree_id).items():
        before = [found for other in others if (found := other.get(name)) is not None]
        if stat.S_IFMT(entry.mode) == _SUBMODULE or any(old.id == entry.id for old in before):
            continue
        if entry.mode != DIRECTORY:
            yield entry.id, BLOB
            continue
        yield from _walk(store, entry.id, [old.id for old in before if old.mode == DIRECTORY], depth + 1)


# ---------------------------------------------------------------------- everything


def _history(store: ObjectStore, want: Sequence[m.CommitId], have: Sequence[m.CommitId]) -> Iterator[Iterable[Needed]]:
    """Objects commit by commit, the oldest first, each minus what its parents have."""
    new = _new_commits(store, want, have)
    had = [store.commit(commit_id).tree for commit_id in have]
    for commit_id, parents in reversed(new):
        olds = {store.commit(parent).tree for parent in parents} or set(had)
        yield (commit_id, COMMIT), *_tree_of(store, commit_id, olds)


def _tree_of(store: ObjectStore, commit_id: m.CommitId, olds: set[m.ObjectId]) -> Iterable[Needed]:
    tree_id = store.commit(commit_id).tree
    if tree_id == EMPTY_TREE and tree_id not in olds:
        return ((tree_id, TREE),)
    return _below(store, tree_id, olds)


def _new_commits(
    store: ObjectStore, want: Sequence[m.CommitId], have: Sequence[m.CommitId]
) -> list[tuple[m.CommitId, list[m.CommitId]]]:
    """Commits reachable from ``want`` and not from ``have``, with their parents, children before their parents.

    Both sides are walked, the side of ``have`` twice as fast: so it catches up with the other one soon after the
    place where the histories part, and neither is walked to its beginning.
    """
    found: dict[m.CommitId, list[m.CommitId]] = {}
    had: set[m.CommitId] = set(have)
    ours, theirs = deque(dict.fromkeys(want)), deque(have)
    while ours:
        commit_id = ours.popleft()
        if commit_id not in found and commit_id not in had:
            found[commit_id] = parents_of(store.commit_content(commit_id))
            ours.extend(found[commit_id])
        for _ in range(2):
            known = parents_of(store.commit_content(theirs.popleft())) if theirs else []
            theirs.extend(parent for parent in known if parent not in had)
            had.update(known)
    return [(commit_id, parents) for commit_id, parents in _ordered(found) if commit_id not in had]


def _ordered(
    found: dict[m.CommitId, list[m.CommitId]],
) -> Iterator[tuple[m.CommitId, list[m.CommitId]]]:
    """Children before their parents (Kahn 1962): where there are merges, the order of the walk is not enough."""
    children = dict.fromkeys(found, 0)
    for parents in found.values():
        for parent in parents:
            if parent in children:
                children[parent] += 1
    free = deque(commit_id for commit_id, count in children.items() if count == 0)
    while free:
        commit_id = free.popleft()
        yield commit_id, found[commit_id]
        for parent in found[commit_id]:
            if parent in children:
                children[parent] -= 1
                if children[parent] == 0:
                    free.append(parent)
