"""A fleet in memory that obeys its targets, under a manager that may die at every event.

    > nodes 20                         known and attached: n01 … n20
    > offline n03                      > online n03
    > doom n07 WHY                     it will take nothing but what it has
    > hang n07                         it will not answer about what it is told
    > start 1,10%,100% hold=60 max_failed=0
    > obey                             nodes do what they are told and report, until nothing changes
    > obey 3                           at most so many reports
    > wait 60                          so many seconds pass, and nodes obey meanwhile
    > pause | resume | abort           > restart: the manager dies and comes back
    > later                            r3 is committed, and needs a rollout of its own

r1 is what everybody runs, r2 is held back. ``python -m tests.unit.ecconfigd.rollouts.world [NAME…]`` writes them anew.
"""

import sys
from pathlib import Path

from jlogd.attach.messages import Report
from jlogd.confrepo.model import CommitId, Revision, Serial
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import JlogdError
from managerd.ecconfigd import rollout as core
from managerd.ecconfigd.rollout import Document, Fleet, Held, Plan, Point, Rollout

HERE = Path(__file__).parent
IDS = {Revision(number): CommitId(f"{number:040x}") for number in range(1, 10)}


def point(number: int) -> Point:
    return Point(Revision(number), IDS[Revision(number)])


class Interrupted(Exception):
    """The manager died."""


class Node:
    """What it runs, and why it will not take anything else."""

    def __init__(self) -> None:
        self.running = 1
        self.attached = True
        self.doomed = ""
        self.hangs = False
        self.tried: set[int] = set()  # serials under which it failed
        self.report: Report | None = None
        self.serial = 0


