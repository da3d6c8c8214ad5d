"""The node's side of an Attach session with one manager, pure: events in, effects out.

    state      event               next       effects
    OPENED     HelloReceived       GREETED    SendHello            | refused: → REFUSING SendHello, Refused
                                                                   | an older epoch: → ENDED Refused
    GREETED    ReportedReceived 0  ATTACHED   Attached
    ATTACHED   TargetReceived      ATTACHED   Told
    ATTACHED   FetchBegun          ATTACHED   SendFetch
    ATTACHED   PackReceived        ATTACHED   Piece …, FetchOver
    ATTACHED   ReportQueued        ATTACHED   -                    (``take_report`` hands it out)
    ATTACHED   ReportedReceived n  ATTACHED   Heard
    any open   RefusalReceived     ENDED      Refused
    any open   StreamEnded         ENDED      -

Invariants: one fetch at a time, and every Pack belongs to it; a manager can only confirm a report
that was sent. Of the reports that wait only the newest for each serial, revision and state is kept.
A pair that is not in the table raises ``ProtocolError`` and changes nothing. No clock:
time-outs belong to the shell.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar, TypeAlias

from jlogd.attach.messages import (
    PACK_BYTES_MAX,
    PROTOCOL,
    AttachHello,
    Fetch,
    Pack,
    Report,
    Reported,
    Target,
    check_fetch,
    check_pack,
    check_target,
    clip,
)
from jlogd.forward.messages import Hello, ProtocolError, Reason, Refusal, check_hello

WAITING_MAX = 16  # reports: a stream that takes none for long loses the oldest ones


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is. ``epoch_seen``: the highest epoch that any session saw of this manager, or 0."""

    node: str
    subcluster: str
    host: str
    machine_id: str
    instance: bytes
    recipient: str
    epoch_seen: int


# ---------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """The manager's first message."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class TargetReceived:
    """What to run."""

    target: Target


@dataclass(frozen=True, slots=True)
class FetchBegun:
    """Somebody here wants objects."""

    fetch: Fetch


@dataclass(frozen=True, slots=True)
class PackReceived:
    """A piece of them."""

    pack: Pack


@dataclass(frozen=True, slots=True)
class ReportQueued:
    """What this node runs; ``number`` was given by ``next_number``."""

    report: Report


@dataclass(frozen=True, slots=True)
class ReportedReceived:
    """The manager has a report; number 0: it accepts us."""

    reported: Reported


@dataclass(frozen=True, slots=True)
class RefusalReceived:
    """The manager says no."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is over, whoever ended it."""


Event: TypeAlias = (
    HelloReceived
    | TargetReceived
    | FetchBegun
    | PackReceived
    | ReportQueued
    | ReportedReceived
    | RefusalReceived
    | StreamEnded
)

# ---------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class SendHello:
    """Send it."""

    hello: AttachHello


@dataclass(frozen=True, slots=True)
class SendFetch:
    """Send it."""

    fetch: Fetch


@dataclass(frozen=True, slots=True)
class Attached:
    """The session is up."""

    manager: str


@dataclass(frozen=True, slots=True)
class Told:
    """What to run."""

    target: Target


@dataclass(frozen=True, slots=True)
class Piece:
    """For whoever fetches."""

    piece: bytes


@dataclass(frozen=True, slots=True)
class FetchOver:
    """The pack is complete, or, with ``error``, there is none."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """The manager has every report up to this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Refused:
    """By one of the two; the session is as good as over."""

    reason: str
    message: str


Effect: TypeAlias = SendHello | SendFetch | Attached | Told | Piece | FetchOver | Heard | Refused


class State(Enum):
    """Where the session stands."""

    OPENED = auto()
    GREETED = auto()
    ATTACHED = auto()
    REFUSING = auto()  # we said no in our AttachHello; the manager's own words may still come
    ENDED = auto()


_OPEN = [state for state in State if state is not State.ENDED]


