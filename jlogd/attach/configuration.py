"""The agent's part that follows the fleet's configuration: one ``Configurer``, and one ``Attacher`` for each manager.

A disk that says no at the start is asked again in the background: the journals do not wait for the configuration.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from jlogd.attach import statefile
from jlogd.attach.attacher import Attacher
from jlogd.attach.configurer import Configurer
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import JlogdError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.worker import OnFailure, Worker
from jlogd.settings import AgentSettings, ManagerLink

log = logging.getLogger(__name__)

OPEN_AGAIN_S: Final = 5.0


class Configuration:
    """start and stop once; ``follow`` and ``status`` from any thread."""

    def __init__(
        self,
        settings: AgentSettings,
        apply_settings: Callable[[Path | None], list[str]],
        on_failure: OnFailure,
        *,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> None:
        """``apply_settings``: see ``Configurer.open``."""
        self._boot = settings
        self._apply_settings = apply_settings
        self._on_failure = on_failure
        self._fs = fs
        self._clock = clock
        self._opener = Worker("config-open", self._open_later, on_failure)
        self._lock = threading.Lock()  # guards what follows
        self._configurer: Configurer | None = None
        self._attachers: dict[str, Attacher] = {}  # by address
        self._settings = settings  # those that say which managers there are
        self._problem = ""

    def prepare(self) -> None:
        """Set ``current`` right where that can be done at once, so that its settings can be read. Never raises."""
        self._open()

    def start(self, settings: AgentSettings) -> None:
        """Begin to attach to the managers of ``settings``; returns at once."""
        with self._lock:
            self._settings = settings
            if self._configurer is None:
                self._opener.start()
                return
        self._begin()

    def follow(self, settings: AgentSettings) -> None:
        """The managers are those of ``settings`` from now on."""
        with self._lock:
            self._settings = settings
            if self._configurer is None or self._stopping:
                return
        self._begin_attachers()

    def ask_to_stop(self) -> None:
        """As the first half of ``stop``; does not wait."""
        self._opener.stop()
        with self._lock:
            configurer = self._configurer
        if configurer is not None:
            configurer.ask_to_stop()

    def stop(self, deadline_s: float) -> None:
        """Say goodbye to the managers, end what is under way."""
        self.ask_to_stop()
        end_s = self._clock.monotonic_s() + deadline_s
        self._opener.join(deadline_s)
        with self._lock:
            attachers, self._attachers = list(self._attachers.values()), {}
            configurer = self._configurer
        for attacher in attachers:
            attacher.stop(max(end_s - self._clock.monotonic_s(), 0.0) / 2)
        if configurer is not None:
            configurer.stop(max(end_s - self._clock.monotonic_s(), 0.0))

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end."""
        with self._lock:
            return self._stopping

    @property
    def _stopping(self) -> bool:
        """Under the lock."""
        return self._opener.stopping.is_set()

    def status(self) -> dict[str, Any]:
        """``config`` of ``jlogd status``."""
        with self._lock:
            configurer, attachers, problem = self._configurer, list(self._attachers.values()), self._problem
        if configurer is None:
            return statefile.stopped(self._boot) | {"error": problem or None, "managers": []}
        managers = sorted((attacher.status() for attacher in attachers), key=lambda status: str(status["manager"]))
        return configurer.status() | {"managers": managers}

    # ------------------------------------------------------------------ opening

    def _open(self) -> None:
        try:
            opened = Configurer.open(self._boot, self._apply_settings, self._on_failure, fs=self._fs, clock=self._clock)
        except JlogdError as error:
            with self._lock:
                news, self._problem = str(error) != self._problem, str(error)
            if news:
                log.error("configuration: %s", error)  # noqa: TRY400 - for a person
            return
        with self._lock:
            self._configurer, self._problem = opened, ""

    def _open_later(self, worker: Worker) -> None:
        while not worker.stopping.wait(OPEN_AGAIN_S):
            self._open()
            if self._configurer is not None:
                self._begin()
                return

    def _begin(self) -> None:
        self._begin_attachers()
        with self._lock:
            configurer = self._configurer
        if configurer is not None:
            configurer.start()

    def _begin_attachers(self) -> None:
        """Exactly one attacher for each manager: those that stay are left alone."""
        with self._lock:
            configurer, settings = self._configurer, self._settings
            if configurer is None or self._stopping:
                return
            wanted = {str(link.address): link for link in reversed(settings.manager)}
            gone = [self._attachers.pop(address) for address in self._attachers.keys() - wanted.keys()]
            new = [
                self._attach(configurer, wanted[address]) for address in sorted(wanted.keys() - self._attachers.keys())
            ]
            self._attachers |= {attacher.address: attacher for attacher in new}
        configurer.set_managers(wanted)
        for attacher in gone:
            attacher.stop(1.0)
        for attacher in new:
            attacher.start()

    def _attach(self, configurer: Configurer, link: ManagerLink) -> Attacher:
        return Attacher.from_settings(
            self._boot,
            link,
            configurer,
            self._on_failure,
            recipient=configurer.recipient,
            fs=self._fs,
            clock=self._clock,
        )
