"""Sessions that must not be: each a clear error at both ends, nothing lost, nothing appended that is not sound."""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from jlogd.forward import wire  # before grpc: it makes grpc keep its handshakes to itself
from jlogd.forward.messages import JournalOffer, JournalResume, Kind, NodeHello, Refusal, Welcome
from jlogd.journal import Journal, Offset
from jlogd.runtime.errors import SettingsError
from jlogd.runtime.rpc import (
    DELIVER_METHOD,
    Frames,
    TlsFiles,
    check_own_certificate,
    encode_request,
    open_channel,
)
from jlogd.v1 import deliver_pb2 as pb
from managerd import pki
from tests.support.certificates import files, forge
from tests.support.fleet import Fleet, Tail
from tests.support.sessions import Bench, Manager, bench, until


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


def refused(fleet: Bench, manager: Manager, words: str, **more: Any) -> str:
    """Node ``a`` is refused with a line that holds ``words``; nothing of it is acknowledged. Returns the line."""
    node = fleet.node()
    node.write(10)
    forwarder = node.forward(manager.address, **more)
    until(lambda: forwarder.status()["state"] == "refused")
    status = forwarder.status()
    assert words in status["error"], status
    assert not node.journals["main"].subscriber(str(more.get("subscriber", "m1"))).acknowledged
    return str(status["error"])


# ---------------------------------------------------------------------- certificates


def test_a_nodes_certificate_cannot_pose_as_a_manager(fleet: Bench) -> None:
    """It lacks the name that nodes demand, whatever else it says."""
    tls = forge(fleet.pki, "posing", uris=("jlogd:node:posing",), dns=("localhost", "127.0.0.1"))
    refused(fleet, fleet.manager(tls=tls), "is not a manager's (it lacks manager.jlogd)")


def test_an_expired_certificate_of_the_manager(fleet: Bench) -> None:
    """The node says which one, and what to do."""
    tls = forge(fleet.pki, "old", uris=("jlogd:manager:m1",), dns=("manager.jlogd",), end_days=-1.0)
    refused(fleet, fleet.manager(tls=tls), "has expired: issue the manager a new one")


def test_an_expired_certificate_of_the_node(fleet: Bench) -> None:
    """Found at the handshake, and before it by the check at the start."""
    tls = forge(fleet.pki, "late", uris=("jlogd:node:a",), end_days=-1.0)
    manager = fleet.manager()
    forwarder = fleet.node().forward(manager.address, tls=tls)
    until(lambda: "does not accept our certificate" in (forwarder.status()["error"] or ""))
    with pytest.raises(SettingsError, match="expired on"):
        check_own_certificate(tls.cert, "node", "a")


def test_a_certificate_of_another_authority(fleet: Bench, tmp_path: Path) -> None:
    """Neither side takes it."""
    pki.init(tmp_path / "foreign")
    pki.issue("node", "a", tmp_path / "foreign")
    foreign = files(tmp_path / "foreign", "a")
    manager = fleet.manager()
    refused(fleet, manager, "was not issued by our authority", tls=foreign)
    mixed = TlsFiles(fleet.pki / "ca.crt", foreign.cert, foreign.key)
    node = fleet.node("b")
    forwarder = node.forward(manager.address, tls=mixed)
    until(lambda: "does not accept our certificate" in (forwarder.status()["error"] or ""))


def test_a_denied_certificate_at_start_and_while_it_is_used(fleet: Bench) -> None:
    """``pki revoke`` refuses new sessions and cuts off live ones within seconds."""
    manager = fleet.manager()
    node = fleet.node()
    forwarder = node.forward(manager.address)
    until(lambda: forwarder.status()["state"] == "streaming")
    pki.revoke("a", fleet.pki)
    until(lambda: forwarder.status()["state"] == "refused")
    assert "certificate_denied" in forwarder.status()["error"]
    node.write(5)
    forwarder.reconnect()
    until(lambda: "is on the deny list" in (forwarder.status()["error"] or ""))
    assert "certificate_denied" in (manager.error("a") or "")
    assert not node.delivered()


