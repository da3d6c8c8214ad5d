"""Events and effects of the node's side of a session, as values (see ``jlogd.forward.session``)."""

from dataclasses import dataclass
from typing import TypeAlias

from jlogd.forward.messages import Ack, Hello, JournalOffer, JournalResume, NodeHello, Refusal, SourcePosition, Welcome
from jlogd.journal.model import Offset, Term


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is and what it expects. ``epoch_seen``: the highest epoch stored for this subscriber, or 0."""

    node: str
    subcluster: str
    subscriber: str
    host: str
    machine_id: str
    instance: bytes
    epoch_seen: int


@dataclass(frozen=True, slots=True)
class LocalJournal:
    """One journal as it is when it is offered, with what the subscriber remembers."""

    offer: JournalOffer
    origin: Offset
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Located:
    """Answer to one ``Place``: what the journal knows about an offset.

    ``border``: the newest frame border at or below ``offset`` (``offset`` itself when it is
    below ``first``), never above ``end``. ``chains``: what the chain at ``border`` may be;
    none when the journal cannot tell. ``terms`` of the whole journal.
    """

    journal: int
    offset: Offset
    border: Offset
    first: Offset
    end: Offset
    chains: tuple[bytes, ...]
    terms: tuple[Term, ...]


# ---------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """The manager's first message."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class EpochStored:
    """The epoch is durable; the journals as they are now."""

    journals: tuple[LocalJournal, ...]


@dataclass(frozen=True, slots=True)
class WelcomeReceived:
    """Where the manager's replicas end."""

    welcome: Welcome


@dataclass(frozen=True, slots=True)
class HistoryFound:
    """The answers to the last LookUp, in its order."""

    located: tuple[Located, ...]


@dataclass(frozen=True, slots=True)
class FramesSent:
    """A message of ``length`` bytes is about to be handed to the stream; ``ends``: (journal index, end) in it."""

    length: int
    ends: tuple[tuple[int, Offset], ...]


@dataclass(frozen=True, slots=True)
class AckReceived:
    """The manager has something on its disk."""

    ack: Ack


@dataclass(frozen=True, slots=True)
class RefusalReceived:
    """The manager says no."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is over, whoever ended it."""


Event: TypeAlias = (
    HelloReceived
    | EpochStored
    | WelcomeReceived
    | HistoryFound
    | FramesSent
    | AckReceived
    | RefusalReceived
    | StreamEnded
)

# ---------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class StoreEpoch:
    """Make the epoch durable, then EpochStored."""

    subscriber: str
    epoch: int


@dataclass(frozen=True, slots=True)
class SendHello:
    """Send it."""

    hello: NodeHello


@dataclass(frozen=True, slots=True)
class Place:
    """A question about one journal."""

    journal: int
    offset: Offset


@dataclass(frozen=True, slots=True)
class LookUp:
    """Ask the journals, then HistoryFound."""

    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The manager's answer to a journal that wants positions; None: it is too old to know the question."""

    journal: int
    sources: tuple[SourcePosition, ...] | None


@dataclass(frozen=True, slots=True)
class MoveBack:
    """The manager lost what it had: the checkpoint goes back, durably, before anything is sent."""

    journal: int
    offset: Offset


@dataclass(frozen=True, slots=True)
class Advance:
    """Everything below ``offset`` is durable on the manager."""

    journal: int
    offset: Offset


@dataclass(frozen=True, slots=True)
class Forked:
    """For people: the two histories differ from ``common`` on."""

    journal: int
    node_end: Offset
    manager_end: Offset
    common: Offset


@dataclass(frozen=True, slots=True)
class SendResume:
    """Send it."""

    resumes: tuple[JournalResume, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """Send frames from these offsets on, one for each journal, within credit."""

    starts: tuple[Offset, ...]


@dataclass(frozen=True, slots=True)
class CreditGrown:
    """More may be sent now."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One line for people; the session is over."""

    reason: str
    message: str


Effect: TypeAlias = (
    StoreEpoch
    | SendHello
    | GivenBack
    | LookUp
    | MoveBack
    | Advance
    | Forked
    | SendResume
    | Stream
    | CreditGrown
    | Refused
)
