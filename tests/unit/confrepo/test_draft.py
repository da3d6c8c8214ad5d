"""A view that begins with a draft is just what it would be without one; whatever is odd takes the ordinary way."""

import os
import random
import shutil
from collections.abc import Callable, Container, Iterable
from pathlib import Path

import pytest

from jlogd.confrepo import model as m
from jlogd.confrepo.draft import DRAFT
from jlogd.confrepo.layout import SYNCED_ONE_BY_ONE
from jlogd.confrepo.replica import Replica
from tests.support.faulty_fs import FaultyFs
from tests.support.replicas import Origin, content, open_replica, run
from tests.support.revisions import put

EDITS = 40 if os.environ.get("JLOGD_LONG") != "1" else 1000


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path)


@pytest.fixture
def fs() -> FaultyFs:
    return FaultyFs()


def from_draft(fs: FaultyFs, act: Callable[[], object]) -> bool:
    """Whether what ``act`` lays out begins with a draft."""
    fs.log.clear()
    act()
    return any(entry.startswith("rename .new-") for entry in fs.log)


def modes(view: Path) -> dict[str, int]:
    return {str(path.relative_to(view)): path.lstat().st_mode for path in sorted(view.rglob("*"))}


def test_a_revision_with_few_changes_begins_with_the_draft(tmp_path: Path, origin: Origin, fs: FaultyFs) -> None:
    """And is durable with few syncs: its file, its manifest, the directory, and the names at the swap."""
    replica = open_replica(tmp_path / "config", fs)
    run(replica, origin, origin.commit(put("global/d/a", "1") | put("global/d/b", "b") | put("web/web1/c", "c")))
    second = origin.put("global/d/a", "2")
    replica.make_ready()
    assert from_draft(fs, lambda: run(replica, origin, second))
    assert [entry for entry in fs.log if "sync" in entry] == [
        "datasync a",
        f"datasync .new-{second.id}.json",
        "sync_dir d",
        "sync_dir revisions",
        "sync_dir config",
    ]
    assert content(tmp_path / "config/current") == {"d/a": b"2", "d/b": b"b", "c": b"c"}
    assert not from_draft(fs, lambda: run(replica, origin, origin.put("global/d/a", "3")))  # a draft serves once


def a_change(rng: random.Random, tree: dict[str, m.File]) -> m.Changes:
    """New, changed and removed files; files that become directories, and the other way round."""
    changes: dict[str, m.File | None] = {}
    for _ in range(rng.randrange(1, 4)):
        path = "global/" + "/".join(rng.choice("abc") for _ in range(rng.randrange(1, 4)))
        for other in [other for other in tree if other.startswith(path + "/") or path.startswith(other + "/")]:
            changes[other] = None
            del tree[other]
        if path in tree and rng.random() < 0.4:
            changes[path] = None
            del tree[path]
        else:
            mode = rng.choice([0o100644, 0o100644, 0o100755, m.SYMLINK])
            tree[path] = m.File(f"target{rng.randrange(9)}".encode(), mode)
            changes[path] = tree[path]
    return {path: file for path, file in changes.items() if file is None or path in tree}


@pytest.mark.parametrize("seed", range(3))
def test_the_result_is_the_same_as_without(tmp_path: Path, origin: Origin, fs: FaultyFs, seed: int) -> None:
    """Bytes, modes, directories and manifest, over a random history."""
    rng = random.Random(seed)
    tree: dict[str, m.File] = {}
    origin.put("web/web1/kept", "kept")
    plain, drafting = open_replica(tmp_path / "plain"), open_replica(tmp_path / "drafting", fs)
    used = 0
    for _ in range(EDITS):
        changes = a_change(rng, tree)
        if not changes:
            continue
        revision = origin.commit(changes)
        wanted = run(plain, origin, revision)
        drafting.make_ready()
        used += from_draft(fs, lambda revision=revision: run(drafting, origin, revision))  # type: ignore[misc]
        made = drafting.views.path(revision.id)
        assert content(made) == content(wanted)
        assert modes(made) == modes(wanted)
        ours, theirs = (replica.views.manifest(revision.id) for replica in (drafting, plain))
        assert ours is not None
        assert theirs is not None
        assert {path: (i.mode, i.size, i.hash, i.key) for path, i in ours.files.items()} == {
            path: (i.mode, i.size, i.hash, i.key) for path, i in theirs.files.items()
        }
        assert drafting.look(full=True) == {}
        for replica in (plain, drafting):
            replica.tidy([])
    assert used > EDITS // 2


def test_many_changes_take_the_ordinary_way(tmp_path: Path, origin: Origin, fs: FaultyFs) -> None:
    replica = open_replica(tmp_path / "config", fs)
    run(replica, origin, origin.put("global/a", "a"))
    replica.make_ready()
    many = {
        path: file for number in range(SYNCED_ONE_BY_ONE + 1) for path, file in put(f"global/f{number}", "x").items()
    }
    assert not from_draft(fs, lambda: run(replica, origin, origin.commit(many)))


def undo(replica: Replica) -> None:
    replica.restore(replica.look(full=False))


def edited_in_place(view: Path, replica: Replica) -> None:
    (view / "b").write_text("edited here")


def edited_and_undone(view: Path, replica: Replica) -> None:
    """The draft's file is the edited inode, the view's is a new one again."""
    (view / "b").write_text("edited here")
    undo(replica)