def test_a_certificate_of_another_role_or_name(fleet: Bench) -> None:
    """Only a node's certificate delivers, and only under its own name."""
    manager = fleet.manager()
    fleet.issue("node", "b")
    fleet.issue("manager", "m2")
    refused(fleet, manager, "calls itself a, its certificate was issued to b", tls=files(fleet.pki, "b"))
    assert "name_mismatch" in (manager.error("b") or "")
    forwarder = fleet.node("c").forward(manager.address, tls=files(fleet.pki, "m2"))
    until(lambda: "a manager's certificate (m2) cannot deliver" in (forwarder.status()["error"] or ""))


def test_nobody_listens(fleet: Bench) -> None:
    """One line, and no refusal: the manager may come."""
    manager = fleet.manager()
    address = manager.address
    manager.stop()
    forwarder = fleet.node().forward(address)
    until(lambda: "refuses connections" in (forwarder.status()["error"] or ""))
    assert forwarder.status()["state"] == "backoff"


# ---------------------------------------------------------------------- names, versions, epochs


def test_subscriber_mismatch(fleet: Bench) -> None:
    """Both ends name both names."""
    manager = fleet.manager()
    error = refused(fleet, manager, "consumes as subscriber 'm1'", subscriber="other")
    assert "subscriber_mismatch" in error
    assert "subscriber_mismatch" in until(lambda: manager.error("a"))


def test_an_older_epoch(fleet: Bench) -> None:
    """An older copy of the data directory is refused by the node."""
    first = fleet.manager(epoch=5)
    node = fleet.node()
    node.write(3)
    forwarder = node.forward(first.address)
    until(node.delivered)
    address = first.address
    first.stop()
    fleet.manager("m1", epoch=4, listen=address)
    until(lambda: "epoch 5 was seen" in (forwarder.status()["error"] or ""))
    assert forwarder.status()["state"] == "refused"


def test_a_second_live_host_of_the_same_name(fleet: Bench, tmp_path: Path) -> None:
    """The second one is refused, both hosts are named; it is taken when the first one is gone."""
    manager = fleet.manager()
    node = fleet.node()
    first = node.forward(manager.address, host="host-1", machine_id="machine-1", instance=b"1")
    until(lambda: first.status()["state"] == "streaming")
    second = node.forward(manager.address, host="host-2", machine_id="machine-2", instance=b"2")
    until(lambda: second.status()["state"] == "refused")
    assert "host-1" in second.status()["error"]
    assert "host-2" in second.status()["error"]
    assert first.status()["state"] == "streaming"
    assert first.stop(5.0)
    until(lambda: manager.server.nodes()[0]["state"] == "silent")
    second.reconnect()
    until(lambda: second.status()["state"] == "streaming")


# ---------------------------------------------------------------------- a hostile client


