"""Proofs by content: is this file that generation, and how much of it is still there.

Reads files through ``Content``; the verdicts are drawn in ``identity``.
"""

from collections.abc import Callable, Iterator

from jlogd.journal.model import Run, RunFlags
from jlogd.tail.content import BROKEN, Content
from jlogd.tail.identity import Proof
from jlogd.tail.position import BLOCK, Cursor, Ladder, PositionState, PrefixHash, StateFlags, digest

SKIP_PROOF = 64 << 10  # bytes that identify a generation that is never read; equal headers are shorter
COMPARE_MAX = 16 << 20  # files that are equal so far are not told apart by what follows
_STEP = 256 << 10


def resume(content: Content, saved: PositionState, position: int) -> Cursor | None:
    """A cursor at ``position`` if head, tail and last hash block of ``content`` are what was read, else None."""
    if not starts_like(content, saved):
        return None
    head = content.read(saved.head_length, saved.origin)
    blocks = (position - saved.origin) // BLOCK
    block_at = saved.origin + blocks * BLOCK
    span_at = min(position - saved.tail_length, block_at)
    span = content.read(position - span_at, span_at)
    if len(span) < position - span_at:
        return None
    tail = span[len(span) - saved.tail_length :]
    block = span[block_at - span_at :]
    if digest(tail) != saved.tail_hash or digest(block, saved.chain) != saved.prefix:
        return None
    rolling = PrefixHash(saved.origin, saved.chain, blocks)
    rolling.update(block)
    return Cursor(saved.start, head, tail, rolling)


def starts_like(content: Content, saved: PositionState) -> bool:
    """Whether the head is the same: a hint for what the inode says already."""
    head = content.read(saved.head_length, saved.origin)
    return len(head) == saved.head_length and digest(head) == saved.head_hash


def prove(content: Content, saved: PositionState, position: int, partial: bytes, *, same_inode: bool) -> Proof:
    """Compare ``content`` with what is remembered of one generation. Compressed content must be whole.

    ``partial``: bytes after ``position`` that were read and wait for their newline.
    """
    if not saved.head_length + saved.tail_length + len(partial):
        return Proof.NO  # nothing of it was read
    settled = same_inode and content.compressed and saved.flags & StateFlags.FINAL
    try:
        if settled:  # recognised before: no need to decompress it all again
            return Proof.EXACT if starts_like(content, saved) else Proof.NO
        if resume(content, saved, position) is None or content.read(len(partial), position) != partial:
            return Proof.NO
        if saved.flags & StateFlags.SKIPPED and not same_inode:
            more = bool(content.read(1, position))
            return Proof.EXACT if more == (saved.seen > position) else Proof.NO
        return Proof.EXACT if content.size() == position + len(partial) else Proof.PREFIX
    except BROKEN:
        return Proof.UNSURE


def skipped(content: Content, dev: int, ino: int) -> tuple[int, PositionState]:
    """How a generation that is never read is remembered: by its first 64 KiB, and whether there is more."""
    cursor = Cursor.begin(0, 0)
    cursor.advance(content.read(SKIP_PROOF, 0))
    more = bool(content.read(1, cursor.position))
    flags = StateFlags.FINAL | StateFlags.SKIPPED
    return cursor.position, cursor.state(flags, dev, ino, cursor.position + more)


def hashed_to(content: Content, start: int, origin: int, position: int) -> Cursor | None:
    """A cursor at ``position`` made by reading ``[origin, position)``; None if the content is shorter."""
    cursor = Cursor(start, b"", b"", PrefixHash(origin))
    while cursor.position < position:
        piece = content.read(min(_STEP, position - cursor.position), cursor.position)
        if not piece:
            return None
        cursor.advance(piece)
    return cursor


Runs = Iterator[tuple[Run, Callable[[], bytes]]]


def is_beginning(one: Content, other: Content) -> bool:
    """Whether ``other`` begins with all of ``one``, as far as ``COMPARE_MAX`` bytes tell."""
    position = 0
    while position < COMPARE_MAX and (piece := one.read(_STEP, position)):
        if other.read(len(piece), position) != piece:
            return False
        position += len(piece)
    return True


def common_end(
    content: Content, saved: PositionState, position: int, ladder: Ladder, runs: Callable[[int], Runs]
) -> int:
    """Where ``content`` stops being what was read of a generation: a line's start, at least ``saved.start``.

    Rungs of the ladder (and the position itself) are verified in one sequential
    read; the journal's own records after the best rung give the exact byte.
    """
    best = _best_rung(content, saved, position, ladder)
    exact = best
    for run, body in runs(best):
        source = source_bytes(run, body())
        if run.position - len(source) > exact:
            break  # older records are gone from the journal
        overlap = source[exact - (run.position - len(source)) :]
        there = content.read(len(overlap), exact)
        if there != overlap:
            exact += _common_length(there, overlap)
            break
        exact = run.position
    return _line_start(content, best, exact)


def _best_rung(content: Content, saved: PositionState, position: int, ladder: Ladder) -> int:
    rungs = {rung.position: rung.prefix for rung in ladder.rungs}
    rungs[position] = saved.prefix
    best = saved.start
    cursor = Cursor.begin(saved.origin, saved.origin)
    for at in sorted(at for at in rungs if at > saved.start):
        while cursor.position < at:
            piece = content.read(min(_STEP, at - cursor.position), cursor.position)
            if not piece:
                return best
            cursor.advance(piece)
        if cursor.hash.prefix != rungs[at]:
            return best
        best = at
    return best


def _common_length(one: bytes, other: bytes) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _line_start(content: Content, least: int, position: int) -> int:
    """The last start of a line in ``(least, position]``, else ``least``: a line that changed is read whole."""
    at = position
    while at > least:
        length = min(_STEP, at - least)
        found = content.read(length, at - length).rfind(b"\n")
        if found >= 0:
            return at - length + found + 1
        at -= length
    return least


def source_bytes(run: Run, body: bytes) -> bytes:
    """The bytes of the source that a run's raw body stands for."""
    if not run.flags & (RunFlags.CONTINUED | RunFlags.NO_NEWLINE):
        return body
    return body.replace(b"\n", b"")  # such records hold no newline of their own
