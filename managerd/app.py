"""The manager: builds the parts from the settings, starts and stops them in order.

    lock on the data directory → archive → ingest, configuration (port open) → HTTP, control socket

Stop goes the other way round; what was received is committed and acknowledged before the port closes.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.control import CONTROL_SOCKET, ControlServer
from jlogd.runtime.errors import SettingsError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.memory import give_back
from jlogd.runtime.metrics import MANAGER, Metrics
from jlogd.runtime.rpc import check_own_certificate
from jlogd.runtime.worker import OnFailure
from jlogd.spool.owner import Owner
from managerd.archive import Archive
from managerd.ingest.service import IngestServer, Service
from managerd.settings import ManagerSettings, load
from managerd.status import archived_nodes, running_status

if TYPE_CHECKING:
    from jlogd.runtime.health import HealthServer
    from managerd.ecconfigd.ecconfigd import Ecconfigd

log = logging.getLogger(__name__)


class Manager:
    """One manager's daemon, for ``runtime.daemon.run``."""

    def __init__(self, settings_path: Path, *, fs: FileSystem = OS, clock: Clock = SYSTEM) -> None:
        """Settings are read by ``start``, so that their faults come out of it."""
        self._path = settings_path
        self._fs = fs
        self._clock = clock
        self._settings: ManagerSettings | None = None
        self._owner: Owner | None = None
        self._archive: Archive | None = None
        self._ingest: IngestServer | None = None
        self._config: Ecconfigd | None = None
        self._control: ControlServer | None = None
        self._health: HealthServer | None = None
        self._metrics = Metrics(MANAGER)

    def start(self, fail: OnFailure) -> None:
        """Take the lock, open the archive and the port. SettingsError, LockedError, StorageError, UnavailableError."""
        settings = self._settings = load(self._path)
        check_certificate(settings)
        data, name = settings.manager.data, settings.manager.name
        seed = self._clock.wall_ns() // 10**9  # of a new directory only: above what nodes remember of a lost one
        self._owner = Owner.acquire(data, name, seed=seed, what="archive", fs=self._fs, clock=self._clock)
        epoch = self._owner.epoch
        self._archive = Archive.open(data, epoch=epoch, fs=self._fs, clock=self._clock)
        self._ingest = IngestServer.from_settings(
            settings, self._archive, fail, epoch=epoch, known=archived_nodes(data),
            services=self._services(settings, epoch), metrics=self._metrics, fs=self._fs, clock=self._clock,
        )  # fmt: skip
        self._ingest.start()
        self._start_health(settings, fail)
        self._control = ControlServer(data / CONTROL_SOCKET, {"status": self._status, "nodes": self._nodes}, fail)
        self._control.start()
        give_back()  # what reading the settings needed
        log.info("manager %s, subscriber %s: listening on %s, archive %s, epoch %d",
                 name, settings.subscriber, settings.manager.listen, data, epoch)  # fmt: skip

    def reload(self) -> None:
        """The certificates' deny list follows its file by itself; everything else needs a restart, and is named."""
        fresh = load(self._path)
        old = self._settings
        if old is None or fresh == old:
            log.info("reload: nothing changed")
            return
        changed = [name for name in ("manager", "tls", "http", "config") if getattr(fresh, name) != getattr(old, name)]
        raise SettingsError([f"{self._path}: [{name}] changed: restart managerd to take it" for name in changed])

    def stop(self, deadline_s: float) -> None:
        """Stop everything started, in order; what does not stop in time is left to the kernel."""
        if self._health is not None:
            self._health.stop()
        if self._control is not None:
            self._control.stop()
        if self._ingest is not None:
            self._ingest.stop(deadline_s)
        if self._archive is not None:
            self._archive.close()
        if self._owner is not None:
            self._owner.release()

    def _services(self, settings: ManagerSettings, epoch: int) -> list[Service]:
        """What is served beside the archive."""
        if settings.config is None:
            return []
        from managerd.ecconfigd.ecconfigd import Ecconfigd  # noqa: PLC0415 - git, schemas, settings of nodes: memory

        self._config = Ecconfigd(
            settings, settings.config, epoch=epoch, metrics=self._metrics, fs=self._fs, clock=self._clock
        )
        return [self._config]

    def _start_health(self, settings: ManagerSettings, fail: OnFailure) -> None:
        if settings.http.listen is None:
            return
        from jlogd.runtime.health import Readiness, serve  # noqa: PLC0415 - http.server costs memory

        tls = settings.tls
        self._health = serve(
            settings.http.listen, (tls.ca, tls.cert, tls.key), tls.deny,
            readiness=lambda: Readiness(ready=True), metrics=self._metrics.text, on_failure=fail,
        )  # fmt: skip

    def _status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        settings = self._settings or load(self._path)
        nodes = self._ingest.nodes() if self._ingest else []
        sessions = sum(node["state"] == "connected" for node in nodes)
        since = self._owner.record.since if self._owner else None
        config = self._config.status() if self._config is not None else None
        return running_status(settings, since=since, nodes=len(nodes), sessions=sessions, config=config)

    def _nodes(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return {"schema": 1, "nodes": self._ingest.nodes() if self._ingest else []}


def check_certificate(settings: ManagerSettings) -> None:
    """A wrong or expired certificate of our own, or a foreign key, is a fault of the settings. SettingsError."""
    if settings.tls.cert is not None and not settings.tls.insecure:
        check_own_certificate(settings.tls.cert, "manager", settings.manager.name, key=settings.tls.key)
