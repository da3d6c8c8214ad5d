"""Whether the node stays reachable with a revision that was confirmed a moment ago. Pure.

A cut may come after the word that confirmed: a firewall that lets established connections live, a resolver that still
remembers. So a node that loses every manager within ``WATCH_S`` of the confirmation, and finds none again for the time
that an unconfirmed revision would have had, goes back all the same. What it cannot see: a cut that comes later, and one
that a restart of the agent itself falls into.
"""

from typing import Final

from jlogd.attach.memory import Trial

WATCH_S: Final = 30.0  # a connection that says nothing any more is noticed after 15 s at the latest (runtime.rpc)


class Aftermath:
    """One owner; ``begin`` for each revision that is confirmed."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s``: how long no manager may be attached."""
        self._patience_s = patience_s
        self._trial: Trial | None = None
        self._until_s = 0.0
        self._alone_s: float | None = None  # since when no manager is attached

    def begin(self, trial: Trial, now_s: float) -> None:
        """It was confirmed now."""
        self._trial, self._until_s, self._alone_s = trial, now_s + WATCH_S, None

    def end(self) -> None:
        """Another revision is on trial."""
        self._trial = self._alone_s = None

    def looked(self, now_s: float, *, attached: bool) -> None:
        """Whether a manager is attached now."""
        if self._trial is None:
            return
        if attached:
            self._alone_s = None
            if now_s >= self._until_s:
                self._trial = None
        elif self._alone_s is None and now_s < self._until_s:
            self._alone_s = now_s

    @property
    def watching(self) -> bool:
        """The revision before may still be needed."""
        return self._trial is not None

    @property
    def due_s(self) -> float | None:
        """When ``taken_back`` has an answer at the latest."""
        return self._alone_s + self._patience_s if self._alone_s is not None else None

    def taken_back(self, now_s: float) -> Trial | None:
        """The revision with which nobody could be reached for too long; once."""
        due_s, trial = self.due_s, self._trial
        if due_s is None or now_s < due_s:
            return None
        self.end()
        return trial
