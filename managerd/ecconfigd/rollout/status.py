"""What people are shown of a rollout."""

from dataclasses import dataclass

from managerd.ecconfigd.rollout.document import Rollout, State
from managerd.ecconfigd.rollout.fleet import Fleet
from managerd.ecconfigd.rollout.machine import examine, has_applied


@dataclass(frozen=True, slots=True)
class Status:
    """Fields as in RolloutState of config.proto; lists of nodes are sorted, but ``failed``: in the order of failing."""

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
    tried = _tried(rollout, fleet)
    hold_end_s = examine(rollout, fleet, now_s).hold_end_s if rollout.state == "running" else None
    seen = {node: fleet.nodes.get(node) for node in tried if node not in rollout.failed}
    return Status(
        number=rollout.number,
        state=rollout.state,
        revision=rollout.target.revision,
        id=rollout.target.id,
        baseline=rollout.baseline.revision,
        stages=rollout.stages,
        stage=rollout.stage,
        hold_s=rollout.hold_s,
        health=rollout.health,
        max_failed=rollout.max_failed,
        released=tuple(tried),
        applied=tuple(node for node, last in seen.items() if last is not None and has_applied(rollout, last)),
        failed=tuple(rollout.failed),
        offline=tuple(node for node, last in seen.items() if last is None or not last.online),
        author=rollout.author,
        reason=rollout.reason,
        since_ns=rollout.since_ns,
        nodes=len(fleet.nodes.keys() | rollout.released),
        errors=tuple(rollout.failed.values()),
        hold_left_s=None if hold_end_s is None else max(0.0, hold_end_s - now_s),
        counts=rollout.counts,
    )


def _tried(rollout: Rollout, fleet: Fleet) -> list[str]:
    """Who has or had it by the rollout; of everyone's stage and after it all nodes that there are."""
    everyone = rollout.state == "done" or (rollout.active and rollout.everyone)
    return sorted(rollout.released | fleet.nodes.keys() if everyone else rollout.released)
