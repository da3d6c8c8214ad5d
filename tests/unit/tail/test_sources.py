"""Sources that are odd: unreadable, no file at all, empty, binary, without newline, under several names."""

import os
import socket
from pathlib import Path

import pytest

from jlogd.journal.model import RunFlags
from jlogd.tail import Lines
from jlogd.tail.sourcefs import SourceFs
from tests.unit.tail.harness import Follow, append, numbered


class Denying(SourceFs):
    """Refuses to open some paths, as a file without read permission does (root would read it)."""

    def __init__(self) -> None:
        self.denied: set[bytes] = set()

    def open(self, path: bytes) -> int:
        if path in self.denied:
            raise PermissionError(13, "Permission denied", path)
        return super().open(path)


def test_bytes_are_kept_as_they_are(tmp_path: Path) -> None:
    """NUL bytes, invalid UTF-8 and CRLF are the record's."""
    content = b"nul \0 inside\n\xff\xfe\x80\ndos\r\n\r\n\n\0\0\n"
    log = tmp_path / "a.log"
    log.write_bytes(content)
    follow = Follow(log)
    follow.poll()
    assert follow.journal.text() == {1: content}
    assert follow.journal.records() == content.split(b"\n")[:-1]
    follow.stop()


def test_empty_file_waits(tmp_path: Path) -> None:
    """An empty file is followed; its first bytes arrive."""
    log = tmp_path / "a.log"
    log.touch()
    follow = Follow(log)
    follow.settle(3)
    assert follow.journal.text() == {}
    assert follow.status().state == "following"
    append(log, b"x\n")
    follow.poll()
    assert follow.journal.all_text() == b"x\n"
    follow.stop()


def test_long_line_flows_in_bounded_pieces(tmp_path: Path) -> None:
    """50 MB without a newline arrive as pieces before the line ends, and are the line again when joined."""
    log = tmp_path / "a.log"
    block = bytes(range(32, 122)) * 11_651  # 1 MiB or so, no newline
    with log.open("wb") as file:
        file.write(b"before\n")
        for _ in range(50):
            file.write(block)
    follow = Follow(log)
    while follow.poll(4 << 20):
        pass
    assert len(follow.journal.all_text()) > 48 << 20
    append(log, b"\nafter\n")
    follow.settle(2)
    assert follow.journal.all_text() == b"before\n" + block * 50 + b"\nafter\n"
    pieces = [item.run for item in follow.journal.items if isinstance(item, Lines)]
    assert all(run.record_count == 1 for run in pieces if run.flags & RunFlags.CONTINUED)
    assert follow.journal.records()[-1] == b"after"
    follow.stop()


@pytest.mark.parametrize("max_line", [1, 7, 16, 100])
def test_max_line_cuts_exactly(tmp_path: Path, max_line: int) -> None:
    """No record is longer than max_line, no line that fits is cut, pieces are as long as may be."""
    log = tmp_path / "a.log"
    lines = [b"x" * length for length in (0, 1, 6, 7, 8, 15, 16, 17, 99, 100, 101, 250, 3)] + [b"y" * 301]
    log.write_bytes(b"\n".join(lines))
    follow = Follow(log, max_line=max_line)
    follow.settle(2)
    log.rename(tmp_path / "a.log.1")
    follow.settle()
    assert follow.journal.all_text() == b"\n".join(lines)
    wanted = []
    for line in lines:
        pieces = [line[at : at + max_line] for at in range(0, len(line), max_line)] or [b""]
        wanted += pieces
    assert follow.journal.records() == wanted
    follow.stop()


def test_directory_fifo_and_socket_are_refused(tmp_path: Path) -> None:
    """Each says what it is, none blocks, the others go on; a file in their place is followed."""
    (tmp_path / "dir.log").mkdir()
    os.mkfifo(tmp_path / "fifo.log")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "sock.log"))
    good = tmp_path / "good.log"
    good.write_bytes(b"fine\n")
    follow = Follow(tmp_path / "dir.log", tmp_path / "fifo.log", tmp_path / "sock.log", good)
    follow.settle(3)
    problems = {Path(os.fsdecode(one.path)).name: (one.state, one.error) for one in follow.tailer.status()}
    assert problems["dir.log"] == ("unreadable", "is a directory, not a regular file")
    assert problems["fifo.log"] == ("unreadable", "is a FIFO, not a regular file")
    assert problems["sock.log"] == ("unreadable", "is a socket, not a regular file")
    assert problems["good.log"] == ("following", None)
    (tmp_path / "fifo.log").unlink()
    (tmp_path / "fifo.log").write_bytes(b"now a file\n")
    follow.settle(3)
    assert follow.journal.text(good) == {1: b"fine\n"}
    assert follow.journal.all_text(tmp_path / "fifo.log") == b"now a file\n"
    assert follow.status(tmp_path / "fifo.log").error is None
    server.close()
    follow.stop()


