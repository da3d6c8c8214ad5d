"""Brings the node to the revision that its managers ask for, and keeps it there.

One worker thread owns the ``Replica``, the memory on the disk and the decisions (``decide``); sessions' threads only
put what they hear into the ``Inbox``. A step is: look at what is new, decide, carry out the effects; then wait for
news or for the time that the decisions name.

    <spool>/<node>/config/   current, revisions/, objects/, identity (``confrepo.replica``), state.json, reload.log,
                             reload.failed.log
"""

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Self

from jlogd.attach import statefile
from jlogd.attach.activation import Activation, ApplySettings
from jlogd.attach.bringing import bring
from jlogd.attach.decide import Decider
from jlogd.attach.events import (
    Activate,
    Bring,
    CheckHealth,
    Due,
    Effect,
    Event,
    GoBack,
    Heard,
    Looked,
    NotActivated,
    Remember,
    Retry,
    Say,
    Tidy,
)
from jlogd.attach.inbox import Inbox, Session
from jlogd.attach.keeping import Keeper
from jlogd.attach.memory import Memory
from jlogd.attach.mending import mend
from jlogd.attach.messages import Report, Talk, Target
from jlogd.confrepo.model import Revision, Scope
from jlogd.confrepo.replica import Policy, Replica
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import JlogdError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.worker import OnFailure, Worker
from jlogd.settings import AgentSettings, ConfigSettings

log = logging.getLogger(__name__)

FULL_EVERY: Final = 10  # reconciles: the contents of all files are compared
JITTER: Final = 0.2
SAVE_AFTER_S: Final = 0.5  # what can wait does so until the revision is reported everywhere: first the memory,
READY_AFTER_S: Final = 1.0  # then what the next revision will need,
TIDY_AFTER_S: Final = 2.0  # and then the old ones
PATIENCE_S: Final = 0.3  # what is brought and applied faster is told once: when it is
AGAIN_S: Final = 5.0  # after a write of the memory, or a way back, that failed