class Hostile:
    """Speaks the protocol by hand, with a node's own certificate."""

    def __init__(self, fleet: Bench, manager: Manager, journal: Journal) -> None:
        """Connect."""
        if not (fleet.pki / "evil.crt").exists():
            fleet.issue("node", "evil")
        self._where = fleet, manager
        self._out: queue.SimpleQueue[pb.DeliverRequest | Frames | None] = queue.SimpleQueue()
        self._channel = open_channel(manager.address, files(fleet.pki, "evil"))
        deliver = self._channel.stream_stream(
            DELIVER_METHOD, request_serializer=encode_request, response_deserializer=pb.DeliverResponse.FromString
        )
        self.journal = journal
        self._call = deliver(iter(self._out.get, None))

    def again(self) -> "Hostile":
        """One more connection of the same node."""
        return Hostile(*self._where, self.journal)

    def receive(self) -> wire.ToNode:
        """The next message."""
        return wire.response_from_pb(next(self._call))

    def send(self, message: wire.ToManager | pb.DeliverRequest | Frames) -> None:
        """Any message."""
        if isinstance(message, pb.DeliverRequest | Frames):
            self._out.put(message)
        else:
            self._out.put(wire.request_to_pb(message))

    def hello(self, **more: Any) -> None:
        """A NodeHello, with what ``more`` says otherwise."""
        journal = self.journal
        offer = JournalOffer("main", journal.id, Offset(0), journal.end, Offset(0))
        fields = {
            "protocol": 1, "node": "evil", "subcluster": "default", "subscriber": "m1", "host": "h",
            "machine_id": "m", "instance": b"i", "journals": (offer,), **more,
        }  # fmt: skip
        self.receive()
        self.send(NodeHello(**fields))

    def begin(self) -> None:
        """Up to the point where frames may be sent."""
        self.hello()
        assert isinstance(self.receive(), Welcome)
        self.send((JournalResume(Kind.BEGIN, Offset(0), bytes(16)),))

    def frames(self, *frames: bytes, length: int | None = None, index: int = 0) -> None:
        """A `frames` message."""
        message = b"".join(wire.ENTRY.pack(index, len(frame) if length is None else length) + frame for frame in frames)
        self.send(Frames([message], len(message)))

    def refusal(self) -> Refusal:
        """Everything up to the refusal, which must come."""
        try:
            while True:
                message = self.receive()
                if isinstance(message, Refusal):
                    return message
        finally:
            self._out.put(None)
            self._channel.close()


@pytest.fixture
def hostile(fleet: Bench, tmp_path: Path) -> Iterator[tuple[Manager, Hostile, list[bytes]]]:
    manager = fleet.manager()
    with Journal.open(tmp_path / "evil") as journal:
        frames = []
        for number in range(3):
            journal.append_lines(b"line %d\n" % number)
        journal.commit()
        with journal.reader() as reader:
            frames = [bytes(view.frame) for view in reader.frames(0)]
        yield manager, Hostile(fleet, manager, journal), frames


def test_a_frame_with_a_flipped_bit(hostile: tuple[Manager, Hostile, list[bytes]]) -> None:
    """What came before it counts, the frame and what follows does not."""
    manager, client, frames = hostile
    broken = bytearray(frames[1])
    broken[130] ^= 1
    client.begin()
    client.frames(frames[0], bytes(broken), frames[2])
    refusal = client.refusal()
    assert refusal.reason == "damage"
    assert "checksum" in refusal.message
    assert "damage" in until(lambda: manager.error("evil"))
    manager.stop()
    assert manager.records("evil") == [b"line 0"]


def test_a_frame_at_the_wrong_offset(hostile: tuple[Manager, Hostile, list[bytes]]) -> None:
    """Compare-and-set: a frame that does not begin at the replica's end ends the session."""
    manager, client, frames = hostile
    client.begin()
    client.frames(frames[0], frames[2])
    refusal = client.refusal()
    assert (refusal.reason, "begins at 2, the replica ends at 1" in refusal.message) == ("offset", True)
    manager.stop()
    assert manager.records("evil") == [b"line 0"]


@pytest.mark.parametrize("length", [0, 7, 127, 1 << 31, (1 << 32) - 1])
def test_a_frame_of_an_absurd_size(hostile: tuple[Manager, Hostile, list[bytes]], length: int) -> None:
    """Checked before anything is allocated."""
    manager, client, frames = hostile
    client.begin()
    client.frames(frames[0], length=length)
    assert client.refusal().reason == "protocol"
    manager.stop()
    assert manager.records("evil") == []


def test_frames_of_a_journal_that_was_not_offered(hostile: tuple[Manager, Hostile, list[bytes]]) -> None:
    """The journal index is checked."""
    _, client, frames = hostile
    client.begin()
    client.frames(frames[0], index=1)
    assert "journal index 1 of 1" in client.refusal().message


