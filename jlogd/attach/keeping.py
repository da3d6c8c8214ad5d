"""Sees that ``current`` is what it should be, and what differs in it from the repository.

Objects that are needed for that and are not here any more are fetched again. Belongs to the configurer's thread.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from jlogd.attach.bringing import fetch
from jlogd.attach.decide import Decider, Phase
from jlogd.attach.inbox import Session
from jlogd.attach.memory import Point
from jlogd.confrepo.drift import Drift
from jlogd.confrepo.replica import Replica
from jlogd.runtime.errors import DamageError

log = logging.getLogger(__name__)

_NAMED_MAX: Final = 10  # paths in the log
_Done = TypeVar("_Done")


class Keeper:
    """See the module. ``drift``: as it was seen last."""

    def __init__(self, replica: Replica, decider: Decider, *, theirs: bool) -> None:
        """``theirs``: local changes are undone."""
        self.drift = Drift()
        self._replica = replica
        self._decider = decider
        self._theirs = theirs

    def current(self) -> Point | None:
        """What ``current`` points to, if it is whole."""
        current = self._replica.views.current()
        manifest = self._replica.views.manifest(current) if current is not None else None
        return Point(manifest.revision, manifest.id) if manifest is not None else None

    def set_right(self, *, running: bool) -> bool:
        """``current`` is what it should be; True when it was not. ``running``: the worker does.

        StorageError, DamageError, RefusedError.
        """
        wanted, current = self._decider.running, self.current()
        trial = self._decider.memory.trial
        if current == wanted or (trial is not None and current == trial.point):
            return False
        if wanted is None:  # the first revision was taken back, and the disk did not let it go
            if running and current is not None:
                self._replica.views.swap(None)
            return False
        if current is not None and self._decider.phase is Phase.SETTLED and not running:
            return False  # at the start: the memory may be older than the swap
        log.warning("configuration: current is not r%d (%s): set right", wanted.revision, wanted.id[:8])
        self._replica.prepare_again(wanted.id, wanted.revision)
        self._replica.views.swap(wanted.id)
        return True

    def keep_right(self, sessions: Mapping[str, Session]) -> bool:
        """``set_right``, from what managers have if need be. Also UnavailableError."""
        return self._with_objects(lambda: self.set_right(running=True), sessions)

    def look_for_drift(self, sessions: Mapping[str, Session], *, full: bool) -> None:
        """Set ``drift``, after what is to be undone was undone. StorageError, DamageError, UnavailableError."""
        changes = self._replica.look(full=full)
        if changes and self._theirs:
            self._with_objects(lambda: self._replica.restore(changes), sessions)
            changes = self._replica.look(full=False)
        drift = Drift.of(changes)
        if drift != self.drift:
            self.drift = drift
            if drift.count:
                shown = ", ".join(drift.paths[:_NAMED_MAX])
                log.warning("configuration: %d files of the view differ: %s", drift.count, shown)

    def _with_objects(self, action: Callable[[], _Done], sessions: Mapping[str, Session]) -> _Done:
        """``action``, once more when objects of the revision that runs are gone, and could be fetched."""
        wanted = self._decider.running
        try:
            return action()
        except DamageError:
            if wanted is None:
                raise
            self._replica.doubt()
            fetch(self._replica, wanted.id, sessions)
            return action()
