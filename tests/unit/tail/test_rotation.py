"""Rotation, live and while nobody looked: each byte once, in its generation's order."""

import bz2
import gzip
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backports import zstd

from jlogd.journal.model import RunFlags
from jlogd.tail import Lines
from jlogd.tail.sourcefs import SourceFs
from tests.unit.tail.harness import Follow, append, numbered

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstd.compress,
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


@pytest.fixture
def follow(log: Path) -> Iterator[Follow]:
    """A tailer that has read a few lines of ``log``."""
    log.write_bytes(numbered(0, 50))
    one = Follow(log)
    one.poll()
    yield one
    one.stop()


def rename(log: Path, number: int = 1) -> Path:
    """``log`` → ``log.1``, the older ones one up."""
    target = log.with_name(f"{log.name}.{number}")
    rename_up(log, number)
    log.rename(target)
    return target


def rename_up(log: Path, number: int) -> None:
    for suffix in ("", ".gz"):
        source = log.with_name(f"{log.name}.{number}{suffix}")
        if source.exists():
            rename_up(log, number + 1)
            source.rename(log.with_name(f"{log.name}.{number + 1}{suffix}"))


def compress(path: Path, kind: str = "gz") -> Path:
    """As logrotate: the compressed file takes the plain one's place."""
    target = path.with_name(f"{path.name}.{kind}")
    target.write_bytes(COMPRESS[kind](path.read_bytes()))
    path.unlink()
    return target


def copytruncate(log: Path) -> Path:
    """The writer pauses meanwhile."""
    rename_up(log, 1)
    target = log.with_name(f"{log.name}.1")
    shutil.copyfile(log, target)
    os.truncate(log, 0)
    return target


def test_rename_and_create(follow: Follow, log: Path) -> None:
    """Lines before and after the rename arrive, each in its generation."""
    append(log, numbered(50, 60))
    rename(log)
    log.write_bytes(numbered(60, 70))
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 70)}
    assert follow.journal.gaps() == []


def test_late_lines_after_rename(follow: Follow, log: Path) -> None:
    """A writer that keeps the renamed file open is read on, at once and long after."""
    rotated = rename(log)
    log.write_bytes(numbered(60, 70))
    follow.poll()
    append(rotated, numbered(50, 55))
    follow.poll()
    assert follow.journal.text() == {1: numbered(0, 55), 2: numbered(60, 70)}
    follow.settle()
    append(rotated, numbered(55, 60))
    rename(log)
    log.write_bytes(numbered(70, 80))
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 70), 3: numbered(70, 80)}


def test_partial_last_line_waits_for_its_end(follow: Follow, log: Path) -> None:
    """Half a line is not delivered while its generation lives."""
    append(log, b"half")
    follow.settle()
    assert follow.journal.text()[1] == numbered(0, 50)
    append(log, b" whole\n")
    follow.poll()
    assert follow.journal.text()[1] == numbered(0, 50) + b"half whole\n"


def test_last_line_without_newline(follow: Follow, log: Path) -> None:
    """It is delivered when the generation is final, and says so."""
    append(log, b"the end")
    rename(log)
    log.write_bytes(b"new\n")
    follow.poll()
    assert follow.journal.text()[1] == numbered(0, 50)
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50) + b"the end", 2: b"new\n"}
    assert b"the end" in follow.journal.records()
    flags = [item.run.flags for item in follow.journal.items if isinstance(item, Lines)]
    assert RunFlags.NO_NEWLINE in flags


def test_copytruncate(follow: Follow, log: Path) -> None:
    """What was not read before the truncation is found in the copy."""
    append(log, numbered(50, 60))
    copytruncate(log)
    append(log, numbered(60, 65))
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 65)}
    assert follow.journal.gaps() == []


def test_copytruncate_grown_past_the_position(follow: Follow, log: Path) -> None:
    """A truncated file that is longer than before when we look is found to be another one."""
    append(log, numbered(50, 60))
    copytruncate(log)
    append(log, numbered(60, 200))
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 200)}


def test_copy_under_way_is_no_generation(follow: Follow, log: Path) -> None:
    """While the path still holds its generation, a half made copy beside it means nothing, even over a restart."""
    append(log, numbered(50, 60))
    log.with_name("app.log.1").write_bytes(log.read_bytes()[:500])
    follow.settle(3)
    follow.restart()
    follow.settle(3)
    assert follow.journal.text() == {1: numbered(0, 60)}
    shutil.copyfile(log, log.with_name("app.log.1"))
    os.truncate(log, 0)
    append(log, numbered(60, 61))
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 61)}


