"""The configuration's storm: committers in conflict, managers and nodes killed, disks filled; then everybody agrees.

    python -m tests.fault.config_storm --seconds 600 [--seed N] [--nodes 4] [--managers 3] [--committers 4]

Committers work on groups of files with a manifest of checksums (``sums``), always changed in one commit,
and on one TOML file with a key each. All of them talk to any manager. Daemons die by ``kill -9`` and come
back; one manager's and one node's disk is a small tmpfs that is filled up now and then (as root only).
On each node a reader checks the manifest of every group against the files, in one view after the other.

What must hold in the end:

* every revision that was confirmed to a committer is in every manager's repository, under its number;
* the main line is linear and the same everywhere, and ``git fsck --strict`` finds nothing;
* all nodes run the head, and their view is what the repository says;
* no reader ever saw a mix of two revisions, and no committer's last confirmed key is lost.

The seed decides edits, victims and pauses; the scheduler decides the rest.
"""

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from jlogd.runtime.errors import ConflictError, JlogdError, RefusedError
from jlogd.runtime.rpc import open_channel
from managerd.eccfg.client import Client, Edit
from managerd.v1 import config_pb2 as pb
from tests.support.daemon import START_S, run_command, until
from tests.support.fleet import REPOSITORY, Fleet, Manager, Node, Served, free_port

GROUPS, FILES = 3, ("a", "b", "c", "d", "e")
COUNTERS = "global/counters.toml"
DISK_BYTES = 48 << 20
REGULAR = 0o100644
Outcome = pb.CommitResponse


@dataclass(frozen=True, slots=True)
class Storm:
    """What a storm does."""

    seed: int
    seconds: float = 20.0
    managers: int = 3
    nodes: int = 3
    committers: int = 3
    pause_s: float = 1.5  # between two strikes, on average
    down_s: float = 0.6  # a dead daemon stays dead for up to this long
    settle_s: float = 60.0


