"""What managers said and nobody has looked at yet: for each manager the newest of each kind, so it cannot grow.

Sessions' threads put, one worker waits and takes. One lock, ``_changed``, guards everything.
"""

import threading
from collections.abc import Collection
from dataclasses import dataclass, replace

from jlogd.attach.messages import Talk, Target


@dataclass(frozen=True, slots=True)
class Session:
    """A manager that is attached. ``heard``: the number of the last report that it has."""

    talk: Talk
    target: Target | None = None
    heard: int = 0


class Inbox:
    """The ``Listener``'s end is any thread's; ``wait`` and ``take`` are one thread's."""

    def __init__(self) -> None:
        """Nobody is attached."""
        self._changed = threading.Condition()
        self._news = True
        self._sessions: dict[str, Session] = {}
        self._managers: frozenset[str] = frozenset()

    def attached(self, manager: str, talk: Talk) -> None:
        """See ``Listener``."""
        with self._changed:
            self._sessions[manager] = Session(talk)
            self._tell()

    def detached(self, manager: str) -> None:
        """See ``Listener``."""
        with self._changed:
            self._sessions.pop(manager, None)
            self._tell()

    def target(self, manager: str, target: Target) -> None:
        """See ``Listener``."""
        with self._changed:
            session = self._sessions.get(manager)
            if session is not None:
                self._sessions[manager] = replace(session, target=target)
                self._tell()

    def reported(self, manager: str, number: int, *, tell: bool = True) -> None:
        """See ``Listener``. ``tell``: somebody waits for it."""
        with self._changed:
            session = self._sessions.get(manager)
            if session is not None:
                self._sessions[manager] = replace(session, heard=max(session.heard, number))
                if tell:
                    self._tell()

    def set_managers(self, addresses: Collection[str]) -> None:
        """Which managers the node has."""
        with self._changed:
            self._managers = frozenset(addresses)
            self._tell()

    def wake(self) -> None:
        """End a wait."""
        with self._changed:
            self._tell()

    def wait(self, timeout_s: float | None) -> None:
        """Until there is news, at most ``timeout_s``."""
        with self._changed:
            if not self._news:
                self._changed.wait(timeout_s)
            self._news = False

    def take(self) -> tuple[dict[str, Session], frozenset[str]]:
        """Everybody who is attached, and who should be."""
        with self._changed:
            return dict(self._sessions), self._managers

    def _tell(self) -> None:
        """Under the lock."""
        self._news = True
        self._changed.notify_all()