def test_truncated_without_copy_leaves_a_gap(follow: Follow, log: Path) -> None:
    """Bytes that were seen but not read, and are nowhere, become a gap; a begun line that was read is kept."""
    append(log, b"x" * 100)
    follow.poll()
    os.truncate(log, 0)
    append(log, b"again\n")
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50) + b"x" * 100, 2: b"again\n"}
    assert follow.journal.gaps() == []
    append(log, numbered(0, 2000))
    follow.poll(1)  # one block at most is given, the size is known
    os.truncate(log, 0)
    append(log, b"third\n")
    follow.settle()
    assert follow.journal.text()[3] == b"third\n"


def test_unread_bytes_that_vanish_are_a_gap(tmp_path: Path) -> None:
    """The gap says which source bytes were lost, once, also over a restart."""
    log = tmp_path / "app.log"
    log.write_bytes(numbered(0, 200_000))
    size = log.stat().st_size
    follow = Follow(log)
    follow.poll(1)
    read = len(follow.journal.text()[1])
    assert 0 < read < size
    follow.stop()
    log.unlink()
    log.write_bytes(b"another\n")
    follow.start()
    follow.settle()
    follow.restart()
    follow.settle()
    (gap,) = follow.journal.gaps()
    assert (gap.first, gap.end, gap.lost_bytes, gap.generation, gap.reason) == (read, size, size - read, 1, "vanished")
    assert follow.journal.text()[2] == b"another\n"
    follow.stop()


@pytest.mark.parametrize("kind", ["", *COMPRESS])
def test_rotated_while_down(follow: Follow, log: Path, kind: str) -> None:
    """The rest is found in the sibling, plain or compressed, then the path goes on."""
    follow.stop()
    append(log, numbered(50, 60))
    rotated = rename(log)
    if kind:
        compress(rotated, kind)
    log.write_bytes(numbered(60, 70))
    follow.start()
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 70)}
    assert follow.journal.gaps() == []


@pytest.mark.parametrize("kind", ["", "gz"])
@pytest.mark.parametrize("copy", [False, True])
def test_several_generations_while_down(follow: Follow, log: Path, kind: str, copy: bool) -> None:
    """All generations that came and went are delivered, oldest first."""
    follow.stop()
    for first in range(50, 100, 10):
        append(log, numbered(first, first + 10))
        rotated = copytruncate(log) if copy else rename(log)
        if kind:
            compress(rotated, kind)
    append(log, numbered(100, 110))
    follow.start()
    follow.settle()
    assert follow.journal.all_text() == numbered(0, 110)
    assert len(follow.journal.text()) == 6
    follow.restart()
    append(log, numbered(110, 111))
    follow.settle()
    assert follow.journal.all_text() == numbered(0, 111)


def test_double_rotation_between_two_looks(follow: Follow, log: Path) -> None:
    """A generation that was current and rotated between two polls is not skipped."""
    append(log, numbered(50, 60))
    rename(log)
    log.write_bytes(numbered(60, 70))
    rename(log)
    log.write_bytes(numbered(70, 80))
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 70), 3: numbered(70, 80)}


def test_compressed_at_once(follow: Follow, log: Path) -> None:
    """Rename, create, compress before the next look: the descriptor still has everything, nothing is read twice."""
    append(log, numbered(50, 60))
    compress(rename(log))
    log.write_bytes(numbered(60, 70))
    follow.settle()
    follow.restart()
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 70)}


def test_dated_names(follow: Follow, log: Path) -> None:
    """dateext, with and without compression."""
    follow.stop()
    append(log, numbered(50, 60))
    log.rename(log.with_name("app.log-20260101"))
    log.write_bytes(numbered(60, 70))
    compress(log.rename(log.with_name("app.log-20260102")))
    log.write_bytes(numbered(70, 80))
    follow.start()
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 70), 3: numbered(70, 80)}


def test_inode_reuse(follow: Follow, log: Path) -> None:
    """A new file under the old inode number is another generation: content decides."""
    follow.stop()
    inode = log.stat().st_ino
    content = numbered(500, 600)
    with log.open("r+b") as file:  # the same inode for certain, with other content
        file.truncate(0)
        file.write(content)
    assert log.stat().st_ino == inode
    follow.start()
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50), 2: content}


def test_other_inode_same_content(follow: Follow, log: Path) -> None:
    """A restored disk gives every file a new inode; nothing is read again."""
    follow.stop()
    beside = log.with_name("restored")
    shutil.copyfile(log, beside)
    beside.replace(log)
    follow.start()
    append(log, numbered(50, 60))
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60)}


def test_equal_heads(tmp_path: Path) -> None:
    """Generations that begin with the same header are told apart, live and over a restart."""
    log = tmp_path / "w3c.log"
    header = b"#Software: x\n#Fields: a b c\n"
    log.write_bytes(header + b"1\n")
    follow = Follow(log)
    follow.poll()
    rename(log)
    log.write_bytes(header + b"2\n")
    follow.settle()
    follow.stop()
    compress(rename(log), "xz")
    log.write_bytes(header + b"3\n")
    follow.start()
    follow.settle()
    assert follow.journal.text() == {1: header + b"1\n", 2: header + b"2\n", 3: header + b"3\n"}
    follow.stop()


