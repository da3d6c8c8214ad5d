"""Which nodes there are, what each runs, since when, via which managers: ``<data>/config-nodes.json``.

Invariant: an entry shows what its node said last, to us or to a manager that tells us (``hearing``); one that is
attached nowhere is ``offline`` and keeps it. The file is a memory aid, written lazily (``save``): what a crash takes
away, nodes and managers tell again when they come back. So a damaged file is logged and begun anew, never fatal. Who
may call itself what is the session's to judge (``attach_session``), what several managers say together the business of
``sightings``.

Changed by the loop's thread; ``get``, ``snapshot`` and ``save`` may be called from any thread.
"""

import json
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from jlogd.attach.messages import ERROR_MAX, Report, check_report
from jlogd.forward.messages import ProtocolError
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import RefusedError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.names import is_name
from managerd.ecconfigd.sightings import NodeEntry, Sighting, merged, same, same_sighting

__all__ = ["NODES_FILE", "NODES_MAX", "Here", "NodeEntry", "Registry"]

log = logging.getLogger(__name__)

NODES_FILE = "config-nodes.json"
NODES_MAX = 100_000  # names; of those that are not attached the longest unseen is forgotten

T = TypeVar("T")

# What bytes that are not ours may cause on the way through json and the types.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, ProtocolError)

# Name, our own sighting, and whether it still is one: what other managers are told.
Here: TypeAlias = tuple[str, Sighting, bool]


class Registry:
    """Entries by name."""

    def __init__(self, path: Path, *, manager: str, fs: FileSystem = OS, clock: Clock = SYSTEM) -> None:
        """Read ``path``; everybody is offline until he attaches. ``manager``: our own name."""
        self._path = path
        self._manager = manager
        self._fs = fs
        self._clock = clock
        self._callbacks: list[Callable[[NodeEntry], None]] = []  # the loop's, as the three below
        self._here_callbacks: list[Callable[[Here], None]] = []
        self._seen: dict[str, dict[str, Sighting]] = {}  # node → manager → its sighting; nobody without any
        self._session = clock.wall_ns()  # counts on from here: another process begins elsewhere
        self._saving = threading.Lock()  # one writer of the file; taken before _lock
        self._lock = threading.Lock()  # guards both below
        self._entries = _read(path, fs)
        self._unsaved = False

    # ------------------------------------------------------------------ the loop's thread

    def subscribe(self, callback: Callable[[NodeEntry], None]) -> Callable[[], None]:
        """Call ``callback`` with each entry that changed, on the loop; it returns at once. Returns what ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def subscribe_here(self, callback: Callable[[Here], None]) -> Callable[[], None]:
        """As ``subscribe``, with what changed of our own sightings only."""
        self._here_callbacks.append(callback)
        return lambda: self._here_callbacks.remove(callback)

    def here(self) -> list[Here]:
        """Who is attached to this manager."""
        own = ((name, seen.get(self._manager)) for name, seen in self._seen.items())
        return [(name, sighting, True) for name, sighting in own if sighting is not None]

    def attached(self, name: str, subcluster: str, recipient: str = "") -> None:
        """A session of that node with us is up. RefusedError when there are too many nodes."""
        self._session += 1
        self.seen(self._manager, name, Sighting(subcluster, recipient, self._session))

    def report(self, name: str, report: Report) -> None:
        """It said so to us. Nothing happens for a node that has no session with us."""
        sighting = self._seen.get(name, {}).get(self._manager)
        if sighting is not None:
            self.seen(self._manager, name, replace(sighting, report=report))

    def detached(self, name: str) -> None:
        """Its session with us is over."""
        self.lost(self._manager, name)

    def refused(self, name: str, why: str) -> None:
        """We do not let it attach; remembered until it does. Nothing happens for a node that nobody knows."""
        old = self.get(name)
        if old is not None:
            self._put(old, replace(old, refusal=why[:ERROR_MAX]))

    def seen(self, manager: str, name: str, sighting: Sighting) -> None:
        """That manager has a session with the node, which says so. RefusedError when there are too many nodes."""
        old = self.get(name)
        if old is None:
            with self._lock:
                self._make_room()
            old = NodeEntry(name, sighting.subcluster, attached=False)
        self._change(old, manager, sighting)

    def lost(self, manager: str, name: str) -> None:
        """That manager has no session with the node any more."""
        old = self.get(name)
        if old is not None and manager in self._seen.get(name, {}):
            self._change(old, manager, None)

    def lost_but(self, manager: str, kept: Collection[str] = ()) -> None:
        """That manager has sessions with no other nodes than these, as far as it is known here."""
        for name in [name for name, seen in self._seen.items() if manager in seen and name not in kept]:
            self.lost(manager, name)

    def _change(self, old: NodeEntry, manager: str, sighting: Sighting | None) -> None:
        before = self._seen.get(old.name, {})
        after = {teller: seen for teller, seen in before.items() if teller != manager}
        if sighting is not None:
            after[manager] = sighting
        if after:
            self._seen[old.name] = after
        else:
            self._seen.pop(old.name, None)
        self._put(old, merged(old, before, after, manager, self._clock.wall_ns()))
        if manager == self._manager:
            self._tell_here(old.name, before.get(manager), sighting)

    def _put(self, old: NodeEntry, entry: NodeEntry) -> None:
        with self._lock:
            self._entries[entry.name] = entry
            self._unsaved = True
        if not same(old, entry):
            _call(self._callbacks, entry, entry.name)

    def _tell_here(self, name: str, before: Sighting | None, after: Sighting | None) -> None:
        last = after if after is not None else before
        if last is not None and not same_sighting(before, after):
            _call(self._here_callbacks, (name, last, after is not None), name)

    def remove(self, name: str) -> bool:
        """Forget a node that was retired; False when nobody knows it. RefusedError while it is attached."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return False
            if entry.attached:
                raise RefusedError(f"node {name} is attached: stop it before it is removed")
            del self._entries[name]
            self._unsaved = True
        return True

    def _make_room(self) -> None:
        if len(self._entries) < NODES_MAX:
            return
        gone = min(
            (entry for entry in self._entries.values() if not entry.attached),
            key=lambda entry: entry.last_seen_ns,
            default=None,
        )
        if gone is None:
            raise RefusedError(f"{NODES_MAX} nodes are attached: this manager takes no more")
        del self._entries[gone.name]

    # ------------------------------------------------------------------ any thread

    def get(self, name: str) -> NodeEntry | None:
        """One entry."""
        with self._lock:
            return self._entries.get(name)

    def snapshot(self) -> list[NodeEntry]:
        """All, by name."""
        with self._lock:
            entries = list(self._entries.values())
        return sorted(entries, key=lambda entry: entry.name)

    def save(self) -> None:
        """Write the file, durably, if something changed since the last time. OSError: try again later."""
        with self._saving:
            with self._lock:
                if not self._unsaved:
                    return
                entries = list(self._entries.values())
                self._unsaved = False
            try:
                self._fs.replace_bytes(self._path, _document(entries))
            except OSError:
                with self._lock:
                    self._unsaved = True
                raise


