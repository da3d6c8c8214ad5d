"""How long until a line is safe with the manager: write() of the line → the manager has synced it and the node knows.

One writer at a steady rate (default 1,000 lines/s), a node and a manager over mutual TLS, both with
default settings. Measured at the node's checkpoint file: it moves only when an acknowledgement has
come, and the manager sends one only after its sync. So the figure holds the whole way there, its two
syncs, the way back, and the checkpoint's own sync; it is an upper bound of "durable at the manager".
The checkpoint is read every 2 ms, which adds 1 ms on average. Line n is timed just before its write().

    python -m tests.bench.latency --lines-per-s 1000 --seconds 20
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from array import array
from pathlib import Path

from jlogd.journal.checkpoint import read_checkpoints
from jlogd.runtime.fs import OS
from tests.support.daemon import until
from tests.support.fleet import Fleet, Tail
from tests.support.lines import block, bodies

READ_EVERY_S = 0.002
WARM_UP_S = 2.0  # the first seconds hold the session's beginning


def measure(lines_per_s: int, seconds: float) -> list[float]:
    """Latencies in seconds, one a line, warm-up left out."""
    total = int(lines_per_s * (seconds + WARM_UP_S))
    with tempfile.TemporaryDirectory() as temporary, Fleet(Path(temporary) / "fleet") as fleet:
        log = Path(temporary) / "app.log"
        log.touch()
        manager = fleet.manager("m1")
        node = fleet.node("n1", [Tail("app", (str(log),))], [manager])
        fleet.start()
        written = array("d", bytes(8 * total))
        writer = threading.Thread(target=_write, args=(log, lines_per_s, total, written))
        writer.start()
        durable = _watch(node.journal("app") / "subscribers", written, total)
        writer.join()
        until(lambda: not node.behind(), 10, "everything is delivered")
    return durable[int(lines_per_s * WARM_UP_S) :]


def _write(log: Path, lines_per_s: int, total: int, written: "array[float]") -> None:
    pool = bodies(3)
    texts = [block(b"app", number, number + 1, pool) for number in range(total)]
    with log.open("ab", buffering=0) as file:
        start = time.monotonic()
        for number in range(total):
            wait_s = start + number / lines_per_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            written[number] = time.monotonic()
            file.write(texts[number])


def _watch(subscribers: Path, written: "array[float]", total: int) -> list[float]:
    """For each line, how long after its write the checkpoint was seen beyond it."""
    latencies: list[float] = []
    deadline = time.monotonic() + 600
    while len(latencies) < total:
        assert time.monotonic() < deadline, f"{len(latencies)} of {total} lines were acknowledged"
        found = read_checkpoints(OS, subscribers).get("m1")
        now_s = time.monotonic()
        if found is not None:
            latencies += [now_s - written[number] for number in range(len(latencies), found.checkpoint)]
        time.sleep(READ_EVERY_S)
    return latencies


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines-per-s", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    ordered = sorted(measure(chosen.lines_per_s, chosen.seconds))
    figures = {
        name: ordered[min(int(len(ordered) * share), len(ordered) - 1)]
        for name, share in (("p50_s", 0.5), ("p90_s", 0.9), ("p99_s", 0.99), ("max_s", 1.0))
    }
    if chosen.json:
        print(json.dumps({"schema": 1, "lines": len(ordered), "lines_per_s": chosen.lines_per_s, **figures}))
    else:
        shown = "  ".join(f"{name.removesuffix('_s')} {value * 1000:.0f} ms" for name, value in figures.items())
        print(f"write() → acknowledged by the manager, {len(ordered)} lines at {chosen.lines_per_s}/s:  {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
