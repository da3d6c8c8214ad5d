"""Keeps one session after the other with one manager, for ever, and says how it stands.

A session that is lost is opened again after a jittered back-off of 0.1 to 5 s; one that was
refused for a reason that a person must act on, after 5 to 15 s. One line is logged when the
reason changes, not one for each attempt. What a session does is its owner's.
"""

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc

from jlogd.forward.messages import FOR_A_PERSON
from jlogd.runtime.arguments import format_time
from jlogd.runtime.certificates import diagnose
from jlogd.runtime.clock import Clock
from jlogd.runtime.errors import JlogdError
from jlogd.runtime.fs import FileSystem
from jlogd.runtime.rpc import TlsFiles, open_channel
from jlogd.runtime.worker import OnFailure, Worker
from jlogd.settings import TlsSettings

log = logging.getLogger(__name__)

BACKOFF_MIN_S, BACKOFF_MAX_S = 0.1, 5.0
REFUSED_MIN_S, REFUSED_MAX_S = 5.0, 15.0
MACHINE_ID = Path("/etc/machine-id")
LOST = "lost"  # the stream ended without a reason


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session ended. ``progress``: it was of use; ``greeted``: the manager spoke."""

    reason: str
    message: str
    greeted: bool
    progress: bool


class Session(Protocol):
    """What a dialer needs of the session that it keeps."""

    def run(self, channel: grpc.Channel) -> Outcome:
        """Until it is over; closes ``channel``."""
        ...

    def drain(self, deadline_s: float) -> None:
        """Begin nothing new, finish what is under way, end."""
        ...

    def end(self, reason: str, message: str) -> None:
        """End now."""
        ...


class Dialer:
    """start and stop once; ``status``, ``reconnect`` and ``up`` from any thread."""

    def __init__(
        self,
        name: str,
        address: str,
        tls: TlsFiles | None,
        open_session: Callable[[], Session],
        on_failure: OnFailure,
        *,
        fs: FileSystem,
        clock: Clock,
    ) -> None:
        """``open_session`` makes the next one, in the thread ``name``; JlogdError when it cannot."""
        self.address = address
        self._tls = tls
        self._open_session = open_session
        self._fs = fs
        self._clock = clock
        self._worker = Worker(name, self._run, on_failure)
        self._again = threading.Event()  # ends a back-off: stop, or reconnect
        self._lock = threading.Lock()  # guards all below
        self._session: Session | None = None
        self._state = "connecting"
        self._since_ns = clock.wall_ns()
        self._error: str | None = None
        self._manager: str | None = None

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._worker.start()

    def stop(self, deadline_s: float) -> bool:
        """Drain the session for most of ``deadline_s``, end; True when it ended."""
        with self._lock:
            self._worker.stop()
            session = self._session
        self._again.set()
        if session is not None:
            session.drain(deadline_s * 0.8)
        return self._worker.join(deadline_s)

    def reconnect(self) -> None:
        """End the session, or the back-off, and connect again at once."""
        with self._lock:
            session = self._session
        self._again.set()
        if session is not None:
            session.end(LOST, "reconnecting")

    def up(self, manager: str, state: str) -> None:
        """The session does what it is for; ``manager``: its name."""
        with self._lock:
            self._manager = manager
        self._set(state, None)

    def status(self) -> dict[str, Any]:
        """``name`` is the manager's own, once it has spoken."""
        with self._lock:
            return {
                "manager": self.address,
                "name": self._manager,
                "state": self._state,
                "since": format_time(self._since_ns),
                "error": self._error,
            }

    # ------------------------------------------------------------------ the worker's thread

    def _run(self, worker: Worker) -> None:
        failures = 0
        while not worker.stopping.is_set():
            self._again.clear()
            outcome = self._hold(worker)
            if outcome is None or worker.stopping.is_set():
                return
            failures = 0 if outcome.progress else failures + 1
            delay_s = self._note(outcome, failures)
            self._again.wait(delay_s)

    def _hold(self, worker: Worker) -> Outcome | None:
        """One session, from its beginning to its end; None when it is too late for one."""
        try:
            session = self._open_session()
            with self._lock:
                if worker.stopping.is_set():
                    return None
                self._session = session
            outcome = session.run(open_channel(self.address, self._tls, fs=self._fs))
        except JlogdError as error:
            return Outcome(error.reason, str(error), greeted=False, progress=False)
        finally:
            with self._lock:
                self._session = None
        return self._explain(outcome)

    def _explain(self, outcome: Outcome) -> Outcome:
        """GRPC says little about a connection that never was: ask again in a way that tells more."""
        if outcome.greeted or outcome.reason != LOST or self._again.is_set():
            return outcome
        with contextlib.suppress(JlogdError):
            found = diagnose(self.address, self._tls)
            if found is not None:
                return Outcome(found[0], found[1], greeted=False, progress=False)
        return outcome

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


def machine_id_of(fs: FileSystem) -> str:
    """Tells machines of one name apart; empty where there is none."""
    try:
        with fs.open_read(MACHINE_ID) as file:
            return file.pread(64, 0).decode(errors="replace").strip()
    except OSError:
        return ""


def tls_files(settings: TlsSettings) -> TlsFiles | None:
    """None: no TLS, loopback only."""
    if settings.ca is None or settings.cert is None or settings.key is None or settings.insecure:
        return None
    return TlsFiles(settings.ca, settings.cert, settings.key, settings.deny)
