"""What was seen of the nodes since this process began: who is attached, what each said last, and since when.

Never durable: after a restart everyone counts as away until seen, and every hold starts over.
Changed by the loop's thread only.
"""

from collections.abc import Collection
from dataclasses import dataclass

from jlogd.attach.messages import Report


@dataclass(slots=True)
class Seen:
    """One node. Monotonic seconds."""

    online: bool
    online_since_s: float  # it came, or went
    report: Report | None = None
    report_since_s: float = 0.0  # it says the same about the same revision since
    fresh: bool = False  # it said so since it came
    tried: int = 0  # the rollout that it is in
    tried_since_s: float = 0.0
    proven: object = None  # in which stage, and with which report, it was well for the whole hold


class Fleet:
    """Nodes by name."""

    def __init__(self, now_s: float) -> None:
        """Nobody was seen so far."""
        self.nodes: dict[str, Seen] = {}
        self.began_s = now_s
        self._mark: object = None
        self._mark_s = now_s

    def attached(self, node: str, now_s: float) -> None:
        """``node`` has a session; what it said in an earlier one does not count until it says so again."""
        seen = self._seen(node, now_s)
        seen.online, seen.online_since_s, seen.fresh = True, now_s, False

    def detached(self, node: str, now_s: float) -> None:
        """It has none any more; also: a node that is known and away."""
        seen = self._seen(node, now_s)
        if seen.online:
            seen.online, seen.online_since_s = False, now_s

    def reported(self, node: str, report: Report, now_s: float) -> None:
        """What it says."""
        seen = self._seen(node, now_s)
        old = seen.report
        if old is None or (old.state, old.id) != (report.state, report.id):
            seen.report_since_s = now_s
        seen.report, seen.fresh = report, True

    def keep(self, known: Collection[str]) -> None:
        """Forget everybody else: nodes that were retired."""
        for node in self.nodes.keys() - set(known):
            del self.nodes[node]

    def online(self) -> list[str]:
        """Who is attached."""
        return [name for name, seen in self.nodes.items() if seen.online]

    def since_s(self, mark: object, now_s: float) -> float:
        """Since when this method is asked with that ``mark``: when a stage began, as far as this process saw it."""
        if mark != self._mark:
            self._mark, self._mark_s = mark, now_s
        return self._mark_s

    def _seen(self, node: str, now_s: float) -> Seen:
        return self.nodes.setdefault(node, Seen(online=False, online_since_s=now_s))
