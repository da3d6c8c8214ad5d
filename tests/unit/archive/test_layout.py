"""The main line: which part of which incarnation counts."""

from pathlib import Path

import pytest

from managerd.archive.layout import Incarnation, find_incarnation, main_line

A, B = b"A" * 16, b"B" * 16


def line(*begun: tuple[bytes, int]) -> list[tuple[int, int, int | None]]:
    """The main line of (journal id, first offset) as (number, first, end)."""
    incarnations = [
        (Incarnation(number, journal_id, Path(str(number))), first)
        for number, (journal_id, first) in enumerate(begun, 1)
    ]
    return [(piece.incarnation.number, piece.first, piece.end) for piece in main_line(incarnations)]


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        ([], []),
        ([(A, 0)], [(1, 0, None)]),
        ([(A, 0), (B, 0)], [(1, 0, None), (2, 0, None)]),
        ([(A, 0), (A, 50)], [(1, 0, 50), (2, 50, None)]),
        ([(A, 0), (A, 0)], [(2, 0, None)]),
        ([(A, 0), (A, 50), (A, 70)], [(1, 0, 50), (2, 50, 70), (3, 70, None)]),
        ([(A, 0), (A, 50), (A, 30)], [(1, 0, 30), (3, 30, None)]),
        ([(A, 0), (B, 7), (A, 50)], [(1, 0, 50), (2, 7, None), (3, 50, None)]),
        ([(A, 40), (A, 20)], [(2, 20, None)]),
    ],
)
def test_main_line(begun: list[tuple[bytes, int]], expected: list[tuple[int, int, int | None]]) -> None:
    """Each incarnation takes over from its first offset on what earlier ones of its journal hold."""
    assert line(*begun) == expected


def test_find_incarnation() -> None:
    """By number, by whole name, by the beginning of the journal id: then the newest."""
    first, second = (Incarnation(n, A, Path(f"{n:04d}-{A.hex()}")) for n in (1, 2))
    other = Incarnation(3, B, Path(f"0003-{B.hex()}"))
    everything = [first, second, other]
    assert find_incarnation(everything, "1") is first
    assert find_incarnation(everything, "0002") is second
    assert find_incarnation(everything, first.name) is first
    assert find_incarnation(everything, A.hex()[:6]) is second
    assert find_incarnation(everything, "4") is None
    assert find_incarnation(everything, "zz") is None
