"""Typed calls of the manager's ConfigService: one method each, streams as iterators, errors as ours.

* An error is mapped back by its ``jlogd-reason``; a connection that fails becomes UnavailableError
  with what ``diagnose`` found. Every call but ``watch`` has a deadline. When the request of a change may have
  arrived and no answer came, the error says that nobody knows, and how to find out.
* ``commit`` streams contents as they are read, and signs: prepare → sign → publish. A head that
  moves between the two is tried again, up to ``PUBLISH_TRIES`` times.
* Contents that come in pieces are put together here, and nothing larger than was announced is taken.

Not thread-safe; owned by the command that opened it.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from jlogd.confrepo import model as m
from jlogd.runtime.certificates import diagnose
from jlogd.runtime.errors import (
    ConflictError,
    DamageError,
    DeadlineError,
    JlogdError,
    RefusedError,
    UnavailableError,
)
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import MESSAGE_MAX, REASON_KEY, TlsFiles, call_error, never_sent
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc

PUBLISH_TRIES = 5  # a head that moves five times within seconds is a storm: the person decides
CALL_S = 30.0
COMMIT_S = 180.0  # the writer's checks and the other managers' disks are within it
BULK_S = 1800.0  # a whole repository over a slow line
PIECE_BYTES = 1 << 20
STORED = "whether the commit was stored is not known, 'eccfg log -n 3' shows it if it was"
TAKEN = "whether the history was taken is not known, 'eccfg log -n 3' shows it if it was"
CONDUCTED = "whether that was done is not known, see 'eccfg rollout status'"
Outcome = pb.CommitResponse
_Answer = TypeVar("_Answer")


class UnreachableError(UnavailableError):
    """Our own connection to the manager failed: nobody there said so."""


_NO_ANSWER = (UnreachableError, DeadlineError, JlogdError)  # the last: it failed in the middle


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit, and for a put the means to read its content when it is sent."""

    message: pb.Edit
    read: Callable[[], bytes] | None = None

    @classmethod
    def put(cls, path: str, mode: int, content: bytes) -> "Edit":
        """A file with this content."""
        return cls.put_later(path, mode, len(content), lambda: content)

    @classmethod
    def put_later(cls, path: str, mode: int, size: int, read: Callable[[], bytes]) -> "Edit":
        """A file whose content is read when its turn comes; it must still be ``size`` long then."""
        return cls(pb.Edit(put=pb.Put(path=path, mode=mode, size=size)), read)

    @classmethod
    def delete(cls, path: str) -> "Edit":
        """A file, or a directory with everything in it."""
        return cls(pb.Edit(delete=path))


@dataclass(frozen=True, slots=True)
class Change:
    """A file of an answer: ``content`` None when only names were asked for; ``mode`` 0: it is not there any more."""

    path: str
    mode: int
    id: str
    size: int
    content: bytes | None


@dataclass(frozen=True, slots=True)
class EffectiveFile:
    """A file of a node's view, and the layers that it comes from."""

    path: str
    mode: int
    layers: tuple[str, ...]
    content: bytes


@dataclass(slots=True)
class Streamed:
    """An answer that begins with a revision. Iterate ``changes`` once; ``revision`` is known at once."""

    revision: pb.Revision
    changes: Iterator[Change] = field(default_factory=lambda: iter(()))


