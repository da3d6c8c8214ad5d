"""Three-way merge of lines: what each side changed of the base is put together where it does not touch.

Invariant (strict): with no result there is a place that both sides changed; with one, every change of each side is in
it, whichever side is which. E. Myers, "An O(ND) Difference Algorithm", finds the changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Lines: TypeAlias = list[bytes]

EDITS_MAX: Final = 1000  # lines added and removed, a tenth of a second; above, all between the ends counts as changed


@dataclass(frozen=True, slots=True, order=True)
class Hunk:
    """Lines [start, end) of the base become ``lines``."""

    start: int
    end: int
    lines: tuple[bytes, ...]


def merge_text(base: bytes, mine: bytes, theirs: bytes, *, loose: bool = False) -> bytes | None:
    """Both sides' changes, or None when they touch.

    ``loose``: changes of neighbouring lines may touch, and what both add at one place comes one after the other, theirs
    first. Such a result is a guess, which the caller checks.
    """
    old = _split(base)
    changed = [hunks(old, _split(side)) for side in (mine, theirs)]
    if loose:
        changed = [[part for hunk in side for part in _parts(hunk)] for side in changed]
    merged = _merge(old, changed[0], changed[1], loose=loose)
    return b"".join(merged) if merged is not None else None


def _split(content: bytes) -> Lines:
    lines = content.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def _merge(base: Lines, mine: Sequence[Hunk], theirs: Sequence[Hunk], *, loose: bool) -> Lines | None:
    merged: Lines = []
    at = 0
    for group in _groups(mine, theirs, loose=loose):
        start, end = group.start, group.end
        sides = [_apply(base, side, start, end) for side in (group.mine, group.theirs) if side]
        if len(sides) == 2 and sides[0] == sides[1]:
            sides.pop()
        if len(sides) == 2:
            if not loose or start != end:
                return None
            sides.reverse()  # both only add: theirs, then mine
        merged += base[at:start]
        for side in sides:
            merged += side
        at = end
    return merged + base[at:]


@dataclass(slots=True)
class _Group:
    """Hunks of both sides that touch each other."""

    start: int
    end: int
    mine: list[Hunk]
    theirs: list[Hunk]


def _groups(mine: Sequence[Hunk], theirs: Sequence[Hunk], *, loose: bool) -> Iterator[_Group]:
    group: _Group | None = None
    sided = [(hunk, True) for hunk in mine] + [(hunk, False) for hunk in theirs]
    for hunk, is_mine in sorted(sided, key=lambda each: (each[0].start, each[0].end)):
        if group is None or not _touch(group, hunk, loose=loose):
            if group is not None:
                yield group
            group = _Group(hunk.start, hunk.end, [], [])
        group.end = max(group.end, hunk.end)
        (group.mine if is_mine else group.theirs).append(hunk)
    if group is not None:
        yield group


def _touch(group: _Group, hunk: Hunk, *, loose: bool) -> bool:
    if not loose:
        return hunk.start <= group.end
    return hunk.start < group.end or (hunk.start, hunk.end) == (group.start, group.end)


def _apply(base: Lines, side: Sequence[Hunk], start: int, end: int) -> Lines:
    """Lines [start, end) of the base as one side has them."""
    made: Lines = []
    at = start
    for hunk in side:
        made += base[at : hunk.start]
        made += hunk.lines
        at = hunk.end
    return made + base[at:end]


def _parts(hunk: Hunk) -> Iterator[Hunk]:
    """Line by line as far as there are pairs, then what was only added or removed."""
    pairs = min(hunk.end - hunk.start, len(hunk.lines))
    for index in range(pairs):
        yield Hunk(hunk.start + index, hunk.start + index + 1, hunk.lines[index : index + 1])
    if pairs < hunk.end - hunk.start or pairs < len(hunk.lines):
        yield Hunk(hunk.start + pairs, hunk.end, hunk.lines[pairs:])


# ---------------------------------------------------------------------- two-way


def hunks(base: Lines, side: Lines) -> list[Hunk]:
    """What ``side`` changed, in the base's order; between two of them at least one line is the same."""
    head = _same_lines(base, side)
    tail = _same_lines(base[head:][::-1], side[head:][::-1])
    old, new = base[head : len(base) - tail], side[head : len(side) - tail]
    blocks = _blocks(old, new) or []
    found: list[Hunk] = []
    at = to = 0
    for start, target, size in [*blocks, (len(old), len(new), 0)]:
        if at < start or to < target:
            found.append(Hunk(head + at, head + start, tuple(new[to:target])))
        at, to = start + size, target + size
    return found


def _same_lines(one: Lines, other: Lines) -> int:
    size = min(len(one), len(other))
    return next((index for index in range(size) if one[index] != other[index]), size)


def _blocks(old: Lines, new: Lines) -> list[tuple[int, int, int]] | None:
    """Equal runs (start in old, start in new, length), in order; None when there are too many edits."""
    steps: list[list[int]] = []  # after so many edits, by diagonal: how far along old one gets
    for edits in range(min(EDITS_MAX, len(old) + len(new)) + 1):
        before = steps[-1] if steps else [0]
        reached: list[int] = []
        for index in range(edits + 1):
            x = before[index] if _adds(before, index, edits) else before[index - 1] + 1
            y = x - _diagonal(index, edits)
            while x < len(old) and y < len(new) and old[x] == new[y]:
                x, y = x + 1, y + 1
            if x == len(old) and y == len(new):
                return _walk_back(steps, x, y)
            reached.append(x)
        steps.append(reached)
    return None


def _diagonal(index: int, edits: int) -> int:
    return 2 * index - edits


def _adds(before: list[int], index: int, edits: int) -> bool:
    """Whether the last edit on the way here adds a line of new; else it removes one of old."""
    return index == 0 or (index < edits and before[index - 1] < before[index])


def _walk_back(steps: list[list[int]], x: int, y: int) -> list[tuple[int, int, int]]:
    blocks: list[tuple[int, int, int]] = []
    for edits in range(len(steps), -1, -1):
        before = steps[edits - 1] if edits else [0]
        index = (x - y + edits) // 2
        adds = _adds(before, index, edits)
        came = before[index] if adds else before[index - 1]
        begin = came if adds else came + 1
        if x > begin:
            blocks.append((begin, begin - (x - y), x - begin))
        x, y = came, came - (x - y) - (1 if adds else -1)
    return blocks[::-1]
