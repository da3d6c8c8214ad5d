"""Passes a whole call on to the writer, in the caller's name. Streams go through piece by piece.

A call is passed on once: what another manager passed on to us although we are not the writer is refused, which happens
when managers' settings name different writers.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
import grpc.aio

from jlogd.runtime.errors import RefusedError
from jlogd.runtime.rpc import call_error
from managerd.ecconfigd.calls import Call, Caller
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from managerd.ecconfigd.replication import Replication

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
            raise call_error(error, self._writer) from error

    async def stream(self, call: Call, caller: Caller, method: str, first: Any) -> Any:
        """The writer's answer to ``first`` and what else the caller sends. Whatever error it answered."""
        stub = await self._stub(caller)
        header = first.header if isinstance(first, pb.CommitRequest) else first
        header.on_behalf_of = caller.identity
        onward = getattr(stub, method)(timeout=_time_left(call))
        try:
            await _pump(call, first, onward)
            return await onward
        except grpc.aio.AioRpcError as error:
            raise call_error(error, self._writer) from error
        finally:
            onward.cancel()  # no effect on one that ended

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
    with contextlib.suppress(asyncio.InvalidStateError):  # answered already
        while message is not None:
            if onward.done():
                return
            await onward.write(message)
            message = await call.read()
        await onward.done_writing()


def _time_left(call: Call) -> float:
    left = cast("float | None", call.context.time_remaining())  # as documented, not as the stubs have it
    return FORWARD_S if left is None else min(max(left, 0.0), FORWARD_S)
