"""The node's side of one session with one manager, pure: events in, effects out.

    state       event              next        effects
    CONNECTED   HelloReceived      STORING     StoreEpoch                     | refused: → REFUSING SendHello, Refused
    STORING     EpochStored        OFFERED     SendHello
    OFFERED     WelcomeReceived    COMPARING   GivenBack … (for journals that want positions), LookUp
    COMPARING   HistoryFound       COMPARING   LookUp (where a fork or a beginning needs its base)
                                   STREAMING   MoveBack | Advance | Forked …, SendResume, Stream
    STREAMING   FramesSent         STREAMING   -
    STREAMING   AckReceived        STREAMING   Advance …, CreditGrown
    any open    RefusalReceived    ENDED       Refused
    any open    StreamEnded        ENDED       -

Invariants: nothing is told to the manager before its epoch is durable here; a checkpoint
moves on only to what an Ack (or a Welcome whose chain is ours) covers, and only to what
was sent; it moves back before the first frame is sent again. A pair that is not in the
table raises ``ProtocolError`` and changes nothing. No clock: time-outs belong to the shell.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, ClassVar

from jlogd.forward.events import (
    AckReceived,
    Advance,
    CreditGrown,
    Effect,
    EpochStored,
    Event,
    Forked,
    FramesSent,
    GivenBack,
    HelloReceived,
    HistoryFound,
    Identity,
    LocalJournal,
    Located,
    LookUp,
    MoveBack,
    Place,
    RefusalReceived,
    Refused,
    SendHello,
    SendResume,
    StoreEpoch,
    Stream,
    StreamEnded,
    WelcomeReceived,
)
from jlogd.forward.messages import (
    OFFSET_MAX,
    PROTOCOL,
    SOURCES,
    JournalResume,
    Kind,
    NodeHello,
    ProtocolError,
    Reason,
    ReplicaEnd,
    check_hello,
    check_welcome,
    common_prefix,
    last_common_term,
)
from jlogd.journal.model import Offset


class State(Enum):
    """Where the session stands."""

    CONNECTED = auto()
    STORING = auto()
    OFFERED = auto()
    COMPARING = auto()
    STREAMING = auto()
    REFUSING = auto()  # we said no in our NodeHello; the manager's own words may still come
    ENDED = auto()


_OPEN = [state for state in State if state is not State.ENDED]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What will happen to one journal; ``resume`` is None while its base must still be looked up."""

    kind: Kind
    start: Offset
    resume: JournalResume | None


