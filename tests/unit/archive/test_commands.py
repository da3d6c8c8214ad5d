"""``managerd logs``: what comes out, in which order, with which exit code."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jlogd.journal import Gap, GapKind, Journal, Offset, RunFlags
from managerd.archive import Archive
from managerd.commands.logs import logs
from tests.support.archives import SOURCE, Writer, archive_in, base_at, replicate, ship
from tests.support.commandline import Run, runner


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A manager's settings over ``tmp_path/m``."""
    path = tmp_path / "managerd.toml"
    path.write_text(
        f'[manager]\nname = "m1"\ndata = "{tmp_path / "m"}"\nlisten = "127.0.0.1:7440"\n[tls]\ninsecure = true\n'
    )
    return path


@pytest.fixture
def run(settings: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs ``managerd logs`` with these settings."""
    plain = runner(logs, capsysbinary)
    return lambda *words: plain(words[0], "-c", settings, *words[1:])


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """The archive's writer; it stays open, as beside a running manager."""
    with archive_in(tmp_path / "m") as archive:
        yield archive


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Journal]:
    """A node's journal."""
    with Journal.open(tmp_path / "node") as journal:
        yield journal


@pytest.fixture
def app(archive: Archive, node: Journal) -> Journal:
    """``web1/app`` with six lines of two files, offsets 0-5."""
    writer = Writer(node)
    writer.lines(b"one", b"two")
    writer.lines(b"other", source=b"/var/log/other.log")
    writer.lines(b"three", b"", b"four ERROR")
    replicate(archive, "web1", "app", node)
    return node


def test_cat_writes_the_lines(app: Journal, run: Run) -> None:
    """Plain text is each record on a line, and nothing else."""
    assert run("cat", "web1/app").out == b"one\ntwo\nother\nthree\n\nfour ERROR\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--from", "1", "--to", "4"], b"two\nother\nthree\n"),
        (["--from", "4"], b"\nfour ERROR\n"),
        (["--from", "6"], b""),
        (["--to", "0"], b""),
        (["--from", "1", "--to", "1"], b""),
        (["--source", "/var/log/other.log"], b"other\n"),
        (["--source", "/var/log/app.log", "--to", "4"], b"one\ntwo\nthree\n"),
        (["--since", "1h"], b"one\ntwo\nother\nthree\n\nfour ERROR\n"),
        (["--until", "1h"], b""),
        (["--since", "2999-01-01"], b""),
    ],
)
def test_ranges(app: Journal, run: Run, words: list[str], expected: bytes) -> None:
    """Offsets and times are half-open; a source selects its lines only; search sees the same range."""
    outcome = run("cat", "web1/app", *words)
    assert (outcome.code, outcome.out) == (0, expected)
    found = run("grep", "", "web1/app", *words)
    assert (found.code, found.out) == (0 if expected else 1, expected)


def test_json_records(app: Journal, archive: Archive, run: Run) -> None:
    """One object a record: offset, time, source, text or base64, flags, and where it comes from."""
    Writer(app).lines(b"\xff\x00", source=b"/b\xff", flags=RunFlags.NO_NEWLINE)
    replica = archive.current("web1", "app")
    assert replica is not None
    ship(app, replica, archive)
    first, *_, last = run("cat", "web1/app", "--json").objects()
    assert first["time"].endswith("Z")
    assert {**first, "time": None} == {
        "node": "web1", "journal": "app", "incarnation": replica.path.name, "offset": 0, "time": None,
        "source": "/var/log/app.log", "text": "one", "flags": [],
    }  # fmt: skip
    assert (last["base64"], last["source"], last["flags"], "text" in last) == ("/wA=", "/b\\xff", ["no_newline"], False)


def test_raw_is_the_source(archive: Archive, node: Journal, run: Run) -> None:
    """``--raw`` joins the pieces of a cut line and invents no newline; text shows each piece on a line."""
    writer = Writer(node)
    writer.lines(b"before")
    writer.lines(b"piece1", flags=RunFlags.CONTINUED)
    writer.lines(b"piece2", flags=RunFlags.CONTINUED)
    writer.lines(b"end of it", b"\r")
    writer.lines(b"no newline", flags=RunFlags.NO_NEWLINE)
    writer.lines(b"next generation", generation=2)
    replicate(archive, "web1", "app", node)
    outcome = run("cat", "web1/app", "--raw", "--source", SOURCE.decode())
    assert outcome.out == b"before\npiece1piece2end of it\n\r\nno newlinenext generation\n"
    assert run("cat", "web1/app").out.count(b"\n") == 7
    assert run("verify").code == 0


