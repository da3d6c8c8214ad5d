"""``AttachService``: tells each node what to run, gives it the objects, hears what became of it.

One session a node; the same rules as Deliver (docs/session.md). What a node should run, and may read, is
the ``Targets``' to say; what it runs goes to the ``Registry``.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import grpc

from jlogd.attach.messages import Target
from jlogd.confrepo.model import CommitId, Scope
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.metrics import Metrics
from managerd.ecconfigd.nodes import Registry


class Targets(Protocol):
    """What nodes should run. All methods belong to the loop's thread."""

    def target(self, node: str, subcluster: str) -> Target | None:
        """What ``node`` should run now; None: nothing yet. Cheap: asked for every node at each change."""
        ...

    def subcluster_of(self, node: str) -> str | None:
        """The one subcluster that has a directory for ``node``; None when none has, or several have."""
        ...

    async def pack(
        self, scope: Scope, want: CommitId, have: Sequence[CommitId]
    ) -> AsyncIterator[bytes] | Sequence[bytes]:
        """A git pack in pieces of at most 1 MiB, at least one. RefusedError when the node may not have it."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback``, on the loop, when a target may have changed. Returns what ends that."""
        ...


class AttachService:
    """A ``Service`` of the manager's server (managerd/ingest/service.py)."""

    def __init__(
        self,
        targets: Targets,
        registry: Registry,
        deny: DenyList,
        *,
        manager: str,
        epoch: int,
        metrics: Metrics | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        """``deny``: for the loop's thread. ``epoch``: of the data directory's owner."""
        raise NotImplementedError

    async def begin(self) -> None:
        """On the loop, before anything is served."""
        raise NotImplementedError

    def handler(self) -> grpc.GenericRpcHandler:
        """Of jlogd.v1.AttachService."""
        raise NotImplementedError

    async def end(self, deadline_s: float) -> None:
        """Tell every session, wait for their ends, save the registry."""
        raise NotImplementedError
