"""Takes in what other managers tell of the nodes that are attached to them (``telling`` is the other end).

Invariant: of a manager that tells us, the registry has the sightings that its newest call told, and those of the call
before until this one has told all. When the call is over, whatever ended it, that manager sees nobody any more. A node
that is told wrongly is left out, named once, and harms no other.

All methods belong to the manager's loop.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

from jlogd.runtime.errors import DamageError, RefusedError, UnavailableError
from jlogd.runtime.names import is_name
from managerd.ecconfigd.calls import Call
from managerd.ecconfigd.nodes import Registry
from managerd.ecconfigd.wire import here_of
from managerd.v1 import config_pb2 as pb

log = logging.getLogger(__name__)

MANAGERS_MAX: Final = 64  # that tell us at the same time
NODES_MAX: Final = 1000  # in one message: it is taken in without a pause


@dataclass(slots=True, eq=False)
class _Told:
    """One manager's call. ``over``: why it is to end."""

    over: asyncio.Future[str]
    named: set[str] = field(default_factory=set)  # until ``whole``
    whole: bool = False  # all that it sees has been told
    complained: bool = False


class Hearing:
    """See the module. ``end`` once."""

    def __init__(self, registry: Registry, *, manager: str) -> None:
        """``manager``: our own name."""
        self._registry = registry
        self._manager = manager
        self._calls: dict[str, _Told] = {}

    def hears(self, manager: str) -> bool:
        """Whether what that manager sees is known here."""
        told = self._calls.get(manager)
        return told is not None and told.whole

    async def tell(self, call: Call, _requests: object) -> pb.TellResponse:
        """``ReplicaService.Tell``. NotPermittedError, RefusedError, DamageError, UnavailableError."""
        who = call.other_manager()
        message: pb.TellRequest | None = await call.read()
        name = self._named(message, who)
        told = self._enter(name)
        try:
            while message is not None:
                self._take(name, told, message)
                message = await _next(call, told)
        finally:
            self._leave(name, told)
        return pb.TellResponse()

    async def end(self, deadline_s: float) -> None:
        """Tell every manager that tells us."""
        del deadline_s  # nothing here waits
        for told in self._calls.values():
            _stop(told, f"manager {self._manager} is stopping")

    def _named(self, first: pb.TellRequest | None, who: str) -> str:
        if first is None or not is_name(first.manager):
            raise DamageError("a manager that tells of nodes says its name first")
        if who and first.manager != who:
            raise RefusedError(f"the call says manager {first.manager!r}, the certificate {who!r}")
        if first.manager == self._manager:
            raise RefusedError(f"manager {self._manager} tells itself: take its own address out of [config] peers")
        return first.manager

    def _enter(self, name: str) -> _Told:
        older = self._calls.get(name)
        if older is not None:
            _stop(older, f"a newer call of manager {name} came")
        elif len(self._calls) >= MANAGERS_MAX:
            raise UnavailableError(f"{MANAGERS_MAX} managers tell of their nodes already")
        self._calls[name] = told = _Told(asyncio.get_running_loop().create_future())
        return told

    def _leave(self, name: str, told: _Told) -> None:
        if self._calls.get(name) is told:
            del self._calls[name]
            self._registry.lost_but(name)
            log.info("manager %s tells nothing of its nodes any more", name)

    def _take(self, name: str, told: _Told, message: pb.TellRequest) -> None:
        if len(message.nodes) > NODES_MAX:
            raise DamageError(f"{len(message.nodes)} nodes in one message, at most {NODES_MAX} are taken")
        for node in message.nodes:
            try:
                self._see(name, told, node)
            except (DamageError, RefusedError) as error:
                if not told.complained:
                    told.complained = True
                    log.warning("manager %s tells of a node that is left out: %s", name, error)
        if message.whole and not told.whole:
            told.whole = True
            self._registry.lost_but(name, told.named)
            log.info("manager %s tells of its nodes, %d now", name, len(told.named))
            told.named.clear()

    def _see(self, manager: str, told: _Told, node: pb.ToldNode) -> None:
        name, sighting, attached = here_of(node)
        if not told.whole:
            told.named.add(name)
        if attached or sighting.report is not None:  # what it said last counts, also when it was gone by then
            self._registry.seen(manager, name, sighting)
        if not attached:
            self._registry.lost(manager, name)


async def _next(call: Call, told: _Told) -> pb.TellRequest | None:
    reading = asyncio.ensure_future(call.read())
    try:
        await asyncio.wait({reading, told.over}, return_when=asyncio.FIRST_COMPLETED)
        if told.over.done():
            raise UnavailableError(told.over.result())
        return reading.result()  # type: ignore[no-any-return]
    finally:
        reading.cancel()  # no effect on one that is done


def _stop(told: _Told, why: str) -> None:
    if not told.over.done():
        told.over.set_result(why)