def test_gap_is_not_damage(archive: Archive, node: Journal, run: Run) -> None:
    """Gaps are told on stderr and in JSON, and the exit code stays 0; verify lists them and is content."""
    writer = Writer(node)
    writer.lines(b"a")
    node.append_gap(Gap(GapKind.SOURCE, 2, 9, "rotated away", lost_bytes=7, source=SOURCE, generation=1))
    node.append_gap(Gap(GapKind.OFFSETS, 2, 5, "dropped", lost_records=3))
    node.commit()
    writer.skip(7)
    writer.lines(b"b")
    replicate(archive, "web1", "app", node)
    outcome = run("cat", "web1/app")
    assert (outcome.code, outcome.out) == (0, b"a\nb\n")
    assert "rotated away" in outcome.err
    assert "offsets 2 to 5" in outcome.err
    gaps = [item for item in run("cat", "web1/app", "--json").objects() if item["flags"] == ["gap"]]
    assert [(gap["offset"], gap["gap"]["kind"], gap["gap"]["lost_bytes"]) for gap in gaps] == [
        (1, "source", 7),
        (2, "offsets", None),
    ]
    report = run("verify", "--json")
    assert report.code == 0
    document = report.json()
    assert (document["schema"], document["ok"], document["records"], document["damage"]) == (1, True, 2, [])
    assert [gap["kind"] for gap in document["gaps"]] == ["source", "offsets"]
    assert run("grep", "b", "web1/app").code == 0


@pytest.mark.parametrize(
    ("words", "code", "out"),
    [
        (["three", "web1/app"], 0, b"three\n"),
        (["nothing", "web1/app"], 1, b""),
        (["-i", "error", "web1/app"], 0, b"four ERROR\n"),
        (["error", "web1/app"], 1, b""),
        (["-v", "t|o", "web1/app"], 0, b"\n"),
        (["-v", "-F", "e", "web1/app"], 0, b"two\n\nfour ERROR\n"),
        (["-F", "t.o", "web1/app"], 1, b""),
        (["t.o|^$", "web1/app"], 0, b"two\n\n"),
        (["-c", "o", "web1/app"], 0, b"4\n"),
        (["-c", "-v", "o", "web1/app"], 0, b"2\n"),
        (["-c", "zzz", "web1/app"], 1, b"0\n"),
        (["(", "web1/app"], 2, b""),
        (["x", "web1/nothing"], 2, b""),
        (["x", "no-slash"], 2, b""),
        (["x", "web1/app", "--from", "-1"], 2, b""),
        (["x", "web1/app", "--since", "5"], 2, b""),
    ],
)
def test_grep(app: Journal, run: Run, words: list[str], code: int, out: bytes) -> None:
    """Matches, counts and exit codes are grep's: 0 found, 1 nothing, 2 any error."""
    outcome = run("grep", *words)
    assert (outcome.code, outcome.out) == (code, out)
    assert bool(outcome.err) == (code == 2)


def test_grep_offsets_and_binary_records(archive: Archive, node: Journal, run: Run) -> None:
    """Hits carry their own offsets, also behind skipped lines; binary records are searched one by one."""
    Writer(node).lines(*(b"line %d" % i for i in range(50)))
    node.append_many([b"bin\nary 7", b"none"])
    node.commit()
    replicate(archive, "web1", "app", node)
    hits = run("grep", "7", "web1/app", "--json", "--from", "8").objects()
    assert [(hit["offset"], hit["text"]) for hit in hits] == [
        *((i, f"line {i}") for i in (17, 27, 37, 47)),
        (50, "bin\nary 7"),
    ]
    inverted = run("grep", "-v", "[0-8]$", "web1/app", "--json").objects()
    assert [hit["offset"] for hit in inverted] == [9, 19, 29, 39, 49, 51]


def test_several_logs(app: Journal, archive: Archive, run: Run) -> None:
    """Globs select by node and journal, in order of names; grep names the log when there are several."""
    replicate(archive, "web2", "app", app)
    replicate(archive, "db1", "slow", app)
    assert run("grep", "two", "web*/*").out == b"web1/app:two\nweb2/app:two\n"
    assert run("grep", "-c", "two", "*/*").out == b"db1/slow:1\nweb1/app:1\nweb2/app:1\n"
    assert run("cat", "web2/app", "web1/app", "--to", "1").out == b"one\none\n"
    assert run("tail", "-n", "1", "--no-follow", "web*/app").out == (
        b"==> web1/app <==\nfour ERROR\n==> web2/app <==\nfour ERROR\n"
    )
    refused = run("cat", "web3/*")
    assert refused.code == 6
    assert "logs ls" in refused.err


def test_ls(app: Journal, archive: Archive, run: Run) -> None:
    """The listing has every incarnation with its bounds and counts."""
    (log,) = run("ls", "--json").json()["logs"]
    (item,) = log["incarnations"]
    assert (log["node"], log["journal"]) == ("web1", "app")
    assert (item["id"], item["first"], item["end"], item["records"], item["gaps"]) == (
        f"0001-{app.id.hex()}",
        0,
        6,
        6,
        0,
    )
    assert item["bytes"] > 0
    assert item["oldest"] <= item["newest"]
    assert b"web1/app" in run("ls").out


