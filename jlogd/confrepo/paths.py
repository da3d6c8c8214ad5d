"""Which paths and which files a repository may hold. Decisions about names and sizes only; nothing is read or written.

Invariant: what passes here can be laid out below one directory of any Linux file system without leaving it, and a plain
``git clone`` of it works on systems that fold case or Unicode forms. Two layers of a view that contradict each other
(a file in one, a directory in the other) are for ``layering``.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from jlogd.confrepo import model as m
from jlogd.runtime.names import is_name

Siblings = Callable[[str], Mapping[str, bool]]  # directory ("" = top level) → name → whether it is a directory

TARGET_BYTES_MAX: Final = m.PATH_BYTES_MAX - 1

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Code points that HFS+ ignores in names: git refuses `.git` that is hidden by them (its utf8.c, next_hfs_char).
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_SHORT_NAMES = frozenset({"git~1", "gitmod~1"})  # what NTFS would call them in 8.3
_TOP_FILE = re.compile(r"README[^/]*|\.[^/]+")


# ---------------------------------------------------------------------- one path


def check_path(path: str) -> str | None:
    """What is wrong with ``path``, which is relative to the repository; None when nothing is."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "the path is not UTF-8"
    if not path:
        return "the path is empty"
    if path.startswith("/"):
        return "the path is absolute: it must be relative to the repository"
    if size > m.PATH_BYTES_MAX:
        return f"the path has {size} bytes, more than {m.PATH_BYTES_MAX}"
    parts = path.split("/")
    if len(parts) > m.DEPTH_MAX:
        return f"the path is {len(parts)} deep, more than {m.DEPTH_MAX}"
    return next(filter(None, map(_check_part, parts)), None)


def _check_part(part: str) -> str | None:
    if not part:
        return "the path has an empty part"
    if part in {".", ".."}:
        return f"the path has the part {part}"
    if _CONTROL.search(part):
        return f"the path has a control character in {part!r}"
    if "\\" in part:
        return "the path has a backslash"
    if len(part.encode()) > m.NAME_BYTES_MAX:
        return f"the path has a part of more than {m.NAME_BYTES_MAX} bytes"
    if _plain_name(part) in {".git", ".gitmodules"} | _SHORT_NAMES:
        return f"the path has the part {part!r}, which belongs to git"
    return None


def _plain_name(part: str) -> str:
    """The name that a careless file system would open: HFS+ ignores characters, NTFS cuts streams, dots and blanks."""
    return _IGNORED.sub("", part).partition(":")[0].rstrip(" .").casefold()


def check_target(path: str, target: bytes) -> str | None:
    """What is wrong with a symlink at ``path`` to ``target``: it must stay inside its layer. None when nothing is.

    ``..`` is allowed at the beginning only: behind a directory that is a symlink itself it would lead anywhere.
    """
    if layer_of(path) is None:
        return "a symlink stands in a layer only"
    if _plain_name(path.rpartition("/")[2]).startswith((".git", ".mailmap")):
        return "git's own files are no symlinks"
    try:
        text = target.decode()
    except UnicodeDecodeError:
        return "the symlink's target is not UTF-8"
    if not text or len(target) > TARGET_BYTES_MAX or _CONTROL.search(text) or "\\" in text:
        return "the symlink's target is no path that one could lay out"
    if text.startswith("/"):
        return "the symlink's target is absolute: it must be relative and stay inside the layer"
    parts = [part for part in text.split("/") if part not in {"", "."}]
    climbs = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    if ".." in parts[climbs:]:
        return "the symlink's target has .. behind a name: write it without"
    if climbs > in_view(path).count("/"):
        return "the symlink's target leaves its layer"
    return None


# ---------------------------------------------------------------------- layers


def layer_of(path: str) -> str | None:
    """The layer's directory, e.g. ``global``, ``web/default``, ``web/web1``, ``schemas``; None: in none."""
    first, _, rest = path.partition("/")
    if first in {m.GLOBAL, m.SCHEMAS}:
        return first if rest else None
    second, slash, _ = rest.partition("/")
    return f"{first}/{second}" if slash and is_name(first) and is_name(second) else None


