"""What every call needs to know first: the caller's rights, a node's scope, what is confirmed, a turn to read.

A turn to read is one of ``HEAVY_READS_MAX``; who would have to wait behind ``WAITING_MAX`` others is sent away instead.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from jlogd.confrepo.model import DEFAULT, Revision, Scope
from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import UnavailableError
from managerd.ecconfigd.calls import Caller
from managerd.ecconfigd.rights import Gate, check_node, subcluster_in_tree

if TYPE_CHECKING:
    from managerd.ecconfigd.service import Parts

HEAVY_READS_MAX: Final = 4  # the threads share the machine with nodes' packs and commits
WAITING_MAX: Final = 200
T = TypeVar("T")


class Seeing:
    """See the module. On the loop."""

    def __init__(self, parts: "Parts") -> None:
        """Nobody reads yet."""
        self._parts = parts
        self._turns = asyncio.Semaphore(HEAVY_READS_MAX)
        self._waiting = 0

    async def read(self, fn: Callable[[Repository], T]) -> T:
        """``fn`` in a reader thread, when it is its turn. UnavailableError when too many wait."""
        if self._waiting >= WAITING_MAX:
            raise UnavailableError(f"{WAITING_MAX} others wait to read: try again later")
        self._waiting += 1
        try:
            async with self._turns:
                return await self._parts.store.read(fn)
        finally:
            self._waiting -= 1

    def confirmed(self) -> Revision:
        """The highest revision that enough managers have; 0: none."""
        commit = self._parts.store.confirmed()
        return commit.revision if commit is not None else Revision(0)

    async def gate(self, caller: Caller) -> Gate:
        """The caller's rights by the rules at head."""
        return Gate.of(self._parts.store.rules(), caller, await self.scope(caller))

    async def scope(self, caller: Caller) -> Scope | None:
        """The layers of a caller that is a node: of a subcluster that it may not be of any more, none."""
        if caller.role != "node":
            return None
        scope = await self.scope_of(caller.name)
        return scope if self._parts.targets.may_be_of(scope.node, scope.subcluster) else Scope(DEFAULT, scope.node)

    async def scope_of(self, node: str) -> Scope:
        """The layers of any node; of one that nobody has heard of, as it would be in "default". RefusedError."""
        return Scope(await self.subcluster_of(node) or DEFAULT, node)

    async def subcluster_of(self, node: str) -> str | None:
        """As the node said, else as the tree has it; None: nobody has heard of it.

        RefusedError for what is no node's name.
        """
        check_node(node)
        entry = self._parts.registry.get(node)
        if entry is not None:
            return entry.subcluster
        head = self._parts.store.head()
        return await self._parts.store.read(lambda repository: subcluster_in_tree(repository, head, node))
