"""What other managers may ask of this one: its refs and history, its objects, to follow the writer, to hear of nodes.

A push is taken from the manager that our own settings name as the writer, and from nobody else; a manager that is the
writer itself takes none. Objects are on disk before refs move, and refs move by compare-and-set: the main line forward
only, unless the writer joined ours before, so that everything of it stays reachable. Nodes: ``hearing``.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import grpc

from jlogd.confrepo.model import CommitId, Revision, is_commit_id
from jlogd.confrepo.repository import CONFIRMED, MAIN, ROLLOUT, Repository
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import ConflictError, DamageError, RefusedError, UnavailableError
from managerd.ecconfigd.calls import Behaviour, Call, handler_of
from managerd.ecconfigd.committer import Updates
from managerd.ecconfigd.hearing import Hearing
from managerd.ecconfigd.lineage import continues, replicated, shared
from managerd.ecconfigd.store import Store
from managerd.ecconfigd.transit import INFLATED_BYTES_MAX, PACK_BYTES_MAX, Transit
from managerd.v1 import config_pb2 as pb

HISTORY_MAX: Final = 1000
UPDATES_MAX: Final = 10_000
FETCHES_MAX: Final = 4  # packs that are made at the same time


class ReplicaReceiver:
    """Behaviours of ``managerd.v1.ReplicaService``; all belong to the manager's loop."""

    def __init__(self, store: Store, hearing: Hearing, *, manager: str, writer: str, deny: DenyList) -> None:
        """``writer``: as our own settings say."""
        self._store = store
        self._hearing = hearing
        self._manager = manager
        self._writer = writer
        self._deny = deny
        self._pushing = asyncio.Lock()  # one pack on its way
        self._fetching = asyncio.Semaphore(FETCHES_MAX)

    def handler(self) -> grpc.GenericRpcHandler:
        """For the server."""
        behaviours: dict[str, Behaviour] = {
            "Refs": self._refs,
            "History": self._history,
            "Fetch": self._fetch,
            "Push": self._push,
            "Tell": self._hearing.tell,
        }
        return handler_of(pb.DESCRIPTOR.services_by_name["ReplicaService"], behaviours, self._deny)

    # ------------------------------------------------------------------ what is here

    async def _refs(self, call: Call, _request: pb.RefsRequest) -> pb.RefsResponse:
        call.other_manager()
        refs, head, confirmed = await self._store.read(_present)
        return pb.RefsResponse(
            manager=self._manager, writer=self._writer, refs=_refs_pb(refs), head=head, confirmed=confirmed
        )

    async def _history(self, call: Call, request: pb.HistoryRequest) -> pb.HistoryResponse:
        call.other_manager()
        asked = [Revision(number) for number in request.revisions[:HISTORY_MAX]]
        return pb.HistoryResponse(ids=await self._store.read(lambda repository: _ids(repository, asked)))

    async def _fetch(self, call: Call, request: pb.FetchRequest) -> None:
        call.other_manager()
        want, have = _commit_ids(request.want), _commit_ids(request.have)
        async with self._fetching:
            pack = await self._store.read(
                lambda repository: repository.pack(want, [commit for commit in have if commit in repository.store])
            )
            while (piece := await self._store.read(lambda _: next(pack, None))) is not None:
                await call.write(pb.FetchResponse(piece=piece))

    # ------------------------------------------------------------------ following the writer

    async def _push(self, call: Call, _requests: object) -> pb.PushResponse:
        who = call.other_manager()
        header = await _header(call)
        problem = self._problem(header, who)
        if not problem:
            if self._pushing.locked():
                raise UnavailableError(f"another push to manager {self._manager} is under way")
            async with self._pushing:
                problem = await self._follow(call, header)
        refs = await self._store.read(Repository.refs)
        return pb.PushResponse(accepted=not problem, problem=problem, refs=_refs_pb(refs))

    def _problem(self, header: pb.PushHeader, who: str) -> str:
        name = who or header.manager
        if name != header.manager:
            return f"the push says manager {header.manager!r}, the certificate {name!r}"
        if self._writer == self._manager:
            return f"manager {self._manager} is a writer as well ([config] writer): only one can be"
        if name != self._writer:
            return f"manager {self._manager} follows {self._writer} ([config] writer), not {name}"
        return ""

    async def _follow(self, call: Call, header: pb.PushHeader) -> str:
        """Why not, if refs here are not what the writer thinks."""
        updates = _updates(header)
        with Transit(self._store.directory, header.size) as pack:
            while (message := await call.read()) is not None:
                await asyncio.to_thread(pack.add, message.piece)
            if pack.size != header.size:
                raise DamageError(f"a push of {pack.size} bytes that says {header.size}")
            take = partial(_take, updates=updates, reset=header.reset, pack=pack)
            try:
                await self._store.refresh(Revision(header.confirmed), take)
            except ConflictError as error:
                return str(error)
        return ""


