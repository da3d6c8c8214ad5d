"""The registry of nodes: what it shows, whom it tells, what its file survives."""

import json
import logging
from pathlib import Path

import pytest

from jlogd.attach.messages import ERROR_MAX
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import RefusedError
from jlogd.runtime.fs import OS, FileSystem
from managerd.ecconfigd import nodes
from managerd.ecconfigd.nodes import NODES_FILE, Here, NodeEntry, Registry
from managerd.ecconfigd.sightings import Sighting
from tests.support.attaching import commit, report
from tests.support.faulty_fs import FaultyFs


def registry(directory: Path, clock: ManualClock | None = None, fs: FileSystem = OS) -> Registry:
    """In that directory."""
    return Registry(directory / NODES_FILE, manager="m1", clock=clock or ManualClock(), fs=fs)


def entry(one: Registry, name: str = "a") -> NodeEntry:
    """It must be there."""
    found = one.get(name)
    assert found is not None
    return found


def test_a_node_comes_reports_goes(tmp_path: Path) -> None:
    """pending, what it reports, offline with what was known last; since when, each time."""
    clock = ManualClock(1000)
    one = registry(tmp_path, clock)
    seen: list[NodeEntry] = []
    unsubscribe = one.subscribe(seen.append)
    one.attached("a", "web", "age1xyz")
    assert (entry(one).state, entry(one).revision, entry(one).id, entry(one).since_ns) == ("pending", 0, None, 1000)
    clock.advance(1)
    failed = report(3, "rolled_back", error="no", drift=("f",), drift_count=1, since_ns=77)
    one.report("a", failed)
    got = entry(one)
    assert (got.state, got.error, got.drift, got.drift_count, got.serial) == ("rolled_back", "no", ("f",), 1, 3)
    assert (got.since_ns, got.last_seen_ns) == (77, 1000 + 10**9)
    clock.advance(1)
    one.detached("a")
    got = entry(one)
    assert (got.state, got.revision, got.error, got.since_ns) == ("offline", 3, "no", 1000 + 2 * 10**9)
    assert got.report == failed
    assert [one.state for one in seen] == ["pending", "rolled_back", "offline"]
    unsubscribe()
    one.attached("a", "db")
    assert (entry(one).subcluster, entry(one).state, entry(one).recipient) == ("db", "rolled_back", "")
    assert len(seen) == 3


def test_why_a_node_cannot_attach_is_shown_until_it_does(tmp_path: Path) -> None:
    """Instead of what it said last; over a restart; not without bound; told once to who follows; of no stranger."""
    one = registry(tmp_path)
    one.refused("a", "name_mismatch: nobody knows it")
    assert one.snapshot() == []
    one.attached("a", "web")
    one.report("a", report(3, "rolled_back", error="no"))
    one.detached("a")
    seen: list[NodeEntry] = []
    one.subscribe(seen.append)
    for _ in range(2):
        one.refused("a", "name_mismatch: " + "x" * 10_000)
    assert [(len(each.error), each.state) for each in seen] == [(ERROR_MAX, "offline")]
    one.save()
    again = registry(tmp_path)
    assert entry(again).error.startswith("name_mismatch: x")
    again.seen("m2", "a", Sighting("web", "", 5))
    assert (entry(again).error, entry(again).refusal) == ("no", "")
    again.lost_but("m2")
    assert entry(again).error == "no"


def test_what_we_see_ourselves_is_told_apart(tmp_path: Path) -> None:
    """Other managers hear of our sightings only, of each once; the file remembers via whom a node was known."""
    one = registry(tmp_path)
    told: list[Here] = []
    one.subscribe_here(told.append)
    one.seen("m2", "a", Sighting("web", "", 5, report(1)))
    one.attached("a", "web")
    one.report("a", report(1, number=1))
    one.report("a", report(1, number=2))
    assert [(name, sighting.report is not None, here) for name, sighting, here in told] == [
        ("a", False, True), ("a", True, True),
    ]  # fmt: skip
    assert [(name, here) for name, _, here in one.here()] == [("a", True)]
    assert (entry(one).via, entry(one).fresh) == (("m1", "m2"), True)
    one.detached("a")
    assert (told[-1][2], one.here()) == (False, [])
    assert (entry(one).state, entry(one).via) == ("applied", ("m2",))
    one.lost_but("m2", {"a"})
    assert entry(one).attached
    one.lost_but("m2")
    assert (entry(one).state, entry(one).via, len(told)) == ("offline", ("m2",), 3)
    one.save()
    assert entry(registry(tmp_path)).via == ("m2",)


def test_a_word_that_says_nothing_new_is_told_to_nobody(tmp_path: Path) -> None:
    """Of a node with two managers everything is heard twice."""
    one = registry(tmp_path)
    seen: list[NodeEntry] = []
    one.subscribe(seen.append)
    one.attached("a", "web")
    one.seen("m2", "a", Sighting("web", "", 5))
    one.report("a", report(1, number=1))
    assert len(seen) == 3
    one.seen("m2", "a", Sighting("web", "", 5, report(1, number=4)))
    one.report("a", report(1, number=2))
    assert len(seen) == 3
    one.seen("m2", "a", Sighting("web", "", 5, report(2, since_ns=1)))
    assert (len(seen), entry(one).revision) == (4, 2)


def test_a_file_of_an_earlier_version(tmp_path: Path) -> None:
    """It does not say via whom."""
    (tmp_path / NODES_FILE).write_text(
        '{"schema":1,"nodes":[{"name":"a","subcluster":"w","recipient":"","last_seen_ns":1,"changed_ns":1}]}'
    )
    assert (entry(registry(tmp_path)).via, entry(registry(tmp_path)).state) == ((), "offline")


