"""Events and polling with real files and the real clock: quick when something happens, still when nothing does."""

import threading
import time
from pathlib import Path

import pytest

from jlogd.tail import Lines, Tailer, TailSpec
from jlogd.tail.tailer import QUIET_S
from jlogd.tail.watch import Watcher
from tests.unit.tail.harness import append


def lines_until(tailer: Tailer, count: int, timeout_s: float = 5.0) -> float:
    """Poll and wait as the intake does until ``count`` lines came; the seconds it took."""
    start_s = time.monotonic()
    while count > 0:
        assert time.monotonic() - start_s < timeout_s
        tailer.wait(1.0)
        count -= sum(item.run.record_count for item in tailer.poll(1 << 20) if isinstance(item, Lines))
    return time.monotonic() - start_s


def idle(tailer: Tailer, seconds: float) -> int:
    """Poll and wait with nothing to read; how often that woke."""
    end_s, wakes = time.monotonic() + seconds, 0
    while time.monotonic() < end_s:
        tailer.wait(min(1.0, end_s - time.monotonic()))
        tailer.poll(1 << 20)
        wakes += 1
    return wakes


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "a.log"
    path.write_bytes(b"first\n")
    return path


def test_idle_files_cost_nothing_and_wake_at_once(log: Path) -> None:
    """After the quiet time there are no wakes but the sweep; a line, a new file and a rotation wake by events."""
    tailer = Tailer([TailSpec((str(log.parent / "*.log"),))], {}, None)
    lines_until(tailer, 1)
    idle(tailer, QUIET_S + 1.5)
    cpu_s = time.process_time()
    assert idle(tailer, 2.0) <= 6
    assert time.process_time() - cpu_s < 0.1
    threading.Timer(0.2, append, (log, b"second\n")).start()
    assert lines_until(tailer, 1) < 1.0
    (log.parent / "b.log").write_bytes(b"another\n")
    assert lines_until(tailer, 1) < 1.5
    log.rename(log.parent / "a.log.1")
    log.write_bytes(b"third\n")
    assert lines_until(tailer, 1) < 1.5
    tailer.close()


def test_without_events_polling_finds_everything(
    log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel has no watch left: one warning, and lines still arrive."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("watchdog.observers.api.BaseObserver.schedule", refuse)
    tailer = Tailer([TailSpec((str(log),))], {}, None)
    lines_until(tailer, 1)
    idle(tailer, 1.2)
    append(log, b"second\n")
    assert lines_until(tailer, 1) < 2.0
    assert len([one for one in caplog.records if "polled instead" in one.message]) == 1
    tailer.close()


def test_watcher_follows_a_directory_that_is_replaced(tmp_path: Path) -> None:
    """A watch is on an inode: another directory under the same name is watched anew."""
    folder = tmp_path / "logs"
    folder.mkdir()
    watcher = Watcher()
    assert watcher.set(bytes(folder), armed=True)
    assert not watcher.set(bytes(folder), armed=True)
    folder.rename(tmp_path / "away")
    folder.mkdir()
    assert watcher.set(bytes(folder), armed=True)
    watcher.take()
    (folder / "x").write_bytes(b"1")
    watcher.wait(5.0)
    assert watcher.take()[0] == {bytes(folder)}
    watcher.close()


def test_wake_ends_a_wait(log: Path) -> None:
    """From another thread."""
    tailer = Tailer([TailSpec((str(log),))], {}, None)
    lines_until(tailer, 1)
    idle(tailer, QUIET_S + 1.5)
    threading.Timer(0.1, tailer.wake).start()
    start_s = time.monotonic()
    tailer.wait(3.0)
    assert time.monotonic() - start_s < 1.0
    tailer.close()
