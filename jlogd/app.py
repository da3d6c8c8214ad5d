"""The agent: builds the parts from the settings, starts and stops them in order.

    owner lock → journals and subscribers → intakes (tail → journal) → forwarders → HTTP, control socket → configuration

Settings change in two ways: SIGHUP reads the boot file again, and the fleet's configuration brings another overlay. One
lock, ``_changing``, lets one of them restart the pipeline at a time; what follows the configuration runs on meanwhile.

Stop goes the other way round: intakes commit what they took, forwarders store checkpoints,
journals close, the lock goes last. ``kill -9`` at any point is safe as well; a clean stop is only quicker.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jlogd.forward import Forwarder
from jlogd.forward.positions import WAITING, Awaited, is_new
from jlogd.intake import Intake, JournalHistory, JournalParts
from jlogd.journal import Journal
from jlogd.overlay import without_effect
from jlogd.runtime.addresses import Address
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.control import CONTROL_SOCKET, ControlServer
from jlogd.runtime.errors import JlogdError, SettingsError, StorageError, UnavailableError, UsageError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.memory import give_back
from jlogd.runtime.metrics import (
    AGENT,
    JOURNAL_END,
    LAG_RECORDS,
    RELOAD_FAILURES,
    SENT_BYTES,
    SESSION_STARTS,
    SESSION_UP,
    SOURCES,
    Metrics,
)
from jlogd.runtime.rpc import check_own_certificate
from jlogd.runtime.worker import OnFailure
from jlogd.settings import AgentSettings, TailSettings, load, load_running
from jlogd.spool.owner import Owner
from jlogd.status import begun_journals, running_status
from jlogd.subscribers import apply
from jlogd.tail import Tailer, TailSpec

if TYPE_CHECKING:
    from jlogd.attach.configuration import Configuration
    from jlogd.runtime.health import HealthServer, Readiness

log = logging.getLogger(__name__)


STATUS_WAIT_S = 5.0  # `status` waits so long for a restart of the pipeline; then it shows what there is


class Agent:
    """One node's daemon, for ``runtime.daemon.run``."""

    def __init__(self, settings_path: Path, *, fs: FileSystem = OS, clock: Clock = SYSTEM) -> None:
        """Settings are read by ``start``, so that their faults come out of it."""
        self._path = settings_path
        self._fs = fs
        self._clock = clock
        self._fail: OnFailure = _unheard
        self._owner: Owner | None = None
        self._control: ControlServer | None = None
        self._health: HealthServer | None = None
        self._configuration: Configuration | None = None
        self._listening: Address | None = None
        self._overlay_problem = ""  # why the overlay does not count
        self._changing = threading.Lock()  # held while settings and pipeline are exchanged
        self._metrics = Metrics(AGENT)
        self._metrics.before_reading(self._refresh_metrics)
        self.settings: AgentSettings = AgentSettings()
        self.parts: list[JournalParts] = []
        self.forwarders: list[Forwarder] = []

    @property
    def owner(self) -> Owner | None:
        """The spool's lock while the agent runs."""
        return self._owner

    # ------------------------------------------------------------------ start

    def start(self, fail: OnFailure) -> None:
        """Take the lock, recover the journals, start everything. Any JlogdError."""
        self._fail = fail
        self.settings = load(self._path)
        check_certificate(self.settings)
        directory = self.settings.directory
        self._owner = Owner.acquire(directory, self.settings.node.name, fs=self._fs, clock=self._clock)
        self.settings = self._prepare_configuration(self.settings)
        self._start_pipeline()
        handlers = {"status": self._status, "subscriber": self._subscriber}
        self._start_health()
        self._control = ControlServer(directory / CONTROL_SOCKET, handlers, fail)
        self._control.start()
        self._start_configuration()
        give_back()  # what reading the settings needed
        log.info(
            "node %s: %d journals, %d managers, spool %s, epoch %d",
            self.settings.node.name, len(self.parts), len(self.forwarders), directory, self._owner.epoch,
        )  # fmt: skip

    def _prepare_configuration(self, boot: AgentSettings) -> AgentSettings:
        """Settings with the overlay, when there is one. A bad one never keeps the agent from starting."""
        if boot.config is None:
            return boot
        # dulwich and what else it needs costs memory: only where it is wanted
        from jlogd.attach.configuration import Configuration  # noqa: PLC0415

        configuration = Configuration(boot, self._take_overlay, self._fail, fs=self._fs, clock=self._clock)
        configuration.prepare()
        self._configuration = configuration
        settings, self._overlay_problem = load_running(self._path)
        if self._overlay_problem:
            log.error("running with the boot file alone: %s", self._overlay_problem)
        return settings

    def _start_configuration(self) -> None:
        if self._configuration is not None:
            self._configuration.start(self.settings)

    def _start_pipeline(self) -> None:
        written = self.settings.journal_names()
        for name in sorted({*written, *begun_journals(self.settings)}):
            if name in written:
                self.parts.append(self._open_journal(name))
            else:
                self._open_abandoned(name)
        self._start_forwarders()
        for part in self.parts:
            part.worker.start()

    def _open_journal(self, name: str) -> JournalParts:
        settings = self.settings
        epoch = self._owner.epoch if self._owner else 0
        path = settings.directory / "journals" / name
        journal = Journal.open(
            path, options=settings.journal_options(name), epoch=epoch, fs=self._fs, clock=self._clock
        )
        _report_recovery(name, journal)
        for link in settings.manager:
            journal.subscriber(link.subscriber)
        tails = [tail for tail in settings.tail if tail.journal == name]
        awaited = None
        if is_new(journal) and any(tail.start_at == "archive" for tail in tails):
            awaited = Awaited(name, len(settings.manager), clock=self._clock)
            log.info("journal %s: %s", name, WAITING)
        return JournalParts(name, journal, partial(self._begin, name, journal, tails), awaited, self._fail)

    def _begin(self, name: str, journal: Journal, tails: list[TailSettings]) -> tuple[Tailer, Intake]:
        """Follow files from the journal's positions on."""
        specs = [_spec(tail) for tail in tails]
        tailer = Tailer(specs, journal.sources, JournalHistory(journal), clock=self._clock)
        delay_s = self.settings.journal_settings(name).commit_delay
        intake = Intake(name, journal, tailer, commit_delay_s=delay_s, metrics=self._metrics, clock=self._clock)
        return tailer, intake

    def _open_abandoned(self, name: str) -> None:
        """A journal whose [[tail]] was taken away: managers still get what they lack of it."""
        try:
            self.parts.append(self._open_journal(name))
        except JlogdError as error:
            log.error("journal %s, which no [[tail]] writes to, is not delivered: %s", name, error)  # noqa: TRY400 - for a person

    def _start_forwarders(self) -> None:
        journals = {part.name: part.journal for part in self.parts}
        awaited = {part.name: part.awaited for part in self.parts if part.awaited is not None}
        for link in self.settings.manager:
            forwarder = Forwarder.from_settings(self.settings, link, journals, self._fail, awaited=awaited, fs=self._fs)
            self.forwarders.append(forwarder)
            forwarder.start()

    def _start_health(self) -> None:
        listen = self._listening = self.settings.http.listen
        if listen is not None:
            from jlogd.runtime.health import serve  # noqa: PLC0415 - http.server costs memory

            tls = self.settings.tls
            self._health = serve(
                listen, (tls.ca, tls.cert, tls.key), tls.deny,
                readiness=self._readiness, metrics=self._metrics.text, on_failure=self._fail,
            )  # fmt: skip

    def _readiness(self) -> "Readiness":
        """Ready when every journal takes lines in and every manager has a session."""
        from jlogd.runtime.health import Readiness  # noqa: PLC0415 - as above

        stuck = [f"journal {part.name}: {part.error}" for part in self.parts if part.error]
        sessions = [forwarder.status() for forwarder in self.forwarders]
        stuck += [f"manager {s['manager']}: {s['state']}" for s in sessions if s["state"] != "streaming"]
        return Readiness(not stuck, "; ".join(stuck) or "ready")

    def _refresh_metrics(self) -> None:
        for part in self.parts:
            self._metrics.set(JOURNAL_END, part.journal.end, part.name)
            for subscriber in part.journal.subscribers():
                lag = max(part.journal.end - subscriber.checkpoint, 0)
                self._metrics.set(LAG_RECORDS, lag, subscriber.name, part.name)
            states = [source.state for source in part.sources()]
            for state in ("following", "waiting", "unreadable", "gone"):
                self._metrics.set(SOURCES, states.count(state), part.name, state)
        for forwarder in self.forwarders:
            streaming = forwarder.status()["state"] == "streaming"
            sessions, sent_bytes = forwarder.counts()
            self._metrics.set(SESSION_UP, float(streaming), forwarder.subscriber)
            self._metrics.set(SESSION_STARTS, sessions, forwarder.subscriber)
            self._metrics.set(SENT_BYTES, sent_bytes, forwarder.subscriber)

    # ------------------------------------------------------------------ reload, stop

    def reload(self) -> None:
        """Take over a changed settings file by restarting the pipeline. SettingsError keeps the old."""
        with self._changing:
            try:
                fresh = self._read_again()
            except SettingsError:
                self._metrics.count(RELOAD_FAILURES, 1)
                raise
            if fresh == self.settings:
                log.info("reload: nothing changed")
                return
            self._refuse_fixed(fresh)
            check_certificate(fresh)
            old = self.settings
            try:
                self._exchange(fresh)
                self._follow(old, fresh)
            except JlogdError as error:
                log.error("reload: %s; the old pipeline is gone: stopping", error)  # noqa: TRY400 - for a person
                self._fail(error)  # running on without a pipeline would look healthy
                return
        log.info("reload: %d journals, %d managers", len(self.parts), len(self.forwarders))

    def _read_again(self) -> AgentSettings:
        """The boot file with the present overlay. A bad overlay counts as none only if it did not count before."""
        boot = load(self._path)
        if boot.config is None or not boot.overlay.is_file():
            return boot
        if self._overlay_problem:
            fresh, self._overlay_problem = load_running(self._path)
            return fresh
        return load(self._path, boot.overlay)

    def _refuse_fixed(self, fresh: AgentSettings) -> None:
        fixed = [
            key
            for key, old, new in (
                ("node.name", self.settings.node.name, fresh.node.name),
                ("node.spool", self.settings.node.spool, fresh.node.spool),
                ("http.listen", self.settings.http.listen, fresh.http.listen),
            )
            if old != new
        ]
        if fixed:
            raise SettingsError([f"{self._path}: {key} changed: restart jlogd to take it" for key in fixed])

    def _exchange(self, fresh: AgentSettings) -> None:
        """Run the pipeline with other settings; under the lock. Any JlogdError: it is stopped."""
        unchanged = self.settings.model_copy(update={"http": fresh.http, "config": fresh.config}) == fresh
        if not unchanged:
            self._stop_pipeline(10.0)
        self.settings = fresh
        if not unchanged:
            self._start_pipeline()

    def _follow(self, old: AgentSettings, fresh: AgentSettings) -> None:
        """The boot file changed: what follows the configuration goes on with it."""
        if (old.config, old.node, old.tls) == (fresh.config, fresh.node, fresh.tls):
            if self._configuration is not None:
                self._configuration.follow(fresh)
            return
        if self._configuration is not None:
            self._configuration.stop(10.0)
            self._configuration = None
        self._exchange(self._prepare_configuration(fresh))
        self._start_configuration()

    def _take_overlay(self, overlay: Path | None) -> list[str]:
        """The configuration brought another overlay, or none; in the configurer's thread.

        Returns what takes a restart. SettingsError, StorageError: everything stays as it was.
        """
        with self._exclusively():
            fresh = load(self._path, overlay)
            old, listening = self.settings, self._listening
            notes = ["http.listen needs a restart of jlogd"] if fresh.http.listen != listening else []
            notes += without_effect(overlay) if overlay is not None else []
            if fresh != old:
                try:
                    self._exchange(fresh)
                except JlogdError as error:
                    self._back_to(old)
                    if isinstance(error, StorageError):
                        raise
                    raise SettingsError([str(error)]) from error
                log.info(
                    "settings of the configuration: %d journals, %d managers", len(self.parts), len(self.forwarders)
                )
            self._overlay_problem = ""
            if self._configuration is not None:
                self._configuration.follow(fresh)
        return notes

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the lock; UnavailableError when this thread is asked to end while somebody else has it."""
        while not self._changing.acquire(timeout=0.2):
            if self._configuration is None or self._configuration.stopping:
                raise UnavailableError("jlogd stops, or reads its settings again")
        try:
            yield
        finally:
            self._changing.release()

    def _back_to(self, old: AgentSettings) -> None:
        self._stop_pipeline(10.0)
        self.settings = old
        try:
            self._start_pipeline()
        except JlogdError as error:
            log.error("%s; the old pipeline is gone: stopping", error)  # noqa: TRY400 - for a person
            self._fail(error)

    def stop(self, deadline_s: float) -> None:
        """Stop everything started, in order; what does not stop within ``deadline_s`` is left to the kernel."""
        deadline = time.monotonic() + deadline_s
        if self._configuration is not None:
            self._configuration.ask_to_stop()
        if self._health is not None:
            self._health.stop()
        if self._control is not None:
            self._control.stop()
        if self._configuration is not None:
            self._configuration.stop(deadline_s / 2)
        if self._changing.acquire(timeout=deadline_s / 4):
            self._stop_pipeline(max(deadline - time.monotonic(), 0.0))
            self._changing.release()
        if self._owner is not None:
            self._owner.release()

    def _stop_pipeline(self, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        for part in self.parts:
            part.worker.stop()
            part.wake()
        for part in self.parts:
            part.worker.join(max(deadline - time.monotonic(), 0.0))
        for forwarder in self.forwarders:
            forwarder.stop(max(deadline - time.monotonic(), 0.0))
        self.forwarders.clear()
        for part in self.parts:
            part.close()
        self.parts.clear()

    # ------------------------------------------------------------------ control socket

    def _status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        since = self._owner.record.since if self._owner else None
        config = self._configuration.status() if self._configuration is not None else None
        locked = self._changing.acquire(timeout=STATUS_WAIT_S)
        try:
            sessions = [forwarder.status() for forwarder in self.forwarders]
            document = running_status(self.settings, since, self.parts, sessions, config)
        finally:
            if locked:
                self._changing.release()
        if self._overlay_problem:
            document["warnings"].append(f"running with the boot file alone: {self._overlay_problem}")
        return document

    def _subscriber(self, arguments: dict[str, Any]) -> dict[str, Any]:
        action = arguments.get("action")
        if not isinstance(action, str):
            raise UsageError("subscriber: no action given")
        journals = {part.name: part.journal for part in self.parts}
        changed = apply(journals, action, arguments)
        for forwarder in self.forwarders:
            if forwarder.subscriber == arguments.get("name") and changed:
                forwarder.reconnect()
        return {"changed": changed}


def _spec(tail: TailSettings) -> TailSpec:
    # where the archive knows nothing of a file, it is read from the beginning
    start_at = tail.start_at if tail.start_at != "archive" else "beginning"
    return TailSpec(tail.paths, tail.exclude, start_at, tail.max_line, tail.rotate_wait)


def _report_recovery(name: str, journal: Journal) -> None:
    if journal.recovery.cut_bytes:
        log.warning(
            "journal %s: cut %d bytes of a torn tail; nothing in them was committed", name, journal.recovery.cut_bytes
        )
    for damage in journal.recovery.damage:
        log.error("journal %s: %s at byte %d: %s", name, damage.file, damage.position, damage.reason)


def check_certificate(settings: AgentSettings) -> None:
    """A wrong or expired certificate of our own, or a foreign key, is a fault of the settings. SettingsError."""
    tls = settings.tls
    if tls.cert is None or tls.insecure or not settings.manager:
        return
    check_own_certificate(tls.cert, "node", settings.node.name, key=tls.key)


def _unheard(error: BaseException) -> None:
    raise error