class Configurer:
    """The ``Listener`` of every Attach session of the node. start and stop once; everything else from any thread."""

    def __init__(
        self,
        settings: ConfigSettings,
        replica: Replica,
        memory: Memory,
        apply_settings: ApplySettings,
        on_failure: OnFailure,
        fs: FileSystem,
        clock: Clock,
    ) -> None:
        """Use ``open``."""
        self._settings = settings
        self._replica = replica
        self._fs = fs
        self._clock = clock
        self._inbox = Inbox()
        self._worker = Worker("configurer", self._run, on_failure)
        self._decider = Decider(memory, confirm_s=settings.confirm_timeout, retry_max_s=settings.reconcile)
        self._activation = Activation(replica, settings, apply_settings, self._worker.stopping, fs=fs, clock=clock)
        self._sessions: dict[str, Session] = {}
        self._greeted: set[Talk] = set()  # those that have our report
        self._confirming: dict[Talk, int] | None = None  # the number of the report that one of them must have
        self._unsaved = False  # the memory on the disk is older than ours
        self._keeper = Keeper(replica, self._decider, theirs=settings.local == "theirs")
        self._trouble = ""  # why the view could not be looked at
        self._rounds = 0
        self._reconcile_s = clock.monotonic_s()
        self._later: dict[Callable[[], object], float] = {}  # what was put off, and until when
        self._busy = False  # something was applied since the last reconcile
        self._lock = threading.Lock()  # guards what follows
        self._shown = (memory, self._decider.running, self._keeper.drift, self._trouble)

    @classmethod
    def open(
        cls,
        settings: AgentSettings,
        apply_settings: ApplySettings,
        on_failure: OnFailure,
        *,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> Self:
        """Make or read ``<spool>/<node>/config``; set ``current`` right. ``settings.config`` must be there.

        ``apply_settings`` is called in the worker's thread after each swap, with the overlay's path or None: it
        returns notes ("http.listen needs a restart"), or raises SettingsError when jlogd cannot take it.
        StorageError, DamageError, RefusedError.
        """
        config = settings.config or ConfigSettings()
        directory = statefile.directory_of(settings)
        scope = Scope(settings.node.subcluster, settings.node.name)
        policy = Policy(config.local, config.keep_revisions, config.signatures, settings.tls.ca, settings.tls.deny)
        replica = Replica.open(directory, scope, policy, fs=fs)
        memory = statefile.load(directory, fs)
        configurer = cls(config, replica, memory, apply_settings, on_failure, fs, clock)
        try:
            configurer._keeper.set_right(running=False)
        except JlogdError as error:  # managers may bring what is missing
            log.error("configuration: %s", error)  # noqa: TRY400 - for a person
        return configurer

    @property
    def recipient(self) -> str:
        """What secrets for this node are encrypted to."""
        return self._replica.recipient

    def set_managers(self, addresses: Collection[str]) -> None:
        """Which managers the node has; before ``start``, and whenever that changes."""
        self._inbox.set_managers(addresses)

    def start(self) -> None:
        """Begin; returns at once."""
        self._worker.start()

    def ask_to_stop(self) -> None:
        """As the first half of ``stop``; does not wait."""
        self._worker.stop()
        self._inbox.wake()

    def stop(self, deadline_s: float) -> bool:
        """End; a program that runs is killed. True when it ended within ``deadline_s``."""
        self.ask_to_stop()
        return self._worker.join(deadline_s)

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end: ``apply_settings`` then waits for nothing."""
        return self._worker.stopping.is_set()

    def status(self) -> dict[str, Any]:
        """``config`` of ``jlogd status``."""
        with self._lock:
            memory, running, drift, trouble = self._shown
        return statefile.shown(memory, running) | {
            "error": memory.error or trouble or None,
            "drift": list(drift.paths),
            "drift_count": drift.count,
            "recipient": self._replica.recipient,
        }

    # ------------------------------------------------------------------ Listener

    def attached(self, manager: str, talk: Talk) -> None:
        """See ``Listener``."""
        self._inbox.attached(manager, talk)

    def detached(self, manager: str) -> None:
        """See ``Listener``."""
        self._inbox.detached(manager)

    def target(self, manager: str, target: Target) -> None:
        """See ``Listener``."""
        self._inbox.target(manager, target)

    def reported(self, manager: str, number: int) -> None:
        """See ``Listener``."""
        self._inbox.reported(manager, number, tell=self._confirming is not None)

    # ------------------------------------------------------------------ the worker's thread

    def _run(self, worker: Worker) -> None:
        try:
            self._begin()
            while not worker.stopping.is_set():
                self._round()
                if not worker.stopping.is_set():
                    self._inbox.wait(self._wait_s())
        finally:
            if self._save in self._later:
                self._save()
            self._replica.close()

    def _begin(self) -> None:
        self._perform(self._decider.begin(self._keeper.current(), *self._now()))
        self._put_off(self._make_ready, READY_AFTER_S)

    def _round(self) -> None:
        """Whatever can be done now."""
        self._look()
        self._step(Due())
        now_s = self._clock.monotonic_s()
        for chore in [chore for chore, due_s in self._later.items() if due_s <= now_s]:
            del self._later[chore]
            chore()
        self._reconcile()
        self._publish()

    def _now(self) -> tuple[float, int]:
        return self._clock.monotonic_s(), self._clock.wall_ns()

    def _wait_s(self) -> float:
        times = (self._decider.due_s, self._reconcile_s, *self._later.values())
        return max(min(time for time in times if time is not None) - self._clock.monotonic_s(), 0.0)

    def _look(self) -> None:
        """Take the news."""
        self._sessions, managers = self._inbox.take()
        asked = {manager: session.target for manager, session in self._sessions.items()}
        talks = {session.talk for session in self._sessions.values()}
        self._greeted &= talks
        for talk in talks - self._greeted:
            self._greeted.add(talk)
            if self._decider.memory.about is not None:
                self._report([talk])
        self._step(Looked(asked, managers))
        confirmed = self._confirming is not None and any(
            0 < self._confirming.get(session.talk, 0) <= session.heard for session in self._sessions.values()
        )
        if confirmed:
            self._confirming = None
            self._step(Heard())

    def _step(self, event: Event) -> None:
        self._perform(self._decider.step(event, *self._now()))

    def _perform(self, effects: Iterable[Effect]) -> None:
        """Carry out effects, and what their answers bring. What a stop cuts short is done again at the next start."""
        waiting = deque(effects)
        while waiting and not self._worker.stopping.is_set():
            effect = waiting.popleft()
            if isinstance(effect, Say):
                self._say(confirm=effect.confirm, patient=bool(waiting) and isinstance(waiting[0], Bring))
                continue
            answer = self._do(effect)
            if answer is None or self._worker.stopping.is_set():
                continue
            if isinstance(effect, Remember):
                waiting.clear()
            if isinstance(effect, Bring):
                self._look()  # there may be something newer by now
            waiting.extend(self._decider.step(answer, *self._now()))
            self._publish()

    def _do(self, effect: Effect) -> Event | None:
        match effect:
            case Remember(later=True):
                self._put_off(self._save, SAVE_AFTER_S)
            case Remember():
                error = self._save(sync=not effect.first)  # the swap follows, and syncs that directory
                return NotActivated(error, swapped=False) if error and effect.first else None
            case Bring():
                return bring(self._replica, effect.target, self._sessions)
            case Activate():
                self._busy = True
                return self._activation.activate(effect.trial, effect.old)
            case GoBack():
                gone = self._activation.go_back(effect.to, effect.old)
                self._reconcile_s = min(self._reconcile_s, self._clock.monotonic_s() + AGAIN_S)
                return gone
            case CheckHealth():
                return self._activation.check(effect.point, effect.words)
            case Tidy():
                self._put_off(self._make_ready, READY_AFTER_S)
                self._put_off(self._tidy, TIDY_AFTER_S)
        return None

    def _put_off(self, chore: Callable[[], object], seconds: float) -> None:
        self._later.setdefault(chore, self._clock.monotonic_s() + seconds)

    # ------------------------------------------------------------------ memory, reports

    def _save(self, *, sync: bool = True) -> str:
        """What went wrong; empty: it is on the disk, but for its name without ``sync``."""
        self._later.pop(self._save, None)
        try:
            statefile.store(self._replica.directory, self._decider.memory, self._fs, sync=sync)
        except JlogdError as error:
            if not self._unsaved:
                log.warning("configuration: %s", error)
            self._unsaved = True
            self._reconcile_s = min(self._reconcile_s, self._clock.monotonic_s() + AGAIN_S)
            return str(error)
        self._unsaved = False
        return ""

    def _say(self, *, confirm: bool, patient: bool) -> None:
        if confirm:
            self._confirming = {}
        memory = self._decider.memory
        if memory.about is not None:
            level = logging.INFO if memory.state in {"pending", "applied"} else logging.ERROR
            error = f": {memory.error}" if memory.error else ""
            log.log(level, "configuration: r%d: %s%s", memory.about.revision, memory.state.replace("_", " "), error)
        self._report(list(self._greeted), patience_s=PATIENCE_S if patient else 0.0)
        self._publish()

    def _report(self, talks: Iterable[Talk], *, patience_s: float = 0.0) -> None:
        memory, running = self._decider.memory, self._decider.running
        report = Report(
            state=memory.state,
            revision=memory.about.revision if memory.about is not None else Revision(0),
            id=memory.about.id if memory.about is not None else None,
            running=running.revision if running is not None else Revision(0),
            running_id=running.id if running is not None else None,
            serial=memory.serial,
            error=memory.error or self._trouble,
            drift=self._keeper.drift.paths,
            drift_count=self._keeper.drift.count,
            since_ns=memory.since_ns,
        )
        for talk in talks:
            number = talk.report(report, patience_s=patience_s)
            if number and self._confirming is not None:
                self._confirming.setdefault(talk, number)

    # ------------------------------------------------------------------ the view

    def _reconcile(self) -> None:
        if self._clock.monotonic_s() < self._reconcile_s or self._worker.stopping.is_set():
            return
        jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - not a secret
        self._reconcile_s = self._clock.monotonic_s() + self._settings.reconcile * jitter
        self._rounds += 1
        if self._unsaved:
            self._save()
        before, self._trouble = (self._keeper.drift, self._trouble), ""
        mended = False
        try:
            mended = mend(self._replica)
            self._keep_right()
            self._keeper.look_for_drift(self._sessions, full=self._rounds % FULL_EVERY == 0)
        except JlogdError as error:
            if str(error) != before[1]:
                log.warning("configuration: %s", error)
            self._trouble = str(error)
        if mended or (self._keeper.drift, self._trouble) != before:
            if self._decider.memory.about is not None:
                self._report(list(self._greeted))
            self._step(Retry())
        self._rest()

    def _keep_right(self) -> None:
        if self._keeper.keep_right(self._sessions):
            running = self._decider.running
            for problem in self._activation.again(running, running):
                log.error("configuration: %s", problem)

    def _make_ready(self) -> None:
        try:
            self._replica.make_ready()
        except JlogdError as error:
            log.info("configuration: nothing is prepared for the next revision: %s", error)

    def _tidy(self, *, thorough: bool = False) -> None:
        self._later.pop(self._tidy, None)
        if self._unsaved:  # after a crash the memory on the disk may need what ours does not
            return
        try:
            self._replica.tidy([point.id for point in self._decider.needed], thorough=thorough)
        except JlogdError as error:
            log.warning("configuration: %s", error)

    def _rest(self) -> None:
        """Nothing was applied for a whole round: memory is for others."""
        if not self._busy:
            self._make_ready()
            self._tidy(thorough=True)
            self._replica.rest()
        self._busy = False

    # ------------------------------------------------------------------ status

    def _publish(self) -> None:
        with self._lock:
            self._shown = (self._decider.memory, self._decider.running, self._keeper.drift, self._trouble)
