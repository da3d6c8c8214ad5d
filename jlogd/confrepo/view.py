"""Revisions as directories, and the symlink that says which one counts.

    <directory>/revisions/<id>/       a whole view, never written to after it has this name
    <directory>/revisions/<id>.json   its manifest; a view without one, and one without a view, count as not there
    <directory>/revisions/.new-<id>   being laid out;  .old-<id>  being removed;  .new-draft  a copy of the current one
                                      to begin the next one with: all go when jlogd starts
    <directory>/current               → revisions/<id>, replaced by rename

Invariant: what ``current`` points to was whole and on the disk before it did. A view's unchanged files are hard links
to those of the view before it. Readers open ``current`` once (or resolve it) and read through that directory: it stays
for as long as ``keep_revisions`` says, and open files stay whatever happens.

Leaves to others: what is in a view (layering), who decides what counts (the replica's owner). One owner thread.
"""

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from jlogd.confrepo import model as m
from jlogd.confrepo.manifest import Manifest
from jlogd.runtime.errors import DamageError, RefusedError, StorageError
from jlogd.runtime.fs import OS, FileSystem

CURRENT: Final = "current"
REVISIONS: Final = "revisions"
NEW, OLD = ".new-", ".old-"
MANIFEST_BYTES_MAX: Final = 256 << 20  # 50,000 files with the longest paths
_ASIDE_MAX: Final = 100  # what people put in the place of ``current`` is moved aside, never removed