def test_header_only_generations_and_copytruncate(tmp_path: Path) -> None:
    """The same header after copytruncate while down is delivered again: it is another generation's line."""
    log = tmp_path / "w3c.log"
    header = b"#Fields: a b c\n"
    log.write_bytes(header + b"1\n")
    follow = Follow(log)
    follow.poll()
    copytruncate(log)
    append(log, header + b"2\n")
    follow.settle()
    follow.stop()
    append(log, b"22\n")
    copytruncate(log)
    append(log, header + b"3\n")
    follow.start()
    follow.settle()
    assert follow.journal.text() == {1: header + b"1\n", 2: header + b"2\n22\n", 3: header + b"3\n"}
    follow.stop()


def test_power_cut_shortens_the_source(follow: Follow, log: Path) -> None:
    """The source lost its end with the power: go on at the cut, deliver nothing twice."""
    follow.stop()
    kept = numbered(0, 30)
    os.truncate(log, len(kept))
    follow.start()
    follow.settle()
    append(log, b"after the cut\n")
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50), 2: b"after the cut\n"}


def test_power_cut_and_grown_past_the_position(follow: Follow, log: Path) -> None:
    """Also when the file is longer again before we look, and cut in the middle of a line."""
    follow.stop()
    kept = numbered(0, 30)
    os.truncate(log, len(kept) + 5)
    append(log, b"\n" + numbered(1000, 1100))
    follow.start()
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50), 2: kept[:5] + b"\n" + numbered(1000, 1100)}


def test_power_cut_proven_by_the_ladder_alone(tmp_path: Path) -> None:
    """Without the journal's records a rung of the ladder decides; what lies between is delivered again, no less."""
    log = tmp_path / "big.log"
    log.write_bytes(numbered(0, 400_000))  # 9.6 MB
    follow = Follow(log)
    follow.settle(2)
    follow.stop()
    os.truncate(log, 5_000_000)
    append(log, b"\nafter\n")
    follow.journal.runs = lambda *_: iter(())  # type: ignore[method-assign]  # retention took the records
    follow.start()
    state = follow.journal.sources()
    assert any(value.ladder for value in state.values())
    follow.settle()
    again = follow.journal.text()[2]
    assert again.endswith(b"\nafter\n")
    assert len(again) < 2 << 20
    follow.stop()


def test_generation_after_a_cut_survives_restarts(follow: Follow, log: Path) -> None:
    """Its position counts from the start of the file, its text from the cut."""
    follow.stop()
    os.truncate(log, len(numbered(0, 30)))
    follow.start()
    follow.settle()
    append(log, b"one\n")
    follow.settle()
    follow.restart()
    append(log, b"two\n")
    follow.settle()
    rename(log)
    log.write_bytes(b"three\n")
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50), 2: b"one\ntwo\n", 3: b"three\n"}


def test_hole_after_truncation(follow: Follow, log: Path) -> None:
    """A writer without O_APPEND goes on at its old position: the hole's NULs are no log."""
    position = log.stat().st_size
    with log.open("r+b") as writer:
        writer.seek(0, os.SEEK_END)
        copytruncate(log)
        writer.write(b"after the hole\n")
        writer.flush()
        assert log.stat().st_size == position + 15
        follow.settle()
        writer.write(b"more\n")
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50), 2: b"after the hole\nmore\n"}


def test_unlinked_but_still_written(follow: Follow, log: Path) -> None:
    """The descriptor is read until it is quiet; a new file is a new generation."""
    with log.open("ab") as writer:
        log.unlink()
        writer.write(numbered(50, 60))
        writer.flush()
        follow.poll()
        assert follow.status().state == "gone"
        log.write_bytes(numbered(60, 70))
        follow.poll()
        writer.write(numbered(70, 75))
        writer.flush()
        follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60) + numbered(70, 75), 2: numbered(60, 70)}


def test_recreated_with_the_same_short_content(follow: Follow, log: Path) -> None:
    """Removed and begun anew with the same few bytes: these are new lines."""
    log.unlink()
    log.write_bytes(b"hello\n")
    follow.settle()
    log.unlink()
    log.write_bytes(b"hello\n")
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50), 2: b"hello\n", 3: b"hello\n"}


def test_crash_during_rotation_reads_again_what_was_not_committed(log: Path) -> None:
    """Nothing of the new generation was committed, and it is rotated once more before the restart."""
    log.write_bytes(numbered(0, 50))
    follow = Follow(log)
    follow.poll()
    rename(log)
    log.write_bytes(numbered(50, 60))
    follow.tailer.poll(1 << 20)  # lost
    follow.stop()
    rename(log)
    log.write_bytes(numbered(60, 70))
    follow.start()
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50), 2: numbered(50, 60), 3: numbered(60, 70)}
    follow.stop()


