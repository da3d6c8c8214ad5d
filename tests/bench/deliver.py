"""Raw speed of frames through Deliver: one node process, one manager process, loopback, mutual TLS, both synced.

python -m tests.bench.deliver [--mib 1024] [--raw-kib 512] [--insecure]

Prints MB/s of frame bytes from the start of the session to the last acknowledgement, and CPU s/GB of both processes.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from jlogd.forward import Forwarder
from jlogd.journal import Journal, JournalOptions
from jlogd.runtime.rpc import TlsFiles
from managerd import pki
from managerd.archive import Archive
from managerd.ingest import IngestServer


def _raise(error: BaseException) -> None:
    raise error


def _tls(directory: Path, name: str) -> TlsFiles:
    return TlsFiles(directory / "ca.crt", directory / f"{name}.crt", directory / f"{name}.key")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def manager(directory: Path, pipe: Connection, insecure: bool) -> None:
    """The manager's process: serves until the pipe says stop, then tells CPU seconds and peak RSS."""
    archive = Archive.open(directory / "data", epoch=1)
    tls = None if insecure else _tls(directory / "pki", "m1")
    server = IngestServer(archive, _raise, manager="m1", subscriber="m1", epoch=1, listen="127.0.0.1:0", tls=tls)
    server.start()
    before = _cpu_s()
    pipe.send(server.port)
    pipe.recv()
    pipe.send((_cpu_s() - before, _rss_mib()))
    server.stop(5.0)
    archive.close()


def fill(journal: Journal, total: int, raw_bytes: int) -> None:
    """Incompressible lines, so that bytes on the wire are bytes of records."""
    block = (os.urandom(raw_bytes).replace(b"\n", b"x"))[:-1] + b"\n"
    for number in range(total // raw_bytes):
        journal.append_lines(block)
        if number % 16 == 0:
            journal.commit()
    journal.commit()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--raw-kib", type=int, default=512)
    parser.add_argument("--insecure", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pki.init(directory / "pki")
        pki.issue("manager", "m1", directory / "pki")
        pki.issue("node", "n1", directory / "pki")
        here, there = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=manager, args=(directory, there, arguments.insecure)
        )
        process.start()
        port = here.recv()
        journal = Journal.open(directory / "journal", options=JournalOptions(codec="none"))
        fill(journal, arguments.mib << 20, arguments.raw_kib << 10)
        tls = None if arguments.insecure else _tls(directory / "pki", "n1")
        forwarder = Forwarder(
            f"127.0.0.1:{port}", "m1", {"main": journal}, _raise, node="n1", epochs=directory / "epochs.json", tls=tls
        )
        subscriber = journal.subscriber("m1")
        began_s, cpu_s = time.monotonic(), _cpu_s()
        forwarder.start()
        while subscriber.checkpoint < journal.end:
            time.sleep(0.02)
        took_s, node_cpu_s = time.monotonic() - began_s, _cpu_s() - cpu_s
        here.send("stop")
        manager_cpu_s, manager_rss = here.recv()
        forwarder.stop(1.0)
        process.join()
        gigabytes = (arguments.mib << 20) / 1e9
        print(
            f"{gigabytes * 1000 / took_s:.0f} MB/s, CPU s/GB: node {node_cpu_s / gigabytes:.2f}, manager "
            f"{manager_cpu_s / gigabytes:.2f}; peak RSS MiB: node {_rss_mib():.0f}, manager {manager_rss:.0f}"
        )


if __name__ == "__main__":
    main()