def test_nothing_is_known_of_strangers(tmp_path: Path) -> None:
    """A report of a node that was removed, a second farewell: nothing happens."""
    one = registry(tmp_path)
    seen: list[NodeEntry] = []
    one.subscribe(seen.append)
    one.report("a", report(1))
    one.detached("a")
    assert one.snapshot() == []
    one.attached("a", "web")
    one.detached("a")
    one.detached("a")
    assert len(seen) == 2


def test_who_listens_badly_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the others hear, the entry stands."""
    one = registry(tmp_path)
    seen: list[NodeEntry] = []

    def bad(_entry: NodeEntry) -> None:
        raise ValueError

    one.subscribe(bad)
    one.subscribe(seen.append)
    one.attached("a", "web")
    assert [got.name for got in seen] == ["a"]
    assert "somebody who follows it failed" in caplog.text


def test_the_file_remembers_across_a_restart(tmp_path: Path) -> None:
    """Everything but who is attached; sorted; written only when something changed."""
    fs = FaultyFs()
    one = registry(tmp_path, fs=fs)
    for name in ("b", "a", "c"):
        one.attached(name, "web", "age1r")
    one.report("a", report(2, error="e", drift=("x", "ü"), since_ns=5, number=9))
    one.save()
    operations = fs.operations
    one.save()
    assert fs.operations == operations
    again = registry(tmp_path)
    assert [got.name for got in again.snapshot()] == ["a", "b", "c"]
    assert entry(again).report == entry(one).report
    assert (entry(again).state, entry(again).id, entry(again).recipient) == ("offline", commit(2), "age1r")
    assert again.remove("b")
    again.save()
    assert [got.name for got in registry(tmp_path).snapshot()] == ["a", "c"]


def test_removal_of_retired_nodes(tmp_path: Path) -> None:
    """Not while they are attached; a second time nothing is there."""
    one = registry(tmp_path)
    one.attached("a", "web")
    with pytest.raises(RefusedError, match="node a is attached"):
        one.remove("a")
    one.detached("a")
    assert one.remove("a")
    assert not one.remove("a")


def test_the_longest_unseen_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never one that is attached; when all are, the next one is refused."""
    assert nodes.NODES_MAX == 100_000
    monkeypatch.setattr(nodes, "NODES_MAX", 3)
    clock = ManualClock()
    one = registry(tmp_path, clock)
    for name in ("a", "b", "c"):
        clock.advance(1)
        one.attached(name, "web")
    with pytest.raises(RefusedError, match="takes no more"):
        one.attached("d", "web")
    one.detached("c")
    clock.advance(1)
    one.detached("b")
    one.attached("d", "web")
    assert [got.name for got in one.snapshot()] == ["a", "b", "d"]
    one.attached("a", "web")
    assert len(one.snapshot()) == 3


def good(tmp_path: Path) -> bytes:
    """A file as it is written."""
    one = registry(tmp_path)
    one.attached("a", "web", "age1r")
    one.report("a", report(1, drift=("x",)))
    one.save()
    return (tmp_path / NODES_FILE).read_bytes()


def test_every_damaged_byte_and_every_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Either it is noticed and the registry begins empty, or every entry is sound; never an exception."""
    content = good(tmp_path)
    caplog.set_level(logging.CRITICAL)
    for at in range(len(content)):
        for damaged in (content[:at], content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :]):
            (tmp_path / NODES_FILE).write_bytes(damaged)
            for got in registry(tmp_path).snapshot():
                assert got.state == "offline"
                assert got.report is None or got.report.revision >= 0


@pytest.mark.parametrize(
    "change",
    [
        "[]", "null", '{"schema":1}', '{"schema":2,"nodes":[]}', '{"schema":1,"nodes":[3]}', "[" * 100_000,
        '{"schema":1,"nodes":[{"name":"../x","subcluster":"w","recipient":"","last_seen_ns":1,"changed_ns":1}]}',
        '{"schema":1,"nodes":[{"name":"x","subcluster":"w","recipient":"","last_seen_ns":1e999,"changed_ns":1}]}',
    ],
    ids=lambda value: value[:30],
)  # fmt: skip
def test_a_damaged_file_is_said_and_begun_anew(tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line; the next save makes it good."""
    (tmp_path / NODES_FILE).write_text(change)
    one = registry(tmp_path)
    assert one.snapshot() == []
    assert "cannot be read" in caplog.text
    one.attached("a", "web")
    one.save()
    assert [got.name for got in registry(tmp_path).snapshot()] == ["a"]


def test_a_full_disk_keeps_the_old_file_and_is_tried_again(tmp_path: Path) -> None:
    """Whichever operation fails: the file is the old or the new one, and the next save writes."""
    good(tmp_path)
    for number in range(1, 20):
        one = registry(tmp_path, fs=FaultyFs(fail_at=number, torn=0.5))
        one.attached("a", f"w{number}")
        try:
            one.save()
        except OSError:
            kept = registry(tmp_path).get("a")
            assert kept is not None
            one.save()
        else:
            assert number > 3
            break
        assert entry(registry(tmp_path)).subcluster == f"w{number}"
    else:
        raise AssertionError("every operation failed")


def test_the_document_says_its_schema(tmp_path: Path) -> None:
    """A later version can tell."""
    assert json.loads(good(tmp_path))["schema"] == 1