def test_half_compressed_sibling_is_waited_for(follow: Follow, log: Path) -> None:
    """A compressed stream without its trailer does not count; when it is whole, it does."""
    follow.stop()
    append(log, numbered(50, 60))
    whole = gzip.compress(log.read_bytes())
    log.unlink()
    sibling = log.with_name("app.log.1.gz")
    sibling.write_bytes(whole[: len(whole) // 2])
    log.write_bytes(numbered(60, 70))
    follow.start()
    follow.settle(3)
    assert follow.journal.text() == {1: numbered(0, 50)}
    sibling.write_bytes(whole)
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 70)}
    assert follow.journal.gaps() == []


def test_old_generations_are_forgotten(follow: Follow, log: Path) -> None:
    """Final and gone for ten minutes: their memory goes, durably; the newest number stays."""
    rename(log).unlink()
    log.write_bytes(b"x\n")
    follow.settle()
    follow.settle(700)
    assert {number for _, number in follow.journal.sources()} == {2}
    follow.restart()
    append(log, b"y\n")
    follow.settle()
    assert follow.journal.text()[2] == b"x\ny\n"


class Shifting(SourceFs):
    """Moves the siblings up right after they were listed, once: what a rotation does to a reader of directories."""

    def __init__(self, log: Path) -> None:
        self.log, self.armed = log, True

    def names(self, directory: bytes) -> list[bytes]:
        listed = super().names(directory)
        if self.armed:
            self.armed = False
            rename_up(self.log, 1)
        return listed


def test_siblings_renamed_while_they_are_listed(follow: Follow, log: Path) -> None:
    """A generation whose file was between two names is not overlooked; a link to nothing disturbs nobody."""
    follow.stop()
    rename(log)
    log.write_bytes(numbered(50, 60))
    rename(log)
    log.write_bytes(numbered(60, 70))
    log.with_name("app.log.9").symlink_to("nowhere")
    follow.fs = Shifting(log)
    follow.start()
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50), 2: numbered(50, 60), 3: numbered(60, 70)}


def test_same_size_and_time_stamp(follow: Follow, log: Path) -> None:
    """Copied, truncated and filled to the same size within one step of the kernel's clock: still another content."""
    follow.poll()
    before = log.stat()
    copytruncate(log)
    log.write_bytes(numbered(50, 100))
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert log.stat().st_size == before.st_size
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50), 2: numbered(50, 100)}


def test_unchanged_files_cost_one_look(follow: Follow, log: Path) -> None:
    """A stamp that is old enough is trusted: nothing is read any more."""
    follow.settle(1)
    reads = 0
    real = os.preadv

    def counted(fd: int, buffers: list[memoryview], position: int) -> int:
        nonlocal reads
        reads += 1
        return real(fd, buffers, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.preadv", counted)
        follow.settle(1)
        assert reads == 0
        append(log, b"more\n")
        follow.poll()
    assert reads
    assert follow.journal.text() == {1: numbered(0, 50) + b"more\n"}


def test_truncated_and_filled_during_a_read(follow: Follow, log: Path) -> None:
    """A read that ends at the old content's end is not completed from the new content."""
    append(log, numbered(50, 60))
    real, once = os.preadv, [True]

    def rotating(fd: int, buffers: list[memoryview], position: int) -> int:
        got = real(fd, buffers, position)
        if once and once.pop():
            copytruncate(log)
            append(log, numbered(60, 200))
        return got

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.preadv", rotating)
        follow.poll()
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 60), 2: numbered(60, 200)}


def aged(follow: Follow, path: Path, age_s: float) -> None:
    """Last written ``age_s`` ago, by the test's clock."""
    stamp = follow.clock.wall_ns() - int(age_s * 1e9)
    os.utime(path, ns=(stamp, stamp))


@pytest.mark.parametrize("old", [True, False])
def test_killed_again_and_again_within_rotate_wait(follow: Follow, log: Path, old: bool) -> None:
    """However short an agent lives, a rotated file that nobody wrote for ``rotate_wait`` gives its last line."""
    append(log, b"the end")
    follow.poll()
    rotated = rename(log)
    log.write_bytes(b"new\n")
    for _ in range(3):
        aged(follow, rotated, 6.0 if old else -3600.0)  # or a clock that was set back: the timer decides
        follow.restart()
        follow.settle(1)
    assert follow.journal.text()[1] == numbered(0, 50) + (b"the end" if old else b"")
    rotated.unlink()
    follow.settle()
    follow.restart()
    follow.settle()
    assert follow.journal.text() == {1: numbered(0, 50) + b"the end", 2: b"new\n"}
    assert follow.journal.gaps() == []