class Views:
    """The directories of one node. ``open`` first."""

    def __init__(self, directory: Path, fs: FileSystem = OS) -> None:
        """Use ``open``."""
        self.directory = directory
        self.revisions = directory / REVISIONS
        self.fs = fs
        self._last: Manifest | None = None  # the manifest that was asked for last
        self._kept: list[m.CommitId] | None = None  # as ``kept`` found them
        self._unsynced = True  # names in ``revisions`` may not be durable

    @classmethod
    def open(cls, directory: Path, fs: FileSystem = OS) -> "Views":
        """Make what is missing, remove what a killed process left half done. StorageError."""
        views = cls(directory, fs)
        with views.storing():
            fs.make_dirs(views.revisions)
            views._sweep()
            views.sync()
            fs.sync_dir(directory)
        return views

    @contextlib.contextmanager
    def storing(self) -> Iterator[None]:
        """What the file system refuses within the block is a StorageError that names the file."""
        try:
            yield
        except OSError as error:
            raise StorageError(f"{error.filename or self.directory}: {error.strerror or error}") from error

    def path(self, commit_id: m.CommitId) -> Path:
        """Where that view is, when it is there."""
        return self.revisions / commit_id

    # ---------------------------------------------------------------- what is there

    def current(self) -> m.CommitId | None:
        """What ``current`` points to; None when it is missing, or not ours."""
        try:
            target = os.readlink(self.directory / CURRENT)
        except OSError:
            return None
        parent, _, name = target.rpartition("/")
        return m.CommitId(name) if parent == REVISIONS and m.is_commit_id(name) else None

    def manifest(self, commit_id: m.CommitId) -> Manifest | None:
        """Of a view that is there; None: there is none, or nobody knows what it was like. StorageError."""
        if self._last is not None and self._last.id == commit_id:
            return self._last
        if not self.path(commit_id).is_dir():
            return None
        with self.storing():
            try:
                with self.fs.open_read(self._manifest_path(commit_id)) as file:
                    content = file.pread(min(file.size(), MANIFEST_BYTES_MAX), 0)
            except FileNotFoundError:
                return None
        try:
            found = Manifest.decode(content)
        except DamageError:
            return None
        self._last = found if found.id == commit_id else None
        return self._last

    def kept(self) -> list[m.CommitId]:
        """Views that are there with their manifests, the newest first."""
        if self._kept is None:
            with self.storing():
                names = set(self.fs.list_dir(self.revisions))
            found = [m.CommitId(name) for name in names if m.is_commit_id(name) and name + ".json" in names]
            self._kept = sorted(found, key=lambda name: (_laid_out_ns(self._manifest_path(name)), name), reverse=True)
        return list(self._kept)

    def forget(self) -> None:
        """Let go of memory; what other people did to the directories is seen again."""
        self._last = self._kept = None

    # ---------------------------------------------------------------- changing it

    def adopt(self, manifest: Manifest, unsynced: Iterable[str] = ()) -> None:
        """What is below ``.new-<id>`` becomes the view; its name is durable after ``sync`` or ``swap``. StorageError.

        All of its files are synced, the directories ``unsynced`` not yet: after the manifest's sync that mostly costs
        nothing more.
        """
        commit_id = manifest.id
        with self.storing():
            beside = self.revisions / f"{NEW}{commit_id}.json"
            self.fs.unlink(beside, missing_ok=True)
            with self.fs.create(beside) as file:
                file.pwrite([manifest.encode()], 0)
                file.datasync()
            for directory in unsynced:
                self.fs.sync_dir(Path(directory))
            self._unsynced, self._last = True, None
            kept, self._kept = self.kept(), None
            replaced = self._put_away(commit_id)
            self.fs.rename(beside, self._manifest_path(commit_id), sync=False)
            self.fs.rename(self.revisions / (NEW + commit_id), self.path(commit_id), sync=False)
            self._last = manifest
            self._kept = [commit_id, *(name for name in kept if name != commit_id)]
            if replaced:
                self.sync()
                self.fs.remove_tree(self.revisions / (OLD + commit_id))

    def rewrite(self, manifest: Manifest) -> None:
        """Another manifest for a view that is there. StorageError."""
        with self.storing():
            self._last = self._kept = None
            self.fs.replace_bytes(self._manifest_path(manifest.id), manifest.encode())
            self._last = manifest

    def sync(self) -> None:
        """Names of views are durable when this returns; nothing to do when they are. ``OSError``."""
        if self._unsynced:
            self.fs.sync_dir(self.revisions)
            self._unsynced = False

    def swap(self, commit_id: m.CommitId | None) -> None:
        """From now on ``current`` is that view; None: there is no ``current``. Durable on return.

        StorageError: which of the two counts is what ``current()`` says. RefusedError.
        """
        current = self.directory / CURRENT
        with self.storing():
            self.sync()
            if commit_id is None:
                self._move_aside(current)
                self.fs.unlink(current, missing_ok=True)
                self.fs.sync_dir(self.directory)
                return
            beside = self.directory / (NEW + CURRENT)
            self.fs.unlink(beside, missing_ok=True)
            self.fs.symlink(f"{REVISIONS}/{commit_id}", beside)
            self._move_aside(current)
            self.fs.rename(beside, current)

    def drop(self, commit_ids: Collection[m.CommitId]) -> None:
        """Remove these views. StorageError."""
        with self.storing():
            self._unsynced = self._unsynced or bool(commit_ids)
            self._kept = None
            if self._last is not None and self._last.id in commit_ids:
                self._last = None
            going = [name for name in commit_ids if self._put_away(name)]
            for name in commit_ids:
                self.fs.unlink(self._manifest_path(name), missing_ok=True)
            # Else a power cut could bring a view's name and manifest back, and not all of its files.
            self.sync()
            for name in going:
                self.fs.remove_tree(self.revisions / (OLD + name))

    def _manifest_path(self, commit_id: m.CommitId) -> Path:
        return self.revisions / f"{commit_id}.json"

    def _put_away(self, commit_id: m.CommitId) -> bool:
        """Rename a view to where it is removed from; False when there is none."""
        if not os.path.lexists(self.path(commit_id)):
            return False
        old = self.revisions / (OLD + commit_id)
        if os.path.lexists(old):
            self._remove(old)
        self.fs.rename(self.path(commit_id), old, sync=False)
        return True

    def _move_aside(self, current: Path) -> None:
        """Somebody's directory or file in the place of ``current`` is kept, under another name."""
        if not os.path.lexists(current) or current.is_symlink():
            return
        for number in range(_ASIDE_MAX):
            aside = self.directory / f"{CURRENT}.local-{number}"
            if not os.path.lexists(aside):
                self.fs.rename(current, aside, sync=False)
                return
        raise RefusedError(
            f"{current} is not jlogd's symlink, and there are {_ASIDE_MAX} *.local-* already: remove them"
        )

    def _sweep(self) -> None:
        """Half-made and half-removed things, views without manifests and manifests without views."""
        self.fs.unlink(self.directory / (NEW + CURRENT), missing_ok=True)
        names = set(self.fs.list_dir(self.revisions))
        current = self.current()
        for name in sorted(names):
            view = name.removesuffix(".json")
            orphan = m.is_commit_id(view) and not {view, view + ".json"} <= names and view != current
            if name.startswith((NEW, OLD)) or orphan:
                self._remove(self.revisions / name)

    def _remove(self, path: Path) -> None:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            self.fs.remove_tree(path)
        else:
            self.fs.unlink(path)


def _laid_out_ns(manifest: Path) -> int:
    try:
        return os.lstat(manifest).st_mtime_ns
    except FileNotFoundError:
        return 0
