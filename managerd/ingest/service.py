"""The gRPC server of a manager: one loop in one thread, one ``LiveSession`` a stream, and further services.

Stop order: refuse new streams → read nothing more → everything received is committed and
acknowledged → end the streams → end the services, the last first → end the loop, the writer
last. The archive stays open; it is the caller's.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, Self

import grpc
import grpc.aio

from jlogd.forward.messages import Reason
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import UnavailableError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.metrics import IN_FLIGHT_BYTES, NODE_SESSIONS, Metrics
from jlogd.runtime.rpc import (
    TlsFiles,
    decode_request,
    peer_identity,
    require_loopback,
    server_credentials,
    server_options,
)
from jlogd.runtime.worker import OnFailure, Worker
from jlogd.v1 import deliver_pb2 as pb
from managerd.archive import Archive
from managerd.ingest.budget import Budget
from managerd.ingest.live import LiveSession, Parts
from managerd.ingest.registry import Registry
from managerd.ingest.speaker import Context
from managerd.ingest.writer import Writer
from managerd.settings import ManagerSettings

log = logging.getLogger(__name__)

DENY_CHECK_S = 3.0  # how long a certificate that was just denied may still be used
BUDGET_BYTES = 64 << 20
_GRACE_S = 1.0  # of the stop's deadline, kept for the streams' last words


class Service(Protocol):
    """Something else that is served on the same port. All methods are called on the server's loop."""

    async def begin(self) -> None:
        """Before anything is served. What it raises keeps the server from starting."""
        ...

    def handler(self) -> grpc.GenericRpcHandler:
        """Its methods; asked for once, after ``begin``."""
        ...

    async def end(self, deadline_s: float) -> None:
        """No new calls come; end what is under way. Called once for each ``begin`` that returned."""
        ...


