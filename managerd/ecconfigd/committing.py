"""Calls that change the repository: Commit, Publish, Import. On the writer; other managers pass them on, whole.

Contents are in memory while a commit runs, so all commits of operators together have one budget, those of nodes
another, smaller one, and a caller that is too slow to fill its part is ended. A bundle goes through a file without a
name. Rights to commit are the store's to check.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from jlogd.confrepo.model import CHANGED_FILES_MAX, FILE_BYTES_MAX, TREE_BYTES_MAX, Fault, Revision
from jlogd.runtime.errors import (
    ConflictError,
    DeadlineError,
    RefusedError,
    StorageError,
    UnavailableError,
    UsageError,
)
from managerd.ecconfigd.calls import Call, Caller
from managerd.ecconfigd.forwarding import Forwarding
from managerd.ecconfigd.seeing import Seeing
from managerd.ecconfigd.store import CommitRequest, Outcome, Result
from managerd.ecconfigd.wire import PIECE_BYTES, conflicts_of, edits_of, faults_of, revision_of
from managerd.v1 import config_pb2 as pb

if TYPE_CHECKING:
    from managerd.ecconfigd.service import Parts

BUNDLE_BYTES_MAX: Final = 2 << 30  # of an import: the largest tree, and as much history
INFLATED_BYTES_MAX: Final = 8 << 30  # what it may hold: versions of one file pack well
NODE_BYTES_MAX: Final = 128 << 20  # of what all nodes' commits have in memory: what a node saves of itself is small
CONTENTS_S: Final = 60.0  # a commit's contents take at most so long, and the time of the slowest line
SLOWEST_BYTES_S: Final = 1_000_000  # as eccfg has it
READY_S: Final = 10.0  # how long a commit waits for a writer that has just started
ROOM_S: Final = 60.0  # and for other commits' contents to leave the memory
FAULTS_SAID: Final = 20  # of an import's refusal


class Committing:
    """See the module."""

    def __init__(self, parts: "Parts", seeing: Seeing) -> None:
        """Nothing runs yet."""
        self._parts = parts
        self._seeing = seeing
        self._forwarding = Forwarding(parts.replication, parts.manager)
        self._room = Room(TREE_BYTES_MAX)
        self._room_of_nodes = Room(NODE_BYTES_MAX)
        self._importing = asyncio.Lock()

    @property
    def forwarding(self) -> Forwarding:
        """For other calls that only the writer answers."""
        return self._forwarding

    # ------------------------------------------------------------------ Commit and Publish

    async def commit(self, call: Call, _requests: object) -> pb.CommitResponse:
        """``ConfigService.Commit``."""
        first = await call.read()
        if first is None or first.WhichOneof("message") != "header":
            raise UsageError("a commit begins with its header")
        header = first.header
        who = call.for_whom(header.on_behalf_of)
        if not self._parts.replication.is_writer:
            answer = await self._forwarding.stream(call, who, "Commit", first)
            assert isinstance(answer, pb.CommitResponse)
            return answer
        await self._parts.replication.wait_ready(READY_S)
        by_node = who.role == "node"
        if by_node and header.prepare:
            raise UsageError("a commit of a node is not signed: there is nothing to prepare")
        faults = oversize(header, NODE_BYTES_MAX if by_node else TREE_BYTES_MAX)
        if faults:
            return pb.CommitResponse(outcome=pb.CommitResponse.OUTCOME_REFUSED, faults=faults_of(faults))
        room = self._room_of_nodes if by_node else self._room
        async with room.taken(sum(edit.put.size for edit in header.edits)):
            contents = await _contents(call, header)
            request = CommitRequest(
                header.message, edits_of(header, contents), header.base, header.dry_run, header.prepare,
                tuple(header.settles),
            )  # fmt: skip
            scope = await self._seeing.scope(who)
            result = await self._parts.store.commit(request, who.identity, scope)
        return await self._answer(result, who)

    async def publish(self, call: Call, request: pb.PublishRequest) -> pb.PublishResponse:
        """``ConfigService.Publish``."""
        who = call.for_whom(request.on_behalf_of)
        if not self._parts.replication.is_writer:
            answer = await self._forwarding.unary(call, who, "Publish", request)
            assert isinstance(answer, pb.PublishResponse)
            return answer
        result = await self._parts.store.publish(request.prepared, request.signature, who.identity)
        return pb.PublishResponse(result=await self._answer(result, who))

    async def _answer(self, result: Result, who: Caller) -> pb.CommitResponse:
        outcome = result.outcome
        if outcome is Outcome.COMMITTED and result.commit is not None:
            in_time = await self._confirmed(result.commit.revision)
            outcome = Outcome.COMMITTED if in_time else Outcome.UNCONFIRMED
        gate = await self._seeing.gate(who)
        answer = pb.CommitResponse(
            outcome=cast("pb.CommitResponse.Outcome.ValueType", int(outcome)),
            faults=faults_of(result.faults),
            conflicts=conflicts_of(result.conflicts),
            prepared=result.prepared,
            held=result.held,
            merged=result.merged,
            notes=result.notes,
        )
        if result.commit is not None:
            paths, own = gate.readable(result.paths), result.commit.author == who.identity  # else nothing was changed
            shown = revision_of(result.commit, confirmed=self._seeing.confirmed(), paths=paths, words=own)
            answer.revision.CopyFrom(shown)
        return answer

    async def _confirmed(self, revision: Revision) -> bool:
        return await self._parts.replication.wait_confirmed(revision, self._parts.push_timeout_s)

    # ------------------------------------------------------------------ Import

    async def import_(self, call: Call, _requests: object) -> pb.ImportResponse:
        """``ConfigService.Import``."""
        first = await call.read()
        if first is None:
            raise UsageError("an import begins with the bundle's first piece")
        who = call.for_whom(first.on_behalf_of)
        if not self._parts.replication.is_writer:
            answer = await self._forwarding.stream(call, who, "Import", first)
            assert isinstance(answer, pb.ImportResponse)
            return answer
        gate = await self._seeing.gate(who)
        gate.require_role("operator", "import a history")
        gate.require_everything("commit", "import a history")
        if self._importing.locked():
            raise UnavailableError("another import runs: try again when it is done")
        async with self._importing:
            await self._parts.replication.wait_ready(READY_S)
            return await self._import(call, first)

    async def _import(self, call: Call, first: pb.ImportRequest) -> pb.ImportResponse:
        store = self._parts.store
        before = store.head()
        with _spool(self._parts) as file:
            await _receive(call, first, file)
            tip = await store.write(
                lambda repository: repository.read_bundle(_pieces(file), bytes_max=INFLATED_BYTES_MAX)
            )
        result = await store.adopt(tip)
        if result.outcome is Outcome.CONFLICT:
            raise ConflictError("the bundle does not continue this repository's history: nothing was taken from it")
        if result.outcome not in {Outcome.COMMITTED, Outcome.NOTHING} or result.commit is None:
            said = "; ".join(str(fault) for fault in result.faults[:FAULTS_SAID])
            raise RefusedError(f"the bundle is refused, nothing was taken from it: {said or 'it has no revision'}")
        await self._confirmed(result.commit.revision)
        head = revision_of(result.commit, confirmed=self._seeing.confirmed(), paths=result.paths)
        return pb.ImportResponse(head=head, added=result.commit.revision - (before.revision if before else 0))


# ---------------------------------------------------------------------- what a commit brings


class Room:
    """Bytes of contents that all commits together may have in memory."""

    def __init__(self, limit: int) -> None:
        """All of it is free."""
        self._free = limit
        self._freed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """``size`` bytes, at most the limit, as soon as they are free. UnavailableError when that takes too long."""
        async with self._freed:
            try:
                async with asyncio.timeout(ROOM_S):
                    await self._freed.wait_for(lambda: self._free >= size)
            except TimeoutError:
                raise UnavailableError("other commits fill this manager's memory: try again in a minute") from None
            self._free -= size
        try:
            yield
        finally:
            self._free += size
            async with self._freed:
                self._freed.notify_all()


def oversize(header: pb.CommitHeader, bytes_max: int = TREE_BYTES_MAX) -> list[Fault]:
    """What is refused before a byte of it is read."""
    if len(header.edits) > CHANGED_FILES_MAX:
        return [Fault("", 0, f"{len(header.edits)} edits in one commit: at most {CHANGED_FILES_MAX}")]
    large = [edit.put for edit in header.edits if edit.put.size > FILE_BYTES_MAX]
    if large:
        return [Fault(put.path, 0, f"{put.size} bytes: at most {FILE_BYTES_MAX} are allowed") for put in large]
    total = sum(edit.put.size for edit in header.edits)
    if total > bytes_max:
        return [Fault("", 0, f"{total} bytes in one commit: at most {bytes_max}")]
    return []


async def _contents(call: Call, header: pb.CommitHeader) -> list[bytes]:
    """The contents of the header's puts. UsageError unless each is as long as announced, and nothing follows.

    DeadlineError when they drip.
    """
    puts = [edit.put for edit in header.edits if edit.WhichOneof("edit") == "put"]
    most_s = CONTENTS_S + sum(put.size for put in puts) / SLOWEST_BYTES_S
    try:
        async with asyncio.timeout(most_s):
            contents = [await _content(call, put) for put in puts]
            if await call.read() is not None:
                raise UsageError("more content than the header announces")
    except TimeoutError:
        raise DeadlineError(f"the contents did not come within {most_s:.0f} s: the call was ended") from None
    return contents


async def _content(call: Call, put: pb.Put) -> bytes:
    pieces: list[bytes] = []
    missing = put.size
    while missing:
        message = await call.read()
        piece = message.piece if message is not None else b""
        if not 0 < len(piece) <= missing:
            got = put.size - missing + len(piece)
            raise UsageError(f"{put.path}: {put.size} bytes were announced, and {got} sent")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


# ---------------------------------------------------------------------- what an import brings


@contextlib.contextmanager
def _spool(parts: "Parts") -> Iterator[BinaryIO]:
    """A file without a name in the manager's data directory. StorageError."""
    try:
        with tempfile.TemporaryFile(dir=parts.data) as file:
            yield file
    except OSError as error:
        raise StorageError(f"{parts.data}: {error.strerror or error}: the bundle cannot be kept") from error


async def _receive(call: Call, first: pb.ImportRequest, file: BinaryIO) -> None:
    """Write the bundle to ``file``. RefusedError when it is too large."""
    message: pb.ImportRequest | None = first
    size = 0
    while message is not None:
        size += len(message.piece)
        if size > BUNDLE_BYTES_MAX:
            raise RefusedError(f"the bundle is larger than {BUNDLE_BYTES_MAX >> 30} GiB")
        await asyncio.to_thread(file.write, message.piece)
        message = await call.read()
    await asyncio.to_thread(file.seek, 0)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece
