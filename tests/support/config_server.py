"""A manager's ConfigService as eccfg sees it, in memory: revisions, merges by file, what it was told to answer.

It speaks the real protocol on a loopback port without TLS, so that everything between the command line and the wire is
the real thing. It keeps no rules: what it refuses, a test told it to.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc

from jlogd.confrepo import model as m
from jlogd.confrepo.commits import compose
from jlogd.runtime.errors import ConflictError, JlogdError, RefusedError
from jlogd.runtime.rpc import REASON_KEY, server_options, status_code
from managerd.eccfg.index import blob_id
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc

Tree = dict[str, m.File]
_Outcome = pb.CommitResponse


@dataclass
class _Revision:
    files: Tree
    message: str
    author: str = "operator:local"

    def id(self, number: int) -> str:
        return hashlib.sha1(f"{number} {self.message}".encode(), usedforsecurity=False).hexdigest()


@dataclass
class ConfigServer(pb_grpc.ConfigServiceServicer):
    """See the module. ``with ConfigServer() as server``; ``server.address``.

    ``before_commit`` runs at the beginning of each Commit; ``faults``: what the next commits are refused for;
    ``cut_after``: a Tree ends with an error after so many files.
    """

    revisions: list[_Revision] = field(default_factory=list)
    faults: list[pb.Fault] = field(default_factory=list)
    before_commit: Callable[[], None] = lambda: None
    cut_after: int = 1 << 60
    unconfirmed: bool = False
    held: str = ""
    side_branches: list[pb.SideBranch] = field(default_factory=list)
    views: dict[tuple[str, int], Tree] = field(default_factory=dict)
    nodes: list[pb.Node] = field(default_factory=list)
    received: list[pb.CommitHeader] = field(default_factory=list)
    prepared_author: str = "operator:alice"
    before_publish: Callable[[], None] = lambda: None
    published: list[pb.PublishRequest] = field(default_factory=list)
    address: str = ""
    _prepared: dict[bytes, tuple[str, pb.CommitHeader, m.Changes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Serve."""
        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=server_options())
        pb_grpc.add_ConfigServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.stop(0).wait(10)

    # ------------------------------------------------------------------ for tests

    def add(self, changes: Mapping[str, m.File | bytes | None], message: str = "others") -> pb.Revision:
        """A revision by somebody else."""
        files = dict(self.revisions[-1].files) if self.revisions else {}
        for path, file in changes.items():
            if file is None:
                files.pop(path, None)
            else:
                files[path] = m.File(file) if isinstance(file, bytes) else file
        self.revisions.append(_Revision(files, message))
        return self.head()

    def head(self) -> pb.Revision:
        """Newest revision; empty when there is none."""
        return self._revision(len(self.revisions))

    @property
    def files(self) -> Tree:
        """Files at HEAD."""
        return self.revisions[-1].files

    def _revision(self, number: int) -> pb.Revision:
        if number == 0:
            return pb.Revision()
        found = self.revisions[number - 1]
        return pb.Revision(revision=number, id=found.id(number), author=found.author, message=found.message)

    def _number(self, rev: str) -> int:
        if rev in {"", "HEAD"}:
            return len(self.revisions)
        if rev.startswith("HEAD~"):
            return len(self.revisions) - int(rev[5:] or 1)
        for number in range(1, len(self.revisions) + 1):
            if rev == f"r{number}" or self._revision(number).id.startswith(rev):
                return number
        raise RefusedError(f"no revision {rev}")

    # ------------------------------------------------------------------ the service

    def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:  # noqa: N802 - the service's name
        return pb.StatusResponse(
            manager="m1", writer="m1", head=self.head(), confirmed=len(self.revisions), replicas_min=1,
            side_branches=self.side_branches,
        )  # fmt: skip

    def Log(self, request: pb.LogRequest, context: Any) -> pb.LogResponse:  # noqa: N802 - as above
        with _errors(context):
            return pb.LogResponse(revisions=[self._revision(self._number(request.until))], more=True)

    def Nodes(self, request: pb.NodesRequest, context: Any) -> pb.NodesResponse:  # noqa: N802 - the service's name
        return pb.NodesResponse(head=self.head(), nodes=self.nodes)

    def Tree(self, request: pb.TreeRequest, context: Any) -> Iterator[pb.TreeResponse]:  # noqa: N802 - the service's name
        with _errors(context):
            number = self._number(request.revision)
            if number == 0:
                raise RefusedError("there is no revision yet")
            since = self.revisions[self._number(request.since) - 1].files if request.since else {}
        files = self.revisions[number - 1].files
        yield pb.TreeResponse(revision=self._revision(number))
        for count, path in enumerate(sorted({*files, *since})):
            file = files.get(path)
            below = not request.path or path == request.path or path.startswith(request.path + "/")
            if since.get(path) == file or not below:
                continue
            if count >= self.cut_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the line was cut")
            if file is None:
                yield pb.TreeResponse(entry=pb.TreeEntry(path=path))
                continue
            entry = pb.TreeEntry(path=path, mode=file.mode, id=blob_id(file.content), size=len(file.content))
            yield pb.TreeResponse(entry=entry)
            yield from (pb.TreeResponse(piece=piece) for piece in _pieces(file.content, names=request.names_only))

    def Effective(self, request: pb.EffectiveRequest, context: Any) -> Iterator[pb.EffectiveResponse]:  # noqa: N802 - the service's name
        number = self._number(request.revision)
        yield pb.EffectiveResponse(revision=self._revision(number))
        for path, file in sorted(self.views[request.node, number].items()):
            yield pb.EffectiveResponse(file=pb.EffectiveFile(path=path, mode=file.mode, size=len(file.content)))
            yield from (pb.EffectiveResponse(piece=piece) for piece in _pieces(file.content, names=False))

    def Commit(self, requests: Iterator[pb.CommitRequest], context: Any) -> pb.CommitResponse:  # noqa: N802 - the service's name
        with _errors(context):
            self.before_commit()
            header = next(requests).header
            self.received.append(header)
            changes = self._changes(header, b"".join(request.piece for request in requests))
            if self.faults:
                return pb.CommitResponse(outcome=_Outcome.OUTCOME_REFUSED, faults=self.faults)
            if header.prepare:
                return self._prepare(header, changes)
            return self._commit(header, changes)

    def _prepare(self, header: pb.CommitHeader, changes: m.Changes) -> pb.CommitResponse:
        content = compose(m.ObjectId("0" * 40), None, self.prepared_author, 1_700_000_000, header.message)
        self._prepared[content] = self.head().id, header, changes
        return pb.CommitResponse(outcome=_Outcome.OUTCOME_PREPARED, prepared=content)

    def Publish(self, request: pb.PublishRequest, context: Any) -> pb.PublishResponse:  # noqa: N802 - as above
        with _errors(context):
            self.before_publish()
            self.published.append(request)
            head, header, changes = self._prepared.pop(request.prepared)
            if head != self.head().id:
                raise ConflictError("the head moved")
            return pb.PublishResponse(result=self._commit(header, changes))

    def _commit(self, header: pb.CommitHeader, changes: m.Changes) -> pb.CommitResponse:
        head = self.files if self.revisions else {}
        base = self.revisions[self._number(header.base) - 1].files if header.base else head
        both = [path for path, file in changes.items() if base.get(path) != head.get(path) != file]
        if both:
            conflicts = [_conflict(path, base, changes, head) for path in both]
            return pb.CommitResponse(outcome=_Outcome.OUTCOME_CONFLICT, conflicts=conflicts)
        if header.settles:
            self.side_branches = [each for each in self.side_branches if each.name not in header.settles]
        elif all(head.get(path) == file for path, file in changes.items()):
            return pb.CommitResponse(outcome=_Outcome.OUTCOME_NOTHING)
        if header.dry_run:
            return pb.CommitResponse(outcome=_Outcome.OUTCOME_GOOD)
        self.add(changes, header.message)
        outcome = _Outcome.OUTCOME_UNCONFIRMED if self.unconfirmed else _Outcome.OUTCOME_COMMITTED
        return pb.CommitResponse(outcome=outcome, revision=self.head(), merged=base != head, held=self.held)

    def _changes(self, header: pb.CommitHeader, contents: bytes) -> dict[str, m.File | None]:
        changes: dict[str, m.File | None] = {}
        head = self.files if self.revisions else {}
        for edit in header.edits:
            which = edit.WhichOneof("edit")
            if which == "put":
                changes[edit.put.path] = m.File(contents[: edit.put.size], edit.put.mode)
                contents = contents[edit.put.size :]
            elif which == "delete":
                changes |= dict.fromkeys(_below(head, edit.delete))
            elif which == "copy":
                if not edit.copy.overlay:
                    changes |= dict.fromkeys(_below(head, edit.copy.target))
                for path in _below(head, edit.copy.source):
                    changes[edit.copy.target + path.removeprefix(edit.copy.source)] = head[path]
            else:
                old = self.revisions[self._number(edit.rollback) - 1].files
                changes |= {path: old.get(path) for path in {*head, *old}}
        assert not contents, "more content than announced"
        return changes


def _below(files: Iterable[str], directory: str) -> list[str]:
    return [path for path in files if path == directory or path.startswith(directory + "/")]


def _pieces(content: bytes, *, names: bool) -> Iterator[bytes]:
    if not names:
        yield from (content[at : at + 1000] for at in range(0, len(content), 1000))


def _conflict(path: str, *sides: Any) -> pb.Conflict:
    contents = [side[path].content if side.get(path) is not None else None for side in sides]
    return pb.Conflict(path=path, base=contents[0], mine=contents[1], theirs=contents[2])


class _errors:  # noqa: N801 - reads as a statement
    """Ours become statuses with their reason, as a manager answers them."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, JlogdError):
            self._context.set_trailing_metadata(((REASON_KEY, error.reason),))
            self._context.abort(status_code(error), str(error))
