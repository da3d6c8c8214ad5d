"""What a node remembers of its configuration over restarts: the content of ``<spool>/<node>/config/state.json``.

Pure: values and their JSON form. Who writes it where is the configurer's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from jlogd.attach.messages import STATES, State, Target
from jlogd.confrepo.model import CommitId, Revision, Serial, is_commit_id
from jlogd.runtime.errors import DamageError, FormatError

SCHEMA: Final = 1
FAILED_MAX: Final = 16  # revisions that failed here; older ones may be tried again
FORGIVEN_MAX: Final = 3  # times that a revision may be tried again because managers were away, not it to blame
ERROR_MAX: Final = 2000  # characters, as in a Report
_NO_SERIAL: Final = Serial(0)


@dataclass(frozen=True, slots=True)
class Point:
    """A revision."""

    revision: Revision
    id: CommitId


@dataclass(frozen=True, slots=True)
class Trial:
    """A revision that is being applied and not confirmed. ``attempts``: starts of jlogd with it, this one counted."""

    point: Point
    serial: Serial
    health: tuple[str, ...] = ()
    trial_s: float = 0.0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Failed:
    """A revision that is not tried again as long as that serial asks for it, unless it was forgiven."""

    id: CommitId
    serial: Serial
    times: int = 1
    forgiven: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """Everything. The last thing that was asked for: ``about``, ``serial``; what became of it: ``state`` and so on."""

    repository: CommitId | None = None  # id of revision 1 of the repository that is followed
    followed: Serial = _NO_SERIAL  # the highest serial that was followed
    running: Point | None = None  # confirmed; None: the boot file alone
    before: Point | None = None  # what ran before it
    trial: Trial | None = None
    about: Point | None = None
    serial: Serial = _NO_SERIAL
    state: State = "applied"
    error: str = ""
    since_ns: int = 0
    failed: tuple[Failed, ...] = ()

    def told(self, state: State, about: Point | None, serial: Serial, error: str, now_ns: int) -> "Memory":
        """With what is to be reported; ``since_ns`` moves when the state or what it is about does."""
        same = (state, about) == (self.state, self.about)
        return replace(
            self,
            state=state,
            about=about,
            serial=serial,
            error=error[:ERROR_MAX],
            since_ns=self.since_ns if same and self.since_ns else now_ns,
        )

    def failure(self, commit_id: CommitId) -> Failed | None:
        """Whether that revision failed here."""
        return next((failed for failed in self.failed if failed.id == commit_id), None)

    def blocks(self, target: Target) -> bool:
        """Whether it failed here and nobody has asked again since."""
        failed = self.failure(target.id)
        return failed is not None and failed.serial == target.serial and not failed.forgiven

    def with_failure(self, commit_id: CommitId, serial: Serial) -> "Memory":
        """It failed, once more."""
        known = self.failure(commit_id)
        times = known.times + 1 if known is not None and known.serial == serial else 1
        others = tuple(failed for failed in self.failed if failed.id != commit_id)
        return replace(self, failed=(*others, Failed(commit_id, serial, times))[-FAILED_MAX:])

    def without_failure(self, commit_id: CommitId) -> "Memory":
        """It works now."""
        return replace(self, failed=tuple(failed for failed in self.failed if failed.id != commit_id))

    def forgiving(self, commit_id: CommitId) -> "Memory":
        """It may not have been to blame: it may be tried again, a few times."""
        failed = tuple(
            replace(each, forgiven=True) if each.id == commit_id and each.times <= FORGIVEN_MAX else each
            for each in self.failed
        )
        return replace(self, failed=failed)


# ---------------------------------------------------------------------- as JSON


def to_document(memory: Memory) -> dict[str, Any]:
    """For ``json.dumps``."""
    trial = memory.trial
    return {
        "schema": SCHEMA,
        "repository": memory.repository,
        "followed": memory.followed,
        "running": _point(memory.running),
        "before": _point(memory.before),
        "trial": None
        if trial is None
        else {
            "point": _point(trial.point),
            "serial": trial.serial,
            "health": list(trial.health),
            "trial_s": trial.trial_s,
            "attempts": trial.attempts,
        },
        "about": _point(memory.about),
        "serial": memory.serial,
        "state": memory.state,
        "error": memory.error,
        "since_ns": memory.since_ns,
        "failed": [
            {"id": each.id, "serial": each.serial, "times": each.times, "forgiven": each.forgiven}
            for each in memory.failed
        ],
    }


def from_document(document: Any) -> Memory:
    """From ``json.loads``. DamageError, FormatError."""
    try:
        if document["schema"] != SCHEMA:
            raise FormatError(f"schema {document['schema']}, this version knows {SCHEMA}")
        return Memory(
            repository=None if document["repository"] is None else _id(document["repository"]),
            followed=Serial(_number(document["followed"])),
            running=_point_of(document["running"]),
            before=_point_of(document["before"]),
            trial=_trial_of(document["trial"]),
            about=_point_of(document["about"]),
            serial=Serial(_number(document["serial"])),
            state=_state(document["state"]),
            error=str(document["error"]),
            since_ns=_number(document["since_ns"]),
            failed=tuple(_failed_of(each) for each in document["failed"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamageError(f"not a state: {error!r}") from error


def _point(point: Point | None) -> dict[str, Any] | None:
    return None if point is None else {"revision": point.revision, "id": point.id}


def _point_of(document: Mapping[str, Any] | None) -> Point | None:
    return None if document is None else Point(Revision(_number(document["revision"])), _id(document["id"]))


def _trial_of(document: Mapping[str, Any] | None) -> Trial | None:
    if document is None:
        return None
    point = _point_of(document["point"])
    if point is None:
        raise ValueError("a trial of nothing")
    health = tuple(str(word) for word in document["health"])
    attempts = _number(document["attempts"])
    return Trial(point, Serial(_number(document["serial"])), health, float(document["trial_s"]), attempts)


def _failed_of(document: Mapping[str, Any]) -> Failed:
    serial, times = Serial(_number(document["serial"])), _number(document["times"])
    return Failed(_id(document["id"]), serial, times, bool(document["forgiven"]))


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"not a number: {value!r}")
    return value


def _id(value: Any) -> CommitId:
    if not isinstance(value, str) or not is_commit_id(value):
        raise ValueError(f"not a commit id: {value!r}")
    return CommitId(value)


def _state(value: Any) -> State:
    for state in STATES:
        if value == state:
            return state
    raise ValueError(f"not a state: {value!r}")
