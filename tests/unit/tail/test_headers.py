"""Generations of which only a header was read, that all of them share: siblings tell them apart, or a gap says so."""

import gzip
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.tail_fuzz import run_fuzz
from tests.unit.tail.harness import Follow, append

HEADER = b"# header\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


@pytest.fixture
def follow(log: Path) -> Iterator[Follow]:
    """A tailer that has read a header."""
    log.write_bytes(HEADER)
    one = Follow(log)
    one.poll()
    yield one
    one.stop()


def copytruncate(log: Path, name: str = "app.log.1") -> Path:
    """The writer pauses meanwhile."""
    target = log.with_name(name)
    shutil.copyfile(log, target)
    os.truncate(log, 0)
    return target


@pytest.mark.parametrize("down", [False, True])
def test_copied_truncated_and_filled_again(follow: Follow, log: Path, down: bool) -> None:
    """The file begins as before and is longer: the rest of what was read stands in the copy."""
    if down:
        follow.stop()
    append(log, b"1\n")
    copytruncate(log)
    append(log, HEADER + b"2\n22\n")
    if down:
        follow.start()
    follow.settle()
    assert follow.journal.text() == {1: HEADER + b"1\n", 2: HEADER + b"2\n22\n"}
    assert follow.journal.gaps() == []


def test_renamed_after_that(follow: Follow, log: Path) -> None:
    """The same, and the file whose descriptor is held was renamed too before the next look."""
    append(log, b"1\n")
    copytruncate(log, "app.log.2")
    append(log, HEADER + b"2\n22\n")
    log.rename(log.with_name("app.log.1"))
    log.write_bytes(HEADER + b"3\n")
    follow.settle()
    assert follow.journal.text() == {1: HEADER + b"1\n", 2: HEADER + b"2\n22\n", 3: HEADER + b"3\n"}


def test_inode_given_out_again(follow: Follow, log: Path) -> None:
    """While down, the file was compressed and its inode went to a file that begins alike."""
    follow.stop()
    append(log, b"1\n")
    log.with_name("app.log.1.gz").write_bytes(gzip.compress(log.read_bytes()))
    inode = log.stat().st_ino
    os.truncate(log, 0)  # the same inode for certain
    append(log, HEADER + b"2\n")
    assert log.stat().st_ino == inode
    follow.start()
    follow.settle()
    assert follow.journal.text() == {1: HEADER + b"1\n", 2: HEADER + b"2\n"}


def test_header_only_generation_is_undecidable(follow: Follow, log: Path) -> None:
    """The copy is no longer than what was read: a generation, or a copy under way. A gap says so, once."""
    copytruncate(log)
    append(log, HEADER + b"2\n")
    follow.settle()
    follow.restart()
    append(log, b"22\n")
    follow.settle()
    assert follow.journal.text() == {1: HEADER + b"2\n22\n"}
    (gap,) = follow.journal.gaps()
    assert (gap.first, gap.end, gap.lost_bytes, gap.reason) == (0, len(HEADER), len(HEADER), "ambiguous")


def test_copy_under_way_is_none_of_that(follow: Follow, log: Path) -> None:
    """A sibling with which the path's file begins says nothing, and costs nothing."""
    append(log, b"1\n2\n")
    shutil.copyfile(log, log.with_name("app.log.1"))
    append(log, b"3\n")
    follow.settle()
    assert follow.journal.text() == {1: HEADER + b"1\n2\n3\n"}
    assert follow.journal.gaps() == []


def test_fuzz() -> None:
    """Rotations within milliseconds by the real clock, tiny files whose lines never repeat."""
    assert [difference for seed in range(1, 21) if (difference := run_fuzz(seed, headers=False))] == []


def test_equal_to_one_whose_file_is_gone(follow: Follow, log: Path) -> None:
    """A header-only generation is not taken for an older one that is still held open and was compressed meanwhile."""
    first = log.rename(log.with_name("app.log.1"))
    log.write_bytes(HEADER + b"2\n")
    follow.poll()
    log.with_name("app.log.3.gz").write_bytes(gzip.compress(first.read_bytes()))
    first.unlink()
    log.rename(log.with_name("app.log.2"))
    log.with_name("app.log.1").write_bytes(HEADER)
    log.write_bytes(HEADER + b"4\n")
    follow.settle()
    assert follow.journal.text() == {1: HEADER, 2: HEADER + b"2\n", 3: HEADER, 4: HEADER + b"4\n"}


def test_many_that_begin_alike(follow: Follow, log: Path) -> None:
    """Several generations of a header only, a copy on a reused inode, all compressed: nothing is read twice."""
    names = [log.with_name(f"app.log.{number}.gz") for number in range(6, 0, -1)]
    contents = [HEADER, HEADER + b"2\n", HEADER + b"3\n", HEADER, HEADER, HEADER + b"6\n"]
    log.unlink()
    for name, content in zip(names, contents, strict=True):
        name.write_bytes(gzip.compress(content))
        follow.settle(1)
    follow.settle()
    log.write_bytes(HEADER + b"7\n")
    follow.settle()
    follow.restart()
    follow.settle()
    assert [text for _, text in sorted(follow.journal.text().items())] == [*contents, HEADER + b"7\n"]


def test_header_only_generation_and_one_more_while_down(follow: Follow, log: Path) -> None:
    """The oldest sibling that begins alike is ours, also when it is a header only: the younger one says so."""
    follow.stop()
    copytruncate(log, "app.log.2")
    append(log, HEADER + b"2\n")
    copytruncate(log, "app.log.1")
    append(log, HEADER)
    follow.start()
    follow.settle()
    assert follow.journal.text() == {1: HEADER, 2: HEADER + b"2\n", 3: HEADER}
