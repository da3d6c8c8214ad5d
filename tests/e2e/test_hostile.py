"""A node of the fleet that lies: its own replica may suffer; the manager, its memory and the logs of others do not."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd

from jlogd.forward.messages import Welcome
from jlogd.journal import Gap, GapKind, Journal, Run
from jlogd.journal.frame import (
    Body,
    Buffer,
    CodecId,
    FrameFields,
    Framing,
    Kind,
    content_hash,
    crc32c,
    encode_frame,
    make_body,
)
from jlogd.journal.metadata import encode_gap, encode_run
from managerd.cli import cli
from tests.e2e.test_session_refusals import Hostile
from tests.support.commandline import Run as Command
from tests.support.commandline import runner
from tests.support.sessions import Bench, Manager, bench, until

BOMB = 64 << 20


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


@pytest.fixture
def liar(fleet: Bench, tmp_path: Path) -> Iterator[tuple[Manager, Hostile]]:
    manager = fleet.manager()
    with Journal.open(tmp_path / "evil") as journal:
        yield manager, Hostile(fleet, manager, journal)


@pytest.fixture
def logs(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    """``managerd logs …`` on the archive of ``m1``."""
    settings = tmp_path / "managerd.toml"
    settings.write_text('[manager]\nname = "m1"\ndata = "m1"\nlisten = "127.0.0.1:1"\n[tls]\ninsecure = true\n')
    run = runner(cli, capsysbinary)
    return lambda *words: run("logs", words[0], "-c", str(settings), *words[1:])


def frame(
    journal: Journal, first: int, count: int, *, kind: Kind = Kind.RECORDS, salt: int = 0, metadata: bytes = b"",
    body: Body | None = None, framing: Framing = Framing.LINES, time_ns: int = 0,
) -> bytes:  # fmt: skip
    """A frame with right checksums, whatever it says."""
    own = int.from_bytes(journal.id[:4], "little")
    fields = FrameFields(kind, first, count, 1, 1, own ^ salt, bytes(16), time_ns, time_ns, framing)
    pieces: list[Buffer] = encode_frame(fields, metadata, body) if body else encode_frame(fields, metadata)
    return b"".join(pieces)


def stored(raw_length: int, content: bytes, codec: CodecId) -> Body:
    """A body whose header lies about it."""
    return Body(raw_length, content_hash(content), codec, content, crc32c(content))


def good(journal: Journal) -> bytes:
    """One honest line."""
    return frame(journal, 0, 1, body=make_body(b"honest\n", "none"))


@pytest.mark.parametrize("kind", [Kind.SEGMENT, Kind.NOTE, Kind.MARK])
def test_local_frames_are_refused(liar: tuple[Manager, Hostile], kind: Kind) -> None:
    """A node cannot say on a manager's disk what was synced there, or where a segment begins."""
    manager, client = liar
    client.begin()
    client.frames(good(client.journal), frame(client.journal, 1, 0, kind=kind))
    assert client.refusal().reason == "damage"
    manager.stop()
    assert manager.records("evil") == [b"honest"]


def test_frames_of_another_journal_are_refused(liar: tuple[Manager, Hostile]) -> None:
    """The salt tells."""
    manager, client = liar
    client.begin()
    client.frames(good(client.journal), frame(client.journal, 1, 1, salt=1, body=make_body(b"other\n", "none")))
    assert client.refusal().reason == "damage"
    manager.stop()
    assert manager.records("evil") == [b"honest"]


