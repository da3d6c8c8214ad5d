"""One other manager as a client sees it: its refs, its history, objects to and fro.

Owns two channels: one for what is said here, one for people's calls that are passed on; so neither waits for the other.
All methods belong to the manager's loop; each call has a deadline. What the other side says is checked before it is
kept.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import grpc
import grpc.aio

from jlogd.confrepo.model import CommitId, Revision, is_commit_id
from jlogd.runtime.errors import DamageError, JlogdError
from jlogd.runtime.names import is_name
from jlogd.runtime.rpc import REASON_KEY, TlsFiles, call_error
from managerd.ecconfigd.channels import open_channel
from managerd.ecconfigd.transit import Transit
from managerd.ecconfigd.verdict import Verdict
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc

CALL_S: Final = 5.0  # a question that costs the other side nothing
STORE_S: Final = 30.0  # a change that it must bring to its disk, beside the time that the bytes take
SLOW_BYTES_S: Final = 64 << 10  # the slowest line that a repository may pass through
BULK_S: Final = 3600.0
LEAVE_S: Final = 30.0  # for calls on a channel that is given up: those that can end, end
REFS_MAX: Final = 10_000
PROBLEM_CHARACTERS_MAX: Final = 500
_Answer = TypeVar("_Answer")
Telling: TypeAlias = "grpc.aio.StreamUnaryCall[pb.TellRequest, pb.TellResponse]"


@dataclass(frozen=True, slots=True)
class Known:
    """What a manager said of itself."""

    manager: str
    writer: str
    refs: Mapping[str, CommitId]
    head: Revision
    confirmed: Revision


class Peer:
    """See the module. ``close`` once."""

    def __init__(self, address: str, tls: TlsFiles | None) -> None:
        """Nothing is dialled before the first call."""
        self.address = address
        self._tls = tls
        self._ours: grpc.aio.Channel | None = None
        self._passed: grpc.aio.Channel | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def channel(self) -> grpc.aio.Channel:
        """For calls that are passed on; the certificate's files are read when it is made. SettingsError."""
        if self._passed is None:
            self._passed = open_channel(self.address, self._tls)
        return self._passed

    async def close(self) -> None:
        """End what is under way."""
        for task in self._leaving:
            task.cancel()
        channels, self._ours, self._passed = (self._ours, self._passed), None, None
        for channel in channels:
            if channel is not None:
                await channel.close()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    # ------------------------------------------------------------------ what it has

    async def refs(self) -> Known:
        """Who it is, whom it follows, what it has. UnavailableError, DamageError."""
        answer = await self._call(self._replica().Refs(pb.RefsRequest(), timeout=CALL_S))
        if not is_name(answer.manager) or not is_name(answer.writer):
            raise DamageError(f"the manager at {self.address} does not say who it is")
        confirmed = Revision(min(answer.confirmed, answer.head))
        return Known(answer.manager, answer.writer, ids_of(answer.refs), Revision(answer.head), confirmed)

    async def history(self, revisions: Sequence[Revision]) -> list[CommitId | None]:
        """Ids of these revisions of its main line; None where it has none."""
        answer = await self._call(self._replica().History(pb.HistoryRequest(revisions=revisions), timeout=CALL_S))
        if len(answer.ids) != len(revisions):
            raise DamageError(f"{self.address} answered {len(answer.ids)} ids for {len(revisions)} revisions")
        return [_checked(text) for text in answer.ids]

    async def fetch(self, want: Sequence[CommitId], have: Sequence[CommitId], into: Transit) -> None:
        """A pack of what ``have`` does not reach. TooLargeError, DamageError."""
        call = self._replica().Fetch(pb.FetchRequest(want=want, have=have), timeout=BULK_S)
        try:
            async for message in call:
                await asyncio.to_thread(into.add, message.piece)
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from error
        finally:
            call.cancel()  # no effect on one that ended

    async def push(self, header: pb.PushHeader, pack: Transit) -> pb.PushResponse:
        """Its answer when all is on its disk, or when it refuses."""

        async def messages() -> AsyncIterator[pb.PushRequest]:
            yield pb.PushRequest(header=header)
            for piece in pack.pieces():
                yield pb.PushRequest(piece=piece)

        timeout_s = min(STORE_S + pack.size / SLOW_BYTES_S, BULK_S)
        answer = await self._call(self._replica().Push(messages(), timeout=timeout_s))
        answer.problem = answer.problem[:PROBLEM_CHARACTERS_MAX]
        return answer

    @contextlib.asynccontextmanager
    async def tell(self) -> AsyncIterator[Telling]:
        """A call that tells it of nodes, as long as the body runs; what the call fails with there is one of ours."""
        call = self._replica().Tell()
        verdict = Verdict(call)
        try:
            yield call
        except grpc.aio.AioRpcError as error:
            raise self._failed(verdict.of(error)) from error
        finally:
            call.cancel()  # no effect on one that ended

    # ------------------------------------------------------------------ calls

    def _replica(self) -> "pb_grpc.ReplicaServiceAsyncStub":
        if self._ours is None:
            self._ours = open_channel(self.address, self._tls)
        return pb_grpc.ReplicaServiceStub(self._ours)

    async def _call(self, call: Awaitable[_Answer]) -> _Answer:
        verdict = Verdict(call)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._failed(verdict.of(error)) from error

    def _failed(self, error: grpc.aio.AioRpcError) -> JlogdError:
        """As one of ours. A line that is broken is given up: the next one reads the certificate's files again."""
        if error.code() is grpc.StatusCode.UNAVAILABLE and not _answered(error):
            for channel in (self._ours, self._passed):
                if channel is not None:
                    task = asyncio.create_task(_leave(channel))
                    self._leaving.add(task)
                    task.add_done_callback(self._leaving.discard)
            self._ours = self._passed = None
        return call_error(error, f"manager at {self.address}")


def _answered(error: grpc.aio.AioRpcError) -> bool:
    """Whether the other manager itself said it."""
    return any(key == REASON_KEY for key, _ in error.trailing_metadata() or ())


async def _leave(channel: grpc.aio.Channel) -> None:
    with contextlib.suppress(Exception):
        await channel.close(LEAVE_S)


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
