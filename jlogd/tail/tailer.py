"""Many sources for one journal: discovery, waking, fairness.

Owns the followers and decides when each is looked at:

* one that gave bytes within the last second: at every poll (the caller polls every 20 ms then);
* the others of its directory: a few times a second until the directory is quiet for 2 s;
* in a quiet directory: only after an event;
* everything: in a slow sweep every 5 s (NFS and the like send no events), and when something is due.

There are no timers per file. One owner thread; ``status`` and ``wake`` from any thread.
"""

import threading
from collections.abc import Mapping, Sequence

from jlogd.journal.model import SourceKey, SourceState
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.tail.discovery import Globs, Inode, choose
from jlogd.tail.follower import Budget, Follower
from jlogd.tail.generation import BUFFER_BYTES
from jlogd.tail.model import LINES_MAX, History, Item, SourceStatus, TailSpec
from jlogd.tail.rotation import places
from jlogd.tail.sourcefs import SOURCE_FS, SourceFs
from jlogd.tail.watch import Watcher

ACTIVE_POLL_S = 0.02  # while bytes flow; p99 from write to journal stays far below the commit delay
NEIGHBOUR_POLL_S = 0.1  # idle files of a directory in which something happened
NEIGHBOUR_STAT_S = 0.0005  # and this much more per file, so that big directories cost the same
UNWATCHED_POLL_S = 0.25  # directories without events
QUIET_S = 2.0  # then a directory's contents wake us by events again
SWEEP_S = 5.0
DISCOVER_MIN_S = 0.1  # a storm of renames does not make a storm of globs
TURN_BYTES = 4 << 20  # what one source may give before the next has its turn


