"""Events and effects of the manager's side of a session, as values (see ``managerd.ingest.session``)."""

from dataclasses import dataclass
from typing import TypeAlias

from jlogd.forward.messages import Ack, Hello, JournalOffer, JournalResume, NodeHello, Refusal, ReplicaEnd, Welcome
from jlogd.journal.model import Offset


@dataclass(frozen=True, slots=True)
class Peer:
    """What the certificate says. ``role`` and ``name`` are empty without TLS: then the NodeHello is believed."""

    role: str
    name: str
    address: str
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Other:
    """The live session of the same node, if there is one."""

    host: str
    machine_id: str
    instance: bytes
    address: str


# ---------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Started:
    """A stream was opened to us."""


@dataclass(frozen=True, slots=True)
class NodeHelloReceived:
    """``returned``: this instance was superseded before by the one that is live now."""

    hello: NodeHello
    peer: Peer
    other: Other | None = None
    returned: bool = False


@dataclass(frozen=True, slots=True)
class OlderEnded:
    """No older session of this node is left, and what it had in flight is on disk."""


@dataclass(frozen=True, slots=True)
class ReplicasFound:
    """Durable ends, in the order of the offers; ``window``: bytes that this session may have under way."""

    ends: tuple[ReplicaEnd, ...]
    window: int


@dataclass(frozen=True, slots=True)
class ResumeReceived:
    """The node's decision for each journal."""

    resumes: tuple[JournalResume, ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """New incarnations exist durably; each replica's end where frames will go on."""

    ends: tuple[Offset, ...]


@dataclass(frozen=True, slots=True)
class FramesReceived:
    """One `frames` message."""

    length: int


@dataclass(frozen=True, slots=True)
class Committed:
    """On disk: (journal index, end); ``freed`` bytes of messages left memory; ``window`` as of now."""

    ends: tuple[tuple[int, Offset], ...]
    freed: int
    window: int


@dataclass(frozen=True, slots=True)
class Failed:
    """We cannot go on: a bad frame, our disk, a denied certificate, a newer session, our own stop."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is over."""


Event: TypeAlias = (
    Started
    | NodeHelloReceived
    | OlderEnded
    | ReplicasFound
    | ResumeReceived
    | Begun
    | FramesReceived
    | Committed
    | Failed
    | StreamEnded
)

# ---------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class SendHello:
    """Send it."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class EndOlder:
    """Register as the node's session, end the older one, wait until what it sent is on disk, then OlderEnded."""

    node: str


@dataclass(frozen=True, slots=True)
class FindReplicas:
    """Look up the newest incarnation of each, then ReplicasFound."""

    node: str
    journals: tuple[JournalOffer, ...]


@dataclass(frozen=True, slots=True)
class SendWelcome:
    """Send it."""

    welcome: Welcome


@dataclass(frozen=True, slots=True)
class NewIncarnation:
    """One journal begins anew."""

    journal: int
    offer: JournalOffer
    resume: JournalResume


@dataclass(frozen=True, slots=True)
class Begin:
    """Make these incarnations durably (there may be none), then Begun."""

    incarnations: tuple[NewIncarnation, ...]


@dataclass(frozen=True, slots=True)
class Forked:
    """For people: the node's history and the replica's differ from ``common`` on."""

    journal: str
    node_end: Offset
    manager_end: Offset
    common: Offset


@dataclass(frozen=True, slots=True)
class Append:
    """Give the message to the writer."""


@dataclass(frozen=True, slots=True)
class SendAck:
    """Send it."""

    ack: Ack


@dataclass(frozen=True, slots=True)
class SendRefusal:
    """Send it, and write one line."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class End:
    """Close the stream and forget the session; frames that were not committed are not waited for."""


Effect: TypeAlias = (
    SendHello | EndOlder | FindReplicas | SendWelcome | Begin | Forked | Append | SendAck | SendRefusal | End
)
