"""The configuration of the fleet on one manager: builds its parts, starts and stops them in order.

    store ← targets, replication ← conductor ← attach (nodes), service (people), receiver (other managers)
                         registry (nodes) ← attach, hearing (other managers) → teller (other managers)

One ``Service`` of the manager's server, so everything here lives on that server's loop, but ``status``, which any
thread may ask. Begin goes from left to right, end the other way: what answers calls first.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc

from jlogd.confrepo.model import Commit, Scope
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.metrics import Metrics
from jlogd.runtime.rpc import TlsFiles
from managerd.ecconfigd.attach import AttachService
from managerd.ecconfigd.checks import Checks
from managerd.ecconfigd.conductor import Conductor
from managerd.ecconfigd.hearing import Hearing
from managerd.ecconfigd.nodes import NODES_FILE, Registry
from managerd.ecconfigd.receiving import ReplicaReceiver
from managerd.ecconfigd.replication import Replication
from managerd.ecconfigd.service import ConfigService, Parts
from managerd.ecconfigd.signers import Signers
from managerd.ecconfigd.store import Store
from managerd.ecconfigd.targets import Targets
from managerd.ecconfigd.telling import Teller
from managerd.settings import ConfigSection, ManagerSettings

REPOSITORY: Final = "config.git"


class Ecconfigd:
    """See the module."""

    def __init__(
        self,
        settings: ManagerSettings,
        config: ConfigSection,
        *,
        epoch: int,
        metrics: Metrics | None = None,
        fs: FileSystem = OS,
        clock: Clock = SYSTEM,
    ) -> None:
        """``epoch``: of the data directory's owner. Nothing runs yet. SettingsError."""
        name, data, tls = settings.manager.name, settings.manager.data, _tls(settings)
        self._config = config
        self._name = name
        self._ends: list[Callable[[float], Awaitable[None]]] = []  # of what has begun
        deny = DenyList(tls.deny if tls is not None else None, fs=fs)
        writing = config.writer == name
        checks = Checks(config.checks, user=config.checks_user, timeout_s=config.check_timeout, clock=clock)
        self._registry = Registry(data / NODES_FILE, manager=name, fs=fs, clock=clock)
        self._store = Store(
            data / REPOSITORY,
            manager=name,
            writer=writing,
            replicas_min=config.replicas_min,
            tls=tls,
            checks=checks if config.checks else None,
            nodes=self._scopes,
            fs=fs,
            clock=clock,
        )
        self._targets = Targets(self._store)
        self._store.hold = self._targets.hold
        self._replication = Replication(
            self._store,
            manager=name,
            writer=config.writer,
            peers=[str(peer) for peer in config.peers],
            replicas_min=config.replicas_min,
            tls=tls,
        )
        self._conductor = Conductor(
            self._store, self._registry, self._targets, manager=name, writing=writing, clock=clock
        )
        self._hearing = Hearing(self._registry, manager=name)
        self._teller = Teller(self._registry, manager=name, peers=[str(peer) for peer in config.peers], tls=tls)
        self._receiver = ReplicaReceiver(self._store, self._hearing, manager=name, writer=config.writer, deny=deny)
        self._attach = AttachService(
            self._targets, self._registry, deny, manager=name, epoch=epoch, metrics=metrics, clock=clock
        )
        self._service = ConfigService(
            Parts(
                store=self._store,
                registry=self._registry,
                conductor=self._conductor,
                targets=self._targets,
                replication=self._replication,
                hearing=self._hearing,
                deny=deny,
                manager=name,
                data=data,
                replicas_min=config.replicas_min,
                push_timeout_s=config.push_timeout,
                signer=Signers(tls, fs=fs, clock=clock),
                clock=clock,
            )
        )

    async def begin(self) -> None:
        """Open the repository, then everything that stands on it. What began is ended again when something fails."""
        steps: Sequence[tuple[Callable[[], Awaitable[None]], Callable[[float], Awaitable[None]]]] = (
            (self._store.begin, lambda _: self._store.end()),
            (self._targets.begin, lambda _: self._targets.end()),
            (self._replication.begin, self._replication.end),
            (self._conductor.begin, lambda _: self._conductor.end()),
            (self._attach.begin, self._attach.end),
            (self._teller.begin, self._teller.end),
            (_at_once, self._hearing.end),
            (self._service.begin, self._service.end),
        )
        try:
            for begin, end in steps:
                await begin()
                self._ends.append(end)
        except BaseException:
            await self.end(1.0)
            raise

    def handler(self) -> grpc.GenericRpcHandler:
        """Of the three services."""
        return _Handlers([self._attach.handler(), self._service.handler(), self._receiver.handler()])

    async def end(self, deadline_s: float) -> None:
        """End what began, the last first; each has ``deadline_s``. The first failure is raised when all have ended."""
        failure: Exception | None = None
        while self._ends:
            try:
                await self._ends.pop()(deadline_s)
            except Exception as error:  # noqa: BLE001 - raised below
                failure = failure or error
        if failure is not None:
            raise failure

    def status(self) -> dict[str, Any]:
        """``config`` of ``managerd status --json``. Any thread."""
        nodes = self._registry.snapshot()
        return {
            "writer": self._config.writer,
            "revision": _number(self._store.head()),
            "confirmed": _number(self._store.confirmed()),
            "nodes": len(nodes),
            "attached": sum(node.attached and self._name in node.via for node in nodes),
        }

    def _scopes(self) -> list[Scope]:
        return [Scope(node.subcluster, node.name) for node in self._registry.snapshot()]


class _Handlers(grpc.GenericRpcHandler):
    """Several services as one handler."""

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers = tuple(handlers)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The method's handler, None when it is nobody's."""
        found = (handler.service(handler_call_details) for handler in self._handlers)
        return next((method for method in found if method is not None), None)


async def _at_once() -> None:
    """What needs no beginning."""


def _number(commit: Commit | None) -> int:
    return commit.revision if commit is not None else 0


def _tls(settings: ManagerSettings) -> TlsFiles | None:
    files = settings.tls
    if files.insecure or files.ca is None or files.cert is None or files.key is None:
        return None
    return TlsFiles(files.ca, files.cert, files.key, files.deny)
