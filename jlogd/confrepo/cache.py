"""What was read lately, bounded by weight. Thread-safe."""

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Keeps the entries used last whose weights together are at most ``weight_max``."""

    def __init__(self, weight_max: int) -> None:
        """Empty."""
        self._weight_max = weight_max
        self._lock = threading.Lock()  # guards the two below
        self._entries: OrderedDict[K, tuple[int, V]] = OrderedDict()
        self._weight = 0

    def get(self, key: K) -> V | None:
        """The value, which counts as used now; None when it is not here."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            return found[1]

    def put(self, key: K, value: V, weight: int = 1) -> V:
        """Keep ``value``, and drop what was not used for long; returns the value."""
        with self._lock:
            before = self._entries.pop(key, None)
            self._weight += weight - (before[0] if before else 0)
            self._entries[key] = (weight, value)
            while self._weight > self._weight_max:
                self._weight -= self._entries.popitem(last=False)[1][0]
        return value

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()
            self._weight = 0
