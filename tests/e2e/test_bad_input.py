"""Bad input, with real daemons: a clear line for a person at the end where it must be seen, and nothing lost."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from jlogd.journal.frame import HEADER, HEADER_LENGTH, Kind, crc32c
from jlogd.journal.segment import Walker, walk
from jlogd.runtime.fs import OS
from tests.support.daemon import until
from tests.support.fleet import Fleet, Node, Tail

SEGMENT = '[journal]\nsegment_bytes = "64KiB"\ncodec = "none"\n'
BATCH = 900  # lines; with codec none each batch fills a segment
LINE = b"line %06d " + b"x" * 80 + b"\n"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet") as made:
        yield made


def fill(node: Node, log: Path, batches: int) -> list[bytes]:
    """Journal so many batches, each in a segment of its own; stop. Returns the lines."""
    lines = [LINE % number for number in range(batches * BATCH)]
    log.write_bytes(b"")
    node.start()
    node.ready()
    for batch in range(batches):
        with log.open("ab") as file:
            file.write(b"".join(lines[batch * BATCH : (batch + 1) * BATCH]))
        until(partial(_ends_at, node, (batch + 1) * BATCH), 20, "the lines are journalled")
    assert node.stop() == 0
    return lines


def _ends_at(node: Node, end: int) -> bool:
    return bool(node.status()["journals"][0]["end"] == end)


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def first_records(file: Path) -> tuple[int, int, int, int]:
    """Position, metadata length, first offset and end of a segment's first frame with records."""
    with OS.open_read(file) as opened:
        view = next(view for view in walk(Walker(opened), []) if view.header.kind == Kind.RECORDS)
        return view.position, view.header.metadata_length, view.header.first_offset, view.header.end


def test_flipped_bits_in_a_journal_that_waits_for_its_manager(fleet: Fleet, tmp_path: Path) -> None:
    """In a segment header, a frame's header, metadata and body: the node names each place and delivers the rest.

    The manager gets a gap for what is lost, never a wrong byte; a bad segment header costs no line.
    """
    log = tmp_path / "app.log"
    manager = fleet.manager("m1")
    node = fleet.node("n1", [Tail("app", (str(log),))], [manager], more=SEGMENT)
    lines = fill(node, log, 6)
    segments = sorted(node.journal("app").glob("*.jls"))[:5]
    flip(segments[0], 40)
    lost: set[int] = set()
    for segment, part in zip(segments[1:4], ("header", "metadata", "body"), strict=True):
        position, metadata, first, end = first_records(segment)
        flip(
            segment,
            position + {"header": 40, "metadata": HEADER_LENGTH + 2, "body": HEADER_LENGTH + metadata + 9}[part],
        )
        lost.update(range(first, end))
    manager.start()
    node.start()
    fleet.settle(20)
    read = manager.command("logs", "cat", "n1/app")
    assert read.code == 0
    assert read.out == b"".join(line for number, line in enumerate(lines) if number not in lost)
    assert read.err.count("gap in n1/app: ") == 3
    named = [line for line in node.log.read_text().splitlines() if " ERROR " in line]
    assert len(named) == 3
    assert all(str(segment) in line for segment, line in zip(segments[1:4], named, strict=True))
    assert manager.command("logs", "verify").code == 0
    assert len(manager.command("logs", "verify", "--json").json()["gaps"]) == 3
    assert node.stop() == 0


def test_a_torn_tail_is_cut_and_read_again(fleet: Fleet, tmp_path: Path) -> None:
    """Half a frame at the journal's end was never committed: one warning, and the lines come from the file again."""
    log = tmp_path / "app.log"
    manager = fleet.manager("m1")
    node = fleet.node("n1", [Tail("app", (str(log),))], [manager], more=SEGMENT)
    lines = fill(node, log, 1)
    full, newest = sorted(node.journal("app").glob("*.jls"))
    position, *_ = first_records(full)
    with newest.open("ab") as file:
        file.write(full.read_bytes()[position : position + 1000])
    manager.start()
    node.start()
    fleet.settle(20)
    assert "cut 1000 bytes of a torn tail" in node.log.read_text()
    assert manager.command("logs", "cat", "n1/app").out == b"".join(lines)


def newer(file: Path, *, magic: bytes | None = None, required: int = 0) -> None:
    """Make the first frame a later version's: another magic, or a required feature, with right checksums."""
    content = bytearray(file.read_bytes())
    if magic is not None:
        content[:4] = magic
    content[12:16] = required.to_bytes(4, "little")
    fields = HEADER.unpack_from(content)
    metadata = bytes(content[HEADER_LENGTH : HEADER_LENGTH + fields[16]])
    content[124:128] = crc32c(bytes(content[:124]) + metadata).to_bytes(4, "little")
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"magic": b"JLF2"}, "newer than this version"), ({"required": 4}, "features 0x4")],
    ids=["version", "feature"],
)
def test_a_journal_of_a_later_version(fleet: Fleet, tmp_path: Path, change: dict[str, object], words: str) -> None:
    """The node does not start (5), the manager refuses that node's session; neither touches a byte; both say why."""
    log = tmp_path / "app.log"
    manager = fleet.manager("m1")
    node = fleet.node("n1", [Tail("app", (str(log),))], [manager], more=SEGMENT)
    fill(node, log, 1)
    newest = max(node.journal("app").glob("*.jls"))
    sound = newest.read_bytes()
    newer(newest, **change)  # type: ignore[arg-type]
    before = newest.read_bytes()
    done = node.command("run")
    assert (done.code, newest.read_bytes() == before) == (5, True), done.err
    assert words in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert words in node.command("status").out.decode()
    newest.write_bytes(sound)

    manager.start()
    node.start()
    fleet.settle(20)
    assert manager.stop() == 0
    (archived,) = manager.archive("n1", "app").glob("*.jls")
    newer(archived, **change)  # type: ignore[arg-type]
    before = archived.read_bytes()
    manager.start()
    manager.ready()
    until(lambda: words in (node.status()["sessions"][0]["error"] or ""), 20, "the node says why nothing is delivered")
    assert words in (manager.command("nodes", "--json").json()["nodes"][0]["error"] or "")
    assert manager.command("logs", "cat", "n1/app").code == 5
    assert archived.read_bytes() == before