def in_view(path: str) -> str:
    """``path`` without its layer's directory; as it is when it is in none."""
    layer = layer_of(path)
    return path[len(layer) + 1 :] if layer is not None else path


# ---------------------------------------------------------------------- a tree


def tree_faults(changed: Mapping[str, m.File | None], siblings: Siblings) -> list[m.Fault]:
    """Each rule that a changed path breaks, sorted. ``siblings`` tells what a directory holds after the change."""
    directories = _Directories(siblings)
    found = (
        m.Fault(path, 0, problem)
        for path, file in changed.items()
        if file is not None
        for problem in _problems(path, file, directories)
    )
    return sorted(found)


def totals_fault(sizes: Iterable[int]) -> str | None:
    """What is wrong with the number of files and their ``sizes`` in bytes, of a whole tree after the change."""
    count = total = 0
    for size in sizes:
        count += 1
        total += size
    if count > m.FILES_MAX:
        return f"the repository would have {count} files, more than {m.FILES_MAX}"
    if total > m.TREE_BYTES_MAX:
        return f"the repository's files would have {total} bytes, more than {m.TREE_BYTES_MAX}"
    return None


def _problems(path: str, file: m.File, directories: "_Directories") -> Iterator[str]:
    problem = check_path(path)
    if problem is not None:
        yield problem
        return  # what follows takes the path apart
    if layer_of(path) is None and _TOP_FILE.fullmatch(path) is None:
        yield _no_layer(path)
    yield from _file_problems(path, file)
    yield from directories.problems(path)


def _no_layer(path: str) -> str:
    parts = path.split("/")
    wrong = [] if parts[0] in {m.GLOBAL, m.SCHEMAS} else [part for part in parts[:-1][:2] if not is_name(part)]
    if wrong:
        return f"is in no layer: {wrong[0]!r} is no name of a subcluster or node (a-z, 0-9, '.', '_', '-')"
    return "is in no layer: put it below global/, SUBCLUSTER/default/, SUBCLUSTER/NODE/ or schemas/"


def _file_problems(path: str, file: m.File) -> Iterator[str]:
    if file.mode not in m.MODES:
        yield f"has mode {file.mode:o}: 100644, 100755 and 120000 (symlink) are kept"
    if len(file.content) > m.FILE_BYTES_MAX:
        yield f"has {len(file.content)} bytes, more than {m.FILE_BYTES_MAX}"
    elif file.mode == m.SYMLINK:
        problem = check_target(path, file.content)
        if problem is not None:
            yield problem


class _Directories:
    """What the directories on the way hold, each asked for once."""

    def __init__(self, siblings: Siblings) -> None:
        self._siblings = siblings
        self._names: dict[str, Mapping[str, bool]] = {}
        self._folded: dict[str, dict[str, list[str]]] = {}
        self._told: set[tuple[str, str]] = set()

    def problems(self, path: str) -> Iterator[str]:
        parts = path.split("/")
        for depth, name in enumerate(parts):
            directory = "/".join(parts[:depth])
            is_leaf = depth == len(parts) - 1
            if self._holds(directory).get(name, not is_leaf) == is_leaf:
                yield "is a file and a directory" if is_leaf else f"{'/'.join(parts[: depth + 1])} is a file"
            alike = self._alike(directory, name)
            if len(alike) > 1 and (directory, alike[0]) not in self._told:
                self._told.add((directory, alike[0]))
                others = " and ".join(repr(each) for each in alike if each != name)
                yield f"{name!r} differs from {others} in case or Unicode form only"

    def _holds(self, directory: str) -> Mapping[str, bool]:
        if directory not in self._names:
            self._names[directory] = self._siblings(directory)
        return self._names[directory]

    def _alike(self, directory: str, name: str) -> list[str]:
        folded = self._folded.get(directory)
        if folded is None:
            folded = self._folded[directory] = {}
            for each in sorted({*self._holds(directory), name}):
                folded.setdefault(_fold(each), []).append(each)
        return folded.get(_fold(name), [])


def _fold(name: str) -> str:
    """The same for names that some file system takes for one."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
