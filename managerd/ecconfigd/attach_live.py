"""One Attach session of one node on the manager: the pure core in the loop's thread, its reads, its writes, its pack.

Three coroutines: one reads messages, one makes a pack while one is asked for, the ``Speaker``'s writes.
What gathers while the node does not read is bounded: the newest confirmation, one target,
``PIECES_MAX`` pieces. Who needs a large pack waits for one of the turns of all sessions, small ones go out at once.
All methods belong to the loop's thread.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import grpc
import grpc.aio

from jlogd.attach.messages import ERROR_MAX, AttachHello, Fetch, Gift, Pack, Reported, Target
from jlogd.attach.wire import ToNode, request_from_pb, response_to_pb
from jlogd.confrepo.model import CommitId, Scope
from jlogd.forward.messages import ProtocolError, Reason, Refusal
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.clock import Clock
from jlogd.runtime.errors import JlogdError, UnavailableError
from jlogd.runtime.metrics import REFUSALS, Metrics
from jlogd.runtime.names import is_name
from jlogd.runtime.rpc import Malformed, PeerIdentity
from jlogd.v1 import attach_pb2 as pb
from managerd.ecconfigd import attach_session as at
from managerd.ecconfigd.nodes import Registry
from managerd.ecconfigd.pace import Pace
from managerd.ingest.events import Peer
from managerd.ingest.identity import Claims
from managerd.ingest.speaker import HELLO_S, Context, Speaker, close_with

log = logging.getLogger(__name__)

PIECES_MAX = 2  # of a pack in memory, for each session
LATER_S = 1.0  # a confirmation that only a node that stops would wait for
TURN_WAIT_S = 60.0  # how long a node waits for its turn to read a large pack
PACK_S = 300.0  # and how long it may take for a pack in all: it waits no longer itself (attach/bringing.py)


class Targets(Protocol):
    """What nodes should run. All methods belong to the loop's thread."""

    def target(self, node: str, subcluster: str) -> Target | None:
        """What ``node`` should run now; None: nothing yet. Cheap: asked for every node at each change."""
        ...

    def subcluster_of(self, node: str) -> str | None:
        """The one subcluster that has a directory for ``node``; None when none has, or several have."""
        ...

    def may_be_of(self, node: str, subcluster: str) -> bool:
        """Whether ``node`` has a directory in ``subcluster``, or may be there without one."""
        ...

    async def pack(
        self, scope: Scope, want: CommitId, have: Sequence[CommitId]
    ) -> AsyncGenerator[bytes, None] | Sequence[bytes]:
        """A git pack in pieces of at most 1 MiB, at least one. RefusedError when the node may not have it.

        A sequence is small. Anything else is large, and holds nothing before its first piece is asked for.
        """
        ...

    async def gifts(self, asks: Sequence[tuple[Scope, CommitId, CommitId]]) -> list[Gift | None]:
        """For each scope, target and what the node runs: the pack to send beside the target, where it is small."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback``, on the loop, when a target may have changed. Returns what ends that."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What all sessions of a manager share.

    ``builds`` bounds how many packs are being made at once, ``turns`` how many large ones are being read.
    """

    manager: str
    epoch: int
    targets: Targets
    registry: Registry
    claims: "Claims[LiveAttach]"
    deny: DenyList
    builds: asyncio.Semaphore
    turns: asyncio.Semaphore
    pace: Pace
    clock: Clock
    metrics: Metrics | None


