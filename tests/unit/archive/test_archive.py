"""Replicas: where they lie, when they count, how they are committed together."""

from pathlib import Path

import pytest

from jlogd.journal.journal import Journal
from jlogd.journal.model import Offset
from jlogd.journal.reader import Reader
from jlogd.runtime.errors import ConflictError, DamageError, StorageError, UsageError
from managerd.archive import Archive
from managerd.archive.archive import SYNC_EACH_MAX
from managerd.archive.layout import begun_incarnations, list_incarnations, list_logs, log_dir
from tests.support.archives import Writer, archive_in, base_at, replicate, ship
from tests.support.faulty_fs import FaultyFs


@pytest.fixture
def node(tmp_path: Path) -> Journal:
    """A node's journal with three committed frames."""
    journal = Journal.open(tmp_path / "node")
    writer = Writer(journal)
    for i in range(3):
        writer.lines(b"line %d" % i, b"more %d" % i)
    return journal


def records(path: Path) -> list[bytes]:
    with Reader.open(path) as reader:
        return [entry.record for entry in reader.read()]


def test_layout_and_reopen(node: Journal, tmp_path: Path) -> None:
    """A replica lies under node, journal, number and id; after a restart it goes on at its end, opened only on use."""
    with archive_in(tmp_path / "m") as archive:
        assert archive.current("web1", "app") is None
        replica = replicate(archive, "web1", "app", node)
        assert replica.path == tmp_path / "m/archive/web1/app" / f"0001-{node.id.hex()}"
        assert replica.journal.tip() == node.tip()
    with archive_in(tmp_path / "m") as archive:
        assert archive.open_journals == []
        again = archive.current("web1", "app")
        assert again is not None
        assert archive.open_journals == []
        assert (again.number, again.journal_id, again.journal.end) == (1, node.id, 6)
        Writer(node).lines(b"new")
        ship(node, again, archive)
    assert records(replica.path) == [entry.record for entry in node.read()]
    node.close()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "A", "../../x", "a" * 64, ".hidden"])
def test_names_are_checked(tmp_path: Path, name: str) -> None:
    """A name that could lead elsewhere, or is not a name, opens and creates nothing."""
    with archive_in(tmp_path / "m") as archive:
        for node, journal in ((name, "app"), ("web1", name)):
            with pytest.raises(UsageError):
                archive.current(node, journal)
            with pytest.raises(UsageError):
                archive.begin(node, journal, bytes(16), first=Offset(0))
    assert [p.name for p in (tmp_path / "m" / "archive").iterdir()] == []


def test_other_id_is_a_new_incarnation(node: Journal, tmp_path: Path) -> None:
    """A reinstalled node has another journal id: its replica stands beside the old one, which keeps all it had."""
    with archive_in(tmp_path / "m") as archive, Journal.open(tmp_path / "node2") as second:
        Writer(second).lines(b"reinstalled")
        old = replicate(archive, "web1", "app", node)
        new = replicate(archive, "web1", "app", second)
        assert (old.number, new.number) == (1, 2)
        assert archive.current("web1", "app") is new
    assert records(new.path) == [b"reinstalled"]
    assert len(records(old.path)) == 6
    node.close()


def test_fork_begins_at_the_common_offset(node: Journal, tmp_path: Path) -> None:
    """A fork has the same journal id and the next number, begins where told and keeps the chain of that place."""
    with archive_in(tmp_path / "m") as archive:
        old = replicate(archive, "web1", "app", node)
        base = base_at(node, 4)
        fork = archive.begin("web1", "app", node.id, first=Offset(4), base=base)
        assert (fork.number, fork.journal_id, fork.journal.end) == (2, node.id, 4)
        assert fork.journal.tip().chain == base.chain
        ship(node, fork, archive)
        assert fork.journal.tip().chain == node.tip().chain
        assert old.journal.end == 6
    node.close()


def test_fork_without_a_frame_survives_a_restart(node: Journal, tmp_path: Path) -> None:
    """What ``begin`` returned is on disk: after a restart the empty branch is current, at its first offset."""
    with archive_in(tmp_path / "m") as archive:
        replicate(archive, "web1", "app", node)
        archive.begin("web1", "app", node.id, first=Offset(4), base=base_at(node, 4))
    with archive_in(tmp_path / "m") as archive:
        replica = archive.current("web1", "app")
        assert replica is not None
        assert (replica.number, replica.journal.first, replica.journal.end) == (2, 4, 4)
    node.close()


def test_compare_and_set(node: Journal, tmp_path: Path) -> None:
    """A frame that does not begin at the end, or that belongs to another journal, is refused."""
    with archive_in(tmp_path / "m") as archive, Journal.open(tmp_path / "node2") as second:
        Writer(second).lines(b"foreign")
        replica = replicate(archive, "web1", "app", node)
        frames = [bytes(view.frame) for view in node.reader().frames(0)]
        for frame in frames:
            with pytest.raises(ConflictError):
                replica.journal.append_frame(frame)
        with pytest.raises(DamageError):
            replica.journal.append_frame(bytes(next(second.reader().frames(0)).frame))
    node.close()


def test_unbegun_directories_do_not_count(node: Journal, tmp_path: Path) -> None:
    """Directories without a segment, and things that are not ours, are neither listed nor current; numbers go on."""
    log = log_dir(tmp_path / "m", "web1", "app")
    (log / f"0001-{bytes(16).hex()}").mkdir(parents=True)
    (log / "0009-nonsense").mkdir()
    (tmp_path / "m" / "archive" / "Not a node" / "x").mkdir(parents=True)
    with archive_in(tmp_path / "m") as archive:
        assert archive.current("web1", "app") is None
        replica = replicate(archive, "web1", "app", node)
        assert replica.number == 2
    assert [str(found) for found in list_logs(tmp_path / "m")] == ["web1/app"]
    assert [i.number for i in begun_incarnations(log)] == [2]
    assert [i.number for i in list_incarnations(log)] == [1, 2]
    node.close()


