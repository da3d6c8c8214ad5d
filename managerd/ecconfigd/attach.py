"""``AttachService``: tells each node what to run, gives it the objects, hears what became of it.

One session a node; the same rules as Deliver (docs/session.md). What a node should run, and may
read, is the ``Targets``' to say; what it runs goes to the ``Registry``, which is written from here.
All methods belong to the loop's thread.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import islice

import grpc

from jlogd.attach.wire import SERVICE, decode_request
from jlogd.forward.messages import Reason
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.metrics import Metrics
from jlogd.runtime.rpc import peer_identity
from jlogd.v1 import attach_pb2 as pb
from managerd.ecconfigd.attach_live import LiveAttach, Parts, Targets
from managerd.ecconfigd.nodes import Registry
from managerd.ecconfigd.pace import Pace
from managerd.ingest.identity import Claims
from managerd.ingest.speaker import Context

__all__ = ["AttachService", "Targets"]

log = logging.getLogger(__name__)

TOLD_AT_ONCE = 50  # nodes whose packs are made together
BUILDS_MAX = 4  # packs being made at once: they are work for the disk and for one core
TURNS_MAX = 64  # large packs being read at once: each holds about 1 MiB, however slowly the node reads
DENY_CHECK_S = 3.0  # how long a certificate that was just denied may still be used
SAVE_S = 2.0  # how much of the registry a crash may take away
SAVE_SHARE = 20  # at least so many times as long as a write took is waited until the next one


class AttachService:
    """A ``Service`` of the manager's server (managerd/ingest/service.py)."""

    def __init__(
        self,
        targets: Targets,
        registry: Registry,
        deny: DenyList,
        *,
        manager: str,
        epoch: int,
        metrics: Metrics | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        """``deny``: for the loop's thread. ``epoch``: of the data directory's owner."""
        self._targets = targets
        self._registry = registry
        self._deny = deny
        self._manager = manager
        self._epoch = epoch
        self._metrics = metrics
        self._clock = clock
        self._claims: Claims[LiveAttach] = Claims()
        self._pace = Pace(clock)
        self._sessions: set[LiveAttach] = set()  # attached or not
        self._chores: list[asyncio.Task[None]] = []
        self._streams: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()  # what nodes should run
        self._unsubscribe: Callable[[], None] = lambda: None

    async def begin(self) -> None:
        """Follow the targets, and begin with what is to be done now and then."""
        self._unsubscribe = self._targets.subscribe(self._moved.set)
        self._chores = [asyncio.create_task(self._tell())]
        self._chores += [asyncio.create_task(self._cut_off()), asyncio.create_task(self._save())]

    def handler(self) -> grpc.GenericRpcHandler:
        """Of jlogd.v1.AttachService."""
        parts = Parts(
            self._manager, self._epoch, self._targets, self._registry, self._claims, self._deny,
            asyncio.Semaphore(BUILDS_MAX), asyncio.Semaphore(TURNS_MAX), self._pace, self._clock, self._metrics,
        )  # fmt: skip

        async def attach(_requests: object, context: Context) -> None:
            await self._attend(LiveAttach(parts, peer_identity(context.auth_context(), context.peer())), context)

        method = grpc.stream_stream_rpc_method_handler(
            attach, request_deserializer=decode_request, response_serializer=pb.AttachResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Attach": method})

    async def end(self, deadline_s: float) -> None:
        """Tell every session, wait for their ends, save the registry."""
        self._unsubscribe()
        for session in list(self._sessions):
            session.fail(Reason.STOPPING, f"manager {self._manager} is stopping")
        if self._streams:
            await asyncio.wait(self._streams, timeout=deadline_s)
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._write()

    async def _attend(self, session: LiveAttach, context: Context) -> None:
        stream = asyncio.current_task()
        assert stream is not None
        self._sessions.add(session)
        self._streams.add(stream)
        try:
            await session.run(context)
        finally:
            self._streams.discard(stream)
            self._sessions.discard(session)
            self._pace.done(session)

    async def _tell(self) -> None:
        """Tell the nodes what to run, a batch at a time; who was told last comes last when it moves again."""
        waiting: dict[LiveAttach, None] = {}
        while True:
            if not waiting:
                await self._moved.wait()
            if self._moved.is_set():
                self._moved.clear()
                waiting |= dict.fromkeys(self._sessions)
            some = list(islice(waiting, TOLD_AT_ONCE))
            for session in some:
                del waiting[session]
            await self._tell_some([session for session in some if session in self._sessions])

    async def _tell_some(self, sessions: Sequence[LiveAttach]) -> None:
        try:
            asks = {session: wants for session in sessions if (wants := session.wants()) is not None}
            gifts = await self._targets.gifts(list(asks.values())) if asks else []
        except Exception:  # they fetch what they need
            log.exception("%s: nodes get no packs beside their targets", self._manager)
            asks, gifts = {}, []
        found = {session: (wants[1], gift) for (session, wants), gift in zip(asks.items(), gifts, strict=True)}
        for session in sessions:
            if session in asks:
                await self._pace.turn(session, len(self._sessions))
            session.retarget(found.get(session))

    # ------------------------------------------------------------------ chores

    async def _cut_off(self) -> None:
        """End live sessions whose certificates were denied."""
        while True:
            await asyncio.sleep(DENY_CHECK_S)
            for session in list(self._sessions):
                if self._deny.denies(session.peer.fingerprint):
                    session.fail(Reason.CERTIFICATE_DENIED, f"the certificate of {session.peer.name} was denied")

    async def _save(self) -> None:
        pause_s = SAVE_S
        while True:
            await asyncio.sleep(pause_s)
            begun_s = self._clock.monotonic_s()
            await self._write()
            pause_s = max(SAVE_S, SAVE_SHARE * (self._clock.monotonic_s() - begun_s))

    async def _write(self) -> None:
        try:
            await asyncio.to_thread(self._registry.save)
        except OSError as error:
            log.warning("%s: what nodes run is not stored, it is tried again: %s", self._manager, error)
