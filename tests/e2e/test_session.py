"""Node and manager over real gRPC with mutual TLS: delivery, and what happens when either is cut off."""

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from jlogd.forward import Forwarder
from jlogd.journal import Journal
from tests.support.faulty_fs import FaultyFs
from tests.support.relay import Relay
from tests.support.sessions import Bench, Node, bench, until


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


def acknowledged(node: Node, offset: int) -> bool:
    return node.journals["main"].subscriber("m1").checkpoint > offset


def streams(forwarder: Forwarder) -> bool:
    return bool(forwarder.status()["state"] == "streaming")


def test_lines_arrive_in_order_and_are_acknowledged(fleet: Bench) -> None:
    """Everything committed is in the archive, once, in order; the checkpoint says so after a clean stop too."""
    manager = fleet.manager()
    node = fleet.node("a", "audit", "main")
    forwarder = node.forward(manager.address)
    audit, main = node.write(300, "audit"), node.write(5000, "main")
    until(node.delivered)
    assert forwarder.status()["state"] == "streaming"
    assert [(entry["name"], entry["state"], entry["journals"]) for entry in manager.server.nodes()] == [
        ("a", "connected", 2)
    ]
    assert until(lambda: manager.server.nodes()[0]["lag_records"] == 0)
    node.stop()
    manager.stop()
    assert manager.records("a", "audit") == audit
    assert manager.records("a", "main") == main


def test_connections_that_are_cut_lose_and_double_nothing(fleet: Bench) -> None:
    """Twenty cuts while lines flow."""
    manager = fleet.manager()
    relay = Relay(manager.address)
    node = fleet.node()
    node.forward(relay.address)
    wanted = []
    for _ in range(20):
        wanted += node.write(500)
        until(partial(acknowledged, node, len(wanted) - 400))
        wanted += node.write(500)
        relay.cut()
    until(node.delivered)
    node.stop()
    relay.close()
    manager.stop()
    assert manager.records("a") == wanted


def test_two_managers_with_their_own_subscribers(fleet: Bench) -> None:
    """Each has everything; one that is away holds nobody up and catches up later."""
    first, second = fleet.manager("m1"), fleet.manager("m2")
    address = second.address
    node = fleet.node()
    node.forward(first.address, "m1")
    node.forward(address, "m2")
    wanted = node.write(1000)
    until(lambda: node.delivered("m1") and node.delivered("m2"))
    second.stop()
    wanted += node.write(1000)
    until(lambda: node.delivered("m1"))
    assert node.journals["main"].subscriber("m2").checkpoint == 1000
    again = fleet.manager("m2", epoch=2, listen=address)
    until(lambda: node.delivered("m2"))
    node.stop()
    first.stop()
    again.stop()
    assert first.records("a") == again.records("a") == wanted


def test_a_full_disk_of_the_manager_acknowledges_nothing_and_goes_on_later(fleet: Bench) -> None:
    """The session ends with a clear line at the node; when there is space, everything arrives once."""
    fs = FaultyFs(only={"pwrite", "datasync", "create"})
    manager = fleet.manager(archive_fs=fs)
    node = fleet.node()
    forwarder = node.forward(manager.address)
    wanted = node.write(100)
    until(node.delivered)
    fs.sticky = True
    fs.fail_at = 1
    wanted += node.write(100)
    until(lambda: "storage" in (forwarder.status()["error"] or ""))
    assert node.journals["main"].subscriber("m1").checkpoint == 100
    fs.heal()
    until(node.delivered)
    node.stop()
    manager.stop()
    assert manager.records("a") == wanted


def test_a_manager_that_lost_its_disk_gets_everything_again(fleet: Bench, tmp_path: Path) -> None:
    """The checkpoint moves back to the origin."""
    manager = fleet.manager()
    node = fleet.node()
    node.forward(manager.address)
    wanted = node.write(1000)
    until(node.delivered)
    address = manager.address
    manager.stop()
    (tmp_path / "m1" / "archive").rename(tmp_path / "lost")
    again = fleet.manager("m1", epoch=2, listen=address)
    wanted += node.write(10)
    until(lambda: again.server.nodes() and again.server.nodes()[0]["lag_records"] == 0 and node.delivered())
    node.stop()
    again.stop()
    assert again.records("a") == wanted


def test_a_restored_node_forks_and_both_branches_are_kept(fleet: Bench, tmp_path: Path) -> None:
    """A node that came back from a snapshot writes on: a new incarnation begins at the last common offset."""
    manager = fleet.manager()
    node = fleet.node()
    common = node.write(100)
    saved = tmp_path / "saved"
    for journal in node.journals.values():
        journal.close()
    shutil.copytree(node.directory, saved)
    node.journals = {"main": Journal.open(node.directory / "journals" / "main")}
    node.forward(manager.address)
    node.write(50)
    until(node.delivered)
    node.stop()
    shutil.rmtree(node.directory)
    saved.rename(node.directory)
    again = fleet.node()
    again.forward(manager.address)
    other = again.write(20)
    until(again.delivered)
    again.stop()
    manager.stop()
    line = sorted(path.name[:4] for path in (tmp_path / "m1" / "archive" / "a" / "main").iterdir())
    assert line == ["0001", "0002"]
    assert manager.records("a") == other, f"the new branch begins at {len(common)}"


def test_idle_sessions_stop_at_once_and_leave_no_thread(fleet: Bench) -> None:
    """GRPC's thread, ours, the listeners of the journal: all gone after stop."""
    before = threading.active_count()
    manager = fleet.manager()
    node = fleet.node()
    for _ in range(3):
        forwarder = node.forward(manager.address)
        until(partial(streams, forwarder))
        assert forwarder.stop(5.0)
    assert not node.journals["main"].listeners
    node.stop()
    manager.stop()
    until(lambda: threading.active_count() <= before + 1)
