"""Passes a whole call on to the writer, in the caller's name. Streams go through piece by piece.

A call is passed on once: what another manager passed on to us although we are not the writer is refused, which happens
when managers' settings name different writers.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
import grpc.aio

from jlogd.runtime.errors import DeadlineError, JlogdError, RefusedError, UnavailableError
from jlogd.runtime.rpc import REASON_KEY, call_error, never_sent
from managerd.ecconfigd.calls import Call, Caller
from managerd.ecconfigd.verdict import Verdict
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from managerd.ecconfigd.replication import Replication

_NO_ANSWER: Final = (UnavailableError, DeadlineError, JlogdError)  # the last: it failed in the middle
FORWARD_S: Final = 900.0  # a call that has no deadline of its own: half a gigabyte over a slow line


class Forwarding:
    """See the module."""

    def __init__(self, replication: "Replication", manager: str) -> None:
        """``manager``: our own name, for messages."""
        self._replication = replication
        self._manager = manager

    async def unary(self, call: Call, caller: Caller, method: str, request: Any) -> Any:
        """The writer's answer to ``request``. Whatever error it answered; UnavailableError."""
        stub = await self._stub(caller)
        request.on_behalf_of = caller.identity
        try:
            return await getattr(stub, method)(request, timeout=_time_left(call))
        except grpc.aio.AioRpcError as error:
            raise self._failed(error, method) from error

    async def stream(self, call: Call, caller: Caller, method: str, first: Any) -> Any:
        """The writer's answer to ``first`` and what else the caller sends. Whatever error it answered."""
        stub = await self._stub(caller)
        header = first.header if isinstance(first, pb.CommitRequest) else first
        header.on_behalf_of = caller.identity
        onward = getattr(stub, method)(timeout=_time_left(call))
        verdict = Verdict(onward)
        try:
            await _pump(call, first, onward)
            return await onward
        except grpc.aio.AioRpcError as error:
            tries = isinstance(first, pb.CommitRequest) and (header.dry_run or header.prepare)
            raise self._failed(verdict.of(error), "" if tries else method) from error
        finally:
            onward.cancel()  # no effect on one that ended

    def _failed(self, error: grpc.aio.AioRpcError, method: str) -> JlogdError:
        """What the writer said; when it said nothing and may have done it, that this is not known."""
        ours = call_error(error, self._writer)
        answered = REASON_KEY in dict(tuple(error.trailing_metadata() or ()))
        if answered or not method or never_sent(error) or type(ours) not in _NO_ANSWER:
            return ours
        look = "eccfg rollout status" if method == "Rollout" else "eccfg log -n 3"
        return type(ours)(f"whether it was done is not known, '{look}' shows it if it was: {ours}")

    async def _stub(self, caller: Caller) -> Any:
        if caller.via:
            raise RefusedError(
                f"{caller.via} takes manager {self._manager} for the writer, which has {self._replication.writer}: "
                "give all managers the same [config] writer"
            )
        return pb_grpc.ConfigServiceStub(await self._replication.writer_channel())

    @property
    def _writer(self) -> str:
        return f"the writer {self._replication.writer}"


async def _pump(call: Call, first: Any, onward: Any) -> None:
    """Send until the caller's end, or until the writer has answered: it may refuse before it has read everything."""
    message = first
    # Answered already, perhaps in the middle of a write: what is told is the answer, not what became of the write.
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        while message is not None:
            if onward.done():
                return
            await onward.write(message)
            message = await call.read()
        await onward.done_writing()


def _time_left(call: Call) -> float:
    left = cast("float | None", call.context.time_remaining())  # as documented, not as the stubs have it
    return FORWARD_S if left is None else min(max(left, 0.0), FORWARD_S)
