"""What an idle agent costs: CPU and memory with 20 followed files on which nothing happens, over 30 s.

The files have content that was read and delivered before the clock starts; a manager is connected
(mutual TLS), so keepalives are part of the figure.

    python -m tests.bench.idle --files 20 --seconds 30
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.support.fleet import Fleet, Tail
from tests.support.lines import block, bodies

QUIET_S = 5.0  # after the last line, until nobody expects more


def measure(files: int, seconds: float) -> dict[str, float]:
    """CPU share of one core (1.0 = all of it) and resident memory in bytes, of node and manager."""
    with tempfile.TemporaryDirectory() as temporary, Fleet(Path(temporary) / "fleet") as fleet:
        directory = Path(temporary) / "logs"
        directory.mkdir()
        pool = bodies(5)
        for number in range(files):
            (directory / f"file{number}.log").write_bytes(block(b"idle", 0, 1000, pool))
        manager = fleet.manager("m1")
        node = fleet.node("n1", [Tail("app", (f"{directory}/*.log",))], [manager])
        fleet.start()
        fleet.settle(30)
        time.sleep(QUIET_S)
        before, start = (node.usage(), manager.usage()), time.monotonic()
        time.sleep(seconds)
        after, took_s = (node.usage(), manager.usage()), time.monotonic() - start
        return {
            "node_cpu": (after[0].cpu_s - before[0].cpu_s) / took_s,
            "manager_cpu": (after[1].cpu_s - before[1].cpu_s) / took_s,
            "node_rss_bytes": after[0].rss_bytes,
            "node_rss_peak_bytes": after[0].rss_peak_bytes,
            "manager_rss_bytes": after[1].rss_bytes,
        }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    found = measure(chosen.files, chosen.seconds)
    if chosen.json:
        print(json.dumps({"schema": 1, "files": chosen.files, "seconds": chosen.seconds, **found}))
    else:
        print(
            f"idle with {chosen.files} files over {chosen.seconds:g} s: "
            f"agent {found['node_cpu']:.2%} of a core, {found['node_rss_bytes'] / 1e6:.0f} MB resident "
            f"(peak {found['node_rss_peak_bytes'] / 1e6:.0f} MB); "
            f"manager {found['manager_cpu']:.2%}, {found['manager_rss_bytes'] / 1e6:.0f} MB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