class Client:
    """See the module."""

    def __init__(self, channel: grpc.Channel, address: str, tls: TlsFiles | None, *, fs: FileSystem = OS) -> None:
        """The channel's owner closes it. ``tls``: for signing, and for messages."""
        self.address = address
        self._stub = pb_grpc.ConfigServiceStub(channel)
        self._tls = tls
        self._fs = fs

    # ------------------------------------------------------------------ committing

    def commit(
        self,
        edits: Sequence[Edit],
        message: str,
        *,
        base: str = "",
        sign: bool = True,
        dry_run: bool = False,
        settles: Sequence[str] = (),
    ) -> pb.CommitResponse:
        """One revision, or why not: see the outcome. ``sign`` has no effect without an operator's certificate."""
        header = pb.CommitHeader(
            base=base,
            message=message,
            edits=[edit.message for edit in edits],
            dry_run=dry_run,
            settles=settles,
        )
        signer = self._signer(message) if sign and not dry_run and edits else None
        header.prepare = signer is not None
        if header.ByteSize() > MESSAGE_MAX - (64 << 10):
            raise RefusedError(f"{len(edits)} files are too many for one commit: commit one directory after the other")
        for _ in range(PUBLISH_TRIES):
            answer = self._send(header, edits)
            if signer is None or answer.outcome != Outcome.OUTCOME_PREPARED:
                return answer
            published = self._publish(answer.prepared, signer(answer.prepared))
            if published is not None:
                published.merged = published.merged or answer.merged
                published.held = published.held or answer.held
                return published
        raise ConflictError(
            f"others committed to {self.address} {PUBLISH_TRIES} times while this commit was being signed: try again"
        )

    def _send(self, header: pb.CommitHeader, edits: Sequence[Edit]) -> pb.CommitResponse:
        sending = _Sending(header, edits)
        future = self._stub.Commit.future(sending.requests(), timeout=COMMIT_S + _upload_s(header))
        sending.end_by(future.cancel)
        try:
            return self._call(future.result, unknown="" if header.prepare or header.dry_run else STORED)
        except (JlogdError, grpc.FutureCancelledError) as error:
            if sending.error is not None:
                raise sending.error from error
            raise

    def _publish(self, prepared: bytes, signature: bytes) -> pb.CommitResponse | None:
        """None: the head moved since it was prepared."""
        request = pb.PublishRequest(prepared=prepared, signature=signature)
        try:
            result = self._call(lambda: self._stub.Publish(request, timeout=COMMIT_S), unknown=STORED).result
        except ConflictError:
            return None
        return None if result.outcome == Outcome.OUTCOME_CONFLICT and not result.conflicts else result

    def _signer(self, message: str) -> Callable[[bytes], bytes] | None:
        """How our key signs what was prepared for us; None without an operator's certificate."""
        if self._tls is None:
            return None
        from managerd.eccfg import identity  # noqa: PLC0415 - takes cryptography in, 0.1 s that reading does not need

        return identity.signer(self._tls, message, fs=self._fs)

    # ------------------------------------------------------------------ reading

    def tree(self, revision: str = "", *, since: str = "", names_only: bool = False, path: str = "") -> Streamed:
        """Files of a revision, or what changed since another one; contents come as they are iterated."""
        request = pb.TreeRequest(revision=revision, since=since, names_only=names_only, path=path)
        answers = self._stream(lambda: self._stub.Tree(request, timeout=BULK_S))
        first = next(answers, None)
        if first is None or first.WhichOneof("message") != "revision":
            raise DamageError(f"{self.address} answered a tree without its revision")
        return Streamed(first.revision, self._changes(answers, names_only=names_only))

    def _changes(self, answers: Iterator[pb.TreeResponse], *, names_only: bool) -> Iterator[Change]:
        entries = (
            (answer.entry, None) if answer.WhichOneof("message") == "entry" else (None, answer.piece)
            for answer in answers
        )
        for entry, content in _gather(entries, lambda entry: 0 if names_only else entry.size, self.address):
            there = entry.mode != 0 and not names_only
            yield Change(entry.path, entry.mode, entry.id, entry.size, content if there else None)

    def log(self, path: str = "", *, until: str = "", limit: int = 0) -> pb.LogResponse:
        """Revisions, newest first; ``more``: ask again with ``until``."""
        return self._call(lambda: self._stub.Log(pb.LogRequest(path=path, until=until, limit=limit), timeout=CALL_S))

    def cat(self, path: str, *, revision: str = "", node: str = "") -> pb.CatResponse:
        """One file of the repository, or of a node's view."""
        request = pb.CatRequest(path=path, revision=revision, node=node)
        return self._call(lambda: self._stub.Cat(request, timeout=CALL_S))

    def blame(self, path: str, *, revision: str = "") -> pb.BlameResponse:
        """Each line with the revision that last changed it."""
        return self._call(lambda: self._stub.Blame(pb.BlameRequest(path=path, revision=revision), timeout=BULK_S))

    def explain(self, path: str, key: str = "", *, node: str, revision: str = "") -> pb.ExplainResponse:
        """Which layer gives each value of a file of the node's view."""
        request = pb.ExplainRequest(path=path, key=key, node=node, revision=revision)
        return self._call(lambda: self._stub.Explain(request, timeout=BULK_S))

    def effective(self, node: str, *, revision: str = "") -> tuple[pb.EffectiveResponse, Iterator[EffectiveFile]]:
        """How the answer begins, and the node's view, file by file as they come."""
        request = pb.EffectiveRequest(node=node, revision=revision)
        answers = self._stream(lambda: self._stub.Effective(request, timeout=BULK_S))
        first = next(answers, None)
        if first is None or first.WhichOneof("message") != "revision":
            raise DamageError(f"{self.address} answered a view without its revision")
        return first, self._view(answers)

    def _view(self, answers: Iterator[pb.EffectiveResponse]) -> Iterator[EffectiveFile]:
        files = (
            (answer.file, None) if answer.WhichOneof("message") == "file" else (None, answer.piece)
            for answer in answers
        )
        for file, content in _gather(files, lambda file: file.size, self.address):
            yield EffectiveFile(file.path, file.mode, tuple(file.layers), content)

    def nodes(self) -> pb.NodesResponse:
        """Who runs what."""
        return self._call(lambda: self._stub.Nodes(pb.NodesRequest(), timeout=CALL_S))

    def watch(self, *, state: bool = False, timeout_s: float | None = None) -> Iterator[pb.WatchResponse]:
        """Events from now on, without end, or until DeadlineError; ``state``: the present state first."""
        return self._stream(lambda: self._stub.Watch(pb.WatchRequest(state=state), timeout=timeout_s))

    def status(self, *, timeout_s: float = CALL_S) -> pb.StatusResponse:
        """Head, confirmed revision, writer, peers, side branches."""
        return self._call(lambda: self._stub.Status(pb.StatusRequest(), timeout=timeout_s))

    def rollout(self, request: pb.RolloutRequest) -> pb.RolloutResponse:
        """start, status, pause, resume, abort."""
        unknown = "" if request.action == pb.RolloutRequest.ACTION_STATUS else CONDUCTED
        return self._call(lambda: self._stub.Rollout(request, timeout=CALL_S), unknown=unknown)

    # ------------------------------------------------------------------ bundles

    def export(self, revision: str = "") -> Iterator[bytes]:
        """The whole history as a git bundle, in pieces."""
        answers = self._stream(lambda: self._stub.Export(pb.ExportRequest(revision=revision), timeout=BULK_S))
        return (answer.piece for answer in answers)

    def import_bundle(self, pieces: Iterable[bytes]) -> pb.ImportResponse:
        """Take the history of a git bundle."""
        requests = (
            pb.ImportRequest(piece=piece[at : at + PIECE_BYTES])
            for piece in pieces
            for at in range(0, len(piece), PIECE_BYTES)
        )
        return self._call(lambda: self._stub.Import(requests, timeout=BULK_S), unknown=TAKEN)

    # ------------------------------------------------------------------ errors

    def _call(self, call: Callable[[], _Answer], *, unknown: str = "") -> _Answer:
        """``unknown``: what is not known when the request may have arrived, and no answer came."""
        try:
            return call()
        except grpc.RpcError as error:
            ours = self._error(error)
            if unknown and type(ours) in _NO_ANSWER and not _is_answer(error) and not never_sent(error):
                raise type(ours)(f"{unknown}: {ours}") from error
            raise ours from error

    def _stream(self, call: Callable[[], Iterable[_Answer]]) -> Iterator[_Answer]:
        answers = self._call(call)
        try:
            yield from answers
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            cancel = getattr(answers, "cancel", None)  # whoever stops reading ends the call
            if cancel is not None:
                cancel()

    def _error(self, error: grpc.RpcError) -> JlogdError:
        """Ours again, by its reason; one of the connection, by what can be found out about that."""
        ours = call_error(error, self.address)
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return RefusedError(f"{self.address} keeps no configuration: its managerd.toml needs a [config] section")
        if isinstance(ours, UnavailableError) and not _is_answer(error):
            found = diagnose(self.address, self._tls)
            return UnreachableError(found[1] if found else str(ours))
        return ours


