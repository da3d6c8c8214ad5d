"""Packs from strangers: whole or refused, within the limits, ids computed from the bytes."""

import hashlib
import random
import struct
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pytest
from dulwich.objects import Blob, Commit, ShaFile, Tree
from dulwich.pack import create_delta, write_pack_index_v2

from jlogd.confrepo.commits import compose
from jlogd.confrepo.contents import object_id
from jlogd.confrepo.model import ObjectId
from jlogd.confrepo.objects import ObjectStore
from jlogd.confrepo.packformat import PIECE_BYTES, pack_entry, pack_pieces
from jlogd.confrepo.packindex import PackIndex
from jlogd.runtime.errors import DamageError
from tests.support.revisions import git

LIMIT = 1 << 20
BASE = b"".join(b"line %d\n" % number for number in range(200))
CHANGED = BASE.replace(b"line 100\n", b"line one hundred\n")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    store = ObjectStore.open(tmp_path / "objects")
    yield store
    store.close()


def pack(entries: Sequence[bytes], count: int | None = None) -> bytes:
    return b"".join(pack_pieces(len(entries) if count is None else count, entries))


def header(kind: int, size: int) -> bytes:
    first, size = (kind << 4) | (size & 15), size >> 4
    out = bytearray()
    while size:
        out.append(first | 0x80)
        first, size = size & 0x7F, size >> 7
    out.append(first)
    return bytes(out)


def offset_delta(distance: int, delta: bytes) -> bytes:
    encoded = [distance & 0x7F]
    while distance := distance >> 7:
        distance -= 1
        encoded.insert(0, 0x80 | (distance & 0x7F))
    return header(6, len(delta)) + bytes(encoded) + zlib.compress(delta)


def id_delta(base: bytes, delta: bytes) -> bytes:
    return header(7, len(delta)) + Blob.from_string(base).sha().digest() + zlib.compress(delta)


def delta_of(base: bytes, target: bytes) -> bytes:
    return b"".join(create_delta(base, target))


def read(store: ObjectStore, wire: bytes, limit: int = LIMIT) -> list[ShaFile]:
    return store.read_pack([wire[at : at + 100] for at in range(0, len(wire), 100)], bytes_max=limit)


def contents(found: Sequence[ShaFile]) -> set[bytes]:
    return {item.as_raw_string() for item in found}


def test_git_takes_our_packs(store: ObjectStore, tmp_path: Path) -> None:
    """In pieces of at most 1 MiB, from an object that is larger than a piece as well."""
    objects = [Blob.from_string(random.Random(1).randbytes(3 << 20)), Blob.from_string(b""), Tree()]
    store.add(objects)
    pieces = list(store.write_pack([item.id.decode() for item in objects]))
    assert len(pieces) >= 3
    assert max(map(len, pieces)) <= PIECE_BYTES
    git(tmp_path, "init", "-q", "--bare", "other")
    git(tmp_path / "other", "index-pack", "--stdin", "--strict", stdin=b"".join(pieces))
    git(tmp_path / "other", "fsck", "--strict")
    assert {item.id for item in read(store, b"".join(pieces), 16 << 20)} == {item.id for item in objects}


def test_deltas_within_the_pack_are_resolved_whatever_their_order(store: ObjectStore) -> None:
    base, delta = pack_entry(3, BASE), delta_of(BASE, CHANGED)
    second = delta_of(CHANGED, BASE[:50])
    for entries in (
        [base, offset_delta(len(base), delta)],
        [base, id_delta(BASE, delta)],
        [id_delta(BASE, delta), base],
        [id_delta(CHANGED, second), id_delta(BASE, delta), base],
        [base, offset_delta(len(base), delta), id_delta(CHANGED, second)],
    ):
        assert contents(read(store, pack(entries))) >= {BASE, CHANGED}


@pytest.mark.parametrize("few", [True, False])
def test_received_objects_are_on_the_disk(store: ObjectStore, few: bool) -> None:
    base = pack_entry(3, BASE)
    more = [] if few else [pack_entry(3, b"%d" % number) for number in range(100)]
    wire = pack([base, offset_delta(len(base), delta_of(BASE, CHANGED)), *more])
    ids = store.receive([wire], bytes_max=LIMIT)
    assert len(ids) == 2 + len(more)
    again = ObjectStore.open(store.path)
    assert {again.blob(name) for name in ids} >= {BASE, CHANGED}
    assert len(list((store.path / "pack").glob("*.pack"))) == (0 if few else 1)