@dataclass
class Report:
    """What happened."""

    storm: Storm
    kills: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    confirmed: dict[int, str] = field(default_factory=dict)
    reads: int = 0
    full_disks: int = 0
    head: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line."""
        answers = ", ".join(f"{count} {word}" for word, count in sorted(self.answers.items()))
        return (
            f"seed {self.storm.seed}: {self.storm.seconds:.0f} s, r{self.head}, {answers}; {self.kills.total()} kills "
            f"({', '.join(f'{name} {count}' for name, count in sorted(self.kills.items()))}), {self.full_disks} full "
            f"disks, {self.reads} views read: {f'{len(self.faults)} FAULTS' if self.faults else 'ALL AGREE'}"
        )


class Committer(threading.Thread):
    """Changes groups and its own key, through any manager, until told to stop."""

    def __init__(self, number: int, run: "_Run") -> None:
        super().__init__(name=f"committer-{number}", daemon=True)
        self.key = f"c{number}"
        self.last_confirmed = 0
        self.last_tried = 0
        self._run_state = run
        self._rng = random.Random(run.storm.seed * 1000 + number)

    def run(self) -> None:
        while not self._run_state.over.is_set():
            manager = self._rng.choice(self._run_state.managers)
            try:
                with open_channel(manager.address, self._run_state.tls) as channel:
                    client = Client(channel, manager.address, self._run_state.tls)
                    for _ in range(self._rng.randrange(1, 20)):
                        if self._run_state.over.is_set():
                            return
                        self._commit(client)
                        time.sleep(self._rng.uniform(0.0, 0.1))
            except ConflictError:
                self._run_state.count("conflict")
            except RefusedError as error:
                self._run_state.count("refused")
                self._run_state.refusals.add(str(error)[:200])
            except JlogdError as error:
                self._run_state.count(f"unknown ({error.reason})")
                time.sleep(0.1)

    def _commit(self, client: Client) -> None:
        base = client.status().head.id
        edits = [self._count_up(client, base)] if self._rng.random() < 0.4 else self._change_group(client, base)
        answer = client.commit(edits, f"{self.key} changes something", base=base, sign=self._rng.random() < 0.3)
        word = Outcome.Outcome.Name(answer.outcome).removeprefix("OUTCOME_").lower()
        self._run_state.count(word)
        if answer.outcome == Outcome.OUTCOME_COMMITTED:
            self._run_state.confirm(answer.revision.revision, answer.revision.id)
            if len(edits) == 1 and edits[0].message.put.path == COUNTERS:
                self.last_confirmed = self.last_tried
        elif answer.outcome == Outcome.OUTCOME_REFUSED:
            self._run_state.refusals.update(f"{f.path}:{f.line}: {f.problem}" for f in answer.faults)

    def _count_up(self, client: Client, base: str) -> Edit:
        table = tomllib.loads(client.cat(COUNTERS, revision=base).content.decode())
        self.last_tried += 1
        table[self.key] = self.last_tried
        text = "".join(f"{key} = {value}\n" for key, value in sorted(table.items()))
        return Edit.put(COUNTERS, REGULAR, text.encode())

    def _change_group(self, client: Client, base: str) -> list[Edit]:
        directory = f"global/g{self._rng.randrange(GROUPS)}"
        sums = dict(
            line.split() for line in client.cat(f"{directory}/sums", revision=base).content.decode().splitlines()
        )
        edits = []
        for name in self._rng.sample(FILES, self._rng.randrange(1, len(FILES))):
            content = f"{self.key} {self._rng.random()}\n".encode() * self._rng.randrange(1, 200)
            sums[name] = hashlib.sha256(content).hexdigest()
            edits.append(Edit.put(f"{directory}/{name}", REGULAR, content))
        return [*edits, Edit.put(f"{directory}/sums", REGULAR, _manifest(sums))]


def _manifest(sums: dict[str, str]) -> bytes:
    return "".join(f"{name} {digest}\n" for name, digest in sorted(sums.items())).encode()


class Reader(threading.Thread):
    """Reads one node's view again and again, whole, through what ``current`` points to."""

    def __init__(self, node: Node, run: "_Run") -> None:
        super().__init__(name=f"reader-{node.name}", daemon=True)
        self.node = node
        self.reads = 0
        self._run_state = run

    def run(self) -> None:
        while not self._run_state.readers_over.is_set():
            problem = self.check()
            if problem:
                self._run_state.report.faults.append(f"{self.node.name}: {problem}")
                return
            time.sleep(0.002)

    def check(self) -> str:
        """Empty when the view is one whole revision."""
        current = self.node.spool / self.node.name / "config" / "current"
        try:
            view = current.parent / os.readlink(current)
        except FileNotFoundError:
            return "" if self.reads == 0 else "`current` went away"
        try:
            problem = _mixed(view)
        except FileNotFoundError as error:
            with suppress(FileNotFoundError):
                if current.parent / os.readlink(current) != view:
                    return ""  # so slow a reader that the revision is not kept any more
            return f"{error.filename} is missing in the view"
        self.reads += 1
        return problem


def _mixed(view: Path) -> str:
    for group in range(GROUPS):
        directory = view / f"g{group}"
        for line in (directory / "sums").read_text().splitlines():
            name, digest = line.split()
            if hashlib.sha256((directory / name).read_bytes()).hexdigest() != digest:
                return f"{directory / name} is not of the revision that {directory / 'sums'} is of"
    return ""


