"""The packs of a repository on disk: found, read, added, dropped.

A pack is two files, ``pack-ID.pack`` and ``pack-ID.idx``, written and synced under other names; the index makes it
visible, so it is renamed last and goes first. An index whose pack's name a power cut took counts as not there.
Readers work on a snapshot; what a snapshot holds stays readable (mapped) even when the files are gone, whoever removed
them. Packs that git made (``git gc``) are read as well, deltas included.
"""

import mmap
import re
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from jlogd.confrepo.loose import Raw
from jlogd.confrepo.model import TREE_BYTES_MAX
from jlogd.confrepo.packformat import (
    DELTA_DEPTH_MAX,
    Indexed,
    PackReader,
    index_bytes,
    pack_entry,
    pack_pieces,
    patch,
    read_at,
)
from jlogd.confrepo.packindex import PackIndex
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import File, FileSystem

TEMPORARY: Final = "tmp_pack_jlogd_"
_INDEX: Final = re.compile(r"pack-[0-9a-f]{40}\.idx")
_CHECKSUM_BYTES: Final = 20
_FIRST_OBJECT: Final = 12


class PackFile:
    """One pack. Any thread reads."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        """Map ``path`` (``….pack``) and load its index. OSError, DamageError."""
        self.path = path
        self._index = _load_index(path.with_suffix(".idx"), fs)
        with fs.open_read(path) as file:
            if file.size() < _FIRST_OBJECT + _CHECKSUM_BYTES:
                raise DamageError(f"{path}: the pack is cut off")
            self._pack = mmap.mmap(file.fd, 0, prot=mmap.PROT_READ)
        if self._pack[-_CHECKSUM_BYTES:] != self._index.pack_checksum:
            raise DamageError(f"{path}: the pack and its index do not belong together")

    def __len__(self) -> int:
        """How many objects there are."""
        return self._index.count

    def __iter__(self) -> Iterator[str]:
        """Ids of the objects, sorted."""
        return self._index.names()

    def offset(self, object_id: str) -> int | None:
        """Where the object is; None when it is not here."""
        return self._index.offset(bytes.fromhex(object_id))

    def read(self, object_id: str) -> Raw | None:
        """Type and content, not hashed; None when it is not here. DamageError."""
        at = self.offset(object_id)
        if at is None:
            return None
        end = len(self._pack) - _CHECKSUM_BYTES
        deltas: list[bytes] = []
        while len(deltas) <= DELTA_DEPTH_MAX:
            found = read_at(self._pack, at, end, TREE_BYTES_MAX)
            if found.base is None:
                return found.kind, self._patched(found.content, deltas)
            deltas.append(found.content)
            base = found.base if isinstance(found.base, int) else self.offset(found.base)
            if base is None:
                break
            at = base
        raise DamageError(f"{self.path}: object {object_id} stands on one that is not in the pack")

    @staticmethod
    def _patched(content: bytes, deltas: list[bytes]) -> bytes:
        for delta in reversed(deltas):
            content = patch(content, delta, TREE_BYTES_MAX)
        return content


def _load_index(path: Path, fs: FileSystem) -> PackIndex:
    with fs.open_read(path) as file:
        stored = file.pread(file.size(), 0)
    try:
        return PackIndex(stored)
    except DamageError as error:
        raise DamageError(f"{path}: {error}") from error


class Packs:
    """All packs of one ``objects/pack`` directory. One owner for changes, any thread reads. Errors are ``OSError``."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        """``path`` is the directory, which exists."""
        self._path = path
        self._fs = fs
        self._packs: tuple[PackFile, ...] = ()  # replaced, never changed
        self._seen_ns = -1
        self._scanning = threading.Lock()  # one scan at a time; guards the two above
        self._unsynced = False  # a name in the directory may not be durable
        self._number = 0

    def sweep(self) -> None:
        """Remove what a killed process left half written."""
        for name in self._fs.list_dir(self._path):
            if name.startswith(TEMPORARY):
                self._fs.unlink(self._path / name, missing_ok=True)

    def scan(self, *, force: bool = False) -> bool:
        """Look for packs that came or went; whether the directory had changed. DamageError."""
        with self._scanning:
            changed_ns = self._path.stat().st_mtime_ns  # before the listing: what comes later shows at the next scan
            if changed_ns == self._seen_ns and not force:
                return False
            self._packs = tuple(self._listed())
            self._seen_ns = changed_ns
        return True

    def _listed(self) -> Iterator[PackFile]:
        known = {pack.path: pack for pack in self._packs}
        names = set(self._fs.list_dir(self._path))
        for name in sorted(names):
            path = self._path / f"{name[:-4]}.pack"
            if not _INDEX.fullmatch(name) or path.name not in names:
                continue
            try:
                yield known.get(path) or PackFile(path, self._fs)
            except FileNotFoundError:  # went away since the listing
                continue

    def own(self) -> list[PackFile]:
        """The packs of the snapshot that may be replaced: those without a ``.keep`` file."""
        return [pack for pack in self._packs if not pack.path.with_suffix(".keep").exists()]

    def __contains__(self, object_id: str) -> bool:
        """Whether a pack of the snapshot has the object."""
        return any(pack.offset(object_id) is not None for pack in self._packs)

    def read(self, object_id: str) -> Raw | None:
        """Type and content, not hashed; None when no pack of the snapshot has it. DamageError."""
        for pack in self._packs:
            found = pack.read(object_id)
            if found is not None:
                return found
        return None

    # ---------------------------------------------------------------- owner

    def write(self, count: int, objects: Iterable[tuple[str, int, bytes]]) -> Path:
        """One new pack of ``count`` objects (id, type, content), durable on return; its path."""
        entries: list[Indexed] = []

        def packed() -> Iterator[bytes]:
            at = _FIRST_OBJECT
            for name, kind, content in objects:
                entry = pack_entry(kind, content)
                entries.append(Indexed(name, kind, at, zlib.crc32(entry)))
                at += len(entry)
                yield entry

        with self.temporary() as file:
            self.fill(file, pack_pieces(count, packed()), bytes_max=None)
            assert len(entries) == count
            return self.adopt(file, entries)

    def temporary(self) -> "TemporaryPack":
        """A new file in the directory, which goes away at the end of the block unless it was adopted."""
        self._number += 1
        return TemporaryPack(self._path / f"{TEMPORARY}{self._number}", self._fs)

    @staticmethod
    def fill(file: "TemporaryPack", pieces: Iterable[bytes], *, bytes_max: int | None) -> None:
        """Append all pieces. DamageError as soon as they are more than ``bytes_max``."""
        for piece in pieces:
            if bytes_max is not None and file.length + len(piece) > bytes_max:
                raise DamageError(f"the pack is larger than {bytes_max} bytes")
            file.append(piece)

    def adopt(self, file: "TemporaryPack", entries: Sequence[Indexed]) -> Path:
        """Make a complete pack visible, durable on return; its path, which follows from its bytes."""
        checksum = file.last(_CHECKSUM_BYTES)
        target = self._path / f"pack-{checksum.hex()}.pack"
        with self.temporary() as index:
            index.append(index_bytes(entries, checksum))
            file.datasync()
            index.datasync()
            self._unsynced = True
            file.rename(target)
            index.rename(target.with_suffix(".idx"))
        self.sync()
        self.scan(force=True)
        return target

    def sync(self) -> None:
        """Names that an earlier call could not make durable are durable on return."""
        if self._unsynced:
            self._fs.sync_dir(self._path)
            self._unsynced = False

    def drop(self, packs: Iterable[PackFile]) -> None:
        """Remove packs whose objects are elsewhere, durably, or not needed."""
        going = list(packs)
        if not going:
            return
        self._fs.unlink(self._path / "multi-pack-index", missing_ok=True)  # git's; it would name packs that are gone
        for pack in going:
            self._fs.unlink(pack.path.with_suffix(".idx"), missing_ok=True)
        self._fs.sync_dir(self._path)  # an index never outlives its pack
        for pack in going:
            for suffix in (".pack", ".rev", ".bitmap", ".mtimes"):
                self._fs.unlink(pack.path.with_suffix(suffix), missing_ok=True)
        self.scan(force=True)


class TemporaryPack:
    """A file being written; removed at the end of the ``with`` block unless it was renamed. One owner."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        """Nothing is created yet."""
        self._path = path
        self._fs = fs
        self._file: File | None = None
        self._renamed = False
        self.length = 0

    def __enter__(self) -> Self:
        """Create the file."""
        self._fs.unlink(self._path, missing_ok=True)
        self._file = self._fs.create(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        """Close, and remove what nobody adopted."""
        self._open().close()
        if not self._renamed:
            try:
                self._fs.unlink(self._path, missing_ok=True)
            except OSError:  # the disk fails; ``sweep`` comes by at the next start
                return

    def append(self, piece: bytes) -> None:
        """Write at the end."""
        self._open().pwrite([piece], self.length)
        self.length += len(piece)

    def last(self, count: int) -> bytes:
        """The last ``count`` bytes."""
        return self._open().pread(count, max(0, self.length - count))

    def mapped(self) -> "mmap.mmap | bytes":
        """What was written."""
        return mmap.mmap(self._open().fd, self.length, prot=mmap.PROT_READ) if self.length else b""

    def datasync(self) -> None:
        """What was appended is durable on return."""
        self._open().datasync()

    def rename(self, target: Path) -> None:
        """Another name; not synced."""
        self._fs.rename(self._path, target, sync=False)
        self._renamed = True

    def _open(self) -> File:
        assert self._file is not None
        return self._file


def read_whole(pack: "mmap.mmap | bytes", bytes_max: int) -> Iterator[tuple[Indexed, bytes]]:
    """Every object of a pack that somebody sent. DamageError."""
    return PackReader(pack, bytes_max).objects()