class NodeAttach:
    """See the module. One owner; nothing here is thread-safe."""

    def __init__(self, identity: Identity) -> None:
        """A stream was opened; nothing was said yet."""
        self.state = State.OPENED
        self.manager = ""
        self._identity = identity
        self._fetch: Fetch | None = None
        self._fetched_bytes = 0
        self._waiting: dict[tuple[int, int, str], Report] = {}  # the oldest first
        self._number = 0  # of the newest report
        self._sent = 0
        self._heard = 0

    def step(self, event: Event, now: float) -> list[Effect]:  # noqa: ARG002 - the same shape as every core of ours
        """One event in, effects out, in the order in which they must happen. ProtocolError changes nothing."""
        entry = self._TABLE.get((self.state, type(event)))
        if entry is None:
            raise ProtocolError(f"{type(event).__name__} does not belong into a session that is {self.state.name}")
        return entry(self, event)

    @property
    def next_number(self) -> int:
        """For the next ReportQueued."""
        return self._number + 1

    @property
    def reports_wait(self) -> bool:
        """Whether ``take_report`` has one."""
        return bool(self._waiting)

    @property
    def all_heard(self) -> bool:
        """Every report has arrived."""
        return not self._waiting and self._heard == self._sent

    def take_report(self) -> Report | None:
        """The oldest report that waits; it is sent now."""
        if not self._waiting:
            return None
        report = self._waiting.pop(next(iter(self._waiting)))
        self._sent = report.number
        return report

    # ------------------------------------------------------------------ the table's entries

    def _hello(self, event: HelloReceived) -> list[Effect]:
        hello, me = event.hello, self._identity
        answer = SendHello(
            AttachHello(PROTOCOL, me.node, me.subcluster, me.host, me.machine_id, me.instance, me.recipient)
        )
        if hello.protocol != PROTOCOL:  # our hello shows the manager what does not fit, so both ends say it
            self.state = State.REFUSING
            message = f"manager speaks attach protocol {hello.protocol}, this node {PROTOCOL}: upgrade the older one"
            return [answer, Refused(Reason.PROTOCOL_VERSION, message)]
        check_hello(hello)
        if hello.epoch < me.epoch_seen:
            self.state = State.ENDED
            message = (
                f"manager {hello.manager} speaks with epoch {hello.epoch}, but epoch {me.epoch_seen} was seen: "
                f"an older copy of its data directory is running"
            )
            return [Refused(Reason.EPOCH_OLD, message)]
        self.manager = hello.manager
        self.state = State.GREETED
        return [answer]

    def _accepted(self, event: ReportedReceived) -> list[Effect]:
        if event.reported.number != 0:
            raise ProtocolError(f"report {event.reported.number} is confirmed before any was sent")
        self.state = State.ATTACHED
        return [Attached(self.manager)]

    def _target(self, event: TargetReceived) -> list[Effect]:
        check_target(event.target)
        return [Told(event.target)]

    def _begin_fetch(self, event: FetchBegun) -> list[Effect]:
        if self._fetch is not None:
            raise ProtocolError(f"a fetch of {event.fetch.want} while one of {self._fetch.want} is under way")
        check_fetch(event.fetch)
        self._fetch, self._fetched_bytes = event.fetch, 0
        return [SendFetch(event.fetch)]

    def _pack(self, event: PackReceived) -> list[Effect]:
        pack = event.pack
        check_pack(pack)
        if self._fetch is None or pack.want != self._fetch.want:
            raise ProtocolError(f"a pack of {pack.want}, which was not asked for")
        if self._fetched_bytes + len(pack.piece) > PACK_BYTES_MAX:
            raise ProtocolError(f"a pack of more than {PACK_BYTES_MAX >> 20} MiB")
        self._fetched_bytes += len(pack.piece)
        effects: list[Effect] = [Piece(pack.piece)] if pack.piece and not pack.error else []
        if pack.last or pack.error:
            self._fetch = None
            effects.append(FetchOver(pack.error))
        return effects

    def _queue(self, event: ReportQueued) -> list[Effect]:
        report = event.report
        if report.number != self.next_number:
            raise ProtocolError(f"report {report.number} is queued as number {self.next_number}")
        self._number = report.number
        key = report.serial, report.revision, report.state
        self._waiting.pop(key, None)
        self._waiting[key] = clip(report)
        if len(self._waiting) > WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]
        return []

    def _reported(self, event: ReportedReceived) -> list[Effect]:
        number = event.reported.number
        if not self._heard < number <= self._sent:
            raise ProtocolError(f"report {number} is confirmed, {self._sent} were sent and {self._heard} confirmed")
        self._heard = number
        return [Heard(number)]

    def _refused(self, event: RefusalReceived) -> list[Effect]:
        self.state = State.ENDED
        return [Refused(event.refusal.reason, event.refusal.message)]

    def _stream_ended(self, event: StreamEnded) -> list[Effect]:  # noqa: ARG002 - one shape for all entries
        self.state = State.ENDED
        return []

    _TABLE: ClassVar[dict[tuple[State, type], Callable[[Any, Any], list[Effect]]]] = {
        **dict.fromkeys([(state, RefusalReceived) for state in _OPEN], _refused),
        **dict.fromkeys([(state, StreamEnded) for state in _OPEN], _stream_ended),
        (State.OPENED, HelloReceived): _hello,
        (State.GREETED, ReportedReceived): _accepted,
        (State.ATTACHED, TargetReceived): _target,
        (State.ATTACHED, FetchBegun): _begin_fetch,
        (State.ATTACHED, PackReceived): _pack,
        (State.ATTACHED, ReportQueued): _queue,
        (State.ATTACHED, ReportedReceived): _reported,
    }