class LiveAttach:
    """See the module. Used once, by ``run``."""

    def __init__(self, parts: Parts, peer: PeerIdentity) -> None:
        """``peer``: from the connection."""
        self.peer = peer
        self._parts = parts
        self._core = at.ManagerAttach(parts.manager, parts.epoch)
        self._speaker: Speaker[ToNode] = Speaker(response_to_pb, self._who, self._more)
        self._reported: Reported | None = None  # said when the stream takes it; it covers those before
        self._gift: tuple[CommitId, Gift | None] | None = None  # for that target only
        self._moved = False  # what the node should run may have changed
        self._pieces: deque[Pack] = deque()
        self._room = asyncio.Semaphore(PIECES_MAX)
        self._packing: asyncio.Task[None] | None = None
        self._error: str | None = None
        self._proven = ""  # the node that its certificate says it is, once it says so itself

    async def run(self, context: Context) -> None:
        """Until the session is over."""
        self._step(at.Started())
        reader = asyncio.create_task(self._read(context))
        try:
            if await self._speaker.run(context):
                close_with(context, self._error)
        finally:
            reader.cancel()
            if self._packing is not None:
                self._packing.cancel()
            self._leave()

    def fail(self, reason: str, message: str) -> None:
        """End the session with a refusal; nothing happens when it is over."""
        if self._core.state is not at.State.ENDED:
            self._step(at.Failed(reason, message))

    def retarget(self, gift: tuple[CommitId, Gift | None] | None = None) -> None:
        """What the node should run may have changed: it is looked up when the stream takes it."""
        self._moved, self._gift = True, gift
        self._speaker.wake()

    def wants(self) -> tuple[Scope, CommitId, CommitId] | None:
        """The node, what it should run, what it runs; None when there is nothing to bring, or all of it."""
        hello = self._core.hello
        entry = self._parts.registry.get(hello.node) if hello is not None else None
        if hello is None or entry is None or entry.id is None:
            return None
        target = self._parts.targets.target(hello.node, hello.subcluster)
        if target is None or target.id == entry.id:
            return None
        return Scope(hello.subcluster, hello.node), target.id, entry.id

    # ------------------------------------------------------------------ reading

    async def _read(self, context: Context) -> None:
        try:
            async with asyncio.timeout(HELLO_S):
                request = await context.read()
            while request is not grpc.aio.EOF and not self._speaker.over:
                self._received(request)
                request = await context.read()
        except TimeoutError:
            self.fail(Reason.PROTOCOL, f"{self.peer.address} said nothing for {HELLO_S:g} s")
        except ProtocolError as error:
            self.fail(Reason.PROTOCOL, f"{self._who()}: {error}")
        except JlogdError as error:
            self.fail(Reason.LIMITS, f"{self._who()}: {error}")
        except Exception as error:
            log.exception("%s: the session failed", self._who())
            self.fail("internal", f"{self._who()}: {error}")
        else:
            if self._core.state is not at.State.ENDED:
                self._step(at.StreamEnded())

    def _received(self, request: pb.AttachRequest | Malformed) -> None:
        if isinstance(request, Malformed):
            raise ProtocolError(request.problem)
        message = request_from_pb(request)
        match message:
            case AttachHello():
                self._hello(message)
            case Fetch():
                self._step(at.FetchReceived(message))
            case _:
                self._step(at.ReportReceived(message))

    def _hello(self, hello: AttachHello) -> None:
        parts, denied = self._parts, self._parts.deny.denies(self.peer.fingerprint)
        peer = Peer(self.peer.role, self.peer.name, self.peer.address, denied)
        if peer.role == "node" and peer.name == hello.node and not denied:
            self._proven = hello.node
        other, returned = parts.claims.other(hello)
        home, stranger = None, False
        if is_name(hello.node):
            home = parts.targets.subcluster_of(hello.node)
            stranger = not parts.targets.may_be_of(hello.node, hello.subcluster)
        self._step(at.AttachHelloReceived(hello, peer, other, returned, home, stranger))

    # ------------------------------------------------------------------ effects

    def _step(self, event: at.Event) -> None:
        for effect in self._core.step(event, self._parts.clock.monotonic_s()):
            match effect:
                case at.Send():
                    self._send(effect)
                case at.SendRefusal():
                    self._refuse(effect.refusal)
                case at.EndOlder():
                    self._enter(effect.hello)
                case at.MakePack():
                    self._packing = asyncio.create_task(self._pack(effect))
                case at.Keep():
                    self._parts.pace.done(self)
                    self._parts.registry.report(self._core.node, effect.report)
                case at.End():
                    self._speaker.end()

    def _send(self, effect: at.Send) -> None:
        if isinstance(effect.message, Reported) and effect.message.number:
            earlier, self._reported = self._reported, effect.message
            if not effect.later:
                self._speaker.wake()
            elif earlier is None:  # else it goes with that one
                asyncio.get_running_loop().call_later(LATER_S, self._speaker.wake)
        else:
            self._speaker.say(effect.message)

    def _enter(self, hello: AttachHello) -> None:
        """The registry first: it may have no room."""
        self._parts.registry.attached(hello.node, hello.subcluster, hello.recipient)
        older = self._parts.claims.enter(hello, self.peer.address, self)
        if older is not None and older is not self:
            older.fail(Reason.SUPERSEDED, f"a newer session of node {hello.node} came from {self.peer.address}")
        log.info("node %s (%s): attached, subcluster %s", hello.node, self.peer.address, hello.subcluster)
        self.retarget()

    def _refuse(self, refusal: Refusal) -> None:
        self._error = f"{refusal.reason}: {refusal.message}"
        expected = refusal.reason in (Reason.STOPPING, Reason.SUPERSEDED)
        level = logging.INFO if expected else logging.ERROR
        log.log(level, "%s: attach session ended: %s", self.peer.address, self._error)
        if self._parts.metrics is not None:
            self._parts.metrics.count(REFUSALS, 1, refusal.reason)
        self._speaker.say(refusal)
        if self._proven and not expected:
            self._remember(self._error)

    def _remember(self, why: str) -> None:
        """For people who see it offline; what another machine under its name was told is nothing about it."""
        entry = self._parts.registry.get(self._proven)
        if entry is not None and (self._core.node or not entry.attached):
            self._parts.registry.refused(self._proven, why)

    def _leave(self) -> None:
        if self._core.state is not at.State.ENDED:
            self._step(at.StreamEnded())
        if self._core.node and self._parts.claims.leave(self._core.node, self):
            self._parts.registry.detached(self._core.node)

    def _who(self) -> str:
        name = self._core.node or self.peer.name
        return f"node {name} ({self.peer.address})" if name else self.peer.address

    # ------------------------------------------------------------------ writing, when nothing else is to be said

    def _more(self) -> ToNode | None:
        if self._reported is not None:
            message, self._reported = self._reported, None
            return message
        if self._moved:
            self._moved = False
            self._find_target()
            self._speaker.wake()  # what it said comes before the next piece
            return None
        if self._pieces:
            self._room.release()
            return self._pieces.popleft()
        return None

    def _find_target(self) -> None:
        hello = self._core.hello
        if hello is None or self._core.state is not at.State.ATTACHED:
            return
        gift, self._gift = self._gift, None
        if not self._parts.targets.may_be_of(hello.node, hello.subcluster):  # not any more
            refusal = at.no_member(hello)
            self.fail(refusal.reason, refusal.message)
            return
        try:
            target = self._parts.targets.target(hello.node, hello.subcluster)
            if gift is not None and target is not None and target.id == gift[0]:
                target = replace(target, gift=gift[1])
            self._step(at.TargetFound(target))
        except Exception as error:
            log.exception("%s: its target cannot be told", self._who())
            self.fail("internal", f"{self._who()}: {error}")

    # ------------------------------------------------------------------ the pack

    async def _pack(self, effect: at.MakePack) -> None:
        want = effect.fetch.want
        try:
            async with asyncio.timeout(PACK_S):
                last = await self._all_but_last(effect)
        except TimeoutError:
            last = Pack(want, error=f"not read within {PACK_S:g} s: others need the room")
        except JlogdError as error:
            last = Pack(want, error=str(error)[:ERROR_MAX] or error.reason)
        except Exception:
            log.exception("%s: pack of %s failed", self._who(), want)
            last = Pack(want, error=f"manager {self._parts.manager} failed to make the pack: see its log")
        await self._queue(last)

    async def _all_but_last(self, effect: at.MakePack) -> Pack:
        """Queue the pieces, one behind: the last one says that it is, and is returned."""
        want = effect.fetch.want
        held: Pack | None = None
        async with contextlib.aclosing(self._made(effect)) as pieces:
            async for piece in pieces:
                if held is not None:
                    await self._queue(held)
                held = Pack(want, piece)
        return Pack(want, held.piece if held is not None else b"", last=True)

    async def _queue(self, pack: Pack) -> None:
        await self._room.acquire()
        if self._core.state is not at.State.ATTACHED:
            return
        if pack.last or pack.error:
            self._step(at.PackMade())  # before the node can have it, and ask for the next one
        self._pieces.append(pack)
        self._speaker.wake()

    async def _made(self, effect: at.MakePack) -> AsyncGenerator[bytes, None]:
        """The pieces. A slow node holds no place in ``builds`` while it reads, and a turn only for a large pack."""
        parts = self._parts
        async with parts.builds:
            pieces = await parts.targets.pack(effect.scope, effect.fetch.want, effect.fetch.have)
        if isinstance(pieces, Sequence):
            for piece in pieces:
                yield piece
            return
        async with self._turn(), contextlib.aclosing(pieces):
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    async with parts.builds:
                        piece = await anext(pieces)
                    yield piece

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of those who read large packs. UnavailableError when none of them is done in time."""
        turns = self._parts.turns
        try:
            async with asyncio.timeout(TURN_WAIT_S):
                await turns.acquire()
        except TimeoutError:
            raise UnavailableError(
                f"other nodes read as many large packs as manager {self._parts.manager} gives at the same time, and "
                f"none of them was done within {TURN_WAIT_S:g} s: it is tried again"
            ) from None
        try:
            yield
        finally:
            turns.release()
