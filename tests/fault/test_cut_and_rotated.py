"""Power loss cuts a followed file, its writer goes on and rotates it, all before the agent looks again."""

import gzip
import os
import threading
from pathlib import Path

import pytest

from jlogd.intake import Intake, JournalHistory
from jlogd.journal import Journal, JournalOptions
from jlogd.tail import Tailer, TailSpec

OPTIONS = JournalOptions(segment_bytes=64 << 10, proof_age_s=60.0)


def lines(tag: str, first: int, end: int) -> bytes:
    """Numbered lines."""
    return b"".join(b"%s %08d some text that makes the line longer\n" % (tag.encode(), n) for n in range(first, end))


def follow(directory: Path, path: Path) -> None:
    """One life of an agent whose manager takes everything at once; old segments may go."""
    with Journal.open(directory, options=OPTIONS) as journal:
        tailer = Tailer(
            [TailSpec((str(path),), rotate_wait_s=0.0)], journal.sources, JournalHistory(journal), events=False
        )
        intake = Intake("app", journal, tailer, commit_delay_s=0.0)
        quiet = 0
        while quiet < 5:
            items = tailer.poll(1 << 20)
            for item in items:
                intake._take(item)
            intake._commit(threading.Event())
            quiet = 0 if items else quiet + 1
            tailer.wait(0.05)
        journal.subscriber("m1").advance(journal.end)
        journal.retain()
        tailer.close()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("lives", [1, 4])
def test_each_line_stands_once(tmp_path: Path, lives: int, *, compressed: bool) -> None:
    """What was read before the cut, what was written after it, and the next generation: each once, in order."""
    path, directory = tmp_path / "app.log", tmp_path / "j"
    read = 0
    with Journal.open(directory, options=OPTIONS) as journal:
        journal.subscriber("m1")
    for life in range(lives):
        with path.open("ab") as file:
            file.write(lines("old", life * 700, (life + 1) * 700))
        read = (life + 1) * 700
        follow(directory, path)
    kept = lines("old", 0, read - 150)
    os.truncate(path, len(kept) + 17)  # in the middle of a line, far below our position
    with path.open("ab") as file:
        file.write(b"\n" + lines("new", 0, 4000))
    rotated = path.with_name("app.log.1")
    path.rename(rotated)
    if compressed:
        path.with_name("app.log.1.gz").write_bytes(gzip.compress(rotated.read_bytes()))
        rotated.unlink()
    path.write_bytes(lines("next", 0, 10))
    follow(directory, path)
    with Journal.open(directory, options=OPTIONS) as journal:
        found = [entry.record for entry in journal.read() if entry.gap is None]
        assert journal.first == 0
    whole = [record for record in found if len(record) > 40]
    assert whole == (lines("old", 0, read) + lines("new", 0, 4000) + lines("next", 0, 10)).splitlines()
