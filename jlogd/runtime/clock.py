"""The one source of time, passed in so that tests can hold it.

Durations are measured on ``monotonic_s`` (seconds, arbitrary zero, never steps
back). Wall time, in nanoseconds since 1970 UTC, stands only inside records and
messages to people; no decision compares the wall clocks of two machines.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Time as the rest of the code sees it."""

    def monotonic_s(self) -> float:
        """Seconds that only grow; for durations and deadlines."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC; for records and people."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return time.monotonic()

    def wall_ns(self) -> int:
        """See ``Clock``."""
        return time.time_ns()


class ManualClock:
    """A clock that stands still until ``advance`` is called; both clocks move together."""

    def __init__(self, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        """Start at ``wall_ns`` and monotonic zero."""
        self._monotonic_s = 0.0
        self._wall_ns = wall_ns

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._monotonic_s += seconds
        self._wall_ns += int(seconds * 1e9)

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return self._monotonic_s

    def wall_ns(self) -> int:
        """See ``Clock``."""
        return self._wall_ns


SYSTEM = SystemClock()
