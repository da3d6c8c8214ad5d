"""The words between ``jlogd.tail`` and who stores what it reads.

An ``Item`` is what the journal must append, in the order given. Sizes in bytes,
durations in seconds. Pure values.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from jlogd.journal.model import Gap, Run

LINES_MAX = 1 << 20  # raw bytes of one ``Lines`` at most: a frame's worth, and what one read costs in memory


@dataclass(frozen=True, slots=True)
class TailSpec:
    """One ``[[tail]]`` section. Paths are absolute globs; ``**`` spans directories.

    ``max_line``: longer lines become pieces; values of 1 MiB and above mean 1 MiB - 1,
    so that a piece and its newline fit into one ``Lines``.
    """

    paths: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    start_at: Literal["beginning", "end"] = "beginning"
    max_line: int = 1 << 20
    rotate_wait_s: float = 5.0

    @property
    def piece_max(self) -> int:
        """Bytes of the longest record."""
        return max(1, min(self.max_line, LINES_MAX - 1))


@dataclass(frozen=True, slots=True)
class Lines:
    """Records of one generation; ``body`` ends with a newline and is at most ``LINES_MAX`` long."""

    body: bytes
    run: Run


@dataclass(frozen=True, slots=True)
class Note:
    """A position without records (skipped, final, found elsewhere), or ``FORGET``."""

    run: Run


@dataclass(frozen=True, slots=True)
class Missing:
    """Bytes of a source that were gone before they could be read."""

    gap: Gap


Item: TypeAlias = Lines | Note | Missing

FollowState: TypeAlias = Literal["following", "waiting", "unreadable", "gone"]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What a person sees of one source. ``last_read_ns`` is wall time, None before the first read."""

    path: bytes
    generation: int  # 0: none yet
    position: int
    size: int
    lag_bytes: int  # over all generations that are still being read
    last_read_ns: int | None
    state: FollowState
    error: str | None


class History(Protocol):
    """The journal's own records: the proof of where a source was cut."""

    def runs(self, source: bytes, generation: int, from_position: int) -> Iterator[tuple[Run, Callable[[], bytes]]]:
        """Runs whose ``position`` is above ``from_position``, in order, each with a way to get its raw body."""
        ...
