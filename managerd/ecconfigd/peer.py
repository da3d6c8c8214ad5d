"""One other manager as a client sees it: its refs, its history, objects to and fro.

Owns the channel. All methods belong to the manager's loop; each call has a deadline. What the
other side says is checked for size before it is kept.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import grpc
import grpc.aio

from jlogd.confrepo.model import TREE_BYTES_MAX, CommitId, Revision, is_commit_id
from jlogd.runtime.errors import DamageError
from jlogd.runtime.rpc import TlsFiles, call_error
from managerd.ecconfigd.channels import open_channel
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc

CALL_S = 5.0  # a question that costs the other side nothing
BULK_S = 600.0  # a whole repository over a slow line
PIECE_BYTES = 1 << 20
REFS_MAX = 10_000
_Answer = TypeVar("_Answer")


class Peer:
    """See the module. ``close`` once."""

    def __init__(self, address: str, tls: TlsFiles | None) -> None:
        """Nothing is dialled before the first call."""
        self.address = address
        self._tls = tls
        self._channel: grpc.aio.Channel | None = None

    def channel(self) -> grpc.aio.Channel:
        """The channel; the certificate's files are read when it is made."""
        if self._channel is None:
            self._channel = open_channel(self.address, self._tls)
        return self._channel

    async def close(self) -> None:
        """End what is under way."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def refs(self) -> pb.RefsResponse:
        """Who it is, whom it follows, what it has. UnavailableError, DamageError."""
        answer = await self._call(self._replica().Refs(pb.RefsRequest(), timeout=CALL_S))
        ids_of(answer.refs)
        return answer

    async def history(self, revisions: Sequence[Revision]) -> list[CommitId | None]:
        """Ids of these revisions of its main line; None where it has none."""
        answer = await self._call(self._replica().History(pb.HistoryRequest(revisions=revisions), timeout=CALL_S))
        if len(answer.ids) != len(revisions):
            raise DamageError(f"{self.address} answered {len(answer.ids)} ids for {len(revisions)} revisions")
        return [_checked(text) for text in answer.ids]

    async def fetch(self, want: Sequence[CommitId], have: Sequence[CommitId]) -> list[bytes]:
        """A pack of what ``have`` does not reach, in pieces; at most ``TREE_BYTES_MAX``."""
        pieces: list[bytes] = []
        size = 0
        call = self._replica().Fetch(pb.FetchRequest(want=want, have=have), timeout=BULK_S)
        try:
            async for message in call:
                size += len(message.piece)
                if size > TREE_BYTES_MAX:
                    raise DamageError(f"{self.address} sends more than {TREE_BYTES_MAX} bytes")
                pieces.append(message.piece)
        except grpc.aio.AioRpcError as error:
            raise call_error(error, f"manager at {self.address}") from error
        return pieces

    async def push(self, header: pb.PushHeader, pieces: Iterable[bytes]) -> pb.PushResponse:
        """Its answer when all is on its disk, or when it refuses."""

        async def messages() -> AsyncIterator[pb.PushRequest]:
            yield pb.PushRequest(header=header)
            for piece in pieces:
                yield pb.PushRequest(piece=piece)

        return await self._call(self._replica().Push(messages(), timeout=BULK_S if header.size else CALL_S * 2))

    def _replica(self) -> "pb_grpc.ReplicaServiceAsyncStub":
        return pb_grpc.ReplicaServiceStub(self.channel())

    async def _call(self, call: Awaitable[_Answer]) -> _Answer:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise call_error(error, f"manager at {self.address}") from error


def ids_of(refs: Sequence[pb.Ref]) -> dict[str, CommitId]:
    """Name → id of the refs that are there. DamageError for what is none."""
    if len(refs) > REFS_MAX:
        raise DamageError(f"{len(refs)} refs: at most {REFS_MAX} are taken")
    found = ((ref.name, _checked(ref.id)) for ref in refs)
    return {name: commit for name, commit in found if commit is not None}


def _checked(text: str) -> CommitId | None:
    if not text:
        return None
    if not is_commit_id(text):
        raise DamageError(f"{text[:50]!r} is not a commit id")
    return CommitId(text)


def updates_between(
    ours: Mapping[str, CommitId], theirs: Mapping[str, CommitId], replicated: Callable[[str], bool]
) -> dict[str, tuple[CommitId | None, CommitId | None]]:
    """What moves the other side's refs to ours: name → (before, after)."""
    names = sorted(name for name in {*ours, *theirs} if replicated(name))
    return {name: (theirs.get(name), ours.get(name)) for name in names if theirs.get(name) != ours.get(name)}
