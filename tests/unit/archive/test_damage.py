"""Damaged bytes are found, named, never served, and can be written down as gaps."""

import contextlib
import json
from pathlib import Path

import pytest

from jlogd.commands.journal import journal as journal_command
from jlogd.journal import Base, Journal, JournalOptions, Reader
from jlogd.journal.frame import HEADER_LENGTH, Kind
from jlogd.journal.repair import repair
from jlogd.journal.segment import Walker, list_segments, walk
from jlogd.journal.verify import verify
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import FormatError, LockedError
from jlogd.runtime.fs import OS
from tests.support.archives import Writer, archive_in, replicate, run_of, ship
from tests.support.commandline import Run, runner

LINES = 6  # frames of two lines each


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs ``jlogd journal``."""
    return runner(journal_command, capsysbinary)


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    """An archived journal in one closed segment: six frames of two lines."""
    clock = ManualClock()
    with Journal.open(tmp_path / "node") as node:
        Writer(node).lines(b"line 0", b"more 0")
        with archive_in(tmp_path / "m", clock=clock) as archive:
            copy = replicate(archive, "web1", "app", node)
            for i in range(1, LINES):
                Writer(node).lines(b"line %d" % i, b"more %d" % i)
                clock.advance(2)  # long enough for a MARK between any two frames
                ship(node, copy, archive)
    return copy.path


def segment_of(path: Path) -> Path:
    """The only segment with frames."""
    return list_segments(OS, path)[-1].path


def places(path: Path) -> list[tuple[int, int, int, Kind]]:
    """Position, length, first offset and kind of each frame."""
    with OS.open_read(segment_of(path)) as file:
        return [
            (v.position, v.header.frame_length, v.header.first_offset, Kind(v.header.kind))
            for v in walk(Walker(file), [])
        ]


def flip(file: Path, position: int, bit: int = 0) -> None:
    """Change one bit."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << bit
    file.write_bytes(content)


def served(path: Path) -> list[tuple[int, bytes]]:
    """What a reader gives, gaps left out."""
    with Reader.open(path) as reader:
        return [(entry.offset, entry.record) for entry in reader.read() if entry.gap is None]


def test_sound(replica: Path) -> None:
    """A journal that nobody touched is sound, on the node and in the archive."""
    report = verify(replica)
    assert (report.ok, report.frames, report.records, report.gaps) == (True, LINES, 2 * LINES, [])
    assert verify(replica.parents[4] / "node").ok


def test_every_flipped_byte_is_found_and_none_is_served(replica: Path) -> None:
    """One flipped bit in any byte of the file: verify says so, and readers give only true records."""
    file = segment_of(replica)
    sound = file.read_bytes()
    true = set(served(replica))
    padding = set()
    for position, length, _, _ in places(replica):
        with OS.open_read(file) as opened:
            view = Walker(opened, position).next()
        assert view is not None
        header = view.header  # type: ignore[union-attr]
        padding |= set(
            range(position + header.header_length + header.metadata_length + header.stored_length, position + length)
        )
    for at in range(len(sound)):
        flip(file, at, at % 8)
        assert verify(replica).ok == (at in padding), f"byte {at}"
        with contextlib.suppress(FormatError):  # a flipped magic looks like a newer version: refused, not served
            assert set(served(replica)) <= true
        file.write_bytes(sound)


@pytest.mark.parametrize("cut", [1, 100, 300])
def test_cut_end_is_found(replica: Path, cut: int) -> None:
    """A file that lost its end holds less than was committed: that is damage, not a torn tail."""
    file = segment_of(replica)
    file.write_bytes(file.read_bytes()[:-cut])
    report = verify(replica)
    assert [damage.end for damage in report.damage] == [12]


def test_read_names_damage_and_goes_on(replica: Path, run: Run) -> None:
    """``read`` writes what is sound, names the damage, and ends with 5; verify's JSON has file, place and offsets."""
    third = [place for place in places(replica) if place[3] == Kind.RECORDS][2]
    flip(segment_of(replica), third[0] + third[1] - 20)
    outcome = run("read", replica)
    assert outcome.code == 5
    assert outcome.out == b"".join(b"line %d\nmore %d\n" % (i, i) for i in range(LINES) if i != 2)
    assert "offsets 4 to 6 cannot be read" in outcome.err
    report = run("verify", replica, "--json")
    assert report.code == 5
    (damage,) = report.json()["damage"]
    assert (damage["file"], damage["position"], damage["first"], damage["end"]) == (
        str(segment_of(replica)),
        third[0],
        4,
        6,
    )
    assert not report.json()["ok"]