def _is_answer(error: grpc.RpcError) -> bool:
    """Whether the manager itself said so."""
    pairs: Any = error.trailing_metadata() or ()
    return REASON_KEY in dict(tuple(pairs))


# ---------------------------------------------------------------------- pieces


class _Sending:
    """The messages of one commit. An error while reading ends the call and is kept: nothing half sent is committed."""

    def __init__(self, header: pb.CommitHeader, edits: Sequence[Edit]) -> None:
        self.error: Exception | None = None
        self._header = header
        self._edits = edits
        self._end: Callable[[], object] = lambda: None
        self._can_end = threading.Event()  # the call is begun before anybody can tell how to end it

    def end_by(self, end: Callable[[], object]) -> None:
        """How the call is ended; must be said right after it was begun."""
        self._end = end
        self._can_end.set()

    def requests(self) -> Iterator[pb.CommitRequest]:
        """Header, then contents in pieces; runs in a thread of the channel."""
        try:
            yield pb.CommitRequest(header=self._header)
            for edit in self._edits:
                for piece in _pieces(edit):
                    yield pb.CommitRequest(piece=piece)
        except (JlogdError, OSError) as error:
            self.error = error
            self._can_end.wait(CALL_S)
            self._end()


def _pieces(edit: Edit) -> Iterator[bytes]:
    content = edit.read() if edit.read is not None else b""
    if len(content) != edit.message.put.size:
        raise ConflictError(f"{edit.message.put.path} changes while it is being sent: try again")
    for at in range(0, len(content), PIECE_BYTES):
        yield content[at : at + PIECE_BYTES]


