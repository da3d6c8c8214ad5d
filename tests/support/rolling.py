"""A manager's configuration parts without the wire: store, targets, registry, conductor; and nodes that report."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from jlogd.attach.messages import Report, State
from jlogd.confrepo.model import EXECUTABLE, Commit, File, Revision
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.fs import OS, FileSystem
from managerd.ecconfigd.conductor import Conductor
from managerd.ecconfigd.edits import Edit, Put
from managerd.ecconfigd.nodes import Registry
from managerd.ecconfigd.store import CommitRequest, Result, Store
from managerd.ecconfigd.targets import Targets

ALICE = "operator:alice"
POLICY = '[[require]]\npaths = ["web/**"]\nstages = ["1", "100%"]\nhold = "60s"\n'


def put(path: str, text: str, *, program: bool = False) -> Put:
    return Put(path, File(text.encode(), EXECUTABLE) if program else File(text.encode()))


class Manager:
    """One manager, on the test's loop. Time stands still until ``pass_s``."""

    def __init__(self, home: Path, *, writing: bool = True, fs: FileSystem = OS, **more: Any) -> None:
        self.clock = ManualClock()
        self.store = Store(home / "config.git", manager="m1", writer=writing, fs=fs, clock=self.clock, **more)
        self.targets = Targets(self.store)
        self.store.hold = self.targets.hold
        self.registry = Registry(home / "nodes.json", manager="m1", fs=fs, clock=self.clock)
        self.conductor = Conductor(
            self.store, self.registry, self.targets, manager="m1", writing=writing, clock=self.clock
        )

    async def begin(self) -> None:
        await self.store.begin()
        await self.targets.begin()
        await self.conductor.begin()

    async def end(self) -> None:
        await self.conductor.end()
        await self.targets.end()
        await self.store.end()

    # ------------------------------------------------------------------ people

    async def commit(self, *edits: Edit, message: str = "a change") -> Result:
        """A commit, and the picture that follows from it."""
        result = await self.store.commit(CommitRequest(message, edits), ALICE)
        assert result.commit is not None, result
        await self.settled()
        return result

    async def first(self, *edits: Edit) -> Commit:
        """r1: a policy that asks for rollouts of web, and something to change."""
        result = await self.commit(put("global/rollout.toml", POLICY), put("web/default/x", "1"), *edits)
        assert result.commit is not None
        return result.commit

    # ------------------------------------------------------------------ nodes

    def attach(self, *names: str) -> None:
        for name in names:
            self.registry.attached(name, "web")

    def report(self, name: str, state: State = "applied", error: str = "") -> None:
        """What became of what it was told last."""
        target = self.targets.target(name, "web")
        assert target is not None
        self.registry.report(
            name,
            Report(state, target.revision, target.id, target.revision, target.id, target.serial, error=error),
        )

    def told(self, name: str) -> Revision:
        target = self.targets.target(name, "web")
        return target.revision if target is not None else Revision(0)

    # ------------------------------------------------------------------ time

    async def settled(self) -> None:
        """The targets follow from the refs as they are."""
        await self.until(lambda: self._serial() == self.store.serial())

    async def until(self, is_so: Callable[[], bool], timeout_s: float = 10) -> None:
        """Wait for something that a new picture, or a transition of a rollout, brings."""
        news = asyncio.Event()
        ends = self.targets.subscribe(news.set), self.conductor.subscribe(lambda _: news.set())
        try:
            async with asyncio.timeout(timeout_s):
                while not is_so():
                    await news.wait()
                    news.clear()
        finally:
            for end in ends:
                end()

    def _serial(self) -> int:
        return self.targets.picture.serial if self.targets.picture else 0

    async def look(self, seconds: float = 0) -> None:
        """Time passes, then the conductor looks, and nodes are told."""
        self.clock.advance(seconds)
        await self.conductor.look()
        await self.settled()


@contextlib.asynccontextmanager
async def managing(home: Path, **more: Any) -> AsyncIterator[Manager]:
    """A manager that runs."""
    manager = Manager(home, **more)
    await manager.begin()
    try:
        yield manager
    finally:
        await manager.end()