def test_bodies_that_lie_are_never_served(liar: tuple[Manager, Hostile], logs: Command) -> None:
    """Decompression bombs, wrong lengths, wrong counts: named as damage, what stands around them is read."""
    manager, client = liar
    bomb = zstd.compress(bytes(BOMB))
    assert len(bomb) < 1 << 20
    run = Run(b"/x", 0, 3, 6, 6)
    lies = [
        stored(100, bomb, CodecId.ZSTD),
        stored(4 << 20, bomb, CodecId.ZSTD),
        stored(100, zstd.compress(b"short\n"), CodecId.ZSTD),
        stored(100, b"not zstd at all", CodecId.ZSTD),
        stored(6, b"a\nb\nc\n", CodecId.NONE),  # three lines, called one
        stored(6, b"no end", CodecId.NONE),
    ]
    frames = [good(client.journal)]
    frames += [frame(client.journal, 1 + at, 1, body=body) for at, body in enumerate(lies)]
    frames.append(frame(client.journal, 7, 1, body=make_body(b"a\nb\nc\n", "none"), metadata=encode_run(run)))
    frames.append(frame(client.journal, 8, 1, framing=Framing.LENGTHS, body=make_body(b"\xff\xff\xff\x7fx", "none")))
    frames.append(frame(client.journal, 9, 1, body=make_body(b"honest again\n", "none"), time_ns=(1 << 63) - 1))
    client.begin()
    client.frames(*frames)
    until(lambda: manager.server.nodes()[0]["lag_records"] == 0 and manager.archive.current("evil", "main"))
    until(lambda: logs("cat", "evil/main", "--from", "9").out == b"honest again\n")
    shown = logs("cat", "evil/main", "--json")
    assert shown.code == 5
    assert [record["text"] for record in shown.objects() if record["text"] is not None] == ["honest", "honest again"]
    assert len(shown.err.splitlines()) == 8
    assert logs("grep", "honest", "evil/main").code == 2
    proven = logs("verify", "--json")
    assert (proven.code, len(proven.json()["damage"]) >= 8) == (5, True)
    assert logs("ls").code == 0
    assert logs("tail", "evil/main", "-n", "1", "--no-follow").out == b"honest again\n"


def test_a_gap_over_half_of_all_offsets(liar: tuple[Manager, Hostile], logs: Command) -> None:
    """Counts stay integers, listings stay quick, a name in it cannot steer a terminal."""
    manager, client = liar
    end = (1 << 63) - 2
    gap = Gap(GapKind.OFFSETS, 1, end, "gone\x1b[2J\nforged line", lost_records=end - 1)
    client.begin()
    client.frames(good(client.journal), frame(client.journal, 1, end - 1, kind=Kind.GAP, metadata=encode_gap(gap)))
    client.frames(frame(client.journal, end, 1, body=make_body(b"behind\n", "none")))
    until(lambda: logs("cat", "evil/main").out == b"honest\nbehind\n")
    shown = logs("cat", "evil/main")
    assert (shown.code, len(shown.err.splitlines()), "\x1b" in shown.err) == (0, 1, False)
    (log,) = logs("ls", "--json").json()["logs"]
    assert (log["incarnations"][0]["end"], log["incarnations"][0]["gaps"]) == (end + 1, 1)
    assert logs("tail", "evil/main", "-n", "1", "--no-follow").out == b"behind\n"
    assert manager.server.nodes()[0]["state"] == "connected"


def test_half_open_and_talkative_strangers(fleet: Bench) -> None:
    """Connections that say nothing, or garbage, hold up nobody."""
    manager = fleet.manager()
    host, port = manager.address.split(":")
    strangers = [socket.create_connection((host, int(port))) for _ in range(100)]
    for stranger in strangers[::2]:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
    node = fleet.node()
    node.write(10)
    node.forward(manager.address)
    until(node.delivered)
    for stranger in strangers:
        stranger.close()


def test_many_streams_of_one_node(fleet: Bench, liar: tuple[Manager, Hostile]) -> None:
    """Each newer one ends the one before; the others of the fleet go on."""
    manager, client = liar
    clients = [client, *(client.again() for _ in range(10))]
    for one in clients:
        one.hello()
        assert isinstance(one.receive(), Welcome)
    until(lambda: [node["state"] for node in manager.server.nodes()] == ["connected"])
    assert [one.refusal().reason for one in clients[:-1]] == ["superseded"] * 10
    node = fleet.node()
    node.write(10)
    node.forward(manager.address)
    until(node.delivered)
