"""Fragments of objects: the same for all, shared while they are kept, and little held by who stands still."""

import random
import shutil
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import pytest
from dulwich.objects import Blob, ShaFile, Tree

from jlogd.confrepo.objects import ObjectStore
from jlogd.confrepo.packformat import pack_pieces
from managerd.ecconfigd import fragments as module
from managerd.ecconfigd.fragments import SLICE_BYTES, Fragments
from tests.support.revisions import git

NOISE = random.Random(1).randbytes(4 << 20)


def stored(home: Path, *objects: ShaFile) -> tuple[ObjectStore, list[str]]:
    store = ObjectStore.open(home / "objects")
    store.add(objects)
    return store, [item.id.decode() for item in objects]


def pack(fragments: Fragments, store: ObjectStore, names: Sequence[str]) -> Iterator[bytes]:
    return pack_pieces(len(names), chain.from_iterable(fragments.of(store, name) for name in names), SLICE_BYTES)


@pytest.mark.parametrize("kept", [0, 300 << 10, 64 << 20])
def test_the_bytes_are_the_same_whatever_is_kept_and_git_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Readers that begin later, or go at another pace, go on with what others made; sizes around a slice, and none."""
    monkeypatch.setattr(module, "CONTENTS_BYTES_KEPT", kept)
    monkeypatch.setattr(module, "FRAGMENTS_BYTES_KEPT", kept)
    sizes = (0, 1, SLICE_BYTES - 1, SLICE_BYTES, SLICE_BYTES + 1, 1 << 20)
    objects: list[ShaFile] = [Blob.from_string(NOISE[:size]) for size in sizes]
    store, names = stored(tmp_path, *objects, Blob.from_string(bytes(4 << 20)), Tree())
    fragments = Fragments()
    alone = b"".join(pack(Fragments(), store, names))
    early, late = pack(fragments, store, names), pack(fragments, store, names)
    first = [next(early), next(early), next(early)]
    both = list(zip_longest(early, late, fillvalue=b""))
    assert b"".join([*first, *(one for one, _ in both)]) == b"".join(other for _, other in both) == alone
    assert max(len(piece) for pair in both for piece in pair) <= SLICE_BYTES
    git(tmp_path, "init", "-q", "--bare", "other")
    git(tmp_path / "other", "index-pack", "--stdin", "--strict", stdin=alone)
    assert git(tmp_path / "other", "count-objects", "-v").count(f"in-pack: {len(names)}\n") == 1


def test_an_object_is_read_and_deflated_once_for_all(tmp_path: Path) -> None:
    """Those who come while it is kept ask the repository for nothing."""
    store, names = stored(tmp_path, Blob.from_string(NOISE[: 1 << 20]), Blob.from_string(b"small"))
    fragments = Fragments()
    first = b"".join(pack(fragments, store, names))
    shutil.rmtree(tmp_path / "objects")
    store.close()
    assert b"".join(pack(fragments, store, names)) == first


def test_who_stands_still_in_a_large_file_holds_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of a compressor and a piece, not the file; what is kept for all does not count."""
    monkeypatch.setattr(module, "CONTENTS_BYTES_KEPT", 0)
    monkeypatch.setattr(module, "FRAGMENTS_BYTES_KEPT", 0)
    store, names = stored(tmp_path, Blob.from_string(NOISE))
    readers = [pack(Fragments(), store, names) for _ in range(8)]
    tracemalloc.start()
    try:
        for reader in readers:
            assert next(reader)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / len(readers) < 800 << 10
