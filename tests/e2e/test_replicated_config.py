"""Several real managers over TLS that keep one configuration: killed, emptied, cut off, made writer by hand."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jlogd.runtime.errors import JlogdError
from jlogd.runtime.rpc import open_channel
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc
from tests.support.daemon import Result, until
from tests.support.fleet import Fleet, Manager, Node, free_port
from tests.support.revisions import fsck

WAIT_S = 30.0


class Trio:
    """m1, m2, m3, each other's peers."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        ports = {name: free_port() for name in ("m1", "m2", "m3")}
        for name, port in ports.items():
            peers = ", ".join(f'"127.0.0.1:{other}"' for other in ports.values() if other != port)
            config = f'writer = "m1"\npeers = [{peers}]\nreplicas_min = 2\npush_timeout = "1s"\n'
            fleet.manager(name, port=port, config=config)
        self.m1, self.m2, self.m3 = fleet.managers.values()
        self.all = [self.m1, self.m2, self.m3]

    def start(self, *those: Manager, writer: str = "m1", replicas_min: int = 2) -> None:
        """Start these, with these settings."""
        for manager in those:
            lines = [
                f'writer = "{writer}"' if line.startswith("writer") else
                f"replicas_min = {replicas_min}" if line.startswith("replicas_min") else line
                for line in manager.settings.read_text().splitlines()
            ]  # fmt: skip
            manager.settings.write_text("\n".join(lines) + "\n")
            manager.start()
        for manager in those:
            manager.ready()

    def stop(self, *those: Manager) -> None:
        for manager in those:
            assert manager.stop() == 0, manager.tail()

    def put(self, path: str, text: str, at: Manager, *, code: int = 0, message: str = "A change") -> Result:
        """One revision, by eccfg."""
        done = self.fleet.eccfg("put", "-", path, "-m", message, manager=at, stdin=text.encode())
        assert done.code == code, done
        return done

    def status(self, manager: Manager) -> pb.StatusResponse:
        with open_channel(manager.address, self.fleet.operator("alice")) as channel:
            answer = pb_grpc.ConfigServiceStub(channel).Status(pb.StatusRequest(), timeout=10)
            assert isinstance(answer, pb.StatusResponse)
            return answer

    def agree(self, *those: Manager) -> None:
        """Wait until they have one head, confirmed, and the same side branches."""
        said: list[tuple[str, int, list[str]]] = []

        def same() -> bool:
            said.clear()
            for manager in those:
                found = self.status(manager)
                said.append((found.head.id, found.confirmed, [side.name for side in found.side_branches]))
                if found.confirmed != found.head.revision:
                    return False
            return all(each == said[0] for each in said)

        until(same, WAIT_S, f"{[manager.name for manager in those]} agree: {said}")
        lines = [git(manager, "log", "--format=%H %an %s", "main") for manager in those]
        assert all(line == lines[0] for line in lines)
        for manager in those:
            fsck(manager.repository)