class World:
    """One manager and its nodes. ``budget``: events until it dies."""

    def __init__(self, budget: int = 1_000_000) -> None:
        self.clock = ManualClock()
        self.all: dict[str, Node] = {}
        self.lines: list[str] = []
        self.head = 2
        self.states = 1  # commits of the rollout line
        self.disk = core.to_bytes(Document(held=Held(point(2), point(1), ("web/**",))))
        self.document = core.from_bytes(self.disk)
        self.fleet = Fleet(self.clock.monotonic_s())
        self.budget = budget
        self.told: dict[str, tuple[int, int]] = {}  # node → serial, revision
        self.had: set[str] = set()  # nodes that were released to what is held back

    # ------------------------------------------------------------------ the script

    def command(self, words: list[str]) -> None:
        """One line of a script."""
        try:
            getattr(self, words[0])(*words[1:])
        except JlogdError as error:
            self.lines.append(f"  {error.reason}: {error}")

    def nodes(self, count: str) -> None:
        for number in range(1, int(count) + 1):
            self.all[f"n{number:02}"] = Node()
            self.fleet.attached(f"n{number:02}", self.now_s)

    def offline(self, *names: str) -> None:
        for name in names:
            self.all[name].attached = False
            self.event(lambda name=name: self.fleet.detached(name, self.now_s))
        self.look()

    def online(self, *names: str) -> None:
        for name in names:
            node = self.all.setdefault(name, Node())
            node.attached, node.report = True, None
            self.event(lambda name=name: self.fleet.attached(name, self.now_s))
        self.look()

    def doom(self, name: str, *why: str) -> None:
        self.all[name].doomed = " ".join(why)

    def hang(self, name: str) -> None:
        self.all[name].hangs = True

    def start(self, stages: str, *options: str) -> None:
        chosen = dict(option.split("=") for option in options)
        plan = Plan(
            point(2 if self.baseline == 1 else self.head),
            point(self.baseline),
            core.check_stages(stages.split(",")),
            float(chosen.get("hold", 60)),
            tuple(filter(None, [chosen.get("health")])),
            int(chosen.get("max_failed", 0)),
            "operator:alice",
        )
        serial = Serial(self.serial + 1)
        self.save(core.start(self.document, plan, self.fleet, serial=serial, now_ns=self.clock.wall_ns()))

    def pause(self) -> None:
        self._order("pause")

    def resume(self) -> None:
        self._order("resume")

    def abort(self) -> None:
        self._order("abort")

    def _order(self, what: core.Order) -> None:
        self.save(core.order(self.document, what, "operator:alice", self.clock.wall_ns()))

    def later(self) -> None:
        self.head = 3

    def obey(self, most: str = "1000000") -> None:
        for _ in range(int(most)):
            name = next((name for name in sorted(self.all) if self.has_news(name)), None)
            if name is None:
                break
            self.report(name)
            self.look()

    def wait(self, seconds: str) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.look()
            self.obey()

    def restart(self) -> None:
        """Memory is gone; nodes come back one by one."""
        self.budget = 1_000_000
        self.document = core.from_bytes(self.disk)
        self.fleet = Fleet(self.now_s)
        for name, node in sorted(self.all.items()):
            self.fleet.detached(name, self.now_s)
            if node.attached:
                self.fleet.attached(name, self.now_s)
                node.report = None
        self.look()

    # ------------------------------------------------------------------ the manager

    @property
    def now_s(self) -> float:
        return self.clock.monotonic_s()

    @property
    def baseline(self) -> int:
        return self.document.held.baseline.revision if self.document.held else self.head

    @property
    def serial(self) -> int:
        return self.head + self.states

    def event(self, effect: object) -> None:
        """Something happens, unless the manager dies first."""
        self.budget -= 1
        if self.budget < 0:
            raise Interrupted
        if callable(effect):
            effect()

    def look(self) -> None:
        for _ in range(100):
            before = self.document
            after = core.decide(before, self.fleet, self.now_s, self.clock.wall_ns())
            if after is before:
                return
            if after.rollout and after.rollout.state == "done":
                held = Held(point(3), after.rollout.target, ("web/**",)) if self.head == 3 else None
                after = core.settle(after, held if after.rollout.target.revision < self.head else None)
            self.save(after)
        raise AssertionError("it decides again and again")

    def save(self, document: Document) -> None:
        """On the disk, then in force; the invariants of what nodes are told hold from state to state."""
        content = core.to_bytes(document)
        self.event(None)
        self.disk = content
        assert core.from_bytes(content) == document
        before, self.document = self.document, core.from_bytes(content)
        self.states += 1
        self._show(before.rollout, document.rollout)
        for name in self.all:
            self._tell(name)

    def target(self, name: str) -> int:
        rollout = self.document.rollout
        return rollout.target.revision if rollout and rollout.tries(name) else self.baseline

    def _tell(self, name: str) -> None:
        told = self.serial, self.target(name)
        before = self.told.get(name, (0, 0))
        assert told[0] > before[0] or told == before, f"{name} is told {told} after {before}"
        self.told[name] = told
        if told[1] != self.baseline:
            self.had.add(name)

    # ------------------------------------------------------------------ the nodes

    def has_news(self, name: str) -> bool:
        """Whether it has not said yet what became of its target."""
        node, target = self.all[name], self.target(name)
        if not node.attached or (node.hangs and target != node.running):
            return False
        report = node.report
        if report is None:
            return True
        if report.state == "rolled_back" and self.serial in node.tried:
            return False
        return report.revision != target or (report.state == "rolled_back" and report.serial != self.serial)

    def report(self, name: str) -> None:
        node, target = self.all[name], self.target(name)
        failed = bool(node.doomed) and target != node.running
        if failed:
            node.tried.add(self.serial)
        else:
            node.running = target
        running = Revision(node.running)
        node.report = Report(
            "rolled_back" if failed else "applied",
            Revision(target),
            IDS[Revision(target)],
            running,
            IDS[running],
            Serial(self.serial),
            error=node.doomed if failed else "",
        )
        said = node.report
        self.event(lambda: self.fleet.reported(name, said, self.now_s))

    # ------------------------------------------------------------------ what people read

    def _show(self, before: Rollout | None, after: Rollout | None) -> None:
        assert after is not None
        news = sorted(after.released - (before.released if before and before.number == after.number else set()))
        failed = [
            f"{name} ({why})" for name, why in after.failed.items() if before is None or name not in before.failed
        ]
        words = [f"  {self.now_s:4.0f} s  r{after.target.revision} {after.state}"]
        if after.active:
            words.append(f"stage {after.stages[after.stage]}")
        if news and after.active:
            words.append("releases " + " ".join(news) + (" and everyone else" if after.everyone else ""))
        if failed:
            words.append("failed " + ", ".join(failed))
        if after.reason:
            words.append(after.reason)
        self.lines.append("; ".join(words))

    def runs(self) -> str:
        """Who should run what."""
        on_target = sorted(name for name in self.all if self.target(name) == 2)
        return f"baseline r{self.baseline}, should run r2: {' '.join(on_target) or '-'}"

    def finish(self) -> None:
        """Time goes by until nothing more happens."""
        for _ in range(60):
            self.wait("60")
            if self.document.rollout is None or not self.document.rollout.active:
                return


def script(text: str) -> list[str]:
    """The lines that a person wrote: commands, comments, blank lines."""
    return [line for line in text.splitlines() if not line.startswith("  ")]


def run(text: str) -> str:
    """The script with what it causes."""
    world = World()
    out = []
    for line in script(text):
        out.append(line)
        if line.startswith("> "):
            world.command(line[2:].split())
            out += world.lines
            world.lines.clear()
    return "\n".join([*out, "  " + world.runs()]) + "\n"


def runs() -> list[Path]:
    """Every golden run, by name."""
    return sorted(HERE.glob("*.txt"))


if __name__ == "__main__":
    for path in runs():
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            path.write_text(run(path.read_text()))
            print(path)
