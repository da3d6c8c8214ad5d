"""What a manager says in one stream: in order, with an end to its patience, and last words.

All methods belong to the loop's thread.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import grpc
import grpc.aio

log = logging.getLogger(__name__)

LAST_WORDS_S = 3.0  # how long a refusal may take to leave
HELLO_S = 15.0  # a stream that says nothing is closed
UNREAD_S = 30.0  # so is one whose node does not read

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
MessageT = TypeVar("MessageT")


class Speaker(Generic[MessageT]):
    """The outbox of one stream, and who empties it. Used once, by ``run``."""

    def __init__(
        self,
        encode: Callable[[MessageT], object],
        who: Callable[[], str],
        more: Callable[[], MessageT | None] = lambda: None,
    ) -> None:
        """``who`` listens, for a line in the log. ``more`` has what may wait until nothing else is to be said."""
        self._encode = encode
        self._who = who
        self._more = more
        self._out: deque[MessageT] = deque()
        self._changed = asyncio.Event()
        self.over = False

    def say(self, message: MessageT) -> None:
        """After everything that was said before."""
        self._out.append(message)
        self._changed.set()

    def wake(self) -> None:
        """``more`` may have something."""
        self._changed.set()

    def end(self) -> None:
        """Nothing more, when what was said is out."""
        self.over = True
        self._changed.set()

    async def run(self, context: Context) -> bool:
        """Until ``end``, and the last words are out; False when the other side does not read."""
        while not self.over:
            message = self._out.popleft() if self._out else self._more()
            if message is None:
                await self._changed.wait()
                self._changed.clear()
            elif not await self._written(context, message):
                return False
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                while self._out:
                    await context.write(self._encode(self._out.popleft()))
        except (TimeoutError, grpc.aio.InternalError):
            log.info("%s: the last words did not get through", self._who())
        return True

    async def _written(self, context: Context, message: MessageT) -> bool:
        """False when the node does not read: what it is told would gather here without end."""
        try:
            async with asyncio.timeout(UNREAD_S):
                await context.write(self._encode(message))
        except TimeoutError:
            log.warning("%s: does not read what it is told for %g s: session ended", self._who(), UNREAD_S)
            return False
        except grpc.aio.InternalError:  # the connection broke in this moment
            log.info("%s: went away while it was being told something", self._who())
            return False
        return True


def close_with(context: Context, error: str | None) -> None:
    """The status of a stream that ended with ``error``."""
    if error is not None:
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
        context.set_details(error)