def replaced_and_undone(view: Path, replica: Replica) -> None:
    (view / "mine").write_text("edited here")
    (view / "mine").rename(view / "b")
    undo(replica)


def removed_and_undone(view: Path, replica: Replica) -> None:
    (view / "b").unlink()
    undo(replica)


def added(view: Path, replica: Replica) -> None:
    (view / "mine").write_text("added here")


@pytest.mark.parametrize("what", [edited_in_place, edited_and_undone, replaced_and_undone, removed_and_undone, added])
def test_a_view_that_was_touched_takes_the_ordinary_way(
    tmp_path: Path, origin: Origin, fs: FaultyFs, what: Callable[[Path, Replica], None]
) -> None:
    """Also when the change is undone by now: the draft may have what is gone from the view."""
    replica = open_replica(tmp_path / "config", fs, local="theirs")
    view = run(replica, origin, origin.commit(put("global/a", "1") | put("global/b", "b")))
    replica.make_ready()
    what(view, replica)
    second = origin.put("global/a", "2")
    assert not from_draft(fs, lambda: run(replica, origin, second))
    assert content(tmp_path / "config/current") == {"a": b"2", "b": b"b"}


def test_local_changes_are_carried_on_although_there_is_a_draft(tmp_path: Path, origin: Origin, fs: FaultyFs) -> None:
    replica = open_replica(tmp_path / "config", fs, local="keep")
    view = run(replica, origin, origin.commit(put("global/a", "1") | put("global/b", "b")))
    replica.make_ready()
    edited_in_place(view, replica)
    assert not from_draft(fs, lambda: run(replica, origin, origin.put("global/a", "2")))
    assert content(tmp_path / "config/current") == {"a": b"2", "b": b"edited here"}


@pytest.mark.parametrize("what", ["", "sub", "sub/b"])
def test_a_draft_that_somebody_removed_is_not_missed(tmp_path: Path, origin: Origin, fs: FaultyFs, what: str) -> None:
    """All of it or one file: the revision is laid out at once, whole, nothing fails first."""
    replica = open_replica(tmp_path / "config", fs)
    run(replica, origin, origin.commit(put("global/a", "1") | put("global/sub/b", "b")))
    replica.make_ready()
    gone = tmp_path / "config/revisions" / DRAFT / what
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert not from_draft(fs, lambda: run(replica, origin, origin.put("global/a", "2")))
    assert content(tmp_path / "config/current") == {"a": b"2", "sub/b": b"b"}


def test_a_view_with_local_changes_gets_no_draft(tmp_path: Path, origin: Origin) -> None:
    replica = open_replica(tmp_path / "config")
    view = run(replica, origin, origin.put("global/b", "b"))
    edited_in_place(view, replica)
    replica.make_ready()
    assert DRAFT not in os.listdir(tmp_path / "config/revisions")


class LinklessFs(FaultyFs):
    """Knows no second name for a file."""

    def link_all(self, source: str, target: str, names: Iterable[str], tolerated: Container[int]) -> list[str]:
        """None of them."""
        self.count("link_all", Path(target))
        return list(names)


def test_where_files_have_one_name_nothing_is_prepared(tmp_path: Path, origin: Origin) -> None:
    """And it is not tried every minute."""
    fs = LinklessFs()
    replica = open_replica(tmp_path / "config", fs)
    run(replica, origin, origin.put("global/b", "b"))
    replica.make_ready()
    assert DRAFT not in os.listdir(tmp_path / "config/revisions")
    fs.log.clear()
    replica.make_ready()
    assert fs.log == []
    run(replica, origin, origin.put("global/b", "c"))
    assert content(tmp_path / "config/current") == {"b": b"c"}


def test_a_new_process_begins_without_a_draft(tmp_path: Path, origin: Origin) -> None:
    """Nobody knows any more what was done to it."""
    replica = open_replica(tmp_path / "config")
    run(replica, origin, origin.put("global/b", "b"))
    replica.make_ready()
    assert DRAFT in os.listdir(tmp_path / "config/revisions")
    open_replica(tmp_path / "config")
    assert DRAFT not in os.listdir(tmp_path / "config/revisions")


def test_what_was_received_late_is_fetched_again_after_a_kill(tmp_path: Path, origin: Origin) -> None:
    """The view is there, its objects are not: the next fetch stands on the revision before."""
    replica = open_replica(tmp_path / "config")
    first = origin.put("global/a", "1")
    run(replica, origin, first)
    replica.tidy([])
    second = origin.put("global/a", "2")
    run(replica, origin, second)
    killed, replica = replica, open_replica(tmp_path / "config")
    assert killed.has(second.id)
    assert not replica.has(second.id)
    assert replica.have() == [first.id]
    assert content(tmp_path / "config/current") == {"a": b"2"}
    third = origin.put("global/b", "3")
    assert content(run(replica, origin, third)) == {"a": b"2", "b": b"3"}


def test_a_large_pack_never_comes_to_the_disk_before_what_it_stands_on(tmp_path: Path, origin: Origin) -> None:
    replica = open_replica(tmp_path / "config")
    first = origin.put("global/a", "1")
    run(replica, origin, first)
    second = origin.commit(put("global/large", random.Random(1).randbytes(200_000).hex()))
    run(replica, origin, second)
    again = open_replica(tmp_path / "config")
    assert again.has(first.id)
    assert again.has(second.id)
