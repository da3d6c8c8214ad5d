"""Attach messages ↔ protobuf.

Conversions check only what protobuf cannot hold; meaning is checked in ``messages``.
"""

from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from jlogd.attach.messages import STATES, AttachHello, Fetch, Gift, Pack, Report, Reported, Target
from jlogd.confrepo.model import CommitId, Revision, Serial
from jlogd.forward.messages import Hello, ProtocolError, Refusal
from jlogd.runtime.rpc import Malformed
from jlogd.v1 import attach_pb2 as pb
from jlogd.v1 import deliver_pb2

SERVICE: Final = "jlogd.v1.AttachService"
ATTACH_METHOD: Final = f"/{SERVICE}/Attach"

ToNode: TypeAlias = Hello | Target | Pack | Reported | Refusal
ToManager: TypeAlias = AttachHello | Fetch | Report

_CODES = (pb.Report.STATE_PENDING, pb.Report.STATE_APPLIED, pb.Report.STATE_REFUSED, pb.Report.STATE_ROLLED_BACK)
_STATES = dict(zip(STATES, _CODES, strict=True))
_STATES_BACK = {code: state for state, code in _STATES.items()}


# ---------------------------------------------------------------------- manager to node


def response_to_pb(message: ToNode) -> pb.AttachResponse:
    """What the manager says."""
    match message:
        case Pack():
            pack = pb.Pack(want=message.want, piece=message.piece, last=message.last, error=message.error)
            return pb.AttachResponse(pack=pack)
        case Reported():
            return pb.AttachResponse(reported=pb.Reported(number=message.number))
        case Target():
            return pb.AttachResponse(target=_target_to_pb(message))
        case Hello():
            hello = deliver_pb2.Hello(
                protocol=message.protocol,
                manager=message.manager,
                subscriber=message.subscriber,
                epoch=message.epoch,
                capabilities=message.capabilities,
            )
            return pb.AttachResponse(hello=hello)
        case Refusal():
            return pb.AttachResponse(refusal=deliver_pb2.Refusal(reason=message.reason, message=message.message))


def response_from_pb(response: pb.AttachResponse) -> ToNode:
    """What the manager said. ProtocolError for a message that this version does not know."""
    which = response.WhichOneof("message")
    if which == "pack":
        pack = response.pack
        return Pack(CommitId(pack.want), pack.piece, pack.last, pack.error)
    if which == "reported":
        return Reported(response.reported.number)
    if which == "target":
        return _target_from_pb(response.target)
    if which == "hello":
        hello = response.hello
        return Hello(hello.protocol, hello.manager, hello.subscriber, hello.epoch, tuple(hello.capabilities))
    if which == "refusal":
        return Refusal(response.refusal.reason, response.refusal.message)
    raise ProtocolError("the manager sent a message that this version does not know")


def _target_to_pb(target: Target) -> pb.Target:
    return pb.Target(
        revision=target.revision,
        id=target.id,
        serial=target.serial,
        repository=target.repository,
        health=target.health,
        trial_ms=round(target.trial_s * 1000),
        pack=target.gift.pack if target.gift is not None else b"",
        pack_have=target.gift.have if target.gift is not None else "",
    )


def _target_from_pb(target: pb.Target) -> Target:
    return Target(
        Revision(target.revision),
        CommitId(target.id),
        Serial(target.serial),
        CommitId(target.repository),
        tuple(target.health),
        target.trial_ms / 1000,
        Gift(CommitId(target.pack_have), target.pack) if target.pack else None,
    )


# ---------------------------------------------------------------------- node to manager


def request_to_pb(message: ToManager) -> pb.AttachRequest:
    """What the node says."""
    match message:
        case AttachHello():
            hello = pb.AttachHello(
                protocol=message.protocol,
                node=message.node,
                subcluster=message.subcluster,
                host=message.host,
                machine_id=message.machine_id,
                instance=message.instance,
                capabilities=message.capabilities,
                recipient=message.recipient,
            )
            return pb.AttachRequest(hello=hello)
        case Fetch():
            return pb.AttachRequest(fetch=pb.Fetch(want=message.want, have=message.have))
        case Report():
            return pb.AttachRequest(report=report_to_pb(message))


def report_to_pb(report: Report) -> pb.Report:
    """A report, as nodes say it and managers pass it on."""
    return pb.Report(
        number=report.number,
        state=_STATES[report.state],
        revision=report.revision,
        id=report.id or "",
        running=report.running,
        running_id=report.running_id or "",
        serial=report.serial,
        error=report.error,
        drift=report.drift,
        drift_count=report.drift_count,
        since_ns=report.since_ns,
    )


def decode_request(wire: bytes) -> pb.AttachRequest | Malformed:
    """Deserializer of the manager's side: bytes that are no message are the session's to answer."""
    try:
        return pb.AttachRequest.FromString(wire)
    except DecodeError as error:
        return Malformed(f"not an AttachRequest: {error}")


def request_from_pb(request: pb.AttachRequest) -> ToManager:
    """What the node said. ProtocolError for a message that this version does not know."""
    which = request.WhichOneof("message")
    if which == "report":
        return report_from_pb(request.report)
    if which == "fetch":
        return Fetch(CommitId(request.fetch.want), tuple(CommitId(commit) for commit in request.fetch.have))
    if which == "hello":
        hello = request.hello
        return AttachHello(
            hello.protocol,
            hello.node,
            hello.subcluster,
            hello.host,
            hello.machine_id,
            hello.instance,
            hello.recipient,
            tuple(hello.capabilities),
        )
    raise ProtocolError("the node sent a message that this version does not know")


def report_from_pb(report: pb.Report) -> Report:
    """What it says. ProtocolError for a state that this version does not know."""
    state = _STATES_BACK.get(report.state)
    if state is None:
        raise ProtocolError(f"report state {report.state} is not known to this version")
    return Report(
        state,
        Revision(report.revision),
        CommitId(report.id) if report.id else None,
        Revision(report.running),
        CommitId(report.running_id) if report.running_id else None,
        Serial(report.serial),
        report.error,
        tuple(report.drift),
        report.drift_count,
        report.since_ns,
        report.number,
    )