class Tailer:
    """Follow all sources of one journal."""

    def __init__(
        self,
        specs: Sequence[TailSpec],
        sources: Mapping[SourceKey, SourceState],
        history: History | None,
        *,
        fs: SourceFs = SOURCE_FS,
        clock: Clock = SYSTEM,
        events: bool = True,
    ) -> None:
        """``sources``: the journal's committed positions. ``events=False`` looks at everything at each poll."""
        self._globs = [Globs(spec) for spec in specs]
        self._history, self._fs, self._clock = history, fs, clock
        self._buffer = bytearray(BUFFER_BYTES)
        self._followers: dict[bytes, Follower] = {}
        self._directories: dict[bytes, set[bytes]] = {}  # directory → paths whose files may stand there
        self._touched_s: dict[bytes, float] = {}  # directory → last event or growth
        self._look_at_s: dict[bytes, float] = {}  # directory → next look at its idle files
        self._pending: list[bytes] = []  # sources with more than the last poll's budget
        self._sweep_at_s = clock.monotonic_s() + SWEEP_S
        self._discovered_s = clock.monotonic_s()
        self._discover = False
        self._all = True  # look at every source at the next poll
        self._watcher = Watcher() if events else None
        self._idle = threading.Event()
        self._saved: dict[bytes, dict[int, SourceState]] = {}
        for (path, number), state in sources.items():
            self._saved.setdefault(path, {})[number] = state
        self._find_sources(first=True)

    # -- the caller's three verbs ---------------------------------------------------------------------------------

    def poll(self, bytes_max: int) -> list[Item]:
        """What is there now, about ``bytes_max`` bytes (one block of 1 MiB more at most); in order per generation."""
        now_s = self._clock.monotonic_s()
        due = self._due(now_s)
        out: list[Item] = []
        left = bytes_max
        queue = list(dict.fromkeys([*self._pending, *due]))
        while queue and left > 0:
            path = queue.pop(0)
            follower = self._followers[path]
            turn = min(left, TURN_BYTES)
            budget = Budget(turn)
            if follower.poll(budget, self._buffer, out):
                queue.append(path)
            left -= turn - budget.left
            if follower.last_growth_s >= now_s:
                self._touch(path, now_s)
        self._pending = queue
        self._arm(now_s)
        return out

    def wait(self, timeout_s: float) -> None:
        """Until something may have changed, or ``timeout_s`` is over, or ``wake`` is called."""
        if self._pending or self._all:
            return
        now_s = self._clock.monotonic_s()
        until_s = min([now_s + timeout_s, self._sweep_at_s, *self._look_at_s.values()])
        for follower in self._followers.values():
            until_s = min(until_s, follower.due_s)
            if follower.is_active(now_s):
                until_s = min(until_s, now_s + ACTIVE_POLL_S)
        if self._watcher is None:
            until_s = min(until_s, now_s + ACTIVE_POLL_S)
        pause_s = max(until_s - now_s, 0.001)
        if self._watcher:
            self._watcher.wait(pause_s)
        else:
            self._idle.wait(pause_s)

    def status(self) -> list[SourceStatus]:
        """One entry per source, sorted by path; any thread."""
        return sorted((follower.status for follower in list(self._followers.values())), key=lambda one: one.path)

    def wake(self) -> None:
        """End a ``wait`` early; any thread."""
        self._idle.set()
        if self._watcher:
            self._watcher.wake()

    def close(self) -> None:
        """Release all descriptors and the watches."""
        if self._watcher:
            self._watcher.close()
        for follower in self._followers.values():
            follower.close()

    # -- when ---------------------------------------------------------------------------------------------------

    def _due(self, now_s: float) -> list[bytes]:
        """Sources to look at now."""
        dirty, renamed = self._watcher.take() if self._watcher else (set(), set())
        sweep = now_s >= self._sweep_at_s
        self._discover |= bool(renamed) or sweep or self._watcher is None
        if self._discover and (sweep or now_s - self._discovered_s >= DISCOVER_MIN_S or self._watcher is None):
            self._find_sources(first=False)
        everything = sweep or self._all or self._watcher is None
        self._all = False
        if sweep:
            self._sweep_at_s = now_s + SWEEP_S
        for directory in dirty:
            self._touched_s[directory] = now_s
        if everything:
            for follower in self._followers.values():
                follower.sweep_due = follower.sweep_due or sweep
            return list(self._followers)
        looked = dirty | {directory for directory, at_s in self._look_at_s.items() if now_s >= at_s}
        paths = {path for directory in looked for path in self._directories.get(directory, ())}
        for path, follower in self._followers.items():
            if follower.due_s <= now_s or follower.is_active(now_s):
                paths.add(path)
        return sorted(paths)

    def _touch(self, path: bytes, now_s: float) -> None:
        for directory, _ in places(path):
            self._touched_s[directory] = now_s

    def _arm(self, now_s: float) -> None:
        """Choose for each directory between events and polling."""
        if self._watcher is None:
            return
        for directory, paths in self._directories.items():
            quiet = now_s - self._touched_s.get(directory, -1e9) >= QUIET_S
            if self._watcher.set(directory, armed=quiet):
                self._look_at_s[directory] = now_s
            elif not self._watcher.watched(directory):
                self._plan_look(directory, now_s, UNWATCHED_POLL_S + NEIGHBOUR_STAT_S * len(paths))
            elif quiet:
                self._look_at_s.pop(directory, None)
            else:
                self._plan_look(directory, now_s, NEIGHBOUR_POLL_S + NEIGHBOUR_STAT_S * len(paths))

    def _plan_look(self, directory: bytes, now_s: float, period_s: float) -> None:
        if self._look_at_s.get(directory, now_s) <= now_s:
            self._look_at_s[directory] = now_s + period_s

    # -- what ---------------------------------------------------------------------------------------------------

    def _find_sources(self, *, first: bool) -> None:
        """Add followers for paths that appeared; sources once known stay."""
        self._discovered_s, self._discover = self._clock.monotonic_s(), False
        wanted: dict[bytes, Globs] = {}
        for globs in self._globs:
            paths = globs.expand()
            paths += [path for path in self._saved if first and globs.matches(path)]
            for path in paths:
                wanted.setdefault(path, globs)
        already = {*self._followers, *(path for path in self._saved if path in wanted)}
        for path, inode in choose(wanted, already, self._globs, self._fs):
            if path not in self._followers and not self._other_name(path, inode):
                self._add(path, wanted[path], first=first)
        for globs in self._globs:
            for directory in globs.directories():
                self._directories.setdefault(directory, set())

    def _other_name(self, path: bytes, inode: Inode | None) -> bool:
        """Whether the file at a new path is a generation that some source reads already."""
        if inode is None or path in self._saved:
            return False
        return any(follower.holds(path, inode) for follower in self._followers.values())

    def _add(self, path: bytes, globs: Globs, *, first: bool) -> None:
        seen_before = any(globs.matches(known) for known in self._saved)
        from_end = first and globs.spec.start_at == "end" and not seen_before
        saved = self._saved.get(path, {})
        follower = Follower(path, globs.spec, saved, self._history, self._fs, self._clock, from_end=from_end)
        self._followers[path] = follower
        for directory, _ in places(path):
            self._directories.setdefault(directory, set()).add(path)
        self._all = True


assert LINES_MAX < TURN_BYTES
