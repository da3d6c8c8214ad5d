"""The files of a working copy: what is there, and how files are put there whole.

Nothing outside of the working copy is ever written: a path is checked by the repository's rules, and no directory on
the way to it may be a symlink. Files are written beside (in ``.eccfg/staged``), synced all at once, then renamed: after
a crash each is the old or the new one.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from jlogd.confrepo import model as m
from jlogd.confrepo.paths import check_path
from jlogd.runtime.errors import RefusedError
from jlogd.runtime.fs import OS, FileSystem
from managerd.eccfg.index import NAME, Entry, blob_id

_SKIPPED: Final = frozenset({NAME, ".git"})  # never a part of the configuration
_SPECIAL: Final = (
    (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
_PERMISSIONS: Final = {m.REGULAR: 0o666, m.EXECUTABLE: 0o777}  # as git: the umask decides


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as lstat(2) shows it. ``mode`` 0: neither file nor symlink, but ``special``, for people."""

    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    special: str = ""

    def entry(self, blob: m.ObjectId) -> Entry:
        """The entry of a file that has this content and looks like this."""
        return Entry(self.mode, blob, self.size, self.mtime_ns, self.ctime_ns)


@dataclass(slots=True)
class Scan:
    """Everything below the working copy. ``odd``: names that no configuration can have."""

    files: dict[str, Seen] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)


def seen_of(found: os.stat_result) -> Seen:
    """Git's view of a file: regular, executable, symlink."""
    if stat.S_ISREG(found.st_mode):
        mode = m.EXECUTABLE if found.st_mode & stat.S_IXUSR else m.REGULAR
    else:
        mode = m.SYMLINK if stat.S_ISLNK(found.st_mode) else 0
    special = next((what for is_so, what in _SPECIAL if is_so(found.st_mode)), "")
    return Seen(mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, special)


def scan_directory(root: Path) -> Scan:
    """All files below ``root``; directories that cannot be read are OSError."""
    scan = Scan()
    _scan(str(root), "", scan)
    return scan


def _scan(directory: str, prefix: str, scan: Scan) -> None:
    with os.scandir(directory) as names:
        found = sorted(names, key=lambda name: name.name)
    for each in found:
        path = prefix + each.name
        if each.name in _SKIPPED:
            continue
        if not _is_text(each.name):
            scan.odd.append(path)
        elif each.is_dir(follow_symlinks=False):
            _scan(each.path, path + "/", scan)
        else:
            with contextlib.suppress(FileNotFoundError):  # it went away meanwhile
                scan.files[path] = seen_of(each.stat(follow_symlinks=False))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_file(place: Path, where: str, *, fs: FileSystem = OS) -> m.File:
    """A file or symlink. RefusedError for anything else, and for one that is too large."""
    found = seen_of(place.lstat())
    if found.mode == m.SYMLINK:
        return m.File(os.readlink(os.fsencode(place)), m.SYMLINK)
    if found.mode == 0:
        raise RefusedError(f"{where} is neither a file nor a symlink: it cannot be configuration")
    if found.size > m.FILE_BYTES_MAX:
        raise RefusedError(f"{where} has {found.size} bytes; a file may have {m.FILE_BYTES_MAX}")
    with fs.open_read(place) as file:
        return m.File(file.pread(m.FILE_BYTES_MAX + 1, 0), found.mode)


