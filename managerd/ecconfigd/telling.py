"""Tells every other manager which nodes are attached to this one, and what they say (``hearing`` is the other end).

So each manager knows of all nodes, and answers for them by itself, also while the writer is away. One call a peer, as
long as both are there: first everybody who is attached, then what changes, the newest of each node, gathered for
``GATHER_S``. What waits for a peer that does not read is one word a node. Only our own sightings are passed on, never
what others told us: nothing goes round in circles.

All methods belong to the manager's loop.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc.aio

from jlogd.runtime.errors import JlogdError, UnavailableError
from jlogd.runtime.rpc import TlsFiles
from managerd.ecconfigd.nodes import Here, Registry
from managerd.ecconfigd.peer import Peer, Telling
from managerd.ecconfigd.wire import told_of
from managerd.v1 import config_pb2 as pb

log = logging.getLogger(__name__)

GATHER_S = 0.2  # at most so often a node's word goes out: "pending" and "applied" after it are mostly one
SIGN_S: Final = 10.0  # of life; the other side gives up after 30 s of silence
WRITE_S: Final = 30.0  # a peer that reads nothing for so long is left, and dialled again
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.2, 3.0
BATCH: Final = 200  # nodes in one message: the other side takes them in without a pause; 16 KiB each at most


@dataclass(slots=True)
class _Listener:
    """One other manager. ``news``: by node, the newest that it was not told. ``delay_s``: until it is dialled again."""

    peer: Peer
    news: dict[str, Here] = field(default_factory=dict)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    problem: str = ""
    delay_s: float = field(default_factory=lambda: BACKOFF_MIN_S)

    def heard(self) -> None:
        """It listens: whatever comes next is new."""
        self.problem, self.delay_s = "", BACKOFF_MIN_S


class Teller:
    """See the module. begin and end once."""

    def __init__(self, registry: Registry, *, manager: str, peers: Sequence[str], tls: TlsFiles | None) -> None:
        """``manager``: our own name; ``peers``: addresses of the others."""
        self._registry = registry
        self._manager = manager
        self._listeners = [_Listener(Peer(address, tls)) for address in peers]
        self._tasks: list[asyncio.Task[None]] = []
        self._unsubscribe: Callable[[], None] = lambda: None

    async def begin(self) -> None:
        """Dial the others."""
        self._unsubscribe = self._registry.subscribe_here(self._changed)
        self._tasks = [asyncio.create_task(self._keep(listener)) for listener in self._listeners]

    async def end(self, deadline_s: float) -> None:
        """Hang up: to the others our nodes are away now."""
        self._unsubscribe()
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            await listener.peer.close()

    def _changed(self, here: Here) -> None:
        for listener in self._listeners:
            listener.news[here[0]] = here
            listener.woken.set()

    async def _keep(self, listener: _Listener) -> None:
        while True:
            try:
                await self._tell(listener)
            except JlogdError as error:
                self._note(listener, error)
            except Exception:
                log.exception("%s is not told of nodes", listener.peer.address)
            await asyncio.sleep(listener.delay_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret
            listener.delay_s = min(2 * listener.delay_s, BACKOFF_MAX_S)

    async def _tell(self, listener: _Listener) -> None:
        """As long as it hears us. UnavailableError, and whatever it refuses us with."""
        async with listener.peer.tell() as call:
            call.add_done_callback(lambda _: listener.woken.set())
            await _say(call, pb.TellRequest(manager=self._manager))
            listener.news = {here[0]: here for here in self._registry.here()}  # what waited until now is in there
            await _say_all(call, listener)
            await _say(call, pb.TellRequest(whole=True))
            while not call.done():
                if await _woken(listener):
                    await asyncio.sleep(GATHER_S)
                    await _say_all(call, listener)
                else:
                    await _say(call, pb.TellRequest())
                if not call.done():  # a refusal comes after what was written meanwhile
                    listener.heard()
            await _ended(call)

    def _note(self, listener: _Listener, error: JlogdError) -> None:
        problem = str(error)
        if problem != listener.problem:
            level = logging.INFO if isinstance(error, UnavailableError) else logging.WARNING  # replication says it
            log.log(level, "the manager at %s is not told of nodes: %s", listener.peer.address, problem)
        listener.problem = problem


async def _say_all(call: Telling, listener: _Listener) -> None:
    """What waits now; what comes meanwhile waits for the next time."""
    listener.woken.clear()
    news, listener.news = listener.news, {}
    for nodes in _batches(list(news.values())):
        await _say(call, pb.TellRequest(nodes=nodes))


def _batches(news: Sequence[Here]) -> Iterator[list[pb.ToldNode]]:
    for first in range(0, len(news), BATCH):
        yield [told_of(here) for here in news[first : first + BATCH]]


async def _woken(listener: _Listener) -> bool:
    """Whether there is something to do before a sign of life is due."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SIGN_S):
            await listener.woken.wait()
    return listener.woken.is_set()


async def _say(call: Telling, message: pb.TellRequest) -> None:
    try:
        async with asyncio.timeout(WRITE_S):
            await call.write(message)
    except TimeoutError:
        raise UnavailableError(f"it read nothing for {WRITE_S:g} s") from None
    except (asyncio.InvalidStateError, grpc.aio.AioRpcError):  # it has ended: its own words, not those about the write
        await _ended(call)


async def _ended(call: Telling) -> None:
    await call  # raises what it ended with
    raise UnavailableError("it ended the call")
