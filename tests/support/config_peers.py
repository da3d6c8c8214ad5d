"""Peers of a manager's configuration services that say what they like: raw calls, raw Attach streams."""

import contextlib
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import grpc

from jlogd.attach import wire
from jlogd.attach.messages import AttachHello
from jlogd.forward.messages import PROTOCOL, Hello, Refusal
from jlogd.runtime.errors import JlogdError
from jlogd.runtime.rpc import TlsFiles, call_error, open_channel
from jlogd.v1 import attach_pb2
from managerd import pki
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc
from tests.support.certificates import files
from tests.support.fleet import Fleet

DEADLINE_S = 30.0
Outcome = pb.CommitResponse
WORD = "what db1 alone may know"
FIRST = {
    "global/app.toml": 'greeting = "hello"\n',
    "web/default/app.toml": "[server]\nport = 8080\n",
    "web/web1/only": "mine\n",
    "db/default/only": "of the db machines\n",
    "db/db1/secret.toml": f'word = "{WORD}"\n',
}


def add_manager(made: Fleet, *nodes: str) -> None:
    """A manager at the first revision, with a deny list; certificates of nodes, of operator alice, of manager m2."""
    deny = made.root / "pki/deny"
    deny.touch()
    m1 = made.manager("m1", config='writer = "m1"\n')
    m1.settings.write_text(m1.settings.read_text().replace("[tls]", f'[tls]\ndeny = "{deny}"'))
    for node in nodes:
        pki.issue("node", node, made.root / "pki")
    pki.issue("operator", "alice", made.root / "pki")
    pki.issue("manager", "m2", made.root / "pki")
    m1.start()
    m1.ready()
    with Peer(made, "alice") as alice:
        assert alice.commit(FIRST).outcome == Outcome.OUTCOME_COMMITTED


class Peer:
    """Whoever has this certificate, speaking to the manager as he likes."""

    def __init__(self, fleet: Fleet, name: str = "", tls: TlsFiles | None = None) -> None:
        """Dial."""
        self.channel = open_channel(fleet.managers["m1"].address, tls or files(fleet.root / "pki", name))
        self.stub: Any = pb_grpc.ConfigServiceStub(self.channel)
        self.replica: Any = pb_grpc.ReplicaServiceStub(self.channel)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.channel.close()

    def commit(self, files_: Mapping[str, str | bytes], message: str = "A change", **header: Any) -> pb.CommitResponse:
        """Put these files."""
        contents = [text.encode() if isinstance(text, str) else text for text in files_.values()]
        edits = [
            pb.Edit(put=pb.Put(path=path, mode=0o100644, size=len(content)))
            for path, content in zip(files_, contents, strict=True)
        ]
        return self.edit([*edits, *header.pop("edits", ())], contents, message, **header)

    def edit(
        self, edits: Sequence[pb.Edit], contents: Sequence[bytes] = (), message: str = "A change", **header: Any
    ) -> pb.CommitResponse:
        """Commit these edits."""
        first = pb.CommitRequest(header=pb.CommitHeader(message=message, edits=edits, **header))
        pieces = (
            pb.CommitRequest(piece=content[at : at + (1 << 20)])
            for content in contents
            for at in range(0, len(content), 1 << 20)
        )
        answer = self.stub.Commit(iter([first, *pieces]), timeout=DEADLINE_S)
        assert isinstance(answer, pb.CommitResponse)
        return answer

    def head(self) -> pb.Revision:
        """The newest revision."""
        answer: pb.StatusResponse = self.stub.Status(pb.StatusRequest(), timeout=DEADLINE_S)
        return answer.head


def refused(call: Callable[[], Any], reason: str = "not_permitted") -> str:
    """The call fails with that reason; its message."""
    try:
        answer = call()
        answers = list(answer) if hasattr(answer, "__next__") else [answer]
    except grpc.RpcError as error:
        found: JlogdError = call_error(error, "m1")
        assert found.reason == reason, (found.reason, str(found))
        return str(found)
    raise AssertionError(f"it was answered: {answers}")


class Node:
    """A stream of AttachService, message by message."""

    def __init__(self, peer: Peer) -> None:
        """Nothing is said."""
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        method: Any = peer.channel.stream_stream(
            wire.ATTACH_METHOD, request_serializer=None, response_deserializer=attach_pb2.AttachResponse.FromString
        )
        self._answers = method(iter(self._out.get, None), timeout=DEADLINE_S)

    def say(self, message: wire.ToManager) -> None:
        """To the manager."""
        self._out.put(wire.request_to_pb(message).SerializeToString())

    def hear(self, kind: type) -> Any:
        """The next message of a kind."""
        for message in map(wire.response_from_pb, self._answers):
            if isinstance(message, kind):
                return message
            assert not isinstance(message, Refusal), message
        raise AssertionError("the stream ended")

    def attach(self, name: str, subcluster: str, instance: bytes = b"i") -> None:
        """Say hello."""
        assert isinstance(self.hear(Hello), Hello)
        self.say(AttachHello(PROTOCOL, name, subcluster, "h", "m", instance))

    def end(self) -> None:
        """End the stream."""
        self._out.put(None)


@contextlib.contextmanager
def attached(fleet: Fleet, who: str, name: str, subcluster: str) -> Iterator[Node]:
    """A session begun."""
    with Peer(fleet, who) as peer:
        node = Node(peer)
        node.attach(name, subcluster)
        yield node
        node.end()
