"""What the service says, as messages: commits, faults, conflicts, nodes. Nothing grows beyond what a message may be."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from jlogd.attach.messages import Report, Target, check_recipient, check_report
from jlogd.attach.wire import report_from_pb, report_to_pb
from jlogd.confrepo.model import Commit, Conflict, Fault, File, Revision
from jlogd.forward.messages import ProtocolError, check_name
from jlogd.runtime.errors import DamageError, UsageError
from managerd.ecconfigd.edits import Copy, Delete, Edit, Put, Revert, Rollback
from managerd.ecconfigd.nodes import Here, NodeEntry
from managerd.ecconfigd.rollout import Status
from managerd.ecconfigd.sightings import Sighting
from managerd.v1 import config_pb2 as pb

PIECE_BYTES: Final = 1 << 20  # of a content, a pack or a bundle
ANSWER_BYTES: Final = 3 << 20  # of one answer's variable part: a message is at most 4 MiB
PATHS_MAX: Final = 1000  # of one revision
FAULTS_MAX: Final = 1000
SIDE_BYTES: Final = 256 << 10  # of one side of a conflict
ERROR_MAX: Final = 300  # characters of one node's error among many
DRIFT_BYTES: Final = 4 << 10  # of one node's paths, told to another manager


def revision_of(
    commit: Commit,
    *,
    confirmed: Revision,
    paths: Sequence[str] = (),
    signer: str = "",
    count: int | None = None,
    words: bool = True,
) -> pb.Revision:
    """A commit; ``confirmed``: the highest confirmed revision. ``count``: of all changed paths, when not ``paths``'.

    Without ``words`` nobody is told who made it, and why.
    """
    return pb.Revision(
        revision=commit.revision,
        id=commit.id,
        author=commit.author if words else "",
        time_s=commit.time_s,
        message=commit.message if words else "",
        paths=paths[:PATHS_MAX],
        path_count=len(paths) if count is None else count,
        signer=signer if words else "",
        confirmed=commit.revision <= confirmed,
    )


def faults_of(faults: Sequence[Fault]) -> list[pb.Fault]:
    """The first ``FAULTS_MAX``, and one that says how many more there are."""
    shown = [pb.Fault(path=f.path, line=f.line, problem=f.problem[:2000]) for f in faults[:FAULTS_MAX]]
    if len(faults) > FAULTS_MAX:
        shown.append(pb.Fault(path=faults[-1].path, problem=f"and {len(faults) - FAULTS_MAX} more faults"))
    return shown


def conflicts_of(conflicts: Sequence[Conflict]) -> list[pb.Conflict]:
    """All by name; each side cut so that together they fit one answer."""
    limit = min(SIDE_BYTES, ANSWER_BYTES // (3 * max(len(conflicts), 1)))
    return [
        pb.Conflict(
            path=conflict.path,
            keys=conflict.keys[:PATHS_MAX],
            base=_cut(conflict.base, limit),
            mine=_cut(conflict.mine, limit),
            theirs=_cut(conflict.theirs, limit),
        )
        for conflict in conflicts[: FAULTS_MAX * 10]
    ]


def _cut(side: bytes | None, limit: int) -> bytes | None:
    return None if side is None else side[:limit]


def node_of(entry: NodeEntry, target: Target | None) -> pb.Node:
    """A node's entry, and what it should run."""
    return pb.Node(
        name=entry.name,
        subcluster=entry.subcluster,
        revision=entry.revision,
        id=entry.id or "",
        state=entry.state,
        since_ns=entry.since_ns,
        drift=entry.drift,
        drift_count=entry.drift_count,
        error=entry.error,
        target=target.revision if target is not None else 0,
        recipient=entry.recipient,
        about=entry.report.revision if entry.report is not None else 0,
        attached=entry.attached,
        reported=entry.report.state if entry.report is not None else "",
        via=entry.via,
    )


def told_of(here: Here) -> pb.ToldNode:
    """Our own sighting, for another manager."""
    name, seen, attached = here
    return pb.ToldNode(
        name=name,
        subcluster=seen.subcluster,
        recipient=seen.recipient,
        session=seen.session,
        attached=attached,
        report=report_to_pb(_short(seen.report)) if seen.report is not None else None,
    )


def here_of(told: pb.ToldNode) -> Here:
    """What another manager sees. DamageError."""
    try:
        check_name("node", told.name)
        check_name("subcluster", told.subcluster)
        check_recipient(told.recipient)
        report = report_from_pb(told.report) if told.HasField("report") else None
        if report is not None:
            check_report(report)
    except ProtocolError as error:
        raise DamageError(f"node {told.name[:80]!r}: {error}") from error
    return told.name, Sighting(told.subcluster, told.recipient, told.session, report), told.attached


def _short(report: Report) -> Report:
    left, kept = DRIFT_BYTES, 0
    for path in report.drift:
        left -= len(path.encode())
        kept += left >= 0
    return replace(report, drift=report.drift[:kept])


def fit(nodes: Sequence[pb.Node]) -> Sequence[pb.Node]:
    """Nodes whose details are cut, where together they would not fit one answer."""
    if sum(node.ByteSize() for node in nodes) <= ANSWER_BYTES:
        return nodes
    for node in nodes:
        del node.drift[:]
        node.error = node.error[:ERROR_MAX]
    return nodes


def rollout_of(status: Status) -> pb.RolloutState:
    """A rollout as it stands."""
    shown = pb.RolloutState(
        number=status.number,
        state=status.state,
        revision=status.revision,
        id=status.id,
        baseline=status.baseline,
        stages=status.stages,
        stage=status.stage,
        hold_ms=round(status.hold_s * 1000),
        health=status.health,
        max_failed=status.max_failed,
        released=status.released,
        applied=status.applied,
        failed=status.failed,
        offline=status.offline,
        author=status.author,
        reason=status.reason,
        since_ns=status.since_ns,
        nodes=status.nodes,
        errors=[error[:ERROR_MAX] for error in status.errors],
        counts=[count or 0 for count in status.counts],
    )
    if status.hold_left_s is not None:
        shown.hold_left_ms = round(status.hold_left_s * 1000)
    return shown


def edits_of(header: pb.CommitHeader, contents: Sequence[bytes]) -> list[Edit]:
    """The header's edits; ``contents``: of its puts, in their order. UsageError for one that is not known here."""
    left = iter(contents)
    edits: list[Edit] = []
    for edit in header.edits:
        match edit.WhichOneof("edit"):
            case "put":
                edits.append(Put(edit.put.path, File(next(left), edit.put.mode)))
            case "delete":
                edits.append(Delete(edit.delete))
            case "copy":
                edits.append(Copy(edit.copy.source, edit.copy.target, edit.copy.overlay))
            case "revert":
                edits.append(Revert(edit.revert))
            case "rollback":
                edits.append(Rollback(edit.rollback))
            case _:
                raise UsageError("an edit that this manager does not know: is it older than eccfg?")
    return edits


def pieces(content: bytes) -> Iterator[bytes]:
    """``content`` in pieces; none for an empty one."""
    for at in range(0, len(content), PIECE_BYTES):
        yield content[at : at + PIECE_BYTES]
