"""Tells watchers what happens: revisions that are confirmed, nodes that report, rollouts that go on.

One queue a watcher, bounded: who reads too slowly is told so and ended, and may ask for the present state again. What a
watcher may not read is left out of what he is told. All on the loop.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from jlogd.confrepo.model import Commit, Revision
from jlogd.confrepo.repository import Repository
from jlogd.runtime.clock import Clock
from jlogd.runtime.errors import JlogdError, UnavailableError
from managerd.ecconfigd.calls import Caller
from managerd.v1 import config_pb2 as pb

if TYPE_CHECKING:
    from managerd.ecconfigd.conductor import Conductor
    from managerd.ecconfigd.nodes import NodeEntry, Registry
    from managerd.ecconfigd.rollout import Status
    from managerd.ecconfigd.store import Store

log = logging.getLogger(__name__)

QUEUE_MAX: Final = 20_000  # events: three thousand nodes that take a revision make six thousand
WATCHERS_MAX: Final = 200
CATCH_UP_MAX: Final = 1000  # revisions told one by one when many are confirmed at once; of more, the newest


class Watcher:
    """One caller's queue."""

    def __init__(self, caller: Caller) -> None:
        """Empty."""
        self.caller = caller
        self._events: deque[pb.WatchResponse] = deque()
        self._news = asyncio.Event()
        self._over = ""

    def put(self, event: pb.WatchResponse) -> None:
        """One more event; a full queue ends the watcher."""
        if len(self._events) >= QUEUE_MAX:
            self._events.clear()  # who has not read these will not read them in time
            self.stop(f"{QUEUE_MAX} events wait to be read: watch again")
        if not self._over:
            self._events.append(event)
            self._news.set()

    def stop(self, why: str) -> None:
        """Nothing more comes after what is there."""
        self._over = why
        self._news.set()

    async def next(self) -> pb.WatchResponse:
        """The next event. UnavailableError once it was stopped."""
        while not self._events:
            if self._over:
                raise UnavailableError(self._over)
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()


class Watching:
    """See the module. begin and end once."""

    def __init__(
        self,
        store: "Store",
        registry: "Registry",
        conductor: "Conductor",
        *,
        show_revision: Callable[[Revision, Sequence[Caller], Repository], list[pb.Revision]],
        show_node: "Callable[[Caller, NodeEntry], pb.Node | None]",
        show_rollout: "Callable[[Caller, Status], pb.RolloutState | None]",
        clock: Clock,
    ) -> None:
        """``show_*``: what a caller may see of it, None for nothing; ``show_revision`` runs in a reader thread."""
        self._store = store
        self._registry = registry
        self._conductor = conductor
        self._show_revision = show_revision
        self._show_node = show_node
        self._show_rollout = show_rollout
        self._clock = clock
        self.told = Revision(0)  # the newest revision that watchers know of
        self._watchers: list[Watcher] = []
        self._unsubscribe: list[Callable[[], None]] = []
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Listen from now on."""
        self._store.on_change.append(self._moved.set)
        self._unsubscribe = [self._registry.subscribe(self._node), self._conductor.subscribe(self._rollout)]
        self.told = _revision(self._store.confirmed())
        self._task = asyncio.create_task(self._follow())

    async def end(self) -> None:
        """End every watcher."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        with contextlib.suppress(ValueError):
            self._store.on_change.remove(self._moved.set)
        self._stop_all("this manager is stopping: watch again")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextlib.contextmanager
    def watcher(self, caller: Caller) -> Iterator[Watcher]:
        """A queue that fills from now on. UnavailableError when there are too many."""
        if len(self._watchers) >= WATCHERS_MAX:
            raise UnavailableError(f"{WATCHERS_MAX} others watch already: try again later")
        watcher = Watcher(caller)
        self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)

    @property
    def watchers(self) -> int:
        """How many there are."""
        return len(self._watchers)

    # ------------------------------------------------------------------ what happens

    def _node(self, entry: "NodeEntry") -> None:
        for watcher in self._watchers:
            node = self._show_node(watcher.caller, entry)
            if node is not None:
                watcher.put(pb.WatchResponse(node=node, time_ns=self._clock.wall_ns()))

    def _rollout(self, status: "Status") -> None:
        for watcher in self._watchers:
            state = self._show_rollout(watcher.caller, status)
            if state is not None:
                watcher.put(pb.WatchResponse(rollout=state, time_ns=self._clock.wall_ns()))

    async def _follow(self) -> None:
        """Tell each revision once, in order, when it is confirmed."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            now = _revision(self._store.confirmed())
            if now > self.told and self._watchers:
                try:
                    await self._tell(max(self.told, now - CATCH_UP_MAX), now)
                except JlogdError as error:
                    log.warning("watchers are ended: r%d cannot be read: %s", now, error)
                    self._stop_all(f"r{now} cannot be read: {error}")
            self.told = now

    async def _tell(self, told: int, now: int) -> None:
        watchers = list(self._watchers)
        callers = [watcher.caller for watcher in watchers]
        for number in range(told + 1, now + 1):
            shown = await self._store.read(partial(self._show_revision, Revision(number), callers))
            time_ns = self._clock.wall_ns()
            for watcher, revision in zip(watchers, shown, strict=True):
                watcher.put(pb.WatchResponse(revision=revision, time_ns=time_ns))

    def _stop_all(self, why: str) -> None:
        for watcher in self._watchers:
            watcher.stop(why)


def _revision(commit: Commit | None) -> Revision:
    return commit.revision if commit is not None else Revision(0)
