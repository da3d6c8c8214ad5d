"""Document + what was seen + time → next document. Nothing else decides how a rollout goes on.

A stage releases nodes in an order that follows from the rollout's number, so that each rollout begins with others; who
is away is passed over and joins when it returns, as far as the stage has room. A node has *failed* when it says so
(refused, rolled back), when it has not applied the revision ``APPLY_S_MAX`` after it was released, or when it was away
for longer than the hold (at least ``AWAY_S_MIN``). It goes back to the baseline, stays there until the rollout is over,
and the stage takes another one in its place. A stage is over when each of its nodes was well for a whole hold without a
break, and all are here: of many nodes one always comes or goes, so one break more does not undo what a node has proved.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from jlogd.attach.messages import Report
from jlogd.confrepo.model import Serial
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd.rollout.document import (
    REASON_CHARACTERS_MAX,
    REASONS_MAX,
    Document,
    Held,
    Point,
    Rollout,
    State,
)
from managerd.ecconfigd.rollout.fleet import Fleet, Seen
from managerd.ecconfigd.rollout.stages import node_counts

APPLY_S_MAX: Final = 900.0  # fetching, reloading and confirming are done by then, or somebody must look
AWAY_S_MIN: Final = 60.0  # a reload may restart a node, and after a restart of ours nodes need time to come back

Order: TypeAlias = Literal["pause", "resume", "abort"]
_ORDERS: Mapping[tuple[Order, State], State] = {
    ("pause", "running"): "paused",
    ("resume", "paused"): "running",
    ("abort", "running"): "aborted",
    ("abort", "paused"): "aborted",
}
_PASSED = {"pause": "paused", "resume": "resumed", "abort": "aborted"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for. ``stages`` as ``check_stages`` gives them."""

    target: Point
    baseline: Point
    stages: tuple[str, ...]
    hold_s: float
    health: tuple[str, ...]
    max_failed: int
    author: str


@dataclass(frozen=True, slots=True)
class Findings:
    """How the nodes of a rollout stand. Monotonic seconds."""

    applied: Sequence[str]
    pending: Sequence[str]
    away: Sequence[str]
    failures: Mapping[str, str]  # new ones
    hold_end_s: float | None  # None: somebody is not well, or there is nobody
    due_s: float | None  # when time alone changes something


# ---------------------------------------------------------------------- what people ask for


def start(document: Document, plan: Plan, fleet: Fleet, *, serial: Serial, now_ns: int) -> Document:
    """A new rollout, its first nodes released. RefusedError while one is active, or when nobody can try it."""
    last = document.rollout
    if last is not None and last.active:
        raise RefusedError(f"rollout {last.number} of {last.target} is {last.state}: abort it first, or wait")
    if not fleet.online():
        raise RefusedError(f"no node is attached: nobody can try {plan.target}")
    rollout = Rollout(
        number=last.number + 1 if last else 1,
        state="running",
        target=plan.target,
        baseline=plan.baseline,
        stages=plan.stages,
        counts=node_counts(plan.stages, len(fleet.nodes)),
        hold_s=plan.hold_s,
        health=plan.health,
        max_failed=plan.max_failed,
        author=plan.author,
        serial=serial,
        since_ns=now_ns,
    )
    # While it is active everything newer is held back; what is free is decided again when it is over.
    held = replace(document.held, free=None) if document.held else None
    return Document(held, _enter(rollout, 0, fleet, now_ns))


def order(document: Document, what: Order, author: str, now_ns: int) -> Document:
    """Pause, resume, abort. RefusedError when the rollout is in no state for it."""
    rollout = document.rollout
    if rollout is None:
        raise RefusedError("there was no rollout yet: `eccfg rollout start REV` begins one")
    state = _ORDERS.get((what, rollout.state))
    if state is None:
        raise RefusedError(
            f"rollout {rollout.number} of {rollout.target} is {rollout.state}: it cannot be {_PASSED[what]}"
        )
    reason = "" if what == "resume" else f"{_PASSED[what]} by {author}"
    changed = replace(rollout, state=state, reason=reason, since_ns=now_ns)
    return replace(document, rollout=changed if changed.active else _ended(changed, now_ns))


