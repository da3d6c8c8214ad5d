"""What people are shown of a rollout."""

from dataclasses import dataclass

from managerd.ecconfigd.rollout.document import Rollout, State
from managerd.ecconfigd.rollout.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Status:
    """Fields as in RolloutState of config.proto; lists of nodes are sorted."""

    number: int
    state: State
    revision: int
    id: str
    baseline: int
    stages: tuple[str, ...]
    stage: int
    hold_s: float
    health: tuple[str, ...]
    max_failed: int
    released: tuple[str, ...]
    applied: tuple[str, ...]
    failed: tuple[str, ...]
    offline: tuple[str, ...]
    author: str
    reason: str
    since_ns: int
    nodes: int
    errors: tuple[str, ...] = ()  # why each of ``failed`` failed, in that order
    hold_left_s: float | None = None  # None: some have not applied it yet, or it does not run
    counts: tuple[int | None, ...] = ()  # nodes of each stage; None = everyone


def describe(rollout: Rollout, fleet: Fleet, now_s: float) -> Status:
    """``rollout`` as it stands."""
    raise NotImplementedError
