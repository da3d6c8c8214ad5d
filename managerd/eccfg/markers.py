"""Both sides of a file in one, for a person to choose from: the lines that merge, and the others between markers.

<<<<<<< mine
…
||||||| base
…
=======
…
>>>>>>> theirs r12
"""

import difflib
from collections.abc import Iterator, Sequence

from jlogd.confrepo import model as m


def with_markers(base: m.File | None, mine: m.File | None, theirs: m.File | None, *, revision: str) -> m.File | None:
    """The file to edit. Where a side has no text (deleted, symlink, binary), the other side; then mine."""
    if mine is None or theirs is None:
        return mine if theirs is None else theirs
    texts = [_text(side) for side in (base or m.File(b""), mine, theirs)]
    if any(text is None for text in texts) or m.SYMLINK in {mine.mode, theirs.mode}:
        return mine
    mode = theirs.mode if base is not None and mine.mode == base.mode else mine.mode
    lines = merged_lines(*(text or [] for text in texts), revision=revision)
    return m.File("".join(lines).encode(), mode)


def _text(file: m.File) -> list[str] | None:
    try:
        return file.content.decode().splitlines(keepends=True)
    except UnicodeDecodeError:
        return None


def merged_lines(base: Sequence[str], mine: Sequence[str], theirs: Sequence[str], *, revision: str) -> Iterator[str]:
    """Lines of the merge: of regions that one side changed that side's, of others both between markers."""
    for ours, old, new in _regions(base, mine, theirs):
        if list(ours) == list(new) or list(new) == list(old):
            yield from ours
        elif list(ours) == list(old):
            yield from new
        else:
            yield "<<<<<<< mine\n"
            yield from _ended(ours)
            yield "||||||| base\n"
            yield from _ended(old)
            yield "=======\n"
            yield from _ended(new)
            yield f">>>>>>> theirs {revision}\n"


def _ended(lines: Sequence[str]) -> Iterator[str]:
    yield from (line if line.endswith("\n") else line + "\n" for line in lines)


def _regions(
    base: Sequence[str], mine: Sequence[str], theirs: Sequence[str]
) -> Iterator[tuple[Sequence[str], Sequence[str], Sequence[str]]]:
    """(mine, base, theirs) of each stretch, cut at the lines that all three have in common (diff3)."""
    in_mine, in_theirs = _matches(base, mine), _matches(base, theirs)
    at, left, right = 0, 0, 0
    for line in range(len(base)):
        if line not in in_mine or line not in in_theirs:
            continue
        yield mine[left : in_mine[line]], base[at:line], theirs[right : in_theirs[line]]
        yield [base[line]], [base[line]], [base[line]]
        at, left, right = line + 1, in_mine[line] + 1, in_theirs[line] + 1
    yield mine[left:], base[at:], theirs[right:]


def _matches(base: Sequence[str], other: Sequence[str]) -> dict[int, int]:
    """Line of the base → line of the other that it is."""
    blocks = difflib.SequenceMatcher(None, base, other, autojunk=False).get_matching_blocks()
    return {block.a + i: block.b + i for block in blocks for i in range(block.size)}
