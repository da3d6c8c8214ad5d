"""How many bytes of frames may be in memory: one budget, shared by the sessions as credit.

Credit is a promise about the future, the gate is the truth about now: a session reads its next
message only while the budget has room, or while it has nothing under way itself (the reserve),
so that a trickle never waits behind another node's backlog. For the loop's thread.
"""

import asyncio

WINDOW_MIN = 1 << 20
WINDOW_MAX = 16 << 20
RESERVE_SHARE = 4  # a quarter of the budget again, for sessions that have nothing under way


class Budget:
    """See the module."""

    def __init__(self, limit: int) -> None:
        """``limit``: bytes that were received and are not on disk."""
        self.used = 0
        self.sessions = 0  # that stream
        self._limit = limit
        self._freed = asyncio.Event()

    def window(self) -> int:
        """Bytes that one session may have under way now."""
        return min(max(self._limit // max(self.sessions, 1), WINDOW_MIN), WINDOW_MAX)

    def take(self, length: int) -> None:
        """``length`` bytes arrived."""
        self.used += length

    def free(self, length: int) -> None:
        """``length`` bytes left memory."""
        self.used -= length
        self._freed.set()

    async def room(self, *, idle: bool) -> None:
        """Return when a session may read its next message; ``idle``: it has nothing under way."""
        limit = self._limit + self._limit // RESERVE_SHARE if idle else self._limit
        while self.used >= limit:
            self._freed.clear()
            await self._freed.wait()
