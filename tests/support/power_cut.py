"""A power cut after the fact: brings files to a state that a disk could have been left in.

``PowerCutFs`` writes an event before each change and after each sync to a side
directory; the page cache keeps those events through a ``kill -9``. ``cut`` then works
out what was never synced and, at random, takes it back:

* bytes appended since the last sync: gone, whole, in part, zeros or garbage (by sector);
* bytes overwritten in place since then: old or new, by sector;
* names created, renamed or removed since their directory was synced: undone or not; what
  depends on an undone change is undone as well. Names in a directory that was renamed later are found there.

    python -m tests.support.power_cut run SIDE_DIR -- jlogd run -c FILE      a daemon under watch
    python -m tests.support.power_cut cut SIDE_DIR SEED                      after it was killed

The side directory must be on the same file system as the files, and belongs to one process
at a time.
"""

import base64
import importlib
import json
import os
import random
import shutil
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECTOR_BYTES = 512  # the smallest piece that a disk writes whole
EVENTS = "events"

Event = dict[str, Any]


class EventLog:
    """Appends events to ``SIDE_DIR/events``; each has a number, its line. Thread-safe."""

    def __init__(self, side: Path) -> None:
        """Go on after the events that are there."""
        self.side = side
        side.mkdir(parents=True, exist_ok=True)
        path = side / EVENTS
        before = path.read_bytes() if path.exists() else b""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        if before and not before.endswith(b"\n"):  # killed while writing an event, so before what it announces
            os.write(self._fd, b"\n")
            before += b"\n"
        self._lock = threading.Lock()  # guards the file and count
        self.count = before.count(b"\n")

    def add(self, **event: Any) -> int:
        """Write one event; its number."""
        line = json.dumps(event).encode() + b"\n"
        with self._lock:
            os.write(self._fd, line)
            self.count += 1
            return self.count - 1

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_events(side: Path) -> list[Event]:
    """Every event; an empty one for a torn line."""
    events: list[Event] = []
    for line in (side / EVENTS).read_bytes().split(b"\n"):
        try:
            events.append(json.loads(line))
        except ValueError:
            events.append({})
    return events


@dataclass
class Unsynced:
    """What a power cut may take back: events with their numbers, oldest first."""

    content: dict[str, list[tuple[int, Event]]] = field(default_factory=dict)  # by inode
    names: list[tuple[int, Event]] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Unsynced":
        """Play the events."""
        state = cls()
        for number, event in enumerate(events):
            state._apply(number, event)
        return state

    def _apply(self, number: int, event: Event) -> None:
        match event.get("op"):
            case "write" | "truncate":
                self.content.setdefault(event["inode"], []).append((number, event))
            case "created":
                self.content.pop(event["inode"], None)  # a reused inode number
            case "create" | "mkdir" | "rename" | "unlink":
                self.names.append((number, event))
            case "datasync":
                kept = [item for item in self.content.get(event["inode"], []) if item[0] >= event["before"]]
                self.content[event["inode"]] = kept
            case "sync_dir":
                self.names = [
                    item for item in self.names if item[0] >= event["before"] or _parent(item[1]) != event["path"]
                ]
            case "sync_all":
                self.names = [item for item in self.names if item[0] >= event["before"]]
                self.content = {
                    inode: [item for item in items if item[0] >= event["before"]]
                    for inode, items in self.content.items()
                }


def cut(side: Path, seed: int) -> list[str]:
    """Cut the power: change the files, forget the events; what was done, one line each. The process must be dead."""
    chance = random.Random(seed)
    events = read_events(side)
    unsynced = Unsynced.of(events)
    moves = [(number, event) for number, event in enumerate(events) if event.get("op") == "rename"]
    places = _places(side, events, moves)
    done: list[str] = []
    for inode, items in unsynced.content.items():
        if items and inode in places:
            done.append(_cut_content(places[inode], [event for _, event in items], chance))
    done.extend(_cut_names(unsynced.names, moves, chance))
    shutil.rmtree(side)
    return done


def inode_of(path: str | os.PathLike[str] | int) -> str:
    """What tells one file from another here; a symlink is a file of its own."""
    status = os.stat(path) if isinstance(path, int) else os.lstat(path)
    return f"{status.st_dev}:{status.st_ino}"


def _parent(event: Event) -> str:
    return os.path.dirname(str(event["path"]))


def _moved(path: str, number: int, moves: list[tuple[int, Event]]) -> str:
    """Where ``path`` of event ``number`` is after the directories above it were renamed."""
    for later, move in moves:
        if later > number and path.startswith(move["source"] + "/"):
            path = move["path"] + path[len(move["source"]) :]
    return path


