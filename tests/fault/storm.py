"""The storm: three rotated files, one node, two managers, everything killed again and again; then byte for byte.

    python -m tests.fault.storm --lines 2000000 --kills 20 [--seed N] [--power] [--keep]

Writers get leave to write step by step, so that the kills are spread over all lines however fast the
machine is. In each step one or two daemons die by ``kill -9``, at a random moment, and come back after
a random pause; some are killed again while they recover. With ``--power`` a kill is a power cut: what
was never synced is taken away, in the journal, in the archive, and, with the node, in the sources.

What must hold in both archives, without one gap:

* kills: every generation of every file stands there byte for byte, generations in their order;
* power cuts: every line that is still in the source after the cuts stands exactly once and in order; a
  line that a cut took from the source stands at most once, whole; nothing else stands.

The seed decides sizes, victims and pauses. The scheduler decides the rest: run a seed a few times.
"""

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.compare import compare_after_cuts, compare_source, extract
from tests.support.daemon import START_S, run_command, until
from tests.support.fleet import REPOSITORY, Fleet, Manager, Node, Served, Tail
from tests.support.power_cut import EVENTS
from tests.support.writers import Plan
from tests.support.writing import WriterProcess

NODE = "n1"
FILES = {"mail": ("rename", "a"), "web": ("copytruncate", "b"), "app": ("gz", "a"), "old": ("xz", "b")}
POWER_CUT = [sys.executable, "-m", "tests.support.power_cut"]
ROTATE_WAIT_S = 0.5
STEP_S = 0.7  # how long the writers need for what a step allows, about


@dataclass(frozen=True, slots=True)
class Storm:
    """What a storm does."""

    seed: int
    lines: int = 60_000  # over all files
    kills: int = 3  # of each daemon, at least
    power: bool = False
    files: tuple[str, ...] = ("mail", "web", "app")
    settle_s: float = 60.0
    pause_s: float = 0.4  # a dead daemon stays dead for up to this long

    @property
    def steps(self) -> int:
        """Each step kills at least one of three daemons."""
        return 3 * self.kills

    @property
    def lines_each(self) -> int:
        """Lines of one file."""
        return self.lines // len(self.files)


@dataclass
class Outcome:
    """What happened."""

    storm: Storm
    faults: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    cut_bytes: Counter[str] = field(default_factory=Counter)
    generations: int = 0
    source_bytes: int = 0
    took_s: float = 0.0

    @property
    def verdict(self) -> str:
        """In a few words."""
        return f"{len(self.faults)} FAULTS" if self.faults else "EQUAL in both archives"

    def __str__(self) -> str:
        """One line."""
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        cuts = ", ".join(f"{name} {count}" for name, count in sorted(self.cut_bytes.items()))
        return (
            f"seed {self.storm.seed}: {self.storm.lines} lines, {self.source_bytes} bytes, "
            f"{self.generations} generations, {'power cuts' if self.storm.power else 'kill -9'}: {kills}"
            f"{f'; bytes cut from {cuts}' if cuts else ''}; {self.took_s:.1f} s: {self.verdict}"
        )


