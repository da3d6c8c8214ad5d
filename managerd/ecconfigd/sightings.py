"""What one manager sees of a node (a *sighting*), and the one entry that all managers' sightings make together. Pure.

A node counts once, however many managers it is attached to. It is attached while one of them sees it. Of what it said
to them its newest word counts: the node's own clock tells, which is one clock, whoever passes the word on. The node's
session lasts as long as one sighting of the same session is left; when none is, ``changed_ns`` moves, and what it said
before does not count as said now (``fresh``), until it says so again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Literal, TypeAlias

from jlogd.attach.messages import Report, State
from jlogd.confrepo.model import CommitId, Revision, Serial

NodeState: TypeAlias = State | Literal["offline"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A session of the node with one manager. ``session``: never twice the same of one manager."""

    subcluster: str
    recipient: str = ""
    session: int = 0
    report: Report | None = None  # the last one of this session


Sightings: TypeAlias = Mapping[str, Sighting]  # by manager


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One node. ``report``: the last one, None before the first. Wall times in ns, this manager's but ``report``'s."""

    name: str
    subcluster: str
    attached: bool
    recipient: str = ""
    last_seen_ns: int = 0
    changed_ns: int = 0  # when it attached or detached
    report: Report | None = None
    via: tuple[str, ...] = ()  # managers that it is attached to, or was last
    fresh: bool = False  # it said ``report`` since it attached
    refusal: str = ""  # what a manager said to it last, if that was no; empty once it attaches

    @property
    def state(self) -> NodeState:
        """For people; ``report.state`` is the last known one."""
        if not self.attached:
            return "offline"
        return self.report.state if self.report is not None else "pending"

    @property
    def since_ns(self) -> int:
        """When it entered ``state``."""
        told = self.attached and self.report is not None and self.report.since_ns
        return told or self.changed_ns

    @property
    def revision(self) -> Revision:
        """What it runs; 0 = nothing, as far as it told."""
        return self.report.running if self.report is not None else Revision(0)

    @property
    def id(self) -> CommitId | None:
        """Commit id of ``revision``."""
        return self.report.running_id if self.report is not None else None

    @property
    def serial(self) -> Serial:
        """Of the target that its last report is about."""
        return self.report.serial if self.report is not None else Serial(0)

    @property
    def error(self) -> str:
        """Why it cannot attach, else why it is refused or rolled back; empty otherwise."""
        if self.refusal and not self.attached:
            return self.refusal
        return self.report.error if self.report is not None else ""

    @property
    def drift(self) -> tuple[str, ...]:
        """The first of ``drift_count`` paths."""
        return self.report.drift if self.report is not None else ()

    @property
    def drift_count(self) -> int:
        """How many paths differ from what was laid out."""
        return self.report.drift_count if self.report is not None else 0


def merged(old: NodeEntry, before: Sightings, after: Sightings, teller: str, now_ns: int) -> NodeEntry:
    """The entry that follows when ``teller``'s sighting came, changed or went."""
    said = {manager: seen.report for manager, seen in after.items() if seen.report is not None}
    newest = max(said, key=lambda manager: _age(said[manager], direct=manager == teller), default=None)
    last = after.get(teller)
    report = said[newest] if newest is not None and last is not None else old.report  # who goes takes no word back
    lasted = any(manager in before and before[manager].session == seen.session for manager, seen in after.items())
    return replace(
        old,
        subcluster=last.subcluster if last is not None else old.subcluster,
        recipient=last.recipient if last is not None else old.recipient,
        attached=bool(after),
        last_seen_ns=now_ns,
        changed_ns=now_ns if (after or before) and not lasted else old.changed_ns,
        report=report,
        via=tuple(sorted(after)) or old.via,
        fresh=newest is not None and (last is not None or old.fresh),
        refusal="" if last is not None else old.refusal,
    )


def same(one: NodeEntry, other: NodeEntry) -> bool:
    """Whether nobody who follows the node has to hear of it: only when it was seen, or a report's number, differs."""
    return _facts(one) == _facts(other) and _same_words(one.report, other.report)


def same_sighting(one: Sighting | None, other: Sighting | None) -> bool:
    """Whether both are of one session, and say the same."""
    if one is None or other is None:
        return one is other
    return one.session == other.session and _same_words(one.report, other.report)


_facts = attrgetter(*(field.name for field in fields(NodeEntry) if field.name not in {"last_seen_ns", "report"}))
_words = attrgetter(*(field.name for field in fields(Report) if field.name != "number"))  # each session counts its own


def _same_words(one: Report | None, other: Report | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(_words(one) == _words(other))


def _age(report: Report, *, direct: bool) -> tuple[int, int, bool]:
    """Later ones are newer; of the same state about the same target, whose details alone differ, what came last."""
    return report.since_ns, report.serial, direct