def test_fork_shows_the_newest_branch(archive: Archive, tmp_path: Path, run: Run) -> None:
    """After a restore from a snapshot the main line is the common part and the new branch; the other is kept."""
    with Journal.open(tmp_path / "node") as node:
        Writer(node).lines(b"common 0", b"common 1")
        snapshot = {path: path.read_bytes() for path in (tmp_path / "node").iterdir() if path.is_file()}
        Writer(node).lines(b"lost 2", b"lost 3", b"lost 4")
        replicate(archive, "web1", "app", node)
    for path in (tmp_path / "node").iterdir():
        if path.is_file():
            path.unlink()
    for path, content in snapshot.items():
        path.write_bytes(content)
    with Journal.open(tmp_path / "node") as node:
        Writer(node).lines(b"new 2")
        fork = archive.begin("web1", "app", node.id, first=Offset(2), base=base_at(node, 2))
        ship(node, fork, archive)
        name = f"-{node.id.hex()}"
    assert run("cat", "web1/app").out == b"common 0\ncommon 1\nnew 2\n"
    assert run("cat", "web1/app", "--from", "2").out == b"new 2\n"
    assert run("grep", "lost", "web1/app").code == 1
    for wanted in ("1", f"0001{name}"):
        assert run("cat", "web1/app", "--incarnation", wanted).out == b"common 0\ncommon 1\nlost 2\nlost 3\nlost 4\n"
    assert run("cat", "web1/app", "--incarnation", name[1:9]).out == b"new 2\n"
    assert run("cat", "web1/app", "--incarnation", "3").code == 6
    assert [item["first"] for item in run("ls", "--json").json()["logs"][0]["incarnations"]] == [0, 2]
    assert run("verify").code == 0


def test_reinstalled_node_and_missing_offsets(app: Journal, archive: Archive, tmp_path: Path, run: Run) -> None:
    """Other journal ids follow in order; offsets that never came between two parts of one journal are told."""
    with Journal.open(tmp_path / "second") as second:
        Writer(second).lines(b"reinstalled")
        replicate(archive, "web1", "app", second)
    Writer(app).lines(b"six", b"seven")
    Writer(app).lines(b"eight")
    replica = archive.begin("web1", "app", app.id, first=Offset(8), base=base_at(app, 8))
    ship(app, replica, archive)
    outcome = run("cat", "web1/app")
    assert outcome.out == b"one\ntwo\nother\nthree\n\nfour ERROR\nreinstalled\neight\n"
    assert "offsets 6 to 8 never came" in outcome.err
    assert outcome.code == 0


def test_tail_last_records(app: Journal, run: Run) -> None:
    """The last N are counted over what is selected."""
    assert run("tail", "web1/app", "--no-follow", "-n", "2").out == b"\nfour ERROR\n"
    assert run("tail", "web1/app", "--no-follow", "-n", "2", "--source", "/var/log/other.log").out == b"other\n"
    assert (
        run("tail", "web1/app", "--no-follow", "-n", "3", "--source", SOURCE.decode()).out == b"three\n\nfour ERROR\n"
    )
    assert run("tail", "web1/app", "--no-follow", "-n", "0").out == b""
    assert run("tail", "web1/app", "--no-follow", "-n", "99").out.count(b"\n") == 6


def test_tail_follows_until_interrupted(app: Journal, archive: Archive, settings: Path) -> None:
    """New records come out as they are committed, uncommitted ones do not, and Ctrl-C ends it quietly with 0."""
    words = [sys.executable, "-m", "managerd.cli", "logs", "tail", "-c", str(settings), "-n", "1", "web1/app"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == b"four ERROR\n"
        replica = archive.current("web1", "app")
        assert replica is not None
        Writer(app).lines(b"arrived")
        ship(app, replica, archive)
        assert process.stdout.readline() == b"arrived\n"
        fork = archive.begin("web1", "app", app.id, first=Offset(6), base=base_at(app, 6))
        ship(app, fork, archive)
        assert process.stdout.readline() == b"arrived\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_closed_pipe_is_quiet(archive: Archive, node: Journal, settings: Path) -> None:
    """``| head`` ends the command without a word."""
    for _ in range(4):
        Writer(node).lines(*(b"x" * 100 for _ in range(5000)))
    replicate(archive, "web1", "app", node)
    reading, writing = os.pipe()
    words = [sys.executable, "-m", "managerd.cli", "logs", "cat", "-c", str(settings), "web1/app"]
    with subprocess.Popen(words, stdout=writing, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
        os.close(writing)
        assert os.read(reading, 10) == b"x" * 10
        os.close(reading)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_contradicting_flags(app: Journal, run: Run) -> None:
    """Words that make no sense together are a usage error."""
    assert run("cat", "web1/app", "--raw", "--json").code == 2
    assert run("cat", "web1/app", "--from", "5", "--to", "4").code == 2
    assert run("cat").code == 2
