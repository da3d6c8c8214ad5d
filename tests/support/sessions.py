"""A manager and nodes in this process, on loopback, with real gRPC and real certificates."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jlogd.forward import Forwarder
from jlogd.journal import Journal, JournalOptions
from jlogd.runtime.fs import OS
from jlogd.runtime.rpc import TlsFiles
from managerd import pki
from managerd.archive import Archive
from managerd.ingest import IngestServer
from tests.support.certificates import files

DEADLINE_S = 20.0


def until(what: Callable[[], Any], timeout_s: float = DEADLINE_S) -> Any:
    """Ask until the answer is true; AssertionError after ``timeout_s``. For states that no event tells."""
    deadline = time.monotonic() + timeout_s
    while not (answer := what()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
    return answer


class Bench:
    """One test's directory: a pki, managers, nodes; everything is stopped at its end. ``failures`` must stay empty."""

    def __init__(self, directory: Path) -> None:
        """Make the pki."""
        self.directory = directory
        self.pki = directory / "pki"
        self.failures: list[BaseException] = []
        self._ends: list[Callable[[], Any]] = []
        pki.init(self.pki)

    def issue(self, role: pki.Role, name: str) -> TlsFiles:
        """An ordinary certificate."""
        pki.issue(role, name, self.pki)
        return files(self.pki, name)

    def manager(
        self, name: str = "m1", *, tls: TlsFiles | None = None, epoch: int = 1, listen: str = "127.0.0.1:0", **more: Any
    ) -> "Manager":
        """A manager that serves; issues its certificate when it has none."""
        if tls is None:
            tls = files(self.pki, name) if (self.pki / f"{name}.crt").exists() else self.issue("manager", name)
        manager = Manager(self, name, tls, epoch, listen, more)
        self._ends.append(manager.stop)
        return manager

    def node(self, name: str = "a", *journals: str) -> "Node":
        """A node with journals."""
        if not (self.pki / f"{name}.crt").exists():
            self.issue("node", name)
        node = Node(self, name, journals or ("main",))
        self._ends.append(node.stop)
        return node

    def close(self) -> None:
        """Stop everything, the last first."""
        for end in reversed(self._ends):
            end()
        assert not self.failures


class Manager:
    """One manager: its archive and its server."""

    def __init__(self, bench: Bench, name: str, tls: TlsFiles, epoch: int, listen: str, more: dict[str, Any]) -> None:
        """Serve."""
        self.name = name
        self.data = bench.directory / name
        self.archive = Archive.open(self.data, epoch=epoch, fs=more.pop("archive_fs", OS))
        self.server = IngestServer(
            self.archive, bench.failures.append, manager=name, subscriber=more.pop("subscriber", name), epoch=epoch,
            listen=listen, tls=tls, **more,
        )  # fmt: skip
        self.server.start()
        self._running = True

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server.port}"

    def stop(self) -> None:
        """Stop and close the archive; once."""
        if self._running:
            self._running = False
            assert self.server.stop(10.0)
            self.archive.close()

    def records(self, node: str, journal: str = "main") -> list[bytes]:
        """What the newest incarnation holds, durably; only when stopped."""
        assert not self._running
        with Archive.open(self.data, epoch=99) as archive:
            replica = archive.current(node, journal)
            return [entry.record for entry in replica.journal.read()] if replica else []

    def error(self, node: str) -> str | None:
        """What the registry says against a node."""
        found = [entry for entry in self.server.nodes() if entry["name"] == node]
        return found[0]["error"] if found else None


class Node:
    """One node: its journals and its forwarders."""

    def __init__(self, bench: Bench, name: str, journals: tuple[str, ...]) -> None:
        """Open the journals."""
        self.name = name
        self.directory = bench.directory / f"spool-{name}"
        self.tls = files(bench.pki, name)
        self.journals = {
            journal: Journal.open(self.directory / "journals" / journal, options=JournalOptions(codec="none"))
            for journal in journals
        }
        self.forwarders: list[Forwarder] = []
        self._bench = bench
        self._running = True

    def forward(self, address: str, subscriber: str = "m1", **more: Any) -> Forwarder:
        """Deliver to a manager."""
        options = {"node": self.name, "epochs": self.directory / "epochs.json", "tls": self.tls, **more}
        forwarder = Forwarder(address, subscriber, self.journals, self._bench.failures.append, **options)
        forwarder.start()
        self.forwarders.append(forwarder)
        return forwarder

    def write(self, count: int, journal: str = "main") -> list[bytes]:
        """Records on the disk; returns them."""
        one = self.journals[journal]
        records = [b"%s %d" % (journal.encode(), one.append_end + number) for number in range(count)]
        one.append_many(records)
        one.commit()
        return records

    def delivered(self, subscriber: str = "m1") -> bool:
        """Whether everything is acknowledged."""
        return all(one.subscriber(subscriber).checkpoint == one.end for one in self.journals.values())

    def stop(self) -> None:
        """Stop forwarders, close journals; once."""
        if self._running:
            self._running = False
            for forwarder in self.forwarders:
                assert forwarder.stop(10.0)
            for journal in self.journals.values():
                journal.close()


@contextmanager
def bench(directory: Path) -> Iterator[Bench]:
    """For fixtures."""
    logging.getLogger("jlogd").setLevel(logging.INFO)
    made = Bench(directory)
    try:
        yield made
    finally:
        made.close()
