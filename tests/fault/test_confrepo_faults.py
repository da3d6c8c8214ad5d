"""Every file operation of a configuration repository fails, tears, or is the last one before the power goes.

Afterwards each ref is what it was or what it was to become, everything reachable from it is there and right, git finds
nothing wrong, and an advance that returned is never lost.
"""

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from dulwich.objects import Blob

from jlogd.confrepo import objects
from jlogd.confrepo.model import Changes, CommitId, File, Scope
from jlogd.confrepo.objects import ObjectStore
from jlogd.confrepo.repository import CONFIRMED, MAIN, SIDE, Repository
from jlogd.confrepo.scope import check_scope, kept_objects
from jlogd.runtime.errors import StorageError
from jlogd.runtime.fs import OS, FileSystem
from tests.support.faulty_fs import FaultyFs
from tests.support.power_cut_fs import Killed, LastWords
from tests.support.revisions import NOON, commit, fsck, put, store

LONG = os.environ.get("JLOGD_LONG") == "1"
EACH = 1 if LONG else 11  # every N-th operation in turn
GIT_EACH = 1 if LONG else 6  # git looks at every N-th outcome
LIMIT = 16 << 20

Updates = Mapping[str, tuple[CommitId | None, CommitId | None]]


def many(text: str, count: int = 40) -> dict[str, File | None]:
    """More files than are stored as loose objects."""
    return {f"web/web{number}/a": File(f"{text} {number}".encode()) for number in range(count)}


class Story:
    """What a manager does in its life, in few steps; knows what was confirmed and what was being asked."""

    def __init__(self, path: Path, fs: FileSystem, foreign: list[bytes]) -> None:
        self.path = path
        self.fs = fs
        self.foreign = foreign  # a pack of another manager's
        self.confirmed: dict[str, CommitId] = {}
        self.asked: Updates = {}

    def run(self, again: Callable[[], bool] = lambda: False) -> None:
        """All steps; one that fails is repeated as long as ``again`` says so."""
        repo = self._repeated(lambda: Repository.open(self.path, fs=self.fs), again)
        for step in (self.begin, self.change, self.change, self.name_more, self.receive, self.move, self.forget):
            self._repeated(lambda step=step: step(repo), again)  # type: ignore[misc]
            self._repeated(repo.maintain, again)
        repo.close()

    @staticmethod
    def _repeated(step: Callable[[], Repository | None], again: Callable[[], bool]) -> Repository:
        while True:
            try:
                return step()  # type: ignore[return-value]
            except StorageError:
                if not again():
                    raise

    def advance(self, repo: Repository, updates: Updates) -> None:
        self.asked = updates
        repo.advance(updates)
        self.confirmed = repo.refs()
        self.asked = {}

    def _commit(self, repo: Repository, changes: Changes) -> None:
        head = repo.head()
        self.advance(repo, {MAIN: (head.id if head else None, store(repo, changes, parent=head))})

    def begin(self, repo: Repository) -> None:
        self._commit(repo, many("first"))

    def change(self, repo: Repository) -> None:
        self._commit(repo, put("global/a.toml", f"n = {len(list(repo.log()))}\n"))

    def name_more(self, repo: Repository) -> None:
        main = repo.ref(MAIN)
        self.advance(repo, {CONFIRMED: (repo.ref(CONFIRMED), main), SIDE + "m2-r3": (repo.ref(SIDE + "m2-r3"), main)})

    def receive(self, repo: Repository) -> None:
        repo.receive(self.foreign, bytes_max=LIMIT)

    def move(self, repo: Repository) -> None:
        head = repo.head()
        assert head is not None
        last = CommitId(OTHER["id"])
        self.advance(repo, {SIDE + "foreign": (repo.ref(SIDE + "foreign"), last)})

    def forget(self, repo: Repository) -> None:
        self.advance(repo, {SIDE + "m2-r3": (repo.ref(SIDE + "m2-r3"), None)})

    def check(self, number: int) -> None:
        """As a new process finds it."""
        repo = Repository.open(self.path)
        found = repo.refs()
        for name in {*found, *self.confirmed, *self.asked}:
            allowed = {self.confirmed.get(name)} | ({self.asked[name][1]} if name in self.asked else set())
            assert found.get(name) in allowed, f"operation {number}: {name}"
        for tip in found.values():
            check_scope(repo.store, tip, None)
        if number // EACH % GIT_EACH == 0:
            fsck(self.path)
        head = repo.head()
        assert commit(repo, put("global/after", f"{number}")).revision == (head.revision + 1 if head else 1)
        repo.close()