class Disk:
    """A small tmpfs that can be filled; where there is none to be had (it takes root), filling does nothing."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        argv = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0750", "jlogd-test", str(directory)]
        self.mounted = os.geteuid() == 0 and subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def fill(self) -> None:
        """Take every free byte."""
        with (self.directory / "ballast").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        """Give them back."""
        (self.directory / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.directory)], check=True)


class _Run:
    """One storm under way."""

    def __init__(self, storm: Storm, root: Path) -> None:
        self.storm = storm
        self.root = root
        self.rng = random.Random(storm.seed)
        self.report = Report(storm)
        self.refusals: set[str] = set()
        self.unsettled = ""
        self.over = threading.Event()
        self.readers_over = threading.Event()
        self.fleet = Fleet(root / "fleet")
        self.tls = self.fleet.operator("alice")
        self.disks = {name: Disk(root / "disks" / name) for name in ("m2", "n1")}
        self.managers = self._make_managers()
        self.nodes = [self._make_node(f"n{number + 1}") for number in range(storm.nodes)]
        self.committers = [Committer(number, self) for number in range(storm.committers)]
        self.readers = [Reader(node, self) for node in self.nodes]
        self._lock = threading.Lock()  # guards report.answers, report.confirmed

    def _make_managers(self) -> list[Manager]:
        names = [f"m{number + 1}" for number in range(self.storm.managers)]
        ports = {name: free_port() for name in names}
        made = []
        for name in names:
            peers = ", ".join(f'"127.0.0.1:{port}"' for other, port in ports.items() if other != name)
            replicas = min(2, self.storm.managers)
            config = f'writer = "m1"\npeers = [{peers}]\nreplicas_min = {replicas}\n'
            manager = self.fleet.manager(name, config=config, port=ports[name])
            if name in self.disks and self.disks[name].mounted:
                _move_data(manager, self.disks[name].directory / "data")
            made.append(manager)
        return made

    def _make_node(self, name: str) -> Node:
        disk = self.disks.get(name)
        spool = disk.directory / "spool" if disk and disk.mounted else None
        config = 'keep_revisions = 30\nconfirm_timeout = "20s"\nreconcile = "3s"\n'
        return self.fleet.node(name, [], self.managers, spool=spool, config=config)

    def count(self, word: str) -> None:
        with self._lock:
            self.report.answers[word] += 1

    def confirm(self, revision: int, commit: str) -> None:
        with self._lock:
            self.report.confirmed[revision] = commit

    # ------------------------------------------------------------------ the storm

    def run(self) -> Report:
        try:
            self.fleet.start()
            self._first_commit()
            for thread in [*self.committers, *self.readers]:
                thread.start()
            self._storm()
            self.over.set()
            for committer in self.committers:
                committer.join(120)
                assert not committer.is_alive(), f"{committer.name} hangs"
            self._settle()
            self.readers_over.set()
            for reader in self.readers:
                reader.join(30)
                self.report.reads += reader.reads
            self._judge()
        finally:
            self.over.set()
            self.readers_over.set()
            self.fleet.close()
            for disk in self.disks.values():
                disk.close()
        return self.report

    def _first_commit(self) -> None:
        edits = [Edit.put(COUNTERS, REGULAR, b"")]
        for group in range(GROUPS):
            sums = {}
            for name in FILES:
                content = f"{group}{name}\n".encode()
                sums[name] = hashlib.sha256(content).hexdigest()
                edits.append(Edit.put(f"global/g{group}/{name}", REGULAR, content))
            edits.append(Edit.put(f"global/g{group}/sums", REGULAR, _manifest(sums)))
        with open_channel(self.managers[0].address, self.tls) as channel:
            answer = Client(channel, self.managers[0].address, self.tls).commit(edits, "begin")
        assert answer.outcome == Outcome.OUTCOME_COMMITTED, answer

    def _storm(self) -> None:
        end = time.monotonic() + self.storm.seconds
        while time.monotonic() < end:
            time.sleep(self.rng.uniform(0.0, 2 * self.storm.pause_s))
            full = self.rng.choice(list(self.disks.values())) if self.rng.random() < 0.2 else None
            if full is not None and full.mounted:
                full.fill()
                self.report.full_disks += 1
                time.sleep(self.rng.uniform(0.1, 1.0))
            victims = self.rng.sample(self.fleet.daemons(), self.rng.choice([1, 1, 1, 2]))
            self._strike(victims, full)
            if self.rng.random() < 0.5:
                for victim in victims:
                    victim.ready()

    def _strike(self, victims: list[Served], full: Disk | None) -> None:
        for victim in victims:
            if victim.running:
                victim.kill()
                self.report.kills[victim.name] += 1
        time.sleep(self.rng.uniform(0.0, self.storm.down_s))
        if full is not None:
            full.free()
        for victim in victims:
            victim.start()

    # ------------------------------------------------------------------ the judgement

    def _settle(self) -> None:
        for daemon in self.fleet.daemons():
            if not daemon.running:
                daemon.start()
        for daemon in self.fleet.daemons():
            daemon.ready()
        until(
            lambda: not self._unsettled(), self.storm.settle_s, "all managers and nodes have the head", interval_s=0.5
        )

    def _unsettled(self) -> str:
        seen: list[str] = []
        heads = set()
        for manager in self.managers:
            try:
                with open_channel(manager.address, self.tls) as channel:
                    client = Client(channel, manager.address, self.tls)
                    status, nodes = client.status(), client.nodes()
            except JlogdError as error:
                return f"{manager.name}: {error}"
            heads.add(status.head.id)
            self.report.head = status.head.revision
            seen += [f"{manager.name}: confirmed r{status.confirmed}"] * (status.confirmed != status.head.revision)
            seen += [
                f"{manager.name}: node {node.name} {node.state} r{node.revision} {node.error}"
                for node in nodes.nodes
                if node.state != "applied" or node.id != status.head.id
            ]
            seen += [f"{manager.name}: {len(nodes.nodes)} nodes"] * (len(nodes.nodes) != len(self.nodes))
        seen += [f"heads {sorted(heads)}"] * (len(heads) != 1)
        self.unsettled = "; ".join(seen)
        return self.unsettled

    def _judge(self) -> None:
        lines = {manager.name: self._line(manager) for manager in self.managers}
        for name, line in lines.items():
            if line != lines["m1"]:
                self.report.faults.append(f"{name} has another history than m1")
            for revision, commit in sorted(self.report.confirmed.items()):
                if revision > len(line) or line[revision - 1] != commit:
                    self.report.faults.append(f"{name}: confirmed r{revision} {commit[:8]} is not in its history")
        for reader in self.readers:
            problem = reader.check()
            if problem:
                self.report.faults.append(f"{reader.node.name}: {problem}")
        with open_channel(self.managers[0].address, self.tls) as channel:
            client = Client(channel, self.managers[0].address, self.tls)
            table = tomllib.loads(client.cat(COUNTERS).content.decode())
        for committer in self.committers:
            found = table.get(committer.key, 0)
            if not committer.last_confirmed <= found <= committer.last_tried:
                self.report.faults.append(
                    f"{committer.key} is {found}: confirmed {committer.last_confirmed}, tried {committer.last_tried}"
                )
        if not self.report.confirmed:
            self.report.faults.append("nothing was ever confirmed")

    def _line(self, manager: Manager) -> list[str]:
        """Commit ids of the main line, oldest first; faults of the repository are noted."""
        repository = str(manager.data / "config.git")
        checked = run_command(["git", "-C", repository, "fsck", "--strict", "--full"], timeout_s=120)
        if checked.code != 0 or "error" in checked.err:
            self.report.faults.append(f"{manager.name}: git fsck: exit {checked.code}: {checked.err[:500]}")
        listed = run_command(["git", "-C", repository, "rev-list", "--parents", "refs/heads/main"], timeout_s=120)
        rows = [row.split() for row in listed.out.decode().splitlines()]
        for row, older in zip(rows, [*rows[1:], []], strict=True):
            if row[1:] != older[:1]:
                self.report.faults.append(f"{manager.name}: {row[0]} has the parents {row[1:]}: not a line")
        return [row[0] for row in reversed(rows)]


def _move_data(manager: Manager, directory: Path) -> None:
    text = manager.settings.read_text().replace('data = "data"', f'data = "{directory}"')
    manager.settings.write_text(text)
    manager.data, manager.control = directory, directory / "control.sock"


def run_storm(storm: Storm, root: Path) -> Report:
    """Run one storm below ``root``; whatever goes wrong is an AssertionError that says where to look."""
    root.mkdir(parents=True, exist_ok=True)
    with _kept(storm, root) as run:
        report = run.run()
        details = "\n".join([*report.faults[:20], *sorted(run.refusals)[:20]])
        assert not report.faults, f"{report}\n{details}"
    shutil.rmtree(root)
    return report


@contextmanager
def _kept(storm: Storm, root: Path) -> Iterator[_Run]:
    run = _Run(storm, root)
    try:
        yield run
    except AssertionError as error:
        raise AssertionError(
            f"{error}\nstill unsettled: {run.unsettled}\n{run.report}\n\n"
            f"again:  python -m tests.fault.config_storm --seed {storm.seed} --seconds {storm.seconds:g} "
            f"--managers {storm.managers} --nodes {storm.nodes} --committers {storm.committers}\n"
            f"kept:   {root}\nlogs:   {root}/fleet/*/*.log (START_S is {START_S:g} s)"
        ) from error


def main() -> int:
    """The command; exit 1 when anything is lost or mixed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--managers", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--committers", type=int, default=4)
    parser.add_argument("--settle-s", type=float, default=120.0)
    chosen = parser.parse_args()
    storm = Storm(
        chosen.seed, chosen.seconds, chosen.managers, chosen.nodes, chosen.committers, settle_s=chosen.settle_s
    )
    root = REPOSITORY / ".cache" / "storm" / f"config-{storm.seed}-{time.time_ns()}"
    print(f"seed {storm.seed} in {root}", flush=True)
    try:
        print(run_storm(storm, root), flush=True)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
