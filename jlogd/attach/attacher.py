"""One manager of the node: keeps an Attach session with it, for ever, and says how it stands.

Back-off and refusals are the ``Dialer``'s, the session is a ``Link``'s, what to do with
what a manager says is the listener's.
"""

import logging
import secrets
import socket
from pathlib import Path
from typing import Any, Self

from jlogd.attach.link import Link
from jlogd.attach.messages import Listener
from jlogd.attach.session import Identity
from jlogd.forward.dialer import Dialer, machine_id_of, tls_files
from jlogd.forward.epochs import EpochStore
from jlogd.forward.forwarder import EPOCHS_FILE
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import TlsFiles
from jlogd.runtime.worker import OnFailure
from jlogd.settings import AgentSettings, ManagerLink

log = logging.getLogger(__name__)

_INSTANCE = secrets.token_bytes(16)  # tells this process from every other that has the node's name


class Attacher:
    """Attaches to one manager. start and stop once; ``status`` and ``reconnect`` from any thread."""

    def __init__(
        self,
        address: str,
        subscriber: str,
        listener: Listener,
        on_failure: OnFailure,
        *,
        node: str,
        epochs: Path,
        tls: TlsFiles | None,
        subcluster: str = "default",
        recipient: str = "",
        host: str | None = None,
        machine_id: str | None = None,
        instance: bytes = _INSTANCE,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> None:
        """``tls`` None: loopback only. ``epochs``: read only, the Forwarder of ``subscriber`` writes it."""
        self.address = address
        self.subscriber = subscriber
        self._listener = listener
        self._node = node
        self._subcluster = subcluster
        self._recipient = recipient
        self._host = host if host is not None else socket.gethostname()
        self._machine_id = machine_id if machine_id is not None else machine_id_of(fs)
        self._instance = instance
        self._epochs = EpochStore(epochs, fs=fs)
        self._clock = clock
        self._dialer = Dialer(f"attach-{subscriber}", address, tls, self._open_link, on_failure, fs=fs, clock=clock)

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
        return cls(
            str(link.address),
            link.subscriber,
            listener,
            on_failure,
            node=settings.node.name,
            subcluster=settings.node.subcluster,
            epochs=settings.directory / EPOCHS_FILE,
            tls=tls_files(settings.tls),
            recipient=recipient,
            fs=fs,
            clock=clock,
        )

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._dialer.start()

    def stop(self, deadline_s: float) -> bool:
        """Send the reports that wait, end; True when it ended within ``deadline_s``."""
        return self._dialer.stop(deadline_s)

    def reconnect(self) -> None:
        """End the session, or the back-off, and connect again at once."""
        self._dialer.reconnect()

    def status(self) -> dict[str, Any]:
        """As ``Forwarder.status``; ``state`` is ``attached`` where that says ``streaming``."""
        return {**self._dialer.status(), "subscriber": self.subscriber}

    # ------------------------------------------------------------------ the session's threads

    def _open_link(self) -> Link:
        identity = Identity(
            self._node,
            self._subcluster,
            self._host,
            self._machine_id,
            self._instance,
            self._recipient,
            self._epochs.seen(self.subscriber),
        )
        return Link(identity, self.address, self._listener, self._clock, self._attached)

    def _attached(self, manager: str) -> None:
        log.info("manager %s (%s): attached", manager, self.address)
        self._dialer.up(manager, "attached")