def test_every_truncation_is_refused(store: ObjectStore) -> None:
    base = pack_entry(3, BASE)
    wire = pack([base, offset_delta(len(base), delta_of(BASE, CHANGED)), pack_entry(2, b"")])
    for length in range(len(wire)):
        with pytest.raises(DamageError):
            read(store, wire[:length])


def test_every_flipped_bit_is_refused_by_the_checksum(store: ObjectStore) -> None:
    wire = pack([pack_entry(3, BASE)])
    for at in range(len(wire)):
        with pytest.raises(DamageError):
            read(store, wire[:at] + bytes([wire[at] ^ (1 << at % 8)]) + wire[at + 1 :])


def test_any_damage_with_a_right_checksum_is_refused_or_has_another_id(store: ObjectStore) -> None:
    """A stranger who computes the checksum as well: no other exception, no object under a wrong id."""
    chance = random.Random(7)
    base = pack_entry(3, BASE)
    tree = Tree()
    tree.add(b"a", 0o100644, Blob.from_string(BASE).id)
    entries = [
        base,
        offset_delta(len(base), delta_of(BASE, CHANGED)),
        id_delta(BASE, delta_of(BASE, b"x")),
        pack_entry(2, tree.as_raw_string()),
    ]
    whole = pack(entries)[:-20]
    refused = 0
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(12, len(damaged))] = chance.randrange(256)
        wire = bytes(damaged) + hashlib.sha1(damaged, usedforsecurity=False).digest()
        try:
            for item in read(store, wire):
                assert object_id(item.type_num, item.as_raw_string()) == item.id.decode()
        except DamageError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([id_delta(BASE, delta_of(BASE, CHANGED))], "outside"),
        ([offset_delta(500, delta_of(BASE, CHANGED))], "outside"),
        ([pack_entry(3, b"1"), offset_delta(5, delta_of(b"1", b"2"))], "outside"),  # the middle of an object
        ([id_delta(CHANGED, delta_of(CHANGED, BASE)), id_delta(BASE, delta_of(BASE, CHANGED))], "outside"),  # a cycle
        ([pack_entry(3, BASE), id_delta(BASE, delta_of(CHANGED, BASE))], "applied"),
        ([pack_entry(3, BASE), id_delta(BASE, b"\x80")], "cut off"),
        ([pack_entry(3, BASE), pack_entry(3, BASE)], "twice"),
        ([header(5, 1) + zlib.compress(b"x")], "unknown type"),
        ([header(3, 2) + zlib.compress(b"x")], "not as long"),
        ([header(3, 1) + zlib.compress(b"xyz")], "not as long"),
        ([header(3, 1) + b"not zlib at all"], "inflate"),
        ([pack_entry(1, b"tree of nothing")], "commit"),
        ([pack_entry(2, b"100644 a\0short")], "tree"),
        ([pack_entry(2, b"100644 ..\0" + bytes(20))], "name"),
        ([pack_entry(2, b"100644 a/b\0" + bytes(20))], "name"),
        ([pack_entry(2, b"100644 \0" + bytes(20))], "name"),
        ([pack_entry(2, (b"100644 a\0" + bytes(20)) * 2)], "name"),
        ([pack_entry(3, b"x") + b"more"], "after its last"),
    ],
)
def test_bad_packs_are_refused_with_a_reason(store: ObjectStore, entries: list[bytes], reason: str) -> None:
    with pytest.raises(DamageError, match=reason):
        read(store, pack(entries))
    with pytest.raises(DamageError, match=reason):
        store.receive([pack(entries)], bytes_max=LIMIT)
    assert list(store.path.glob("pack/*")) == []


