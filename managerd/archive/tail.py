"""Following logs in the archive: the last records first, then what arrives, new incarnations included."""

from collections.abc import Iterator
from pathlib import Path

from jlogd.journal.select import slices
from jlogd.runtime.arguments import RecordRange
from jlogd.runtime.errors import DamageError
from managerd.archive.layout import Log, list_incarnations
from managerd.archive.reading import OpenLog, Part, open_log


class Follower:
    """One log that is followed. ``news`` gives the stretches that were not given before; never blocks."""

    def __init__(self, log: Log, wanted: RecordRange, last: int, incarnation: str | None = None) -> None:
        """Begin with the ``last`` records that are there now."""
        self.log = log
        self._wanted = wanted
        self._incarnation = incarnation
        self._known = [item.path for item in list_incarnations(log.path)]
        self._opened = open_log(log, incarnation)
        self._next: dict[Path, int] = {}
        missing = last
        for part in reversed(self._opened.parts):
            first, end = part.range(wanted)
            start, found = last_records(part, wanted, first, end, missing)
            self._next[part.incarnation.path] = start
            missing -= found

    def news(self) -> Iterator[tuple[Part, int, int]]:
        """Part, first offset and end of what is new."""
        self._look()
        for part in self._opened.parts:
            start = self._next.get(part.incarnation.path, part.first)
            end = part.end_now if self._wanted.end is None else min(part.end_now, self._wanted.end)
            if start < end:
                self._next[part.incarnation.path] = end
                yield part, start, end

    @property
    def done(self) -> bool:
        """Whether nothing more can be wanted: the last part has been given up to its bound."""
        if self._wanted.end is None or not self._opened.parts:
            return False
        return self._next.get(self._opened.parts[-1].incarnation.path, 0) >= self._wanted.end

    def close(self) -> None:
        """Close the readers."""
        self._opened.close()

    def _look(self) -> None:
        names = [item.path for item in list_incarnations(self.log.path)]
        if names != self._known and self._incarnation is None:
            fresh = self._reopen()
            if fresh is not None:
                self._known = names
        for part in self._opened.parts:
            part.reader.refresh()

    def _reopen(self) -> OpenLog | None:
        """The main line anew; None while the new incarnation is being begun."""
        try:
            fresh = open_log(self.log)
        except DamageError:
            return None
        if len(fresh.parts) == len(self._opened.parts) and fresh.parts[-1].incarnation == self._known_last():
            fresh.close()
            return None
        self._opened.close()
        self._opened = fresh
        return fresh

    def _known_last(self) -> object:
        return self._opened.parts[-1].incarnation if self._opened.parts else None


def last_records(part: Part, wanted: RecordRange, first: int, end: int, last: int) -> tuple[int, int]:
    """Where the ``last`` wanted records of ``[first, end)`` begin, and how many there are (at most ``last``)."""
    if wanted.source is None or last <= 0:
        start = max(first, end - max(last, 0))
        return start, end - start
    window = max(last, 1)
    while True:
        start = max(first, end - window)
        found = _stretches(part, wanted, start, end)
        if sum(records for _, records in found) >= last or start == first:
            break
        window *= 8
    missing = last
    for offset, records in reversed(found):
        if records >= missing:
            return offset + records - missing, last
        missing -= records
    return start, last - missing


def _stretches(part: Part, wanted: RecordRange, first: int, end: int) -> list[tuple[int, int]]:
    found = []
    inside = RecordRange(first, end, wanted.since_ns, wanted.until_ns, wanted.source)
    for view in part.reader.frames(first, end):
        try:
            found += [(piece.first, piece.records) for piece in slices(view, view.body(), inside)]
        except DamageError:
            continue  # named when it is written
    return found
