"""One session of one node: the pure core in the loop's thread, its reads, its writes.

Two coroutines: one reads messages (and waits for room in the budget before each), the other, the
``Speaker``'s, writes what the core wants to say and returns when the session is over. The writer's callbacks
come through ``call_soon_threadsafe``. All methods belong to the loop's thread.
"""

import asyncio
import logging
from dataclasses import dataclass

import grpc
import grpc.aio

from jlogd.forward.messages import NodeHello, ProtocolError, Reason, Refusal
from jlogd.forward.wire import ToNode, request_from_pb, response_to_pb
from jlogd.journal import Offset
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.clock import Clock
from jlogd.runtime.errors import JlogdError
from jlogd.runtime.metrics import FORKS, REFUSALS, Metrics
from jlogd.runtime.rpc import Malformed, PeerIdentity, Request
from managerd.archive import Archive, Replica
from managerd.ingest import events as ev
from managerd.ingest import replicas
from managerd.ingest.budget import Budget
from managerd.ingest.registry import Registry
from managerd.ingest.session import ManagerSession, State
from managerd.ingest.speaker import HELLO_S, Context, Speaker, close_with
from managerd.ingest.writer import Feed, Writer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What all sessions of a manager share."""

    manager: str
    subscriber: str
    epoch: int
    archive: Archive
    writer: Writer
    registry: Registry
    budget: Budget
    deny: DenyList
    clock: Clock
    metrics: Metrics | None


class LiveSession:
    """See the module. Used once, by ``run``."""

    def __init__(self, parts: Parts, peer: PeerIdentity) -> None:
        """``peer``: from the connection."""
        self.peer = peer
        self.reading = True
        self._parts = parts
        self._core = ManagerSession(parts.manager, parts.subscriber, parts.epoch)
        self._loop = asyncio.get_running_loop()
        self._speaker: Speaker[ToNode] = Speaker(response_to_pb, self._who)
        self._replicas: list[Replica | None] = []
        self._feed: Feed | None = None
        self._in_budget = 0
        self._error: str | None = None

    async def run(self, context: Context) -> None:
        """Until the session is over."""
        self._step(ev.Started())
        reader = asyncio.create_task(self._read(context))
        try:
            if await self._speaker.run(context):
                close_with(context, self._error)
        finally:
            reader.cancel()
            self._leave()

    def fail(self, reason: str, message: str) -> None:
        """End the session with a refusal; nothing happens when it is over."""
        if self._core.state is not State.ENDED:
            self._step(ev.Failed(reason, message))

    # ------------------------------------------------------------------ reading

    async def _read(self, context: Context) -> None:
        try:
            while self.reading and not self._speaker.over:
                await self._parts.budget.room(idle=self._core.in_flight == 0)
                limit_s = None if self._core.state is State.STREAMING else HELLO_S
                request = await asyncio.wait_for(context.read(), limit_s)
                if request is grpc.aio.EOF:
                    break
                await self._received(request)
        except TimeoutError:
            self.fail(Reason.PROTOCOL, f"{self.peer.address} said nothing for {HELLO_S:g} s")
            return
        except ProtocolError as error:
            self.fail(Reason.PROTOCOL, f"{self._who()}: {error}")
            return
        except JlogdError as error:
            self.fail(Reason.STORAGE, f"{self._who()}: {error}")
            return
        except Exception as error:
            log.exception("%s: the session failed", self._who())
            self.fail("internal", f"{self._who()}: {error}")
            return
        if self.reading and self._core.state is not State.ENDED:
            self._step(ev.StreamEnded())

    async def _received(self, request: Request) -> None:
        if isinstance(request, memoryview):
            self._step(ev.FramesReceived(len(request)))
            if self._feed is not None:
                self._in_budget += len(request)
                self._parts.budget.take(len(request))
                self._parts.writer.append(self._feed, request)
            return
        if isinstance(request, Malformed):
            raise ProtocolError(request.problem)
        message = request_from_pb(request)
        if isinstance(message, NodeHello):
            await self._hello(message)
        else:
            await self._perform(self._step(ev.ResumeReceived(message)))

    async def _hello(self, hello: NodeHello) -> None:
        peer = ev.Peer(
            self.peer.role, self.peer.name, self.peer.address, self._parts.deny.denies(self.peer.fingerprint)
        )
        other, returned = self._parts.registry.other(hello)
        await self._perform(self._step(ev.NodeHelloReceived(hello, peer, other, returned)))

    # ------------------------------------------------------------------ effects

    def _step(self, event: ev.Event) -> list[ev.Effect]:
        """What can be done at once is done here; the rest is returned, for ``_perform``."""
        later: list[ev.Effect] = []
        for effect in self._core.step(event, self._parts.clock.monotonic_s()):
            match effect:
                case ev.SendHello():
                    self._speaker.say(effect.hello)
                case ev.SendWelcome():
                    self._speaker.say(effect.welcome)
                case ev.SendAck():
                    self._speaker.say(effect.ack)
                case ev.SendRefusal():
                    self._refuse(effect.refusal)
                case ev.End():
                    self._speaker.end()
                case ev.Forked():
                    self._report_fork(effect)
                case ev.Append():
                    pass  # the caller has the message
                case _:
                    later.append(effect)
        return later

    async def _perform(self, effects: list[ev.Effect]) -> None:
        for effect in effects:
            match effect:
                case ev.EndOlder():
                    self._enter()
                    await self._perform(self._step(ev.OlderEnded()))
                case ev.FindReplicas():
                    await self._find(effect)
                case ev.Begin():
                    await self._begin(effect)

    async def _find(self, effect: ev.FindReplicas) -> None:
        parts = self._parts
        found = parts.writer.call(lambda: replicas.find(parts.archive, effect.node, effect.journals))
        ends, self._replicas = await asyncio.wrap_future(found)
        if any(offer.wants_sources for offer in effect.journals):  # reads files only: beside the writer's thread
            ends = await asyncio.to_thread(replicas.give_back, parts.archive.data, effect.node, effect.journals, ends)
        if not self._speaker.over:
            self._step(ev.ReplicasFound(ends, parts.budget.window()))

    async def _begin(self, effect: ev.Begin) -> None:
        parts, node = self._parts, self._core.node
        begun = parts.writer.call(lambda: replicas.begin(parts.archive, node, effect.incarnations, self._replicas))
        ready, ends = await asyncio.wrap_future(begun)
        if self._speaker.over:
            return
        self._step(ev.Begun(ends))
        self._feed = Feed(node, ready, self._on_committed, self._on_failed)
        parts.budget.sessions += 1
        self._note_progress(tuple(enumerate(ends)))
        log.info("node %s (%s): delivering %d journals", node, self.peer.address, len(ready))

    def _enter(self) -> None:
        hello = self._core.hello
        if hello is None:
            return
        older = self._parts.registry.enter(hello, self.peer.address, self)
        if older is not None and older is not self:
            # What it sent and we took stands in the writer's queue before anything that we ask for.
            older.fail(Reason.SUPERSEDED, f"a newer session of node {hello.node} came from {self.peer.address}")

    def _report_fork(self, effect: ev.Forked) -> None:
        log.warning(
            "node %s, journal %s: its history differs from the replica's from offset %d on (it ends at %d, the replica "
            "at %d): the replica is kept as it is, a new incarnation begins",
            self._core.node, effect.journal, effect.common, effect.node_end, effect.manager_end,
        )  # fmt: skip
        if self._parts.metrics is not None:
            self._parts.metrics.count(FORKS, 1)

    def _refuse(self, refusal: Refusal) -> None:
        self._error = f"{refusal.reason}: {refusal.message}"
        level = logging.INFO if refusal.reason in (Reason.STOPPING, Reason.SUPERSEDED) else logging.ERROR
        log.log(level, "%s: session ended: %s", self.peer.address, self._error)
        if self.peer.name and not self._core.node:
            self._parts.registry.refused(self.peer.name, self._error)
        if self._parts.metrics is not None:
            self._parts.metrics.count(REFUSALS, 1, refusal.reason)
        self._speaker.say(refusal)

    # ------------------------------------------------------------------ the writer's callbacks (its thread)

    def _on_committed(self, ends: tuple[tuple[int, Offset], ...], freed: int) -> None:
        self._loop.call_soon_threadsafe(self._committed, ends, freed)

    def _on_failed(self, reason: str, message: str) -> None:
        self._loop.call_soon_threadsafe(self.fail, reason, message)

    def _committed(self, ends: tuple[tuple[int, Offset], ...], freed: int) -> None:
        self._in_budget -= freed
        self._parts.budget.free(freed)
        self._note_progress(ends)
        if self._core.state is State.STREAMING:
            self._step(ev.Committed(ends, freed, self._parts.budget.window()))

    def _note_progress(self, ends: tuple[tuple[int, Offset], ...]) -> None:
        hello = self._core.hello
        if hello is not None:
            named = [(hello.journals[index].journal, end) for index, end in ends]
            self._parts.registry.progress(hello.node, self, named)

    def _leave(self) -> None:
        if self._core.state is not State.ENDED:
            self._step(ev.StreamEnded())
        if self._feed is not None:
            self._parts.budget.sessions -= 1
        if self._core.node:
            self._parts.registry.leave(self._core.node, self, self._error)

    def _who(self) -> str:
        name = self._core.node or self.peer.name
        return f"node {name} ({self.peer.address})" if name else self.peer.address
