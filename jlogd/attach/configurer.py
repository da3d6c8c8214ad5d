"""Brings the node to the revision that its managers ask for, and keeps it there.

One worker thread owns the ``Replica``, the durable ``Memory`` and the decisions (``decide``); sessions' threads only
put what they hear into the inbox, which keeps the newest of each kind for each manager.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self

from jlogd.attach.messages import Talk, Target
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.worker import OnFailure
from jlogd.settings import AgentSettings

ApplySettings = Callable[[Path | None], list[str]]


class Configurer:
    """The ``Listener`` of every Attach session of the node. start and stop once; everything else from any thread."""

    @classmethod
    def open(
        cls,
        settings: AgentSettings,
        apply_settings: ApplySettings,
        on_failure: OnFailure,
        *,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> Self:
        """Make or read ``<spool>/<node>/config``. ``settings.config`` must be there. StorageError, DamageError.

        ``apply_settings`` is called in the worker's thread after each swap, with the overlay's path or None: it
        returns notes ("http.listen needs a restart"), or raises SettingsError when jlogd cannot take it.
        """
        raise NotImplementedError

    @property
    def recipient(self) -> str:
        """What secrets for this node are encrypted to."""
        raise NotImplementedError

    def set_managers(self, addresses: Collection[str]) -> None:
        """Which managers the node has; before ``start``, and whenever that changes."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin; returns at once."""
        raise NotImplementedError

    def stop(self, deadline_s: float) -> bool:
        """End; a reload command under way is killed. True when it ended within ``deadline_s``."""
        raise NotImplementedError

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end: ``apply_settings`` then waits for nothing."""
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """``config`` of ``jlogd status``."""
        raise NotImplementedError

    def attached(self, manager: str, talk: Talk) -> None:
        """See ``Listener``."""
        raise NotImplementedError

    def detached(self, manager: str) -> None:
        """See ``Listener``."""
        raise NotImplementedError

    def target(self, manager: str, target: Target) -> None:
        """See ``Listener``."""
        raise NotImplementedError

    def reported(self, manager: str, number: int) -> None:
        """See ``Listener``."""
        raise NotImplementedError
