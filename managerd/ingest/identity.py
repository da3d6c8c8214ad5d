"""Who may have the session of a node: the rules that Deliver and Attach share. Pure.

* The certificate says who somebody is; a hello that says another name is refused.
* A newer session of the same node ends the older one; another machine under the same name is
  refused while the first one lives, and so is an instance that was thrown out and comes back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from jlogd.forward.messages import Reason, Refusal
from managerd.ingest.events import Other, Peer

SUPERSEDED_MAX = 16  # instances remembered for each node


class Claimant(Protocol):
    """What a hello says about its sender, whatever else is in it."""

    @property
    def protocol(self) -> int:
        """Of the session."""
        ...

    @property
    def node(self) -> str:
        """Its name."""
        ...

    @property
    def host(self) -> str:
        """For people."""
        ...

    @property
    def machine_id(self) -> str:
        """Empty where there is none."""
        ...

    @property
    def instance(self) -> bytes:
        """Random per process."""
        ...


def not_who_it_says(
    hello: Claimant, peer: Peer, manager: str, protocol: int, verb: str, check: Callable[[], None]
) -> Refusal | None:
    """Denied, of another role, of another version, under another name; None: it is who it says.

    ``check`` raises ProtocolError for absurd content; it is not called for a hello of another version. ``verb``: what
    a certificate of another role cannot do.
    """
    if peer.denied:
        return Refusal(Reason.CERTIFICATE_DENIED, f"the certificate of {peer.name or peer.address} is on the deny list")
    if peer.role not in ("", "node"):
        return Refusal(
            Reason.CERTIFICATE, f"a {peer.role}'s certificate ({peer.name}) cannot {verb}: a node's is needed"
        )
    if hello.protocol != protocol:
        return Refusal(
            Reason.PROTOCOL_VERSION,
            f"node {peer.name or hello.node[:80]} speaks session protocol {hello.protocol}, manager {manager} "
            f"{protocol}: upgrade the older one",
        )
    check()
    if peer.role and peer.name != hello.node:
        return Refusal(
            Reason.NAME_MISMATCH, f"node calls itself {hello.node}, its certificate was issued to {peer.name}"
        )
    return None


def duplicate(hello: Claimant, peer: Peer, other: Other | None, *, returned: bool) -> Refusal | None:
    """Two live nodes with one name. ``returned``: ``other`` threw this instance out before."""
    if other is None or other.instance == hello.instance or not (returned or not _same_machine(hello, other)):
        return None
    return Refusal(
        Reason.DUPLICATE_NODE,
        f"two live nodes are named {hello.node}: host {other.host} ({other.address}) is connected, host "
        f"{hello.host} ({peer.address}) was refused; stop one or give it another name",
    )


def _same_machine(hello: Claimant, other: Other) -> bool:
    if hello.machine_id or other.machine_id:
        return hello.machine_id == other.machine_id
    return hello.host == other.host


SessionT = TypeVar("SessionT")


@dataclass(frozen=True, slots=True)
class _Claim(Generic[SessionT]):
    session: SessionT
    other: Other
    superseded: tuple[bytes, ...]


class Claims(Generic[SessionT]):
    """The live session of each node, and whom it threw out. Not thread-safe."""

    def __init__(self) -> None:
        """Nobody lives."""
        self._claims: dict[str, _Claim[SessionT]] = {}

    def other(self, hello: Claimant) -> tuple[Other | None, bool]:
        """The live session of that node, and whether it superseded this instance before."""
        claim = self._claims.get(hello.node)
        return (claim.other, hello.instance in claim.superseded) if claim is not None else (None, False)

    def enter(self, hello: Claimant, address: str, session: SessionT) -> SessionT | None:
        """``session`` is the node's from now on; returns the older one, which must be ended."""
        before = self._claims.get(hello.node)
        superseded = before.superseded if before is not None else ()
        if before is not None and before.other.instance != hello.instance:
            superseded = (*superseded, before.other.instance)[-SUPERSEDED_MAX:]
        other = Other(hello.host, hello.machine_id, hello.instance, address)
        self._claims[hello.node] = _Claim(session, other, superseded)
        return before.session if before is not None else None

    def leave(self, name: str, session: SessionT) -> bool:
        """``session`` is over; False, and nothing happens, when another one has taken its place."""
        if not self.holds(name, session):
            return False
        del self._claims[name]
        return True

    def holds(self, name: str, session: SessionT) -> bool:
        """Whether ``session`` is the live one of that node."""
        claim = self._claims.get(name)
        return claim is not None and claim.session is session

    def __contains__(self, name: str) -> bool:
        """Whether that node has a live session."""
        return name in self._claims

    def sessions(self) -> list[SessionT]:
        """Every live session."""
        return [claim.session for claim in self._claims.values()]
