"""The judge of the storms must see what is wrong: each kind of fault, made on purpose."""

from pathlib import Path

import pytest

from jlogd.journal import Journal, Run, RunFlags
from tests.support.compare import compare_after_cuts, compare_source, compare_whole, extract, first_difference

LINES = [b"app %010d %s\n" % (number, b"x" * (number % 7)) for number in range(20)]
SOURCE = Path("/logs/app.log")


def archive(directory: Path, *generations: list[bytes]) -> Path:
    """A journal that holds the given lines, generation by generation, one run each."""
    with Journal.open(directory / "journal") as journal:
        for number, lines in enumerate(generations, 1):
            body = b"".join(lines)
            run = Run(bytes(SOURCE), number, len(lines), len(body), len(body))
            journal.append_lines(body, [run])
        journal.commit()
    return directory / "journal"


def truth(directory: Path, *generations: list[bytes]) -> Path:
    """A writer's truth directory."""
    (directory / "truth").mkdir()
    for number, lines in enumerate(generations, 1):
        (directory / "truth" / f"{number:04d}").write_bytes(b"".join(lines))
    (directory / "truth" / "written").write_bytes(b"".join(LINES))
    return directory / "truth"


def faults(tmp_path: Path, got: list[list[bytes]], want: list[list[bytes]]) -> str:
    """What ``compare_source`` says."""
    found = extract(archive(tmp_path, *got), tmp_path / "got")
    assert not found.faults
    return "\n".join(compare_source(found, SOURCE, truth(tmp_path, *want)))


def test_equal_generations_have_no_difference(tmp_path: Path) -> None:
    assert faults(tmp_path, [LINES[:7], LINES[7:]], [LINES[:7], LINES[7:]]) == ""


@pytest.mark.parametrize(
    "got",
    [
        LINES[:5] + LINES[6:],
        LINES[:5] + LINES[4:],
        [*LINES[:5], LINES[6], LINES[5], *LINES[7:]],
        LINES[:-1],
        [*LINES, b"more\n"],
        [*LINES[:5], LINES[5][:-3] + b"\n", *LINES[6:]],
    ],
    ids=["lost", "doubled", "swapped", "short", "long", "torn"],
)
def test_each_fault_is_seen_and_placed(tmp_path: Path, got: list[bytes]) -> None:
    said = faults(tmp_path, [got], [LINES])
    assert "first difference at byte" in said


def test_a_line_in_the_wrong_generation_is_seen(tmp_path: Path) -> None:
    assert "first difference" in faults(tmp_path, [LINES[:8], LINES[8:]], [LINES[:7], LINES[7:]])


def test_a_missing_generation_is_seen(tmp_path: Path) -> None:
    assert "1 generations archived, 2 written" in faults(tmp_path, [LINES[:7]], [LINES[:7], LINES[7:]])


def test_a_position_that_jumps_is_a_fault(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal") as journal:
        for first, end in ((0, 5), (6, 9)):
            body = b"".join(LINES[first:end])
            run = Run(bytes(SOURCE), 1, end - first, len(body), len(b"".join(LINES[:end])))
            journal.append_lines(body, [run])
        journal.commit()
    assert any("follow" in fault for fault in extract(tmp_path / "journal", tmp_path / "got").faults)
    assert extract(tmp_path / "journal", tmp_path / "got2", contiguous=False).faults == []


def test_newlines_that_are_ours_are_left_out(tmp_path: Path) -> None:
    """Pieces of a long line are joined, an unfinished last line ends without a newline."""
    with Journal.open(tmp_path / "journal") as journal:
        for text, flags, position in (
            (b"ab\n", RunFlags.CONTINUED, 2),
            (b"cd\n", RunFlags.NONE, 5),
            (b"end\n", RunFlags.NO_NEWLINE, 8),
        ):
            journal.append_lines(text, [Run(bytes(SOURCE), 1, 1, len(text), position, flags)])
        journal.commit()
    source = tmp_path / "app.log"
    source.write_bytes(b"abcd\nend")
    assert compare_whole(tmp_path / "journal", source) == ""
    source.write_bytes(b"abcd\nend\n")
    assert "ends at byte 8" in compare_whole(tmp_path / "journal", source)


@pytest.mark.parametrize(
    ("got", "verdict"),
    [
        (LINES[:10] + LINES[14:], ""),  # what the cut took is not there
        (LINES[:12] + LINES[14:], ""),  # journalled before the cut
        ([*LINES[:10], LINES[11], LINES[11], *LINES[14:]], "stands twice"),
        (LINES[:9] + LINES[14:], "line 9 of 16"),
        ([*LINES[:10], LINES[11][:-4] + b"\n", *LINES[14:]], "not a line of the source"),
        ([*LINES[:10], *LINES[15:], LINES[14]], "line 10 of 16"),
    ],
    ids=["taken", "kept", "doubled", "lost", "torn", "disordered"],
)
def test_after_power_cuts(tmp_path: Path, got: list[bytes], verdict: str) -> None:
    """The source lost lines 10 to 13: they may be archived once each, everything else must be, in order."""
    found = extract(archive(tmp_path, got), tmp_path / "got")
    said = compare_after_cuts(found, SOURCE, truth(tmp_path, LINES[:10] + LINES[14:]))
    assert (verdict in said[0]) if verdict else said == []


def test_a_first_difference_is_shown_with_what_stands_around_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one two three")
    (tmp_path / "b").write_bytes(b"one two tree")
    said = first_difference(tmp_path / "a", tmp_path / "b")
    assert "byte 9 (13 bytes archived, 12 written)" in said
    assert "hree" in said
    assert first_difference(tmp_path / "a", tmp_path / "b", 9) == ""
