"""A part of the fleet at a time, and nobody waits for one that is slow."""

import asyncio

import pytest

from jlogd.runtime.clock import SYSTEM
from managerd.ecconfigd import pace as pace_module
from managerd.ecconfigd.pace import AT_WORK_MIN, SHARE, TURN_S, Pace
from tests.support.serving import run


async def waits(pace: Pace, who: object, fleet: int) -> bool:
    """Whether ``who`` must wait, looked at well before a turn is over."""
    turn = asyncio.create_task(pace.turn(who, fleet))
    for _ in range(5):
        await asyncio.sleep(0)
    waiting = not turn.done()
    turn.cancel()
    await asyncio.gather(turn, return_exceptions=True)
    return waiting


def test_a_part_of_the_fleet_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in SHARE, in a small one AT_WORK_MIN; each that speaks makes room for one more."""
    monkeypatch.setattr(pace_module, "TURN_S", 60.0)

    async def test() -> None:
        for fleet, at_work in ((10, AT_WORK_MIN), (100 * SHARE, 100)):
            pace = Pace(SYSTEM)
            for number in range(at_work):
                await pace.turn(number, fleet)
            assert await waits(pace, "next", fleet)
            pace.done("a stranger")
            assert await waits(pace, "next", fleet)
            pace.done(3)
            assert not await waits(pace, "next", fleet)
            assert await waits(pace, "one more", fleet)

    run(test())


def test_who_says_nothing_is_waited_for_no_longer_than_a_turn() -> None:
    async def test() -> None:
        pace, loop = Pace(SYSTEM), asyncio.get_running_loop()
        begun_s = loop.time()
        for number in range(3 * AT_WORK_MIN):
            await pace.turn(number, 1)
        assert 2 * TURN_S <= loop.time() - begun_s < 20 * TURN_S

    run(test())


def test_who_is_told_again_takes_no_second_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "TURN_S", 60.0)

    async def test() -> None:
        pace = Pace(SYSTEM)
        for number in range(AT_WORK_MIN - 1):
            await pace.turn(number, 1)
        for _ in range(3):
            await pace.turn("again", 1)
            pace.done("again")
        await pace.turn("again", 1)
        assert await waits(pace, "next", 1)

    run(test())
