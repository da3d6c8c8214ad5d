"""``managerd status`` and ``nodes`` as documents: from the running daemon, or from the files of a stopped one."""

import os
from pathlib import Path
from typing import Any

from jlogd.runtime.arguments import format_time
from jlogd.runtime.control import CONTROL_SOCKET, call
from jlogd.runtime.errors import UnavailableError
from jlogd.runtime.names import is_name
from jlogd.spool.owner import read_owner
from managerd.settings import ManagerSettings


def ask(settings: ManagerSettings, command: str) -> dict[str, Any]:
    """``status`` or ``nodes``: from the daemon when one holds the archive, else from the files."""
    data = settings.manager.data
    if read_owner(data).locked:
        try:
            return call(data / CONTROL_SOCKET, command)
        except UnavailableError:
            if read_owner(data).locked:
                raise
    return stopped_status(settings) if command == "status" else {"schema": 1, "nodes": silent_nodes(data)}


def running_status(
    settings: ManagerSettings, *, since: str | None, nodes: int, sessions: int, config: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What the daemon sees now. ``config``: of the configuration's repository, None without ``[config]``."""
    alive = {
        "running": True,
        "pid": os.getpid(),
        "since": since,
        "nodes": nodes,
        "sessions": sessions,
        "config": config,
    }
    return stopped_status(settings) | alive


def archived_nodes(data: Path) -> list[str]:
    """Every node that the archive has something of."""
    return [node.name for node in _directories(data / "archive")]


def stopped_status(settings: ManagerSettings) -> dict[str, Any]:
    """What the files say."""
    data = settings.manager.data
    files, journals, nodes = 0, 0, 0
    for node in _directories(data / "archive"):
        nodes += 1
        for log in _directories(node):
            journals += 1
            files += sum(path.stat().st_size for path in log.glob("*/*.jls"))
    return {
        "schema": 1,
        "manager": settings.manager.name,
        "subscriber": settings.subscriber,
        "running": False,
        "pid": None,
        "since": None,
        "nodes": nodes,
        "sessions": 0,
        "journals": journals,
        "bytes": files,
        "config": None,
    }


def silent_nodes(data: Path) -> list[dict[str, Any]]:
    """Nodes that have an archive, as a stopped manager knows them; last seen when their newest segment was written."""
    found = []
    for node in _directories(data / "archive"):
        written = [path.stat().st_mtime_ns for path in node.glob("*/*/*.jls")]
        found.append(
            {
                "name": node.name,
                "subcluster": None,
                "state": "silent",
                "since": None,
                "last_seen": format_time(max(written, default=None)),
                "journals": len(_directories(node)),
                "lag_records": None,
                "error": None,
            }
        )
    return found


def _directories(path: Path) -> list[Path]:
    """Directories that may be a node's or a journal's; others (``lost+found``) are not ours."""
    return sorted(entry for entry in path.iterdir() if is_name(entry.name) and entry.is_dir()) if path.is_dir() else []
