"""Git objects on disk: durable when ``add`` returns, verified whenever they are read.

Invariants:

* a name in the store stands for whole bytes that are on the disk (temporary file, sync, rename, directory sync), or,
  where ``open`` was told that they can be fetched again, in memory until ``flush``;
* an object that is read hashes to its id, else DamageError;
* readers may be in any thread, also while the owner adds, packs or drops.

Left to others: which objects are needed (``scope``), where histories begin (``refs``), what trees mean (``trees``).
"""

import contextlib
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, Self

from dulwich.objects import ShaFile

from jlogd.confrepo import model as m
from jlogd.confrepo.cache import Cache
from jlogd.confrepo.commits import parse_commit, without_signature
from jlogd.confrepo.contents import BLOB, COMMIT, TREE, object_id, read_tree
from jlogd.confrepo.loose import TYPE_NAMES, LooseObjects, Raw
from jlogd.confrepo.packformat import pack_entry, pack_pieces
from jlogd.confrepo.packs import PackFile, Packs, read_whole
from jlogd.runtime.errors import DamageError, StorageError
from jlogd.runtime.fs import OS, FileSystem

LOOSE_BATCH_MAX: Final = 32  # more objects at once become a pack: two files and four syncs, whatever their number
LOOSE_MAX: Final = 1_000
PACKS_MAX: Final = 10  # each read asks all of them
LATE_BYTES_MAX: Final = 1 << 20  # received and not on the disk yet
_LATE_PACK_MAX: Final = 64 << 10
_TREE_ENTRIES_CACHED: Final = 100_000  # about 25 MB
_COMMITS_CACHED: Final = 2_000
_DIFFERENCES_CACHED: Final = 100_000
_PACKED_BYTES_CACHED: Final = 16 << 20  # what many nodes ask for at the same time is deflated once
_CACHED_CONTENT_MAX: Final = 1 << 20


class MissingError(DamageError):
    """An object that should be here is not."""


