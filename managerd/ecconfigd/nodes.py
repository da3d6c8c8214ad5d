"""Which nodes there are, what each runs, and since when: ``<data>/config-nodes.json``.

Invariant: an entry shows what its node said last; one that is not attached is ``offline`` and keeps it.
The file is a memory aid, written lazily (``save``): what a crash takes away, nodes tell again when
they come back. So a damaged file is logged and begun anew, never fatal. Who may call itself what is
the session's to judge (``attach_session``).

Changed by the loop's thread; ``get``, ``snapshot`` and ``save`` may be called from any thread.
"""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from jlogd.attach.messages import Report, State, check_report
from jlogd.confrepo.model import CommitId, Revision, Serial
from jlogd.forward.messages import ProtocolError
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import RefusedError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.names import is_name

log = logging.getLogger(__name__)

NODES_FILE = "config-nodes.json"
NODES_MAX = 100_000  # names; of those that are not attached the longest unseen is forgotten

# What bytes that are not ours may cause on the way through json and the types.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, ProtocolError)

NodeState: TypeAlias = State | Literal["offline"]


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One node. ``report``: the last one, None before the first. Wall times in ns, this manager's but ``report``'s."""

    name: str
    subcluster: str
    attached: bool
    recipient: str = ""
    last_seen_ns: int = 0
    changed_ns: int = 0  # when it attached or detached
    report: Report | None = None

    @property
    def state(self) -> NodeState:
        """For people; ``report.state`` is the last known one."""
        if not self.attached:
            return "offline"
        return self.report.state if self.report is not None else "pending"

    @property
    def since_ns(self) -> int:
        """When it entered ``state``."""
        told = self.attached and self.report is not None and self.report.since_ns
        return told or self.changed_ns

    @property
    def revision(self) -> Revision:
        """What it runs; 0 = nothing, as far as it told."""
        return self.report.running if self.report is not None else Revision(0)

    @property
    def id(self) -> CommitId | None:
        """Commit id of ``revision``."""
        return self.report.running_id if self.report is not None else None

    @property
    def serial(self) -> Serial:
        """Of the target that its last report is about."""
        return self.report.serial if self.report is not None else Serial(0)

    @property
    def error(self) -> str:
        """Why it is refused or rolled back; empty otherwise."""
        return self.report.error if self.report is not None else ""

    @property
    def drift(self) -> tuple[str, ...]:
        """The first of ``drift_count`` paths."""
        return self.report.drift if self.report is not None else ()

    @property
    def drift_count(self) -> int:
        """How many paths differ from what was laid out."""
        return self.report.drift_count if self.report is not None else 0


class Registry:
    """Entries by name."""

    def __init__(self, path: Path, *, fs: FileSystem = OS, clock: Clock = SYSTEM) -> None:
        """Read ``path``; everybody is offline until he attaches."""
        self._path = path
        self._fs = fs
        self._clock = clock
        self._callbacks: list[Callable[[NodeEntry], None]] = []  # the loop's
        self._saving = threading.Lock()  # one writer of the file; taken before _lock
        self._lock = threading.Lock()  # guards both below
        self._entries = _read(path, fs)
        self._unsaved = False

    # ------------------------------------------------------------------ the loop's thread

    def subscribe(self, callback: Callable[[NodeEntry], None]) -> Callable[[], None]:
        """Call ``callback`` with each entry that changed, on the loop; it returns at once. Returns what ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def attached(self, name: str, subcluster: str, recipient: str = "") -> None:
        """A session of that node is up. RefusedError when there are too many nodes."""
        now = self._clock.wall_ns()
        with self._lock:
            old = self._entries.get(name)
            if old is None:
                self._make_room()
                old = NodeEntry(name, subcluster, attached=False)
        self._put(
            replace(old, subcluster=subcluster, attached=True, recipient=recipient, last_seen_ns=now, changed_ns=now)
        )

    def report(self, name: str, report: Report) -> None:
        """It said so. Nothing happens for a node that nobody knows (any more)."""
        entry = self.get(name)
        if entry is not None:
            self._put(replace(entry, report=report, last_seen_ns=self._clock.wall_ns()))

    def detached(self, name: str) -> None:
        """Its session is over."""
        entry = self.get(name)
        if entry is not None and entry.attached:
            now = self._clock.wall_ns()
            self._put(replace(entry, attached=False, last_seen_ns=now, changed_ns=now))

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

    def _put(self, entry: NodeEntry) -> None:
        with self._lock:
            self._entries[entry.name] = entry
            self._unsaved = True
        for callback in list(self._callbacks):
            try:
                callback(entry)
            except Exception:  # who listens must not end the session of a node
                log.exception("node %s: somebody who follows it failed", entry.name)

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
    }
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
    if not all(map(is_name, names)):
        raise ValueError(f"{names} are no names")
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
    )
