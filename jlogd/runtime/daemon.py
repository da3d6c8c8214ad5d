"""Runs an application as a daemon: signals, start, reload, one shutdown with one deadline.

Signals are masked before any thread starts and taken with ``sigtimedwait`` in the
main thread; no code runs in a signal handler. The application's start and stop run in
a thread of their own, so that signals count during them too.

    starting ──started──▶ running ──TERM, INT, failure──▶ stopping ──stopped──▶ exit 0, or the failure's exit code
        │                  │  ▲                              │
        └─TERM, INT: stops │  │ HUP: reload                  ├─ second TERM or INT: exit 128 + n, at once
          once started     └──┘                              └─ deadline: exit 7, at once

A forced exit is a kill: whatever must survive that is durable already.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Protocol

from jlogd.runtime import systemd
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import DeadlineError, JlogdError
from jlogd.runtime.worker import OnFailure, Worker

STOP_TIMEOUT_S = 20.0  # below systemd's TimeoutStopSec of 30 s in conf/*.service

_WAKE = signal.SIGRTMIN  # our own threads wake the main thread with it
_STOP = frozenset({signal.SIGTERM, signal.SIGINT})
_TAKEN = _STOP | {signal.SIGHUP, _WAKE}
_IDLE_S = 3600.0  # sigtimedwait needs a limit; nothing happens when it passes

_log = logging.getLogger(__name__)


class App(Protocol):
    """What a daemon does. The methods are called one at a time, from different threads."""

    def start(self, fail: OnFailure) -> None:
        """Start everything and return. ``fail(error)``, from any thread, later stops the daemon."""
        ...

    def reload(self) -> None:
        """Take what can be taken from the settings file; on an error everything stays as it was."""
        ...

    def stop(self, deadline_s: float) -> None:
        """Stop everything started (``start`` may have failed half-way) within ``deadline_s`` seconds."""
        ...


def run(app: App, *, stop_timeout_s: float = STOP_TIMEOUT_S, clock: Clock = SYSTEM) -> int:
    """Run ``app`` until a signal or a failure ends it; the exit code.

    Call it from the main thread, before any other thread exists. A forced end does not
    return: it leaves the process. An error of ``start`` is raised again after ``stop``.
    """
    signal.signal(
        _WAKE, signal.SIG_IGN
    )  # a late one must not kill; while masked, it is delivered to sigtimedwait all the same
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
    try:
        return _Daemon(app, stop_timeout_s, clock).run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Daemon:
    """State of one ``run``; ``_failure`` is written by any thread, the rest by the main thread."""

    def __init__(self, app: App, stop_timeout_s: float, clock: Clock) -> None:
        self._app = app
        self._stop_timeout_s = stop_timeout_s
        self._clock = clock
        self._main = threading.get_ident()
        self._failure: BaseException | None = None
        self._failed_start: BaseException | None = None
        self._reload_asked = False

    def run(self) -> int:
        stop_asked = self._start()
        if not stop_asked and self._failed_start is None:
            systemd.ready()
            self._serve()
        self._stop()
        if self._failed_start is not None:
            raise self._failed_start
        if self._failure is not None:
            return self._failure.exit_code if isinstance(self._failure, JlogdError) else JlogdError.exit_code
        return 0

    def fail(self, error: BaseException) -> None:
        """Any thread: stop the daemon because of ``error``; the first one counts."""
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        signal.pthread_kill(self._main, _WAKE)

    def _start(self) -> bool:
        """Run the application's start; True when a signal asks to stop."""
        starter = self._aside("start", lambda: self._app.start(self.fail))
        stop_asked = False
        while starter.alive:
            number = self._wait(_IDLE_S)
            if number in _STOP:
                if stop_asked:
                    _force(number)
                stop_asked = True
            self._reload_asked |= number == signal.SIGHUP
        starter.join()
        self._failed_start = starter.failure
        return stop_asked

    def _serve(self) -> None:
        interval_s = systemd.watchdog_interval_s() or _IDLE_S
        while self._failure is None:
            number = signal.SIGHUP if self._reload_asked else self._wait(interval_s)
            self._reload_asked = False
            if number in _STOP:
                _log.info("%s: stopping", signal.Signals(number).name)
                return
            if number == signal.SIGHUP:
                self._reload()
            systemd.watchdog()

    def _reload(self) -> None:
        systemd.reloading()
        try:
            self._app.reload()
        except JlogdError as error:
            _log.error("reload: %s; everything stays as it was", error)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the daemon may be half-way between two settings
            _log.exception("reload failed")
            self._failure = self._failure or error
        systemd.ready()

    def _stop(self) -> None:
        systemd.stopping()
        deadline_s = self._clock.monotonic_s() + self._stop_timeout_s
        stopper = self._aside("stop", lambda: self._app.stop(self._stop_timeout_s))
        while stopper.alive:
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                _log.error("not stopped within %.0f s: leaving", self._stop_timeout_s)
                os._exit(DeadlineError.exit_code)
            number = self._wait(left_s)
            if number in _STOP:
                _force(number)
        stopper.join()
        self._failure = self._failure or stopper.failure

    def _aside(self, name: str, call: Callable[[], None]) -> Worker:
        """Run ``call`` in a thread that wakes the main thread at its end."""

        def body(_worker: Worker) -> None:
            try:
                call()
            except JlogdError as error:  # expected: reported by whoever called `run`, without a traceback
                worker.failure = error

        worker = Worker(name, body, lambda _error: None)
        worker.start()
        threading.Thread(target=self._wake_after, args=(worker,), name=f"{name}-end", daemon=True).start()
        return worker

    def _wake_after(self, worker: Worker) -> None:
        worker.join()
        self._wake()

    def _wait(self, timeout_s: float) -> int | None:
        taken = signal.sigtimedwait(_TAKEN, timeout_s)
        return taken.si_signo if taken else None


def _force(number: int) -> None:
    _log.warning("second %s: leaving at once", signal.Signals(number).name)
    os._exit(128 + number)
