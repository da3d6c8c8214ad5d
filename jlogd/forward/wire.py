"""Session messages ↔ protobuf, and the container in which frames travel.

A ``frames`` message is repeated (u32 journal index, u32 frame length, frame), little-endian.
Conversions check only what protobuf cannot hold; meaning is checked in ``messages``.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from jlogd.forward.messages import (
    Ack,
    Hello,
    JournalAck,
    JournalOffer,
    JournalResume,
    Kind,
    NodeHello,
    ProtocolError,
    Refusal,
    ReplicaEnd,
    SourcePosition,
    Welcome,
)
from jlogd.journal.frame import FRAME_MAX, HEADER_LENGTH
from jlogd.journal.model import Offset, Term
from jlogd.v1 import deliver_pb2 as pb

ENTRY = struct.Struct("<II")
assert ENTRY.size == 8

ToNode: TypeAlias = Hello | Welcome | Ack | Refusal
ToManager: TypeAlias = NodeHello | tuple[JournalResume, ...]

_KINDS = {
    Kind.CONTINUE: pb.JournalResume.KIND_CONTINUE,
    Kind.BEGIN: pb.JournalResume.KIND_BEGIN,
    Kind.FORK: pb.JournalResume.KIND_FORK,
}
_KINDS_BACK = {code: kind for kind, code in _KINDS.items()}


def split_frames(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(journal index, frame) of a `frames` message, nothing copied. ProtocolError when the lengths do not add up."""
    at = 0
    while at < len(message):
        if at + ENTRY.size > len(message):
            raise ProtocolError("a frames message ends inside an entry")
        index, length = ENTRY.unpack_from(message, at)
        at += ENTRY.size
        if not HEADER_LENGTH <= length <= FRAME_MAX:
            raise ProtocolError(f"a frame of {length} bytes: {HEADER_LENGTH} to {FRAME_MAX} are allowed")
        if at + length > len(message):
            raise ProtocolError(f"a frame of {length} bytes in a message that has {len(message) - at} left")
        yield index, message[at : at + length]
        at += length


def _terms_to_pb(terms: Iterable[Term]) -> list[pb.Term]:
    return [pb.Term(counter=term.counter, nonce=term.nonce, first=term.first) for term in terms]


def _terms_from_pb(terms: Iterable[pb.Term]) -> tuple[Term, ...]:
    return tuple(Term(term.counter, term.nonce, Offset(term.first)) for term in terms)


# ---------------------------------------------------------------------- manager to node


def response_to_pb(message: ToNode) -> pb.DeliverResponse:
    """What the manager says."""
    match message:
        case Hello():
            hello = pb.Hello(
                protocol=message.protocol,
                manager=message.manager,
                subscriber=message.subscriber,
                epoch=message.epoch,
                capabilities=message.capabilities,
            )
            return pb.DeliverResponse(hello=hello)
        case Welcome():
            replicas = [_replica_to_pb(end) for end in message.replicas]
            return pb.DeliverResponse(welcome=pb.Welcome(replicas=replicas, credit=message.credit))
        case Ack():
            acks = [pb.JournalAck(journal=ack.journal, end=ack.end) for ack in message.journals]
            return pb.DeliverResponse(ack=pb.Ack(journals=acks, credit=message.credit))
        case Refusal():
            return pb.DeliverResponse(refusal=pb.Refusal(reason=message.reason, message=message.message))


def response_from_pb(response: pb.DeliverResponse) -> ToNode:
    """What the manager said. ProtocolError for a message that this version does not know."""
    which = response.WhichOneof("message")
    if which == "ack":
        acks = tuple(JournalAck(ack.journal, Offset(ack.end)) for ack in response.ack.journals)
        return Ack(acks, response.ack.credit)
    if which == "hello":
        hello = response.hello
        return Hello(hello.protocol, hello.manager, hello.subscriber, hello.epoch, tuple(hello.capabilities))
    if which == "welcome":
        replicas = tuple(_replica_from_pb(end) for end in response.welcome.replicas)
        return Welcome(replicas, response.welcome.credit)
    if which == "refusal":
        return Refusal(response.refusal.reason, response.refusal.message)
    raise ProtocolError("the manager sent a message that this version does not know")


def _replica_to_pb(end: ReplicaEnd) -> pb.ReplicaEnd:
    sources = [
        pb.SourcePosition(
            path=one.path, generation=one.generation, position=one.position, state=one.state, ladder=one.ladder
        )
        for one in end.sources
    ]
    terms = _terms_to_pb(end.terms)
    return pb.ReplicaEnd(
        present=end.present, next_offset=end.next_offset, chain=end.chain, terms=terms, sources=sources
    )


def _replica_from_pb(end: pb.ReplicaEnd) -> ReplicaEnd:
    sources = tuple(
        SourcePosition(one.path, one.generation, one.position, one.state, one.ladder) for one in end.sources
    )
    return ReplicaEnd(end.present, Offset(end.next_offset), end.chain, _terms_from_pb(end.terms), sources)


# ---------------------------------------------------------------------- node to manager


def request_to_pb(message: ToManager) -> pb.DeliverRequest:
    """What the node says, frames excepted."""
    if isinstance(message, NodeHello):
        return pb.DeliverRequest(hello=_node_hello_to_pb(message))
    resumes = [
        pb.JournalResume(
            kind=_KINDS[resume.kind], first=resume.first, chain=resume.chain, terms=_terms_to_pb(resume.terms)
        )
        for resume in message
    ]
    return pb.DeliverRequest(resume=pb.Resume(journals=resumes))


def _node_hello_to_pb(hello: NodeHello) -> pb.NodeHello:
    return pb.NodeHello(
        protocol=hello.protocol,
        node=hello.node,
        subcluster=hello.subcluster,
        subscriber=hello.subscriber,
        host=hello.host,
        machine_id=hello.machine_id,
        instance=hello.instance,
        journals=[
            pb.JournalOffer(
                journal=offer.journal,
                journal_id=offer.journal_id,
                first=offer.first,
                end=offer.end,
                checkpoint=offer.checkpoint,
                wants_sources=offer.wants_sources,
            )
            for offer in hello.journals
        ],
    )


def request_from_pb(request: pb.DeliverRequest) -> ToManager:
    """What the node said, frames excepted. ProtocolError for a message that this version does not know."""
    which = request.WhichOneof("message")
    if which == "hello":
        hello = request.hello
        offers = tuple(
            JournalOffer(
                offer.journal,
                offer.journal_id,
                Offset(offer.first),
                Offset(offer.end),
                Offset(offer.checkpoint),
                offer.wants_sources,
            )
            for offer in hello.journals
        )
        return NodeHello(
            hello.protocol,
            hello.node,
            hello.subcluster,
            hello.subscriber,
            hello.host,
            hello.machine_id,
            hello.instance,
            offers,
        )
    if which == "resume":
        return tuple(_resume_from_pb(resume) for resume in request.resume.journals)
    raise ProtocolError("the node sent a message that this version does not know")


def _resume_from_pb(resume: pb.JournalResume) -> JournalResume:
    kind = _KINDS_BACK.get(resume.kind)
    if kind is None:
        raise ProtocolError(f"resume kind {resume.kind} is not known to this version")
    return JournalResume(kind, Offset(resume.first), resume.chain, _terms_from_pb(resume.terms))
