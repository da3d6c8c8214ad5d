"""``jlogd status`` as a document: from the running agent, or from the files of a stopped one."""

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jlogd.intake import JournalParts
from jlogd.journal import Lag, SourceKey, committed_sources, inspect, lag_of
from jlogd.runtime.arguments import format_time
from jlogd.runtime.clock import SYSTEM
from jlogd.runtime.control import CONTROL_SOCKET, call
from jlogd.runtime.errors import JlogdError, UnavailableError
from jlogd.runtime.names import is_name
from jlogd.settings import AgentSettings
from jlogd.spool.owner import read_owner
from jlogd.tail import SourceStatus


def status(settings: AgentSettings) -> dict[str, Any]:
    """Ask the daemon when one holds the spool, else read the files."""
    if read_owner(settings.directory).locked:
        try:
            return call(settings.directory / CONTROL_SOCKET, "status")
        except UnavailableError:
            if read_owner(settings.directory).locked:
                raise
    return stopped_status(settings)


def running_status(
    settings: AgentSettings,
    since: str | None,
    parts: Sequence[JournalParts],
    sessions: list[dict[str, Any]],
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What the agent sees now. ``config``: of the fleet's configuration, None where it is not followed."""
    journals: list[dict[str, Any]] = []
    subscribers: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    for part in parts:
        # sources first: what they call committed is in the journal's end, and so in the subscribers' lag
        sources += _sources(part)
        _add_journal(part, journals, subscribers)
    document = _head(settings)
    document |= {
        "running": True,
        "pid": os.getpid(),
        "since": since,
        "journals": journals,
        "sources": sorted(sources, key=lambda source: source["path"]),
        "subscribers": sorted(subscribers, key=lambda item: (item["name"], item["journal"])),
        "sessions": sorted(sessions, key=lambda session: session["manager"]),
        "config": config,
        "warnings": _unlisted(settings, {item["name"] for item in subscribers}),
    }
    return document


def stopped_status(settings: AgentSettings) -> dict[str, Any]:
    """What the files say."""
    journals: list[dict[str, Any]] = []
    subscribers: list[dict[str, Any]] = []
    sources: list[dict[str, Any]] = []
    directory = journals_directory(settings)
    for name in kept_journals(settings):
        try:
            view = inspect(directory / name, SYSTEM.wall_ns())
            known = committed_sources(directory / name)
        except JlogdError as error:
            journals.append({"name": name, "id": None, "first": None, "end": None, "bytes": None, "error": str(error)})
            continue
        journals.append(
            {"name": name, "id": view.id, "first": view.first, "end": view.end, "bytes": view.bytes, "error": None}
        )
        subscribers += [_subscriber(name, item.name, item.checkpoint, item.lag) for item in view.subscribers]
        newest = {path: max(g for p, g in known if p == path) for path, _ in known}
        sources += [_stopped_source(name, path, known[path, newest[path]].position) for path in sorted(newest)]
    document = _head(settings)
    document |= {
        "running": False,
        "pid": None,
        "since": None,
        "journals": journals,
        "sources": sorted(sources, key=lambda source: source["path"]),
        "subscribers": sorted(subscribers, key=lambda item: (item["name"], item["journal"])),
        "sessions": [],
        "config": _stopped_config(settings),
        "warnings": _unlisted(settings, {item["name"] for item in subscribers}),
    }
    return document


def _stopped_config(settings: AgentSettings) -> dict[str, Any] | None:
    if settings.config is None:
        return None
    from jlogd.attach import statefile  # noqa: PLC0415 - only where the configuration is followed

    return statefile.stopped(settings) | {"managers": []}


def _head(settings: AgentSettings) -> dict[str, Any]:
    return {"schema": 1, "node": settings.node.name, "subcluster": settings.node.subcluster}


def _add_journal(part: JournalParts, journals: list[dict[str, Any]], subscribers: list[dict[str, Any]]) -> None:
    now_ns = SYSTEM.wall_ns()
    with part.journal.reader() as reader:
        journals.append(
            {
                "name": part.name,
                "id": part.journal.id.hex(),
                "first": reader.first,
                "end": reader.end,
                "bytes": reader.bytes_from(reader.first),
                "error": part.error,
            }
        )
        for subscriber in part.journal.subscribers():
            lag = lag_of(reader, subscriber.checkpoint, now_ns)
            subscribers.append(_subscriber(part.name, subscriber.name, subscriber.checkpoint, lag))


def _subscriber(journal: str, name: str, checkpoint: int, lag: Lag) -> dict[str, Any]:
    return {
        "name": name,
        "journal": journal,
        "checkpoint": checkpoint,
        "lag_records": lag.records,
        "lag_bytes": lag.bytes,
        "lag_s": lag.seconds,
        "state": "active",
    }


def _sources(part: JournalParts) -> Iterator[dict[str, Any]]:
    committed = part.committed
    for source in part.sources():
        yield _source_document(part.name, source, committed, part.error)


def _source_document(
    journal: str, source: SourceStatus, committed: Mapping[SourceKey, int], error: str | None
) -> dict[str, Any]:
    """``position`` counts what is committed: lines that are read and not synced yet are lag."""
    waiting = max(source.position - committed.get((source.path, source.generation), 0), 0)
    return {
        "path": source.path.decode(errors="backslashreplace"),
        "journal": journal,
        "position": source.position - waiting,
        "size": source.size,
        "lag_bytes": source.lag_bytes + waiting,
        "last_read": format_time(source.last_read_ns),
        "state": source.state,
        "error": source.error or error,
    }


def _stopped_source(journal: str, path: bytes, position: int) -> dict[str, Any]:
    try:
        found = os.stat(path)
        size, state, error = found.st_size, "waiting", None
        if not stat.S_ISREG(found.st_mode):
            state, error = "unreadable", "not a regular file"
    except FileNotFoundError:
        size, state, error = 0, "gone", None
    except OSError as problem:
        size, state, error = 0, "unreadable", problem.strerror
    return {
        "path": path.decode(errors="backslashreplace"),
        "journal": journal,
        "position": position,
        "size": size,
        "lag_bytes": max(size - position, 0),
        "last_read": None,
        "state": state,
        "error": error,
    }


def _unlisted(settings: AgentSettings, names: set[str]) -> list[str]:
    listed = {link.subscriber for link in settings.manager}
    return [
        f"subscriber {name} has no [[manager]] entry: its data is kept until `jlogd subscriber remove {name} --yes`"
        for name in sorted(names - listed)
    ]


def dump(document: dict[str, Any]) -> str:
    """The document as one line of JSON."""
    return json.dumps(document, ensure_ascii=False)


def journals_directory(settings: AgentSettings) -> Path:
    """Where this node's journals are."""
    return settings.directory / "journals"


def kept_journals(settings: AgentSettings) -> list[str]:
    """Every directory that should hold a journal, sorted, whether something writes to it or not."""
    directory = journals_directory(settings)
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted(path.name for path in found if is_name(path.name) and path.is_dir())


def begun_journals(settings: AgentSettings) -> list[str]:
    """Those that hold one: opening another would make it one."""
    directory = journals_directory(settings)
    return [name for name in kept_journals(settings) if any((directory / name).glob("*.jls"))]
