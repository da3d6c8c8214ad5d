"""Positions of a new journal's sources that come back from a manager's archive (``start_at = "archive"``).

Data walks: a session's answer → ``Awaited`` → the intake's thread, which stores them (``store``) before it reads
anything.

Invariants: a journal awaits positions only while nothing was read into it; what counts is the
answer of one manager, never a mixture; until the last of the positions is durable, a marker among
the first of them says so, so that a start after ``kill -9`` asks again instead of going on with some.
"""

import logging
import threading
from collections.abc import Sequence

from jlogd.forward.messages import SourcePosition
from jlogd.journal import Journal, Run, RunFlags
from jlogd.runtime.clock import SYSTEM, Clock

log = logging.getLogger(__name__)

GRACE_S = 10.0  # a manager that has nothing is believed at once, or after this long while others have not answered
WAITING = "waiting for a manager to give back the positions"
_MARKER = b"awaiting positions"  # no source: those are absolute paths


def is_new(journal: Journal) -> bool:
    """Nothing was ever read into it, and no positions were given back whole. For the writer's thread."""
    return journal.end == 0 and (not journal.sources or (_MARKER, 1) in journal.sources)


def store(journal: Journal, given: Sequence[SourcePosition]) -> None:
    """Append the positions in place of any that an interrupted ``store`` left; they count after ``commit``."""
    stale = [Run(path, number, 0, 0, 0, RunFlags.FORGET) for path, number in journal.sources if path != _MARKER]
    runs = [Run(one.path, one.generation, 0, 0, one.position, RunFlags.NONE, one.state, one.ladder) for one in given]
    marker = Run(_MARKER, 1, 0, 0, 0)
    # One frame holds 64 KiB of these, and a torn tail is cut from behind: the marker goes last, as it came first.
    journal.note_sources([marker, *stale, *runs, Run(_MARKER, 1, 0, 0, 0, RunFlags.FORGET)])


class Awaited:
    """One journal's question to all managers. ``wait`` belongs to the intake's thread, the rest to any."""

    def __init__(self, journal: str, managers: int, *, grace_s: float = GRACE_S, clock: Clock = SYSTEM) -> None:
        """``managers``: how many can answer."""
        self._journal = journal
        self._managers = managers
        self._grace_s = grace_s
        self._clock = clock
        self._changed = threading.Condition()  # guards all below
        self._without: set[str] = set()  # subscribers whose manager has nothing to give
        self._until_s: float | None = None  # when they are believed
        self._given: tuple[SourcePosition, ...] | None = None
        self._over = False

    @property
    def pending(self) -> bool:
        """Whether an answer would still count."""
        with self._changed:
            return self._given is None and not self._over

    def answer(self, subscriber: str, manager: str, sources: tuple[SourcePosition, ...] | None) -> None:
        """What a manager gives back; the first that has something decides. None: it cannot answer."""
        with self._changed:
            if self._given is not None or self._over:
                return
            if sources:
                self._given = sources
            elif subscriber not in self._without:
                self._without.add(subscriber)
                if self._until_s is None:
                    self._until_s = self._clock.monotonic_s() + self._grace_s
            else:
                return
            self._changed.notify_all()
        if sources is None:
            log.warning(
                "journal %s: manager %s is too old to give positions back: as if it had none", self._journal, manager
            )
        elif sources:
            log.info("journal %s: manager %s gave back %d positions", self._journal, manager, len(sources))
        else:
            log.info("journal %s: manager %s has no positions to give back", self._journal, manager)

    def wait(self, stopping: threading.Event) -> tuple[SourcePosition, ...] | None:
        """Until it is decided: the positions, perhaps none. None when ``stopping`` comes first (``wake`` tells)."""
        with self._changed:
            while not stopping.is_set():
                if self._given is None and self._all_without():
                    self._given = ()
                    log.info("journal %s: no manager knows positions: beginning at the beginning", self._journal)
                if self._given is not None:
                    return self._given
                now_s = self._clock.monotonic_s()
                self._changed.wait(None if self._until_s is None else max(self._until_s - now_s, 0.01))
            self._over = True
            return None

    def wake(self) -> None:
        """Make ``wait`` look at ``stopping``."""
        with self._changed:
            self._changed.notify_all()

    def _all_without(self) -> bool:
        late = self._until_s is not None and self._clock.monotonic_s() >= self._until_s
        return late or len(self._without) >= self._managers