OTHER: dict[str, str] = {}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """History of another manager: more objects than become loose ones."""
    repo = Repository.open(tmp_path_factory.mktemp("other") / "config.git")
    commit(repo, many("other"))
    last = commit(repo, put("global/b", "other"))
    OTHER["id"] = last.id
    pieces = list(repo.pack([last.id], []))
    repo.close()
    return pieces


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that loose objects and packs are packed within the story."""
    monkeypatch.setattr(objects, "LOOSE_MAX", 6)
    monkeypatch.setattr(objects, "PACKS_MAX", 1)


def operations(tmp_path: Path, foreign: list[bytes]) -> Iterable[int]:
    """Numbers of the operations to fail; the story makes that many."""
    fs = FaultyFs()
    Story(tmp_path / "count", fs, foreign).run()
    assert fs.operations > 150
    assert len(list((tmp_path / "count/objects/pack").glob("*.pack"))) == 1, "nothing was merged"
    return range(1, fs.operations + 1, EACH)


@pytest.mark.parametrize("torn", [0.0, 0.6])
def test_one_failing_operation_loses_nothing(tmp_path: Path, foreign: list[bytes], torn: float) -> None:
    """The disk says no once; the same call again succeeds, and the story goes on with the same process."""
    for number in operations(tmp_path, foreign):
        fs = FaultyFs(number, error=errno.EIO, torn=torn)
        story = Story(tmp_path / str(number), fs, foreign)
        tries = itertools.count()
        story.run(again=lambda tries=tries: next(tries) < 2)  # type: ignore[misc]
        assert set(story.confirmed) == {MAIN, CONFIRMED, SIDE + "foreign"}
        story.check(number)


@pytest.mark.parametrize("torn", [0.0, 0.6])
def test_dying_at_any_operation_leaves_the_old_or_the_new(tmp_path: Path, foreign: list[bytes], torn: float) -> None:
    for number in operations(tmp_path, foreign):
        story = Story(tmp_path / str(number), FaultyFs(number, error=errno.ENOSPC, torn=torn, sticky=True), foreign)
        with contextlib.suppress(StorageError):  # the last operations save the line's file, whose loss is harmless
            story.run()
        story.check(number)


def test_a_power_cut_at_any_moment_loses_nothing_that_was_confirmed(tmp_path: Path, foreign: list[bytes]) -> None:
    """Killed at every N-th event, then what was not synced goes, as a disk may lose it."""
    count = LastWords(tmp_path / "side")
    Story(tmp_path / "count", count, foreign).run()
    total = (1 << 30) - count.left
    assert total > 200
    for number in range(1, total, EACH):
        for seed in range(3 if LONG else 1):
            side = tmp_path / f"side-{number}-{seed}"
            fs = LastWords(side, number)
            story = Story(tmp_path / f"{number}-{seed}", fs, foreign)
            with pytest.raises(Killed):
                story.run()
            fs.cut(1000 * seed + number)
            story.check(number)


def test_what_a_killed_process_left_visible_is_durable_before_it_is_built_on(tmp_path: Path) -> None:
    """Names that were never synced: a second process finds the objects, points a ref to them, and the power goes."""
    for seed in range(10):
        fs = LastWords(tmp_path / f"side{seed}")
        path = tmp_path / f"{seed}"
        repo = Repository.open(path, fs=fs)
        draft = repo.draft(None, put("global/a", "1"), author="operator:alice", message="change", time_s=NOON)
        commit_id, sealed = repo.seal(draft.content)
        repo.store.add(draft.objects)
        real = fs.sync_dir

        def last(path: Path, real: Callable[[Path], None] = real) -> None:
            if len(path.name) == 2:  # the directory of a loose object: its name is there, and not durable
                raise Killed
            real(path)

        fs.sync_dir = last  # type: ignore[method-assign]
        with pytest.raises(Killed):
            repo.store.add([sealed])
        fs.sync_dir = real  # type: ignore[method-assign]
        again = Repository.open(path, fs=fs)
        assert commit_id in again.store
        head = commit(again, put("global/a", "1"))
        assert head.id == commit_id
        fs.cut(seed)
        after = Repository.open(path)
        assert after.head() == head
        check_scope(after.store, head.id, None)


WEB1 = Scope("web", "web1")


def node_story(path: Path, fs: FileSystem, source: Repository, had: list[CommitId]) -> None:
    """A node fetches revision after revision and keeps the last two."""
    store = ObjectStore.open(path, fs=fs)
    for revision in reversed(list(source.log())):
        store.receive(source.pack([revision.id], had[-1:]), bytes_max=LIMIT)
        had.append(revision.id)
        store.keep_only(kept_objects(store, had[-2:], WEB1))


def test_a_node_keeps_what_it_needs_at_any_failing_operation(tmp_path: Path, foreign: list[bytes]) -> None:
    source = Repository.open(tmp_path / "source.git")
    for number in range(4):
        commit(source, many(f"{number}") | put("global/a", f"{number}"))
    count = FaultyFs()
    node_story(tmp_path / "count", count, source, [])
    for number in range(1, count.operations + 1, EACH):
        had: list[CommitId] = []
        with pytest.raises(StorageError):
            node_story(tmp_path / str(number), FaultyFs(number, sticky=True, torn=0.5), source, had)
        store = ObjectStore.open(tmp_path / str(number))
        for commit_id in had[-2:]:
            check_scope(store, commit_id, WEB1)
    source.close()


def test_an_object_of_a_failed_batch_is_not_taken_for_durable(tmp_path: Path) -> None:
    """The directory's sync fails, the object is visible: the next call must not build on it without a sync."""
    for seed in range(10):
        fs = LastWords(tmp_path / f"side{seed}")
        store = ObjectStore.open(tmp_path / f"{seed}" / "objects", fs=fs)
        blob = Blob.from_string(b"x")
        real = fs.sync_dir
        calls = itertools.count()

        def failing(path: Path, real: Callable[[Path], None] = real, calls: Iterator[int] = calls) -> None:
            if next(calls) == 1:  # the new directory's own name was synced
                raise OSError(errno.EIO, "no", str(path))
            real(path)

        fs.sync_dir = failing  # type: ignore[method-assign]
        with pytest.raises(StorageError):
            store.add([blob])
        assert blob.id.decode() in store
        store.add([blob])
        fs.cut(seed)
        assert ObjectStore.open(tmp_path / f"{seed}" / "objects", fs=OS).blob(blob.id.decode()) == b"x"