def _places(side: Path, events: list[Event], moves: list[tuple[int, Event]]) -> dict[str, Path]:
    """Where each inode can be reached: by one of its names, or by what ``PowerCutFs`` kept of it."""
    paths = {
        Path(_moved(event[key], number, moves))
        for number, event in enumerate(events)
        for key in ("path", "source")
        if key in event
    }
    return {inode_of(path): path for path in [*sorted(paths), *sorted(side.iterdir())] if path.is_file()}


def _cut_content(path: Path, events: list[Event], chance: random.Random) -> str:
    now = path.read_bytes()
    durable = bytearray(now)
    touched: set[int] = set()
    for event in reversed(events):
        touched.update(_revert(durable, event))
    smallest, largest = sorted((len(durable), len(now)))
    size = chance.choice([len(durable), len(now), chance.randint(smallest, largest)])
    mood = chance.choice(["none", "all", "mixed"])
    result = bytearray(_exactly(bytes(durable), size))
    for sector in sorted(touched):
        first, last = sector * SECTOR_BYTES, min((sector + 1) * SECTOR_BYTES, size)
        if first >= size:
            break
        old = bytes(result[first:last])
        new = _exactly(now[first:last], last - first) if first < len(now) else old
        fates = [old, new] if first < len(durable) else [old, new, new, chance.randbytes(last - first)]
        result[first:last] = {"none": old, "all": new, "mixed": chance.choice(fates)}[mood]
    with path.open("r+b") as file:
        file.write(result)
        file.truncate()
    return f"{path}: {len(events)} unsynced changes, {len(durable)} bytes synced of {len(now)}, {size} left ({mood})"


def _revert(content: bytearray, event: Event) -> range:
    """Take one change back; the sectors that it touched."""
    old, first, size = base64.b64decode(event["old"]), event["position"], event["size"]
    last = first + event["length"] if event["op"] == "write" else size
    if event["op"] == "truncate" or last > size:
        del content[size:]
    if old:
        content.extend(bytes(max(0, first + len(old) - len(content))))
        content[first : first + len(old)] = old
    return range(min(first, size, last) // SECTOR_BYTES, -(-max(first, last) // SECTOR_BYTES))


def _exactly(content: bytes, size: int) -> bytes:
    return content[:size].ljust(size, b"\0")


def _cut_names(events: list[tuple[int, Event]], moves: list[tuple[int, Event]], chance: random.Random) -> list[str]:
    share = chance.choice([0.0, 0.3, 1.0])
    undone: list[tuple[int, Event]] = []
    for number, event in events:  # what depends on something undone goes with it
        if chance.random() < share or any(_depends(event, earlier) for _, earlier in undone):
            undone.append((number, event))
    numbers = {number for number, _ in undone}
    kept = [move for move in moves if move[0] not in numbers]
    return [_undo(event, _moved(event["path"], number, kept)) for number, event in reversed(undone)]


def _names(event: Event) -> set[str]:
    return {event[key] for key in ("path", "source") if key in event}


def _depends(event: Event, earlier: Event) -> bool:
    if _names(event) & _names(earlier):
        return True
    return earlier["op"] == "mkdir" and any(name.startswith(earlier["path"] + "/") for name in _names(event))


def _undo(event: Event, path: str) -> str:
    kept = event.get("kept")
    match event["op"]:
        case "create":
            Path(path).unlink(missing_ok=True)
        case "mkdir":
            shutil.rmtree(path, ignore_errors=True)
        case "rename":
            if os.path.lexists(path) and inode_of(path) == event["inode"]:  # else: killed before it was renamed
                os.rename(path, event["source"])
            _put_back(kept, path)
        case "unlink":
            _put_back(kept, path)
    return f"{path}: {event['op']} undone"


def _put_back(kept: str | None, path: str) -> None:
    if kept is not None and not os.path.lexists(path) and os.path.isdir(os.path.dirname(path)):
        os.link(kept, path, follow_symlinks=False)


def main(arguments: list[str]) -> None:
    """See the module's docstring."""
    match arguments:
        case ["cut", side, seed]:
            print("\n".join(cut(Path(side), int(seed))))
        case ["run", side, "--", program, *rest]:
            from jlogd.runtime import fs  # noqa: PLC0415 -- only a watched daemon needs it
            from tests.support.power_cut_fs import PowerCutFs  # noqa: PLC0415

            fs.OS.__class__ = PowerCutFs  # the object that every default argument holds
            PowerCutFs.__init__(fs.OS, Path(side))  # type: ignore[arg-type]
            sys.argv = [program, *rest]
            importlib.import_module(f"{program}.cli").main()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
