"""What the other side ended a call with, also when that broke a write of ours.

gRPC's asyncio calls then forget the status that came ("refused: …"), and go by an "Internal error from Core" of their
own. So it is looked at in the moment in which it comes. Leaves to others what it means (``jlogd.runtime.rpc``).
"""

import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc
import grpc.aio

_T = TypeVar("_T")


class _WaitsError(Exception):
    """It is not there yet."""


class Verdict:
    """Of one call; made before anything is written. On the loop."""

    def __init__(self, call: Any) -> None:
        """``call``: of grpc.aio; it runs."""
        self._said: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._look)

    def of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """``error``, which the call failed with, or what was said before that hid it."""
        known = self._said is not None and self._said.code() is not grpc.StatusCode.INTERNAL
        return self._said if known and self._said is not None else error

    def _look(self, call: Any) -> None:
        with contextlib.suppress(_WaitsError):  # a gRPC that tells it later: then the error is what there is
            code = _now(call.code())
            if code is not grpc.StatusCode.OK:
                trailing = _now(call.trailing_metadata())
                self._said = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, _now(call.details()))


def _now(answer: Coroutine[Any, Any, _T]) -> _T:
    """The answer of a coroutine that waits for nothing, as those of a call that is over. _WaitsError when it does."""
    try:
        answer.send(None)
    except StopIteration as over:
        return over.value  # type: ignore[no-any-return]
    finally:
        answer.close()
    raise _WaitsError
