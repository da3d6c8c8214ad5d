"""One manager of the node: keeps an Attach session with it, for ever, and says how it stands.

Back-off, refusals and ``status`` are the Forwarder's (``jlogd.forward.dialer``).
"""

from typing import Any, Self

from jlogd.attach.messages import Listener
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.worker import OnFailure
from jlogd.settings import AgentSettings, ManagerLink


class Attacher:
    """Attaches to one manager. start and stop once; ``status`` and ``reconnect`` from any thread."""

    @classmethod
    def from_settings(
        cls,
        settings: AgentSettings,
        link: ManagerLink,
        listener: Listener,
        on_failure: OnFailure,
        *,
        recipient: str = "",
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> Self:
        """For one ``[[manager]]`` of the agent's settings. ``recipient``: the node's age recipient."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to connect; returns at once."""
        raise NotImplementedError

    def stop(self, deadline_s: float) -> bool:
        """Send the reports that wait, end; True when it ended within ``deadline_s``."""
        raise NotImplementedError

    def reconnect(self) -> None:
        """End the session, or the back-off, and connect again at once."""
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """As ``Forwarder.status``; ``state`` is ``attached`` where that says ``streaming``."""
        raise NotImplementedError
