"""The demo: two managers, two nodes, real files, one growing file, ``kill -9`` of each process, then byte for byte.

    make demo                        files below /var/log that can be read, and one that keeps growing
    make demo LOGS='/path/*.log'     other files
    make demo KEEP=1                 leave it running at the end, and say how to look at it

Everything is on loopback, with fresh certificates, below ``.cache/demo``. Exit 0: both archives equal
the sources; 1: they do not, or something did not work; the directory is kept then.
"""

import argparse
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from tests.bench import workload
from tests.e2e.demo_screen import Screen
from tests.support.compare import first_difference, truth_generations
from tests.support.fleet import MANAGERD, REPOSITORY, Fleet, Manager, Tail
from tests.support.writers import Plan, arguments
from tests.support.writing import WriterProcess

FILES_MAX = 24
TOTAL_BYTES_MAX = 200_000_000  # a demo is over within a minute
GENERATED = 3
LINES = 10_000_000  # more than it writes in its time
DOWN_S = 1.5
BETWEEN_S = 2.5
_ROTATED = re.compile(r"\.(\d+|gz|xz|bz2|zst|old)$|-\d{8}")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files that are followed beside the growing one."""

    paths: list[Path]
    words: str


def choose(logs: str | None, root: Path) -> Chosen:
    """Readable files of this machine, or generated ones when there are none."""
    pattern = logs or "/var/log/**"
    found: list[Path] = []
    total = 0
    for name in sorted(glob.glob(pattern, recursive=True)):
        path = Path(name)
        if not path.is_file() or path.is_symlink() or _ROTATED.search(path.name) or not os.access(path, os.R_OK):
            continue
        size = path.stat().st_size
        if size and len(found) < FILES_MAX and total + size <= TOTAL_BYTES_MAX:
            found.append(path)
            total += size
    if found:
        return Chosen(found, f"{len(found)} files of this machine ({pattern}), {total / 1e6:.1f} MB")
    made = [root / "made-up" / f"mail{number}.log" for number in range(GENERATED)]
    made[0].parent.mkdir(parents=True)
    for path in made:
        workload.write("mail", 20_000, path)
    return Chosen(made, f"{GENERATED} GENERATED files, because nothing readable matches {pattern}")


class Demo:
    """The story, in order."""

    def __init__(self, root: Path, logs: str | None, *, keep: bool) -> None:
        """Make certificates, settings and files; nothing runs yet."""
        self.root = root
        self.keep = keep
        self.chosen = choose(logs, root)
        self.fleet = Fleet(root, leave_running=keep)
        self.managers = [self.fleet.manager("m1"), self.fleet.manager("m2")]
        paths = tuple(glob.escape(str(path)) for path in self.chosen.paths)
        self.quiet = self.fleet.node("n1", [Tail("system", paths)], self.managers)
        self.plan = Plan(
            root / "growing.log", root / "truth", LINES, rotate_bytes=24 << 20, burst=700, pause_s=0.02, longest=600
        )
        tail = Tail("app", (str(self.plan.path),), 'rotate_wait = "1s"\n')
        self.busy = self.fleet.node("n2", [tail], self.managers)
        self.writer: WriterProcess | None = None

    def run(self) -> list[str]:
        """Start, kill, compare; every difference."""
        with Screen(self.fleet) as screen:
            screen.say(f"n1 follows {self.chosen.words}", "bold")
            screen.say(f"n2 follows {self.plan.path}, which keeps growing and is rotated", "bold")
            self.fleet.start()
            screen.say("2 managers and 2 nodes run, mutual TLS, fresh certificates", "bold")
            self.writer = WriterProcess(self.plan)
            self.writer.allow(LINES)
            screen.pause(3.0)
            for daemon in (self.managers[0], self.busy, self.managers[1], self.quiet):
                daemon.kill()
                screen.say(f"kill -9 {daemon.name}", "bold red")
                screen.pause(DOWN_S)
                daemon.start()
                screen.say(f"{daemon.name} starts again", "yellow")
                screen.pause(BETWEEN_S)
            self.writer.kill()
            self.writer.close()
            screen.say("the growing file stops growing; waiting until both managers have everything", "bold")
            self.fleet.settle(40.0, steady_s=1.5)
            screen.refresh()
        return self.compare()

    # ------------------------------------------------------------------ the judgement

    def compare(self) -> list[str]:
        """Sources up to the shown position against both archives, as ``managerd logs cat --raw`` gives them."""
        shown = {source["path"]: source["position"] for source in self.quiet.status()["sources"]}
        print("\nComparing what was written with what `managerd logs cat --raw` gives, byte for byte:\n")
        faults: list[str] = []
        for manager in self.managers:
            compared = 0
            for path in self.chosen.paths:
                position = shown.get(str(path), 0)
                got = self._cat(manager, "n1/system", path)
                fault = first_difference(got, path, position) or _excess(got, position)
                faults += [f"{manager.name} {path}: {fault}"] if fault else []
                compared += position
            print(f"  {manager.name}  n1  {len(self.chosen.paths)} files, {compared:,} bytes up to the shown positions")
            faults += self._compare_growing(manager)
        return faults

    def _compare_growing(self, manager: Manager) -> list[str]:
        """All generations of the growing file, one after the other; a line begun at the kill waits for its newline."""
        want = self.root / "written"
        generations = truth_generations(self.plan.truth)
        with want.open("wb") as whole:
            for path in generations:
                whole.write(path.read_bytes())
        got = self._cat(manager, "n2/app", self.plan.path)
        waits = want.stat().st_size - (want.read_bytes().rfind(b"\n") + 1)
        length = want.stat().st_size - waits
        fault = first_difference(got, want, length) or _excess(got, length)
        lines = want.read_bytes().count(b"\n")
        begun = f" ({waits} bytes of a begun line wait for their newline)" if waits else ""
        print(
            f"  {manager.name}  n2  the growing file: {lines:,} lines, {length:,} bytes "
            f"in {len(generations)} generations{begun}"
        )
        return [f"{manager.name} {self.plan.path}: {fault}"] if fault else []

    def _cat(self, manager: Manager, log: str, source: Path) -> Path:
        """The archive's bytes of one source, as a file."""
        target = self.root / "got" / manager.name / f"{len(str(source))}-{source.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        argv = [*MANAGERD, "logs", "cat", log, "--raw", "--source", str(source), "-c", str(manager.settings)]
        with target.open("wb") as file:
            done = subprocess.run(argv, stdout=file, stderr=subprocess.PIPE, check=False, cwd=REPOSITORY, timeout=60)
        if done.returncode:
            raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.decode(errors='replace')}")
        return target

    # ------------------------------------------------------------------ afterwards

    def leave(self) -> None:
        """Say how to look at what stays, and let the growing file go on, slowly."""
        plan = replace(self.plan, burst=40, pause_s=0.5)
        orders = self.root / "orders"
        orders.write_text(f"UNTIL {LINES}\n")
        with orders.open("rb") as stdin:
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            writer = subprocess.Popen(
                arguments(plan), stdin=stdin, cwd=REPOSITORY, env=environment, start_new_session=True
            )
        pids = " ".join(str(daemon.pid) for daemon in self.fleet.daemons())
        bin_directory = Path(sys.executable).parent
        m1, n2 = self.managers[0].settings, self.busy.settings
        print(
            f"\nIt keeps running, below {self.root}. Look at it:\n\n"
            f"  export PATH={bin_directory}:$PATH\n"
            f"  jlogd status -c {n2}\n"
            f"  managerd nodes -c {m1}\n"
            f"  managerd logs ls -c {m1}\n"
            f"  managerd logs tail n2/app -c {m1}\n\n"
            f"End it:  kill {pids} {writer.pid}; rm -r {self.root}"
        )