def void(document: Document, now_ns: int) -> Document:
    """The main line does not have the rollout's revision (any more)."""
    rollout = document.rollout
    if rollout is None or not rollout.active:
        return document
    reason = f"{rollout.target} is not held back on the main line any more"
    return replace(document, rollout=_ended(replace(rollout, state="aborted", reason=reason), now_ns))


def settle(document: Document, held: Held | None) -> Document:
    """After a rollout is over: what is held back from now on."""
    return replace(document, held=held)


# ---------------------------------------------------------------------- what follows by itself


def decide(document: Document, fleet: Fleet, now_s: float, now_ns: int) -> Document:
    """The next document; the same object when nothing changes."""
    rollout = document.rollout
    if rollout is None or not rollout.active:
        return document
    found = examine(rollout, fleet, now_s)
    after = _with_failures(rollout, found.failures)
    if len(after.failed) > after.max_failed:
        after = _ended(replace(after, state="failed", reason=_why(after)), now_ns)
    elif after.state == "running":
        filled = _fill(after, fleet)
        held = filled is rollout and found.hold_end_s is not None and now_s >= found.hold_end_s
        after = _advance(filled, fleet, now_ns) if held else filled
    return document if after is rollout else replace(document, rollout=after)


def examine(rollout: Rollout, fleet: Fleet, now_s: float) -> Findings:
    """How ``rollout`` stands. Remembers in ``fleet`` when it first saw the stage, and each node in it."""
    mark = (rollout.number, rollout.stage, rollout.state, rollout.since_ns)
    began_s = fleet.since_s(mark, now_s)
    applied, pending, away = [], [], []
    failures: dict[str, str] = {}
    due: list[float] = []
    well_s = now_s - rollout.hold_s  # since when the last one is well
    for node, seen in _members(rollout, fleet):
        said = _said(rollout, seen)
        if said == "failed":
            failures[node] = _reason(seen)
        elif seen is None or not seen.online:
            away.append(node)
            due.append((seen.online_since_s if seen else fleet.began_s) + max(rollout.hold_s, AWAY_S_MIN))
            if now_s >= due[-1]:
                failures[node] = "it went away and did not come back"
        elif said == "applied":
            applied.append(node)
            well_s = max(well_s, _well_since_s(rollout, seen, mark, began_s, now_s))
        else:
            pending.append(node)
            due.append(_tried_since_s(rollout, seen, now_s) + APPLY_S_MAX)
            if now_s >= due[-1]:
                failures[node] = f"it has not applied the revision within {APPLY_S_MAX:g} s"
    if rollout.everyone:
        failures |= _late_failures(rollout, fleet)
    well = bool(applied) and not (pending or away or failures)
    hold_end_s = well_s + rollout.hold_s if well else None
    if hold_end_s is not None and rollout.state == "running":
        due.append(hold_end_s)
    return Findings(applied, pending, away, failures, hold_end_s, min(due, default=None))


def has_applied(rollout: Rollout, seen: Seen) -> bool:
    """Whether that node runs the target and is here to say so."""
    return seen.online and _said(rollout, seen) == "applied"


def _members(rollout: Rollout, fleet: Fleet) -> Iterator[tuple[str, Seen | None]]:
    for node in sorted(rollout.released - rollout.failed.keys()):
        yield node, fleet.nodes.get(node)


def _said(rollout: Rollout, seen: Seen | None) -> Literal["applied", "failed", "pending"]:
    report = seen.report if seen is not None and seen.fresh else None
    if report is None or report.id != rollout.target.id:
        return "pending"
    if report.state == "applied":
        return "applied"
    # A revision may have failed on this node before: in an earlier rollout, and then under a lower serial.
    failed = report.state in {"refused", "rolled_back"} and report.serial >= rollout.serial
    return "failed" if failed else "pending"


