"""ConfigService: what operators (eccfg) ask of a manager. Runs on the server's loop.

Who calls comes from the certificate (``calls``), what they may from ``global/access.toml`` (``rights``). Reads run in
the store's reader threads, at most ``HEAVY_READS_MAX`` at once. What changes anything runs on the writer, to which
every other manager passes the whole call through (``forwarding``), once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from jlogd.runtime.certificates import DenyList
from jlogd.runtime.clock import SYSTEM, Clock

if TYPE_CHECKING:
    from managerd.ecconfigd.conductor import Conductor
    from managerd.ecconfigd.nodes import Registry
    from managerd.ecconfigd.replication import Replication
    from managerd.ecconfigd.store import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service stands on; all live on the loop of the server, and are somebody else's to start and stop."""

    store: "Store"
    registry: "Registry"
    conductor: "Conductor"
    replication: "Replication"
    deny: DenyList
    manager: str  # our own name
    writer: str  # the name of the one that accepts commits
    replicas_min: int
    push_timeout_s: float
    clock: Clock = SYSTEM


class ConfigService:
    """See the module. ``begin`` once the parts run; ``end`` before they stop."""

    def __init__(self, parts: Parts) -> None:
        """Nothing runs yet."""
        self._parts = parts

    async def begin(self) -> None:
        """Listen for changes."""
        raise NotImplementedError

    def handler(self) -> grpc.GenericRpcHandler:
        """For the server."""
        raise NotImplementedError

    async def end(self, deadline_s: float) -> None:
        """End the watchers; calls that run are the server's to end."""
        raise NotImplementedError
