"""One manager of the node: delivers every journal to it, for ever, and says how it stands.

Back-off and refusals are the ``Dialer``'s, the session is a ``Link``'s.
"""

import logging
import secrets
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from jlogd.forward.dialer import Dialer, machine_id_of, tls_files
from jlogd.forward.epochs import EpochStore
from jlogd.forward.events import Identity
from jlogd.forward.history import Source
from jlogd.forward.link import Link
from jlogd.forward.positions import Awaited
from jlogd.journal import Journal
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import SettingsError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.names import JOURNALS_MAX
from jlogd.runtime.rpc import TlsFiles
from jlogd.runtime.worker import OnFailure
from jlogd.settings import AgentSettings, ManagerLink

log = logging.getLogger(__name__)

EPOCHS_FILE = "epochs.json"
_INSTANCE = secrets.token_bytes(16)  # tells this process from every other that has the node's name


class Forwarder:
    """Delivers every journal to one manager. start and stop once; ``status`` and ``reconnect`` from any thread."""

    def __init__(
        self,
        address: str,
        subscriber: str,
        journals: Mapping[str, Journal],
        on_failure: OnFailure,
        *,
        node: str,
        epochs: Path,
        tls: TlsFiles | None,
        subcluster: str = "default",
        host: str | None = None,
        machine_id: str | None = None,
        instance: bytes = _INSTANCE,
        awaited: Mapping[str, Awaited] | None = None,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> None:
        """``tls`` None: loopback only. Adds the subscriber, at the oldest kept offset, where it is not there yet.

        ``awaited``: the new journals that ask the manager for their sources' positions, by name.
        """
        if len(journals) > JOURNALS_MAX:
            raise SettingsError([f"{len(journals)} journals: at most {JOURNALS_MAX} are allowed"])
        self.address = address
        self.subscriber = subscriber
        self._journals = dict(sorted(journals.items()))
        self._awaited = awaited or {}
        self._node = node
        self._subcluster = subcluster
        self._host = host if host is not None else socket.gethostname()
        self._machine_id = machine_id if machine_id is not None else machine_id_of(fs)
        self._instance = instance
        self._epochs = EpochStore(epochs, fs=fs)
        self._clock = clock
        self._dialer = Dialer(f"forward-{subscriber}", address, tls, self._open_link, on_failure, fs=fs, clock=clock)
        self._lock = threading.Lock()  # guards all below
        self._link: Link | None = None  # the last one
        self._sessions = 0  # begun
        self._sent_bytes = 0  # by links before it
        self._sources()

    @classmethod
    def from_settings(
        cls,
        settings: AgentSettings,
        link: ManagerLink,
        journals: Mapping[str, Journal],
        on_failure: OnFailure,
        *,
        awaited: Mapping[str, Awaited] | None = None,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> Self:
        """For one ``[[manager]]`` of the agent's settings."""
        return cls(
            str(link.address),
            link.subscriber,
            journals,
            on_failure,
            node=settings.node.name,
            subcluster=settings.node.subcluster,
            epochs=settings.directory / EPOCHS_FILE,
            tls=tls_files(settings.tls),
            awaited=awaited,
            fs=fs,
            clock=clock,
        )

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._dialer.start()

    def stop(self, deadline_s: float) -> bool:
        """Wait up to ``deadline_s`` for what is under way, store checkpoints, end; True when it ended."""
        return self._dialer.stop(deadline_s)

    def reconnect(self) -> None:
        """End the session, or the back-off, and connect again at once."""
        self._dialer.reconnect()

    def counts(self) -> tuple[int, int]:
        """Sessions begun and frame bytes sent since the start."""
        with self._lock:
            return self._sessions, self._sent_bytes + (self._link.sent_bytes if self._link is not None else 0)

    def status(self) -> dict[str, Any]:
        """One entry of ``sessions`` in ``jlogd status``."""
        return {**self._dialer.status(), "subscriber": self.subscriber}

    # ------------------------------------------------------------------ the dialer's thread

    def _open_link(self) -> Link:
        identity = Identity(
            self._node,
            self._subcluster,
            self.subscriber,
            self._host,
            self._machine_id,
            self._instance,
            self._epochs.seen(self.subscriber),
        )
        link = Link(identity, self._sources(), self._epochs, self._clock, self._streaming)
        with self._lock:
            self._sent_bytes += self._link.sent_bytes if self._link is not None else 0
            self._link = link
        return link

    def _sources(self) -> list[Source]:
        """The journals with their subscribers, looked up anew for each session: an operator may have changed them."""
        return [
            Source(name, journal, journal.subscriber(self.subscriber), self._awaited.get(name))
            for name, journal in self._journals.items()
        ]

    def _streaming(self, manager: str) -> None:
        log.info("manager %s (%s): delivering as subscriber %s", manager, self.address, self.subscriber)
        with self._lock:
            self._sessions += 1
        self._dialer.up(manager, "streaming")
