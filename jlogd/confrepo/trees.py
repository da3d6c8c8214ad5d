"""Directories as git trees: what is below one, what differs between two, and a new one from changes.

Equal ids are equal contents: whatever walks two trees together skips what they share.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from dulwich.objects import Blob, ShaFile

from jlogd.confrepo import model as m
from jlogd.confrepo.contents import DIRECTORY, TREE
from jlogd.confrepo.objects import ObjectStore
from jlogd.runtime.errors import DamageError, RefusedError

EMPTY_TREE: Final = m.ObjectId("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
_NOTHING: Final[Mapping[str, m.Entry]] = {}
TREE_DEPTH_MAX: Final = 4 * m.DEPTH_MAX  # of a tree that somebody else made

_FILES_MAX: Final = 8 * m.FILES_MAX  # a tree that names itself again and again has billions

Difference: TypeAlias = tuple[str, m.Entry | None, m.Entry | None]


def entries_of(store: ObjectStore, tree_id: str | None) -> Mapping[str, m.Entry]:
    """What a tree holds; nothing for None and for the empty tree, which need not be stored."""
    return _NOTHING if tree_id is None or tree_id == EMPTY_TREE else store.tree(tree_id)


def find(store: ObjectStore, tree_id: str | None, path: str) -> m.Entry | None:
    """The entry at ``path``, a file or a directory; "" is the tree itself."""
    here = m.Entry(DIRECTORY, m.ObjectId(tree_id)) if tree_id is not None else None
    for name in path.split("/") if path else ():
        if here is None or here.mode != DIRECTORY:
            return None
        here = entries_of(store, here.id).get(name)
    return here


def flatten(store: ObjectStore, tree_id: str, prefix: str = "") -> dict[str, m.Entry]:
    """All files below a tree, path (with ``prefix`` in front) → entry."""
    files: dict[str, m.Entry] = {}
    waiting = [(prefix, tree_id)]
    while waiting:
        above, below = waiting.pop()
        _check_depth(above)
        if len(files) + len(waiting) > _FILES_MAX:
            raise DamageError(f"{store.path}: tree {tree_id} has more than {_FILES_MAX} files")
        for name, entry in entries_of(store, below).items():
            if entry.mode == DIRECTORY:
                waiting.append((f"{above}{name}/", entry.id))
            else:
                files[above + name] = entry
    return files


def difference(store: ObjectStore, old: str | None, new: str | None, prefix: str = "") -> Iterator[Difference]:
    """Files that differ between two trees, in the order of their paths: path, old, new."""
    if old == new:
        return
    _check_depth(prefix)
    before, after = entries_of(store, old), entries_of(store, new)
    for name in sorted(before.keys() | after.keys(), key=lambda name: _path_order(name, before, after)):
        yield from _differing(store, prefix + name, before.get(name), after.get(name))


def _path_order(name: str, *trees: Mapping[str, m.Entry]) -> str:
    """``a-b`` comes before ``a/c``, as in a sorted list of paths."""
    directory = any((entry := tree.get(name)) is not None and entry.mode == DIRECTORY for tree in trees)
    return name + "/" if directory else name


def _differing(store: ObjectStore, path: str, old: m.Entry | None, new: m.Entry | None) -> Iterator[Difference]:
    if old == new:
        return
    old_file, old_tree = _split(old)
    new_file, new_tree = _split(new)
    if old_file != new_file:
        yield path, old_file, new_file
    if old_tree != new_tree:
        yield from difference(store, old_tree, new_tree, path + "/")


def _split(entry: m.Entry | None) -> tuple[m.Entry | None, m.ObjectId | None]:
    if entry is None or entry.mode != DIRECTORY:
        return entry, None
    return None, entry.id


def _check_depth(prefix: str) -> None:
    if prefix.count("/") > TREE_DEPTH_MAX:
        raise DamageError(f"{prefix[:80]}…: directories are more than {TREE_DEPTH_MAX} deep")


# ---------------------------------------------------------------------- a new tree


@dataclass(slots=True)
class _Node:
    """Changes below one name."""

    changed: bool = False  # the name itself: ``file`` is put there, or it is taken away
    file: m.File | None = None
    below: dict[str, "_Node"] = field(default_factory=dict)


def edit(store: ObjectStore, tree_id: str | None, changes: m.Changes) -> tuple[m.ObjectId, list[ShaFile]]:
    """The tree with the changes made, and the blobs and trees along the changed paths. RefusedError.

    Some of them may be stored already: that is for ``ObjectStore.add`` to see, at the moment when it counts.
    A deletion of what is not there, or of a directory, changes nothing; directories end with their last file.
    """
    top = _Node()
    for path, file in changes.items():
        node = top
        for name in path.split("/"):
            node = node.below.setdefault(name, _Node())
        node.changed, node.file = True, file
    made: dict[bytes, ShaFile] = {}
    entry = _rebuild(store, m.Entry(DIRECTORY, m.ObjectId(tree_id)) if tree_id else None, top, made, "")
    if entry is None:
        entry = _new_tree({}, made, "")
    return entry.id, list(made.values())


def _rebuild(
    store: ObjectStore, before: m.Entry | None, node: _Node, made: dict[bytes, ShaFile], path: str
) -> m.Entry | None:
    """The entry for one name after the changes; None when nothing is left."""
    entries = dict(entries_of(store, before.id)) if before is not None and before.mode == DIRECTORY else {}
    for name, below in node.below.items():
        after = _rebuild(store, entries.get(name), below, made, f"{path}/{name}" if path else name)
        if after is None:
            entries.pop(name, None)
        else:
            entries[name] = after
    if node.changed and node.file is not None:
        if entries:
            raise RefusedError(f"{path} is a directory: a file cannot take its place while there are files in it")
        return _new_blob(node.file, made, path)
    is_file = before is not None and before.mode != DIRECTORY
    if not entries:
        return before if is_file and not node.changed else None
    if is_file and not node.changed:
        raise RefusedError(f"{path} is a file: a directory cannot take its place while it is there")
    return _new_tree(entries, made, path) if node.below else before


def _new_blob(file: m.File, made: dict[bytes, ShaFile], path: str) -> m.Entry:
    if file.mode not in m.MODES:
        raise RefusedError(f"{path}: mode {file.mode:o} is not one that git keeps")
    blob = Blob.from_string(file.content)
    made[blob.id] = blob
    return m.Entry(file.mode, m.ObjectId(blob.id.decode()))


def _new_tree(entries: Mapping[str, m.Entry], made: dict[bytes, ShaFile], path: str) -> m.Entry:
    try:
        lines = sorted((_sort_key(name, entry), name, entry) for name, entry in entries.items())
        content = b"".join(
            b"%o %b\0%b" % (entry.mode, _name(name), bytes.fromhex(entry.id)) for _, name, entry in lines
        )
    except UnicodeEncodeError as error:
        raise RefusedError(f"{path or 'the top level'}: a name is not Unicode text") from error
    tree = ShaFile.from_raw_string(TREE, content)
    made[tree.id] = tree
    return m.Entry(DIRECTORY, m.ObjectId(tree.id.decode()))


def _sort_key(name: str, entry: m.Entry) -> bytes:
    """Git orders a directory as if its name ended with a slash."""
    return _name(name) + (b"/" if entry.mode == DIRECTORY else b"")


def _name(name: str) -> bytes:
    if name in {"", ".", ".."} or "\0" in name:
        raise RefusedError(f"{name!r} cannot be a name in a directory")
    return name.encode(errors="surrogateescape")
