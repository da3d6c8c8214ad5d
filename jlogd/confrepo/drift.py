"""What differs between a laid-out view and its manifest. Reads only.

A cheap look is one lstat a file; whatever it cannot rule out is decided by the content, so ``touch`` is no drift. A
full look reads everything: it finds what was changed under an unchanged time.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from jlogd.confrepo.manifest import Item, Manifest, hash_of
from jlogd.confrepo.model import FILES_MAX
from jlogd.runtime.errors import RefusedError, StorageError

SCANNED_MAX: Final = 2 * FILES_MAX  # names below one view: somebody else's files must not eat our memory
SHOWN_MAX: Final = 100  # paths that are reported; the others are counted

Kind = Literal["changed", "added", "removed"]
Found = dict[str, os.stat_result]  # path in the view → lstat; everything that is not a directory


@dataclass(frozen=True, slots=True)
class Drift:
    """What people are told: the first paths, and how many there are."""

    paths: tuple[str, ...] = ()
    count: int = 0

    @classmethod
    def of(cls, changes: Mapping[str, Kind]) -> "Drift":
        """The first paths in order."""
        return cls(tuple(sorted(changes)[:SHOWN_MAX]), len(changes))


def scan(directory: str) -> Found:
    """Everything below ``directory`` that is not a directory. RefusedError when that is absurdly much, StorageError."""
    found: Found = {}
    waiting = [""]
    try:
        while waiting:
            prefix = waiting.pop()
            with _opened(directory + "/" + prefix) as fd, os.scandir(fd) as names:  # by fd: paths are looked up once
                for name in names:
                    path = prefix + name.name
                    if name.is_dir(follow_symlinks=False):
                        waiting.append(path + "/")
                    else:
                        found[path] = name.stat(follow_symlinks=False)
            if len(found) + len(waiting) > SCANNED_MAX:
                raise RefusedError(f"{directory}: more than {SCANNED_MAX} names: move away what is not configuration")
    except OSError as error:
        raise StorageError(f"{directory}: {error.strerror}") from error
    return found


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def compare(manifest: Manifest, found: Found, directory: str, *, full: bool = False) -> dict[str, Kind]:
    """Path → what happened to it on this machine. ``full``: read even what looks untouched."""
    changes: dict[str, Kind] = {}
    for path, item in manifest.files.items():
        now = found.get(path)
        if now is None:
            changes[path] = "removed"
        elif (full or not untouched(item, now)) and not same_content(item, now, f"{directory}/{path}"):
            changes[path] = "changed"
    if len(found) + len(changes) > len(manifest.files):
        for path in found.keys() - manifest.files.keys():
            changes[path] = "added"
    return changes


def untouched(item: Item, now: os.stat_result) -> bool:
    """By lstat alone."""
    return now.st_mtime_ns == item.mtime_ns and now.st_size == item.size and now.st_mode == item.mode


def same_content(item: Item, now: os.stat_result, path: str) -> bool:
    """Kind, permissions and bytes. What cannot be read is not the same."""
    if now.st_mode != item.mode or now.st_size != item.size:
        return False
    content = content_of(path, now)
    return content is not None and hash_of(content) == item.hash


def content_of(path: str, now: os.stat_result) -> bytes | None:
    """Of a regular file or symlink as it is now; None when it cannot be read, or is neither."""
    try:
        if stat.S_ISLNK(now.st_mode):
            return os.fsencode(os.readlink(path))
        if not stat.S_ISREG(now.st_mode):
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            return file.read(now.st_size + 1)
    except OSError:
        return None