def _excess(got: Path, length: int) -> str:
    size = got.stat().st_size
    return f"the archive has {size} bytes, {length} were written" if size != length else ""


def _interrupted(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", metavar="GLOB", help="files to follow, instead of /var/log/**")
    chosen = parser.parse_args()
    keep = os.environ.get("KEEP", "") not in ("", "0")
    root = REPOSITORY / ".cache" / "demo" / time.strftime("%H%M%S")
    shutil.rmtree(root, ignore_errors=True)
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGHUP, _interrupted)
    began_s = time.monotonic()
    demo: Demo | None = None
    faults: list[str] | None = None
    try:
        demo = Demo(root, chosen.logs, keep=keep)
        faults = demo.run()
        print()
        for fault in faults:
            print(f"DIFFERENT: {fault}")
        if not faults:
            print("EQUAL: both archives hold every byte once and in order, although each process was killed -9 once.")
        print(f"{time.monotonic() - began_s:.0f} s")
        if keep and not faults:
            demo.leave()
    except AssertionError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted: cleaning up", file=sys.stderr)
        faults = []
        keep = False
        return 130
    finally:
        if demo is not None:
            _clean_up(demo, keep=keep and faults == [], remove=faults == [])
    return 0 if faults == [] else 1


def _clean_up(demo: Demo, *, keep: bool, remove: bool) -> None:
    """End every process and remove the files; keep both on demand, and the files of a failure."""
    if demo.writer is not None:
        demo.writer.close()
    if keep:
        return
    for daemon in demo.fleet.daemons():
        daemon.leave_running = False
    demo.fleet.close()
    if remove:
        shutil.rmtree(demo.root, ignore_errors=True)
    else:
        print(f"kept: {demo.root} (logs of the daemons: */*.log)", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
