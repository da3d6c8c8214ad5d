"""A full disk: say so, lose nothing, go on when there is space. On a small tmpfs, which takes root to mount."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compare import compare_whole
from tests.support.daemon import until
from tests.support.fleet import Fleet, Tail
from tests.support.lines import block, bodies

DISK_BYTES = 8 << 20
POOL = bodies(11)


def _mount(directory: Path) -> None:
    directory.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs takes root: the full disk is not tested here")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0750", "jlogd-test", str(directory)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no tmpfs to be had: {done.stderr.decode().strip()}: the full disk is not tested here")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    _mount(directory)
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def _fill(directory: Path) -> Path:
    """Take every free byte."""
    ballast = directory / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def test_a_full_spool(tmp_path: Path, small_disk: Path) -> None:
    """The agent names the fault in `status`, keeps its place in the files, and goes on by itself."""
    log = tmp_path / "app.log"
    log.write_bytes(block(b"app", 0, 1000, POOL))
    with Fleet(tmp_path / "fleet") as fleet:
        manager = fleet.manager("m1")
        node = fleet.node("n1", [Tail("app", (str(log),))], [manager], spool=small_disk / "spool")
        fleet.start()
        fleet.settle(20)
        ballast = _fill(small_disk)
        with log.open("ab") as file:
            file.write(block(b"app", 1000, 5000, POOL))
        until(lambda: node.status()["journals"][0]["error"], 20, "status names the full disk")
        assert "space" in node.status()["journals"][0]["error"]
        assert "space" in node.status()["sources"][0]["error"]
        assert node.log.read_text().count("waiting for space") == 1
        assert node.command("drain", "--timeout", "1s").code == 7  # lines that are read but not on disk are not done
        ballast.unlink()
        fleet.settle(30)
        assert node.status()["journals"][0]["error"] is None
        assert compare_whole(manager.archive("n1", "app"), log) == ""
        assert node.stop() == 0


def test_kill_on_a_full_spool_and_start_on_it(tmp_path: Path, small_disk: Path) -> None:
    """Killed with the disk full; the next start works on the full disk or says why not, and loses nothing."""
    log = tmp_path / "app.log"
    log.write_bytes(block(b"app", 0, 1000, POOL))
    with Fleet(tmp_path / "fleet") as fleet:
        manager = fleet.manager("m1")
        node = fleet.node("n1", [Tail("app", (str(log),))], [manager], spool=small_disk / "spool")
        fleet.start()
        fleet.settle(20)
        ballast = _fill(small_disk)
        with log.open("ab") as file:
            file.write(block(b"app", 1000, 5000, POOL))
        until(lambda: node.status()["journals"][0]["error"], 20, "status names the full disk")
        node.kill()
        node.start()
        until(lambda: not node.running or node.answers(), 20, "it runs or has ended")
        if not node.running:
            assert node.wait() == 1
            assert "space" in node.tail()
        ballast.unlink()
        if not node.running:
            node.start()
            node.ready()
        fleet.settle(30)
        assert compare_whole(manager.archive("n1", "app"), log) == ""


def test_a_full_archive(tmp_path: Path, small_disk: Path) -> None:
    """The manager acknowledges nothing that it could not sync, and goes on when there is space; the node keeps all."""
    log = tmp_path / "app.log"
    log.write_bytes(block(b"app", 0, 1000, POOL))
    with Fleet(tmp_path / "fleet") as fleet:
        manager = fleet.manager("m1")
        text = manager.settings.read_text().replace('data = "data"', f'data = "{small_disk}/data"')
        manager.settings.write_text(text)
        manager.data = small_disk / "data"
        manager.control = manager.data / "control.sock"
        node = fleet.node("n1", [Tail("app", (str(log),))], [manager])
        fleet.start()
        fleet.settle(20)
        ballast = _fill(small_disk)
        with log.open("ab") as file:
            file.write(block(b"app", 1000, 5000, POOL))
        until(lambda: node.status()["journals"][0]["end"] == 5000, 20, "the node has journalled everything")
        until(lambda: "space" in manager.log.read_text(), 20, "the manager says that its disk is full")
        assert node.status()["subscribers"][0]["checkpoint"] < 5000
        ballast.unlink()
        fleet.settle(40)
        assert compare_whole(manager.archive("n1", "app"), log) == ""
