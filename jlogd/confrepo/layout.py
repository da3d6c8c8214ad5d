"""Lays a revision out beside the others: ``revisions/.new-<id>``, which ``Views.adopt`` makes a view.

What is made of the same objects as in the view before, and was not touched there, is a hard link; everything else is
written anew. Changes that were made on this machine are carried on when they are to be kept: the local file wins, and
the manifest goes on saying what the repository wants, so that the difference stays visible.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from jlogd.confrepo import model as m
from jlogd.confrepo.drift import Found, Kind, content_of
from jlogd.confrepo.layering import Plan
from jlogd.confrepo.manifest import LOCAL_NS, Item, Manifest, hash_of, key_of
from jlogd.confrepo.view import NEW, Views
from jlogd.runtime.errors import RefusedError
from jlogd.runtime.fs import FileSystem

SYNCED_ONE_BY_ONE: Final = 16  # more files or directories than this: one sync of the whole file system
VIEW_DIR_MODE: Final = 0o755  # who may look in is decided above: the spool's own directories are closed
# Where a file cannot have another name it is written again: links used up, not allowed, not known to the file system.
NO_LINK: Final = frozenset(
    {errno.EMLINK, errno.EPERM, errno.EACCES, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT}
)  # the last: gone since it was looked at

Content = Callable[[str, tuple[tuple[str, m.Entry], ...]], m.File]  # path, what it is made of → bytes; mode 0600 too


@dataclass(frozen=True, slots=True)
class Before:
    """The view that runs now, and how it was found. ``changes``: what is not as it was laid out."""

    manifest: Manifest
    directory: str
    found: Found
    changes: Mapping[str, Kind]


@dataclass(frozen=True, slots=True)
class Laid:
    """A view that is whole; its files are on the disk, names in the directories ``unsynced`` perhaps not."""

    manifest: Manifest
    unsynced: Sequence[str]


def lay_out(
    views: Views,
    point: tuple[m.CommitId, m.Revision],
    plan: Plan,
    content: Content,
    before: Before | None,
    *,
    keep: bool,
) -> Laid:
    """Make the view of ``plan``; the caller then has it adopted. ``keep``: carry local changes on.

    RefusedError when a local file cannot be carried, StorageError; whatever ``content`` raises.
    """
    new = views.revisions / (NEW + point[0])
    with views.storing():
        if os.path.lexists(new):
            views.fs.remove_tree(new)
        return _Layout(views, str(new), plan, content, before, keep=keep).run(*point)


class _Layout:
    """One view being laid out."""

    def __init__(
        self, views: Views, new: str, plan: Plan, content: Content, before: Before | None, *, keep: bool
    ) -> None:
        self._fs = views.fs
        self._new = new
        self._plan = plan
        self._content = content
        self._before = before
        self._changes = before.changes if before is not None else {}
        self._found = before.found if before is not None else {}
        self._old = before.manifest.files if before is not None else {}
        self._carried = self._carry() if keep else {}
        self._left_out = self._clashes()
        self._keys = {path: key_of(entries) for path, entries in plan.items()}
        self._items: dict[str, Item] = {}
        self._few = False  # files and directories are synced one by one

    def run(self, commit_id: m.CommitId, revision: m.Revision) -> Laid:
        placed = [path for path in self._plan if path not in self._left_out]
        directories = self._make_dirs([*placed, *(path for path, kind in self._carried.items() if kind != "removed")])
        self._few = max(len(directories), self._to_write()) <= SYNCED_ONE_BY_ONE
        for path, kind in self._carried.items():
            self._place_local(path, kind)
        self._place_all([path for path in placed if path not in self._carried])
        for path in self._left_out | (self._carried.keys() & self._plan.keys()):
            if path not in self._items:
                self._items[path] = self._wanted(path)
        if not self._few:
            self._fs.sync_all(Path(self._new))
        manifest = Manifest(commit_id, revision, {path: self._items[path] for path in self._plan})
        return Laid(manifest, directories[::-1] if self._few else ())

    # ---------------------------------------------------------------- the repository's files

    def _to_write(self) -> int:
        """How many files will probably not be links."""
        old = self._old
        return len(self._changes) + sum(path not in old or old[path].key != key for path, key in self._keys.items())

    def _place_all(self, paths: Iterable[str]) -> None:
        links: dict[str, list[str]] = {}  # directory → names in it that are just as before
        for path in paths:
            old = self._old.get(path)
            if old is not None and old.key == self._keys[path] and path not in self._changes:
                directory, _, name = path.rpartition("/")
                links.setdefault(directory, []).append(name)
            else:
                self._make(path)
        for directory, names in links.items():
            self._link_all(directory, names)

    def _link_all(self, directory: str, names: list[str]) -> None:
        source, target = (f"{top}/{directory}" for top in (self._before_directory, self._new))
        failed = set(self._fs.link_all(source, target, names, NO_LINK))
        for name in names:
            path = f"{directory}/{name}" if directory else name
            if name in failed:
                self._make(path)
                continue
            old, now = self._old[path], self._found[path]
            self._items[path] = old if old.mtime_ns == now.st_mtime_ns else replace(old, mtime_ns=now.st_mtime_ns)

    def _make(self, path: str) -> None:
        file = self._content(path, self._plan[path])
        self._items[path] = self._write(path, file, self._keys[path])

    @property
    def _before_directory(self) -> str:
        return self._before.directory if self._before is not None else ""

    def _link(self, source: str, path: str) -> bool:
        try:
            self._fs.link(source, f"{self._new}/{path}")
        except OSError as error:
            if error.errno in NO_LINK:
                return False
            raise
        return True

    def _write(self, path: str, file: m.File, key: str) -> Item:
        return item_of(write_file(self._fs, f"{self._new}/{path}", file, sync=self._few), file, key)

    def _wanted(self, path: str) -> Item:
        """What the manifest says of a file that this machine has otherwise, or not at all."""
        key = self._keys[path]
        old = self._old.get(path)
        if old is not None and old.key == key:
            return replace(old, mtime_ns=LOCAL_NS)
        file = self._content(path, self._plan[path])
        mode = stat.S_IFLNK | 0o777 if file.mode == m.SYMLINK else stat.S_IFREG | stat.S_IMODE(file.mode)
        return Item(mode, len(file.content), LOCAL_NS, hash_of(file.content), key)

    # ---------------------------------------------------------------- this machine's files

    def _carry(self) -> dict[str, Kind]:
        """Local changes that go on; not what cannot be copied (sockets and the like)."""
        return {
            path: kind
            for path, kind in self._changes.items()
            if (kind == "removed" and path in self._plan)
            or (path in self._found and stat.S_IFMT(self._found[path].st_mode) in (stat.S_IFREG, stat.S_IFLNK))
        }

    def _clashes(self) -> set[str]:
        """Files of the repository that give way: a local file is where their directory would be, or below them."""
        local = {path for path, kind in self._carried.items() if kind != "removed"}
        if not local:
            return set()
        above = {parent for path in local for parent in parents(path)}
        return {path for path in self._plan if path in above or any(parent in local for parent in parents(path))}

    def _place_local(self, path: str, kind: Kind) -> None:
        if kind == "removed":
            return
        source = f"{self._before_directory}/{path}"
        content = self._wanted_now(path, source)
        if content is not None:  # somebody made the same change on this machine and in the repository
            self._items[path] = self._write(path, content, self._keys[path])
        elif not self._link(source, path):
            self._copy(path, source)

    def _wanted_now(self, path: str, source: str) -> m.File | None:
        """The repository's file when the local one is just like it."""
        if path not in self._plan or path in self._left_out:
            return None
        wanted, now = self._wanted(path), self._found[path]
        if (wanted.mode, wanted.size) != (now.st_mode, now.st_size):
            return None
        content = content_of(source, now)
        if content is None or hash_of(content) != wanted.hash:
            return None
        return self._content(path, self._plan[path])

    def _copy(self, path: str, source: str) -> None:
        status = self._found[path]
        content = content_of(source, status)
        if content is None or status.st_size > m.FILE_BYTES_MAX:
            raise RefusedError(f"{path} was changed on this machine and cannot be kept: it cannot be linked or copied")
        mode = m.SYMLINK if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
        write_file(self._fs, f"{self._new}/{path}", m.File(content, mode), sync=self._few)

    # ---------------------------------------------------------------- directories

    def _make_dirs(self, paths: Iterable[str]) -> list[str]:
        """Every directory that the files need, parents first."""
        directories: set[str] = set()
        for path in paths:
            for parent in parents(path):
                if parent in directories:
                    break
                directories.add(parent)
        made = [self._new, *(f"{self._new}/{directory}" for directory in sorted(directories))]
        for directory in made:
            self._fs.make_dir(directory, VIEW_DIR_MODE)
        return made


def write_file(fs: FileSystem, target: str, file: m.File, *, sync: bool) -> os.stat_result:
    """A new file or symlink of just this mode, and its lstat. The name is not synced. ``OSError``."""
    if file.mode == m.SYMLINK:
        fs.symlink(file.content, Path(target))
        return os.lstat(target)
    mode = stat.S_IMODE(file.mode)
    with fs.create(Path(target), mode) as opened:
        if file.content:
            opened.pwrite([file.content], 0)
        status = os.fstat(opened.fd)
        if stat.S_IMODE(status.st_mode) != mode:  # the umask
            opened.set_mode(mode)
            status = os.fstat(opened.fd)
        if sync:
            opened.datasync()
    return status


def item_of(status: os.stat_result, file: m.File, key: str) -> Item:
    """The manifest's line for what was just written."""
    return Item(status.st_mode, status.st_size, status.st_mtime_ns, hash_of(file.content), key)


def parents(path: str) -> Iterator[str]:
    """The directories above it, the nearest first."""
    at = path.rfind("/")
    while at > 0:
        path = path[:at]
        yield path
        at = path.rfind("/")