def _late_failures(rollout: Rollout, fleet: Fleet) -> dict[str, str]:
    """Of nodes that came when the last stage had begun: nobody waits for them, but what they say counts."""
    return {
        node: _reason(seen)
        for node, seen in sorted(fleet.nodes.items())
        if node not in rollout.failed and node not in rollout.released and _said(rollout, seen) == "failed"
    }


def _reason(seen: Seen | None) -> str:
    report: Report | None = seen.report if seen else None
    said = " ".join(report.error.split()) if report else ""
    return said or (report.state.replace("_", " ") if report else "")


def _well_since_s(rollout: Rollout, seen: Seen, mark: object, began_s: float, now_s: float) -> float:
    """Since when it is well in this stage; long enough once it was."""
    proven = (mark, seen.report_since_s)
    since_s = max(began_s, seen.report_since_s, seen.online_since_s)
    if now_s >= since_s + rollout.hold_s:
        seen.proven = proven
    return now_s - rollout.hold_s if seen.proven == proven else since_s


def _tried_since_s(rollout: Rollout, seen: Seen, now_s: float) -> float:
    if seen.tried != rollout.number:
        seen.tried, seen.tried_since_s = rollout.number, now_s
    return seen.tried_since_s


def _with_failures(rollout: Rollout, failures: Mapping[str, str]) -> Rollout:
    if not failures:
        return rollout
    failed = dict(rollout.failed)
    for node, why in failures.items():
        failed[node] = why[:REASON_CHARACTERS_MAX] if len(failed) < REASONS_MAX else ""
    return replace(rollout, failed=failed, released=rollout.released | failures.keys())


def _why(rollout: Rollout) -> str:
    node, why = next(iter(rollout.failed.items()))
    return f"{len(rollout.failed)} failed, at most {rollout.max_failed} may; first {node}: {why}"


def _ended(rollout: Rollout, now_ns: int) -> Rollout:
    """Who had it does not matter any more, and would be written again with each later document."""
    return replace(rollout, since_ns=now_ns, released=frozenset(rollout.failed))


def _advance(rollout: Rollout, fleet: Fleet, now_ns: int) -> Rollout:
    present = rollout.counts[rollout.stage]
    # On a small fleet several stages may be of the same nodes: one hold is enough.
    for stage in range(rollout.stage + 1, len(rollout.counts)):
        if rollout.counts[stage] != present:
            return _enter(rollout, stage, fleet, now_ns)
    tried = len(rollout.released - rollout.failed.keys())
    reason = f"well on {tried} {'node' if tried == 1 else 'nodes'}" + (
        f", {len(rollout.failed)} failed" if rollout.failed else ""
    )
    return _ended(replace(rollout, state="done", reason=reason), now_ns)


def _enter(rollout: Rollout, stage: int, fleet: Fleet, now_ns: int) -> Rollout:
    entered = replace(rollout, stage=stage, since_ns=now_ns)
    if entered.everyone:
        return replace(entered, released=entered.released | (set(fleet.online()) - entered.failed.keys()))
    return _fill(entered, fleet)


def _fill(rollout: Rollout, fleet: Fleet) -> Rollout:
    """Release as many as the stage has room for; the same object when there are none."""
    members = rollout.released - rollout.failed.keys()
    free = [node for node in fleet.online() if node not in rollout.released]
    count = rollout.counts[rollout.stage]
    # Who comes later in everyone's stage gets it too (``Rollout.tries``); listed only when there is nobody to judge by.
    room = (0 if members else len(free)) if count is None else count - len(members)
    if room <= 0 or not free:
        return rollout
    chosen = sorted(free, key=lambda node: rank(rollout.number, node))[:room]
    return replace(rollout, released=rollout.released.union(chosen))


def rank(number: int, node: str) -> bytes:
    """Places ``node`` in the order of rollout ``number``: no order that people chose, and another one each time."""
    return hashlib.blake2b(f"{number}/{node}".encode(), digest_size=16).digest()