def test_unreadable_is_said_and_tried_again(tmp_path: Path) -> None:
    """Without permission: a state and a reason; with it: everything from the start."""
    fs, log = Denying(), tmp_path / "a.log"
    log.write_bytes(b"secret\n")
    fs.denied.add(bytes(log))
    follow = Follow(log, fs=fs)
    follow.settle(3)
    assert (follow.status().state, follow.status().error) == ("unreadable", "Permission denied")
    fs.denied.clear()
    follow.settle(5)
    assert (follow.status().state, follow.status().error) == ("following", None)
    assert follow.journal.all_text() == b"secret\n"
    follow.stop()


def test_unreadable_after_restart_declares_nothing_lost(tmp_path: Path) -> None:
    """While the path cannot be opened it may still be the generation that we miss: no gap, no new generation."""
    fs, log = Denying(), tmp_path / "a.log"
    log.write_bytes(numbered(0, 10))
    follow = Follow(log, fs=fs)
    follow.poll()
    follow.stop()
    append(log, numbered(10, 20))
    fs.denied.add(bytes(log))
    follow.start()
    follow.settle(40)
    assert follow.journal.gaps() == []
    fs.denied.clear()
    follow.settle(5)
    assert follow.journal.text() == {1: numbered(0, 20)}
    follow.stop()


def test_vanishing_and_coming_back(tmp_path: Path) -> None:
    """Gone is a state; what the descriptor still gives is delivered; the next file is a new generation."""
    log = tmp_path / "a.log"
    log.write_bytes(b"one\n")
    follow = Follow(log)
    follow.poll()
    append(log, b"two")
    log.unlink()
    follow.settle()
    assert follow.status().state == "gone"
    assert follow.journal.text() == {1: b"one\ntwo"}
    log.write_bytes(b"three\n")
    follow.settle(3)
    assert follow.status().state == "following"
    assert follow.journal.text() == {1: b"one\ntwo", 2: b"three\n"}
    assert follow.journal.gaps() == []
    follow.stop()


def test_directory_gone_for_a_while(tmp_path: Path) -> None:
    """An unmounted directory is no verdict: when it is back, the same generation goes on."""
    folder, away = tmp_path / "logs", tmp_path / "away"
    folder.mkdir()
    log = folder / "a.log"
    log.write_bytes(b"one\n")
    follow = Follow(log)
    follow.poll()
    follow.stop()
    folder.rename(away)
    follow.start()
    follow.settle(40)
    away.rename(folder)
    append(log, b"two\n")
    follow.settle(10)
    assert follow.journal.text() == {1: b"one\ntwo\n"}
    assert follow.journal.gaps() == []
    follow.stop()


def test_start_at_end(tmp_path: Path) -> None:
    """Only what is there at the very first start is passed over; a begun line counts as new; a restart goes on."""
    log = tmp_path / "a.log"
    log.write_bytes(numbered(0, 10) + b"begun")
    follow = Follow(tmp_path / "*.log", start_at="end")
    follow.settle(2)
    assert follow.journal.text() == {}
    follow.stop()
    append(log, b" ended\n")
    (tmp_path / "b.log").write_bytes(b"new file\n")
    follow.start()
    follow.settle(2)
    append(log, b"last\n")
    (tmp_path / "c.log").write_bytes(b"newer file\n")
    follow.settle(2)
    assert follow.journal.all_text(log) == b"begun ended\nlast\n"
    assert follow.journal.all_text(tmp_path / "b.log") == b"new file\n"
    assert follow.journal.all_text(tmp_path / "c.log") == b"newer file\n"
    follow.stop()


def test_two_names_of_one_file_are_one_source(tmp_path: Path) -> None:
    """Hard link and symbolic link: one source, each line once, also after the rotation of one name."""
    log = tmp_path / "a.log"
    log.write_bytes(b"one\n")
    (tmp_path / "b.log").hardlink_to(log)
    (tmp_path / "c.log").symlink_to(log)
    follow = Follow(tmp_path / "*.log")
    follow.settle(2)
    assert [one.path for one in follow.tailer.status()] == [bytes(log)]
    log.rename(tmp_path / "a.log.1")
    log.write_bytes(b"two\n")
    follow.settle()
    follow.restart()
    follow.settle()
    append(tmp_path / "b.log", b"late\n")
    follow.settle()
    assert follow.journal.text() == {1: b"one\nlate\n", 2: b"two\n"}
    follow.stop()


