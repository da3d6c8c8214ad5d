"""Copies of the repository on the other managers: the writer pushes, the others know where the writer is.

On the writer one task a peer keeps that peer's refs equal to ours: at once when ours move, again every ``HEARTBEAT_S``,
with back-off while it does not answer. What only the peer has comes here first (``join``). A revision is *confirmed*
when ``replicas_min`` managers, ourselves counted, have it on disk; that number only grows. A peer that follows another
writer is left alone. On the others the same tasks only ask who is there.

All methods belong to the manager's loop; what touches the repository goes through ``Store``.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import grpc.aio

from jlogd.confrepo.model import CommitId, Revision
from jlogd.confrepo.repository import MAIN
from jlogd.runtime.errors import (
    ConflictError,
    DamageError,
    DeadlineError,
    JlogdError,
    RefusedError,
    StorageError,
    UnavailableError,
)
from jlogd.runtime.rpc import TlsFiles
from managerd.ecconfigd.join import gather
from managerd.ecconfigd.peer import Known, Peer, ids_of
from managerd.ecconfigd.pushing import Step, next_step
from managerd.ecconfigd.store import Store
from managerd.ecconfigd.transit import Transit

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 10.0
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.2, 5.0
HURRY_S: Final = 1.0  # commits in a row do not become dials in a row: at most this much of a back-off is kept
TRIES_MAX: Final = 3  # a peer's refs that keep changing while we push
FIRST_ANSWERS_S: Final = 3.0  # after the start, for peers that neither answer nor refuse
WRITER_WAIT_S = 3.0  # how long a forwarded call waits for somebody to say where the writer is
REDIAL_S = 3.0  # a writer that answers: how long a channel to it may take, above channels' longest back-off
ERROR_CHARACTERS_MAX: Final = 1000
NONE_YET: Final = Revision(0)


@dataclass(slots=True)
class PeerState:
    """What is known of one peer. ``state``: connected, behind, unreachable, refused."""

    peer: Peer
    name: str = ""
    refs: dict[str, CommitId] | None = None  # None: ask before the next push
    revision: Revision = NONE_YET  # its head
    has: Revision = NONE_YET  # of our line, on its disk
    told: Revision = NONE_YET  # the confirmed revision that it knows of
    state: str = "unreachable"
    error: str = "not asked yet"
    tried: bool = False  # it answered once, or did not
    heard: bool = False  # it told us what it has, and we have all of that
    kicked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def who(self) -> str:
        """For messages."""
        return f"manager {self.name or self.peer.address}"

    @property
    def connected(self) -> bool:
        """Whether it answered the last time."""
        return self.state in {"connected", "behind"}


class Replication:
    """See the module. begin and end once."""

    def __init__(
        self,
        store: Store,
        *,
        manager: str,
        writer: str,
        peers: Sequence[str],
        replicas_min: int,
        tls: TlsFiles | None,
    ) -> None:
        """``peers``: addresses of the other managers."""
        self.writer = writer
        self.is_writer = manager == writer
        self._store = store
        self._manager = manager
        self._replicas_min = replicas_min
        self._tls = tls
        self._peers = [PeerState(Peer(address, tls)) for address in peers]
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()  # replaced at each change: whoever waits holds the one before
        self._recount = asyncio.Event()
        self._joining = asyncio.Lock()  # two peers' lines are joined one after the other
        self._forgot = False  # our disk was empty: what was confirmed is known to others only
        self._begun_s = 0.0

    async def begin(self) -> None:
        """Start to talk to the peers."""
        self._begun_s = asyncio.get_running_loop().time()
        self._forgot = self._store.head() is None
        self._tasks = [asyncio.create_task(self._keep(state)) for state in self._peers]
        if self.is_writer:
            self._store.on_change.append(self.kick)
            self._tasks.append(asyncio.create_task(self._count()))

    async def end(self, deadline_s: float) -> None:
        """Stop talking. What is confirmed stays so."""
        if self.kick in self._store.on_change:
            self._store.on_change.remove(self.kick)
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await asyncio.gather(*self._tasks, return_exceptions=True)
        for state in self._peers:
            await state.peer.close()

    def kick(self) -> None:
        """Our refs moved."""
        for state in self._peers:
            state.kicked.set()
        self._tell()

    def peers(self) -> list[PeerState]:
        """For ``status``."""
        head = self._head() if self.is_writer else NONE_YET
        for state in self._peers:
            if state.connected:
                state.state = "behind" if state.revision < head else "connected"
        return self._peers

    # ------------------------------------------------------------------ asked by others

    async def wait_confirmed(self, revision: Revision, timeout_s: float) -> bool:
        """Whether ``replicas_min`` managers have ``revision`` on disk within ``timeout_s``."""
        return await self._until(lambda: self._confirmed() >= revision, timeout_s)

    async def wait_ready(self, timeout_s: float) -> None:
        """Before the first change: every revision that was ever confirmed must be known here. UnavailableError.

        Every peer that answers has told what it has, so that a line that was lost here is taken up again. Of n
        managers n - replicas_min + 1 cannot all lack a confirmed revision; we are one of them unless our disk was
        empty.
        """
        first_s = min(self._begun_s + FIRST_ANSWERS_S - asyncio.get_running_loop().time(), timeout_s)
        await self._until(lambda: all(state.tried for state in self._peers), max(first_s, 0.0))
        needed = self._needed()
        if not await self._until(lambda: self._heard() >= needed, timeout_s):
            why = "has an empty repository" if self._forgot else "just started"
            raise UnavailableError(
                f"manager {self._manager} {why}, and must hear what {needed} other managers have before it takes "
                f"changes (replicas_min = {self._replicas_min}); it heard of {self._heard()}: {self._complaints()}"
            )

    async def writer_channel(self) -> grpc.aio.Channel:
        """The channel to the writer, for calls that only it may answer. UnavailableError."""
        if self._writer_state() is None:
            for state in self._peers:
                state.kicked.set()
            await self._until(lambda: self._writer_state() is not None, WRITER_WAIT_S)
        found = self._writer_state()
        if found is None:
            raise UnavailableError(
                f"the writer {self.writer} does not answer; manager {self._manager} passes commits on to it: "
                f"{self._complaints() or 'no peer is in [config] peers'}"
            )
        if not await _answers(found.peer):
            # it may just have started again: a new channel dials at once, the old one waits out its back-off
            found.peer = Peer(found.peer.address, self._tls)
        channel = found.peer.channel()
        try:
            async with asyncio.timeout(REDIAL_S):
                await channel.channel_ready()  # it answered elsewhere, this channel may still wait out its back-off
        except TimeoutError:
            pass  # a writer that is away is named by the call itself
        except grpc.aio.UsageError:  # closed meanwhile: the heartbeat found that nobody is there
            raise UnavailableError(f"the writer {self.writer} just went away; nothing was passed on to it") from None
        return channel

    def _writer_state(self) -> PeerState | None:
        return next((state for state in self._peers if state.name == self.writer and state.connected), None)

    def _needed(self) -> int:
        if self._replicas_min == 1:
            return 0  # nobody else was ever waited for
        others = len(self._peers) + 1 - self._replicas_min
        return min(others + self._forgot, len(self._peers))

    async def _until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not is_so():
                    await self._changed.wait()
        return is_so()

    # ------------------------------------------------------------------ one task a peer

    async def _keep(self, state: PeerState) -> None:
        failures = 0
        while True:
            state.kicked.clear()
            try:
                await self._bring_up(state)
                failures = 0
            except JlogdError as error:
                failures += 1
                self._note(state, _word(error), str(error))
            except Exception as error:
                log.exception("%s: replication failed", state.who)
                failures += 1
                self._note(state, "refused", f"this manager failed at it, its log says more: {error}")
            if failures:
                state.refs = None
            state.tried = True
            self._tell()
            await _pause(state, failures)

    async def _bring_up(self, state: PeerState) -> None:
        """Make the peer's refs ours; what it has and we have not comes here first."""
        reset = False
        for _ in range(TRIES_MAX):  # refused once because it moved: ask, and again
            if state.refs is None:
                reset = await self._ask(state)
            if not self.is_writer:
                state.refs = None
                self._note(state, "connected", "")
                return
            if await self._push(state, reset=reset):
                self._note(state, "connected", "")
                return
            state.refs = None
        raise ConflictError(f"{state.who} keeps changing while it is pushed to")

    async def _ask(self, state: PeerState) -> bool:
        """What it has; True when that is no part of our line, and all of it is here."""
        theirs = await state.peer.refs()
        if theirs.manager == self._manager:
            raise RefusedError(f"[config] peers: {state.peer.address} is this manager itself: take it out")
        twin = next((other for other in self._peers if other.name == theirs.manager and other.connected), state)
        if twin is not state:
            raise RefusedError(
                f"[config] peers: {state.peer.address} and {twin.peer.address} are both manager {theirs.manager}"
            )
        if state.name != theirs.manager:  # another one listens there now
            state.has, state.heard = NONE_YET, False
        state.name, state.revision = theirs.manager, theirs.head
        if not self.is_writer:
            state.refs = {}
            return False
        if theirs.writer != self._manager:
            raise RefusedError(_two_writers(theirs, self._manager))
        has = await gather(self._store, state.peer, theirs, self._joining)
        state.refs, state.has, state.heard = dict(theirs.refs), has or NONE_YET, True
        state.told = theirs.confirmed if has is not None else NONE_YET
        self._tell()
        return has is None

    async def _push(self, state: PeerState, *, reset: bool) -> bool:
        """True when the peer has all that we have."""
        while True:
            with Transit(self._store.directory, 0) as pack:
                step = await self._store.read(partial(next_step, theirs=state.refs or {}, pack=pack))
                if not step.updates and step.confirmed <= state.told:
                    return True
                if not await self._push_step(state, step, pack, reset=reset):
                    return False
            if step.last:
                return True

    async def _push_step(self, state: PeerState, step: Step, pack: Transit, *, reset: bool) -> bool:
        answer = await state.peer.push(step.header(self._manager, size=pack.size, reset=reset), pack)
        before, state.refs = state.refs, ids_of(answer.refs)
        if not answer.accepted:
            if state.refs == before:  # nothing moved there: it does not want us
                raise RefusedError(f"{state.who}: {answer.problem}")
            return False
        if state.refs.get(MAIN) != step.main:
            raise DamageError(f"{state.who} says that it took r{step.revision}, and does not have it")
        state.revision = state.has = step.revision
        state.told = step.confirmed or state.told
        self._tell()
        return True

    # ------------------------------------------------------------------ counting

    async def _count(self) -> None:
        """Move the confirmed revision on whenever enough managers have more."""
        while True:
            self._recount.clear()
            have = sorted((self._head(), *(state.has for state in self._peers if state.heard)), reverse=True)
            enough = have[self._replicas_min - 1] if len(have) >= self._replicas_min else NONE_YET
            if min(enough, self._head()) > self._confirmed():
                try:
                    await self._store.confirm(min(enough, self._head()))
                except JlogdError as error:
                    log.warning("r%d is not marked as confirmed: %s", enough, error)
                    await asyncio.sleep(HURRY_S)
                    continue
            await self._recount.wait()

    def _head(self) -> Revision:
        head = self._store.head()
        return head.revision if head else NONE_YET

    def _confirmed(self) -> Revision:
        confirmed = self._store.confirmed()
        return confirmed.revision if confirmed else NONE_YET

    def _heard(self) -> int:
        return sum(state.heard for state in self._peers)

    def _complaints(self) -> str:
        return "; ".join(f"{state.who}: {state.error}" for state in self._peers if state.error)

    def _note(self, state: PeerState, word: str, error: str) -> None:
        error = " ".join(error.split())[:ERROR_CHARACTERS_MAX]  # in part the peer's words
        if error and error != state.error:
            log.warning("%s: %s: %s", state.who, word, error)
        elif not error and state.error:
            log.info("%s: %s, has r%d", state.who, word, state.revision)
        state.state, state.error = word, error
        self._tell()

    def _tell(self) -> None:
        """Something changed that somebody may wait for."""
        self._recount.set()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def _pause(state: PeerState, failures: int) -> None:
    """Until it is to be brought up again: soon when our refs move, with back-off while that fails."""
    if not failures:
        try:
            async with asyncio.timeout(HEARTBEAT_S * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter, not a secret
                await state.kicked.wait()
        except TimeoutError:
            state.refs = None  # ask whether it is still there, and the same
        return
    delay_s = min(BACKOFF_MIN_S * (1 << min(failures, 8)), BACKOFF_MAX_S)
    hurry_s = min(delay_s, HURRY_S)
    await asyncio.sleep(hurry_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay_s - hurry_s):
            await state.kicked.wait()


def _word(error: JlogdError) -> str:
    if isinstance(error, UnavailableError | DeadlineError):
        return "unreachable"
    return "behind" if isinstance(error, StorageError | ConflictError) else "refused"


def _two_writers(theirs: Known, manager: str) -> str:
    if theirs.writer == theirs.manager:
        return (
            f"manager {theirs.manager} takes itself for the writer, and so does this one, {manager}: give all managers "
            "the same [config] writer and restart them; until then each goes on by itself"
        )
    return (
        f"manager {theirs.manager} follows {theirs.writer}, not {manager}: give all managers the same [config] writer"
    )


async def _answers(peer: Peer) -> bool:
    try:
        await peer.refs()
    except JlogdError:
        return False
    return True
