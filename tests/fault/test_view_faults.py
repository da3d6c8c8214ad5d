"""Every file operation of a node's configuration fails, tears, or is the last one before a kill or a power cut.

At every moment ``current`` is one whole revision; afterwards it is the last one that was confirmed or the one that was
under way, and the node goes on from there without help.
"""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from jlogd.attach.configurer import Configurer
from jlogd.confrepo import replica as replica_module
from jlogd.confrepo.draft import DRAFT
from jlogd.confrepo.model import Changes, Commit, File
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import JlogdError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.settings import AgentSettings, ConfigSettings, NodeSettings
from tests.support.faulty_fs import FaultyFs
from tests.support.power_cut_fs import Killed, LastWords
from tests.support.replicas import DirectManager, Origin, content
from tests.support.revisions import put

LONG = os.environ.get("JLOGD_LONG") == "1"
EACH = 1 if LONG else 53  # every N-th operation in turn
ROUNDS_MAX = 12  # until a revision runs: retries, and the way back of one that was not confirmed

MANY: Changes = {f"global/d{number % 3}/f{number}": File(b"many %d" % number) for number in range(20)}


class Life:
    """A repository of a few revisions, and what a node's view has at each."""

    def __init__(self, directory: Path) -> None:
        self.origin = Origin(directory)
        steps: list[Changes] = [
            put("global/a", "1") | put("web/web1/x/b.toml", "b = 1\n") | put("global/x/b.toml", "c = 1\n"),
            put("global/a", "2"),
            {**MANY, "global/a": None},
            put("web/web1/x/b.toml", "b = 2\n"),
        ]
        self.revisions: list[Commit] = []
        self.wanted: list[dict[str, bytes]] = []
        for step in steps:
            self.revisions.append(self.origin.commit(step))
            self.wanted.append(self._view())

    def _view(self) -> dict[str, bytes]:
        """As a node without a past lays it out."""
        files = self.origin.repository.files(self.origin.repository.head())
        found = {path.removeprefix("global/"): entry for path, entry in files.items() if path.startswith("global/")}
        view = {path: self.origin.repository.content(entry) for path, entry in found.items()}
        number = self.origin.repository.content(files["web/web1/x/b.toml"])
        return view | {"x/b.toml": b"c = 1\n" + number}


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return Life(tmp_path_factory.mktemp("origin"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old revisions and their objects go at once."""
    monkeypatch.setattr(replica_module, "DROPPED_MAX", 1)


class Node:
    """One node's directory over several processes; everything happens in the caller's thread."""

    def __init__(self, life: Life, directory: Path) -> None:
        self.life = life
        self.directory = directory
        self.clock = ManualClock()
        self.confirmed = -1  # index of the revision that a manager was told to run here
        self.asked = -1

    def open(self, fs: FileSystem) -> tuple[Configurer, DirectManager]:
        config = ConfigSettings(keep_revisions=1, confirm_timeout=1.0)
        settings = AgentSettings(node=NodeSettings(name="web1", subcluster="web", spool=self.directory), config=config)
        configurer = Configurer.open(settings, lambda _overlay: [], self._fail, fs=fs, clock=self.clock)
        manager = DirectManager("m", self.life.origin, configurer)
        configurer.set_managers(["m"])
        configurer._begin()
        return configurer, manager

    def _fail(self, error: BaseException) -> None:
        raise AssertionError from error

    def run(self, fs: FileSystem, *, first: int = 0, rounds_max: int = ROUNDS_MAX) -> bool:
        """Follow the revisions one after the other; whether the last one runs."""
        configurer, manager = self.open(fs)
        manager.attach()
        for index in range(first, len(self.life.revisions)):
            revision = self.life.revisions[index]
            self.asked = index
            manager.tell(self.life.origin.target(revision))
            for _ in range(rounds_max):
                configurer._round()
                self.check_whole()
                if manager.reports and (manager.reports[-1].state, manager.reports[-1].id) == ("applied", revision.id):
                    self.confirmed = index
                    self.clock.advance(1.5)
                    configurer._round()  # the next one is prepared
                    self.check_whole()
                    break
                self.clock.advance(70.0)
            else:
                return False
        self.clock.advance(70.0)
        configurer._round()  # old revisions go
        return True

    @property
    def view(self) -> dict[str, bytes] | None:
        current = self.directory / "web1/config/current"
        return content(current) if os.path.lexists(current) else None

    def check_whole(self) -> None:
        """``current`` is one of the revisions, or there never was one."""
        view = self.view
        assert view in self.life.wanted or (view is None and self.confirmed == -1), view

    def check(self, what: Any) -> None:
        """As a new process finds it, and how it goes on."""
        view = self.view
        allowed = [self.life.wanted[index] for index in {self.confirmed, self.asked} if index >= 0]
        assert view in allowed or (view is None and self.confirmed == -1), (what, view)
        assert self.run(OS, first=max(self.asked, 0)), what
        assert self.view == self.life.wanted[-1], what
        config = self.directory / "web1/config"
        last = self.life.revisions[-1].id
        assert set(os.listdir(config / "revisions")) - {DRAFT} == {last, f"{last}.json"}, what
        assert not [name for name in os.listdir(config) if name.startswith((".new", "current."))], what


def operations(life: Life, tmp_path: Path) -> range:
    """Numbers of the operations to fail; a whole life makes that many."""
    fs = FaultyFs()
    node = Node(life, tmp_path / "count")
    assert node.run(fs)
    node.check("nothing failed")
    assert fs.operations > 150
    return range(1, fs.operations + 1, EACH)


@pytest.mark.parametrize("torn", [0.0, 0.6])
def test_one_failing_operation_is_only_a_delay(life: Life, tmp_path: Path, torn: float) -> None:
    """The disk says no once: the node tries again by itself."""
    for number in operations(life, tmp_path):
        node = Node(life, tmp_path / f"{number}")
        fs = FaultyFs(number, torn=torn, error=errno.EIO)
        try:
            assert node.run(fs), number
        except JlogdError:  # at the start: jlogd opens it again later
            assert node.asked == -1
        node.check(number)


@pytest.mark.parametrize("torn", [0.0, 0.6])
def test_dying_at_any_operation_leaves_the_old_or_the_new(life: Life, tmp_path: Path, torn: float) -> None:
    """A full disk that stays full, then a new process."""
    for number in operations(life, tmp_path):
        node = Node(life, tmp_path / f"{number}")
        try:
            node.run(FaultyFs(number, torn=torn, sticky=True), rounds_max=3)
        except JlogdError:
            assert node.asked == -1
        node.check(number)


def test_a_power_cut_at_any_moment_leaves_the_old_or_the_new(life: Life, tmp_path: Path) -> None:
    """Killed at every N-th event, then what was not synced goes, as a disk may lose it."""
    count = LastWords(tmp_path / "side")
    node = Node(life, tmp_path / "count")
    assert node.run(count)
    total = (1 << 30) - count.left
    assert total > 200
    for number in range(1, total, EACH):
        for seed in range(3 if LONG else 1):
            fs = LastWords(tmp_path / f"side-{number}-{seed}", number)
            node = Node(life, tmp_path / f"{number}-{seed}")
            with pytest.raises(Killed):
                node.run(fs)
            done = fs.cut(1000 * seed + number)
            node.check((number, seed, done))


def test_a_power_cut_after_the_report_never_loses_the_revision(life: Life, tmp_path: Path) -> None:
    """What a manager was told is applied is what runs after the power came back."""
    for seed in range(30 if LONG else 3):
        fs = LastWords(tmp_path / f"side-{seed}")
        node = Node(life, tmp_path / f"{seed}")
        assert node.run(fs)
        fs.cut(seed)
        assert node.view == life.wanted[-1]
        configurer, manager = node.open(OS)
        manager.attach()
        configurer._round()
        assert (manager.reports[-1].state, manager.reports[-1].id) == ("applied", life.revisions[-1].id)
