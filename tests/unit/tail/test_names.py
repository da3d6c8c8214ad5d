"""The pure parts: rotated names, their order, globs, positions, verdicts."""

from itertools import pairwise

import pytest

from jlogd.tail.discovery import is_rotated, pattern
from jlogd.tail.identity import Candidate, Known, Proof, judge
from jlogd.tail.position import BLOCK, Cursor, Ladder, PositionState, PrefixHash, StateFlags, digest
from jlogd.tail.siblings import newest_first, reading_of


@pytest.mark.parametrize(
    ("name", "style", "compression"),
    [
        ("app.log.1", "number", None),
        ("app.log.12.gz", "number", "gz"),
        ("app.1.log", "number", None),
        ("app.log-20260101", "date", None),
        ("app.log-20260101.xz", "date", "xz"),
        ("app.log-2026010113", "date", None),
        ("app.log.2026-01-01", "date", None),
        ("app.log.2026-01-01_13.zst", "date", "zst"),
        ("app-20260101.log", "date", None),
        ("app-20260101.log.bz2", "date", "bz2"),
        ("app.log-20260101-1767225600", "date", None),
        ("app.log.gz", "number", "gz"),
    ],
)
def test_rotated_names(name: str, style: str, compression: str | None) -> None:
    """Each style of logrotate, savelog and log4j is read as belonging to app.log."""
    found = reading_of(name.encode(), b"app.log")
    assert found is not None
    assert (found.style, found.compression) == (style, compression)


@pytest.mark.parametrize("name", ["app.log", "app.log.old", "app.log2", "other.log.1", "app.log.1.txt", "xapp.log.1"])
def test_other_names(name: str) -> None:
    """These belong to no rotation of app.log."""
    assert reading_of(name.encode(), b"app.log") is None


def test_order() -> None:
    """Numbers count upwards into the past, dates downwards."""

    def ordered(*names: str) -> list[str]:
        found = [reading_of(name.encode(), b"a.log") for name in names]
        return [names[index] for index in newest_first([(one, 0) for one in found if one])]

    assert ordered("a.log.10.gz", "a.log.2.gz", "a.log.1") == ["a.log.1", "a.log.2.gz", "a.log.10.gz"]
    assert ordered("a.log-20260101", "a.log-20260201", "a.log-20251231.gz") == [
        "a.log-20260201",
        "a.log-20260101",
        "a.log-20251231.gz",
    ]


def test_when_a_name_is_no_source() -> None:
    """A trailing number needs a base that is meant, everything else a base that is there."""
    there = {b"/l/app.log"}

    def rotated(path: bytes, *, meant: bool) -> bool:
        return is_rotated(path, there.__contains__, lambda _: meant)

    assert rotated(b"/l/app.log.1", meant=False)
    assert rotated(b"/l/new.log.1", meant=True)
    assert not rotated(b"/l/new.log.1", meant=False)
    assert rotated(b"/l/app-20260101.log", meant=False)
    assert not rotated(b"/l/catalina.2026-11-21.log", meant=True)
    assert not rotated(b"/l/worker.1.log", meant=True)


@pytest.mark.parametrize(
    ("glob", "path", "match"),
    [
        ("/l/*.log", "/l/a.log", True),
        ("/l/*.log", "/l/d/a.log", False),
        ("/l/**/*.log", "/l/a.log", True),
        ("/l/**/*.log", "/l/d/e/a.log", True),
        ("/l/a?.log", "/l/ab.log", True),
        ("/l/[!a]*.log", "/l/b.log", True),
        ("/l/[!a]*.log", "/l/a.log", False),
        ("/l/a+b(c).log", "/l/a+b(c).log", True),
    ],
)
def test_globs(glob: str, path: str, match: bool) -> None:
    """As the shell reads them."""
    assert bool(pattern(glob.encode()).match(path.encode())) == match


def test_state_survives_its_encoding() -> None:
    """And one of another version is not taken for ours."""
    cursor = Cursor.begin(7, 7, b"before\n")
    cursor.advance(b"x" * 3000)
    state = cursor.state(StateFlags.FINAL, 2**63, 2**64 - 1, 5000)
    packed = state.encode()
    assert len(packed) <= 100
    assert PositionState.decode(packed) == state
    assert PositionState.decode(b"\x02" + packed[1:]) is None
    assert PositionState.decode(packed[:-1]) is None


def test_prefix_hash_does_not_depend_on_the_cuts() -> None:
    """However the bytes come, position and hash agree, and follow the written definition."""
    content = bytes(range(256)) * (3 * BLOCK // 256) + b"rest"
    one, many = PrefixHash(0), PrefixHash(0)
    one.update(content)
    for at in range(0, len(content), 77_777):
        many.update(content[at : at + 77_777])
    chain = 0
    for block in range(3):
        chain = digest(content[block * BLOCK : (block + 1) * BLOCK], chain)
    assert (one.chain, one.prefix, one.position) == (many.chain, many.prefix, many.position)
    assert (one.chain, one.prefix) == (chain, digest(b"rest", chain))


def test_ladder_thins_out_behind() -> None:
    """Few rungs whatever the length, dense near the end, the oldest parts still covered."""
    ladder = Ladder()
    for step in range(1, 3000):
        if ladder.due(step << 20):
            ladder.add(step << 20, step)
    positions = [rung.position >> 20 for rung in Ladder(ladder.encode()).rungs]
    assert len(positions) <= 24
    assert positions[-3:] == [2997, 2998, 2999]
    assert positions[0] < 2500
    gaps = [after - before for before, after in pairwise(positions)]
    assert gaps[0] > gaps[-1]


def known(number: int, ino: int, position: int = 5000, **more: bool) -> Known:
    return Known(
        number, 1, ino, position, more.get("final", False), more.get("skipped", False), more.get("open", False)
    )


def test_verdict_prefers_the_inode_among_equal_contents() -> None:
    """Two files prove to be the generation: the one with its inode is it, the other is new."""
    verdict = judge(
        [known(1, 7, 10)],
        [Candidate(1, 9, current=True), Candidate(1, 7, current=False)],
        lambda *_: Proof.PREFIX,
    )
    assert (verdict.assigned, verdict.fresh) == ({1: 1}, [0])


def test_verdict_orders_what_is_new() -> None:
    """Unknown files newer than the newest known one, oldest first; older ones are left alone."""
    files = [Candidate(1, ino, current=ino == 10) for ino in (10, 11, 12, 13, 14)]
    verdict = judge([known(3, 13)], files, lambda one, file: Proof.PREFIX if file.ino == one.ino else Proof.NO)
    assert (verdict.assigned, verdict.fresh) == ({3: 3}, [2, 1, 0])


def test_verdict_unsure_is_never_fresh() -> None:
    """A file that could not be looked at may be a known one."""
    verdict = judge([known(1, 7)], [Candidate(1, 9, current=True)], lambda *_: Proof.UNSURE)
    assert (verdict.assigned, verdict.fresh, verdict.unsure) == ({}, [], [0])


def test_verdict_short_final_generation_needs_its_exact_end() -> None:
    """A header alone does not make a new file an old generation."""
    header = known(1, 7, 100, final=True)
    file = [Candidate(1, 9, current=True)]
    assert judge([header], file, lambda *_: Proof.PREFIX).fresh == [0]
    assert judge([header], file, lambda *_: Proof.EXACT).assigned == {1: 0}