def test_unbegun_directory_is_used_again(node: Journal, tmp_path: Path) -> None:
    """What an interrupted begin of the same journal left behind is taken over, not numbered past."""
    log = log_dir(tmp_path / "m", "web1", "app")
    (log / f"0001-{node.id.hex()}").mkdir(parents=True)
    with archive_in(tmp_path / "m") as archive:
        assert replicate(archive, "web1", "app", node).number == 1
    node.close()


def test_moved_replica_is_refused(node: Journal, tmp_path: Path) -> None:
    """A replica whose files carry another journal id than its directory is damage, not data."""
    with archive_in(tmp_path / "m") as archive:
        path = replicate(archive, "web1", "app", node).path
    path.rename(path.with_name("0001-" + bytes(16).hex()))
    with archive_in(tmp_path / "m") as archive:
        replica = archive.current("web1", "app")
        assert replica is not None
        with pytest.raises(DamageError, match="moved or renamed"):
            _ = replica.journal
    node.close()


@pytest.mark.parametrize(("count", "syncfs"), [(SYNC_EACH_MAX, 0), (SYNC_EACH_MAX + 1, 1)])
def test_one_sync_for_many(node: Journal, tmp_path: Path, count: int, syncfs: int) -> None:
    """Up to eight dirty journals are synced one by one, more with one syncfs; clean ones cost nothing."""
    fs = FaultyFs()
    with archive_in(tmp_path / "m", fs=fs) as archive:
        replicas = [archive.begin("web1", f"j{i}", node.id, first=Offset(0)) for i in range(count)]
        for replica in replicas:
            ship(node, replica)
        fs.log.clear()
        archive.commit(replicas)
        verbs = [entry.split()[0] for entry in fs.log]
        assert verbs.count("sync_all") == syncfs
        assert verbs.count("datasync") == (0 if syncfs else count)
        assert all(replica.journal.end == 6 for replica in replicas)
        fs.log.clear()
        archive.commit(replicas)
        assert fs.log == []
    node.close()


def test_failed_syncfs_confirms_nothing(node: Journal, tmp_path: Path) -> None:
    """When syncfs fails each file must prove itself; when those fail too, nothing is confirmed and nothing is lost."""
    fs = FaultyFs()
    with archive_in(tmp_path / "m", fs=fs) as archive:
        replicas = [archive.begin("web1", f"j{i:02}", node.id, first=Offset(0)) for i in range(SYNC_EACH_MAX + 2)]
        for replica in replicas:
            ship(node, replica)
        fs.fail_at, fs.sticky = fs.operations + 1, True
        with pytest.raises(StorageError):
            archive.commit(replicas)
        assert {replica.journal.end for replica in replicas} == {0}
        fs.heal()
        archive.commit(replicas)
        assert {replica.journal.end for replica in replicas} == {6}
        paths = [replica.path for replica in replicas]
    assert all(len(records(path)) == 6 for path in paths)
    node.close()


def test_one_failing_journal_does_not_stop_the_others(node: Journal, tmp_path: Path) -> None:
    """The error of one journal is raised after every other one had its turn."""
    fs = FaultyFs()
    with archive_in(tmp_path / "m", fs=fs) as archive:
        replicas = [archive.begin("web1", f"j{i}", node.id, first=Offset(0)) for i in range(3)]
        for replica in replicas:
            ship(node, replica)
        original = fs.check

        def check(verb: str, path: Path) -> None:
            if "j0" in str(path):
                raise fs.failure(path)
            original(verb, path)

        fs.check = check  # type: ignore[method-assign]
        with pytest.raises(StorageError, match="j0"):
            archive.commit(replicas)
        assert [replica.journal.end for replica in replicas] == [0, 6, 6]
        fs.check = original  # type: ignore[method-assign]
        archive.commit(replicas)
        assert [replica.journal.end for replica in replicas] == [6, 6, 6]
    node.close()


def test_open_journals_are_bounded(node: Journal, tmp_path: Path) -> None:
    """Idle journals are closed to make room and opened again on use; those with uncommitted frames stay."""
    with archive_in(tmp_path / "m", open_max=3) as archive:
        replicas = [archive.begin("web1", f"j{i}", node.id, first=Offset(0)) for i in range(10)]
        assert len(archive.open_journals) == 3
        for replica in replicas:
            ship(node, replica)
        assert len(archive.open_journals) == 10
        archive.commit(replicas)
        assert len(archive.open_journals) == 3
        assert archive.open_journals == [replica.path for replica in replicas[-3:]]
        assert replicas[0].journal.end == 6
        assert archive.open_journals == [replica.path for replica in (*replicas[-2:], replicas[0])]
    assert archive.open_journals == []
    assert all(len(records(replica.path)) == 6 for replica in replicas)
    node.close()


def test_bad_calls(node: Journal, tmp_path: Path) -> None:
    """A journal id of another length, and a base that begins elsewhere, are refused."""
    with archive_in(tmp_path / "m") as archive:
        with pytest.raises(UsageError, match="16 bytes"):
            archive.begin("web1", "app", b"short", first=Offset(0))
        with pytest.raises(UsageError, match="begins at 4"):
            archive.begin("web1", "app", node.id, first=Offset(0), base=base_at(node, 4))
    with pytest.raises(StorageError):
        Archive.open(Path("/proc/nothing"), epoch=1)
    node.close()
