"""``.eccfg/`` of a working copy: which revision it is based on, what that revision's files were, what is staged.

    .eccfg/settings.json    {"schema", "manager"}                 the address that it was cloned from
    .eccfg/index.json       {"schema", "revision", "id", "written_ns",
                             "entries": {path: [mode, id, size, mtime_ns, ctime_ns]},
                             "added": [path], "removed": [path], "conflicts": {path: [side file]}}
    .eccfg/pull.json        a pull that was decided and perhaps not finished, see ``pulling``
    .eccfg/base/ab/cdef…    contents of the base revision, by blob id
    .eccfg/lock             held (flock) while a command changes the working copy

Invariants: ``index.json`` is replaced whole and durably; a content that it names was durable before; a file whose
size and times are the entry's, and whose last change is older than the index, has the entry's content.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import portalocker

from jlogd.confrepo import model as m
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import DamageError, FormatError, LockedError, UsageError
from jlogd.runtime.fs import OS, FileSystem

NAME: Final = ".eccfg"
NONE: Final = m.Revision(0)
SCHEMA: Final = 1
# A file that changed within a clock tick of the index being written may have changed again unseen ("racily clean").
RACY_NS: Final = 50_000_000
DOCUMENT_BYTES_MAX: Final = 64 << 20  # FILES_MAX entries with long paths
FILE_MODE: Final = 0o600  # contents of the repository are for the one who may read them


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the base revision, and how it looked here when it last had that content."""

    mode: int
    id: m.ObjectId
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0

    def same_file(self, other: "Entry | None") -> bool:
        """Same content and mode."""
        return other is not None and (self.mode, self.id) == (other.mode, other.id)


