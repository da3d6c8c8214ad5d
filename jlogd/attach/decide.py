"""What a node does about its configuration, pure: events in, effects out. The rules are docs/configuration.md.

    phase        event                             next         effects
    SETTLED      there is something to follow      BRINGING     Say, Bring
    BRINGING     Brought                           APPLYING     Remember, Activate  (or BRINGING: something newer)
    BRINGING     NotBrought                        SETTLED      Remember when final, Say
    APPLYING     Activated                         UNCONFIRMED  Say, to be confirmed
    APPLYING     NotActivated, nothing swapped     SETTLED      Say
    APPLYING     NotActivated                      RETURNING    GoBack
    UNCONFIRMED  Heard                             PROBATION    Remember later, Say, Tidy (SETTLED when no health check)
    UNCONFIRMED  time is over                      RETURNING    GoBack
    PROBATION    time for a check                  PROBATION    CheckHealth
    PROBATION    HealthChecked, ill                RETURNING    Remember, GoBack
    PROBATION    time is over                      SETTLED      -
    PROBATION    there is something else to follow BRINGING     Say, Bring
    SETTLED, PROBATION: all managers lost since    RETURNING    Remember, GoBack (``aftermath``)
    RETURNING    GoneBack                          SETTLED      Remember, Say

Bring, Activate, GoBack and CheckHealth are answered by one event each before anything else comes in. Invariants:
nothing is activated that the memory does not name as a trial; a trial ends confirmed or taken back; what failed is
not tried again until another serial asks for it.

**Doubt.** A revision that no manager confirmed was perhaps not to blame: when no manager hears from the node with the
old revision either, within the same time, it is forgiven, and tried again when a manager asks for it. At most three
times.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, ClassVar, Final

from jlogd.attach.aftermath import Aftermath
from jlogd.attach.choose import Asked, Chooser
from jlogd.attach.events import (
    Activate,
    Activated,
    Bring,
    Brought,
    CheckHealth,
    Due,
    Effect,
    Event,
    GoBack,
    GoneBack,
    HealthChecked,
    Heard,
    Looked,
    NotActivated,
    NotBrought,
    Remember,
    Retry,
    Say,
    Tidy,
)
from jlogd.attach.memory import Memory, Point, Trial
from jlogd.attach.messages import Target

ATTEMPTS_MAX: Final = 3  # starts of jlogd with a revision that is not confirmed: it may be what ends jlogd
SKIPPED_MAX: Final = 3  # revisions that are passed over, one after the other, because a newer one came meanwhile
HEALTH_EVERY_S: Final = 10.0
RETRY_MIN_S: Final = 1.0


class Phase(Enum):
    """Where it stands."""

    SETTLED = auto()
    BRINGING = auto()
    APPLYING = auto()
    UNCONFIRMED = auto()
    PROBATION = auto()
    RETURNING = auto()


_QUIET: Final = frozenset({Phase.SETTLED, Phase.PROBATION})


@dataclass(frozen=True, slots=True)
class _Return:
    """A way back under way."""

    failed: Point
    why: str
    doubtful: bool
    again: bool


class Decider:
    """See the module. One owner; nothing here is thread-safe."""

    def __init__(self, memory: Memory, *, confirm_s: float, retry_max_s: float) -> None:
        """``confirm_s``: how long a trial may stay unconfirmed; ``retry_max_s``: the longest pause between attempts."""
        self.phase = Phase.SETTLED
        self.memory = memory
        self._confirm_s = confirm_s
        self._retry_max_s = retry_max_s
        self._chooser = Chooser()
        self._asked: Asked = {}
        self._managers: Collection[str] = ()
        self._now_s = 0.0
        self._now_ns = 0
        self._bringing: Target | None = None
        self._warning = ""
        self._skipped = 0
        self._retry: tuple[str, float, float] | None = None  # commit, not before, the pause that led there
        self._deadline_s = 0.0  # of UNCONFIRMED and PROBATION
        self._check_s = 0.0  # the next health check
        self._trial: Trial | None = None  # on probation
        self._return: _Return | None = None
        self._aftermath = Aftermath(confirm_s)
        self._doubt: tuple[Point, float] | None = None  # taken back without a word from a manager; until when

    @property
    def running(self) -> Point | None:
        """What ``current`` should be now."""
        trial = self.memory.trial
        swapped = self.phase in {Phase.APPLYING, Phase.UNCONFIRMED}
        return trial.point if swapped and trial is not None else self.memory.running

    @property
    def needed(self) -> list[Point]:
        """Revisions that must stay laid out."""
        memory = self.memory
        points = [memory.running, memory.trial.point if memory.trial is not None else None]
        going_back = self.phase in {Phase.PROBATION, Phase.RETURNING} or self._aftermath.watching
        if memory.trial is not None or going_back:
            points.append(memory.before)
        return [point for point in points if point is not None]

    @property
    def due_s(self) -> float | None:
        """When Due is to come at the latest; None: nothing is waited for."""
        times = [self._chooser.due_s if self.phase is Phase.SETTLED else None]
        if self._retry is not None and self.phase is Phase.SETTLED:
            times.append(self._retry[1])
        if self._doubt is not None:
            times.append(self._doubt[1])
        if self.phase is Phase.UNCONFIRMED:
            times.append(self._deadline_s)
        if self.phase in _QUIET:
            times.append(self._aftermath.due_s)
        if self.phase is Phase.PROBATION:
            times += [self._deadline_s, self._check_s, self._chooser.due_s]
        return min((time for time in times if time is not None), default=None)

    def begin(self, current: Point | None, now_s: float, now_ns: int) -> list[Effect]:
        """The daemon was started; ``current`` is what ``current`` points to, whole."""
        self._now_s, self._now_ns = now_s, now_ns
        memory = self.memory
        trial = memory.trial
        if trial is None and current is not None and current != memory.running:
            if memory.running is None and memory.about is None:  # the memory was lost: there is nothing to go back to
                self.memory = replace(memory, running=current).told("applied", current, memory.serial, "", now_ns)
                return [Remember()]
            trial = Trial(current, memory.serial, attempts=0)  # swapped, and the memory of it lost with the power
        if trial is None:
            return []
        if current != trial.point:
            self.memory = replace(memory, trial=None)  # killed before the swap: managers ask again
            return [Remember()]
        if trial.attempts >= ATTEMPTS_MAX:
            self.memory = replace(memory, trial=trial)
            why = f"jlogd was started {trial.attempts} times while it was not confirmed"
            return self._go_back(why)
        return self._activate(replace(trial, attempts=trial.attempts + 1), first=False)

    def step(self, event: Event, now_s: float, now_ns: int) -> list[Effect]:
        """One event in, effects out, in the order in which they must happen."""
        self._now_s, self._now_ns = now_s, now_ns
        entry = self._TABLE.get((self.phase, type(event)), self._ALWAYS.get(type(event)))
        if entry is None:
            raise ValueError(f"{type(event).__name__} does not belong into {self.phase.name}")
        return entry(self, event)

    # ------------------------------------------------------------------ any phase

    def _looked(self, event: Looked) -> list[Effect]:
        self._asked, self._managers = dict(event.asked), event.managers
        self._aftermath.looked(self._now_s, attached=bool(self._asked))
        return self._next()

    def _due(self, _event: Due) -> list[Effect]:
        cut_off = self._aftermath.taken_back(self._now_s) if self.phase in _QUIET else None
        if cut_off is not None:
            return self._take_back(
                cut_off, "no manager could be reached any more soon after it was applied", doubtful=True
            )
        effects: list[Effect] = []
        if self._doubt is not None and self._now_s >= self._doubt[1]:
            self.memory = self.memory.forgiving(self._doubt[0].id)
            self._doubt = None
            effects.append(Remember())
        return effects + self._next()

    def _heard(self, _event: Heard) -> list[Effect]:
        self._doubt = None  # managers can be reached with the old revision: the other one is to blame
        return []

    def _try_again(self, _event: Retry) -> list[Effect]:
        if self._retry is not None:
            self._retry = (self._retry[0], self._now_s, self._retry[2])
        return self._next()

    # ------------------------------------------------------------------ what to follow

    def _goal(self) -> Target | None:
        return self._chooser.choose(self._asked, self._managers, self.memory, self._now_s)

    def _next(self) -> list[Effect]:
        """In SETTLED and PROBATION: follow what is to be followed."""
        if self.phase not in _QUIET:
            return []
        target = self._goal()
        if target is None:
            return []
        if self.memory.running is not None and target.id == self.memory.running.id:
            return self._adopt(target)
        if self.memory.blocks(target) and target.repository == self.memory.repository:
            return []
        if self._retry is not None and self._again(target) and self._now_s < self._retry[1]:
            return []
        return self._bring(target)

    def _adopt(self, target: Target) -> list[Effect]:
        """It runs already."""
        memory, point = self.memory, self.memory.running
        known = (memory.followed, memory.repository, memory.about, memory.serial, memory.state)
        if known == (target.serial, target.repository, point, target.serial, "applied"):
            return []
        error = memory.error if (memory.state, memory.about) == ("applied", point) else ""
        self.memory = replace(memory, followed=target.serial, repository=target.repository)
        self.memory = self.memory.told("applied", point, target.serial, error, self._now_ns)
        self._retry = None
        return [Remember(), Say()]

    def _bring(self, target: Target) -> list[Effect]:
        again = self._again(target)
        self.phase, self._bringing, self._doubt = Phase.BRINGING, target, None
        if again:  # what is reported already stays until it is another thing
            return [Bring(target)]
        self._retry = None
        if target.repository != self.memory.repository:
            self.memory = replace(self.memory, failed=())
        self.memory = replace(self.memory, followed=target.serial, repository=target.repository)
        point = Point(target.revision, target.id)
        self.memory = self.memory.told("pending", point, target.serial, "", self._now_ns)
        return [Say(), Bring(target)]

    def _again(self, target: Target) -> bool:
        """Whether it is what did not work a moment ago."""
        return self._retry is not None and self._retry[0] == target.id and self.memory.serial == target.serial

    # ------------------------------------------------------------------ BRINGING

    def _brought(self, event: Brought) -> list[Effect]:
        target = self._take_bringing()
        newer = self._goal()
        if newer is not None and newer.id != target.id and self._skipped < SKIPPED_MAX:
            self.phase = Phase.SETTLED
            self._skipped += 1
            return self._next()
        target = newer if newer is not None and newer.id == target.id else target
        self._skipped, self._warning = 0, event.warning
        point = Point(target.revision, target.id)
        return self._activate(Trial(point, target.serial, target.health, target.trial_s))

    def _not_brought(self, event: NotBrought) -> list[Effect]:
        target = self._take_bringing()
        self.phase = Phase.SETTLED
        point = Point(target.revision, target.id)
        self.memory = self.memory.told(event.state, point, target.serial, event.error, self._now_ns)
        if event.final:
            self._retry = None
            self.memory = self.memory.with_failure(target.id, target.serial)
            return [Remember(), Say(), *self._next()]
        self._pause(target.id)
        return [Say(), *self._next()]

    def _take_bringing(self) -> Target:
        target, self._bringing = self._bringing, None
        if target is None:
            raise ValueError("nothing was asked for")
        return target

    def _pause(self, commit_id: str) -> None:
        before_s = self._retry[2] if self._retry is not None and self._retry[0] == commit_id else 0.0
        pause_s = min(max(2 * before_s, RETRY_MIN_S), self._retry_max_s)
        self._retry = (commit_id, self._now_s + pause_s, pause_s)

    # ------------------------------------------------------------------ APPLYING, UNCONFIRMED

    def _activate(self, trial: Trial, *, first: bool = True) -> list[Effect]:
        """``first``: nothing is swapped that is not remembered."""
        self.phase = Phase.APPLYING
        self._aftermath.end()
        old = self.memory.running
        self.memory = replace(self.memory, trial=trial)
        self.memory = self.memory.told("pending", trial.point, trial.serial, "", self._now_ns)
        return [Remember(first), Activate(trial, old)]

    def _activated(self, event: Activated) -> list[Effect]:
        trial = self._the_trial()
        self.phase = Phase.UNCONFIRMED
        self._deadline_s = self._now_s + self._confirm_s
        notes = "; ".join(note for note in (self._warning, *event.notes) if note)
        self._warning = ""
        self.memory = self.memory.told("pending", trial.point, trial.serial, notes, self._now_ns)
        return [Say(confirm=True)]

    def _not_activated(self, event: NotActivated) -> list[Effect]:
        trial = self._the_trial()
        if event.swapped:
            return self._go_back(event.error, again=event.again)
        self.phase = Phase.SETTLED
        self.memory = replace(self.memory, trial=None)
        self.memory = self.memory.told("pending", trial.point, trial.serial, event.error, self._now_ns)
        self._pause(trial.point.id)
        return [Say(), *self._next()]

    def _confirmed(self, _event: Heard) -> list[Effect]:
        trial = self._the_trial()
        memory = self.memory.without_failure(trial.point.id)
        before = memory.running if memory.running != trial.point else memory.before
        memory = replace(memory, running=trial.point, before=before, trial=None)
        self.memory = memory.told("applied", trial.point, memory.serial, memory.error, self._now_ns)
        self._retry = None
        on_probation = bool(trial.health) and trial.trial_s > 0
        self.phase = Phase.PROBATION if on_probation else Phase.SETTLED
        self._trial = trial if on_probation else None
        self._aftermath.begin(trial, self._now_s)
        self._deadline_s, self._check_s = self._now_s + trial.trial_s, self._now_s + HEALTH_EVERY_S
        return [Remember(later=True), Say(), Tidy(), *self._next()]

    def _unconfirmed_due(self, _event: Due) -> list[Effect]:
        if self._now_s < self._deadline_s:
            return []
        return self._go_back(f"no manager heard from this node within {self._confirm_s:g} s", doubtful=True)

    def _unconfirmed_looked(self, event: Looked) -> list[Effect]:
        """The same revision under another serial goes on; anything else waits until this one is decided."""
        self._looked(event)
        target, trial = self._goal(), self._the_trial()
        if target is not None and target.id == trial.point.id and target.serial != self.memory.serial:
            self.memory = replace(self.memory, followed=target.serial, serial=target.serial)
            self.memory = replace(self.memory, trial=replace(trial, serial=target.serial))
        return []

    def _the_trial(self) -> Trial:
        if self.memory.trial is None:
            raise ValueError("there is no trial")
        return self.memory.trial

    # ------------------------------------------------------------------ PROBATION

    def _probation_due(self, event: Due) -> list[Effect]:
        trial = self._trial
        if trial is None or self._now_s >= self._deadline_s:
            self.phase, self._trial = Phase.SETTLED, None
            return self._due(event)
        effects = self._due(event)
        if self.phase is Phase.PROBATION and self._now_s >= self._check_s:
            self._check_s = self._now_s + HEALTH_EVERY_S
            effects.append(CheckHealth(trial.point, trial.health))
        return effects

    def _health_checked(self, event: HealthChecked) -> list[Effect]:
        self._check_s = self._now_s + HEALTH_EVERY_S
        trial = self._trial
        if not event.error or trial is None:
            return []
        return self._take_back(trial, event.error)

    def _take_back(self, trial: Trial, why: str, *, doubtful: bool = False) -> list[Effect]:
        """One that was confirmed. Remembered first: whoever is killed now must not think that it is well."""
        trial = replace(trial, serial=self.memory.serial, attempts=ATTEMPTS_MAX)
        self.memory = replace(self.memory, running=self.memory.before, before=None, trial=trial)
        return [Remember(), *self._go_back(why, doubtful=doubtful)]

    # ------------------------------------------------------------------ RETURNING

    def _go_back(self, why: str, *, doubtful: bool = False, again: bool = False) -> list[Effect]:
        """``doubtful``: the revision may not be to blame; ``again``: it is not, and is tried again after a pause."""
        trial = self._the_trial()
        self.phase, self._trial = Phase.RETURNING, None
        self._aftermath.end()
        self._return = _Return(trial.point, why, doubtful, again)
        return [GoBack(self.memory.running, trial.point)]

    def _gone_back(self, event: GoneBack) -> list[Effect]:
        way, self._return = self._return, None
        if way is None:
            raise ValueError("nothing was taken back")
        self.phase = Phase.SETTLED
        error = f"{way.why}; going back: {event.error}" if event.error else way.why
        serial = self.memory.trial.serial if self.memory.trial is not None else self.memory.serial
        if way.again:
            self.memory = replace(self.memory, trial=None).told("pending", way.failed, serial, error, self._now_ns)
            self._pause(way.failed.id)
            return [Remember(), Say(), *self._next()]
        self._retry = None
        memory = replace(self.memory, trial=None).with_failure(way.failed.id, serial)
        self.memory = memory.told("rolled_back", way.failed, serial, error, self._now_ns)
        if way.doubtful:
            self._doubt = (way.failed, self._now_s + self._confirm_s)
        return [Remember(), Say(confirm=way.doubtful), *self._next()]

    _ALWAYS: ClassVar[dict[type, Callable[[Any, Any], list[Effect]]]] = {
        Looked: _looked,
        Due: _due,
        Heard: _heard,
        Retry: _try_again,
    }
    _TABLE: ClassVar[dict[tuple[Phase, type], Callable[[Any, Any], list[Effect]]]] = {
        (Phase.BRINGING, Brought): _brought,
        (Phase.BRINGING, NotBrought): _not_brought,
        (Phase.APPLYING, Activated): _activated,
        (Phase.APPLYING, NotActivated): _not_activated,
        (Phase.UNCONFIRMED, Heard): _confirmed,
        (Phase.UNCONFIRMED, Due): _unconfirmed_due,
        (Phase.UNCONFIRMED, Looked): _unconfirmed_looked,
        (Phase.PROBATION, Due): _probation_due,
        (Phase.PROBATION, HealthChecked): _health_checked,
        (Phase.RETURNING, GoneBack): _gone_back,
    }
