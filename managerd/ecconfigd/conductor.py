"""Conducts rollouts on the writer: tells the machine what nodes report and how time goes on, and keeps what it decides.

Every transition is one commit on ``refs/jlogd/rollout``, durable before anybody acts on it, made in the store's owner
thread from the document that is there at that moment. Commits are made on transitions only, and at most one a second
unless a stage begins or ends. After a restart the document goes on; holds start over.

Leaves to others: who may ask (service.py), what nodes are told (targets.py), what is decided (rollout).
On managers that are not the writer it only shows what the writer decided.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jlogd.runtime.clock import SYSTEM, Clock
from managerd.ecconfigd.rollout import Status

if TYPE_CHECKING:
    from managerd.ecconfigd.nodes import Registry
    from managerd.ecconfigd.store import Store
    from managerd.ecconfigd.targets import Targets


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What ``rollout start`` asks for. None or empty: as ``global/rollout.toml`` says, else the default."""

    revision: str
    stages: Sequence[str] = ()
    hold_s: float | None = None
    health: Sequence[str] = ()
    max_failed: int | None = None


class Conductor:
    """See the module. All on the loop."""

    def __init__(
        self,
        store: "Store",
        registry: "Registry",
        targets: "Targets",
        *,
        manager: str,
        writing: bool,
        clock: Clock = SYSTEM,
    ) -> None:
        """``manager``: our own name; ``writing``: we are the writer."""

    async def begin(self) -> None:
        """Go on where the document stands."""
        raise NotImplementedError

    async def end(self) -> None:
        """Decide nothing more."""
        raise NotImplementedError

    async def start(self, request: StartRequest, author: str) -> Status:
        """Begin a rollout. RefusedError says why not. Durable on return."""
        raise NotImplementedError

    def status(self) -> Status | None:
        """The present or last one; None: there never was one."""
        raise NotImplementedError

    async def pause(self, author: str) -> Status:
        """No further node gets it; failures still count. RefusedError unless one is running."""
        raise NotImplementedError

    async def resume(self, author: str) -> Status:
        """Go on; the hold starts over. RefusedError unless one is paused."""
        raise NotImplementedError

    async def abort(self, author: str) -> Status:
        """Every node goes back to the baseline. RefusedError unless one is running or paused."""
        raise NotImplementedError

    def subscribe(self, callback: Callable[[Status], None]) -> Callable[[], None]:
        """Call ``callback`` on the loop after each transition; returns what ends that."""
        raise NotImplementedError
