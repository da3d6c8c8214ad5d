"""The golden runs, and every place at which a run can be cut."""

from pathlib import Path

import pytest

from tests.transcript.regenerate import run, script, transcripts
from tests.transcript.world import Interrupted, World

# Runs that end with delivery: from wherever they are cut, the next session must bring everything, once.
DELIVERING = [
    "first_contact",
    "continue",
    "lost_ack",
    "two_journals",
    "manager_restored",
    "manager_lost_disk",
    "fork_restored_node",
    "fork_shorter_node",
    "fork_running_clone",
    "takeover_same_host",
    "credit",
    "kill_manager",
    "kill_node",
]


@pytest.mark.parametrize("path", transcripts(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_golden(path: Path) -> None:
    """The cores say what the transcript says; ``python -m tests.transcript.regenerate`` rewrites it on purpose."""
    assert run(path) == path.read_text()


def play(name: str, budget: int) -> tuple[World, bool]:
    """Run a script for so many events; True when it was cut."""
    world = World(budget)
    text = (Path(__file__).parent / f"{name}.txt").read_text()
    try:
        for line in script(text):
            if line.startswith("> "):
                world.command(line[2:].split())
    except Interrupted:
        return world, True
    return world, False


@pytest.mark.parametrize("how", ["cut", "kill node", "kill manager"])
@pytest.mark.parametrize("name", DELIVERING)
def test_every_interrupted_prefix(name: str, how: str) -> None:
    """Cut after every single event: the next session leaves each record in the main line exactly once, in order.

    That nothing is acknowledged which is not durable is asserted by the world at each Advance.
    """
    for budget in range(1, 1000):
        world, was_cut = play(name, budget)
        link = world.connections[-1] if world.connections else None
        if not was_cut:
            assert budget > 10
            return
        assert link is not None
        key, manager = link.node.key, link.manager.name
        world.resume(key, manager, how)
        side = world.nodes[key]
        for journal, kept in side.journals.items():
            archived = world.managers[manager].main_line(side.name, journal)
            wanted = [frame for frame in kept.frames if frame.first >= kept.first]
            got = [frame for frame in archived if frame.first >= kept.first]
            assert got == wanted, f"{name}, {how} after event {budget}"
            ends = [0, *(frame.end for frame in archived)]
            assert [frame.first for frame in archived] == ends[:-1], "dense, from the beginning"
            assert side.checkpoint(journal, link.subscriber).checkpoint == kept.end
    raise AssertionError("the script never ends")


@pytest.mark.parametrize("how", ["cut", "kill node", "kill manager"])
def test_positions_come_back_whatever_is_interrupted(how: str) -> None:
    """Cut after every single event: over both journals of that name each line of the source stands exactly once."""
    for budget in range(1, 1000):
        world, was_cut = play("lost_spool", budget)
        if not was_cut:
            assert budget > 30
            return
        world.resume(world.connections[-1].node.key, "m1", how)
        if "b" not in world.nodes:
            world.do_cut()
            world.do_node("b", name="a", machine="machine-a")
            world.do_ask("b", "main")
            world.do_connect("b", "m1")
            world.do_run()
        assert not world.nodes["b"].journals["main"].asks
        world.do_write("b", "main")
        world.do_run()
        frames = [frame for one in world.managers["m1"].archive["a", "main"] for frame in one.durable_frames]
        assert [frame.position for frame in frames] == [10 * (number + 1) for number in range(len(frames))]
        assert len(frames) >= 3
    raise AssertionError("the script never ends")
