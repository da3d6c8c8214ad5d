"""What is durable of rollouts: ``rollout.json``, the only file of the line ``refs/jlogd/rollout``.

``held`` says which revisions nodes do not get, ``rollout`` which nodes get one of them all the same. A document that
names a commit that the main line does not have at that number counts as if it were not there: the process died between
the two refs.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from jlogd.confrepo.model import CommitId, Revision, Serial, is_commit_id
from jlogd.runtime.errors import DamageError, FormatError

FILE: Final = "rollout.json"
SCHEMA: Final = 1
REASONS_MAX: Final = 100  # failed nodes whose reason is kept; when more fail, the first ones tell the story
REASON_CHARACTERS_MAX: Final = 200

State: TypeAlias = Literal["running", "paused", "done", "failed", "aborted"]
IdAt: TypeAlias = Callable[[Revision], CommitId | None]  # the main line


@dataclass(frozen=True, slots=True)
class Point:
    """One revision, by number and by content."""

    revision: Revision
    id: CommitId

    def __str__(self) -> str:
        return f"r{self.revision}"

    def on(self, id_at: IdAt) -> bool:
        """Whether the main line has it."""
        return id_at(self.revision) == self.id


@dataclass(frozen=True, slots=True)
class Held:
    """Revisions that nodes do not get: ``[first, free)``; without ``free`` everything from ``first`` on."""

    first: Point
    baseline: Point  # what nodes run instead
    patterns: tuple[str, ...]  # of the policy, that asked for it
    free: Point | None = None  # it differs from the baseline in nothing that asks for a rollout


@dataclass(frozen=True, slots=True)
class Rollout:
    """The present or the last one."""

    number: int  # counts rollouts, from 1
    state: State
    target: Point
    baseline: Point
    stages: tuple[str, ...]  # as asked
    counts: tuple[int | None, ...]  # nodes of each stage; None = everyone
    hold_s: float
    health: tuple[str, ...]
    max_failed: int
    author: str
    serial: Serial  # a failure that nodes report about a lower one is not of this rollout
    since_ns: int  # wall time of the stage, of a pause, of going on, or of the end
    stage: int = 0
    released: frozenset[str] = frozenset()  # by name; in everyone's stage those that were there when it began
    failed: Mapping[str, str] = field(default_factory=dict)  # node → why, in the order in which they failed
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether it decides what nodes run."""
        return self.state in {"running", "paused"}

    @property
    def everyone(self) -> bool:
        """Whether its stage is every node's."""
        return self.counts[self.stage] is None

    def tries(self, node: str) -> bool:
        """Whether ``node`` should run the target."""
        return self.active and node not in self.failed and (self.everyone or node in self.released)


@dataclass(frozen=True, slots=True)
class Document:
    """Everything durable."""

    held: Held | None = None
    rollout: Rollout | None = None

    def in_force(self, id_at: IdAt, confirmed: Revision) -> Held | None:
        """What is held back on the main line that ``id_at`` knows, as far as it is ``confirmed``."""
        held = self.held
        if held is None or not held.first.on(id_at) or not held.baseline.on(id_at):
            return None
        freed = held.free is not None and confirmed >= held.free.revision and held.free.on(id_at)
        return None if freed else held

    def trial(self, id_at: IdAt, confirmed: Revision) -> Rollout | None:
        """The rollout that decides what nodes run, if one does."""
        rollout = self.rollout
        if rollout is None or not rollout.active or self.in_force(id_at, confirmed) is None:
            return None
        return rollout if rollout.target.revision <= confirmed and rollout.target.on(id_at) else None


# ---------------------------------------------------------------------- the file


def to_bytes(document: Document) -> bytes:
    """The file's content. The same document always gives the same bytes."""
    value = {
        "schema": SCHEMA,
        "held": _held_value(document.held) if document.held else None,
        "rollout": _rollout_value(document.rollout) if document.rollout else None,
    }
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def from_bytes(content: bytes) -> Document:
    """The inverse. DamageError, or FormatError for a newer schema."""
    try:
        value = json.loads(content)
        schema = value["schema"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise FormatError(f"{FILE}: schema {schema}, this version knows {SCHEMA}: upgrade this manager")
        held, rollout = value["held"], value["rollout"]
        return Document(
            held=None if held is None else _held(held), rollout=None if rollout is None else _rollout(rollout)
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamageError(f"{FILE} is not what was written: {type(error).__name__}: {error}") from error


def _point_value(point: Point) -> dict[str, Any]:
    return {"revision": point.revision, "id": point.id}


def _held_value(held: Held) -> dict[str, Any]:
    return {
        "first": _point_value(held.first),
        "baseline": _point_value(held.baseline),
        "patterns": list(held.patterns),
        "free": _point_value(held.free) if held.free else None,
    }


def _rollout_value(rollout: Rollout) -> dict[str, Any]:
    return {
        "number": rollout.number,
        "state": rollout.state,
        "target": _point_value(rollout.target),
        "baseline": _point_value(rollout.baseline),
        "stages": list(rollout.stages),
        "counts": list(rollout.counts),
        "hold_s": rollout.hold_s,
        "health": list(rollout.health),
        "max_failed": rollout.max_failed,
        "author": rollout.author,
        "serial": rollout.serial,
        "since_ns": rollout.since_ns,
        "stage": rollout.stage,
        # A failed node was released: once is enough.
        "released": sorted(rollout.released - rollout.failed.keys()),
        "failed": dict(rollout.failed),
        "reason": rollout.reason,
    }


def _point(value: Mapping[str, Any]) -> Point:
    if not is_commit_id(value["id"]):
        raise ValueError("not a commit id")
    return Point(Revision(_whole(value["revision"])), CommitId(value["id"]))


def _held(value: Mapping[str, Any]) -> Held:
    free = value["free"]
    return Held(
        _point(value["first"]),
        _point(value["baseline"]),
        _texts(value["patterns"]),
        None if free is None else _point(free),
    )


def _rollout(value: Mapping[str, Any]) -> Rollout:
    failed = {_text(node): _text(why) for node, why in value["failed"].items()}
    rollout = Rollout(
        number=_whole(value["number"]),
        state=_state(value["state"]),
        target=_point(value["target"]),
        baseline=_point(value["baseline"]),
        stages=_texts(value["stages"]),
        counts=tuple(None if count is None else _whole(count) for count in value["counts"]),
        hold_s=float(value["hold_s"]),
        health=_texts(value["health"]),
        max_failed=_whole(value["max_failed"]),
        author=_text(value["author"]),
        serial=Serial(_whole(value["serial"])),
        since_ns=_whole(value["since_ns"]),
        stage=_whole(value["stage"]),
        released=frozenset(_texts(value["released"])) | failed.keys(),
        failed=failed,
        reason=_text(value["reason"]),
    )
    if not len(rollout.stages) == len(rollout.counts) > rollout.stage:
        raise ValueError("no such stage")
    return rollout


def _state(value: object) -> State:
    states: tuple[State, ...] = get_args(State)
    for state in states:
        if state == value:
            return state
    raise ValueError(f"no such state: {value!r}")


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"not a number of things: {value!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _texts(value: Sequence[object]) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(map(_text, value))