def test_frames_before_their_time(hostile: tuple[Manager, Hostile, list[bytes]]) -> None:
    """An event that the table does not have ends the session."""
    _, client, frames = hostile
    client.receive()
    client.frames(frames[0])
    assert client.refusal().reason == "protocol"


def test_frames_without_credit(hostile: tuple[Manager, Hostile, list[bytes]]) -> None:
    """A client that does not count is cut off; memory stays bounded."""
    _, client, _ = hostile
    client.begin()
    filler = Frames([bytes(4 << 20)], 4 << 20)
    for _ in range(6):
        client.send(filler)
    assert client.refusal().reason == "protocol"


def test_bytes_that_are_no_message(hostile: tuple[Manager, Hostile, list[bytes]]) -> None:
    """The codec does not fall over."""
    _, client, _ = hostile
    client.receive()
    client.send(Frames([b"\xff" * 3], 200))  # a length that lies
    assert "not a DeliverRequest" in client.refusal().message


def offered(name: str = "main", journal_id: bytes = bytes(16), first: int = 0, end: int = 0) -> JournalOffer:
    return JournalOffer(name, journal_id, Offset(first), Offset(end), Offset(0))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"protocol": 2}, "protocol_version"),
        ({"protocol": 0}, "protocol_version"),
        ({"node": "../etc"}, "protocol"),
        ({"node": "x" * 5000}, "protocol"),
        ({"host": "h" * 256}, "protocol"),
        ({"instance": bytes(1000)}, "protocol"),
        ({"node": "a"}, "name_mismatch"),
        ({"subscriber": "m2"}, "subscriber_mismatch"),
        ({"journals": tuple(offered(f"j{number}") for number in range(300))}, "protocol"),
        ({"journals": (offered(journal_id=b"short"),)}, "protocol"),
        ({"journals": (offered(".."),)}, "protocol"),
        ({"journals": (offered(first=5, end=4),)}, "protocol"),
        ({"journals": (offered(end=(1 << 64) - 1),)}, "protocol"),
    ],
    ids=str,
)  # fmt: skip
def test_a_hello_that_is_absurd(
    hostile: tuple[Manager, Hostile, list[bytes]], more: dict[str, Any], reason: str
) -> None:
    """Names, lengths and counts are checked before a directory is touched."""
    manager, client, _ = hostile
    client.hello(**more)
    assert client.refusal().reason == reason
    assert not list((manager.data / "archive").iterdir())


def test_no_certificate_no_session(fleet: Bench) -> None:
    """The port speaks TLS only, and only with somebody of this fleet."""
    manager = fleet.manager()
    with grpc.insecure_channel(manager.address) as channel:
        deliver: Any = channel.stream_stream(DELIVER_METHOD)
        with pytest.raises(grpc.RpcError):
            next(deliver(iter(())))
    credentials = grpc.ssl_channel_credentials((fleet.pki / "ca.crt").read_bytes())
    options = (("grpc.ssl_target_name_override", "manager.jlogd"),)
    with grpc.secure_channel(manager.address, credentials, options) as channel:
        deliver = channel.stream_stream(DELIVER_METHOD)
        with pytest.raises(grpc.RpcError):
            next(deliver(iter(())))


def test_a_key_of_somebody_else_is_found_before_it_is_used(tmp_path: Path) -> None:
    """`check` and `run` both name the key that does not belong to the certificate."""
    with Fleet(tmp_path / "fleet") as fleet:
        manager = fleet.manager("m1")
        node = fleet.node("n1", [Tail("app", (str(tmp_path / "app.log"),))], [manager])
        other = fleet.manager("m2").directory / "m2.key"
        for daemon in (manager, node):
            text = daemon.settings.read_text()
            daemon.settings.write_text(text.replace(str(daemon.directory / f"{daemon.name}.key"), str(other)))
            for word in ("check", "run"):
                done = daemon.command(word)
                assert (done.code, "does not belong to the certificate" in done.err) == (3, True), done.err
