"""``jlogd subscriber``: the same changes, in the running daemon or on the files of a stopped one."""

import fnmatch
from collections.abc import Mapping
from typing import Any

from jlogd.journal import Journal, Offset, Subscriber
from jlogd.runtime.arguments import check_name, is_offset, parse_offset, parse_time_ns
from jlogd.runtime.clock import SYSTEM
from jlogd.runtime.errors import ConflictError, UsageError


def apply(journals: Mapping[str, Journal], action: str, arguments: Mapping[str, Any]) -> list[str]:
    """Add, set or remove subscriber ``arguments["name"]``; returns the journals that it changed.

    ``journal``: a glob over journal names; ``at``: begin, end, an offset, a time, or like:NAME.
    UsageError, ConflictError; nothing is changed when any journal refuses.
    """
    name = check_name("subscriber", str(arguments.get("name", "")))
    pattern = str(arguments.get("journal") or "*")
    chosen = {key: journal for key, journal in journals.items() if fnmatch.fnmatchcase(key, pattern)}
    if not chosen:
        raise UsageError(f"no journal matches {pattern!r}; there are: {', '.join(sorted(journals)) or 'none'}")
    known = {key: _find(journal, name) for key, journal in chosen.items()}
    if action == "remove":
        return _remove(chosen, known, name)
    places = {key: place(journal, str(arguments.get("at") or "begin")) for key, journal in chosen.items()}
    if action == "add":
        taken = [key for key, subscriber in known.items() if subscriber is not None]
        if taken:
            raise ConflictError(f"subscriber {name} exists already in: {', '.join(taken)}; move it with `set`")
        for key, journal in chosen.items():
            journal.add_subscriber(name, places[key])
    elif action == "set":
        missing = [key for key, subscriber in known.items() if subscriber is None]
        if missing:
            raise UsageError(f"no subscriber {name} in: {', '.join(missing)}")
        for key, subscriber in known.items():
            if subscriber is not None:
                subscriber.move(places[key])
    else:
        raise UsageError(f"unknown action {action!r}")
    return sorted(chosen)


def _remove(chosen: Mapping[str, Journal], known: Mapping[str, Subscriber | None], name: str) -> list[str]:
    present = [key for key, subscriber in known.items() if subscriber is not None]
    if not present:
        raise UsageError(f"no subscriber {name} in: {', '.join(sorted(chosen))}")
    for key in present:
        chosen[key].remove_subscriber(name)  # what only it needed goes with the journal's next look
    return sorted(present)


def _find(journal: Journal, name: str) -> Subscriber | None:
    return next((subscriber for subscriber in journal.subscribers() if subscriber.name == name), None)


def place(journal: Journal, at: str) -> Offset:
    """``at`` as an offset of ``journal``. UsageError when it is outside of what is kept."""
    if at == "begin":
        return journal.first
    if at == "end":
        return journal.end
    if at.startswith("like:"):
        other = _find(journal, at.removeprefix("like:"))
        if other is None:
            raise UsageError(f"no subscriber {at.removeprefix('like:')} to take the place from")
        return other.checkpoint
    if is_offset(at):
        offset = parse_offset(at)
        if not journal.first <= offset <= journal.end:
            raise UsageError(f"offset {offset} is outside of what is kept, [{journal.first}, {journal.end}]")
        return Offset(offset)
    time_ns = parse_time_ns(at, SYSTEM.wall_ns())
    with journal.reader() as reader:
        return reader.offset_at(time_ns)
