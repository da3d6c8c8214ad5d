"""How many nodes are at work on a revision at the same moment because we told them: a part of the fleet at a time.

Nodes that share a SAN, a hypervisor or a line would otherwise all write and sync in the same instant, each slower for
it. A node's turn ends with its first word, or after ``TURN_S``: the last node is told ``TURN_S * SHARE`` late at the
worst, and a node that is slow for its own reasons keeps nobody waiting longer.
All methods belong to the loop's thread.
"""

import asyncio
import contextlib
from typing import Final

from jlogd.runtime.clock import Clock

AT_WORK_MIN: Final = 16  # nodes
SHARE: Final = 12  # of the fleet: one in so many
TURN_S: Final = 0.1


class Pace:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        """Nobody is at work."""
        self._clock = clock
        self._at_work: dict[object, float] = {}  # until when, in that order
        self._changed = asyncio.Event()

    async def turn(self, who: object, fleet: int) -> None:
        """Wait until ``who`` may be told; ``fleet``: how many nodes there are."""
        while len(self._at_work) >= max(AT_WORK_MIN, fleet // SHARE):
            first, until_s = next(iter(self._at_work.items()))
            left_s = until_s - self._clock.monotonic_s()
            if left_s <= 0:
                del self._at_work[first]
                continue
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
        self._at_work.pop(who, None)
        self._at_work[who] = self._clock.monotonic_s() + TURN_S

    def done(self, who: object) -> None:
        """It said something, or went away."""
        if self._at_work.pop(who, None) is not None:
            self._changed.set()