class NodeSession:
    """See the module. One owner; ``step`` is not thread-safe."""

    def __init__(self, identity: Identity) -> None:
        """A stream was opened; nothing was said yet."""
        self.state = State.CONNECTED
        self.manager = ""
        self._identity = identity
        self._gives_back = False  # the manager knows what ``wants_sources`` means
        self._journals: tuple[LocalJournal, ...] = ()
        self._replicas: tuple[ReplicaEnd, ...] = ()
        self._plans: dict[int, _Plan] = {}
        self._sent: list[Offset] = []  # per journal: end of what was sent in this session
        self._acked: list[Offset] = []
        self._sent_bytes = 0
        self._credit = 0

    @property
    def credit_left(self) -> int:
        """Bytes that may be sent; a message may be longer than this as long as it is positive."""
        return self._credit - self._sent_bytes if self.state is State.STREAMING else 0

    @property
    def all_acknowledged(self) -> bool:
        """Nothing is under way."""
        return self._sent == self._acked

    def step(self, event: Event, now: float) -> list[Effect]:  # noqa: ARG002 - the same shape as every core of ours
        """One event in, effects out, in the order in which they must happen. ProtocolError changes nothing."""
        entry = self._TABLE.get((self.state, type(event)))
        if entry is None:
            raise ProtocolError(f"{type(event).__name__} does not belong into a session that is {self.state.name}")
        return entry(self, event)

    def _hello(self, event: HelloReceived) -> list[Effect]:
        hello, me = event.hello, self._identity
        if hello.protocol != PROTOCOL:
            return self._refuse(
                Reason.PROTOCOL_VERSION,
                f"manager speaks session protocol {hello.protocol}, this node {PROTOCOL}: upgrade the older one",
            )
        check_hello(hello)
        self.manager = hello.manager
        if hello.subscriber != me.subscriber:
            return self._refuse(
                Reason.SUBSCRIBER_MISMATCH,
                f"manager {hello.manager} consumes as subscriber {hello.subscriber!r}, [[manager]] subscriber "
                f"of node {me.node} is {me.subscriber!r}: make them equal",
            )
        if hello.epoch < me.epoch_seen:
            self.state = State.REFUSING
            return [
                Refused(
                    Reason.EPOCH_OLD,
                    f"manager {hello.manager} speaks with epoch {hello.epoch}, but epoch {me.epoch_seen} was seen for "
                    f"subscriber {hello.subscriber!r}: an older copy of its data directory is running",
                )
            ]
        self._gives_back = SOURCES in hello.capabilities
        self.state = State.STORING
        return [StoreEpoch(hello.subscriber, hello.epoch)]

    def _refuse(self, reason: str, message: str) -> list[Effect]:
        """Our NodeHello goes out all the same: it shows the manager what does not fit, so both ends say it."""
        self.state = State.REFUSING
        return [SendHello(self._node_hello(())), Refused(reason, message)]

    def _node_hello(self, journals: tuple[LocalJournal, ...]) -> NodeHello:
        me = self._identity
        offers = tuple(journal.offer for journal in journals)
        return NodeHello(PROTOCOL, me.node, me.subcluster, me.subscriber, me.host, me.machine_id, me.instance, offers)

    def _offer(self, event: EpochStored) -> list[Effect]:
        self._journals = event.journals
        self.state = State.OFFERED
        return [SendHello(self._node_hello(event.journals))]

    def _welcome(self, event: WelcomeReceived) -> list[Effect]:
        check_welcome(event.welcome, len(self._journals))
        self._replicas = event.welcome.replicas
        self._credit = event.welcome.credit
        self.state = State.COMPARING
        places = []
        given: list[Effect] = []
        for index, (end, journal) in enumerate(zip(self._replicas, self._journals, strict=True)):
            if journal.offer.wants_sources:
                given.append(GivenBack(index, end.sources if self._gives_back else None))
            nothing = journal.origin if journal.acknowledged else journal.offer.checkpoint
            places.append(Place(index, end.next_offset if end.present else nothing))
        return [*given, LookUp(tuple(places))]

    def _compare(self, event: HistoryFound) -> list[Effect]:
        plans = dict(self._plans)
        effects: list[Effect] = []
        questions = []
        for found in event.located:
            plan = plans.get(found.journal)
            if plan is None:
                plan = _decide(self._replicas[found.journal], found)
                if plan.kind is Kind.FORK:
                    manager_end = self._replicas[found.journal].next_offset
                    effects.append(Forked(found.journal, found.end, manager_end, plan.start))
                    questions.append(Place(found.journal, plan.start))
            else:
                plan = replace(plan, start=found.border, resume=_base(plan.kind, found))
            plans[found.journal] = plan
        self._plans = plans
        if questions:
            return [*effects, LookUp(tuple(questions))]
        return [*effects, *self._resume()]

    def _resume(self) -> list[Effect]:
        effects: list[Effect] = []
        resumes = []
        for index, journal in enumerate(self._journals):
            plan = self._plans[index]
            resumes.append(plan.resume or JournalResume(plan.kind))
            if plan.start < journal.offer.checkpoint:
                effects.append(MoveBack(index, plan.start))
            elif plan.kind is not Kind.BEGIN and plan.start > journal.offer.checkpoint:
                effects.append(Advance(index, plan.start))  # chain or terms prove that it is there
        starts = tuple(self._plans[index].start for index in range(len(self._journals)))
        self._sent = list(starts)
        self._acked = list(starts)
        self.state = State.STREAMING
        return [*effects, SendResume(tuple(resumes)), Stream(starts)]

    def _frames(self, event: FramesSent) -> list[Effect]:
        if self.credit_left <= 0:
            raise ProtocolError(f"{event.length} bytes of frames without credit")
        for index, end in event.ends:
            self._sent[index] = end
        self._sent_bytes += event.length
        return []

    def _ack(self, event: AckReceived) -> list[Effect]:
        for ack in event.ack.journals:
            if ack.journal >= len(self._sent):
                raise ProtocolError(f"Ack for journal index {ack.journal} of {len(self._sent)}")
            if ack.end > self._sent[ack.journal]:
                name = self._journals[ack.journal].offer.journal
                raise ProtocolError(
                    f"{name}: Ack up to {ack.end}, but {self._sent[ack.journal]} is the end of what was sent"
                )
        effects: list[Effect] = []
        for ack in event.ack.journals:
            if ack.end > self._acked[ack.journal]:
                self._acked[ack.journal] = ack.end
                effects.append(Advance(ack.journal, ack.end))
        if event.ack.credit > self._credit:
            self._credit = min(event.ack.credit, OFFSET_MAX)
            effects.append(CreditGrown())
        return effects

    def _refused(self, event: RefusalReceived) -> list[Effect]:
        self.state = State.ENDED
        return [Refused(event.refusal.reason, event.refusal.message)]

    def _refused_too(self, event: RefusalReceived) -> list[Effect]:  # noqa: ARG002 - our own words were said already
        self.state = State.ENDED
        return []

    def _ended(self, event: StreamEnded) -> list[Effect]:  # noqa: ARG002 - one shape for all entries
        self.state = State.ENDED
        return []

    _TABLE: ClassVar[dict[tuple[State, type], Callable[[Any, Any], list[Effect]]]] = {
        **dict.fromkeys([(state, RefusalReceived) for state in _OPEN], _refused),
        **dict.fromkeys([(state, StreamEnded) for state in _OPEN], _ended),
        (State.CONNECTED, HelloReceived): _hello,
        (State.STORING, EpochStored): _offer,
        (State.OFFERED, WelcomeReceived): _welcome,
        (State.COMPARING, HistoryFound): _compare,
        (State.STREAMING, FramesSent): _frames,
        (State.STREAMING, AckReceived): _ack,
        (State.REFUSING, RefusalReceived): _refused_too,
    }