def test_symlink_that_is_pointed_elsewhere(tmp_path: Path) -> None:
    """A link to the newest file is a path like any other: another target is another generation."""
    (tmp_path / "data").mkdir()
    first, second = tmp_path / "data" / "1", tmp_path / "data" / "2"
    first.write_bytes(b"one\n")
    second.write_bytes(b"two\n")
    link = tmp_path / "current.log"
    link.symlink_to(first)
    follow = Follow(link)
    follow.poll()
    append(first, b"more\n")
    link.unlink()
    link.symlink_to(second)
    follow.settle()
    assert follow.journal.text() == {1: b"one\nmore\n", 2: b"two\n"}
    follow.stop()


def test_rotated_names_are_no_sources(tmp_path: Path) -> None:
    """Whatever the glob: siblings belong to their path. A dated file without a base is a log of its own."""
    for name in (
        "app.log",
        "app.log.1",
        "app.log.2.gz",
        "app.log-20260101",
        "app-20260102.log",
        "cat.2026-11-21.log",
        "w.1.log",
    ):
        (tmp_path / name).write_bytes(name.encode() + b"\n")
    follow = Follow(tmp_path / "*")
    follow.settle(3)
    assert [Path(os.fsdecode(one.path)).name for one in follow.tailer.status()] == [
        "app.log",
        "cat.2026-11-21.log",
        "w.1.log",
    ]
    assert follow.journal.all_text(tmp_path / "app.log") == b"app.log\n"
    follow.stop()


def test_only_rotated_files_at_first(tmp_path: Path) -> None:
    """What was rotated before we first looked is passed over; what comes later is not."""
    log = tmp_path / "app.log"
    (tmp_path / "app.log.1").write_bytes(b"old\n")
    follow = Follow(log)
    follow.settle(3)
    assert follow.status().state == "waiting"
    follow.stop()
    (tmp_path / "app.log.1").rename(tmp_path / "app.log.2")
    (tmp_path / "app.log.1").write_bytes(b"came and went\n")
    log.write_bytes(b"current\n")
    follow.start()
    follow.settle(3)
    assert follow.journal.all_text() == b"came and went\ncurrent\n"
    follow.stop()


def test_globs_directories_and_exclusions(tmp_path: Path) -> None:
    """``**`` spans directories, also ones made later; excluded names are not followed."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.log").write_bytes(b"x\n")
    (tmp_path / "a" / "debug.log").write_bytes(b"no\n")
    follow = Follow(tmp_path / "**" / "*.log", exclude=(str(tmp_path / "**" / "debug*"),))
    follow.settle(2)
    (tmp_path / "later" / "deep").mkdir(parents=True)
    (tmp_path / "later" / "deep" / "y.log").write_bytes(b"y\n")
    follow.settle(6)
    assert follow.journal.all_text() in (b"x\ny\n", b"y\nx\n")
    follow.stop()


def test_two_sources_keep_their_own_positions(tmp_path: Path) -> None:
    """Interleaved in one journal, each goes on where it was after a restart."""
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    one.write_bytes(numbered(0, 5, "one"))
    two.write_bytes(numbered(0, 5, "two"))
    follow = Follow(tmp_path / "*.log")
    for first in range(5, 50, 5):
        follow.poll()
        append(one, numbered(first, first + 5, "one"))
        append(two, numbered(first, first + 5, "two"))
        follow.restart()
    follow.settle(2)
    assert follow.journal.text(one) == {1: numbered(0, 50, "one")}
    assert follow.journal.text(two) == {1: numbered(0, 50, "two")}
    follow.stop()


def test_budget_is_shared_fairly(tmp_path: Path) -> None:
    """A big file does not keep a small one waiting, and a poll gives about what was asked."""
    (tmp_path / "a-big.log").write_bytes(numbered(0, 1_000_000))
    (tmp_path / "b-small.log").write_bytes(b"small\n")
    follow = Follow(tmp_path / "*.log")
    follow.poll(8 << 20)
    assert follow.journal.all_text(tmp_path / "b-small.log") == b"small\n"
    assert (8 << 20) <= sum(len(item.body) for item in follow.journal.items if isinstance(item, Lines)) <= (9 << 20) + 6
    follow.stop()
