"""Which nodes are connected, how they stand, and why the others are not.

Changed by the loop's thread only; ``snapshot`` may be called from any thread.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from jlogd.forward.messages import NodeHello
from jlogd.journal import Offset
from jlogd.runtime.arguments import format_time
from jlogd.runtime.clock import Clock
from managerd.ingest.events import Other
from managerd.ingest.identity import Claims

NODES_MAX = 10_000  # names that never had a session are forgotten, the oldest first


class Session(Protocol):
    """What the registry needs of a live session."""

    def fail(self, reason: str, message: str) -> None:
        """End it."""
        ...


@dataclass(slots=True)
class Node:
    """One node. Wall times in ns."""

    name: str
    subcluster: str = ""
    since_ns: int | None = None  # of the present state
    last_seen_ns: int | None = None
    ends: dict[str, int] = field(default_factory=dict)  # journal → end on the node, as far as we know
    durable: dict[str, int] = field(default_factory=dict)  # journal → end here
    error: str | None = None
    known: bool = False  # it had a session, so that there is something to tell


class Registry:
    """Nodes by name."""

    def __init__(self, clock: Clock, known: Iterable[str] = ()) -> None:
        """``known``: nodes that the archive has, silent so far."""
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows, and what is in it
        self._claims: Claims[Session] = Claims()
        self._nodes: OrderedDict[str, Node] = OrderedDict((name, Node(name)) for name in known)

    def other(self, hello: NodeHello) -> tuple[Other | None, bool]:
        """The live session of that node, and whether it superseded this instance before."""
        with self._lock:
            return self._claims.other(hello)

    def enter(self, hello: NodeHello, address: str, session: Session) -> Session | None:
        """``session`` is the node's from now on; returns the older one, which must be ended."""
        with self._lock:
            node = self._node(hello.node)
            older = self._claims.enter(hello, address, session)
            if older is None:
                node.since_ns = self._clock.wall_ns()
            node.known = True
            node.subcluster = hello.subcluster
            node.last_seen_ns = self._clock.wall_ns()
            node.ends = {offer.journal: offer.end for offer in hello.journals}
            node.error = None
            return older

    def leave(self, name: str, session: Session, error: str | None) -> None:
        """``session`` is over; nothing happens when another one has taken its place."""
        with self._lock:
            node = self._nodes.get(name)
            if self._claims.leave(name, session) and node is not None:
                node.since_ns = node.last_seen_ns = self._clock.wall_ns()
                node.error = error

    def refused(self, name: str, error: str) -> None:
        """A session of ``name`` was refused; a live one of the same name goes on."""
        with self._lock:
            self._node(name).error = error

    def progress(self, name: str, session: Session, ends: Iterable[tuple[str, Offset]]) -> None:
        """These journals are durable up to here."""
        with self._lock:
            node = self._nodes.get(name)
            if node is None or not self._claims.holds(name, session):
                return
            node.last_seen_ns = self._clock.wall_ns()
            for journal, end in ends:
                node.durable[journal] = end
                node.ends[journal] = max(end, node.ends.get(journal, 0))

    def live(self) -> list[Session]:
        """Every live session."""
        with self._lock:
            return self._claims.sessions()

    def snapshot(self) -> list[dict[str, Any]]:
        """``nodes`` of ``managerd nodes``, by name. ``lag_records``: as far as the node has told."""
        with self._lock:
            return [_document(self._nodes[name], live=name in self._claims) for name in sorted(self._nodes)]

    def _node(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = Node(name, since_ns=self._clock.wall_ns())
            for old in list(self._nodes.values()) if len(self._nodes) > NODES_MAX else []:
                if old.name not in self._claims and old is not node:
                    del self._nodes[old.name]
                    break
        return node


def _document(node: Node, *, live: bool) -> dict[str, Any]:
    lag = sum(max(end - node.durable.get(journal, 0), 0) for journal, end in node.ends.items())
    return {
        "name": node.name,
        "subcluster": node.subcluster or None,
        "state": "connected" if live else "silent",
        "since": format_time(node.since_ns),
        "last_seen": format_time(node.last_seen_ns),
        "journals": len(node.ends) if node.known else None,
        "lag_records": lag if node.known else None,
        "error": node.error,
    }
