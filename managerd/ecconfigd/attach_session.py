"""The manager's side of an Attach session with one node, pure: events in, effects out.

    state       event                next        effects
    OPENED      Started              GREETED     SendHello
    GREETED     AttachHelloReceived  ATTACHED    EndOlder, Send(Reported 0)   | refused: SendRefusal, End
    ATTACHED    TargetFound          ATTACHED    Send(Target), unless it was said last
    ATTACHED    FetchReceived        ATTACHED    MakePack
    ATTACHED    PackMade             ATTACHED    -                            (its last piece is on its way)
    ATTACHED    ReportReceived       ATTACHED    Keep, Send(Reported)
    any open    Failed               ENDED       SendRefusal, End
    any open    StreamEnded          ENDED       End

Invariants: a target is never said twice in a row; one pack at a time; numbers of reports
grow. A pair that is not in the table raises ``ProtocolError`` and changes nothing. No clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar, TypeAlias

from jlogd.attach.messages import (
    PROTOCOL,
    AttachHello,
    Fetch,
    Report,
    Reported,
    Target,
    check_attach_hello,
    check_fetch,
    check_report,
)
from jlogd.confrepo.model import ACCESS_FILE, DEFAULT, RESERVED, Scope
from jlogd.forward.messages import Hello, ProtocolError, Reason, Refusal
from managerd.ingest.events import Other, Peer
from managerd.ingest.identity import duplicate, not_who_it_says

# ---------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Started:
    """A stream was opened to us."""


@dataclass(frozen=True, slots=True)
class AttachHelloReceived:
    """The node's answer, with what is known about it here.

    ``home``: the one subcluster that has a directory for it, None where the repository does not say.
    ``stranger``: it has no directory in the one that it names, and may not be there without.
    ``returned``: ``other`` threw this instance out before.
    """

    hello: AttachHello
    peer: Peer
    other: Other | None = None
    returned: bool = False
    home: str | None = None
    stranger: bool = False


@dataclass(frozen=True, slots=True)
class TargetFound:
    """What the node should run, as of now; None: nothing yet."""

    target: Target | None


@dataclass(frozen=True, slots=True)
class FetchReceived:
    """The node wants objects."""

    fetch: Fetch


@dataclass(frozen=True, slots=True)
class PackMade:
    """The fetch is answered."""


@dataclass(frozen=True, slots=True)
class ReportReceived:
    """What the node runs."""

    report: Report


@dataclass(frozen=True, slots=True)
class Failed:
    """Something outside ends the session."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is over."""


Event: TypeAlias = (
    Started | AttachHelloReceived | TargetFound | FetchReceived | PackMade | ReportReceived | Failed | StreamEnded
)

# ---------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Send:
    """Say it. ``later``: nobody waits for it, it may go with what is said next."""

    message: Hello | Target | Reported
    later: bool = False


@dataclass(frozen=True, slots=True)
class SendRefusal:
    """Say no, and write a line."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class EndOlder:
    """This session is the node's now: end an older one, enter the node in the registry."""

    hello: AttachHello


@dataclass(frozen=True, slots=True)
class MakePack:
    """Send the pack, then PackMade."""

    scope: Scope
    fetch: Fetch


