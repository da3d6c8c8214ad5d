"""What is put off until a revision is reported everywhere, and what happens when it does not come to that."""

import errno
from pathlib import Path

import pytest

from jlogd.attach.aftermath import WATCH_S
from jlogd.attach.configurer import SAVE_AFTER_S, TIDY_AFTER_S, Configurer
from jlogd.confrepo.model import Commit
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.fs import FILE_MODE, FileSystem
from jlogd.settings import AgentSettings, ConfigSettings, NodeSettings
from tests.support.replicas import DirectManager, Origin, content

CONFIRM_S = 20.0


class ForgetfulFs(FileSystem):
    """While ``full`` the memory of a trial can be written, and that of its confirmation cannot."""

    full = False

    def replace_bytes(self, path: Path, content: bytes, mode: int = FILE_MODE, *, sync: bool = True) -> None:
        """See the class."""
        if self.full and sync:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        super().replace_bytes(path, content, mode, sync=sync)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path)


class Process:
    """One run of a node's configurer, in the caller's thread; dropped as a kill drops it."""

    def __init__(self, spool: Path, origin: Origin, clock: ManualClock, fs: FileSystem) -> None:
        config = ConfigSettings(keep_revisions=1, confirm_timeout=CONFIRM_S)
        settings = AgentSettings(node=NodeSettings(name="web1", subcluster="web", spool=spool), config=config)
        self.configurer = Configurer.open(settings, lambda _: [], lambda _: None, fs=fs, clock=clock)
        self.manager = DirectManager("m", origin, self.configurer)
        self.configurer.set_managers(["m"])
        self.configurer._begin()
        self._clock, self._origin = clock, origin

    def follow(self, revision: Commit) -> None:
        """Until it is applied."""
        self.manager.attach(self._origin.target(revision))
        self.after(0)
        assert (self.manager.reports[-1].state, self.manager.reports[-1].id) == ("applied", revision.id)

    def after(self, seconds: float) -> None:
        """So much later."""
        self._clock.advance(seconds)
        for _ in range(2):
            self.configurer._round()


def test_old_views_stay_while_the_memory_is_not_on_the_disk(tmp_path: Path, origin: Origin) -> None:
    """It still names the revision before: killed then, and not confirmed again, the node must find its way back."""
    clock, fs = ManualClock(), ForgetfulFs()
    view = tmp_path / "spool/web1/config/current"
    node = Process(tmp_path / "spool", origin, clock, fs)
    node.follow(origin.put("global/a", "1"))
    node.after(TIDY_AFTER_S)
    second = origin.put("global/a", "2")
    fs.full = True
    node.follow(second)
    for _ in range(10):  # the aftermath is over, and it was tidied several times
        node.after(WATCH_S / 2)
    fs.full = False
    again = Process(tmp_path / "spool", origin, clock, fs)
    again.after(1)
    assert content(view) == {"a": b"2"}
    again.after(CONFIRM_S)
    assert content(view) == {"a": b"1"}


def test_killed_before_the_memory_was_saved_it_is_confirmed_again(tmp_path: Path, origin: Origin) -> None:
    """And then the disk knows: the next process applies nothing."""
    clock, fs = ManualClock(), FileSystem()
    first = origin.put("global/a", "1")
    Process(tmp_path / "spool", origin, clock, fs).follow(first)
    again = Process(tmp_path / "spool", origin, clock, fs)
    assert again.configurer.status()["state"] == "pending"
    again.follow(first)
    again.after(SAVE_AFTER_S)
    third = Process(tmp_path / "spool", origin, clock, fs)
    third.after(0)
    assert (third.configurer.status()["state"], third.configurer.status()["id"]) == ("applied", first.id)
