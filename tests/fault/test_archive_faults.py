"""Every file operation of begin, append and commit fails, tears, or is the last before a crash or a power cut.

Whatever happens: what ``begin`` and ``commit`` confirmed is there afterwards, nothing that was not
sent is, and going on as a session does leaves a main line that equals the node's journal.
"""

import errno
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jlogd.journal import Journal, Offset
from jlogd.runtime.errors import StorageError
from managerd.archive import Archive, Replica
from managerd.archive.layout import Log, begun_incarnations
from managerd.archive.reading import open_log
from tests.support.archives import Writer, archive_in, base_at
from tests.support.faulty_fs import FaultyFs
from tests.support.journals import abandon
from tests.support.power_cut_fs import PowerCutFs

FRAMES = 5
FORK_AT = 4
OTHERS = 9  # with the log itself more than eight dirty journals: the last commit is one syncfs


@dataclass
class Confirmed:
    """What calls that returned have promised: number of the incarnation → its end."""

    ends: dict[int, int] = field(default_factory=dict)
    others: int = 0


@pytest.fixture(scope="module")
def node() -> Iterator[Journal]:
    """What the node has: five frames of two lines, which nothing here changes."""
    with tempfile.TemporaryDirectory() as directory, Journal.open(Path(directory) / "node") as journal:
        for i in range(FRAMES):
            Writer(journal).lines(b"line %d" % i, b"more %d" % i)
        yield journal


def ship_some(node: Journal, replica: Replica, frames: int) -> Iterator[None]:
    """Append up to ``frames`` frames that the replica lacks."""
    for _, view in zip(range(frames), node.reader().frames(replica.journal.append_end), strict=False):
        replica.journal.append_frame(view.frame)
        yield


def play(archive: Archive, node: Journal, confirmed: Confirmed) -> Iterator[None]:
    """A log begins, grows, forks, grows; then many commit together. Yields between any two calls."""
    replica = archive.begin("web1", "app", node.id, first=Offset(0))
    confirmed.ends[replica.number] = 0
    yield
    for frames in (2, 1):
        yield from ship_some(node, replica, frames)
        archive.commit([replica])
        confirmed.ends[replica.number] = replica.journal.end
        yield
    fork = archive.begin("web1", "app", node.id, first=Offset(FORK_AT), base=base_at(node, FORK_AT))
    confirmed.ends[fork.number] = FORK_AT
    yield
    many = [fork]
    yield from ship_some(node, fork, 2)
    for number in range(OTHERS):
        many.append(archive.begin("web1", f"other{number}", node.id, first=Offset(0)))
        yield from ship_some(node, many[-1], 1)
    archive.commit(many)
    confirmed.ends[fork.number] = fork.journal.end
    confirmed.others = OTHERS
    yield


def crash(archive: Archive) -> None:
    """The process dies."""
    for journal in archive._open.values():
        abandon(journal)


def main_line(data: Path, name: str = "app") -> list[bytes]:
    """The log as ``logs cat`` reads it."""
    with open_log(Log("web1", name, data / "archive" / "web1" / name)) as opened:
        return [
            entry.record
            for part in opened.parts
            for entry in part.reader.read(part.first, part.end)
            if entry.gap is None
        ]


def check_and_go_on(data: Path, node: Journal, confirmed: Confirmed) -> None:
    """Nothing promised is missing, nothing is invented, and the next session completes the log."""
    sent = [entry.record for entry in node.read()]
    with archive_in(data) as archive:
        replica = archive.current("web1", "app")
        begun = {item.number: item for item in begun_incarnations(data / "archive" / "web1" / "app")}
        assert set(confirmed.ends) <= set(begun)
        for number, end in confirmed.ends.items():
            with open_log(Log("web1", "app", begun[number].path.parent), str(number)) as opened:
                reader = opened.parts[0].reader
                assert reader.end >= end
                assert [entry.record for entry in reader.read()] == sent[reader.first : reader.end]
        if replica is None:
            assert not confirmed.ends
            replica = archive.begin("web1", "app", node.id, first=Offset(0))
        assert replica.number >= max(confirmed.ends, default=1)
        for _ in ship_some(node, replica, FRAMES):
            pass
        archive.commit([replica])
    assert main_line(data) == sent
    for number in range(confirmed.others):
        assert main_line(data, f"other{number}") == sent[:2]


def operations(node: Journal) -> int:
    """How many file operations ``play`` makes."""
    fs = FaultyFs()
    with tempfile.TemporaryDirectory() as directory, archive_in(Path(directory), fs=fs) as archive:
        for _ in play(archive, node, Confirmed()):
            pass
    return fs.operations


@pytest.mark.parametrize("torn", [0.0, 0.5])
def test_crash_at_every_operation(node: Journal, tmp_path: Path, torn: float) -> None:
    """From the N-th operation on nothing reaches the disk any more, and the process dies at the first error."""
    count = operations(node)
    assert count > 60
    for fail_at in range(1, count + 1):
        data, confirmed = tmp_path / str(fail_at), Confirmed()
        fs = FaultyFs(fail_at, error=errno.EIO, torn=torn, sticky=True)
        archive: Archive | None = None
        try:
            archive = archive_in(data, fs=fs)
            for _ in play(archive, node, confirmed):
                pass
        except StorageError:
            pass
        if archive is not None:
            crash(archive)
        check_and_go_on(data, node, confirmed)


@pytest.mark.parametrize(("code", "torn"), [(errno.ENOSPC, 0.6), (errno.EIO, 0.0)])
def test_each_operation_fails_once(node: Journal, tmp_path: Path, code: int, torn: float) -> None:
    """One operation fails; the session ends and the next one goes on in the same process."""
    for fail_at in range(1, operations(node) + 1):
        data, confirmed = tmp_path / str(fail_at), Confirmed()
        fs = FaultyFs(error=code, torn=torn)
        with archive_in(data, fs=fs) as archive:
            fs.fail_at = fs.operations + fail_at
            try:
                for _ in play(archive, node, confirmed):
                    pass
            except StorageError:
                replica = archive.current("web1", "app")
                if replica is not None:
                    archive.commit([replica])
                    confirmed.ends[replica.number] = replica.journal.end
        check_and_go_on(data, node, confirmed)


@pytest.mark.parametrize("seed", range(4))
def test_power_cut_between_any_two_calls(node: Journal, tmp_path: Path, seed: int) -> None:
    """What was never synced is gone: files, names, parts of writes. What was confirmed is not among it."""
    with archive_in(tmp_path / "whole") as archive:
        steps = sum(1 for _ in play(archive, node, Confirmed()))
    for stop in range(1, steps + 1):
        data, side, confirmed = tmp_path / f"d{stop}", tmp_path / f"s{stop}", Confirmed()
        side.mkdir()
        fs = PowerCutFs(side)
        archive = archive_in(data, fs=fs)
        for _ in zip(range(stop), play(archive, node, confirmed), strict=False):
            pass
        crash(archive)
        fs.cut(seed)
        check_and_go_on(data, node, confirmed)
