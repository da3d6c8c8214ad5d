"""``<spool>/<node>/config/state.json``: the memory of a node's configuration, on the disk and in ``jlogd status``."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from jlogd.attach.memory import Memory, Point, from_document, to_document
from jlogd.runtime.arguments import format_time
from jlogd.runtime.errors import DamageError, StorageError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.settings import AgentSettings

log = logging.getLogger(__name__)

CONFIG: Final = "config"  # below the node's part of the spool
STATE_FILE: Final = "state.json"
_BYTES_MAX: Final = 1 << 20  # it has a few kB


def load(directory: Path, fs: FileSystem = OS) -> Memory:
    """What was stored last; an empty memory when there is none, or a damaged one, which is logged. StorageError."""
    path = directory / STATE_FILE
    try:
        with fs.open_read(path) as file:
            content = file.pread(_BYTES_MAX, 0)
    except FileNotFoundError:
        return Memory()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    try:
        return from_document(json.loads(content))
    except (ValueError, RecursionError, DamageError) as error:
        log.error("%s: %s; what runs counts as confirmed, managers say the rest", path, error)  # noqa: TRY400 - for a person
        return Memory()


def store(directory: Path, memory: Memory, fs: FileSystem = OS, *, sync: bool = True) -> None:
    """Durable on return; without ``sync`` when the directory is synced next: old or new until then. StorageError."""
    path = directory / STATE_FILE
    try:
        fs.replace_bytes(path, json.dumps(to_document(memory)).encode() + b"\n", sync=sync)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


def shown(memory: Memory, running: Point | None) -> dict[str, Any]:
    """What the memory alone tells, as in ``jlogd status``."""
    return {
        "revision": running.revision if running is not None else None,
        "id": running.id if running is not None else None,
        "state": memory.state if memory.about is not None else None,
        "since": format_time(memory.since_ns) if memory.about is not None else None,
        "error": memory.error or None,
        "target": asdict(memory.about) if memory.about is not None else None,
        "serial": memory.followed or None,
        "repository": memory.repository,
        "drift": None,
        "drift_count": None,
        "recipient": None,
    }


def directory_of(settings: AgentSettings) -> Path:
    """Where the node's configuration is."""
    return settings.directory / CONFIG


def stopped(settings: AgentSettings) -> dict[str, Any]:
    """``config`` of ``jlogd status`` for a node that does not run, from its files."""
    try:
        memory = load(directory_of(settings))
    except StorageError as error:
        return shown(Memory(), None) | {"error": str(error)}
    return shown(memory, memory.trial.point if memory.trial is not None else memory.running)
