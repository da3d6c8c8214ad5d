"""Which paths are sources: globs, exclusions, links, rotated names.

One file is one source, however many names lead to it; a file recognised as a rotated
generation of a followed path is none. The names are judged here, files are only
looked at by status.
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from jlogd.tail.model import TailSpec
from jlogd.tail.siblings import readings
from jlogd.tail.sourcefs import SourceFs

Inode = tuple[int, int]


@lru_cache(maxsize=1024)
def pattern(text: bytes) -> re.Pattern[bytes]:
    """A glob as an expression for whole paths: ``*`` and ``?`` stay within a name, ``**`` spans directories."""
    parts, at = [], 0
    while at < len(text):
        char = text[at : at + 1]
        if text.startswith(b"**/", at):
            parts.append(rb"(?:[^/]+/)*")
            at += 3
            continue
        if text.startswith(b"**", at):
            parts.append(rb".*")
            at += 2
            continue
        end = text.find(b"]", at + 2) if char == b"[" else -1
        if end > 0:
            inside = text[at + 1 : end].replace(b"\\", b"\\\\")
            parts.append(b"[" + (b"^" + inside[1:] if inside[:1] == b"!" else inside) + b"]")
            at = end + 1
            continue
        parts.append({b"*": rb"[^/]*", b"?": rb"[^/]"}.get(char) or re.escape(char))
        at += 1
    return re.compile(b"".join(parts) + rb"\Z", re.DOTALL)


class Globs:
    """The paths of one ``TailSpec``."""

    def __init__(self, spec: TailSpec) -> None:
        """Relative paths are taken from the working directory."""
        self.spec = spec
        self._paths = [os.path.abspath(os.fsencode(text)) for text in spec.paths]
        self._exclude = [pattern(os.path.abspath(os.fsencode(text))) for text in spec.exclude]
        self._match = [pattern(text) for text in self._paths]

    def matches(self, path: bytes) -> bool:
        """Whether ``path`` is meant, whether or not it exists."""
        return any(one.match(path) for one in self._match) and not any(one.match(path) for one in self._exclude)

    def expand(self) -> list[bytes]:
        """Existing paths, and literal ones whether or not they exist yet; sorted."""
        found: set[bytes] = set()
        for text in self._paths:
            if glob.has_magic(text):
                found.update(path for path in glob.glob(text, recursive=True) if not os.path.isdir(path))
            else:
                found.add(text)
        return sorted(path for path in found if not any(one.match(path) for one in self._exclude))

    def directories(self) -> set[bytes]:
        """Existing directories in which new sources may appear."""
        found: set[bytes] = set()
        for text in self._paths:
            directory = os.path.dirname(text)
            found.update(path for path in glob.glob(directory, recursive=True) if os.path.isdir(path))
            while glob.has_magic(directory):
                directory = os.path.dirname(directory)
            if os.path.isdir(directory):
                found.add(directory)
        return {path.rstrip(b"/") or b"/" for path in found}


def is_rotated(path: bytes, known: Callable[[bytes], bool], meant: Callable[[bytes], bool]) -> bool:
    """Whether ``path`` is a rotated generation of a followed path.

    ``known``: the path is a source, or exists and matches; ``meant``: it matches a glob.
    A trailing number is a rotation when its base is meant at all. Dates and numbers
    inside the name count only beside a base that is there: ``catalina.2026-11-21.log``
    without a ``catalina.log`` is a log of its own.
    """
    directory, name = os.path.split(path)
    for reading in readings(name):
        base = os.path.join(directory, reading.base)
        if base == path:
            continue
        if known(base) or (reading.certain and meant(base)):
            return True
    return False


def choose(
    paths: Iterable[bytes], sources: Iterable[bytes], globs: Sequence[Globs], fs: SourceFs
) -> list[tuple[bytes, Inode | None]]:
    """The paths that are sources of their own, with their inode (None: nothing there yet); order as given.

    Of several names of one file a known source is taken first, then a name that is no
    symbolic link, then the first.
    """
    given = list(dict.fromkeys(paths))
    already = set(sources)
    existing = set(given)

    def meant(path: bytes) -> bool:
        return any(one.matches(path) for one in globs)

    def known(path: bytes) -> bool:
        return path in already or (path in existing and os.path.lexists(path)) or (meant(path) and os.path.exists(path))

    own = [path for path in given if path in already or not is_rotated(path, known, meant)]
    inodes: dict[bytes, Inode | None] = {}
    for path in own:
        try:
            status = fs.stat(path)
        except OSError:
            inodes[path] = None
        else:
            inodes[path] = (status.st_dev, status.st_ino)
    best: dict[Inode, bytes] = {}
    for path in sorted(own, key=lambda one: (one not in already, os.path.islink(one), one)):
        if inode := inodes[path]:
            best.setdefault(inode, path)
    return [(path, inode) for path in own if (inode := inodes[path]) is None or best[inode] == path]
