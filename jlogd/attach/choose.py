"""Which of the things that managers ask for a node follows. Pure.

* Of the same repository: the highest serial, and never a lower one than was followed before, unless every manager of
  the node is attached and none says more: then all of their repositories were restored.
* Of another repository: when no manager of the old one is attached.

Both exceptions must hold without a break for a while: a manager that was just restarted, or has not spoken yet, must
not send a node back.
"""

from collections.abc import Collection, Mapping
from typing import Final

from jlogd.attach.memory import Memory
from jlogd.attach.messages import Target

LOWER_WAIT_S: Final = 5.0  # every manager is attached: each says what it wants in the first message
FOREIGN_WAIT_S: Final = 30.0  # some are not: longer than a restart and the back-off after it take

Asked = Mapping[str, Target | None]  # attached manager → what it asks for, None: nothing yet


class Chooser:
    """Remembers since when an exception has held. One owner."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self._candidate: tuple[str, int, str] | None = None  # repository, serial, id
        self._since_s = 0.0
        self.due_s: float | None = None  # when ``choose`` may have another answer, though nobody says anything new

    def choose(self, asked: Asked, managers: Collection[str], memory: Memory, now_s: float) -> Target | None:
        """What to follow now; None: stay with what runs."""
        self.due_s = None
        told = [target for target in asked.values() if target is not None]
        ours = [target for target in told if memory.repository in (None, target.repository)]
        everybody = set(managers) <= asked.keys()
        if ours:
            best = max(ours, key=lambda target: _order(target, memory))
            if best.serial >= memory.followed:
                self._candidate = None
                return best
            if everybody:
                return self._after(best, LOWER_WAIT_S, now_s)
        elif told:
            best = max(told, key=lambda target: _order(target, memory))
            return self._after(best, LOWER_WAIT_S if everybody else FOREIGN_WAIT_S, now_s)
        self._candidate = None
        return None

    def _after(self, target: Target, wait_s: float, now_s: float) -> Target | None:
        candidate = (target.repository, target.serial, target.id)
        if candidate != self._candidate:
            self._candidate, self._since_s = candidate, now_s
        if now_s - self._since_s >= wait_s:
            return target
        self.due_s = self._since_s + wait_s
        return None


def _order(target: Target, memory: Memory) -> tuple[int, bool, str]:
    """Of two with one serial (a second writer was forced) stay with the one that we have."""
    return target.serial, memory.about is not None and target.id == memory.about.id, target.id
