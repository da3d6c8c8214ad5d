"""Conducts rollouts on the writer: tells the machine what nodes report and how time goes on, and keeps what it decides.

Every transition is one commit on ``refs/jlogd/rollout``, durable before anybody acts on it, and made only if the line
is still what the decision was made on. Commits are made on transitions only, and at most one a second unless a stage
begins or a rollout ends. After a restart the document goes on; holds start over.

Leaves to others: who may ask (service.py), what nodes are told (targets.py), what is decided (rollout).
On managers that are not the writer it only shows what the writer decided.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from jlogd.attach.messages import Report
from jlogd.confrepo.model import Scope, Serial
from jlogd.confrepo.repository import ROLLOUT, Repository
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import ConflictError, JlogdError, RefusedError
from managerd.ecconfigd import holding
from managerd.ecconfigd import rollout as core
from managerd.ecconfigd.holding import Line
from managerd.ecconfigd.planning import StartRequest, plan
from managerd.ecconfigd.rollout import Document, Fleet, Plan, Status

if TYPE_CHECKING:
    from managerd.ecconfigd.nodes import NodeEntry, Registry
    from managerd.ecconfigd.store import Store
    from managerd.ecconfigd.targets import Targets

__all__ = ["Conductor", "StartRequest"]

log = logging.getLogger(__name__)

COMMIT_S: Final = 1.0  # between two states that begin no stage: thousands of reports are few commits
LOOK_S: Final = 0.05  # between two looks at the fleet, and at least ten times as long as a look takes
IDLE_S: Final = 5.0  # a look at least so often while a rollout is active
TRIES_MAX: Final = 5  # of a change that finds another state than it was made for: a commit was held back meanwhile


class Conductor:
    """See the module. All on the loop."""

    def __init__(
        self,
        store: "Store",
        registry: "Registry",
        targets: "Targets",
        *,
        manager: str,
        writing: bool,
        clock: Clock = SYSTEM,
    ) -> None:
        """``manager``: our own name; ``writing``: we are the writer."""
        self._store = store
        self._registry = registry
        self._targets = targets
        self._author = f"manager:{manager}"
        self._writing = writing
        self._clock = clock
        self._fleet = Fleet(clock.monotonic_s())
        self._last: dict[str, tuple[int, Report | None]] = {}  # what the fleet was told of each node
        self._wake = asyncio.Event()
        self._changing = asyncio.Lock()  # one decision at a time, held until it is on the disk
        self._document = Document()  # the newest that we know
        self._told: core.Rollout | None = None
        self._committed_s = clock.monotonic_s() - COMMIT_S
        self._callbacks: list[Callable[[Status], None]] = []
        self._unsubscribe: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Go on where the document stands."""
        self._fleet = Fleet(self._clock.monotonic_s())
        for entry in self._registry.snapshot():
            self._see(entry)
        self._unsubscribe = [self._registry.subscribe(self._seen), self._targets.subscribe(self._new_picture)]
        if self._targets.picture is not None:
            self._document = self._targets.picture.document
            self._told = self._document.rollout
        if self._writing:
            self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        """Decide nothing more."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ------------------------------------------------------------------ what people ask for

    async def start(self, request: StartRequest, author: str) -> Status:
        """Begin a rollout. RefusedError says why not. Durable on return."""

        async def change(line: Line) -> Document:
            return await self._begin(request, author, line)

        return await self._order(change, "start", author)

    async def pause(self, author: str) -> Status:
        """No further node gets it; failures still count. RefusedError unless one is running."""
        return await self._command("pause", author)

    async def resume(self, author: str) -> Status:
        """Go on; the hold starts over. RefusedError unless one is paused."""
        return await self._command("resume", author)

    async def abort(self, author: str) -> Status:
        """Every node goes back to the baseline. RefusedError unless one is running or paused."""
        return await self._command("abort", author)

    def status(self) -> Status | None:
        """The present or last one; None: there never was one."""
        rollout = self._document.rollout
        return core.describe(rollout, self._fleet, self._clock.monotonic_s()) if rollout else None

    def subscribe(self, callback: Callable[[Status], None]) -> Callable[[], None]:
        """Call ``callback`` on the loop after each transition; returns what ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    # ------------------------------------------------------------------ what nodes say

    def _seen(self, entry: "NodeEntry") -> None:
        self._see(entry)
        self._wake.set()

    def _see(self, entry: "NodeEntry") -> None:
        now_s = self._clock.monotonic_s()
        changed_ns, report = self._last.get(entry.name, (-1, None))
        if not entry.attached:
            self._fleet.detached(entry.name, now_s)
        elif changed_ns != entry.changed_ns:  # a newer session of the same node may follow without a detach
            self._fleet.attached(entry.name, now_s)
        if entry.fresh and entry.report is not None and entry.report is not report:
            self._fleet.reported(entry.name, entry.report, now_s)
        self._last[entry.name] = entry.changed_ns, entry.report

    def _new_picture(self) -> None:
        """The refs moved: by us, by a commit that is held back, or, on other managers, by the writer."""
        picture = self._targets.picture
        if picture is not None and not self._changing.locked():
            self._adopt(picture.document)
        self._wake.set()

    def _adopt(self, document: Document) -> None:
        self._document = document
        if document.rollout != self._told and document.rollout is not None:
            self._told = document.rollout
            status = core.describe(document.rollout, self._fleet, self._clock.monotonic_s())
            for callback in list(self._callbacks):
                callback(status)

    # ------------------------------------------------------------------ as time goes on

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            began_s = self._clock.monotonic_s()
            wait_s = IDLE_S
            try:
                wait_s = await self.look()
            except (JlogdError, OSError) as error:
                log.warning("the rollout does not go on: %s", error)
            except Exception:
                log.exception("the rollout does not go on")  # nodes keep what they have; abort still works
            await asyncio.sleep(max(LOOK_S, 10 * (self._clock.monotonic_s() - began_s)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()

    async def look(self) -> float:
        """Decide once; in how many seconds time alone may change something."""
        known = self._document.rollout
        if known is None or not known.active:
            return IDLE_S  # a picture brings news
        async with self._changing:
            line, in_force = await self._store.read(_load_with_force)
            self._adopt(line.document)
            rollout = line.document.rollout
            if rollout is None or not rollout.active:
                return IDLE_S
            now_s, now_ns = self._clock.monotonic_s(), self._clock.wall_ns()
            if not in_force:
                after = core.void(line.document, now_ns)
            else:
                after = core.decide(line.document, self._fleet, now_s, now_ns)
            if after is not line.document and (wait_s := self._too_soon_s(rollout, after, now_s)):
                return wait_s
            if after is not line.document:
                with contextlib.suppress(ConflictError):  # the next look sees what is there
                    await self._write(line, after, _message(after), self._author)
            return self._due_s()

    def _too_soon_s(self, before: core.Rollout, after: Document, now_s: float) -> float:
        """How long a change that begins no stage has to wait for others to share its commit."""
        new = after.rollout
        if new is not None and (new.state, new.stage) == (before.state, before.stage):
            return max(0.0, self._committed_s + COMMIT_S - now_s)
        return 0.0

    def _due_s(self) -> float:
        rollout, now_s = self._document.rollout, self._clock.monotonic_s()
        if rollout is None or not rollout.active:
            return IDLE_S
        due_s = core.examine(rollout, self._fleet, now_s).due_s
        return IDLE_S if due_s is None else min(max(due_s - now_s, LOOK_S), IDLE_S)

    # ------------------------------------------------------------------ changing the line

    async def _command(self, what: core.Order, author: str) -> Status:
        async def change(line: Line) -> Document:
            return core.order(line.document, what, author, self._clock.wall_ns())

        return await self._order(change, what, author)

    async def _order(self, change: Callable[[Line], Awaitable[Document]], message: str, author: str) -> Status:
        self._require_writer()
        async with self._changing:
            for tries in range(TRIES_MAX):
                line, _ = await self._store.read(_load_with_force)
                document = await change(line)
                try:
                    await self._write(line, document, f"{message}: {_message(document)}", author)
                    break
                except ConflictError:
                    if tries == TRIES_MAX - 1:
                        raise
        self._wake.set()
        status = self.status()
        assert status is not None, "the document has a rollout"
        return status

    def _require_writer(self) -> None:
        if not self._writing:
            raise RefusedError("this manager is not the writer: rollouts are conducted there")

    async def _write(self, line: Line, document: Document, message: str, author: str) -> None:
        time_s = self._clock.wall_ns() // 10**9

        def write(repository: Repository) -> Line:
            settled = _settled(repository, line.document, document)
            return holding.save(repository, line, settled, author=author, message=message, time_s=time_s)

        written = await self._store.write(write)
        self._committed_s = self._clock.monotonic_s()
        self._adopt(written.document)
        log.info("rollout: %s", message)

    async def _begin(self, request: StartRequest, author: str, line: Line) -> Document:
        entries = self._registry.snapshot()
        self._fleet.keep([entry.name for entry in entries])
        nodes = [Scope(entry.subcluster, entry.name) for entry in entries if entry.attached]

        def prepare(repository: Repository) -> tuple[Plan, Serial]:
            made = plan(repository, line.document, request, author, nodes)
            return made, Serial(holding.confirmed_revision(repository) + line.length + 1)

        made, serial = await self._store.read(prepare)
        return core.start(line.document, made, self._fleet, serial=serial, now_ns=self._clock.wall_ns())


def _load_with_force(repository: Repository) -> tuple[Line, bool]:
    """The line, and whether its rollout fits the main line."""
    line = holding.load(repository, repository.ref(ROLLOUT))
    return line, holding.trial(repository, line.document) is not None


def _settled(repository: Repository, before: Document, after: Document) -> Document:
    """What is held back when a rollout is over: newer revisions, or, if it did not end well, the same."""
    rollout, held = after.rollout, holding.in_force(repository, before)
    if rollout is None or held is None or rollout.active:
        return after
    return core.settle(after, holding.rest(repository, rollout, held))


def _message(document: Document) -> str:
    """One line for the log of the rollout line."""
    rollout = document.rollout
    assert rollout is not None, "only rollouts are told of here"
    where = f"rollout {rollout.number} of {rollout.target} {rollout.state}"
    stage = f", stage {rollout.stages[rollout.stage]}" if rollout.active else ""
    failed = f", {len(rollout.failed)} failed" if rollout.failed else ""
    return where + stage + failed + (f": {rollout.reason}" if rollout.reason else "")
