"""A whole fleet on loopback: fresh certificates, settings files, managers and nodes as real processes.

Everything lies below one directory: ``pki/``, ``<name>/`` per daemon with its settings,
log and spool or archive. Ports are outside the kernel's ephemeral range, so that no
outgoing connection takes one between its choice and its use.
"""

import os
import random
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jlogd.runtime.control import call
from jlogd.runtime.errors import DeadlineError, JlogdError, UnavailableError
from jlogd.runtime.rpc import TlsFiles
from managerd import pki
from tests.support.daemon import START_S, Daemon, Result, run_command, until

JLOGD = [sys.executable, "-m", "jlogd.cli"]
MANAGERD = [sys.executable, "-m", "managerd.cli"]
ECCFG = [sys.executable, "-m", "managerd.eccfg.cli"]
REPOSITORY = Path(__file__).resolve().parents[2]

_ports = random.Random(os.getpid())
_taken: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody listens on, never given twice by this process."""
    for _ in range(1000):
        port = _ports.randrange(12000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _taken:
            _taken.add(port)
            return port
    raise AssertionError("no free port between 12000 and 32000")


@dataclass(frozen=True, slots=True)
class Tail:
    """One ``[[tail]]`` section; ``more`` holds further keys as TOML lines."""

    journal: str
    paths: tuple[str, ...]
    more: str = ""


class Served(Daemon):
    """A daemon of ours: it has settings and answers on a control socket."""

    program: list[str]
    settings: Path
    control: Path

    def command(self, *words: str, timeout_s: float = 60.0) -> Result:
        """``PROGRAM WORDS… -c its settings``, as a person would type it."""
        argv = [*self.program, *words, "-c", str(self.settings)]
        return run_command(argv, timeout_s=timeout_s, cwd=REPOSITORY)

    def status(self) -> dict[str, Any]:
        """``status`` of the running daemon, from its socket. AssertionError when it ended."""
        assert self.running, self.ended()
        return call(self.control, "status")

    def answers(self) -> bool:
        """Whether it serves its control socket. AssertionError when it ended."""
        try:
            return bool(self.status()["running"])
        except (UnavailableError, DeadlineError):
            return False

    def ready(self, timeout_s: float = START_S) -> None:
        """Wait until it answers as running."""
        until(self.answers, timeout_s, f"{self.name} runs\n{self.tail()}")


class Manager(Served):
    """``managerd run``."""

    program = MANAGERD
    port: int
    data: Path

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def repository(self) -> Path:
        """Its bare repository of configuration."""
        return self.data / "config.git"

    def archive(self, node: str, journal: str) -> Path:
        """The one incarnation of a journal; AssertionError when there are several, or none."""
        found = sorted((self.data / "archive" / node / journal).glob("[0-9]*-*"))
        assert len(found) == 1, f"manager {self.name} has {len(found)} incarnations of {node}/{journal}: {found}"
        return found[0]

    def has_archive(self, node: str, journal: str) -> bool:
        """Whether anything of that journal arrived yet."""
        return any((self.data / "archive" / node / journal).glob("[0-9]*-*"))


class Node(Served):
    """``jlogd run``."""

    program = JLOGD
    spool: Path

    @property
    def view(self) -> Path:
        """The configuration as it is laid out now: a symlink, absent before the first revision."""
        return self.spool / self.name / "config" / "current"

    def journal(self, name: str) -> Path:
        """Directory of one of its journals."""
        return self.spool / self.name / "journals" / name

    def behind(self) -> str:
        """Empty when every source is read and every subscriber has everything; else what is missing."""
        try:
            status = self.status()
        except (UnavailableError, DeadlineError) as error:
            return str(error)
        missing = [] if status["sources"] else ["nothing is followed yet"]
        for source in status["sources"]:
            size, begun = _size_and_begun(Path(source["path"]))
            if source["lag_bytes"] > begun or source["position"] < size - begun:
                missing.append(f"{source['path']} {source['position']}/{size}, lag {source['lag_bytes']}")
        missing += [f"{s['name']} {s['lag_records']} records" for s in status["subscribers"] if s["lag_records"]]
        return ", ".join(missing)


def _size_and_begun(path: Path) -> tuple[int, int]:
    """Size of a file, and how many bytes at its end are a line without its newline yet: these wait."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - (1 << 20), 0))
            last = file.read()
    except FileNotFoundError:
        return 0, 0
    return size, len(last) - (last.rfind(b"\n") + 1)