class ObjectStore:
    """The ``objects`` directory of a git repository. One owner thread for changes; reads from any thread."""

    def __init__(self, path: Path, fs: FileSystem, *, late: bool = False) -> None:
        """Use ``open``."""
        self.path = path
        self._fs = fs
        self._may_be_late = late
        self._late: dict[str, Raw] = {}  # received, not on the disk yet
        self._late_bytes = 0
        self._changing = threading.Lock()  # one change at a time, whoever the owner is
        self._loose = LooseObjects(path, fs)
        self._packs = Packs(path / "pack", fs)
        self._trees: Cache[str, Mapping[str, m.Entry]] = Cache(_TREE_ENTRIES_CACHED)
        self._commits: Cache[str, m.Commit] = Cache(_COMMITS_CACHED)
        # scope's: a tree and those it is compared with → what only it has. Many nodes ask for the same.
        self.differences: Cache[tuple[str, frozenset[m.ObjectId]], tuple[tuple[str, int], ...]] = Cache(
            _DIFFERENCES_CACHED
        )
        self._packed: Cache[str, bytes] = Cache(_PACKED_BYTES_CACHED)

    @classmethod
    def open(cls, path: Path, *, fs: FileSystem = OS, late: bool = False) -> Self:
        """Open ``path``; it is created, durably, when missing. StorageError, DamageError.

        ``late``: for who does little else than receive, can fetch again what a crash takes, and calls ``flush`` when
        there is time: small packs wait in memory until then, larger ones stay the packs that they are.
        """
        store = cls(path, fs, late=late)
        with store.storing():
            fs.make_dirs(path / "pack")
            fs.make_dirs(path / "info")  # git's own tools expect it
            store._loose.sweep()
            store._packs.sweep()
            # A process killed between a rename and its directory's sync left names that a power cut may still take:
            # nothing may be built on them before they are durable.
            fs.sync_all(path)
            store._packs.scan()
        return store

    @contextlib.contextmanager
    def storing(self) -> Iterator[None]:
        """What the file system refuses within the block is a StorageError that names the file."""
        try:
            yield
        except OSError as error:
            raise StorageError(f"{error.filename or self.path}: {error.strerror or error}") from error

    # ---------------------------------------------------------------- changing: the owner

    def add(self, objects: Iterable[ShaFile]) -> None:
        """Store what is not here yet; durable on return. StorageError."""
        new = {item.id.decode(): item for item in objects}
        self._store([(name, item.type_num, item.as_raw_string()) for name, item in new.items()])

    def receive(self, pieces: Iterable[bytes], *, bytes_max: int) -> list[str]:
        """Store a git pack; durable on return, but see ``open``; the ids in it. DamageError, StorageError.

        ``bytes_max`` bounds the pack, and what it inflates to. A small one becomes loose objects, or is ``late``.
        """
        if self._may_be_late:
            small, pieces = _small_pack(pieces)
            if small is not None:
                return self._receive_late(small, bytes_max)
        return self._receive(pieces, bytes_max)

    def _receive(self, pieces: Iterable[bytes], bytes_max: int) -> list[str]:
        with self.storing(), self._packs.temporary() as file:
            self._packs.fill(file, pieces, bytes_max=bytes_max)
            entries = []
            few: list[tuple[str, int, bytes]] | None = None if self._may_be_late else []
            for entry, content in read_whole(file.mapped(), bytes_max):
                entries.append(entry)
                if few is not None:
                    few.append((entry.id, entry.kind, content))
                    few = few if len(few) <= LOOSE_BATCH_MAX else None
            if few is not None:
                self._store(few)
            else:
                with self._changing:
                    self._flush()  # what stands on it is not on the disk before it
                    self._sync()
                    self._packs.adopt(file, entries)
        return [entry.id for entry in entries]

    def _receive_late(self, pack: bytes, bytes_max: int) -> list[str]:
        found: dict[str, Raw] = {}
        size = 0
        for entry, content in read_whole(pack, bytes_max):
            found[entry.id] = entry.kind, content
            size += len(content)
            if size > LATE_BYTES_MAX:
                return self._receive([pack], bytes_max)
        with self.storing(), self._changing:
            if self._late_bytes + size > LATE_BYTES_MAX:
                self._flush()
            self._late |= found
            self._late_bytes += size
        return list(found)

    def flush(self) -> None:
        """What was received is durable on return. StorageError: it is still in memory."""
        with self.storing(), self._changing:
            self._flush()

    def _flush(self) -> None:
        """All of it as one pack: a revision never comes to the disk without those that it stands on."""
        if self._late:
            self._packs.write(len(self._late), ((name, *raw) for name, raw in sorted(self._late.items())))
            self._late, self._late_bytes = {}, 0

    def _store(self, objects: list[tuple[str, int, bytes]]) -> None:
        with self.storing(), self._changing:
            self._packs.scan(force=True)  # a pack that git removed is still mapped here, and does not count
            new = [item for item in objects if item[0] not in self]
            self._sync()  # what is here already may be an earlier call's that could not be made durable
            if len(new) > LOOSE_BATCH_MAX:
                self._packs.write(len(new), new)
            elif new:
                self._loose.write(new)

    def _sync(self) -> None:
        self._loose.sync()
        self._packs.sync()

    def refresh(self) -> None:
        """Look at the disk again: what somebody else (``git gc``) removed is not here any more."""
        with self.storing():
            self._packs.scan(force=True)

    def maintain(self) -> None:
        """``flush``; pack loose objects, and packs, once there are many. A kill at any point is safe. StorageError."""
        with self.storing(), self._changing:
            self._flush()
            self._packs.scan(force=True)
            loose = list(self._loose.ids())
            if len(loose) > LOOSE_MAX:
                self._sync()
                self._pack_up([name for name in loose if name not in self._packs])
                self._loose.remove(loose)
            small = _small(self._packs.own()) if len(self._packs.own()) > PACKS_MAX else []
            self._replace(small, {name for pack in small for name in pack})

    def keep_only(self, ids: Iterable[str]) -> None:
        """Drop every object that is not in ``ids`` (a pack goes, or is written anew, once half of it is not needed)."""
        kept = frozenset(ids)
        with self.storing(), self._changing:
            self._flush()
            self._packs.scan(force=True)
            self._sync()
            self._loose.remove([name for name in self._loose.ids() if name not in kept])
            going = [pack for pack in self._packs.own() if 2 * sum(name in kept for name in pack) < len(pack)]
            self._replace(going, {name for pack in going for name in pack if name in kept})
        self.close()  # no answer from memory about what is not on the disk any more

    def _replace(self, packs: Sequence[PackFile], names: Collection[str]) -> None:
        """One pack of ``names`` instead of ``packs``; it may be one of them, its name follows from its bytes."""
        written = self._pack_up(names)
        self._packs.drop(pack for pack in packs if pack.path != written)

    def _pack_up(self, names: Collection[str]) -> Path | None:
        return self._packs.write(len(names), ((name, *self.raw(name)) for name in sorted(names))) if names else None

    def close(self) -> None:
        """Let go of memory; maps of packs go with the last reader."""
        self._trees.clear()
        self._commits.clear()
        self._packed.clear()
        self.differences.clear()

    # ---------------------------------------------------------------- reading: any thread

    def raw(self, name: str) -> Raw:
        """Type (git's number) and content, which hashes to ``name``. MissingError, DamageError, StorageError."""
        found = self._find(name)
        if found is None:
            raise MissingError(f"{self.path}: object {name} is missing")
        if object_id(*found) != name:
            raise DamageError(f"{self.path}: object {name} is damaged: its bytes do not match its id")
        return found

    def _find(self, name: str) -> Raw | None:
        late = self._late.get(name)
        if late is not None:
            return late
        with self.storing():
            found = self._packs.read(name) or self._loose.read(name)
            if found is None:  # packed, by us or by git, since the snapshot of packs was made
                self._packs.scan(force=True)
                found = self._packs.read(name)
        return found

    def get(self, name: str) -> ShaFile:
        """The object as dulwich sees it. MissingError, DamageError, StorageError."""
        kind, content = self.raw(name)
        return ShaFile.from_raw_string(kind, content)

    def __contains__(self, name: str) -> bool:
        """Whether the object is here."""
        if name in self._late:
            return True
        with self.storing():
            if name in self._packs or name in self._loose:
                return True
            self._packs.scan()
            return name in self._packs  # also when nothing was new: it may have been packed since the first look

    def blob(self, name: str) -> bytes:
        """Content of a file."""
        return self._typed(name, BLOB)

    def commit(self, name: str) -> m.Commit:
        """A revision; ``revision`` is 0 for a commit of a plain git history (``Repository.commit`` numbers it)."""
        found = self._commits.get(name)
        if found is None:
            found = self._commits.put(name, parse_commit(self._typed(name, COMMIT), m.CommitId(name)))
        return found

    def commit_content(self, name: str) -> bytes:
        """The commit object's bytes."""
        return self._typed(name, COMMIT)

    def signed_content(self, name: str) -> bytes:
        """What the commit's signature covers: its content without the signature."""
        return without_signature(self._typed(name, COMMIT))

    def tree(self, name: str) -> Mapping[str, m.Entry]:
        """Name → entry in git's order, directories (mode ``contents.DIRECTORY``) included. Cached; do not change it."""
        found = self._trees.get(name)
        if found is None:
            entries = read_tree(self._typed(name, TREE), name)
            found = self._trees.put(name, entries, len(entries) + 1)
        return found

    def _typed(self, name: str, kind: int) -> bytes:
        found, content = self.raw(name)
        if found != kind:
            is_a, should = TYPE_NAMES[found].decode(), TYPE_NAMES[kind].decode()
            raise DamageError(f"{self.path}: object {name} is a {is_a}, a {should} is needed")
        return content

    # ---------------------------------------------------------------- packs for others

    def write_pack(self, ids: Sequence[str]) -> Iterator[bytes]:
        """A git pack of these objects, in pieces of at most 1 MiB. MissingError, DamageError."""
        return pack_pieces(len(ids), map(self._entry, ids))

    def _entry(self, name: str) -> bytes:
        found = self._packed.get(name)
        if found is None:
            found = pack_entry(*self.raw(name))
            if len(found) <= _CACHED_CONTENT_MAX:
                self._packed.put(name, found, len(found) + 100)
        return found

    def read_pack(self, pieces: Iterable[bytes], *, bytes_max: int) -> list[ShaFile]:
        """The objects of a git pack, stored nowhere. ``bytes_max`` bounds it and what it inflates to. DamageError."""
        pack = bytearray()
        for piece in pieces:
            if len(pack) + len(piece) > bytes_max:
                raise DamageError(f"the pack is larger than {bytes_max} bytes")
            pack += piece
        return [ShaFile.from_raw_string(entry.kind, content) for entry, content in read_whole(bytes(pack), bytes_max)]


def _small_pack(pieces: Iterable[bytes]) -> tuple[bytes | None, Iterable[bytes]]:
    """The whole pack when it is small; else None, and all of its pieces."""
    head = bytearray()
    rest = iter(pieces)
    for piece in rest:
        head += piece
        if len(head) > _LATE_PACK_MAX:
            return None, chain([bytes(head)], rest)
    return bytes(head), ()


def _small(packs: Iterable[PackFile]) -> list[PackFile]:
    """Packs to make one of, so that of those left each has twice the objects of all smaller ones together.

    (As ``git repack --geometric=2``.) Whatever there is, few packs are left, and an object is copied only a few times
    in its life, where merging everything would copy the whole history each time.
    """
    ordered = sorted(packs, key=len)
    together, count = 0, 0
    for number, pack in enumerate(ordered, 1):
        if len(pack) < 2 * together:
            count = number
        together += len(pack)
    return ordered[:count]
