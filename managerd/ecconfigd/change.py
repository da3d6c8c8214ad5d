"""One change on its way: what is asked, what became of it, and what waits for its author's signature."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jlogd.confrepo.model import Commit, Conflict, Fault
from jlogd.confrepo.repository import Draft
from managerd.ecconfigd.edits import Edit

PREPARED_MAX: Final = 100
PREPARED_BYTES_MAX: Final = 256 << 20  # of drafts that wait; the last one is kept whatever its size


class Outcome(enum.IntEnum):
    """What became of a commit; the numbers are the protocol's."""

    COMMITTED = 1
    NOTHING = 2
    REFUSED = 3
    CONFLICT = 4
    GOOD = 5
    PREPARED = 6
    UNCONFIRMED = 7  # said by the service, when others do not have it in time


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """One change. ``base``: a REV text, empty = head. ``settles``: names below refs/heads/side/."""

    message: str
    edits: Sequence[Edit] = ()
    base: str = ""
    dry_run: bool = False
    prepare: bool = False
    settles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it. ``commit``: the revision that was made, or head when none was needed.

    ``paths``: changed. ``notes``: what people should know although it is accepted.
    """

    outcome: Outcome
    commit: Commit | None = None
    paths: Sequence[str] = ()
    faults: Sequence[Fault] = ()
    conflicts: Sequence[Conflict] = ()
    prepared: bytes = b""
    held: str = ""
    merged: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was decided about a change that only lacks its signature, or not even that."""

    author: str
    message: str
    paths: tuple[str, ...]
    settles: tuple[str, ...] = ()
    merged: bool = False
    notes: Sequence[str] = ()


class PreparedOnes:
    """Drafts that wait, the newest last. Bounded: the oldest are forgotten. Owned by one thread."""

    def __init__(self) -> None:
        """None waits."""
        self._waiting: dict[bytes, tuple[Draft, Prepared, int]] = {}
        self._size = 0

    def add(self, draft: Draft, made: Prepared) -> None:
        """Remember it by its content."""
        self.remove(draft.content)
        size = sum(item.raw_length() for item in draft.objects) + len(draft.content)
        self._waiting[draft.content] = draft, made, size
        self._size += size
        while len(self._waiting) > 1 and (len(self._waiting) > PREPARED_MAX or self._size > PREPARED_BYTES_MAX):
            self.remove(next(iter(self._waiting)))

    def get(self, content: bytes) -> tuple[Draft, Prepared] | None:
        """What was prepared as ``content``."""
        found = self._waiting.get(content)
        return found[:2] if found is not None else None

    def remove(self, content: bytes) -> None:
        """Forget it."""
        found = self._waiting.pop(content, None)
        self._size -= found[2] if found is not None else 0
