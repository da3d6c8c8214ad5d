"""The line of revisions: number → commit id and back. Follows from the commits; a file beside them saves the walk.

    magic | count | count x id (20 bytes) | SHA-256 of all before

The file may be old or missing: the walk from the head stops at the first commit that it names, or goes to the root.
"""

import hashlib
import logging
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from jlogd.confrepo.model import Commit, CommitId, Revision
from jlogd.confrepo.objects import ObjectStore
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import FileSystem

log = logging.getLogger(__name__)

_HEADER: Final = struct.Struct(">12sQ")
assert _HEADER.size == 20
_MAGIC: Final = b"jlogd-line\0\1"
_ID_BYTES: Final = 20
_HASH_BYTES: Final = 32
_FILE_BYTES_MAX: Final = 256 << 20
UNSAVED_MAX: Final = 1_000  # revisions that an open may have to walk


class Line:
    """Revisions of one head. Grows by its owner only; any thread reads."""

    def __init__(self, ids: Iterable[CommitId] = ()) -> None:
        """Revision 1 first."""
        self.ids = list(ids)  # appended to, never changed otherwise
        self.numbers = {commit_id: Revision(number) for number, commit_id in enumerate(self.ids, 1)}
        self.saved = 0  # how many of them the file has

    @property
    def head(self) -> CommitId | None:
        """The newest revision."""
        return self.ids[-1] if self.ids else None

    def at(self, revision: int) -> CommitId | None:
        """Revision N."""
        return self.ids[revision - 1] if 0 < revision <= len(self.ids) else None

    def beyond(self, store: ObjectStore, head: CommitId | None) -> tuple[int, list[Commit]]:
        """How many revisions of this line are on the line of ``head``, and those that follow there. DamageError."""
        missing: list[Commit] = []
        here = head
        while here is not None and here not in self.numbers:
            missing.append(store.commit(here))
            here = missing[-1].parent
        shared = 0 if here is None else self.numbers[here]
        missing.reverse()
        _check_numbers(missing, shared)
        return shared, missing

    def grown(self, shared: int, missing: Sequence[Commit]) -> "Line":
        """What ``beyond`` found, done: this line when it only grows, else another one."""
        line = self if shared == len(self.ids) else Line(self.ids[:shared])
        for commit in missing:
            line.numbers[commit.id] = Revision(len(line.ids) + 1)
            line.ids.append(commit.id)
        return line

    # ---------------------------------------------------------------- the file

    @classmethod
    def load(cls, path: Path, fs: FileSystem) -> "Line":
        """What the file says; an empty line when it is not there or not whole."""
        try:
            with fs.open_read(path) as file:
                stored = file.pread(min(file.size(), _FILE_BYTES_MAX), 0)
        except OSError:
            return cls()
        body, checksum = stored[:-_HASH_BYTES], stored[-_HASH_BYTES:]
        if len(body) < _HEADER.size or hashlib.sha256(body).digest() != checksum:
            return cls()
        magic, count = _HEADER.unpack_from(body)
        if magic != _MAGIC or len(body) != _HEADER.size + count * _ID_BYTES:
            return cls()
        text = body[_HEADER.size :].hex()
        line = cls(CommitId(text[at : at + 2 * _ID_BYTES]) for at in range(0, len(text), 2 * _ID_BYTES))
        line.saved = len(line.ids)
        return line

    def save(self, path: Path, fs: FileSystem) -> None:
        """Write the file. A failure is harmless: it only saves time."""
        body = _HEADER.pack(_MAGIC, len(self.ids)) + bytes.fromhex("".join(self.ids))
        try:
            fs.replace_bytes(path, body + hashlib.sha256(body).digest())
        except OSError as error:
            log.debug("%s cannot be written: %s", path, error)
        else:
            self.saved = len(self.ids)


def _check_numbers(commits: Sequence[Commit], shared: int) -> None:
    """DamageError when a commit says another number than its place; one of a plain git history says none."""
    for number, commit in enumerate(commits, shared + 1):
        if commit.revision not in (0, number):
            raise DamageError(f"commit {commit.id} says that it is r{commit.revision}, but it is the {number}th")
