"""One manager of the node: keeps a session with it, for ever, and says how it stands.

A session that is lost is opened again after a jittered back-off of 0.1 to 5 s; one that was
refused for a reason that a person must act on, after 5 to 15 s. One line is logged when the
reason changes, not one for each attempt.
"""

import contextlib
import logging
import random
import secrets
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from jlogd.forward.epochs import EpochStore
from jlogd.forward.events import Identity
from jlogd.forward.history import Source
from jlogd.forward.link import LOST, Link, Outcome
from jlogd.forward.messages import FOR_A_PERSON
from jlogd.forward.positions import Awaited
from jlogd.journal import Journal
from jlogd.runtime.arguments import format_time
from jlogd.runtime.certificates import diagnose
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import JlogdError, SettingsError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.names import JOURNALS_MAX
from jlogd.runtime.rpc import TlsFiles, open_channel
from jlogd.runtime.worker import OnFailure, Worker
from jlogd.settings import AgentSettings, ManagerLink

log = logging.getLogger(__name__)

BACKOFF_MIN_S, BACKOFF_MAX_S = 0.1, 5.0
REFUSED_MIN_S, REFUSED_MAX_S = 5.0, 15.0
EPOCHS_FILE = "epochs.json"
MACHINE_ID = Path("/etc/machine-id")
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
        self._machine_id = machine_id if machine_id is not None else _machine_id(fs)
        self._instance = instance
        self._epochs = EpochStore(epochs, fs=fs)
        self._tls = tls
        self._fs = fs
        self._clock = clock
        self._worker = Worker(f"forward-{subscriber}", self._run, on_failure)
        self._again = threading.Event()  # ends a back-off: stop, or reconnect
        self._drain_s = 0.0
        self._lock = threading.Lock()  # guards all below
        self._link: Link | None = None
        self._state = "connecting"
        self._since_ns = clock.wall_ns()
        self._error: str | None = None
        self._manager: str | None = None
        self._sessions = 0  # begun
        self._sent_bytes = 0  # by links that are over
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
        files = settings.tls
        tls = None
        if files.ca is not None and files.cert is not None and files.key is not None and not files.insecure:
            tls = TlsFiles(files.ca, files.cert, files.key, files.deny)
        return cls(
            str(link.address),
            link.subscriber,
            journals,
            on_failure,
            node=settings.node.name,
            subcluster=settings.node.subcluster,
            epochs=settings.directory / EPOCHS_FILE,
            tls=tls,
            awaited=awaited,
            fs=fs,
            clock=clock,
        )

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._worker.start()

    def stop(self, deadline_s: float) -> bool:
        """Wait up to ``deadline_s`` for what is under way, store checkpoints, end; True when it ended."""
        with self._lock:
            self._drain_s = deadline_s * 0.8
            self._worker.stop()
            link = self._link
        self._again.set()
        if link is not None:
            link.drain(self._drain_s)
        return self._worker.join(deadline_s)

    def reconnect(self) -> None:
        """End the session, or the back-off, and connect again at once."""
        with self._lock:
            link = self._link
        self._again.set()
        if link is not None:
            link.end(LOST, "reconnecting")

    def counts(self) -> tuple[int, int]:
        """Sessions begun and frame bytes sent since the start."""
        with self._lock:
            return self._sessions, self._sent_bytes + (self._link.sent_bytes if self._link is not None else 0)

    def status(self) -> dict[str, Any]:
        """One entry of ``sessions`` in ``jlogd status``; ``name`` is the manager's own, once it has spoken."""
        with self._lock:
            return {
                "manager": self.address,
                "name": self._manager,
                "subscriber": self.subscriber,
                "state": self._state,
                "since": format_time(self._since_ns),
                "error": self._error,
            }

    # ------------------------------------------------------------------ the worker's thread

    def _run(self, worker: Worker) -> None:
        failures = 0
        while not worker.stopping.is_set():
            self._again.clear()
            outcome = self._session(worker)
            if outcome is None or worker.stopping.is_set():
                return
            failures = 0 if outcome.progress else failures + 1
            delay_s = self._note(outcome, failures)
            self._again.wait(delay_s)

    def _session(self, worker: Worker) -> Outcome | None:
        try:
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
                if worker.stopping.is_set():
                    return None
                self._link = link
            outcome = link.run(open_channel(self.address, self._tls, fs=self._fs))
        except JlogdError as error:
            return Outcome(error.reason, str(error), greeted=False, progress=False)
        finally:
            with self._lock:
                self._sent_bytes += self._link.sent_bytes if self._link is not None else 0
                self._link = None
        return self._explain(outcome)

    def _sources(self) -> list[Source]:
        """The journals with their subscribers, looked up anew for each session: an operator may have changed them."""
        return [
            Source(name, journal, journal.subscriber(self.subscriber), self._awaited.get(name))
            for name, journal in self._journals.items()
        ]

    def _explain(self, outcome: Outcome) -> Outcome:
        """GRPC says little about a connection that never was: ask again in a way that tells more."""
        if outcome.greeted or outcome.reason != LOST or self._again.is_set():
            return outcome
        with contextlib.suppress(JlogdError):
            found = diagnose(self.address, self._tls)
            if found is not None:
                return Outcome(found[0], found[1], greeted=False, progress=False)
        return outcome

    def _streaming(self, manager: str) -> None:
        log.info("manager %s (%s): delivering as subscriber %s", manager, self.address, self.subscriber)
        with self._lock:
            self._manager = manager
            self._sessions += 1
        self._set("streaming", None)

    def _note(self, outcome: Outcome, failures: int) -> float:
        """Set the state, write a line when it is news; how long to wait, in seconds."""
        message = f"{outcome.reason}: {outcome.message}"
        news = message != self._error
        if outcome.reason in FOR_A_PERSON:
            if news:
                log.error("manager %s: refused: %s", self.address, message)
            self._set("refused", message)
            return random.uniform(REFUSED_MIN_S, REFUSED_MAX_S)  # noqa: S311 - jitter, not a secret
        if news:
            log.warning("manager %s: session lost: %s", self.address, message)
        self._set("backoff", message)
        ceiling_s = min(BACKOFF_MIN_S * (1 << min(failures, 10)), BACKOFF_MAX_S)
        return max(BACKOFF_MIN_S, random.uniform(0.5, 1.0) * ceiling_s)  # noqa: S311 - as above

    def _set(self, state: str, error: str | None) -> None:
        with self._lock:
            if state != self._state:
                self._state, self._since_ns = state, self._clock.wall_ns()
            self._error = error


def _machine_id(fs: FileSystem) -> str:
    try:
        with fs.open_read(MACHINE_ID) as file:
            return file.pread(64, 0).decode(errors="replace").strip()
    except OSError:
        return ""
