"""A named thread that never dies silently.

The body gets its ``Worker`` and returns soon after ``stopping`` is set. An exception
that leaves the body is kept, logged with its traceback and told to ``on_failure``,
which stops the daemon: never a zombie.
"""

import logging
import threading
from collections.abc import Callable
from typing import TypeAlias

OnFailure: TypeAlias = Callable[[BaseException], None]

_log = logging.getLogger(__name__)


class Worker:
    """One daemon thread. start/stop/join; start once. Thread-safe."""

    def __init__(self, name: str, body: Callable[["Worker"], None], on_failure: OnFailure) -> None:
        """``body`` runs in the thread called ``name`` (15 characters show in ``ps``)."""
        self.name = name
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self._body = body
        self._on_failure = on_failure
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the body to return; does not wait."""
        self.stopping.set()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the thread; True when it has ended (or never started)."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """True while the body runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._body(self)
        except BaseException as error:  # noqa: BLE001 -- told to on_failure, whatever it is
            self.failure = error
            _log.exception("worker %s died", self.name)
            self._on_failure(error)
