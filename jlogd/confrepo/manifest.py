"""What was laid out: one line of facts for each file of a view, kept beside it as ``revisions/<id>.json``.

    {"schema": 1, "id": "<commit>", "revision": 12, "files": {PATH: [mode, size, mtime_ns, hash, key], …}}

``mode`` is lstat's (``0o100644``), ``hash`` SHA-256 of the content (of a symlink: of its target), ``key`` names the
objects that the content was made of: equal keys are equal contents on the same node. The manifest speaks of the
repository's files only: what somebody changed on this machine, and ``keep`` carried on, is in the directory, and
differs from it.
"""

import hashlib
import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from jlogd.confrepo import model as m
from jlogd.runtime.errors import DamageError, FormatError

SCHEMA: Final = 1
LOCAL_NS: Final = -1  # as mtime_ns: the directory has something else, or nothing, in this place


@dataclass(frozen=True, slots=True)
class Item:
    """One file as the repository wants it, and as it was on the disk when it was laid out."""

    mode: int
    size: int
    mtime_ns: int
    hash: str
    key: str

    @property
    def secret(self) -> bool:
        """Whether decrypted values are in it: such files are for their owner only."""
        return stat.S_ISREG(self.mode) and not self.mode & 0o077


@dataclass(frozen=True, slots=True)
class Manifest:
    """One view."""

    id: m.CommitId
    revision: m.Revision
    files: Mapping[str, Item]

    def encode(self) -> bytes:
        """The file's content."""
        files = {path: (item.mode, item.size, item.mtime_ns, item.hash, item.key) for path, item in self.files.items()}
        document = {"schema": SCHEMA, "id": self.id, "revision": self.revision, "files": files}
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """From the file's content. DamageError."""
        try:
            document = json.loads(content)
            if document["schema"] != SCHEMA:
                raise FormatError(f"manifest of schema {document['schema']}, this version knows {SCHEMA}")
            files = {path: _item(fields) for path, fields in document["files"].items()}
            if not m.is_commit_id(document["id"]):
                raise DamageError("manifest without a commit id")
            return cls(m.CommitId(document["id"]), m.Revision(int(document["revision"])), files)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DamageError(f"not a manifest: {error}") from error


def _item(fields: Any) -> Item:
    mode, size, mtime_ns, digest, key = fields
    if not (type(mode) is type(size) is type(mtime_ns) is int and type(digest) is type(key) is str):
        raise DamageError("manifest with a file that is not described")
    return Item(mode, size, mtime_ns, digest, key)


def hash_of(content: bytes) -> str:
    """As in ``Item.hash``."""
    return hashlib.sha256(content).hexdigest()


def key_of(entries: Sequence[tuple[str, m.Entry]]) -> str:
    """As in ``Item.key``: which layer an entry came from does not matter for the bytes."""
    return ",".join([f"{entry.mode:o}:{entry.id}" for _, entry in entries])


def changed_paths(old: Manifest | None, new: Manifest) -> list[str]:
    """Paths that the repository has otherwise in ``new``, sorted."""
    before = old.files if old is not None else {}
    changed = {path for path, item in new.files.items() if path not in before or before[path].key != item.key}
    return sorted(changed | (before.keys() - new.files.keys()))