class _Run:
    """One storm under way."""

    def __init__(self, storm: Storm, root: Path) -> None:
        self.storm = storm
        self.root = root
        self.rng = random.Random(storm.seed)
        self.outcome = Outcome(storm)
        self.fleet = Fleet(root / "fleet")
        self.managers = [self.fleet.manager("m1"), self.fleet.manager("m2")]
        self.node = self._node()
        self.writers = {name: WriterProcess(self._plan(name)) for name in storm.files}
        if storm.power:
            for daemon in self.fleet.daemons():
                program = "jlogd" if daemon is self.node else "managerd"
                daemon.argv = [*POWER_CUT, "run", str(self._side(daemon)), "--", program, *daemon.argv[-3:]]

    def _side(self, daemon: Served) -> Path:
        return self.root / "unsynced" / daemon.name

    def _source(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def _plan(self, name: str) -> Plan:
        writes = self.storm.steps * STEP_S / 0.005
        (self.root / "logs").mkdir(exist_ok=True)
        return Plan(
            path=self._source(name),
            truth=self.root / "truth" / name,
            lines=self.storm.lines_each,
            seed=self.storm.seed,
            rotation=FILES[name][0],
            rotate_bytes=min(max(self.storm.lines_each * 160 // 10, 50_000), 4 << 20),
            keep=40,  # the agent may be killed again and again before it comes to an old generation's last line
            late=0 if FILES[name][0] == "copytruncate" else self.rng.choice([0, 7]),
            burst=max(2, int(2 * self.storm.lines_each / writes)),
            pause_s=0.005,
            ragged=0.0 if self.storm.power else 0.3,
            longest=900 if self.storm.power else 1500,
            remember=self.storm.power,
        )

    def _node(self) -> Node:
        more = f'[journal]\nsegment_bytes = "{self.rng.choice(["128KiB", "512KiB", "4MiB"])}"\n'
        tails = [
            Tail(FILES[name][1], (str(self._source(name)),), f'rotate_wait = {ROTATE_WAIT_S}\nmax_line = "1KiB"\n')
            for name in self.storm.files
        ]
        return self.fleet.node(NODE, tails, self.managers, more=more)

    # ------------------------------------------------------------------ the storm

    def run(self) -> Outcome:
        start = time.monotonic()
        try:
            for daemon in self.fleet.daemons():
                daemon.start()
            self._begin()
            self._storm()
            for writer in self.writers.values():
                writer.finish(60.0 + self.storm.lines / 10_000)
            self.fleet.settle(self.storm.settle_s, steady_s=3 * ROTATE_WAIT_S)
            self._judge()
        finally:
            for writer in self.writers.values():
                writer.close()
            self.fleet.close()
        self.outcome.took_s = time.monotonic() - start
        return self.outcome

    def _begin(self) -> None:
        """Generations older than the first one that the agent ever saw are not its business: let it see the first."""
        for writer in self.writers.values():
            writer.allow(1)
        until(self.node.answers, START_S, f"{self.node.name} runs")
        until(self._begun, START_S, "the first line of each file is journalled")

    def _begun(self) -> bool:
        ends = [int(journal["end"]) for journal in self.node.status()["journals"]]
        return sum(ends) == len(self.writers)

    def _storm(self) -> None:
        deck = [daemon for daemon in self.fleet.daemons() for _ in range(self.storm.kills)]
        self.rng.shuffle(deck)
        for step in range(self.storm.steps):
            allowed = self.storm.lines_each * (step + 1) // (self.storm.steps + 1)
            for writer in self.writers.values():
                writer.allow(allowed)
            time.sleep(self.rng.uniform(0.0, STEP_S))
            victims = {deck[step].name: deck[step]}
            if self.rng.random() < 0.2:
                extra = self.rng.choice(self.fleet.daemons())
                victims[extra.name] = extra
            self._strike(list(victims.values()))
            if self.rng.random() < 0.5:
                for victim in victims.values():
                    victim.ready()

    def _strike(self, victims: list[Served]) -> None:
        for victim in victims:
            assert victim.running, victim.ended()
            victim.kill()
            self.outcome.kills[victim.name] += 1
            if self.storm.power:
                self._cut(victim)
        time.sleep(self.rng.uniform(0.0, self.storm.pause_s))
        for victim in victims:
            victim.start()

    def _cut(self, victim: Served) -> None:
        """The power of a machine goes: its daemon's files, and on the node its log files too."""
        if (self._side(victim) / EVENTS).exists():
            argv = [*POWER_CUT, "cut", str(self._side(victim)), str(self.rng.randrange(1 << 31))]
            done = run_command(argv, cwd=REPOSITORY)
            assert done.code == 0, f"power_cut cut: {done.err}"
            with (self.root / "cuts.log").open("ab") as log:
                log.write(f"--- {victim.name}, kill {victim.kills}\n".encode() + done.out)
        if victim is self.node:
            for name, writer in self.writers.items():
                self.outcome.cut_bytes[name] += writer.cut_power(self.rng)
                writer.restart()

    # ------------------------------------------------------------------ the judgement

    def _judge(self) -> None:
        for name, count in Counter({daemon.name: daemon.kills for daemon in self.fleet.daemons()}).items():
            assert count >= self.storm.kills, f"{name} was killed {count} times only"
        for manager in self.managers:
            for journal in sorted({FILES[name][1] for name in self.storm.files}):
                self._judge_archive(manager, journal)
            verified = manager.command("logs", "verify", "--json")
            if verified.code != 0:
                self.outcome.faults.append(f"{manager.name}: logs verify: exit {verified.code}: {verified.err}")
        self.outcome.generations = sum(len(list((self.root / "truth" / name).glob("0*"))) for name in self.storm.files)
        self.outcome.source_bytes = sum(
            path.stat().st_size for name in self.storm.files for path in (self.root / "truth" / name).glob("0*")
        )

    def _judge_archive(self, manager: Manager, journal: str) -> None:
        found = extract(
            manager.archive(NODE, journal), self.root / "got" / manager.name, contiguous=not self.storm.power
        )
        where = f"{manager.name} {NODE}/{journal}"
        self.outcome.faults += [f"{where}: {fault}" for fault in found.faults]
        self.outcome.faults += [f"{where}: {gap}" for gap in found.gaps]
        compare = compare_after_cuts if self.storm.power else compare_source
        for name in self.storm.files:
            if FILES[name][1] == journal:
                truth = self.root / "truth" / name
                self.outcome.faults += [f"{where}: {fault}" for fault in compare(found, self._source(name), truth)]


def run_storm(storm: Storm, root: Path) -> Outcome:
    """Run one storm below ``root``; whatever goes wrong is an AssertionError that says where to look."""
    root.mkdir(parents=True, exist_ok=True)
    with _kept(storm, root):
        outcome = _Run(storm, root).run()
        assert not outcome.faults, f"{outcome}\n" + "\n".join(outcome.faults[:20])
    shutil.rmtree(root)
    return outcome


@contextmanager
def _kept(storm: Storm, root: Path) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        power = " --power" if storm.power else ""
        raise AssertionError(
            f"{error}\n\n"
            f"again:   python -m tests.fault.storm --seed {storm.seed} --lines {storm.lines} "
            f"--kills {storm.kills}{power} --files {' '.join(storm.files)}\n"
            f"kept:    {root}\n"
            f"logs:    {root}/fleet/*/*.log\n"
            f"files:   {root}/truth/NAME/0001… (written)  {root}/got/MANAGER/NAME.log.0001… (archived): cmp, diff\n"
            f"records: managerd logs cat {NODE}/a --json -c {root}/fleet/m1/managerd.toml   "
            f"jlogd journal read {root}/fleet/{NODE}/spool/{NODE}/journals/a --json"
        ) from error


def main() -> int:
    """The command; exit 1 when anything is lost, doubled or out of order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--lines", type=int, default=60_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--power", action="store_true")
    parser.add_argument("--files", nargs="+", choices=sorted(FILES), default=["mail", "web", "app"])
    parser.add_argument("--settle-s", type=float, default=120.0)
    parser.add_argument("--rounds", type=int, default=1, help="further rounds count the seed up")
    chosen = parser.parse_args()
    for number in range(chosen.rounds):
        seed = chosen.seed + number
        root = REPOSITORY / ".cache" / "storm" / f"{seed}-{time.time_ns()}"
        storm = Storm(seed, chosen.lines, chosen.kills, chosen.power, tuple(chosen.files), chosen.settle_s)
        print(f"seed {seed} in {root}", flush=True)
        try:
            print(run_storm(storm, root), flush=True)
        except AssertionError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
