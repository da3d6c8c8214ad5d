"""A node and the manager that it lost: found by everybody who restarts a manager."""

from collections.abc import Callable
from pathlib import Path

from tests.support.daemon import until
from tests.support.fleet import Fleet


def test_a_node_attaches_again_when_its_manager_was_stopped_or_killed(tmp_path: Path) -> None:
    """The same process, within seconds, and takes what was committed meanwhile."""
    with Fleet(tmp_path) as fleet:
        m1 = fleet.manager("m1", config='writer = "m1"\n')
        node = fleet.node("web1", [], [m1], subcluster="web", config="")
        fleet.start()
        assert fleet.eccfg("bootstrap").code == 0
        ends: tuple[Callable[[], object], ...] = (m1.stop, m1.kill)
        for number, end in enumerate(ends):
            until(lambda: m1.status()["config"]["attached"] == 1, 20, "it is attached")
            end()
            m1.start()
            m1.ready()
            done = fleet.eccfg("put", "-", f"global/{number}", "-m", "More", stdin=b"more\n")
            assert done.code == 0, done.err
            until((node.view / str(number)).exists, 20, f"it has {number}\n{node.tail()}")
        assert (node.starts, node.running) == (1, True)
