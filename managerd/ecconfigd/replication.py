"""Copies of the repository on the other managers: the writer pushes, the others know where the writer is.

On the writer one task a peer keeps that peer's refs equal to ours: at once when ours move,
again every ``HEARTBEAT_S``, with back-off while it does not answer. A revision is *confirmed* when
``replicas_min`` managers, ourselves counted, have it on disk; that number only grows. A peer whose
line is not ours is joined first (``join``). On the others the same tasks only ask who is there.

All methods belong to the manager's loop; what touches the repository goes through ``Store``.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc.aio

from jlogd.confrepo.model import CommitId, Revision
from jlogd.confrepo.repository import MAIN, ROLLOUT, SIDE, Repository
from jlogd.runtime.errors import JlogdError, RefusedError, UnavailableError
from jlogd.runtime.rpc import TlsFiles
from managerd.ecconfigd.committer import JOINED
from managerd.ecconfigd.join import join
from managerd.ecconfigd.peer import PIECE_BYTES, Peer, ids_of, updates_between
from managerd.ecconfigd.store import Store
from managerd.v1 import config_pb2 as pb

log = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.2, 5.0
NONE_YET = Revision(0)
WRITER_WAIT_S = 3.0  # how long a forwarded call waits for somebody to say where the writer is


@dataclass(slots=True)
class PeerState:
    """What is known of one peer. ``state``: connected, behind, unreachable, refused."""

    peer: Peer
    name: str = ""
    refs: dict[str, CommitId] | None = None  # None: ask before the next push
    revision: Revision = NONE_YET
    told: Revision = NONE_YET  # the confirmed revision that it knows of
    state: str = "unreachable"
    error: str = "not asked yet"
    heard: bool = False  # it told us what it has, and we have all of that
    kicked: asyncio.Event = field(default_factory=asyncio.Event)


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
        self._peers = [PeerState(Peer(address, tls)) for address in peers]
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()  # replaced at each change: whoever waits holds the one before
        self._joining = asyncio.Lock()  # two peers' lines are replayed one after the other

    async def begin(self) -> None:
        """Start to talk to the peers."""
        if self.is_writer:
            self._store.on_change.append(self.kick)
            await self._count()
        self._tasks = [asyncio.create_task(self._keep(state)) for state in self._peers]

    async def end(self, deadline_s: float) -> None:
        """Stop talking. What is confirmed stays so."""
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

    def peers(self) -> list[PeerState]:
        """For ``status``."""
        return self._peers

    # ------------------------------------------------------------------ asked by others

    async def wait_confirmed(self, revision: Revision, timeout_s: float) -> bool:
        """Whether ``replicas_min`` managers have ``revision`` on disk within ``timeout_s``."""
        await self._count()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._confirmed() < revision:
                    await self._changed.wait()
        return self._confirmed() >= revision

    async def wait_ready(self, timeout_s: float) -> None:
        """Before the first commit: every revision that was ever confirmed must be known here. UnavailableError.

        Of n managers, n - replicas_min + 1 cannot all lack a confirmed one.
        """
        needed = len(self._peers) + 1 - self._replicas_min if self._replicas_min > 1 else 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._heard() < needed:
                    await self._changed.wait()
        if self._heard() < needed:
            raise UnavailableError(
                f"manager {self._manager} just started and heard of {self._heard()} of the {needed} other managers it "
                f"must hear of before it takes commits (replicas_min = {self._replicas_min}): {self._complaints()}"
            )

    async def writer_channel(self) -> grpc.aio.Channel:
        """The channel to the writer, for calls that only it may answer. UnavailableError."""
        for wait in (True, False):
            for state in self._peers:
                if state.name == self.writer and state.state in {"connected", "behind"}:
                    return state.peer.channel()
            if wait:
                self.kick()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), WRITER_WAIT_S)
        raise UnavailableError(
            f"the writer {self.writer} does not answer; manager {self._manager} passes commits on to it: "
            f"{self._complaints() or 'no peer is in [config] peers'}"
        )

    # ------------------------------------------------------------------ one task a peer

    async def _keep(self, state: PeerState) -> None:
        failures = 0
        while True:
            state.kicked.clear()
            try:
                await self._bring_up(state)
                failures = 0
                delay_s = HEARTBEAT_S * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
            except JlogdError as error:
                failures += 1
                delay_s = min(BACKOFF_MIN_S * (1 << min(failures, 8)), BACKOFF_MAX_S)
                self._note(state, "refused" if isinstance(error, RefusedError) else "unreachable", str(error))
                state.refs = None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(state.kicked.wait(), delay_s)
            if failures:
                await asyncio.sleep(BACKOFF_MIN_S)  # commits in a row do not become dials in a row

    async def _bring_up(self, state: PeerState) -> None:
        """Make the peer's refs ours; what it has and we have not comes here first."""
        if state.refs is None or not self.is_writer:
            await self._ask(state)
        if not self.is_writer:
            self._note(state, "connected", "")
            return
        for _ in range(3):  # refused once because it moved: ask, and again
            if await self._push(state):
                return
            await self._ask(state)
        raise UnavailableError(f"manager {state.name or state.peer.address} keeps changing while it is pushed to")

    async def _ask(self, state: PeerState) -> None:
        answer = await state.peer.refs()
        if answer.manager == self._manager:
            raise RefusedError(f"[config] peers: {state.peer.address} is this manager itself")
        state.name, state.refs = answer.manager, ids_of(answer.refs)
        state.revision = Revision(answer.head)

    async def _push(self, state: PeerState) -> bool:
        """True when the peer has all that we have."""
        theirs = state.refs or {}
        reset = await self._take_over(state, theirs.get(MAIN))
        head, confirmed = self._head(), self._confirmed()
        ours = await self._store.read(Repository.refs)
        updates = updates_between(ours, theirs, _replicated)
        if updates or state.told != confirmed:
            pieces = await self._store.read(lambda repository: _pack(repository, ours, theirs, list(updates)))
            header = pb.PushHeader(
                updates=[pb.RefUpdate(name=n, before=b or "", after=a or "") for n, (b, a) in updates.items()],
                confirmed=confirmed,
                reset=reset,
                size=sum(map(len, pieces)),
                manager=self._manager,
            )
            answer = await state.peer.push(header, pieces)
            state.refs = ids_of(answer.refs)
            if not answer.accepted:
                if state.refs == theirs:  # nothing moved there: it does not want us
                    raise RefusedError(f"manager {state.name}: {answer.problem}")
                return False
            state.told = confirmed
        state.heard = True
        state.revision = head if (state.refs or {}).get(MAIN) == ours.get(MAIN) else state.revision
        self._note(state, "connected", "")
        await self._count()
        return True

    async def _take_over(self, state: PeerState, their_main: CommitId | None) -> bool:
        """Bring here what only the peer's main line has; True when the peer must leave its line for ours."""
        if their_main is None or await self._store.read(lambda repository: repository.on_main(their_main)):
            return False
        async with self._joining:
            return await join(self._store, state.peer, their_main, state.revision, peer_name=state.name)

    # ------------------------------------------------------------------ counting

    async def _count(self) -> None:
        """Move the confirmed revision on when enough managers have more."""
        have = sorted((self._head(), *(state.revision for state in self._peers if state.heard)), reverse=True)
        enough = have[self._replicas_min - 1] if len(have) >= self._replicas_min else Revision(0)
        if self.is_writer and enough > self._confirmed():
            await self._store.confirm(min(enough, self._head()))
            for state in self._peers:
                state.kicked.set()  # they tell their nodes only what is confirmed
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _head(self) -> Revision:
        head = self._store.head()
        return head.revision if head else Revision(0)

    def _confirmed(self) -> Revision:
        confirmed = self._store.confirmed()
        return confirmed.revision if confirmed else Revision(0)

    def _heard(self) -> int:
        return sum(state.heard for state in self._peers)

    def _complaints(self) -> str:
        return "; ".join(f"{state.name or state.peer.address}: {state.error}" for state in self._peers if state.error)

    def _note(self, state: PeerState, word: str, error: str) -> None:
        if (state.state, state.error) != (word, error):
            who = state.name or state.peer.address
            if error:
                log.warning("manager %s: %s: %s", who, word, error)
            else:
                log.info("manager %s: %s, has r%d", who, word, state.revision)
        state.state, state.error = word, error
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _replicated(name: str) -> bool:
    return name in {MAIN, ROLLOUT} or name.startswith((SIDE, JOINED))


def _pack(
    repository: Repository, ours: dict[str, CommitId], theirs: dict[str, CommitId], names: list[str]
) -> list[bytes]:
    want = [ours[name] for name in names if name in ours]
    have = [commit for commit in theirs.values() if commit in repository.store]
    if not want:
        return []
    pieces = list(repository.pack(want, have))
    return [piece[at : at + PIECE_BYTES] for piece in pieces for at in range(0, len(piece), PIECE_BYTES)]
