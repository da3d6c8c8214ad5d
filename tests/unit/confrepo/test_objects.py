"""Objects on disk: what git makes of them, what is detected, what is dropped, and readers beside a busy owner."""

import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from dulwich.objects import Blob, ShaFile, Tree

from jlogd.confrepo import objects as module
from jlogd.confrepo.loose import TEMPORARY
from jlogd.confrepo.model import Entry, Revision, Scope
from jlogd.confrepo.objects import LOOSE_BATCH_MAX, MissingError, ObjectStore
from jlogd.confrepo.packs import TEMPORARY as TEMPORARY_PACK
from jlogd.confrepo.packs import PackFile
from jlogd.confrepo.repository import Repository
from jlogd.confrepo.scope import check_scope, kept_objects
from jlogd.runtime.errors import DamageError
from jlogd.runtime.fs import OS
from tests.support.revisions import commit, fsck, git, put


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    repo = Repository.open(tmp_path / "config.git")
    yield repo
    repo.close()


def blobs(count: int, begin: int = 0) -> list[ShaFile]:
    return [Blob.from_string(b"content %d\n" % number) for number in range(begin, begin + count)]


def name_of(item: ShaFile) -> str:
    return item.id.decode()


def packs_of(store: ObjectStore) -> list[Path]:
    return sorted((store.path / "pack").glob("*.pack"))


def loose_of(store: ObjectStore) -> list[Path]:
    return [path for path in store.path.glob("??/*") if path.parent.name != "pack"]


@pytest.mark.parametrize("count", [1, LOOSE_BATCH_MAX, LOOSE_BATCH_MAX + 1, 500])
def test_git_reads_what_was_added(repo: Repository, count: int) -> None:
    """Few objects are loose, many are one pack; git sees no difference."""
    added = blobs(count)
    repo.store.add(added)
    repo.store.add(added)  # a second time changes nothing
    assert (len(loose_of(repo.store)), len(packs_of(repo.store))) == (
        (count, 0) if count <= LOOSE_BATCH_MAX else (0, 1)
    )
    fsck(repo.path)
    asked = "".join(f"{name_of(item)}\n" for item in added).encode()
    found = git(repo.path, "cat-file", "--batch=%(objecttype)", stdin=asked)
    assert found == "".join(f"blob\n{item.as_raw_string().decode()}\n" for item in added)
    assert all(repo.store.blob(name_of(item)) == item.as_raw_string() for item in added)
    assert all(name_of(item) in repo.store for item in added)


def test_a_tree_is_read_in_gits_order(repo: Repository) -> None:
    tree, blob = Tree(), Blob.from_string(b"x")
    for name, mode in ((b"a-b", 0o100755), (b"a", 0o40000), (b"link", 0o120000)):
        tree.add(name, mode, Tree().id if mode == 0o40000 else blob.id)
    repo.store.add([tree, blob, Tree()])
    found = repo.store.tree(name_of(tree))
    assert list(found) == ["a-b", "a", "link"]
    assert found["a-b"] == Entry(0o100755, blob.id.decode())  # type: ignore[arg-type]


def test_what_is_not_here_is_missing(repo: Repository) -> None:
    assert "1" * 40 not in repo.store
    with pytest.raises(MissingError, match="1111 is missing"):
        repo.store.blob("1" * 40)


def test_a_type_that_is_not_the_expected_one_is_damage(repo: Repository) -> None:
    (blob,) = blobs(1)
    repo.store.add([blob])
    with pytest.raises(DamageError, match="is a blob, a tree is needed"):
        repo.store.tree(name_of(blob))


@pytest.mark.parametrize("count", [1, 40])
def test_every_flipped_byte_on_the_disk_is_found(repo: Repository, count: int) -> None:
    """No reader gets other bytes than were written: an error, or (a byte that does not matter) the right ones."""
    added = blobs(count)
    repo.store.add(added)
    path = (packs_of(repo.store) or loose_of(repo.store))[0]
    whole = path.read_bytes()
    found = 0
    for at in range(0, len(whole), 1 if count == 1 else 11):
        path.chmod(0o600)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        for item in added:
            try:
                assert ObjectStore.open(repo.store.path).blob(name_of(item)) == item.as_raw_string()
            except DamageError:
                found += 1
                break
    assert found >= len(whole) // (1 if count == 1 else 11) - 25


