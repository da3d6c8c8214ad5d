"""Which revision last changed each line of a file. Bounded in lines, revisions and time.

Walks back through the revisions that changed the file. Lines that the older content also has belong to something
older; the others to the revision in hand. What is left when a bound is reached belongs to nobody (None), which is
said, not guessed.
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import Final

from jlogd.confrepo.model import Commit, ObjectId
from jlogd.confrepo.repository import Repository
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import RefusedError

LINES_MAX: Final = 20_000  # a configuration file that a person reads
CONTENT_MAX: Final = 1 << 20
REVISIONS_MAX: Final = 1000
BLAME_S: Final = 10.0  # difflib is quadratic for lines that repeat
JUNK_LINES: Final = 2000  # up to so many changed lines difflib may take each line seriously


def blame(
    repository: Repository, commit: Commit, path: str, *, clock: Clock = SYSTEM
) -> list[tuple[Commit | None, bytes]]:
    """Each line of ``path`` as at ``commit`` with its revision. RefusedError: not there, or beyond the bounds."""
    lines = _lines(repository, commit, path)
    owners: list[Commit | None] = [None] * len(lines)
    open_at = {i: i for i in range(len(lines))}  # line of the version in hand → line of the result
    deadline_s = clock.monotonic_s() + BLAME_S
    here = lines
    for newer, older in _versions(repository, commit, path):
        found = _content(repository, older, path) if older is not None else None
        before = _split(found) if found is not None and _readable(found) else []
        carried = dict(_same(here, before))
        for line, at in open_at.items():
            if line not in carried:
                owners[at] = newer
        open_at = {carried[line]: at for line, at in open_at.items() if line in carried}
        if not open_at or clock.monotonic_s() > deadline_s:
            break
        here = before
    return list(zip(owners, lines, strict=True))


def _versions(repository: Repository, commit: Commit, path: str) -> Iterator[tuple[Commit, Commit | None]]:
    """Revisions that changed ``path``, newest first, each with the one before it."""
    newer: Commit | None = None
    for count, found in enumerate(repository.log(path, until=commit.id)):
        if newer is not None:
            yield newer, found
        if count >= REVISIONS_MAX:
            return
        newer = found
    if newer is not None:
        yield newer, None


def _lines(repository: Repository, commit: Commit, path: str) -> list[bytes]:
    content = _content(repository, commit, path)
    if content is None:
        raise RefusedError(f"{path} is not in r{commit.revision}")
    if not _readable(content):
        raise RefusedError(f"{path} is binary, or larger than {CONTENT_MAX >> 20} MiB: it has no lines to blame")
    lines = _split(content)
    if len(lines) > LINES_MAX:
        raise RefusedError(f"{path} has {len(lines)} lines, blame takes {LINES_MAX}: see 'eccfg log {path}'")
    return lines


def _content(repository: Repository, commit: Commit, path: str) -> bytes | None:
    entry = repository.entry(commit, path)
    return None if entry is None else repository.content(ObjectId(entry.id))


def _readable(content: bytes) -> bool:
    return len(content) <= CONTENT_MAX and b"\0" not in content


def _split(content: bytes) -> list[bytes]:
    """Lines as git counts them: at each newline, and what is after the last one."""
    lines = content.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _same(here: Sequence[bytes], before: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Pairs of lines that both have. Equal ends are taken off first: most changes are small."""
    start, limit = 0, min(len(here), len(before))
    while start < limit and here[start] == before[start]:
        yield start, start
        start += 1
    tail = 0
    while tail < limit - start and here[-1 - tail] == before[-1 - tail]:
        tail += 1
        yield len(here) - tail, len(before) - tail
    left, right = here[start : len(here) - tail], before[start : len(before) - tail]
    matcher = difflib.SequenceMatcher(None, right, left, autojunk=len(left) > JUNK_LINES)
    for block in matcher.get_matching_blocks():
        for i in range(block.size):
            yield start + block.b + i, start + block.a + i