def git(manager: Manager, *words: str) -> str:
    argv = ["git", "-c", "safe.directory=*", "-C", str(manager.repository), *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    with Fleet(tmp_path) as fleet:
        yield Trio(fleet)


def test_what_was_confirmed_survives_the_writer_and_its_disk(trio: Trio) -> None:
    """Committed through a follower; the writer is killed at once, and its data thrown away: others have it."""
    trio.start(*trio.all)
    done = trio.put("global/a", "1\n", trio.m3)
    revision, short = done.out.decode().split()
    trio.m1.kill()
    shutil.rmtree(trio.m1.repository)
    assert revision == "r1"
    assert any(has(manager, short) for manager in (trio.m2, trio.m3))
    refused = trio.put("global/a", "2\n", trio.m2, code=1)
    assert "the writer m1" in refused.err
    trio.start(trio.m1)
    assert trio.put("global/b", "2\n", trio.m2).out.decode().startswith("r2 ")
    trio.agree(*trio.all)
    assert git(trio.m1, "rev-parse", "main~1").startswith(short)


def has(manager: Manager, short: str) -> bool:
    try:
        return git(manager, "rev-parse", "main").startswith(short)
    except subprocess.CalledProcessError:
        return False


def test_nodes_get_what_enough_managers_have(trio: Trio) -> None:
    """Exit 7 while they are away; the revision stays, and counts as soon as one of them is back."""
    trio.start(*trio.all)
    node: Node = trio.fleet.node("web1", [], [trio.m1], subcluster="web", config="")
    node.start()
    node.ready()
    trio.put("global/a", "1\n", trio.m1)
    view = node.view / "a"
    until(lambda: view.exists() and view.read_text() == "1\n", WAIT_S, "the node has r1")
    for manager in (trio.m2, trio.m3):
        manager.kill()
    unconfirmed = trio.put("global/a", "2\n", trio.m1, code=7)
    assert "r2" in unconfirmed.out.decode() + unconfirmed.err
    found = trio.status(trio.m1)
    assert (found.head.revision, found.confirmed) == (2, 1)
    assert {peer.state for peer in found.peers} == {"unreachable"}
    assert view.read_text() == "1\n"
    trio.start(trio.m3)
    until(lambda: view.read_text() == "2\n", WAIT_S, "the node has r2")
    trio.start(trio.m2)
    trio.agree(*trio.all)


def test_two_writers_are_joined(trio: Trio) -> None:
    """m1 is cut off and goes on; an operator makes m2 the writer. Together again, nothing of either is lost."""
    trio.start(*trio.all)
    trio.put("global/a.toml", "x = 1\ny = 1\n", trio.m1)
    trio.agree(*trio.all)
    trio.stop(*trio.all)
    trio.start(trio.m1, replicas_min=1)
    trio.put("global/a.toml", "x = 2\ny = 1\n", trio.m1, message="By m1")
    trio.put("global/only1", "1\n", trio.m1)
    trio.stop(trio.m1)
    trio.start(trio.m2, trio.m3, writer="m2")
    trio.put("global/a.toml", "x = 1\ny = 2\n", trio.m3, message="By m2")
    trio.put("global/b", "m2\n", trio.m3)
    trio.put("global/a.toml", "x = 3\ny = 2\n", trio.m3, message="In conflict")
    trio.agree(trio.m2, trio.m3)
    trio.start(trio.m1)  # both take themselves for the writer
    until(lambda: states(trio, trio.m1) == {"refused"}, WAIT_S, "m1 is refused")
    until(lambda: "refused" in states(trio, trio.m2), WAIT_S, "and refuses")
    told = next(peer.error for peer in trio.status(trio.m2).peers if peer.name == "m1")
    assert "same [config] writer" in told
    trio.put("global/c", "m2\n", trio.m3)  # each goes on by itself
    trio.stop(*trio.all)
    trio.start(*trio.all)
    trio.agree(*trio.all)
    assert git(trio.m2, "show", "main:global/a.toml") == "x = 2\ny = 2\n"
    for path in ("global/only1", "global/b", "global/c"):
        assert git(trio.m3, "show", f"main:{path}")
    subjects = git(trio.m2, "log", "--format=%an %s", "--reverse", "main").splitlines()
    assert subjects == ["alice A change", "alice By m1", "alice A change", "alice By m2", "alice A change",
                        "alice A change"]  # fmt: skip
    (side,) = trio.status(trio.m3).side_branches
    assert side.name in {"m2-r5", "m3-r5"}
    assert list(side.paths) == ["global/a.toml"]
    assert git(trio.m1, "show", f"side/{side.name}:global/a.toml") == "x = 3\ny = 2\n"
    done = trio.fleet.eccfg("resolve", "--side", side.name, "-m", "Mine is right", manager=trio.m3)
    assert done.code == 0, done
    until(lambda: not any(trio.status(each).side_branches for each in trio.all), WAIT_S, "it is settled everywhere")
    trio.agree(*trio.all)


def states(trio: Trio, manager: Manager) -> set[str]:
    try:
        return {peer.state for peer in trio.status(manager).peers}
    except JlogdError:
        return set()


def test_another_repository_is_refused_until_somebody_decides(trio: Trio) -> None:
    """m2 was set up by itself before: its history and ours are not mixed."""
    trio.start(trio.m2, writer="m2", replicas_min=1)
    trio.put("global/theirs", "1\n", trio.m2)
    trio.stop(trio.m2)
    trio.start(trio.m1, replicas_min=1)
    trio.put("global/ours", "1\n", trio.m1)
    trio.start(trio.m2)
    until(lambda: "refused" in states(trio, trio.m1), WAIT_S, "refused")
    told = next(peer.error for peer in trio.status(trio.m1).peers if peer.name == "m2")
    assert "another repository" in told
    assert "keep one of them" in told
    trio.stop(trio.m2)
    trio.m2.repository.rename(trio.m2.repository.with_name("config.git.old"))
    trio.start(trio.m2)
    trio.agree(trio.m1, trio.m2)