def test_a_loose_object_that_claims_or_holds_too_much_is_damage(repo: Repository) -> None:
    (blob,) = blobs(1)
    repo.store.add([blob])
    (path,) = loose_of(repo.store)
    for header, content in (
        (b"blob 99999999999\0", b"x"),
        (b"blob 3\0", bytes(50 << 20)),
        (b"blob 30\0", b"x"),
        (b"", b""),
    ):
        path.write_bytes(zlib.compress(header + content))
        with pytest.raises(DamageError, match="not a git object"):
            repo.store.blob(name_of(blob))


def test_leftovers_of_a_killed_process_go_at_the_next_start(repo: Repository) -> None:
    repo.store.add(blobs(3))
    directory = loose_of(repo.store)[0].parent
    left = [directory / (TEMPORARY + "1"), repo.store.path / "pack" / (TEMPORARY_PACK + "1")]
    foreign = [directory / "tmp_obj_Xy12", repo.store.path / "pack" / "tmp_pack_Xy12"]  # git's own, perhaps at work
    for path in left + foreign:
        path.write_bytes(b"half")
    ObjectStore.open(repo.store.path)
    assert [path.exists() for path in left + foreign] == [False, False, True, True]


# ---------------------------------------------------------------------- git at work in the repository


def test_what_git_packed_is_read_deltas_included(repo: Repository) -> None:
    """``git gc`` while it is open: objects and refs move into packs, and everything is read as before."""
    text = "".join(f"line {number}\n" for number in range(300))
    for number in range(40):
        commit(repo, put("global/long.toml", text.replace(f"line {number}\n", "changed\n")))
    before = [(found.id, repo.content(repo.files(found)["global/long.toml"])) for found in repo.log()]
    git(repo.path, "gc", "--quiet", "--prune=now")
    assert not loose_of(repo.store)
    assert [(found.id, repo.content(repo.files(found)["global/long.toml"])) for found in repo.log()] == before
    again = Repository.open(repo.path)
    assert again.refs() == repo.refs()
    assert [(found.id, again.content(again.files(found)["global/long.toml"])) for found in again.log()] == before
    listing = git(repo.path, "verify-pack", "-v", *map(str, packs_of(repo.store)))
    assert "chain length = 2" in listing, "this test reads no deltas"
    commit(repo, put("global/long.toml", "after"))
    fsck(repo.path)
    again.close()


def test_packs_that_git_replaced_are_found_again(repo: Repository) -> None:
    """The old packs are gone from the disk; what comes later is in one that this store has never seen."""
    repo.store.add(blobs(100))
    commit(repo, put("global/a", "1"))
    git(repo.path, "repack", "-a", "-d", "-q")
    repo.store.add(blobs(100, 100))
    git(repo.path, "multi-pack-index", "write")
    assert all(name_of(item) in repo.store for item in blobs(100, 100))
    assert repo.content(repo.files(repo.head())["global/a"]) == b"1"


# ---------------------------------------------------------------------- packing and dropping