def _call(callbacks: list[Callable[[T], None]], change: T, name: str) -> None:
    for callback in list(callbacks):
        try:
            callback(change)
        except Exception:  # who listens must not end the session of a node
            log.exception("node %s: somebody who follows it failed", name)


# ---------------------------------------------------------------------- the file


def _document(entries: list[NodeEntry]) -> bytes:
    rows = [_row(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    return json.dumps({"schema": 1, "nodes": rows}, separators=(",", ":")).encode() + b"\n"


def _row(entry: NodeEntry) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": entry.name,
        "subcluster": entry.subcluster,
        "recipient": entry.recipient,
        "last_seen_ns": entry.last_seen_ns,
        "changed_ns": entry.changed_ns,
        "via": entry.via,
    }
    row |= {"refusal": entry.refusal} if entry.refusal else {}
    return row | ({"report": asdict(entry.report)} if entry.report is not None else {})


def _read(path: Path, fs: FileSystem) -> dict[str, NodeEntry]:
    try:
        with fs.open_read(path) as file:
            content = file.pread(file.size(), 0)
        document = json.loads(content)
        if document["schema"] != 1:
            raise ValueError(f"schema {document['schema']}")
        rows = [_entry(row) for row in document["nodes"]]
    except FileNotFoundError:
        return {}
    except (OSError, *_DAMAGE) as error:
        log.error("%s cannot be read (%s): nodes are known again when they attach", path, error)  # noqa: TRY400
        return {}
    return {entry.name: entry for entry in rows[:NODES_MAX]}


def _entry(row: dict[str, Any]) -> NodeEntry:
    names = str(row["name"]), str(row["subcluster"])
    via = tuple(map(str, row.get("via", ())))
    if not all(map(is_name, names + via)):
        raise ValueError(f"{names + via} are no names")
    report = None
    if "report" in row:
        report = Report(**{**row["report"], "drift": tuple(row["report"]["drift"])})
        check_report(report)
    return NodeEntry(
        *names,
        attached=False,
        recipient=str(row["recipient"]),
        last_seen_ns=int(row["last_seen_ns"]),
        changed_ns=int(row["changed_ns"]),
        report=report,
        via=via,
        refusal=str(row.get("refusal", ""))[:ERROR_MAX],
    )
