"""One Attach session with one manager: the pure core with its threads.

* the caller of ``run`` watches for the end;
* gRPC's own thread asks ``_requests`` for the next message;
* a receiver takes what the manager says, carries out the core's effects and calls the listener;
* whoever fetches takes pieces from a queue of ``PIECES_MAX``; while it is full nothing more is received.

One lock guards the core, the queues and the flags; nothing blocks under it, the listener is called
outside of it. Who waits has a condition of his own: a message wakes the one thread that it is for.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import grpc

from jlogd.attach import session as at
from jlogd.attach.messages import (
    HAVE_MAX,
    Fetch,
    Listener,
    Pack,
    Report,
    Reported,
    Target,
)
from jlogd.attach.wire import ATTACH_METHOD, ToNode, request_to_pb, response_from_pb
from jlogd.confrepo.model import CommitId
from jlogd.forward.dialer import LOST, Outcome
from jlogd.forward.messages import Hello, ProtocolError, Reason, Refusal
from jlogd.runtime.clock import Clock
from jlogd.runtime.errors import DeadlineError, JlogdError, RefusedError, UnavailableError
from jlogd.v1 import attach_pb2 as pb

log = logging.getLogger(__name__)

HANDSHAKE_S = 30.0  # a manager may have to end our older session first
REFUSAL_S = 3.0  # how long our last words may take to reach the manager
WATCH_S = 1.0  # waiting threads look around this often even when nobody wakes them
PIECES_MAX = 8  # of a pack in memory: 8 MiB


@dataclass(slots=True)
class _Reading:
    """A fetch, from the side of whoever reads it."""

    pieces: deque[bytes] = field(default_factory=deque)
    over: at.FetchOver | None = None  # the manager has said everything
    given_up: bool = False  # nobody reads any more: what still comes is dropped


class Link:
    """See the module. Used once. It is the ``Talk`` of the listener."""

    def __init__(
        self,
        identity: at.Identity,
        address: str,
        listener: Listener,
        clock: Clock,
        on_attached: Callable[[str], None],
    ) -> None:
        """``on_attached`` gets the manager's own name, before the listener hears of it; ``address`` names it there."""
        self._address = address
        self._listener = listener
        self._clock = clock
        self._on_attached = on_attached
        self._lock = threading.RLock()  # guards everything below; those who end a session hold it already
        self._ending = threading.Condition(self._lock)  # the dialer's thread waits for the end
        self._sending = threading.Condition(self._lock)  # gRPC's for something to send
        self._fetching = threading.Condition(self._lock)  # who fetches and the receiver, for each other
        self._core = at.NodeAttach(identity)
        self._patient: tuple[Report, float] | None = None  # not queued yet, and until when
        self._outbox: deque[pb.AttachRequest] = deque()  # a hello, and one fetch
        self._reading: _Reading | None = None
        self._over = False
        self._draining = False
        self._attached = False
        self._deadline_s = clock.monotonic_s() + HANDSHAKE_S
        self._verdict: tuple[str, str] | None = None

    # ------------------------------------------------------------------ the dialer's thread

    def run(self, channel: grpc.Channel) -> Outcome:
        """Until the session is over; closes ``channel``."""
        attach = channel.stream_stream(
            ATTACH_METHOD,
            request_serializer=pb.AttachRequest.SerializeToString,
            response_deserializer=pb.AttachResponse.FromString,
        )
        call = attach(self._requests())
        call.add_callback(self._end)
        receiver = threading.Thread(target=self._receive, args=(call,), name="attach-receiver", daemon=True)
        receiver.start()
        try:
            self._watch()
        finally:
            self._end()
            call.cancel()
            channel.close()
            receiver.join()
            if self._attached:
                self._listener.detached(self._address)
        reason, message = self._verdict or (LOST, "the manager ended the session")
        return Outcome(reason, message, bool(self._core.manager), self._attached)

    def drain(self, deadline_s: float) -> None:
        """End when every report has arrived, at the latest after ``deadline_s``."""
        with self._lock:
            self._draining = True
            self._deadline_s = self._clock.monotonic_s() + deadline_s
            self._wake()

    def end(self, reason: str, message: str) -> None:
        """End now. The first reason given counts."""
        with self._lock:
            self._verdict = self._verdict or (reason, message)
        self._end()

    def _watch(self) -> None:
        with self._lock:
            while not self._over:
                attached = self._core.state is at.State.ATTACHED
                if self._draining and (not attached or (self._patient is None and self._core.all_heard)):
                    return
                limited = self._draining or not attached
                left_s = self._deadline_s - self._clock.monotonic_s() if limited else WATCH_S
                if left_s <= 0:
                    self._verdict = self._verdict or (LOST, "the manager did not answer in time")
                    return
                self._ending.wait(min(left_s, WATCH_S))

    def _end(self) -> None:
        with self._lock:
            self._over = True
            self._wake()

    def _wake(self) -> None:
        """Under the lock: everybody."""
        for condition in (self._ending, self._sending, self._fetching):
            condition.notify_all()

    # ------------------------------------------------------------------ Talk: any thread

    def report(self, report: Report, *, patience_s: float = 0.0) -> int:
        """See ``Talk``."""
        with self._lock:
            if self._over or self._core.state is not at.State.ATTACHED:
                return 0
            self._patient = None
            if patience_s > 0:  # nobody is woken: the sender looks around by itself
                self._patient = report, self._clock.monotonic_s() + patience_s
                return 0
            return self._queue(report)

    def _queue(self, report: Report) -> int:
        """Under the lock."""
        number = self._core.next_number
        self._core.step(at.ReportQueued(replace(report, number=number)), self._clock.monotonic_s())
        self._sending.notify()
        return number

    def fetch(self, want: CommitId, have: Sequence[CommitId], timeout_s: float) -> Iterator[bytes]:
        """See ``Talk``."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        return self._fetch(Fetch(want, tuple(have[:HAVE_MAX])), deadline_s)

    def _fetch(self, fetch: Fetch, deadline_s: float) -> Iterator[bytes]:
        with self._lock:
            self._await(lambda: self._reading is None, fetch, deadline_s)
            if self._over or self._core.state is not at.State.ATTACHED:
                raise self._unavailable(fetch)
            self._perform_soon(self._core.step(at.FetchBegun(fetch), self._clock.monotonic_s()))
            reading = self._reading = _Reading()
        try:
            while (piece := self._next_piece(reading, fetch, deadline_s)) is not None:
                yield piece
        finally:
            with self._lock:
                reading.given_up = True
                reading.pieces.clear()
                if reading.over is not None:
                    self._reading = None
                self._fetching.notify_all()

    def _next_piece(self, reading: _Reading, fetch: Fetch, deadline_s: float) -> bytes | None:
        with self._lock:
            try:
                self._await(lambda: bool(reading.pieces or reading.over), fetch, deadline_s)
            except DeadlineError as error:
                # The manager may be stuck for good: only a new session is sure to bring what comes next.
                self.end(LOST, str(error))
                raise
            if reading.pieces:
                if len(reading.pieces) >= PIECES_MAX:
                    self._fetching.notify_all()
                return reading.pieces.popleft()
            if reading.over is not None and reading.over.error:
                raise RefusedError(f"manager {self._core.manager}: {reading.over.error}")
            return None

    def _await(self, what: Callable[[], bool], fetch: Fetch, deadline_s: float) -> None:
        """Under the lock. UnavailableError, DeadlineError."""
        while not what():
            if self._over:
                raise self._unavailable(fetch)
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                raise DeadlineError(f"{self._address}: {fetch.want} was not fetched in time")
            self._fetching.wait(min(left_s, WATCH_S))

    def _unavailable(self, fetch: Fetch) -> UnavailableError:
        reason = ": ".join(self._verdict) if self._verdict else "the session is over"
        return UnavailableError(f"{self._address}: {fetch.want} was not fetched: {reason}")

    # ------------------------------------------------------------------ gRPC's thread: sending

    def _requests(self) -> Iterator[pb.AttachRequest]:
        try:
            while (request := self._next_request()) is not None:
                yield request
        except Exception as error:
            log.exception("sending failed")
            self.end("internal", f"sending failed: {error}")

    def _next_request(self) -> pb.AttachRequest | None:
        with self._lock:
            while not self._over:
                if self._outbox:
                    return self._outbox.popleft()
                pause_s = self._look_at_patient()
                report = self._core.take_report()
                if report is not None:
                    return request_to_pb(report)
                self._sending.wait(pause_s)
            return None

    def _look_at_patient(self) -> float:
        """Under the lock: queue the report that waits, if its time has come; how long until then."""
        if self._patient is None:
            return WATCH_S
        report, due_s = self._patient
        left_s = due_s - self._clock.monotonic_s()
        if left_s > 0 and not self._draining:
            return min(left_s, WATCH_S)
        self._patient = None
        self._queue(report)
        return WATCH_S

    # ------------------------------------------------------------------ the receiver's thread

    def _receive(self, call: Iterator[pb.AttachResponse]) -> None:
        try:
            for response in call:
                event = _event_of(response_from_pb(response))
                with self._lock:
                    effects = self._core.step(event, self._clock.monotonic_s())
                    if self._draining:
                        self._ending.notify()
                for effect in effects:
                    self._perform(effect, alone=len(effects) == 1)
        except grpc.RpcError as error:
            with self._lock:
                self._verdict = self._verdict or _verdict_of(error)
        except JlogdError as error:
            self.end(error.reason, str(error))
        except Exception as error:
            log.exception("receiving failed")
            self.end("internal", f"receiving failed: {error}")
        finally:
            self._end()

    def _perform_soon(self, effects: list[at.Effect]) -> None:
        """Under the lock: what only puts something into a queue."""
        for effect in effects:
            match effect:
                case at.SendHello():
                    self._outbox.append(request_to_pb(effect.hello))
                case at.SendFetch():
                    self._outbox.append(request_to_pb(effect.fetch))
        self._sending.notify()

    def _perform(self, effect: at.Effect, *, alone: bool) -> None:
        match effect:
            case at.SendHello() | at.SendFetch():
                with self._lock:
                    self._perform_soon([effect])
            case at.Attached():
                self._on_attached(effect.manager)
                self._attached = True
                self._listener.attached(self._address, self)
            case at.Told():
                self._listener.target(self._address, effect.target)
            case at.Heard():
                self._listener.reported(self._address, effect.number)
            case at.Piece():
                self._deliver(effect.piece, tell=alone)
            case at.FetchOver():
                self._fetch_over(effect)
            case at.Refused():
                self._refused(effect)

    def _deliver(self, piece: bytes, *, tell: bool) -> None:
        """``tell``: not when FetchOver follows at once."""
        with self._lock:
            reading = self._reading
            while reading is not None and not reading.given_up and not self._over:
                if len(reading.pieces) < PIECES_MAX:
                    reading.pieces.append(piece)
                    if tell:
                        self._fetching.notify_all()
                    return
                self._fetching.wait(WATCH_S)

    def _fetch_over(self, effect: at.FetchOver) -> None:
        with self._lock:
            if self._reading is not None:
                self._reading.over = effect
                if self._reading.given_up:
                    self._reading = None
            self._fetching.notify_all()

    def _refused(self, effect: at.Refused) -> None:
        with self._lock:
            self._verdict = self._verdict or (effect.reason, effect.message)
            self._deadline_s = self._clock.monotonic_s() + REFUSAL_S
            if self._core.state is at.State.ENDED:
                self._end()


def _event_of(message: ToNode) -> at.Event:
    match message:
        case Pack():
            return at.PackReceived(message)
        case Reported():
            return at.ReportedReceived(message)
        case Target():
            return at.TargetReceived(message)
        case Hello():
            return at.HelloReceived(message)
        case Refusal():
            return at.RefusalReceived(message)
    raise ProtocolError(f"{type(message).__name__} is not for a node")


def _verdict_of(error: grpc.RpcError) -> tuple[str, str]:
    """Why a stream broke. A manager that does not know the call is news for a person: nothing will come of waiting."""
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    if callable(code) and code() is grpc.StatusCode.UNIMPLEMENTED:
        return Reason.PROTOCOL_VERSION, "it keeps no configuration: its managerd.toml has no [config], or it is older"
    return LOST, str(details()) if callable(details) else str(error)
