"""One session with one manager: the pure core with its three threads.

* the caller of ``run`` keeps checkpoints (at most ten times a second) and watches for the end;
* gRPC's own thread asks ``_requests`` for the next message and builds batches;
* a receiver takes what the manager says and carries out the core's effects.

One lock (``_changed``) guards the core, the outbox and the flags; nothing blocks under it.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import grpc

from jlogd.forward import events as ev
from jlogd.forward.batch import Batcher
from jlogd.forward.dialer import LOST, Outcome
from jlogd.forward.epochs import EpochStore
from jlogd.forward.history import Source, locate, offer
from jlogd.forward.messages import Ack, Hello, ProtocolError, Reason, Refusal, Welcome
from jlogd.forward.session import NodeSession, State
from jlogd.forward.wire import ToNode, request_to_pb, response_from_pb
from jlogd.journal import Offset
from jlogd.runtime.clock import Clock
from jlogd.runtime.errors import JlogdError, StorageError
from jlogd.runtime.rpc import DELIVER_METHOD, Frames, encode_request
from jlogd.v1 import deliver_pb2 as pb

log = logging.getLogger(__name__)

CHECKPOINT_S = 0.1  # a checkpoint is one small sync; more often than this buys nothing
HANDSHAKE_S = 30.0  # a manager may have to drain our older session first
REFUSAL_S = 3.0  # how long our last words may take to reach the manager
WATCH_S = 1.0  # the sender looks at its call this often even when nobody wakes it, else gRPC's thread could leak


class Link:
    """See the module. Used once."""

    def __init__(
        self,
        identity: ev.Identity,
        sources: Sequence[Source],
        epochs: EpochStore,
        clock: Clock,
        on_streaming: Callable[[str], None],
    ) -> None:
        """``on_streaming`` gets the manager's name when the first frame may be sent."""
        self._sources = sources
        self._epochs = epochs
        self._clock = clock
        self._on_streaming = on_streaming
        self._changed = threading.Condition()  # guards everything below
        self._core = NodeSession(identity)
        self._outbox: deque[pb.DeliverRequest] = deque()
        self._batcher: Batcher | None = None
        self._acked: dict[int, Offset] = {}
        self._over = False
        self._draining = False
        self._deadline_s = clock.monotonic_s() + HANDSHAKE_S
        self._progress = False
        self.sent_bytes = 0  # of frames messages
        self._verdict: tuple[str, str] | None = None

    def run(self, channel: grpc.Channel) -> Outcome:
        """Until the session is over; closes ``channel``. Checkpoints are stored on return."""
        deliver = channel.stream_stream(
            DELIVER_METHOD, request_serializer=encode_request, response_deserializer=pb.DeliverResponse.FromString
        )
        call = deliver(self._requests())
        call.add_callback(self._end)
        receiver = threading.Thread(target=self._receive, args=(call,), name="receiver", daemon=True)
        receiver.start()
        for source in self._sources:
            source.journal.listeners.append(self._wake)
        try:
            self._keep()
        finally:
            for source in self._sources:
                source.journal.listeners.remove(self._wake)
            self._end()
            call.cancel()
            channel.close()
            receiver.join()
            self._store_checkpoints()
        reason, message = self._verdict or (LOST, "the manager ended the session")
        return Outcome(reason, message, bool(self._core.manager), self._progress)

    def drain(self, deadline_s: float) -> None:
        """Send nothing more and end when everything under way is acknowledged, at the latest after ``deadline_s``."""
        with self._changed:
            self._draining = True
            self._deadline_s = self._clock.monotonic_s() + deadline_s
            self._changed.notify_all()

    def end(self, reason: str, message: str) -> None:
        """End now; what is not acknowledged is sent again in the next session. The first reason given counts."""
        with self._changed:
            self._verdict = self._verdict or (reason, message)
        self._end()

    # ------------------------------------------------------------------ the caller's thread

    def _keep(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._draining or bool(self._acked), self._watch_s())
            self._store_checkpoints()
            with self._changed:
                if self._over or self._past_deadline():
                    return
                if self._draining and (self._core.state is not State.STREAMING or self._core.all_acknowledged):
                    return
                self._changed.wait_for(lambda: self._over, CHECKPOINT_S if not self._draining else 0.01)

    def _watch_s(self) -> float:
        return WATCH_S if self._core.state is State.STREAMING else 0.2

    def _past_deadline(self) -> bool:
        if self._core.state is State.STREAMING and not self._draining:
            return False
        if self._clock.monotonic_s() < self._deadline_s:
            return False
        self._verdict = self._verdict or (LOST, "the manager did not answer in time")
        return True

    def _store_checkpoints(self) -> None:
        with self._changed:
            acked, self._acked = self._acked, {}
        for index, end in acked.items():
            try:
                self._sources[index].subscriber.advance(end)
            except StorageError as error:
                log.error("%s", error)  # noqa: TRY400 - one line; it is tried again
                with self._changed:
                    self._acked.setdefault(index, end)

    # ------------------------------------------------------------------ gRPC's thread: sending

    def _requests(self) -> Iterator[pb.DeliverRequest | Frames]:
        try:
            while (request := self._next_request()) is not None:
                yield request
        except JlogdError as error:
            self.end(error.reason, str(error))
        except Exception as error:
            log.exception("sending failed")
            self.end("internal", f"sending failed: {error}")
        finally:
            if self._batcher is not None:
                self._batcher.close()

    def _next_request(self) -> pb.DeliverRequest | Frames | None:
        while True:
            with self._changed:
                while not self._over and not self._outbox and not self._may_send():
                    self._changed.wait(WATCH_S)
                if self._over:
                    return None
                if self._outbox:
                    return self._outbox.popleft()
                batcher = self._batcher
            batch = batcher.build() if batcher is not None else None
            if batch is None:
                continue
            with self._changed:
                event = ev.FramesSent(batch.length, tuple(batch.ends.items()))
                self._core.step(event, self._clock.monotonic_s())
                self.sent_bytes += batch.length
            return Frames(batch.buffers, batch.length)

    def _may_send(self) -> bool:
        return self._batcher is not None and not self._draining and self._core.credit_left > 0 and self._batcher.ready()

    # ------------------------------------------------------------------ the receiver's thread

    def _receive(self, call: Iterator[pb.DeliverResponse]) -> None:
        try:
            for response in call:
                self._perform(self._step(_event_of(response_from_pb(response))))
        except grpc.RpcError as error:
            with self._changed:
                details = getattr(error, "details", None)
                said = str(details()) if callable(details) else str(error)
                self._verdict = self._verdict or (LOST, said)
        except JlogdError as error:
            self.end(error.reason, str(error))
        except Exception as error:
            log.exception("receiving failed")
            self.end("internal", f"receiving failed: {error}")
        finally:
            self._end()

    def _step(self, event: ev.Event) -> list[ev.Effect]:
        with self._changed:
            effects = self._core.step(event, self._clock.monotonic_s())
            self._changed.notify_all()
            return effects

    def _perform(self, effects: list[ev.Effect]) -> None:
        """All but CreditGrown, which needs nothing: the step itself woke the sender."""
        for effect in effects:
            match effect:
                case ev.Advance():
                    with self._changed:
                        self._acked[effect.journal] = effect.offset
                        self._progress = True
                        self._changed.notify_all()
                case ev.SendHello():
                    self._send(request_to_pb(effect.hello))
                case ev.SendResume():
                    self._send(request_to_pb(effect.resumes))
                case ev.StoreEpoch():
                    self._epochs.store(effect.subscriber, effect.epoch)
                    self._perform(self._step(ev.EpochStored(tuple(offer(source) for source in self._sources))))
                case ev.GivenBack():
                    self._given_back(effect)
                case ev.LookUp():
                    count = len(self._sources)
                    found = tuple(locate(self._sources[place.journal], place, count) for place in effect.places)
                    self._perform(self._step(ev.HistoryFound(found)))
                case ev.MoveBack():
                    self._move_back(effect)
                case ev.Forked():
                    self._report_fork(effect)
                case ev.Stream():
                    self._stream(effect)
                case ev.Refused():
                    self._refused(effect)

    def _send(self, request: pb.DeliverRequest) -> None:
        with self._changed:
            self._outbox.append(request)
            self._changed.notify_all()

    def _given_back(self, effect: ev.GivenBack) -> None:
        source = self._sources[effect.journal]
        if source.awaited is not None:
            source.awaited.answer(source.subscriber.name, self._core.manager, effect.sources)

    def _move_back(self, effect: ev.MoveBack) -> None:
        source = self._sources[effect.journal]
        log.warning(
            "manager %s needs journal %s again from offset %d on (checkpoint was %d)",
            self._core.manager, source.name, effect.offset, source.subscriber.checkpoint,
        )  # fmt: skip
        source.subscriber.rewind(effect.offset)

    def _report_fork(self, effect: ev.Forked) -> None:
        log.warning(
            "journal %s has forked from manager %s: common up to offset %d, this node ends at %d, the replica at %d; "
            "the manager keeps both branches",
            self._sources[effect.journal].name, self._core.manager, effect.common, effect.node_end, effect.manager_end,
        )  # fmt: skip

    def _stream(self, effect: ev.Stream) -> None:
        batcher = Batcher(self._sources, effect.starts)
        with self._changed:
            self._batcher = batcher
            self._changed.notify_all()
        self._on_streaming(self._core.manager)

    def _refused(self, effect: ev.Refused) -> None:
        with self._changed:
            self._verdict = self._verdict or (effect.reason, effect.message)
            self._deadline_s = self._clock.monotonic_s() + REFUSAL_S
        if effect.reason == Reason.EPOCH_OLD or self._core.state is State.ENDED:
            self._end()

    # ------------------------------------------------------------------ any thread

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()


def _event_of(message: ToNode) -> ev.Event:
    match message:
        case Ack():
            return ev.AckReceived(message)
        case Hello():
            return ev.HelloReceived(message)
        case Welcome():
            return ev.WelcomeReceived(message)
        case Refusal():
            return ev.RefusalReceived(message)
    raise ProtocolError(f"{type(message).__name__} is not for a node")