@dataclass
class Fleet:
    """Makes and owns daemons below ``root``; ``close`` ends them all."""

    root: Path
    leave_running: bool = False
    managers: dict[str, Manager] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    operators: dict[str, TlsFiles] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the certificate authority."""
        self.root = self.root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        pki.init(self.root / "pki")

    def _home(self, role: pki.Role, name: str) -> tuple[Path, str]:
        """A fresh directory with a certificate in it; returns it and the ``[tls]`` section."""
        home = self.root / name
        home.mkdir()
        try:
            issued = pki.issue(role, name, self.root / "pki", out=home)
        except JlogdError as error:
            raise AssertionError(f"no certificate for {name}: {error}") from error
        ca = self.root / "pki" / "ca.crt"
        return home, f'[tls]\nca = "{ca}"\ncert = "{issued.certificate}"\nkey = "{issued.key}"\n'

    def manager(self, name: str, *, more: str = "", config: str | None = None, port: int = 0) -> Manager:
        """A manager, not started yet; ``more``: further TOML sections.

        ``config``: keys of its ``[config]`` section, None = no such section. ``port``: for those that are peers.
        """
        home, tls = self._home("manager", name)
        port = port or free_port()
        settings = home / "managerd.toml"
        if config is not None:
            more = f"{more}\n[config]\n{config}\n"
        text = f'[manager]\nname = "{name}"\ndata = "data"\nlisten = "127.0.0.1:{port}"\n\n{tls}\n{more}'
        settings.write_text(text)
        argv = [*MANAGERD, "run", "-c", str(settings)]
        manager = Manager(name, argv, home, self.leave_running, {"PYTHONPATH": str(REPOSITORY)})
        manager.port, manager.settings, manager.data = port, settings, home / "data"
        manager.control = manager.data / "control.sock"
        self.managers[name] = manager
        return manager

    def node(
        self,
        name: str,
        tails: Sequence[Tail],
        managers: Sequence[Manager],
        *,
        more: str = "",
        spool: Path | None = None,
        subcluster: str = "",
        config: str | None = None,
    ) -> Node:
        """A node that follows ``tails`` and dials ``managers``, not started yet.

        ``config``: keys of its ``[config]`` section, None = no such section.
        """
        home, tls = self._home("node", name)
        settings = home / "jlogd.toml"
        place = spool or home / "spool"
        group = f'subcluster = "{subcluster}"\n' if subcluster else ""
        parts = [f'[node]\nname = "{name}"\nspool = "{place}"\n{group}', tls, more]
        if config is not None:
            parts.append(f"[config]\n{config}\n")
        for tail in tails:
            paths = ", ".join(f'"{path}"' for path in tail.paths)
            parts.append(f'[[tail]]\njournal = "{tail.journal}"\npaths = [{paths}]\n{tail.more}')
        parts += [
            f'[[manager]]\naddress = "127.0.0.1:{manager.port}"\nsubscriber = "{manager.name}"\n'
            for manager in managers
        ]
        settings.write_text("\n".join(parts))
        argv = [*JLOGD, "run", "-c", str(settings)]
        node = Node(name, argv, home, self.leave_running, {"PYTHONPATH": str(REPOSITORY)})
        node.settings, node.spool = settings, place
        node.control = place / name / "control.sock"
        self.nodes[name] = node
        return node

    def operator(self, name: str) -> TlsFiles:
        """An operator's files, issued at the first call."""
        if name not in self.operators:
            directory = self.root / "operators"
            issued = pki.issue("operator", name, self.root / "pki", out=directory)
            self.operators[name] = TlsFiles(self.root / "pki" / "ca.crt", issued.certificate, issued.key)
        return self.operators[name]

    def eccfg(
        self,
        *words: object,
        operator: str = "alice",
        manager: Manager | None = None,
        directory: Path | None = None,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
    ) -> Result:
        """``eccfg WORDS…`` as ``operator``, at ``manager`` (default: the first), in ``directory``."""
        tls = self.operator(operator)
        at = manager or next(iter(self.managers.values()))
        argv = [*ECCFG, "--manager", at.address, "--ca", tls.ca, "--cert", tls.cert, "--key", tls.key, *words]
        environment = {"PYTHONPATH": str(REPOSITORY), "XDG_CONFIG_HOME": str(self.root / "xdg"), "COLUMNS": "200"}
        return run_command(
            [str(word) for word in argv],
            timeout_s=timeout_s,
            cwd=directory or self.root,
            stdin=stdin,
            environment=environment,
        )

    def daemons(self) -> list[Served]:
        """Managers, then nodes."""
        return [*self.managers.values(), *self.nodes.values()]

    def start(self) -> None:
        """Start all and wait until each answers."""
        for daemon in self.daemons():
            daemon.start()
        for manager in self.managers.values():
            manager.ready()
        for node in self.nodes.values():
            node.ready()

    def settle(self, timeout_s: float, *, steady_s: float = 0.5) -> None:
        """Wait until every node has read everything and every subscriber has it.

        ``steady_s``: and has stayed so this long: more than a commit may take, and more than ``rotate_wait``
        where files end without a newline.
        """
        for node in self.nodes.values():
            self._settle(node, timeout_s, steady_s)

    def _settle(self, node: Node, timeout_s: float, steady_s: float) -> None:
        since_s = time.monotonic()

        def settled() -> bool:
            nonlocal since_s
            if node.behind():
                since_s = time.monotonic()
                return False
            return time.monotonic() - since_s >= steady_s

        try:
            until(settled, timeout_s, f"{node.name} has delivered everything")
        except AssertionError as error:
            tails = "\n".join(daemon.tail() for daemon in self.daemons())
            raise AssertionError(f"{error}; behind: {node.behind()}\n{tails}") from error

    def close(self) -> None:
        """End every daemon, unless they are to stay."""
        for daemon in self.daemons():
            daemon.close()

    def __enter__(self) -> Self:
        """Return the fleet itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End every daemon."""
        self.close()
