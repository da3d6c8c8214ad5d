"""The manager's side of one session with one node, pure: events in, effects out.

    state        event               next         effects
    OPENED       Started             GREETED      SendHello
    GREETED      NodeHelloReceived   SUPERSEDING  EndOlder                       | refused: SendRefusal, End
    SUPERSEDING  OlderEnded          LOCATING     FindReplicas
    LOCATING     ReplicasFound       WELCOMED     SendWelcome
    WELCOMED     ResumeReceived      BEGINNING    Forked …, Begin
    BEGINNING    Begun               STREAMING    -
    STREAMING    FramesReceived      STREAMING    Append
    STREAMING    Committed           STREAMING    SendAck
    any open     Failed              ENDED        SendRefusal, End
    any open     StreamEnded         ENDED        End

Invariants: where a replica ends is looked up only after the node's older session ended and
everything it had in flight is on disk; an Ack says nothing that a Committed did not say;
credit never shrinks. A pair that is not in the table raises ``ProtocolError`` and changes
nothing. No clock: whether an older session is alive is a fact that comes with the event.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, ClassVar

from jlogd.forward.messages import (
    FRAMES_MAX,
    PROTOCOL,
    SOURCES,
    Ack,
    Hello,
    JournalAck,
    JournalOffer,
    Kind,
    NodeHello,
    ProtocolError,
    Reason,
    Refusal,
    ReplicaEnd,
    Welcome,
    check_node_hello,
    check_resume,
)
from jlogd.journal.model import Offset
from managerd.ingest.events import (
    Append,
    Begin,
    Begun,
    Committed,
    Effect,
    End,
    EndOlder,
    Event,
    Failed,
    FindReplicas,
    Forked,
    FramesReceived,
    NewIncarnation,
    NodeHelloReceived,
    OlderEnded,
    ReplicasFound,
    ResumeReceived,
    SendAck,
    SendHello,
    SendRefusal,
    SendWelcome,
    Started,
    StreamEnded,
)
from managerd.ingest.identity import duplicate, not_who_it_says


class State(Enum):
    """Where the session stands."""

    OPENED = auto()
    GREETED = auto()
    SUPERSEDING = auto()
    LOCATING = auto()
    WELCOMED = auto()
    BEGINNING = auto()
    STREAMING = auto()
    ENDED = auto()


_OPEN = [state for state in State if state is not State.ENDED]


class ManagerSession:
    """See the module. One owner; ``step`` is not thread-safe."""

    def __init__(self, manager: str, subscriber: str, epoch: int, protocol: int = PROTOCOL) -> None:
        """``epoch``: fencing number of the data directory."""
        self._protocol = protocol
        self.state = State.OPENED
        self.hello: NodeHello | None = None
        self._manager = manager
        self._subscriber = subscriber
        self._epoch = epoch
        self._replicas: tuple[ReplicaEnd, ...] = ()
        self._acked: list[Offset] = []
        self._received = 0  # bytes of frames messages since the session began
        self._freed = 0
        self._granted = 0

    @property
    def node(self) -> str:
        """The node's name, empty before its hello was accepted."""
        return self.hello.node if self.hello else ""

    @property
    def _offers(self) -> tuple[JournalOffer, ...]:
        return self.hello.journals if self.hello else ()

    @property
    def in_flight(self) -> int:
        """Bytes that arrived and are not on disk."""
        return self._received - self._freed

    def step(self, event: Event, now: float) -> list[Effect]:  # noqa: ARG002 - the same shape as every core of ours
        """One event in, effects out, in the order in which they must happen. ProtocolError changes nothing."""
        entry = self._TABLE.get((self.state, type(event)))
        if entry is None:
            raise ProtocolError(f"{type(event).__name__} does not belong into a session that is {self.state.name}")
        return entry(self, event)

    def _started(self, event: Started) -> list[Effect]:  # noqa: ARG002 - one shape for all entries
        self.state = State.GREETED
        return [SendHello(Hello(self._protocol, self._manager, self._subscriber, self._epoch, (SOURCES,)))]

    def _node_hello(self, event: NodeHelloReceived) -> list[Effect]:
        hello = event.hello
        refusal = self._why_not(event)
        if refusal is not None:
            return self._end(refusal)
        self.hello = hello
        self.state = State.SUPERSEDING
        return [EndOlder(hello.node)]

    def _why_not(self, event: NodeHelloReceived) -> Refusal | None:
        hello, peer, other = event.hello, event.peer, event.other
        refusal = not_who_it_says(
            hello, peer, self._manager, self._protocol, "deliver", lambda: check_node_hello(hello)
        )
        if refusal is not None:
            return refusal
        if hello.subscriber != self._subscriber:
            return Refusal(
                Reason.SUBSCRIBER_MISMATCH,
                f"[[manager]] subscriber of node {hello.node} is {hello.subscriber!r}, manager {self._manager} "
                f"consumes as subscriber {self._subscriber!r}: make them equal",
            )
        return duplicate(hello, peer, other, returned=event.returned)

    def _older_ended(self, event: OlderEnded) -> list[Effect]:  # noqa: ARG002 - one shape for all entries
        self.state = State.LOCATING
        return [FindReplicas(self.node, self._offers)]

    def _found(self, event: ReplicasFound) -> list[Effect]:
        self._replicas = event.ends
        self._granted = event.window
        self.state = State.WELCOMED
        return [SendWelcome(Welcome(event.ends, self._granted))]

    def _resume(self, event: ResumeReceived) -> list[Effect]:
        check_resume(event.resumes, self._replicas)
        effects: list[Effect] = []
        new = []
        rows = zip(self._offers, event.resumes, self._replicas, strict=True)
        for index, (offer, resume, end) in enumerate(rows):
            if resume.kind is Kind.FORK:
                effects.append(Forked(offer.journal, offer.end, end.next_offset, resume.first))
            if resume.kind is not Kind.CONTINUE:
                new.append(NewIncarnation(index, offer, resume))
        self.state = State.BEGINNING
        return [*effects, Begin(tuple(new))]

    def _begun(self, event: Begun) -> list[Effect]:
        self._acked = list(event.ends)
        self.state = State.STREAMING
        return []

    def _frames(self, event: FramesReceived) -> list[Effect]:
        if event.length > FRAMES_MAX:
            raise ProtocolError(f"a message of {event.length} bytes of frames, at most {FRAMES_MAX} are allowed")
        if self._received >= self._granted:
            raise ProtocolError(f"{event.length} bytes of frames without credit")
        self._received += event.length
        return [Append()]

    def _committed(self, event: Committed) -> list[Effect]:
        acks = []
        for index, end in event.ends:
            if end > self._acked[index]:
                self._acked[index] = end
                acks.append(JournalAck(index, end))
        self._freed += event.freed
        granted = max(self._granted, self._freed + event.window)
        if not acks and granted == self._granted:
            return []
        self._granted = granted
        return [SendAck(Ack(tuple(acks), granted))]

    def _failed(self, event: Failed) -> list[Effect]:
        return self._end(Refusal(event.reason, event.message))

    def _end(self, refusal: Refusal) -> list[Effect]:
        self.state = State.ENDED
        return [SendRefusal(refusal), End()]

    def _stream_ended(self, event: StreamEnded) -> list[Effect]:  # noqa: ARG002 - one shape for all entries
        self.state = State.ENDED
        return [End()]

    _TABLE: ClassVar[dict[tuple[State, type], Callable[[Any, Any], list[Effect]]]] = {
        **dict.fromkeys([(state, Failed) for state in _OPEN], _failed),
        **dict.fromkeys([(state, StreamEnded) for state in _OPEN], _stream_ended),
        (State.OPENED, Started): _started,
        (State.GREETED, NodeHelloReceived): _node_hello,
        (State.SUPERSEDING, OlderEnded): _older_ended,
        (State.LOCATING, ReplicasFound): _found,
        (State.WELCOMED, ResumeReceived): _resume,
        (State.BEGINNING, Begun): _begun,
        (State.STREAMING, FramesReceived): _frames,
        (State.STREAMING, Committed): _committed,
    }
