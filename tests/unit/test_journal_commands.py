"""``jlogd journal ls | read``: the node's own journals from the command line."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jlogd.commands.journal import journal as journal_command
from jlogd.journal import Journal
from tests.support.archives import Writer
from tests.support.commandline import Run, runner

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs ``jlogd journal``."""
    return runner(journal_command, capsysbinary)


def test_ls(tmp_path: Path, run: Run) -> None:
    """Every journal of the node with place and bounds; a directory that holds none is damage, the rest is shown."""
    settings = tmp_path / "jlogd.toml"
    settings.write_text(f'[node]\nname = "web1"\nspool = "{tmp_path}"\n[tls]\ninsecure = true\n')
    assert run("ls", "-c", settings, "--json").json() == {"schema": 1, "journals": []}
    directory = tmp_path / "web1" / "journals" / "app"
    with Journal.open(directory) as journal:
        Writer(journal).lines(b"one", b"two")
        (item,) = run("ls", "-c", settings, "--json").json()["journals"]
        assert item == {
            "name": "app", "id": journal.id.hex(), "dir": str(directory), "first": 0, "end": 2,
            "bytes": item["bytes"], "segments": 1,
        }  # fmt: skip
    (directory.parent / "empty").mkdir()
    outcome = run("ls", "-c", settings)
    assert outcome.code == 5
    assert b"app" in outcome.out
    assert "no journal here" in outcome.err


def test_read(tmp_path: Path, run: Run) -> None:
    """Ranges, raw and JSON as in the archive; records carry no labels here."""
    with Journal.open(tmp_path / "j") as journal:
        Writer(journal).lines(b"one", b"two", b"three")
        assert run("read", tmp_path / "j", "--from", 1).out == b"two\nthree\n"
        assert run("read", tmp_path / "j", "--to", 1, "--raw").out == b"one\n"
        (record,) = run("read", tmp_path / "j", "--from", 2, "--json").objects()
        assert record == {
            "offset": 2,
            "time": record["time"],
            "source": "/var/log/app.log",
            "text": "three",
            "flags": [],
        }
    assert run("read", tmp_path / "nothing").code == 2
    (tmp_path / "empty").mkdir()
    assert run("read", tmp_path / "empty").code == 5


def test_read_follows(tmp_path: Path) -> None:
    """``--follow`` goes on with what is committed, ends at ``--to`` by itself and at Ctrl-C with 0."""
    words = [sys.executable, "-m", "jlogd.cli", "journal", "read", str(tmp_path / "j"), "--follow"]
    with Journal.open(tmp_path / "j") as journal:
        writer = Writer(journal)
        writer.lines(b"one")
        endless = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=REPOSITORY)
        bounded = subprocess.Popen([*words, "--to", "3"], stdout=subprocess.PIPE, cwd=REPOSITORY)
        try:
            for process in (endless, bounded):
                assert process.stdout is not None
                assert process.stdout.readline() == b"one\n"
            writer.lines(b"two", b"three", b"four")
            assert bounded.stdout is not None
            assert bounded.stdout.read() == b"two\nthree\n"
            assert bounded.wait(20) == 0
            assert endless.stdout is not None
            assert [endless.stdout.readline() for _ in range(3)] == [b"two\n", b"three\n", b"four\n"]
            endless.send_signal(signal.SIGINT)
            assert endless.wait(20) == 0
        finally:
            for process in (endless, bounded):
                process.kill()
                process.communicate()
