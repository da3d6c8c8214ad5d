"""The client: signed commits, retries, errors by their reason, answers that break their own promises."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from jlogd.confrepo import model as m
from jlogd.confrepo.signing import verify
from jlogd.runtime.errors import ConflictError, DamageError, RefusedError, UnavailableError
from jlogd.runtime.rpc import TlsFiles
from managerd import pki
from managerd.eccfg.client import PUBLISH_TRIES, Client, Edit, _gather
from managerd.eccfg.identity import of_certificate
from managerd.v1 import config_pb2 as pb
from tests.support.config_server import ConfigServer

COMMITTED = pb.CommitResponse.OUTCOME_COMMITTED


@pytest.fixture
def client(server: ConfigServer, tmp_path: Path) -> Iterator[Client]:
    """With alice's certificate, to sign with."""
    pki.init(tmp_path / "pki")
    issued = pki.issue("operator", "alice", tmp_path / "pki")
    with grpc.insecure_channel(server.address) as channel:
        yield Client(channel, server.address, TlsFiles(tmp_path / "pki/ca.crt", issued.certificate, issued.key))


EDITS = [Edit.put("global/new", m.REGULAR, b"x" * 3_000_000), Edit.delete("web"), Edit.put("global/b", m.REGULAR, b"")]


def test_a_commit_is_signed_by_its_author(server: ConfigServer, client: Client, tmp_path: Path) -> None:
    """The signature holds for exactly what the manager prepared; contents larger than a message arrive whole."""
    assert client.commit(EDITS, "why").outcome == COMMITTED
    [published] = server.published
    who = verify(
        published.prepared, published.signature, ca_pem=(tmp_path / "pki/ca.crt").read_bytes(),
        denied=lambda _: False, author="operator:alice", time_s=int(time.time()),
    )  # fmt: skip
    assert who == "operator:alice"
    assert server.files["global/new"].content == b"x" * 3_000_000
    assert client.commit([Edit.put("global/c", m.REGULAR, b"")], "unsigned", sign=False).outcome == COMMITTED
    assert len(server.published) == 1


def test_a_head_that_moves_meanwhile_is_tried_again(server: ConfigServer, client: Client) -> None:
    """A few times, then the person is told."""
    left = [2]

    def somebody_else() -> None:
        if left[0]:
            left[0] -= 1
            server.add({f"global/other{left[0]}": b""})

    server.before_publish = somebody_else
    assert client.commit(EDITS, "why").outcome == COMMITTED
    assert len(server.published) == 3
    left[0] = 100
    with pytest.raises(ConflictError, match="try again"):
        client.commit([Edit.put("global/d", m.REGULAR, b"")], "why")
    assert len(server.published) == 3 + PUBLISH_TRIES


@pytest.mark.parametrize("author", ["operator:mallory", "manager:m1"])
def test_nothing_is_signed_for_somebody_else(server: ConfigServer, client: Client, author: str) -> None:
    server.prepared_author = author
    with pytest.raises(RefusedError, match="nothing was signed"):
        client.commit(EDITS, "why")
    assert server.published == []


def test_a_nodes_commit_is_not_signed(server: ConfigServer, tmp_path: Path) -> None:
    """Nobody checks a node's signature; put-running works with a node's certificate."""
    pki.init(tmp_path / "pki")
    issued = pki.issue("node", "web1", tmp_path / "pki")
    assert of_certificate(issued.certificate.read_bytes(), "x") == ("node", "web1")
    with grpc.insecure_channel(server.address) as channel:
        tls = TlsFiles(tmp_path / "pki/ca.crt", issued.certificate, issued.key)
        assert Client(channel, server.address, tls).commit(EDITS, "why").outcome == COMMITTED
    assert server.published == []


def test_a_file_that_changes_while_it_is_sent_stops_the_commit(server: ConfigServer, client: Client) -> None:
    edit = Edit.put_later("global/new", m.REGULAR, 10, lambda: b"shorter")
    with pytest.raises(ConflictError, match="changes while it is being sent"):
        client.commit([edit], "why", sign=False)
    assert len(server.revisions) == 1


@pytest.fixture
def die(server: ConfigServer) -> Iterator[Callable[[], None]]:
    """Ends the server in the middle of the call that asks for it, as kill -9 does; the call itself never answers."""
    over = threading.Event()

    def die() -> None:
        server._server.stop(0)
        over.wait(20)

    yield die
    over.set()


UNKNOWN = "whether the commit was stored is not known, 'eccfg log -n 3' shows it if it was: "


def test_a_manager_that_dies_over_a_commit_leaves_its_outcome_unknown(
    server: ConfigServer, client: Client, die: Callable[[], None]
) -> None:
    """It may be stored: the person is told how to find out, before what went wrong."""
    server.before_publish = die
    with pytest.raises(UnavailableError, match=UNKNOWN):
        client.commit(EDITS, "why")


def test_an_unsigned_commit_is_as_unknown(server: ConfigServer, client: Client, die: Callable[[], None]) -> None:
    server.before_commit = die
    with pytest.raises(UnavailableError, match=UNKNOWN):
        client.commit(EDITS, "why", sign=False)


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_stores_nothing_leaves_nothing_unknown(
    server: ConfigServer, client: Client, die: Callable[[], None], *, dry_run: bool
) -> None:
    """A check, the part of a signed commit before it is published, a manager that was not there to begin with."""
    server.before_commit = die
    with pytest.raises(UnavailableError) as caught:
        client.commit(EDITS, "why", dry_run=dry_run)
    assert "not known" not in str(caught.value)
    with pytest.raises(UnavailableError) as caught:
        client.commit(EDITS, "why", sign=False)
    assert "not known" not in str(caught.value)


def test_too_many_files_for_one_message_are_said_before_they_are_sent(server: ConfigServer, client: Client) -> None:
    edits = [Edit.delete(f"global/{'x' * 200}{i}") for i in range(25_000)]
    with pytest.raises(RefusedError, match="25000 files are too many"):
        client.commit(edits, "why")
    assert server.received == []


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([(None, b"x")], "more content than it announced"),
        ([(3, None), (None, b"ab"), (None, b"cd")], "more content"),
        ([(3, None), (None, b"ab"), (1, None)], "announced 3 bytes of a file and sent 2"),
        ([(3, None)], "sent 0"),
        ([(m.FILE_BYTES_MAX + 1, None)], "at most"),
    ],
)
def test_contents_are_exactly_as_long_as_announced(parts: list[tuple[int | None, bytes | None]], says: str) -> None:
    with pytest.raises(DamageError, match=says):
        list(_gather(parts, lambda size: size, "m1:7440"))


def test_contents_in_pieces() -> None:
    parts = [(3, None), (None, b"ab"), (None, b"c"), (0, None), (1, None), (None, b"d")]
    assert list(_gather(parts, lambda size: size, "m1")) == [(3, b"abc"), (0, b""), (1, b"d")]