def test_damage_in_a_later_segment_is_stepped_over(tmp_path: Path, run: Run) -> None:
    """With more of that segment behind it than one read takes; by readers of another process too."""
    with Journal.open(tmp_path / "j", options=JournalOptions(codec="none", segment_bytes=64 << 10)) as journal:
        for number in range(9):
            journal.append_lines(b"%d %0100d\n" % (number, 0) * 300)
            journal.commit()
    second = sorted((tmp_path / "j").glob("*.jls"))[1]
    first = int(second.name.split("-")[0])
    flip(second, HEADER_LENGTH + 1000)
    done = run("read", tmp_path / "j")
    assert (done.code, done.err.count("damage: ")) == (5, 1)
    lost = {int(line[:1]) for line in done.out.splitlines()} ^ set(range(9))
    assert lost == {first // 300}
    assert run("verify", tmp_path / "j", "--json").json()["damage"][0]["first"] == first


def test_lost_source_bytes_are_found(tmp_path: Path) -> None:
    """A run that begins later than the one before ended, with no gap between, is damage though each frame is sound."""
    with Journal.open(tmp_path / "node") as node:
        writer = Writer(node)
        writer.lines(b"line")
        writer.skip(7)
        writer.lines(b"later")
    (damage,) = verify(tmp_path / "node").damage
    assert "bytes 5 to 12 of /var/log/app.log (generation 1) are missing and no gap says why" in damage.reason
    assert (damage.first, damage.end) == (1, 2)


def test_foreign_history_is_found(replica: Path, tmp_path: Path) -> None:
    """A frame whose chain does not link to the one before is damage, whatever its checksums say."""
    with Journal.open(replica) as copy:
        base = Base(copy.end, b"another history!", [])
        with Journal.open(tmp_path / "other", journal_id=copy.id, base=base) as other:
            Writer(other, 14 * LINES).lines(b"foreign")
            for view in other.reader().frames(copy.end):
                copy.append_frame(view.frame)
            copy.commit()
    (damage,) = verify(replica).damage
    assert damage.reason == "chain does not link to the frame before"
    assert (damage.first, damage.end) == (12, 13)


def test_noted_jump_and_shortened_source_are_right(tmp_path: Path) -> None:
    """A position moved by a note, and a source that a power cut shortened, are not damage."""
    with Journal.open(tmp_path / "node") as node:
        writer = Writer(node)
        writer.lines(b"before")
        _, run = run_of([], 500)
        node.note_sources([run])
        writer.skip(493)
        writer.lines(b"after")
        writer.skip(-100)
        writer.lines(b"shortened")
    assert verify(tmp_path / "node").damage == []


@pytest.mark.parametrize("victims", [[0], [2], [5], [1, 2], [0, 5], ["header"], ["header", 1]])
def test_repair(replica: Path, victims: list[int | str], run: Run) -> None:
    """After repair the journal is sound, readers see what they saw, the original is kept, and writing goes on."""
    file = segment_of(replica)
    frames = [place for place in places(replica) if place[3] == Kind.RECORDS]
    for victim in victims:
        place = places(replica)[0] if victim == "header" else frames[int(victim)]
        flip(file, place[0] + place[1] - 20 if victim != "header" else 40)
    damaged = file.read_bytes()
    lost = {offset for victim in victims if victim != "header" for offset in (2 * int(victim), 2 * int(victim) + 1)}
    outcome = run("repair", replica, "--json")
    assert outcome.code == 0
    (item,) = outcome.json()["repaired"]
    assert {offset for gap in item["gaps"] for offset in range(gap["first"], gap["end"])} == lost
    assert Path(item["original"]).read_bytes() == damaged
    assert Path(item["original"]).name == f"{file.name}.damaged"
    report = verify(replica)
    assert report.damage == []
    assert [offset for offset, _ in served(replica)] == [offset for offset in range(2 * LINES) if offset not in lost]
    assert json.loads(run("repair", replica, "--json").out)["repaired"] == []
    with Journal.open(replica) as again:
        assert again.end == 2 * LINES
        Writer(again).lines(b"goes on")
    assert served(replica)[-1] == (2 * LINES, b"goes on")


def test_repair_keeps_off_a_running_writer(replica: Path, run: Run) -> None:
    """While a writer has the journal, repair refuses with 4 and touches nothing."""
    with Journal.open(replica):
        before = sorted(path.name for path in replica.iterdir())
        with pytest.raises(LockedError):
            repair(replica)
        outcome = run("repair", replica)
        assert (outcome.code, sorted(path.name for path in replica.iterdir())) == (4, before)