def test_claims_cost_nothing(store: ObjectStore) -> None:
    """Counts, sizes and bombs: refused with little memory, before anything is made of them."""
    bomb = zlib.compress(bytes(64 << 20))
    copies = b"\x90\xff" * 60_000  # each copies 255 bytes
    amplified = header(6, len(copies) + 7) + b"\x10" + zlib.compress(b"\xff\x03" + b"\xff\xff\xff\x7f" + copies)
    wires = [
        pack([pack_entry(3, b"x")], count=0xFFFFFFFF),
        pack([header(3, 1 << 40) + bomb]),
        pack([header(3, 100) + bomb]),
        pack([header(3, LIMIT - 1) + bomb]),
        pack([pack_entry(3, b"x" * 400_000), pack_entry(3, b"y" * 400_000), pack_entry(3, b"z" * 400_000)]),
        pack([pack_entry(3, b"x" * 511), amplified]),
        struct.pack(">4sLL", b"PACK", 3, 0) + bytes(20),
        pack([])[:-1] + b"\0",
    ]
    tracemalloc.start()
    for wire in wires:
        with pytest.raises(DamageError):
            read(store, wire)
    assert tracemalloc.get_traced_memory()[1] < 8 * LIMIT
    tracemalloc.stop()


def test_a_pack_beyond_its_limit_is_refused_while_it_comes(store: ObjectStore) -> None:
    """The sender is not listened to any longer, and nothing stays on the disk."""
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(100_000)

    for take in (store.receive, store.read_pack):
        with pytest.raises(DamageError, match="larger than"):
            take(endless(), bytes_max=LIMIT)
    assert asked <= 24
    assert list(store.path.glob("pack/*")) == []


def test_commits_and_trees_come_as_they_are(store: ObjectStore) -> None:
    tree = Tree()
    commit = Commit.from_string(compose(ObjectId(tree.id.decode()), None, "operator:alice", 5, "first"))
    found = read(store, pack([pack_entry(1, commit.as_raw_string()), pack_entry(2, b"")]))
    assert {item.id for item in found} == {commit.id, tree.id}


# ---------------------------------------------------------------------- the index


def an_index(offsets: Sequence[int]) -> tuple[list[bytes], bytes]:
    """Sorted ids, many of one first byte, and the index that says where they are."""
    ids = sorted(hashlib.sha256(b"%d" % number).digest()[:19] for number in range(len(offsets)))
    names = [bytes([number % 3]) + name for number, name in enumerate(ids)]
    file = BytesIO()
    write_pack_index_v2(file, sorted((name, at, 7) for name, at in zip(names, offsets, strict=True)), bytes(20))
    return names, file.getvalue()


def test_every_id_is_found_and_no_other_one() -> None:
    """Large offsets as well; and bytes that are an id only across two ids."""
    offsets = [*range(12, 500), (1 << 31) - 1, 1 << 31, (1 << 40) + 5]
    names, stored = an_index(offsets)
    index = PackIndex(stored)
    assert [index.offset(name) for name in names] == offsets
    assert list(index.names()) == sorted(name.hex() for name in names)
    joined = b"".join(sorted(names))
    across = [joined[at : at + 20] for at in range(1, len(joined) - 20) if at % 20]
    assert not any(index.offset(name) for name in across if name not in names)
    assert index.offset(b"\xff" * 20) is index.offset(bytes(20)) is None


def test_a_damaged_index_is_noticed() -> None:
    _, stored = an_index(range(12, 40))
    for at in range(len(stored)):
        for damaged in (stored[:at], stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]):
            with pytest.raises(DamageError):
                PackIndex(damaged)


def test_an_index_that_lies_is_noticed() -> None:
    """With a right checksum: counts that go down, or beyond the file; an offset beyond its table."""
    names, stored = an_index([1 << 31])

    def lying(at: int, value: int) -> bytes:
        body = stored[:at] + struct.pack(">L", value) + stored[at + 4 : -20]
        return body + hashlib.sha1(body, usedforsecurity=False).digest()

    for counts in (lying(8, 5), lying(8 + 4 * 255, 1 << 30)):
        with pytest.raises(DamageError, match="counts"):
            PackIndex(counts)
    with pytest.raises(DamageError, match="out of range"):
        PackIndex(lying(8 + 1024 + 24, (1 << 31) + 1)).offset(names[0])
