"""A real follower process, killed -9 again and again, while real files are rotated in every way.

The child appends what it reads to a file of pickles (its journal in miniature); a torn
last pickle is what was not committed. In the end each generation must stand there once,
byte for byte.
"""

import gzip
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jlogd.tail import Lines, Note, Tailer, TailSpec
from jlogd.tail.model import Item
from tests.unit.tail.harness import Collector

LONG = bool(os.environ.get("JLOGD_LONG"))
LINES = 2_000_000 if LONG else 60_000
KILLS = 60 if LONG else 6
KEEP = 40


def load(journal: Path) -> tuple[Collector, int]:
    """What is committed, and where it ends in the file."""
    found, end = Collector(), 0
    if journal.exists():
        with journal.open("rb") as file:
            while True:
                try:
                    item: Item = pickle.load(file)  # noqa: S301  # our own child wrote it
                except (EOFError, pickle.UnpicklingError):
                    break
                found.append(item)
                end = file.tell()
    return found, end


def follow(journal: Path, pattern: str) -> None:
    """The child: follow for ever, append each item."""
    known, end = load(journal)
    with journal.open("ab") as file:
        file.truncate(end)
        tailer = Tailer([TailSpec((pattern,), rotate_wait_s=0.5)], known.sources(), known)
        while True:
            for item in tailer.poll(1 << 20):
                file.write(pickle.dumps(item))
            file.flush()
            tailer.wait(0.5)


class Writer:
    """Writes numbered lines and rotates."""

    def __init__(self, log: Path, seed: int) -> None:
        self.log, self.random = log, random.Random(seed)
        self.generations, self.rotated = [b""], 0
        self.line = 0

    def write(self, lines: int) -> None:
        """One burst; its end may be in the middle of a line."""
        words = (
            f"{self.line + at:08d} some words of a log line that is about as long as they are\n" for at in range(lines)
        )
        text = "".join(words).encode()
        self.line += lines
        middle = self.random.randrange(len(text))
        for part in (text[:middle], text[middle:]):
            with self.log.open("ab", buffering=0) as file:
                file.write(part)
        self.generations[-1] += text

    def rotate(self) -> None:
        """Numbered names, all kept; some are compressed."""
        names = sorted(self.log.parent.glob("app.log.*"), key=lambda path: -int(path.name.split(".")[2]))
        for path in names:
            parts = path.name.split(".")
            path.rename(path.with_name(".".join(["app.log", str(int(parts[2]) + 1), *parts[3:]])))
        target = self.log.with_name("app.log.1")
        if self.random.random() < 0.5:
            self.log.rename(target)
        else:
            shutil.copyfile(self.log, target)
            os.truncate(self.log, 0)
        self.generations.append(b"")
        self.rotated += 1
        second = self.log.with_name("app.log.2")
        if second.exists() and self.random.random() < 0.5:
            beside = second.with_name("app.log.2.gz")
            beside.write_bytes(gzip.compress(second.read_bytes(), 1))
            second.unlink()


@pytest.mark.fault
@pytest.mark.timeout(1800 if LONG else 110)
def test_kills_and_rotations(tmp_path: Path) -> None:
    """No line is lost or doubled, whatever is killed when."""
    log, journal = tmp_path / "logs" / "app.log", tmp_path / "journal"
    log.parent.mkdir()
    log.touch()
    writer = Writer(log, seed=7)
    command = [sys.executable, "-m", "tests.fault.test_tail_storm", str(journal), str(log)]
    child = subprocess.Popen(command)
    try:
        while not journal.exists() or not journal.stat().st_size:  # the first sight is committed
            assert child.poll() is None
            time.sleep(0.01)
        kill_every, rotate_every = LINES // KILLS, LINES // KEEP
        killed = 0
        while writer.line < LINES:
            writer.write(writer.random.randrange(1, 400))
            if writer.line // rotate_every > writer.rotated:
                writer.rotate()
            if writer.line // kill_every > killed:
                killed += 1
                child.kill()
                child.wait()
                for _ in range(writer.random.randrange(3)):  # some rotations while it is down
                    writer.write(50)
                    writer.rotate()
                child = subprocess.Popen(command)
            time.sleep(0.002)
        wanted = [text for text in writer.generations if text]
        until_s = time.monotonic() + 60
        while sum(map(len, load(journal)[0].text().values())) < sum(map(len, wanted)) and time.monotonic() < until_s:
            assert child.poll() is None
            time.sleep(0.2)
    finally:
        child.kill()
        child.wait()
    found = load(journal)[0]
    assert [text for _, text in sorted(found.text().items())] == wanted
    assert found.gaps() == []
    assert all(isinstance(item, Lines | Note) for item in found.items)
    assert killed >= KILLS - 1


if __name__ == "__main__":
    follow(Path(sys.argv[1]), sys.argv[2])
