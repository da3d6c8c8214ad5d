"""What the content of a git object must look like before it is taken from anybody."""

import hashlib
import stat
from collections.abc import Iterator
from typing import Final

from dulwich.errors import ObjectFormatException
from dulwich.objects import parse_tree

from jlogd.confrepo.commits import parse_commit
from jlogd.confrepo.loose import TYPE_NAMES
from jlogd.confrepo.model import CommitId, Entry, ObjectId
from jlogd.runtime.errors import DamageError

COMMIT, TREE, BLOB, TAG = 1, 2, 3, 4  # git's numbers of the types
DIRECTORY: Final = 0o40000
_BAD_NAMES: Final = frozenset({b"", b".", b".."})


def object_id(kind: int, content: bytes) -> str:
    """SHA-1 of the object as git hashes it."""
    header = TYPE_NAMES[kind] + b" %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def check_content(kind: int, content: bytes, name: str) -> None:
    """DamageError unless it can be used as what it says it is. Which paths a repository takes is decided elsewhere."""
    if kind == COMMIT:
        parse_commit(content, CommitId(name))
    elif kind == TREE:
        read_tree(content, name)


def read_tree(content: bytes, name: str) -> dict[str, Entry]:
    """Name → entry in git's order, directories with the mode ``DIRECTORY``. DamageError."""
    entries: dict[str, Entry] = {}
    for part, mode, entry_id in _parsed(content, name):
        text = part.decode(errors="surrogateescape")
        if part in _BAD_NAMES or b"/" in part or text in entries:
            raise DamageError(f"tree {name} has an entry that cannot be a file's name")
        entries[text] = Entry(DIRECTORY if stat.S_ISDIR(mode) else mode, ObjectId(entry_id.decode()))
    return entries


def _parsed(content: bytes, name: str) -> Iterator[tuple[bytes, int, bytes]]:
    try:
        yield from parse_tree(content, 20, strict=True)
    except (ObjectFormatException, ValueError, IndexError) as error:
        raise DamageError(f"tree {name} cannot be read: {error}") from error
