"""Values ↔ protobuf, the frames container, the bulk codec, the deny list, the epoch store."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jlogd.forward import wire
from jlogd.forward.epochs import EpochStore
from jlogd.forward.messages import (
    Ack,
    Hello,
    JournalAck,
    JournalOffer,
    JournalResume,
    Kind,
    NodeHello,
    ProtocolError,
    Refusal,
    ReplicaEnd,
    SourcePosition,
    Welcome,
)
from jlogd.journal.model import Offset, Term
from jlogd.runtime import rpc
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import DamageError, SettingsError, StorageError
from jlogd.v1 import deliver_pb2 as pb
from tests.support.faulty_fs import FaultyFs

OFFER = JournalOffer("j", b"1" * 16, Offset(1), Offset(3), Offset(2))
TERM = Term(2, (1 << 64) - 1, Offset(7))
TO_NODE: list[wire.ToNode] = [
    Hello(1, "m1", "s", 1 << 40),
    Hello(1, "m1", "s", 0, ("sources", "more")),
    Welcome((ReplicaEnd(present=False), ReplicaEnd(True, Offset(9), bytes(16), (TERM,))), 77),
    Welcome((ReplicaEnd(present=False, sources=(SourcePosition(b"/\xff", 2, 1 << 40, b"s", b"l"),)),), 1),
    Ack((JournalAck(0, Offset(3)), JournalAck(1, Offset(1 << 40))), 9),
    Refusal("damage", "why"),
]
TO_MANAGER: list[wire.ToManager] = [
    NodeHello(1, "a", "sub", "m1", "host", "machine", b"i", (OFFER, replace(OFFER, wants_sources=True))),
    (JournalResume(Kind.CONTINUE), JournalResume(Kind.FORK, Offset(5), b"c" * 16, (TERM,)), JournalResume(Kind.BEGIN)),
]  # fmt: skip


@pytest.mark.parametrize("message", TO_NODE, ids=lambda message: type(message).__name__)
def test_what_a_manager_says_survives_the_wire(message: wire.ToNode) -> None:
    """Value → protobuf → bytes → value."""
    there = pb.DeliverResponse.FromString(wire.response_to_pb(message).SerializeToString())
    assert wire.response_from_pb(there) == message


@pytest.mark.parametrize("message", TO_MANAGER, ids=lambda message: type(message).__name__)
def test_what_a_node_says_survives_the_wire(message: wire.ToManager) -> None:
    """As above, through the bulk codec."""
    there = rpc.decode_request(rpc.encode_request(wire.request_to_pb(message)))
    assert isinstance(there, pb.DeliverRequest)
    assert wire.request_from_pb(there) == message


def test_messages_of_a_newer_version_are_named() -> None:
    """An empty oneof is what an unknown field looks like."""
    with pytest.raises(ProtocolError):
        wire.response_from_pb(pb.DeliverResponse())
    with pytest.raises(ProtocolError):
        wire.request_from_pb(pb.DeliverRequest())
    with pytest.raises(ProtocolError, match="resume kind 9"):
        wire.request_from_pb(pb.DeliverRequest(resume=pb.Resume(journals=[pb.JournalResume(kind=9)])))  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_the_bulk_codec_writes_valid_protobuf(parts: list[bytes]) -> None:
    """Any protobuf library reads it, and ours reads any library's."""
    body = b"".join(parts)
    ours = rpc.encode_request(rpc.Frames(parts, len(body)))
    assert pb.DeliverRequest.FromString(ours).frames == body
    theirs = pb.DeliverRequest(frames=body).SerializeToString()
    for encoded in (ours, theirs):
        decoded = rpc.decode_request(encoded)
        assert isinstance(decoded, memoryview)
        assert decoded == body


@given(st.binary(max_size=64))
def test_the_bulk_codec_never_raises(wire_bytes: bytes) -> None:
    """Bytes from a stranger."""
    assert isinstance(rpc.decode_request(wire_bytes), pb.DeliverRequest | memoryview | rpc.Malformed)
    framed = rpc.decode_request(rpc.FRAMES_TAG + wire_bytes)
    assert isinstance(framed, pb.DeliverRequest | memoryview | rpc.Malformed)


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(min_size=128, max_size=200)), max_size=5), st.data())
def test_a_container_comes_apart_as_it_was_put_together(frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """And one that was cut anywhere but between frames is refused."""
    pieces = [wire.ENTRY.pack(index, len(frame)) + frame for index, frame in frames]
    message = b"".join(pieces)
    assert [(index, bytes(frame)) for index, frame in wire.split_frames(memoryview(message))] == frames
    cut = data.draw(st.integers(0, len(message)))
    borders = {sum(len(piece) for piece in pieces[:count]) for count in range(len(pieces) + 1)}
    if cut not in borders:
        with pytest.raises(ProtocolError):
            list(wire.split_frames(memoryview(message)[:cut]))


def test_the_deny_list_follows_its_file(tmp_path: Path) -> None:
    """Comments, case, colons; a change is seen at the next question, a file that went leaves everybody denied."""
    path = tmp_path / "deny"
    deny = DenyList(path)
    assert not deny.denies("ab")
    path.write_text("# all of them\nAB:cd  # web1\n\n")
    assert deny.denies("abcd")
    assert not deny.denies("")
    path.write_text("ef\n")
    os.utime(path, ns=(1, 1))
    assert deny.denies("ef")
    assert not deny.denies("abcd")
    path.unlink()
    assert deny.denies("ef")
    path.mkdir()
    assert deny.denies("ef")
    path.rmdir()
    path.write_text("")
    assert not deny.denies("ef")


def test_epochs_only_grow_and_survive(tmp_path: Path) -> None:
    """Each subscriber has its own; a full disk raises and keeps the old ones."""
    fs = FaultyFs()
    store = EpochStore(tmp_path / "epochs.json", fs=fs)
    store.store("m1", 5)
    store.store("m2", 2)
    store.store("m1", 4)
    again = EpochStore(tmp_path / "epochs.json", fs=fs)
    assert (again.seen("m1"), again.seen("m2"), again.seen("m3")) == (5, 2, 0)
    fs.fail_at, fs.sticky = 1, True
    with pytest.raises(StorageError):
        again.store("m1", 6)
    assert again.seen("m1") == 5
    (tmp_path / "epochs.json").write_text("{")
    with pytest.raises(DamageError):
        again.seen("m1")


@pytest.mark.parametrize("address", ["10.0.0.1:1", "example.org:1", "[::]:1"])
def test_without_tls_only_loopback(address: str) -> None:
    """Anybody could listen elsewhere."""
    with pytest.raises(SettingsError, match="not a loopback address"):
        rpc.require_loopback(address)
    rpc.require_loopback("[::1]:7440")


@pytest.mark.parametrize(
    ("uri", "identity"),
    [
        ("jlogd:node:web1", ("node", "web1")),
        ("URI:jlogd:manager:m1", ("manager", "m1")),
        ("jlogd:root:web1", ("", "")),
        ("jlogd:node:", ("", "")),
        ("spiffe://node/web1", ("", "")),
    ],
)
def test_identities(uri: str, identity: tuple[str, str]) -> None:
    """Only our scheme, our roles, a name."""
    assert rpc.parse_identity(uri) == identity
