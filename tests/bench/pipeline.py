"""File → journal → gRPC with mutual TLS → archive, against rsyslog's default mode, interleaved in one run.

Clock: from the sender's exec until everything is there; for us that is when the checkpoint that the
manager acknowledged after its sync equals the last line (read from the checkpoint's file, every 20 ms,
which disturbs nobody); for rsyslog when the target file has every byte, synced or not. CPU: user +
system of both processes, whole life, interpreter start included. Memory: VmHWM.

    make bench BENCH_ARGS='--rounds 3 --lines 4564000'
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from jlogd.journal.checkpoint import read_checkpoints
from jlogd.runtime.fs import OS
from tests.bench.peers import Rsyslog, find_rsyslogd
from tests.bench.workload import workload
from tests.support.compare import compare_whole, first_difference
from tests.support.daemon import Daemon, until
from tests.support.fleet import REPOSITORY, Fleet, Tail
from tests.support.usage import listening

POLL_S = 0.02
LIMIT_S = 600.0
MB = 1e6


@dataclass(frozen=True, slots=True)
class Round:
    """One measured run."""

    peer: str
    wall_s: float
    cpu_sender_s: float
    cpu_receiver_s: float
    rss_sender_bytes: int
    rss_receiver_bytes: int
    source_bytes: int
    difference: str  # empty: what arrived equals the source, byte for byte

    @property
    def mb_per_s(self) -> float:
        """Megabytes (10^6) of source a second."""
        return self.source_bytes / MB / self.wall_s

    @property
    def cpu_s_per_gb(self) -> float:
        """CPU seconds of both processes per 10^9 bytes of source."""
        return (self.cpu_sender_s + self.cpu_receiver_s) / (self.source_bytes / 1e9)


def _fresh(work: Path, name: str) -> Path:
    directory = work / f"run-{name}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    os.sync()  # what others left to write must not be paid for by this run
    return directory


def _measure(peer: str, source: Path, sender: Daemon, receiver: Daemon, arrived: Callable[[], bool]) -> Round:
    """Start the sender and time until ``arrived``; ``difference`` is left open."""
    start = time.monotonic()
    sender.start()

    def done() -> bool:
        for daemon in (sender, receiver):
            assert daemon.running, daemon.ended()
        return arrived()

    until(done, LIMIT_S, f"{peer} delivered everything", interval_s=POLL_S)
    wall_s = time.monotonic() - start
    ours, theirs = sender.usage(), receiver.usage()
    size = source.stat().st_size
    return Round(
        peer, wall_s, ours.cpu_s, theirs.cpu_s, ours.rss_peak_bytes, theirs.rss_peak_bytes, size, "not compared"
    )


def run_rsyslog(program: str, source: Path, work: Path) -> Round:
    """One round of rsyslog."""
    peer = Rsyslog(program, source, _fresh(work, "rsyslog"))
    size = source.stat().st_size
    try:
        peer.receiver.start()
        until(lambda: listening(peer.port), 30, f"rsyslogd listens\n{peer.receiver.tail()}")
        arrived = lambda: peer.target.exists() and peer.target.stat().st_size >= size  # noqa: E731
        measured = _measure("rsyslog default", source, peer.sender, peer.receiver, arrived)
        peer.sender.stop()
        peer.receiver.stop()
        return _judged(measured, first_difference(peer.target, source))
    finally:
        peer.sender.close()
        peer.receiver.close()


def run_jlogd(codec: str, source: Path, lines: int, work: Path) -> Round:
    """One round of jlogd and managerd with mutual TLS, both sides synced before they count."""
    with Fleet(_fresh(work, f"jlogd-{codec}")) as fleet:
        manager = fleet.manager("m1")
        node = fleet.node("n1", [Tail("mail", (str(source),))], [manager], more=f'[journal]\ncodec = "{codec}"\n')
        subscribers = node.journal("mail") / "subscribers"
        manager.start()
        manager.ready()

        def arrived() -> bool:
            found = read_checkpoints(OS, subscribers)
            return bool(found) and all(subscriber.checkpoint >= lines for subscriber in found.values())

        measured = _measure(f"jlogd {codec}", source, node, manager, arrived)
        assert node.stop() == 0, node.tail()
        assert manager.stop() == 0, manager.tail()
        return _judged(measured, compare_whole(manager.archive("n1", "mail"), source))


def _judged(measured: Round, difference: str) -> Round:
    return Round(**{**asdict(measured), "difference": difference})


def _line(name: str, rounds: list[Round], base: list[Round] | None) -> str:
    def median(value: Callable[[Round], float]) -> float:
        return statistics.median(value(r) for r in rounds)

    speed, cost = median(lambda r: r.mb_per_s), median(lambda r: r.cpu_s_per_gb)
    ratios = ""
    if base is not None:
        base_speed = statistics.median(r.mb_per_s for r in base)
        base_cost = statistics.median(r.cpu_s_per_gb for r in base)
        ratios = f"{speed / base_speed:6.2f} x {cost / base_cost:8.3f} x"
    rss = f"{median(lambda r: r.rss_sender_bytes) / MB:5.0f} / {median(lambda r: r.rss_receiver_bytes) / MB:<5.0f}"
    wall = (
        f"{median(lambda r: r.wall_s):6.2f} ({min(r.wall_s for r in rounds):.2f}-{max(r.wall_s for r in rounds):.2f})"
    )
    cpu = f"{median(lambda r: r.cpu_sender_s):5.2f} + {median(lambda r: r.cpu_receiver_s):5.2f}"
    equal = "yes" if not any(r.difference for r in rounds) else "NO"
    return f"{name:<16} {wall:>20} {speed:8.1f} {cpu:>14} {cost:8.2f} {rss:>14} {equal:>6}  {ratios}"


HEADER = (
    f"{'median of rounds':<16} {'wall s (min-max)':>20} {'MB/s':>8} {'CPU s snd+rcv':>14} {'CPU s/GB':>8} "
    f"{'RSS MB snd/rcv':>14} {'equal':>6}  MB/s and CPU against rsyslog"
)


def main() -> int:
    """The command; exit 1 when something did not arrive as it was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=4_564_000)
    parser.add_argument("--kind", choices=["mail", "short"], default="mail")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--codecs", nargs="*", default=["zstd", "none"], choices=["zstd", "none"])
    parser.add_argument("--no-rsyslog", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the last round's files")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    work = Path(os.environ.get("BENCH_WORK", REPOSITORY / ".cache" / "bench")).resolve()
    program = None if chosen.no_rsyslog else find_rsyslogd()
    if program is None and not chosen.no_rsyslog:
        print("!!! no rsyslogd here (make servers): measuring without it, no ratios !!!", file=sys.stderr)
    source = workload(chosen.kind, chosen.lines, work)
    runs: dict[str, Callable[[], Round]] = {}
    if program is not None:
        runs["rsyslog default"] = lambda: run_rsyslog(program, source, work)
    for codec in chosen.codecs:
        runs[f"jlogd {codec}"] = lambda codec=codec: run_jlogd(codec, source, chosen.lines, work)  # type: ignore[misc]
    rounds: dict[str, list[Round]] = {name: [] for name in runs}
    for number in range(chosen.rounds):
        for name, run in runs.items():
            measured = run()
            rounds[name].append(measured)
            note = f"round {number + 1}: {name}: {measured.wall_s:.2f} s, {measured.mb_per_s:.0f} MB/s, "
            note += f"{measured.cpu_s_per_gb:.2f} CPU-s/GB{': ' + measured.difference if measured.difference else ''}"
            print(note, file=sys.stderr, flush=True)
    if not chosen.keep:
        for left in work.glob("run-*"):
            shutil.rmtree(left)
    if chosen.json:
        print(json.dumps({"schema": 1, "rounds": [asdict(r) for found in rounds.values() for r in found]}))
    else:
        print(HEADER)
        for name, found in rounds.items():
            print(_line(name, found, rounds.get("rsyslog default") if name != "rsyslog default" else None))
    wrong = [r for name, found in rounds.items() if name != "rsyslog default" for r in found if r.difference]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