class WorkingFiles:
    """The files below ``root`` by their paths in the repository. For one owner."""

    def __init__(self, root: Path, *, fs: FileSystem = OS) -> None:
        """Nothing is read yet."""
        self.root = root
        self._fs = fs
        self._staging = root / NAME / "staged"
        self._safe: set[str] = set()  # directories that were seen to be no symlinks

    def scan(self) -> Scan:
        """Everything that is there."""
        return scan_directory(self.root)

    def look(self, path: str) -> Seen | None:
        """One file; None when nothing is there."""
        try:
            return seen_of(os.lstat(f"{self.root}/{path}"))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: str) -> m.File | None:
        """One file with its content; None when no file is there."""
        found = self.look(path)
        return read_file(self.root / path, path, fs=self._fs) if found is not None and found.mode else None

    def local(self, path: str) -> Entry | None:
        """What is there now, by content; None when no file is there."""
        found, file = self.look(path), self.read(path)
        return None if found is None or file is None else found.entry(blob_id(file.content))

    def in_the_way(self, path: str) -> Iterator[str]:
        """What must go before a file can be put at ``path``: files below it, or a file where it needs a directory."""
        for parent in _parents(path):
            if (
                parent not in self._safe
                and self.look(parent) is not None
                and not os.path.isdir(f"{self.root}/{parent}")
            ):
                yield parent
                return
        found = self.look(path)
        place = self.root / path
        if found is not None and found.mode == 0 and place.is_dir():
            yield from (f"{path}/{inner}" for inner in scan_directory(place).files)

    # ------------------------------------------------------------------ writing

    def check(self, path: str, file: m.File | None) -> None:
        """RefusedError when ``path`` could lead out of the working copy, or the symlink ``file`` points out of it."""
        problem = "it is eccfg's own" if path.split("/", 1)[0] == NAME else check_path(path)
        if problem is None and file is not None and file.mode == m.SYMLINK:
            target = os.fsdecode(file.content)
            inside = os.path.normpath(os.path.join(os.path.dirname(path), target))
            if target.startswith("/") or inside == ".." or inside.startswith("../"):
                problem = f"the symlink points outside: {target!r}"
        if problem is None and file is not None and file.mode not in m.MODES:
            problem = f"mode {file.mode:o} is none"
        if problem is not None:
            raise RefusedError(f"{path!r} is not taken from the manager: {problem}")
        self._check_parents(path)

    def _check_parents(self, path: str) -> None:
        for parent in _parents(path):
            if parent not in self._safe:
                if os.path.islink(f"{self.root}/{parent}"):
                    raise RefusedError(f"{parent} is a symlink here: nothing is written through it; move it away")
                if os.path.isdir(f"{self.root}/{parent}"):
                    self._safe.add(parent)

    def apply(self, changes: Mapping[str, m.File | None]) -> None:
        """Remove and put files, each atomically; durable when this returns. Safe to repeat after a crash."""
        for path, file in changes.items():
            self.check(path, file)
            if file is not None and any(changes.get(parent) is not None for parent in _parents(path)):
                raise RefusedError(f"{path!r} is not taken from the manager: it is below a file")
        staged = self._stage(changes)
        for path, file in changes.items():
            if file is None:
                self._remove(path)
        for path, place in staged.items():
            for parent in _parents(path):
                if parent not in self._safe:
                    with contextlib.suppress(FileExistsError):
                        self._fs.make_dir(self.root / parent, 0o777)
                    self._safe.add(parent)
            self._fs.rename(place, self.root / path, sync=False)
        if changes:
            self._fs.sync_all(self.root)

    def _stage(self, changes: Mapping[str, m.File | None]) -> dict[str, Path]:
        self._fs.make_dirs(self._staging)
        for name in self._fs.list_dir(self._staging):  # of a run that was killed
            self._fs.unlink(self._staging / name)
        staged: dict[str, Path] = {}
        for path, file in changes.items():
            if file is None:
                continue
            place = staged[path] = self._staging / str(len(staged))
            if file.mode == m.SYMLINK:
                self._fs.symlink(file.content, place)
                continue
            with self._fs.create(place, _PERMISSIONS[file.mode]) as out:
                out.pwrite([file.content], 0)
        if staged:
            self._fs.sync_all(self.root)
        return staged

    def _remove(self, path: str) -> None:
        with contextlib.suppress(NotADirectoryError):
            self._fs.unlink(self.root / path, missing_ok=True)
        for parent in reversed(_parents(path)):
            try:
                os.rmdir(f"{self.root}/{parent}")
            except OSError:  # not empty, or not there
                return
            self._safe.discard(parent)


def _parents(path: str) -> list[str]:
    """The directories on the way to ``path``, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]