@dataclass(slots=True)
class Index:
    """See the module. Paths are those of the repository."""

    revision: m.Revision = NONE
    id: str = ""  # of the base commit; empty before the first pull
    entries: dict[str, Entry] = field(default_factory=dict)
    added: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    conflicts: dict[str, list[str]] = field(default_factory=dict)  # path → the files beside it
    written_ns: int = 0

    def encode(self) -> bytes:
        """As ``index.json``."""
        document = {
            "schema": SCHEMA,
            "revision": self.revision,
            "id": self.id,
            "written_ns": self.written_ns,
            "entries": {
                path: [each.mode, each.id, each.size, each.mtime_ns, each.ctime_ns]
                for path, each in self.entries.items()
            },
            "added": sorted(self.added),
            "removed": sorted(self.removed),
            "conflicts": self.conflicts,
        }
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def decode(cls, content: bytes, where: Path) -> "Index":
        """DamageError for anything else."""
        document = decode_document(content, where)
        try:
            entries = {path: Entry(*fields) for path, fields in document["entries"].items()}
            return cls(
                m.Revision(document["revision"]), document["id"], entries, set(document["added"]),
                set(document["removed"]), dict(document["conflicts"]), document["written_ns"],
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise DamageError(f"{where} is damaged ({error}): clone again, and copy your changes over") from error


def decode_document(content: bytes, where: Path) -> dict[str, Any]:
    """A JSON object of ours. DamageError, FormatError."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise DamageError(f"{where} is damaged ({error}): clone again, and copy your changes over") from error
    if not isinstance(document, dict) or not isinstance(document.get("schema"), int):
        raise DamageError(f"{where} is damaged: clone again, and copy your changes over")
    if document["schema"] > SCHEMA:
        raise FormatError(f"{where} was written by a newer eccfg (schema {document['schema']}): update eccfg")
    return document


def blob_id(content: bytes) -> m.ObjectId:
    """Git's id of a file's content."""
    return m.ObjectId(hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest())


# ---------------------------------------------------------------------- on disk


def find_root(directory: Path) -> Path | None:
    """The working copy that ``directory`` is in."""
    return next((place for place in (directory, *directory.parents) if (place / NAME / "settings.json").exists()), None)


def remembered_manager(directory: Path) -> tuple[str, ...]:
    """The address that the working copy around ``directory`` was cloned from; empty outside of one."""
    root = find_root(directory)
    if root is None:
        return ()
    path = root / NAME / "settings.json"
    manager = decode_document(path.read_bytes(), path).get("manager")
    return (manager,) if isinstance(manager, str) and manager else ()


class Metadata:
    """``.eccfg`` of the working copy at ``root``."""

    def __init__(self, root: Path, *, fs: FileSystem = OS, clock: Clock = SYSTEM) -> None:
        """Nothing is read yet."""
        self.root = root
        self.directory = root / NAME
        self._fs = fs
        self._clock = clock

    @classmethod
    def create(cls, root: Path, manager: str, *, fs: FileSystem = OS, clock: Clock = SYSTEM) -> "Metadata":
        """An empty working copy, based on nothing. The settings come last: without them it is none."""
        made = cls(root, fs=fs, clock=clock)
        fs.make_dirs(made.directory / "base")
        made.write(Index())
        settings = json.dumps({"schema": SCHEMA, "manager": manager}).encode()
        fs.replace_bytes(made.directory / "settings.json", settings, FILE_MODE)
        return made

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other eccfg changes this working copy meanwhile. LockedError."""
        with (self.directory / "lock").open("a") as file:
            try:
                portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
            except portalocker.exceptions.LockException:
                raise LockedError(f"another eccfg works in {self.root}: wait for it") from None
            yield

    def read(self) -> Index:
        """The index as it is. DamageError."""
        path = self.directory / "index.json"
        return Index.decode(self._content(path), path)

    def write(self, index: Index) -> None:
        """Replace the index; durable when this returns."""
        index.written_ns = self._clock.wall_ns()
        self._fs.replace_bytes(self.directory / "index.json", index.encode(), FILE_MODE)

    # ------------------------------------------------------------------ a pull under way

    def read_pull(self) -> dict[str, Any] | None:
        """The pull that was decided and not finished."""
        path = self.directory / "pull.json"
        return decode_document(self._content(path), path) if path.exists() else None

    def write_pull(self, document: Mapping[str, Any]) -> None:
        """Note it, durably."""
        content = json.dumps({"schema": SCHEMA, **document}, separators=(",", ":"), ensure_ascii=False).encode()
        self._fs.replace_bytes(self.directory / "pull.json", content, FILE_MODE)

    def end_pull(self) -> None:
        """Forget it; the index is what counts then."""
        self._fs.unlink(self.directory / "pull.json", missing_ok=True)
        self._fs.sync_dir(self.directory)

    # ------------------------------------------------------------------ contents

    def _place(self, blob: str) -> Path:
        return self.directory / "base" / blob[:2] / blob[2:]

    def keep(self, contents: Mapping[m.ObjectId, bytes]) -> None:
        """Store contents by id; durable when this returns. A content is whole as soon as it has its name."""
        written: dict[Path, Path] = {}
        for blob, content in contents.items():
            place = self._place(blob)
            if not place.exists():
                written[self._write_beside(place, content)] = place
        if written:
            self._fs.sync_all(self.directory)
            for beside, place in written.items():
                self._fs.rename(beside, place, sync=False)
            self._fs.sync_all(self.directory)

    def _write_beside(self, place: Path, content: bytes) -> Path:
        with contextlib.suppress(FileExistsError):
            self._fs.make_dir(place.parent)
        beside = place.with_name(f".{place.name}.new")
        self._fs.unlink(beside, missing_ok=True)
        with self._fs.create(beside, FILE_MODE) as file:
            file.pwrite([content], 0)
        return beside

    def content(self, blob: str) -> bytes:
        """A content of the base revision. DamageError when it is not what it was."""
        place = self._place(blob)
        try:
            content = self._content(place)
        except FileNotFoundError:
            raise DamageError(f"{place} is gone: clone again, and copy your changes over") from None
        if blob_id(content) != blob:
            raise DamageError(f"{place} is damaged: clone again, and copy your changes over")
        return content

    def forget_unused(self, used: set[str]) -> None:
        """Remove contents that nothing names any more."""
        for first in self._fs.list_dir(self.directory / "base"):
            for rest in self._fs.list_dir(self.directory / "base" / first):
                if first + rest not in used:
                    self._fs.unlink(self.directory / "base" / first / rest, missing_ok=True)

    def _content(self, path: Path) -> bytes:
        with self._fs.open_read(path) as file:
            return file.pread(DOCUMENT_BYTES_MAX, 0)


def open_metadata(directory: Path, *, fs: FileSystem = OS, clock: Clock = SYSTEM) -> Metadata:
    """Of the working copy that ``directory`` is in. UsageError outside of one."""
    root = find_root(directory)
    if root is None:
        raise UsageError(f"{directory} is in no working copy: 'eccfg clone DIR' makes one; -C DIR names one")
    return Metadata(root, fs=fs, clock=clock)
