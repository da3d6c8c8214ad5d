"""A node that lost its spool goes on where its manager's archive ends: each line stands once, over both journals."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.daemon import until
from tests.support.fleet import Fleet, Manager, Node, Tail
from tests.support.lines import block, bodies

POOL = bodies(11)
AWAIT = 'start_at = "archive"\n'


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet") as made:
        yield made


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


def grow(path: Path, first: int, end: int) -> bytes:
    """Append lines that no other file has; returns them."""
    text = block(path.name.encode(), first, end, POOL)
    with path.open("ab") as file:
        file.write(text)
    return text


def archived(manager: Manager, path: Path) -> bytes:
    """The source's bytes as the main line has them."""
    return manager.command("logs", "cat", "n1/app", "--raw", "--source", str(path)).out


def made(fleet: Fleet, logs: Path, managers: int = 1) -> tuple[Node, list[Manager]]:
    """A node that follows every log and asks the archive, and its managers; not started."""
    several = [fleet.manager(f"m{number + 1}") for number in range(managers)]
    return fleet.node("n1", [Tail("app", (str(logs / "*.log"),), AWAIT)], several), several


def lose_spool(node: Node) -> None:
    """Stop the node, remove everything it remembers."""
    if node.running:
        assert node.stop(20) == 0, node.tail()
    shutil.rmtree(node.spool)


def journal_error(node: Node) -> str:
    return str(node.status()["journals"][0]["error"])


def test_a_lost_spool_costs_and_doubles_nothing(fleet: Fleet, logs: Path) -> None:
    """Files that grew, were rotated, stayed idle or came while the node was away; then it is lost a second time."""
    node, (manager,) = made(fleet, logs)
    names = ["grown", "rotated", "twice", "idle"]
    paths = {name: logs / f"{name}.log" for name in names}
    wanted = {name: grow(path, 0, 3000) for name, path in paths.items()}
    fleet.start()
    fleet.settle(30)
    for number in (1, 2):
        lose_spool(node)
        start = number * 10_000
        wanted["grown"] += grow(paths["grown"], start, start + 500)
        for name, times in (("rotated", 1), ("twice", 2)):
            for turn in range(times):
                wanted[name] += grow(paths[name], start + 1000 * turn, start + 1000 * turn + 300)
                for old in sorted(logs.glob(f"{name}.log.*"), reverse=True):
                    old.rename(old.with_suffix(f".{int(old.suffix[1:]) + 1}"))
                paths[name].rename(logs / f"{name}.log.1")
            wanted[name] += grow(paths[name], start + 5000, start + 5200)
        new = f"new{number}"
        paths[new] = logs / f"{new}.log"
        wanted[new] = grow(paths[new], 0, 100)
        node.start()
        node.ready()
        until(lambda: node.status()["sources"], 20, "the positions came back")
        fleet.settle(30, steady_s=1.5)
        for name, path in paths.items():
            assert archived(manager, path) == wanted[name], f"{name}, loss {number}"
    assert len(list((manager.data / "archive" / "n1" / "app").iterdir())) == 3


def test_nothing_is_read_while_no_manager_answers(fleet: Fleet, logs: Path) -> None:
    """The wait shows in status, a stop ends it at once, kill -9 does not forget it; then everything stands once."""
    node, (manager,) = made(fleet, logs)
    path = logs / "a.log"
    wanted = grow(path, 0, 2000)
    fleet.start()
    fleet.settle(30)
    lose_spool(node)
    assert manager.stop(20) == 0
    wanted += grow(path, 2000, 2500)
    node.start()
    node.ready()
    assert "waiting for a manager" in journal_error(node)
    assert node.stop(10) == 0
    node.start()
    node.ready()
    node.kill()
    node.start()
    node.ready()
    assert "waiting for a manager" in journal_error(node)
    assert not node.status()["sources"]
    assert node.status()["journals"][0]["end"] == 0
    manager.start()
    manager.ready()
    until(lambda: node.status()["sources"], 30, "the positions came back")
    fleet.settle(30)
    assert archived(manager, path) == wanted
    assert node.status()["journals"][0]["error"] is None


def test_a_first_start_ever_begins_at_the_beginning(fleet: Fleet, logs: Path) -> None:
    """No manager has anything: all of them say so, and nobody waits; a restart does not ask again."""
    node, managers = made(fleet, logs, managers=2)
    wanted = grow(logs / "a.log", 0, 2000)
    fleet.start()
    fleet.settle(30)
    for manager in managers:
        assert archived(manager, logs / "a.log") == wanted
        assert manager.stop(20) == 0
    assert node.stop(20) == 0
    node.start()
    node.ready()
    assert node.status()["journals"][0]["error"] is None
    assert node.status()["sources"]


def test_a_manager_that_has_positions_wins_over_one_that_has_none(fleet: Fleet, logs: Path) -> None:
    """A second manager that was set up anew answers first; the archive that has the lines is waited for."""
    node, (old, fresh) = made(fleet, logs, managers=2)
    path = logs / "a.log"
    wanted = grow(path, 0, 2000)
    fleet.start()
    fleet.settle(30)
    lose_spool(node)
    assert old.stop(20) == 0
    assert fresh.stop(20) == 0
    shutil.rmtree(fresh.data)
    more = grow(path, 2000, 2300)
    fresh.start()
    fresh.ready()
    node.start()
    node.ready()
    until(lambda: "has no positions" in node.log.read_text(), 20, "the fresh manager answered")
    old.start()
    old.ready()
    until(lambda: node.status()["sources"], 30, "the positions came back")
    fleet.settle(30)
    assert archived(old, path) == wanted + more
    assert archived(fresh, path) == more


def said(node: Node, begun: int, words: str) -> bool:
    """Whether its log says so behind ``begun``; once it delivers, nothing more is to come."""
    log = node.log.read_text()[begun:]
    return words in log or "delivering" in log


def test_kill_9_while_positions_come_back(fleet: Fleet, logs: Path) -> None:
    """Killed again and again from the first moment on: asks again, or goes on, never both."""
    node, (manager,) = made(fleet, logs)
    paths = [logs / f"{number:03d}.log" for number in range(60)]
    wanted = {path: grow(path, 0, 100) for path in paths}
    fleet.start()
    fleet.settle(30)
    lose_spool(node)
    for turn in range(12):
        for path in paths[::7]:
            wanted[path] += grow(path, 1000 + 10 * turn, 1010 + 10 * turn)
        begun = len(node.log.read_text())
        node.start()
        seen = ("waiting for a manager", "gave back", "delivering")[turn % 3]
        until(partial(said, node, begun, seen), 20, seen, interval_s=0.002)
        node.kill()
    node.start()
    node.ready()
    until(lambda: node.status()["sources"], 30, "the positions came back")
    fleet.settle(30)
    for path in paths:
        assert archived(manager, path) == wanted[path], path
