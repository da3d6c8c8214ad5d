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


@pytest.mark.parametrize("path", transcripts(), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    """The cores say what the transcript says; ``python -m tests.transcript.regenerate`` rewrites it on purpose."""
    assert run(path.read_text()) == path.read_text()


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
