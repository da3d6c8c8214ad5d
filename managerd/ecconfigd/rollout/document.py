"""What is durable of rollouts: ``rollout.json``, the only file of the line ``refs/jlogd/rollout``.

``held`` says which revisions nodes do not get, ``rollout`` which nodes get one of them all the same. A document that
names a commit that the main line does not have at that number counts as if it were not there: the process died between
the two refs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from jlogd.confrepo.model import CommitId, Revision, Serial

FILE: Final = "rollout.json"
SCHEMA: Final = 1

State: TypeAlias = Literal["running", "paused", "done", "failed", "aborted"]


@dataclass(frozen=True, slots=True)
class Point:
    """One revision, by number and by content."""

    revision: Revision
    id: CommitId


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
    serial: Serial  # what nodes report about lower ones is not about this rollout
    since_ns: int  # wall time of the stage, or of the end
    stage: int = 0
    released: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)  # node → why
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

    def in_force(self, id_at: Callable[[Revision], CommitId | None], confirmed: Revision) -> Held | None:
        """What is held back on the main line whose ids ``id_at`` knows, as far as it is ``confirmed``."""
        raise NotImplementedError


def to_bytes(document: Document) -> bytes:
    """The file's content. The same document always gives the same bytes."""
    raise NotImplementedError


def from_bytes(content: bytes) -> Document:
    """The inverse. DamageError, or FormatError for a newer schema."""
    raise NotImplementedError
