"""Both ends of Attach without a repository: targets that a test sets, a listener that keeps what it hears."""

import asyncio
import queue
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from jlogd.attach.attacher import Attacher
from jlogd.attach.messages import Gift, Report, State, Talk, Target
from jlogd.confrepo.model import CommitId, Revision, Scope, Serial
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd.attach import AttachService
from managerd.ecconfigd.nodes import NODES_FILE, NodeEntry, Registry
from tests.support.certificates import files
from tests.support.sessions import DEADLINE_S, Bench, Manager


def commit(number: int) -> CommitId:
    """An id, the same for the same number."""
    return CommitId(f"{number:040x}")


def target(revision: int, **more: Any) -> Target:
    """A target whose commit and serial are its revision."""
    return Target(Revision(revision), commit(revision), Serial(revision), commit(1), **more)


def report(revision: int, state: State = "applied", **more: Any) -> Report:
    """A node runs ``revision``, in that state."""
    return Report(
        state, Revision(revision), commit(revision), Revision(revision), commit(revision), Serial(revision), **more
    )


class SetTargets:
    """``Targets``: one target for all, packs by commit. Set things on the loop only, or before it runs."""

    def __init__(self, at_first: Target | None = None) -> None:
        """``packs``: pieces of a commit, or an error."""
        self.now = at_first
        self.gift: Gift | None = None
        self.packs: dict[CommitId, list[bytes] | Exception] = {}
        self.large: set[CommitId] = set()  # packs that are made while they are sent
        self.stuck = False
        self.homes: dict[str, str] = {}
        self.loop: asyncio.AbstractEventLoop | None = None  # of whoever subscribed
        self.asked: list[tuple[Scope, CommitId, tuple[CommitId, ...]]] = []
        self._callbacks: list[Callable[[], None]] = []

    def target(self, node: str, subcluster: str) -> Target | None:
        """The same for all."""
        return self.now

    def subcluster_of(self, node: str) -> str | None:
        """As set."""
        return self.homes.get(node)

    def may_be_of(self, node: str, subcluster: str) -> bool:
        """Anybody of any."""
        return True

    async def pack(
        self, scope: Scope, want: CommitId, have: Sequence[CommitId]
    ) -> AsyncGenerator[bytes, None] | Sequence[bytes]:
        """As set."""
        self.asked.append((scope, want, tuple(have)))
        if self.stuck:
            await asyncio.Event().wait()
        found = self.packs.get(want, RefusedError(f"{want} is not for node {scope.node}"))
        if isinstance(found, Exception):
            raise found
        return _lazily(found) if want in self.large else found

    async def gifts(self, asks: Sequence[tuple[Scope, CommitId, CommitId]]) -> list[Gift | None]:
        """As set, for everybody."""
        return [self.gift for _ in asks]

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Called by ``set``."""
        self.loop = asyncio.get_running_loop()
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def set(self, now: Target | None) -> None:
        """Everybody is told."""
        self.now = now
        for callback in self._callbacks:
            callback()

    @property
    def followed(self) -> bool:
        """Whether anybody is subscribed."""
        return bool(self._callbacks)


async def _lazily(pieces: list[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


class Heard:
    """``Listener``: what it was told, in order."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def attached(self, manager: str, talk: Talk) -> None:
        """See ``Listener``."""
        self.events.put(("attached", talk))

    def detached(self, manager: str) -> None:
        """See ``Listener``."""
        self.events.put(("detached", manager))

    def target(self, manager: str, target: Target) -> None:
        """See ``Listener``."""
        self.events.put(("target", target))

    def reported(self, manager: str, number: int) -> None:
        """See ``Listener``."""
        self.events.put(("reported", number))

    def next(self, what: str) -> Any:
        """The next event, which must be ``what``."""
        kind, value = self.events.get(timeout=DEADLINE_S)
        assert kind == what, (kind, value)
        return value


class AttachManager:
    """A manager that serves AttachService beside Deliver."""

    def __init__(self, bench: Bench, name: str = "m1", **more: Any) -> None:
        """Serve; ``targets`` are empty."""
        self.targets = SetTargets()
        data = bench.directory / name
        data.mkdir(exist_ok=True)
        self.path = data / NODES_FILE
        self.registry = Registry(self.path, manager=name)
        self.entries: queue.SimpleQueue[NodeEntry] = queue.SimpleQueue()
        self.registry.subscribe(self.entries.put)
        deny = DenyList(bench.pki / "deny")
        self.service = AttachService(self.targets, self.registry, deny, manager=name, epoch=more.get("epoch", 1))
        self.manager: Manager = bench.manager(name, services=(self.service,), **more)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.manager.address

    def tell(self, now: Target | None) -> None:
        """A new target for everybody, from outside of the loop."""
        assert self.targets.loop is not None
        self.targets.loop.call_soon_threadsafe(self.targets.set, now)

    def entry(self, wanted: Callable[[NodeEntry], bool]) -> NodeEntry:
        """The next change that fits."""
        while not wanted(entry := self.entries.get(timeout=DEADLINE_S)):
            pass
        return entry


def attacher(bench: Bench, address: str, listener: Heard, name: str = "a", **more: Any) -> Attacher:
    """An attacher of a node, started; the caller stops it."""
    if not (bench.pki / f"{name}.crt").exists():
        bench.issue("node", name)
    options: dict[str, Any] = {
        "node": name,
        "epochs": Path(bench.directory / f"epochs-{name}.json"),
        "tls": files(bench.pki, name),
        **more,
    }
    made = Attacher(address, "m1", listener, bench.failures.append, **options)
    made.start()
    return made