def test_many_loose_objects_and_many_packs_become_one_pack(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOSE_MAX", 20)
    monkeypatch.setattr(module, "PACKS_MAX", 3)
    for number in range(12):
        commit(repo, put("global/a.toml", f"n = {number}\n"))
        repo.maintain()
        assert len(loose_of(repo.store)) <= 20 + 4
        assert len(packs_of(repo.store)) <= 3
    for number in range(8):
        repo.store.add(blobs(40, 40 * number))
        repo.maintain()
        assert len(packs_of(repo.store)) <= 3
    assert packs_of(repo.store), "nothing was packed"
    fsck(repo.path)
    assert len(list(repo.log())) == 12
    assert all(repo.store.blob(name_of(item)) for item in blobs(320))


def test_few_packs_are_left_and_old_objects_are_seldom_copied(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty packs come in; what is copied is a few times their number, not the whole history each time."""
    monkeypatch.setattr(module, "PACKS_MAX", 4)
    copied = 0
    for number in range(40):
        repo.store.add(blobs(40, 40 * number))
        before = set(packs_of(repo.store))
        repo.maintain()
        copied += sum(len(PackFile(pack, OS)) for pack in set(packs_of(repo.store)) - before)
        assert len(packs_of(repo.store)) <= 6
    assert 1600 <= copied < 3 * 1600
    assert all(name_of(item) in repo.store for item in blobs(1600))


def test_packs_that_all_have_the_same_are_not_lost(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new pack may be, byte by byte, one of those that it replaces."""
    monkeypatch.setattr(module, "PACKS_MAX", 0)
    repo.store.add(blobs(100))
    for _ in range(3):
        repo.maintain()
        assert len(packs_of(repo.store)) == 1
    assert all(ObjectStore.open(repo.store.path).blob(name_of(item)) for item in blobs(100))


def test_a_kept_pack_stays(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKS_MAX", 0)
    repo.store.add(blobs(100))
    (pack,) = packs_of(repo.store)
    pack.with_suffix(".keep").touch()
    repo.store.add(blobs(100, 100))
    repo.maintain()
    assert pack in packs_of(repo.store)
    assert len(packs_of(repo.store)) == 2


def test_what_no_kept_revision_needs_is_dropped(repo: Repository) -> None:
    """A node keeps its layers of one revision, without that one's parents."""
    for number in range(3):
        last = commit(repo, put("global/a", f"{number}") | put("web/web1/b", f"{number}") | put("web/web2/c", "other"))
    old, other, own = repo.at(Revision(1)), repo.files(last)["web/web2/c"], repo.files(last)["web/web1/b"]
    scope = Scope("web", "web1")
    repo.store.keep_only(kept_objects(repo.store, [last.id], scope))
    check_scope(repo.store, last.id, scope)
    assert repo.content(own) == b"2"
    assert [name in repo.store for name in (old.id, old.tree, other.id)] == [False, False, False]
    with pytest.raises(MissingError):
        repo.store.commit(old.id)


def test_a_half_needed_pack_is_written_anew(repo: Repository) -> None:
    repo.store.add(blobs(100))
    size = packs_of(repo.store)[0].stat().st_size
    kept = {name_of(item) for item in blobs(100)[:10]}
    repo.store.keep_only(kept)
    (pack,) = packs_of(repo.store)
    assert pack.stat().st_size < size / 5
    assert {name for name in map(name_of, blobs(100)) if name in repo.store} == kept
    fsck(repo.path)


def test_readers_see_everything_while_the_owner_packs_and_drops(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three readers in a loop; the owner adds, packs loose objects and merges packs under them."""
    monkeypatch.setattr(module, "LOOSE_MAX", 10)
    monkeypatch.setattr(module, "PACKS_MAX", 2)
    done, faults, rounds = threading.Event(), list[BaseException](), [0]
    known = [commit(repo, put("global/a", "0"))]

    def read() -> None:
        try:
            while not done.is_set():
                for found in known[:]:
                    assert repo.content(repo.files(found)["global/a"])
                assert repo.resolve("HEAD~0").revision <= len(known) + 1
                repo.store.close()  # forget what is cached: read from the disk
                rounds[0] += 1
        except BaseException as error:  # noqa: BLE001 - shown by the test
            faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(25):
        known.append(commit(repo, put("global/a", f"{number}")))
        repo.maintain()
    done.set()
    for reader in readers:
        reader.join(30)
    assert faults == []
    assert rounds[0] > 4
    assert not any(reader.is_alive() for reader in readers)


def test_a_pack_costs_one_file_descriptor_until_it_is_merged(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKS_MAX", 4)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        repo.store.add(blobs(50, 50 * number))
    assert all(repo.store.blob(name_of(item)) for item in blobs(250))
    assert len(os.listdir("/proc/self/fd")) == before + 5
    repo.maintain()
    assert len(os.listdir("/proc/self/fd")) == before + 1
