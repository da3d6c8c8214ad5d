"""What other managers may ask of this one: its refs and history, its objects, and to follow the writer.

A push is taken from the manager that our own settings name as the writer, and from nobody else;
a manager that is the writer itself takes none. Objects are on disk before refs move, and refs
move by compare-and-set, the main line forward only unless the writer joined ours before.
"""

from collections.abc import Sequence

import grpc

from jlogd.confrepo.model import TREE_BYTES_MAX, CommitId, Revision, is_commit_id
from jlogd.confrepo.repository import MAIN, ROLLOUT, SIDE, Repository
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import ConflictError, DamageError, NotPermittedError, RefusedError
from managerd.ecconfigd.calls import Behaviour, Call, handler_of
from managerd.ecconfigd.committer import JOINED
from managerd.ecconfigd.peer import PIECE_BYTES
from managerd.ecconfigd.store import Store
from managerd.v1 import config_pb2 as pb

HISTORY_MAX = 1000
UPDATES_MAX = 10_000


class ReplicaReceiver:
    """Behaviours of ``managerd.v1.ReplicaService``; all belong to the manager's loop."""

    def __init__(self, store: Store, *, manager: str, writer: str, deny: DenyList) -> None:
        """``writer``: as our own settings say."""
        self._store = store
        self._manager = manager
        self._writer = writer
        self._deny = deny

    def handler(self) -> grpc.GenericRpcHandler:
        """For the server."""
        behaviours: dict[str, Behaviour] = {
            "Refs": self._refs,
            "History": self._history,
            "Fetch": self._fetch,
            "Push": self._push,
        }
        return handler_of(pb.DESCRIPTOR.services_by_name["ReplicaService"], behaviours, self._deny)

    async def _refs(self, call: Call, _request: pb.RefsRequest) -> pb.RefsResponse:
        _admit(call)
        head, confirmed = self._store.head(), self._store.confirmed()
        refs = await self._store.read(Repository.refs)
        return pb.RefsResponse(
            manager=self._manager,
            writer=self._writer,
            refs=_refs_pb(refs),
            head=head.revision if head else 0,
            confirmed=confirmed.revision if confirmed else 0,
        )

    async def _history(self, call: Call, request: pb.HistoryRequest) -> pb.HistoryResponse:
        _admit(call)
        asked = [Revision(number) for number in request.revisions[:HISTORY_MAX]]
        return pb.HistoryResponse(ids=await self._store.read(lambda repository: _ids(repository, asked)))

    async def _fetch(self, call: Call, request: pb.FetchRequest) -> None:
        _admit(call)
        want, have = _commit_ids(request.want), _commit_ids(request.have)
        for piece in await self._store.read(lambda repository: _pack(repository, want, have)):
            for at in range(0, len(piece), PIECE_BYTES):
                await call.write(pb.FetchResponse(piece=piece[at : at + PIECE_BYTES]))

    async def _push(self, call: Call, _requests: object) -> pb.PushResponse:
        who = _admit(call)
        header, pieces = await _read(call)
        problem = self._problem(header, who)
        if not problem:
            try:
                await self._store.write(lambda repository: _take(repository, header, pieces))
                await self._store.refresh(Revision(header.confirmed))
            except ConflictError as error:
                problem = str(error)
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


def _admit(call: Call) -> str:
    """The calling manager's name, empty without TLS. NotPermittedError for everybody else."""
    if not call.caller.certified:
        return ""
    if call.caller.role != "manager":
        raise NotPermittedError(f"{call.caller.identity} is not a manager: only managers replicate")
    return call.caller.name


async def _read(call: Call) -> tuple[pb.PushHeader, list[bytes]]:
    """The whole message: a push is all or nothing. DamageError."""
    first: pb.PushRequest | None = await call.read()
    if first is None or first.WhichOneof("message") != "header":
        raise DamageError("a push without a header")
    header = first.header
    if len(header.updates) > UPDATES_MAX or header.size > TREE_BYTES_MAX:
        raise DamageError("a push larger than may be")
    pieces: list[bytes] = []
    size = 0
    while (message := await call.read()) is not None and size <= header.size:
        size += len(message.piece)
        pieces.append(message.piece)
    if size != header.size:
        raise DamageError(f"a push of {size} bytes that says {header.size}")
    return header, pieces


def _take(repository: Repository, header: pb.PushHeader, pieces: list[bytes]) -> None:
    """In the repository's owner thread: objects, then refs."""
    updates: dict[str, tuple[CommitId | None, CommitId | None]] = {}
    for update in header.updates:
        if update.name not in {MAIN, ROLLOUT} and not update.name.startswith((SIDE, JOINED)):
            raise RefusedError(f"a push may not move {update.name[:200]!r}")
        before, after = (CommitId(text) if text else None for text in (update.before, update.after))
        if any(text is not None and not is_commit_id(text) for text in (before, after)):
            raise DamageError(f"{update.name}: not a commit id")
        updates[update.name] = (before, after)
    if pieces:
        repository.receive(pieces, bytes_max=TREE_BYTES_MAX)
    if MAIN in updates and not header.reset:
        before, after = updates[MAIN]
        if before is not None and (after is None or not _continues(repository, after, before)):
            raise RefusedError(f"the writer's main line does not continue ours at {before[:8]}")
    if updates:
        repository.advance(updates)


def _continues(repository: Repository, new: CommitId, old: CommitId) -> bool:
    at: CommitId | None = new
    floor = repository.commit(old).revision
    while at is not None and at != old:
        commit = repository.commit(at)
        at = commit.parent if commit.revision > floor else None
    return at == old


def _pack(repository: Repository, want: Sequence[CommitId], have: Sequence[CommitId]) -> list[bytes]:
    missing = [commit for commit in want if commit not in repository.store]
    if missing:
        raise RefusedError(f"no commit {missing[0][:8]} here")
    return list(repository.pack(want, [commit for commit in have if commit in repository.store]))


def _ids(repository: Repository, revisions: Sequence[Revision]) -> list[str]:
    head = repository.head()
    last = head.revision if head else 0
    return [repository.at(number).id if 0 < number <= last else "" for number in revisions]


def _commit_ids(texts: Sequence[str]) -> list[CommitId]:
    return [CommitId(text) for text in texts[:UPDATES_MAX] if is_commit_id(text)]


def _refs_pb(refs: dict[str, CommitId]) -> list[pb.Ref]:
    return [pb.Ref(name=name, id=commit) for name, commit in sorted(refs.items())]