@dataclass(frozen=True, slots=True)
class Keep:
    """Give it to the registry."""

    report: Report


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more is said."""


Effect: TypeAlias = Send | SendRefusal | EndOlder | MakePack | Keep | End


class State(Enum):
    """Where the session stands."""

    OPENED = auto()
    GREETED = auto()
    ATTACHED = auto()
    ENDED = auto()


_OPEN = [state for state in State if state is not State.ENDED]


class ManagerAttach:
    """See the module. One owner; ``step`` is not thread-safe."""

    def __init__(self, manager: str, epoch: int, protocol: int = PROTOCOL) -> None:
        """``epoch``: fencing number of the data directory."""
        self.state = State.OPENED
        self.hello: AttachHello | None = None
        self._manager = manager
        self._epoch = epoch
        self._protocol = protocol
        self._told: Target | None = None
        self._fetch: Fetch | None = None
        self._reported = 0

    @property
    def node(self) -> str:
        """The node's name, empty before its hello was accepted."""
        return self.hello.node if self.hello else ""

    def step(self, event: Event, now: float) -> list[Effect]:  # noqa: ARG002 - the same shape as every core of ours
        """One event in, effects out, in the order in which they must happen. ProtocolError changes nothing."""
        entry = self._TABLE.get((self.state, type(event)))
        if entry is None:
            raise ProtocolError(f"{type(event).__name__} does not belong into a session that is {self.state.name}")
        return entry(self, event)

    def _started(self, event: Started) -> list[Effect]:  # noqa: ARG002 - one shape for all entries
        self.state = State.GREETED
        return [Send(Hello(self._protocol, self._manager, self._manager, self._epoch))]

    def _attach(self, event: AttachHelloReceived) -> list[Effect]:
        refusal = self._why_not(event)
        if refusal is not None:
            return self._end(refusal)
        self.hello = event.hello
        self.state = State.ATTACHED
        return [EndOlder(event.hello), Send(Reported(0))]

    def _why_not(self, event: AttachHelloReceived) -> Refusal | None:
        hello, peer = event.hello, event.peer
        refusal = not_who_it_says(
            hello, peer, self._manager, self._protocol, "attach", lambda: check_attach_hello(hello)
        )
        return refusal or _foreign(event) or duplicate(hello, peer, event.other, returned=event.returned)

    def _target(self, event: TargetFound) -> list[Effect]:
        if event.target is None or event.target == self._told:
            return []
        self._told = event.target
        return [Send(event.target)]

    def _begin_fetch(self, event: FetchReceived) -> list[Effect]:
        check_fetch(event.fetch)
        if self._fetch is not None:
            raise ProtocolError(f"a fetch of {event.fetch.want} while one of {self._fetch.want} is under way")
        self._fetch = event.fetch
        hello = self.hello
        return [MakePack(Scope(hello.subcluster, hello.node), event.fetch)] if hello is not None else []

    def _pack_made(self, event: PackMade) -> list[Effect]:  # noqa: ARG002 - one shape for all entries
        self._fetch = None
        return []

    def _report(self, event: ReportReceived) -> list[Effect]:
        report = event.report
        check_report(report)
        if report.number <= self._reported:
            raise ProtocolError(f"report {report.number} after {self._reported}: they count up")
        self._reported = report.number
        return [Keep(report), Send(Reported(report.number), later=report.state == "applied")]

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
        (State.GREETED, AttachHelloReceived): _attach,
        (State.ATTACHED, TargetFound): _target,
        (State.ATTACHED, FetchReceived): _begin_fetch,
        (State.ATTACHED, PackMade): _pack_made,
        (State.ATTACHED, ReportReceived): _report,
    }


def _foreign(event: AttachHelloReceived) -> Refusal | None:
    """The directories of other nodes and of nobody in particular are not the node's to claim."""
    hello = event.hello
    if hello.subcluster in RESERVED or hello.node == DEFAULT:
        return Refusal(
            Reason.NAME_MISMATCH,
            f"node {hello.node} of subcluster {hello.subcluster}: {', '.join(sorted(RESERVED))} cannot be subclusters, "
            f"and {DEFAULT} cannot be a node: choose another name",
        )
    if event.home is not None and event.home != hello.subcluster:
        return Refusal(
            Reason.NAME_MISMATCH,
            f"node {hello.node} says that it belongs to subcluster {hello.subcluster}, the repository has it in "
            f"{event.home}: set [node] subcluster, or move {event.home}/{hello.node}",
        )
    return no_member(hello) if event.stranger else None


def no_member(hello: AttachHello) -> Refusal:
    """It names a subcluster that is not for everybody."""
    node, subcluster = hello.node, hello.subcluster
    return Refusal(
        Reason.NAME_MISMATCH,
        f"node {node} may not be of subcluster {subcluster}: it has no directory {subcluster}/{node}, and [members] of "
        f"{ACCESS_FILE} does not list it there: commit one of the two, or set [node] subcluster",
    )