def test_strange_files_arrive_byte_for_byte(fleet: Fleet, tmp_path: Path) -> None:
    """NUL, invalid UTF-8, CRLF, empty lines, 50 MB without a newline, no newline at the end; others do no harm."""
    logs = tmp_path / "logs"
    logs.mkdir()
    strange = b"crlf\r\n\0nul\0\0\n\xff\xfe\xc3(\n\n\n \n" + bytes(range(11, 256)) + b"\nend without newline"
    (logs / "strange.log").write_bytes(strange)
    (logs / "long.log").write_bytes(b"L" * (50 << 20))
    (logs / "empty.log").write_bytes(b"")
    (logs / "directory.log").mkdir()
    os.mkfifo(logs / "fifo.log")
    (logs / "dangling.log").symlink_to(logs / "nowhere")
    (logs / "loop.log").symlink_to(logs / "loop.log")
    (logs / "gone.log").write_bytes(b"here for a while\n")
    manager = fleet.manager("m1")
    node = fleet.node("n1", [Tail("app", (str(logs / "*.log"),), 'rotate_wait = "100ms"\n')], [manager])
    fleet.start()
    until(lambda: _journalled(node, logs / "gone.log") == 17, 20, "the short one is read")
    (logs / "gone.log").unlink()
    for name in ("strange", "long"):  # final, so that the last line needs no newline any more
        (logs / f"{name}.log").rename(logs / f"{name}.log.1")
        (logs / f"{name}.log").write_bytes(b"")
    until(lambda: all(item["lag_records"] == 0 for item in node.status()["subscribers"]), 20, "delivered")

    def raw(name: str) -> bytes:
        return manager.command("logs", "cat", "n1/app", "--raw", "--source", str(logs / name)).out

    until(lambda: raw("strange.log") == strange, 20, "the strange file is archived", interval_s=0.3)
    until(lambda: len(raw("long.log")) == 50 << 20, 20, "the long line is archived", interval_s=0.3)
    assert raw("long.log").count(b"L") == 50 << 20
    assert raw("gone.log") == b"here for a while\n"
    states = {Path(source["path"]).name: source["state"] for source in node.status()["sources"]}
    assert states["gone.log"] == "gone"
    assert states["empty.log"] == "following"
    assert "Traceback" not in node.log.read_text()
    assert manager.command("logs", "verify").code == 0


def _journalled(node: Node, path: Path) -> int:
    return next((int(source["position"]) for source in node.status()["sources"] if source["path"] == str(path)), 0)


def test_a_spool_with_things_that_are_not_ours(fleet: Fleet, tmp_path: Path) -> None:
    """Files, foreign directories and symlinks among the journals neither stop the node nor are followed out of it."""
    log = tmp_path / "app.log"
    node = fleet.node("n1", [Tail("app", (str(log),))], [])
    fill(node, log, 1)
    journals = node.spool / "n1" / "journals"
    (journals / "README").write_text("by hand\n")
    (journals / "Lost+Found").mkdir()
    (journals / "app" / "notes.txt").write_text("by hand\n")
    (journals / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (journals / "link").symlink_to(tmp_path / "elsewhere")
    (journals / "loop").symlink_to(journals / "loop")
    node.start()
    node.ready()
    assert [journal["name"] for journal in node.status()["journals"]] == ["app"]
    assert not list((tmp_path / "elsewhere").iterdir())
    assert node.stop() == 0
    listed = node.command("journal", "ls")
    assert (listed.code, "empty: no journal here" in listed.err, b"app" in listed.out) == (5, True, True)
    assert node.command("status").code == 0
    assert node.command("subscriber", "ls").code == 0


def test_a_wrong_manager_name_and_a_missing_certificate_are_settings_faults(fleet: Fleet) -> None:
    """Found at the start, exit 3: a certificate of somebody else, one that is no certificate."""
    manager = fleet.manager("m1")
    text = manager.settings.read_text()
    manager.settings.write_text(text.replace('name = "m1"', 'name = "m2"'))
    done = manager.command("run")
    assert (done.code, "was issued to manager 'm1', the settings say manager 'm2'" in done.err) == (3, True)
    broken = manager.directory / "m1.crt"
    broken.write_text("not a certificate\n")
    manager.settings.write_text(text)
    done = manager.command("run")
    assert (done.code, "not a PEM certificate" in done.err) == (3, True)