def _decide(end: ReplicaEnd, found: Located) -> _Plan:
    """Continue, begin or fork, from what both sides know. ``found`` is about the replica's end, or our beginning."""
    if not end.present:
        return _Plan(Kind.BEGIN, found.border, _base(Kind.BEGIN, found))
    common = common_prefix(found.terms, found.end, end.terms, end.next_offset)
    if end.next_offset <= found.end:
        known = found.border == end.next_offset and bool(found.chains)
        judged = bool(found.terms and end.terms)
        if (known and end.chain in found.chains) or (not known and (common >= end.next_offset or not judged)):
            return _Plan(Kind.CONTINUE, end.next_offset, JournalResume(Kind.CONTINUE))
        if known and judged and common >= end.next_offset:
            # One term, two contents (a machine cloned while it ran): where they parted inside the term is unknown,
            # so all of the term that we still have goes into the new branch.
            term = last_common_term(found.terms, end.terms)
            common = max(term.first if term else Offset(0), found.first)
    return _Plan(Kind.FORK, min(common, found.end, end.next_offset), None)


def _base(kind: Kind, found: Located) -> JournalResume:
    terms = tuple(term for term in found.terms if term.first < found.border)
    return JournalResume(kind, found.border, found.chains[0] if found.chains else b"", terms)