async def _header(call: Call) -> pb.PushHeader:
    """The push's first message. DamageError."""
    first: pb.PushRequest | None = await call.read()
    if first is None or first.WhichOneof("message") != "header":
        raise DamageError("a push begins with its header")
    if len(first.header.updates) > UPDATES_MAX or first.header.size > PACK_BYTES_MAX:
        raise DamageError(f"a push of more than {UPDATES_MAX} refs, or {PACK_BYTES_MAX} bytes")
    return first.header


def _updates(header: pb.PushHeader) -> Updates:
    """What refs to move, in the order in which they do. RefusedError, DamageError."""
    updates: Updates = {}
    for update in header.updates:
        before, after = (CommitId(text) if text else None for text in (update.before, update.after))
        if any(commit is not None and not is_commit_id(commit) for commit in (before, after)):
            raise DamageError(f"{update.name[:200]!r}: not a commit id")
        if update.name not in {MAIN, ROLLOUT} and not replicated(update.name):
            raise RefusedError(f"a push may not move {update.name[:200]!r}")
        if after is None and not replicated(update.name):
            raise RefusedError(f"a push may not delete {update.name}")
        updates[update.name] = (before, after)
    return dict(sorted(updates.items(), key=_place))


def _place(update: tuple[str, tuple[CommitId | None, CommitId | None]]) -> int:
    """A hold is there before what it holds back; a line has its other name before main leaves it."""
    name, (_, after) = update
    if name == ROLLOUT:
        return 0
    if name == MAIN:
        return 2
    return 1 if after is not None else 3


def _take(repository: Repository, updates: Updates, *, reset: bool, pack: Transit) -> None:
    """In the repository's owner thread: objects, then refs. RefusedError when something would be lost."""
    if pack.size:
        repository.receive(pack.pieces(), bytes_max=INFLATED_BYTES_MAX)
    before, after = updates.get(MAIN, (None, None))
    if after is not None and before is not None and repository.ref(MAIN) == before:
        _check_main(repository, before, after, updates, reset=reset)
    repository.advance(updates)


def _check_main(repository: Repository, before: CommitId, after: CommitId, updates: Updates, *, reset: bool) -> None:
    common = shared(repository, after)
    if common is None:
        raise RefusedError(
            "the writer has another repository, whose r1 is not ours: keep one of them, and move config.git away from "
            "the data directory of the other manager while it does not run"
        )
    if common.id == before:
        return
    refs = {**repository.refs(), **{name: new for name, (_, new) in updates.items()}}
    kept = [tip for name, tip in refs.items() if replicated(name) and tip is not None]
    if not reset or not any(continues(repository, tip, before) for tip in kept):
        raise RefusedError(f"the writer's main line does not continue ours, {before[:8]}, and did not join it")


# ---------------------------------------------------------------------- messages


def _present(repository: Repository) -> tuple[dict[str, CommitId], Revision, Revision]:
    """All refs, number of main's, of the confirmed one on it: as of one moment."""
    refs = repository.refs()
    main, confirmed = refs.get(MAIN), refs.get(CONFIRMED)
    head = repository.commit(main).revision if main is not None else Revision(0)
    if confirmed is None or not repository.on_main(confirmed):
        return refs, head, Revision(0)
    return refs, head, Revision(min(repository.commit(confirmed).revision, head))


def _ids(repository: Repository, revisions: Sequence[Revision]) -> list[str]:
    head = repository.head()
    last = head.revision if head else 0
    return [repository.at(number).id if 0 < number <= last else "" for number in revisions]


def _commit_ids(texts: Sequence[str]) -> list[CommitId]:
    return [CommitId(text) for text in texts[:UPDATES_MAX] if is_commit_id(text)]


def _refs_pb(refs: Mapping[str, CommitId]) -> list[pb.Ref]:
    """Those that concern others: people may have tags of their own here."""
    said = [name for name in sorted(refs) if name in {MAIN, ROLLOUT, CONFIRMED} or replicated(name)]
    return [pb.Ref(name=name, id=refs[name]) for name in said]
