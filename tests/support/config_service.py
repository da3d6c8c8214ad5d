"""A whole ConfigService in the test's loop: a real store on a directory, real parts around it, a client."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc.aio

from jlogd.attach.messages import Report
from jlogd.confrepo.model import Commit, CommitId, File, Revision, Scope, Serial
from jlogd.confrepo.repository import MAIN, Repository
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import JlogdError
from jlogd.runtime.rpc import TlsFiles, call_error
from managerd.ecconfigd.conductor import Conductor
from managerd.ecconfigd.hearing import Hearing
from managerd.ecconfigd.nodes import NODES_FILE, Registry
from managerd.ecconfigd.receiving import ReplicaReceiver
from managerd.ecconfigd.replication import Replication
from managerd.ecconfigd.service import ConfigService, Parts
from managerd.ecconfigd.signers import Signers
from managerd.ecconfigd.store import Store
from managerd.ecconfigd.targets import Targets
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc
from tests.support.serving import DEADLINE_S, channel, served

T = TypeVar("T")
Texts = Mapping[str, str | bytes | File | None]  # path → content; None: deleted


@dataclass(frozen=True, slots=True)
class Served:
    """One that runs. ``tls``: of the manager; without, everybody is operator:local."""

    parts: Parts
    service: ConfigService
    address: str
    stub: Any

    @contextlib.asynccontextmanager
    async def as_(self, files: TlsFiles) -> AsyncIterator[Any]:
        """A client with another certificate."""
        async with channel(self.address, files) as opened:
            yield pb_grpc.ConfigServiceStub(opened)

    async def settled(self, revision: int) -> None:
        """Wait until nodes are told of ``revision``."""
        moved = asyncio.Event()
        unsubscribe = self.parts.targets.subscribe(moved.set)
        while (picture := self.parts.targets.picture) is None or picture.confirmed.revision < revision:
            await moved.wait()
            moved.clear()
        unsubscribe()

    async def commit(self, texts: Texts, message: str = "", author: str = "operator:alice", time_s: int = 0) -> Commit:
        """One revision, by the shortest way: no merge, no validation, no rights."""
        return await self.parts.store.write(lambda repository: commit(repository, texts, message, author, time_s))


def commit(
    repository: Repository, texts: Texts, message: str = "", author: str = "operator:alice", time_s: int = 0
) -> Commit:
    """One revision straight into the repository."""
    head = repository.head()
    changes = {path: _file(text) for path, text in texts.items()}
    time_s = time_s or (1_700_000_000 + (head.revision if head else 0))
    draft = repository.draft(head, changes, author=author, message=message or "A change", time_s=time_s)
    commit_id, sealed = repository.seal(draft.content)
    repository.store.add([*draft.objects, sealed])
    repository.advance({MAIN: (draft.parent, commit_id)})
    return repository.commit(commit_id)


def _file(text: str | bytes | File | None) -> File | None:
    if text is None or isinstance(text, File):
        return text
    return File(text.encode() if isinstance(text, str) else text)


def report(running: int, state: str = "applied", *, commit_id: str = "0" * 40, error: str = "", **more: Any) -> Report:
    """What a node says that runs ``running``."""
    fields = {
        "state": state,
        "revision": Revision(running),
        "id": CommitId(commit_id),
        "running": Revision(running),
        "running_id": CommitId(commit_id),
        "serial": Serial(running),
        "error": error,
        "drift": (),
        "drift_count": 0,
        "since_ns": 1_700_000_000_000_000_000,
    }
    return Report(**fields | more)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def serving(
    home: Path, *, tls: TlsFiles | None = None, who: TlsFiles | None = None, manager: str = "m1", writer: str = "m1",
    peers: tuple[str, ...] = (), replicas_min: int = 1, push_timeout_s: float = 0.2, clock: Clock = SYSTEM,
) -> AsyncIterator[Served]:  # fmt: skip
    """A manager's service on loopback; ``stub`` calls it with ``who``'s certificate."""
    is_writer = manager == writer
    registry = Registry(home / NODES_FILE, manager=manager, clock=clock)
    store = Store(
        home / "config.git", manager=manager, writer=is_writer, replicas_min=replicas_min, tls=tls,
        nodes=lambda: [Scope(node.subcluster, node.name) for node in registry.snapshot()],
    )  # fmt: skip
    targets = Targets(store)
    store.hold = targets.hold
    replication = Replication(store, manager=manager, writer=writer, peers=peers, replicas_min=replicas_min, tls=tls)
    conductor = Conductor(store, registry, targets, manager=manager, writing=is_writer, clock=clock)
    deny = DenyList(tls.deny if tls is not None else None)
    hearing = Hearing(registry, manager=manager)
    parts = Parts(
        store=store, registry=registry, conductor=conductor, targets=targets, replication=replication,
        hearing=hearing, deny=deny,
        manager=manager, data=home, replicas_min=replicas_min, push_timeout_s=push_timeout_s,
        signer=Signers(tls, clock=clock), clock=clock,
    )  # fmt: skip
    service = ConfigService(parts)
    async with contextlib.AsyncExitStack() as stack:
        await store.begin()
        stack.push_async_callback(store.end)
        await targets.begin()
        stack.push_async_callback(targets.end)
        await replication.begin()
        stack.push_async_callback(replication.end, 1.0)
        await conductor.begin()
        stack.push_async_callback(conductor.end)
        await service.begin()
        others = ReplicaReceiver(store, hearing, manager=manager, writer=writer, deny=deny)
        address = await stack.enter_async_context(served(service.handler(), others.handler(), tls=tls))
        stack.push_async_callback(service.end, 1.0)
        opened = await stack.enter_async_context(channel(address, who))
        yield Served(parts, service, address, pb_grpc.ConfigServiceStub(opened))


class Hosted:
    """``serving`` on a loop in a thread of its own, for callers that block, as commands do."""

    def __init__(self, home: Path, **options: Any) -> None:
        """``options``: of ``serving``."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hosted")
        self._stack = contextlib.AsyncExitStack()
        self._serving = serving(home, **options)

    def __enter__(self) -> Self:
        """Serve."""
        self._thread.start()
        self.served = self.do(self._stack.enter_async_context(self._serving))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self.do(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it there; its answer."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_S)

    def commit(self, texts: Texts, message: str = "", **more: Any) -> Commit:
        """See ``Served.commit``."""
        return self.do(self.served.commit(texts, message, **more))

    def watched(self) -> None:
        """Wait until somebody watches."""

        async def look() -> None:
            while not self.served.service.watchers:  # noqa: ASYNC110 - the service has no other use for an event
                await asyncio.sleep(0.01)

        self.do(look())

    def told(self, revision: int) -> None:
        """Wait until watchers were told of a revision."""

        async def look() -> None:
            while self.served.service.told < revision:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)

        self.do(look())

    def node(self, name: str, said: Report | None = None, *, subcluster: str = "web") -> None:
        """That node attaches, and says so."""

        async def change() -> None:
            registry = self.served.parts.registry
            if (entry := registry.get(name)) is None or not entry.attached:
                registry.attached(name, subcluster)
            if said is not None:
                registry.report(name, said)

        self.do(change())


# ---------------------------------------------------------------------- what a client sees


async def error_of(call: Any) -> JlogdError:
    """The error that a call ends with, whether it streams or not."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return call_error(error, "m1")
    raise AssertionError("the call did not fail")


async def tree(stub: Any, **request: Any) -> tuple[pb.Revision, dict[str, tuple[int, bytes]]]:
    """A tree's revision and files: path → mode, content."""
    call = stub.Tree(pb.TreeRequest(**request))
    revision, files, at = pb.Revision(), {}, ""
    async for answer in call:
        kind = answer.WhichOneof("message")
        if kind == "revision":
            revision = answer.revision
        elif kind == "entry":
            at, size = answer.entry.path, answer.entry.size
            files[at] = (answer.entry.mode, b"")
            assert size == 0 or request.get("names_only") is None
        else:
            files[at] = (files[at][0], files[at][1] + answer.piece)
    return revision, files