class IngestServer:
    """Takes sessions from nodes into an archive. start and stop once; ``nodes`` from any thread."""

    def __init__(
        self,
        archive: Archive,
        on_failure: OnFailure,
        *,
        manager: str,
        subscriber: str,
        epoch: int,
        listen: str,
        tls: TlsFiles | None,
        budget: int = BUDGET_BYTES,
        known: Iterable[str] = (),
        services: Sequence[Service] = (),
        metrics: Metrics | None = None,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> None:
        """``tls`` None: loopback only. ``epoch``: of the data directory's owner. ``known``: nodes the archive has."""
        self.port = 0
        self._archive = archive
        self._manager = manager
        self._subscriber = subscriber
        self._epoch = epoch
        self._listen = listen
        self._tls = tls
        self._budget_bytes = budget
        self._services = tuple(services)
        self._begun: list[Service] = []
        self._metrics = metrics
        self._fs = fs
        self._clock = clock
        self._registry = Registry(clock, known)
        self._writer = Writer(archive, on_failure, metrics=metrics, clock=clock)
        self._worker = Worker("ingest", self._run, on_failure)
        self._started = threading.Event()
        self._refused_start: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_now: asyncio.Event | None = None
        self._stop_s = 0.0

    @classmethod
    def from_settings(
        cls,
        settings: ManagerSettings,
        archive: Archive,
        on_failure: OnFailure,
        *,
        epoch: int,
        known: Iterable[str] = (),
        services: Sequence[Service] = (),
        metrics: Metrics | None = None,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> Self:
        """From a manager's settings."""
        files = settings.tls
        tls = None
        if files.ca is not None and files.cert is not None and files.key is not None and not files.insecure:
            tls = TlsFiles(files.ca, files.cert, files.key, files.deny)
        return cls(
            archive,
            on_failure,
            manager=settings.manager.name,
            subscriber=settings.subscriber,
            epoch=epoch,
            listen=str(settings.manager.listen),
            tls=tls,
            budget=settings.manager.budget,
            known=known,
            services=services,
            metrics=metrics,
            fs=fs,
            clock=clock,
        )

    def start(self) -> None:
        """Serve; returns when the port is open (``port`` tells which). UnavailableError, SettingsError."""
        if self._tls is None:
            require_loopback(self._listen)
        self._writer.start()
        self._worker.start()
        self._started.wait()
        if self._refused_start is not None:
            self._writer.stop(1.0)
            raise self._refused_start

    def stop(self, deadline_s: float) -> bool:
        """See the module; True when everything ended in time. What was received is on disk then."""
        loop, stop_now = self._loop, self._stop_now
        if loop is not None and stop_now is not None:
            self._stop_s = deadline_s
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(stop_now.set)
        ended = self._worker.join(deadline_s)
        return self._writer.stop(_GRACE_S) and ended

    def nodes(self) -> list[dict[str, Any]]:
        """``nodes`` of ``managerd nodes --json``."""
        return self._registry.snapshot()

    # ------------------------------------------------------------------ the loop's thread

    def _run(self, worker: Worker) -> None:
        del worker  # ends by ``stop``
        try:
            asyncio.run(self._serve())
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop_now = asyncio.Event()
        deny = DenyList(self._tls.deny if self._tls else None, fs=self._fs)
        parts = Parts(
            self._manager, self._subscriber, self._epoch, self._archive, self._writer, self._registry,
            Budget(self._budget_bytes), deny, self._clock, self._metrics,
        )  # fmt: skip
        server = grpc.aio.server(options=server_options())
        try:
            for service in self._services:
                await service.begin()
                self._begun.append(service)
            server.add_generic_rpc_handlers((_handler(parts), *(service.handler() for service in self._services)))
            self.port = self._bind(server)
            await server.start()
        except Exception as error:  # noqa: BLE001 - told to whoever called start
            self._refused_start = error
            await self._end_services(_GRACE_S)
            return
        self._started.set()
        watch = asyncio.create_task(self._watch(parts))
        try:
            await self._stop_now.wait()
        finally:
            watch.cancel()
        await self._end(server)

    def _bind(self, server: grpc.aio.Server) -> int:
        try:
            if self._tls is None:
                return server.add_insecure_port(self._listen)
            return server.add_secure_port(self._listen, server_credentials(self._tls, fs=self._fs))
        except RuntimeError as error:
            raise UnavailableError(f"cannot listen on {self._listen}: is another process using the port?") from error

    async def _watch(self, parts: Parts) -> None:
        """Cut off live sessions whose certificates were denied; keep the gauges."""
        while True:
            for session in self._sessions():
                if parts.deny.denies(session.peer.fingerprint):
                    session.fail(Reason.CERTIFICATE_DENIED, f"the certificate of {session.peer.name} was denied")
            if self._metrics is not None:
                self._metrics.set(NODE_SESSIONS, len(self._registry.live()))
                self._metrics.set(IN_FLIGHT_BYTES, parts.budget.used)
            await asyncio.sleep(DENY_CHECK_S)

    def _sessions(self) -> list[LiveSession]:
        return [session for session in self._registry.live() if isinstance(session, LiveSession)]

    async def _end(self, server: grpc.aio.Server) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._stop_s
        stopping = asyncio.create_task(server.stop(max(self._stop_s - _GRACE_S, 0.1)))  # refuses new streams at once
        sessions = self._sessions()
        for session in sessions:
            session.reading = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._stop_s):
                await asyncio.wrap_future(self._writer.call(lambda: None))  # everything before it is on disk
                await asyncio.sleep(0)  # the acknowledgements posted by the writer go out first
        for session in sessions:
            session.fail(Reason.STOPPING, f"manager {self._manager} is stopping")
        await self._end_services(max(until_s - loop.time(), _GRACE_S))
        await stopping

    async def _end_services(self, deadline_s: float) -> None:
        """The last first: it may use those before it. One that fails does not keep the others from ending."""
        while self._begun:
            service = self._begun.pop()
            try:
                await service.end(deadline_s)
            except Exception:
                log.exception("%s did not end well", type(service).__name__)


def _handler(parts: Parts) -> grpc.GenericRpcHandler:
    async def deliver(_requests: object, context: Context) -> None:
        peer = peer_identity(context.auth_context(), context.peer())
        await LiveSession(parts, peer).run(context)

    method = grpc.stream_stream_rpc_method_handler(
        deliver, request_deserializer=decode_request, response_serializer=pb.DeliverResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler("jlogd.v1.DeliverService", {"Deliver": method})
