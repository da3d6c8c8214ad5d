"""What surrounds every call: who makes it, how long it may be silent, errors as gRPC statuses with their ``reason``.

    certificate → Caller ─┬─ denied, or nobody of this fleet: NotPermittedError
                          └─ behaviour(call, request) → answer
    JlogdError            → its status, its message as details, its reason in the trailing metadata REASON_KEY
    anything else         → INTERNAL, and the traceback in this manager's log

A certificate that is denied while a call runs ends the call. One node has a few calls at a time, so that none of them
takes the turns, watchers and memory of all. Without TLS, which is for loopback only, everybody is ``operator:local``.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import DeadlineError, JlogdError, NotPermittedError, RefusedError, UnavailableError
from jlogd.runtime.names import is_name
from jlogd.runtime.rpc import REASON_KEY, ROLES, peer_identity, status_code

log = logging.getLogger(__name__)

SILENT_S = 30.0  # a stream whose caller sends nothing for so long is ended
UNREAD_S = 30.0  # so is one whose caller does not read
DENY_CHECK_S = 3.0  # how long a certificate that was just denied may still be used
NODE_CALLS_MAX = 8  # of one node at the same time: it has use for one
DETAILS_MAX = 4000  # bytes of an error's message: header lists have a limit of 8 KiB

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour: TypeAlias = "Callable[[Call, Any], Awaitable[Message | None]]"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose rights count. ``via``: the manager that passed the call on, or empty. Not ``certified``: no TLS."""

    role: str
    name: str
    via: str = ""
    certified: bool = True

    @property
    def identity(self) -> str:
        """``operator:alice``: as rules and authors have it."""
        return f"{self.role}:{self.name}"


@dataclass(frozen=True, slots=True)
class Call:
    """One call that runs."""

    caller: Caller
    context: Context

    async def read(self) -> Any:
        """The next message of the caller's stream; None at its end. DeadlineError when it stays silent."""
        try:
            async with asyncio.timeout(SILENT_S):
                message = await self.context.read()
        except TimeoutError:
            raise DeadlineError(f"the caller sent nothing for {SILENT_S:g} s: the call was ended") from None
        return None if message is grpc.aio.EOF else message

    async def write(self, message: Message) -> None:
        """The next message of the answer's stream. DeadlineError when the caller does not read."""
        try:
            async with asyncio.timeout(UNREAD_S):
                await self.context.write(message)
        except TimeoutError:
            raise DeadlineError(f"the caller read nothing for {UNREAD_S:g} s: the call was ended") from None

    def other_manager(self) -> str:
        """The name of the manager that calls, empty without TLS. NotPermittedError for everybody else."""
        if not self.caller.certified:
            return ""
        if self.caller.role != "manager":
            raise NotPermittedError(f"{self.caller.identity} is not a manager: only managers replicate")
        return self.caller.name

    def for_whom(self, behalf: str) -> Caller:
        """Whose rights count when the call names somebody else, as managers do that pass it on. NotPermittedError."""
        if not behalf:
            return self.caller
        if self.caller.role != "manager" and self.caller.certified:
            raise NotPermittedError(f"{self.caller.identity} is not a manager: it cannot act for {behalf[:80]!r}")
        role, _, name = behalf.partition(":")
        if role not in ROLES or not is_name(name):
            raise RefusedError(f"{behalf[:80]!r} is not an identity: write ROLE:NAME")
        return Caller(role, name, via=self.caller.identity)


def handler_of(
    service: ServiceDescriptor, behaviours: Mapping[str, Behaviour], deny: DenyList
) -> grpc.GenericRpcHandler:
    """All methods of ``service``; each must have its behaviour. KeyError otherwise."""
    turns = Turns()
    methods = {method.name: _method(method, behaviours[method.name], deny, turns) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, methods)


class Turns:
    """Counts the calls that run, of each node. On the loop."""

    def __init__(self) -> None:
        """None runs."""
        self._running: Counter[str] = Counter()

    @contextlib.contextmanager
    def of(self, caller: Caller) -> Iterator[None]:
        """While one more call of ``caller`` runs. UnavailableError when a node has too many already."""
        if caller.role != "node":
            yield
            return
        if self._running[caller.name] >= NODE_CALLS_MAX:
            raise UnavailableError(f"{NODE_CALLS_MAX} calls of {caller.identity} run already: try again after them")
        self._running[caller.name] += 1
        try:
            yield
        finally:
            self._running[caller.name] -= 1
            if not self._running[caller.name]:
                del self._running[caller.name]


def _method(method: MethodDescriptor, behaviour: Behaviour, deny: DenyList, turns: Turns) -> Any:
    async def answer(request: Any, context: Context) -> Message | None:
        return await _answer(behaviour, request, context, deny, turns)

    kind = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    asked, answered = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    return kind(answer, request_deserializer=asked.FromString, response_serializer=answered.SerializeToString)


async def _answer(behaviour: Behaviour, request: Any, context: Context, deny: DenyList, turns: Turns) -> Message | None:
    try:
        peer = peer_identity(context.auth_context(), context.peer())
        call = Call(_caller(peer.role, peer.name, denied=deny.denies(peer.fingerprint)), context)
        with turns.of(call.caller):
            return await _while_allowed(behaviour(call, request), lambda: deny.denies(peer.fingerprint), call.caller)
    except JlogdError as error:
        details = str(error).encode()[:DETAILS_MAX].decode(errors="ignore")
        await context.abort(status_code(error), details, ((REASON_KEY, error.reason),))
    except (grpc.aio.AbortError, asyncio.CancelledError):
        raise
    except grpc.aio.InternalError:  # its connection broke in the moment of a write: there is nobody to tell
        log.info("a caller went away while it was being answered")
        raise asyncio.CancelledError from None
    except Exception:
        log.exception("a call failed")
        await context.abort(grpc.StatusCode.INTERNAL, "this manager failed at it: its log says more")


def _caller(role: str, name: str, *, denied: bool) -> Caller:
    if denied:
        raise NotPermittedError(f"the certificate of {role} {name} was denied: issue a new one")
    if not role:
        return Caller("operator", "local", certified=False)
    if role not in ROLES:
        raise NotPermittedError("the certificate names nobody of this fleet: issue one by 'managerd pki issue'")
    return Caller(role, name)


async def _while_allowed(work: Awaitable[Message | None], denied: Callable[[], bool], caller: Caller) -> Message | None:
    """``work``'s answer, unless the certificate is denied before it is there."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=DENY_CHECK_S)
            if done:
                return task.result()
            if denied():
                raise NotPermittedError(f"the certificate of {caller.identity} was denied: issue a new one")
    finally:
        task.cancel()  # no effect on one that is done
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task  # also one that failed in the moment in which its caller went away: nobody else hears of it
