"""A copy of the current view, made of hard links while nothing happens, that the next revision begins with.

What takes time when a revision comes is not its few new files, it is the links and directories of all the others and
their syncs. Invariants: a draft becomes a view only when each of its files is the very inode that the current view has
now, and nothing there was changed; else, and whenever much changes, the view is laid out the ordinary way (``layout``),
with the same result. A draft lives as long as the process: what is left of it goes at the next start.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from jlogd.confrepo import model as m
from jlogd.confrepo.drift import Found, compare, scan
from jlogd.confrepo.layering import Plan
from jlogd.confrepo.layout import (
    NO_LINK,
    SYNCED_ONE_BY_ONE,
    VIEW_DIR_MODE,
    Before,
    Content,
    Laid,
    item_of,
    parents,
    write_file,
)
from jlogd.confrepo.manifest import Item, Manifest, key_of
from jlogd.confrepo.view import NEW, Views

DRAFT: Final = NEW + "draft"


@dataclass(frozen=True, slots=True)
class Draft:
    """``revisions/.new-draft``, on the disk."""

    id: m.CommitId  # of the view that it is a copy of
    inodes: Mapping[str, int]
    stamps: Mapping[str, tuple[int, int]]  # directory → inode and time: other names in it are seen by these

    def copies(self, before: Before) -> bool:
        """Whether it is ``before``, file by file, as that is now."""
        return self.id == before.manifest.id and not before.changes and self.inodes == _inodes(before.found)


def make(views: Views, manifest: Manifest) -> Draft | None:
    """Copy that view; None when it is not as it was laid out, or cannot be linked. StorageError, RefusedError."""
    source, target = str(views.path(manifest.id)), views.revisions / DRAFT
    found = scan(source)
    if compare(manifest, found, source):
        return None
    with views.storing():
        _discard(views)
        if not _copy(views, source, target, found):
            _discard(views)
            return None
    copied = _inodes(scan(str(target)))
    stamps = _stamps(target, ["", *_directories(found)])
    return Draft(manifest.id, copied, stamps) if copied == _inodes(found) else None


def _discard(views: Views) -> None:
    """Remove what is left of one. ``OSError``."""
    if os.path.lexists(views.revisions / DRAFT):
        views.fs.remove_tree(views.revisions / DRAFT)


def _copy(views: Views, source: str, target: Path, paths: Iterable[str]) -> bool:
    """False when something cannot be linked."""
    names: dict[str, list[str]] = {}
    for path in paths:
        directory, _, name = path.rpartition("/")
        names.setdefault(directory, []).append(name)
    directories = ["", *_directories(paths)]
    for directory in directories:
        views.fs.make_dir(f"{target}/{directory}", VIEW_DIR_MODE)
    for directory, some in names.items():
        if views.fs.link_all(f"{source}/{directory}", f"{target}/{directory}", some, NO_LINK):
            return False
    if len(directories) > SYNCED_ONE_BY_ONE:
        views.fs.sync_all(target)
    else:
        for directory in reversed(directories):
            views.fs.sync_dir(target / directory)
    return True


def lay_out_in(
    views: Views, draft: Draft, point: tuple[m.CommitId, m.Revision], plan: Plan, content: Content, before: Before
) -> Laid | None:
    """As ``layout.lay_out``; None, and nothing was done, when the draft does not do."""
    if not draft.copies(before) or _stamps(views.revisions / DRAFT, draft.stamps) != draft.stamps:
        return None
    old = before.manifest.files
    keys = {path: key_of(entries) for path, entries in plan.items()}
    changed = [path for path, key in keys.items() if path not in old or old[path].key != key]
    gone = [path for path in old if path not in keys]
    if len(changed) + len(gone) > SYNCED_ONE_BY_ONE:
        return None
    new = views.revisions / (NEW + point[0])
    with views.storing():
        if os.path.lexists(new):
            views.fs.remove_tree(new)
        views.fs.rename(views.revisions / DRAFT, new, sync=False)
        change = _Change(views, str(new), old, keys)
        made = change.run(changed, gone, plan, content)
    items = {path: made.get(path) or _as_found(old[path], before.found[path]) for path in plan}
    return Laid(Manifest(*point, items), change.touched)


class _Change:
    """The draft of one view becomes another one."""

    def __init__(self, views: Views, new: str, old: Mapping[str, Item], keys: Mapping[str, str]) -> None:
        self._fs = views.fs
        self._new = new
        self._old = old
        self._keys = keys
        self._touched: set[str] = set()

    def run(self, changed: list[str], gone: list[str], plan: Plan, content: Content) -> dict[str, Item]:
        for path in gone + [path for path in changed if path in self._old]:
            self._fs.unlink(Path(f"{self._new}/{path}"))
            self._touched.add(_parent(path))
        if gone or any(path not in self._old for path in changed):
            self._change_dirs()
        return {path: self._make(path, content(path, plan[path])) for path in changed}

    @property
    def touched(self) -> list[str]:
        """Directories whose names changed."""
        return [f"{self._new}/{directory}" for directory in sorted(self._touched, reverse=True)]

    def _change_dirs(self) -> None:
        before, now = set(_directories(self._old)), set(_directories(self._keys))
        for directory in sorted(before - now, reverse=True):
            self._fs.remove_tree(Path(f"{self._new}/{directory}"))
            self._touched.discard(directory)
            self._touched.add(_parent(directory))
        for directory in sorted(now - before):
            self._fs.make_dir(f"{self._new}/{directory}", VIEW_DIR_MODE)
            self._touched |= {directory, _parent(directory)}

    def _make(self, path: str, file: m.File) -> Item:
        self._touched.add(_parent(path))
        return item_of(write_file(self._fs, f"{self._new}/{path}", file, sync=True), file, self._keys[path])


def _as_found(item: Item, now: os.stat_result) -> Item:
    return item if item.mtime_ns == now.st_mtime_ns else replace(item, mtime_ns=now.st_mtime_ns)


def _inodes(found: Found) -> dict[str, int]:
    return {path: now.st_ino for path, now in found.items()}


def _stamps(target: Path, directories: Iterable[str]) -> dict[str, tuple[int, int]]:
    found = ((directory, os.stat(f"{target}/{directory}", follow_symlinks=False)) for directory in directories)
    try:
        return {directory: (status.st_ino, status.st_mtime_ns) for directory, status in found}
    except OSError:
        return {}  # somebody removed it


def _directories(paths: Iterable[str]) -> list[str]:
    """All that the files are in, parents first; not the top one."""
    return sorted({parent for path in paths for parent in parents(path)})


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