def _upload_s(header: pb.CommitHeader) -> float:
    """A slow line's time for the contents: 1 MB a second."""
    return sum(edit.put.size for edit in header.edits) / 1e6


_Head = TypeVar("_Head")


def _gather(
    parts: Iterable[tuple[_Head | None, bytes | None]], size_of: Callable[[_Head], int], address: str
) -> Iterator[tuple[_Head, bytes]]:
    """Heads with the pieces that follow each. DamageError unless each content is as long as announced."""
    head: _Head | None = None
    content = bytearray()
    wanted = 0
    for following, piece in parts:
        if following is None:
            content += piece or b""
            if head is None or len(content) > wanted:
                raise DamageError(f"{address} sent more content than it announced")
            continue
        if head is not None:
            yield head, _whole(content, wanted, address)
        head, wanted = following, size_of(following)
        if wanted > m.FILE_BYTES_MAX:
            raise DamageError(f"{address} announced a file of {wanted} bytes; at most {m.FILE_BYTES_MAX} are allowed")
        content = bytearray()
    if head is not None:
        yield head, _whole(content, wanted, address)


def _whole(content: bytearray, wanted: int, address: str) -> bytes:
    if len(content) != wanted:
        raise DamageError(f"{address} announced {wanted} bytes of a file and sent {len(content)}")
    return bytes(content)
