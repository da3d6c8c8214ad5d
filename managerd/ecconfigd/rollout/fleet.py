"""What was seen of the nodes since this process began: who is attached, what each said last, and since when.

Never durable: after a restart everyone counts as away until seen, and every hold starts over.
Changed by the loop's thread only.
"""

from dataclasses import dataclass

from jlogd.attach.messages import Report


@dataclass(slots=True)
class Seen:
    """One node. Monotonic seconds."""

    online: bool
    online_since_s: float  # it came, or went
    report: Report | None = None
    report_since_s: float = 0.0  # it says the same since


class Fleet:
    """Nodes by name."""

    def __init__(self, now_s: float) -> None:
        """Nobody was seen so far."""
        self.nodes: dict[str, Seen] = {}
        self.began_s = now_s

    def attached(self, node: str, now_s: float) -> None:
        """``node`` has a session."""
        raise NotImplementedError

    def detached(self, node: str, now_s: float) -> None:
        """It has none any more; also: a node that is known and away."""
        raise NotImplementedError

    def reported(self, node: str, report: Report, now_s: float) -> None:
        """What it says."""
        raise NotImplementedError
