"""The configuration at work: how long from a commit to every node, at what price, against a `git pull` loop.

    python -m tests.bench.config [--nodes 200] [--files 5000] [--rounds 20] [--pull-rounds 3] [--part PART]… and more

Parts, each printed as it ends:

* fleet    one manager, NODES real replicas (attach link and configurer each) in PROCESSES processes (of less than
           200 each holds several, which wait for one another), FILES files in the repository. Each round commits one
           line; the clock stops when the manager has each node's report `applied` and the operator's `watch` shows it.
           Nodes, manager, committer and watcher share this machine. Between them, PULL_ROUNDS times, the same
           commit for as many clones of the same files, each asking `git pull` in a loop on all cores.
* commits  COMMITS commits one after the other, signed, from one eccfg client.
* away     what a node that was away for all these fetches: packs, bytes, seconds.
* large    a 10,000-file repository: bytes for a node after a one-line change, seconds for the first fetch.

Ratios and quantiles; nothing is asserted here.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from jlogd.runtime.rpc import open_channel
from managerd.eccfg.client import Client, Edit
from tests.support.daemon import until
from tests.support.fleet import REPOSITORY, Fleet, Manager
from tests.support.usage import usage

REGULAR = 0o100644
Arguments = argparse.Namespace


def tree(nodes: Sequence[str], files: int, *, seed: int = 7) -> list[Edit]:
    """A repository of ``files`` files: 60 global, 60 of the subcluster, up to 24 of each node, the rest elsewhere.

    So a node of 200 sees 144 files of 5,000, which is much for a configuration and little for a repository.
    """
    places = [f"global/d{number // 20}/g{number}.toml" for number in range(60)]
    places += [f"default/default/d{number // 20}/s{number}.toml" for number in range(60)]
    places += [f"default/{node}/d{number // 8}/n{number}.toml" for number in range(24) for node in nodes]
    places += [f"other/o{number % 100}/d{number % 7}/n{number}.toml" for number in range(files)]
    return _filled(places[:files], seed)


def large_tree(node: str, files: int, *, seed: int = 7) -> list[Edit]:
    """All of them are in the view of one node: a tenth global, a tenth of its subcluster."""
    tops = ["global", "default/default", *[f"default/{node}"] * 8]
    return _filled([f"{tops[number % 10]}/d{number // 500}/f{number}.toml" for number in range(files)], seed)


def _filled(paths: Sequence[str], seed: int) -> list[Edit]:
    rng = random.Random(seed)
    edits = []
    for number, path in enumerate(paths):
        lines = "".join(f"key{i} = {rng.randrange(10**9)}\n" for i in range(20))
        edits.append(Edit.put(path, REGULAR, f"# file {number}\nserial = 0\n{lines}".encode()))
    return edits


@contextlib.contextmanager
def client_of(fleet: Fleet, manager: Manager) -> Iterator[Client]:
    """An operator's client."""
    tls = fleet.operator("alice")
    with open_channel(manager.address, tls) as channel:
        yield Client(channel, manager.address, tls)


class Applied(threading.Thread):
    """Follows what the manager hears from its nodes: when each commit was applied where."""

    def __init__(self, fleet: Fleet, manager: Manager) -> None:
        super().__init__(daemon=True)
        self.at: dict[str, dict[str, float]] = {}  # commit id → node → monotonic seconds
        self._fleet, self._manager = fleet, manager
        self.listening = threading.Event()

    def run(self) -> None:
        with client_of(self._fleet, self._manager) as client, contextlib.suppress(Exception):
            for event in client.watch(state=True):
                self.listening.set()
                if event.WhichOneof("event") == "node" and event.node.state == "applied":
                    self.at.setdefault(event.node.id, {}).setdefault(event.node.name, time.monotonic())


def _all_there(seen: dict[str, dict[str, float]], commit: str, count: int) -> bool:
    return len(seen.get(commit, ())) == count


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile."""
    return sorted(values)[max(round(share * len(values)) - 1, 0)]


def show(part: str, **figures: object) -> None:
    """One line for people, and the same as JSON for scripts."""
    print(f"{part:8} " + "  ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    print(json.dumps({"part": part, **figures}), file=sys.stderr, flush=True)


# ---------------------------------------------------------------------- our fleet


def fleet_part(chosen: Arguments, root: Path) -> None:
    """See the module."""
    names = [f"n{number:04d}" for number in range(chosen.nodes)]
    with Fleet(root / "fleet") as fleet:
        manager = fleet.manager("m1", config='writer = "m1"\n')
        manager.start()
        manager.ready()
        with client_of(fleet, manager) as client:
            start = time.monotonic()
            _commit_all(client, tree(names, chosen.files))
            show("load", files=chosen.files, seconds=round(time.monotonic() - start, 2))
            pull = Pull(root / "git", names, chosen.files) if chosen.pull_rounds else None
            nodes = _start_nodes(chosen, root, manager, fleet, names)
            try:
                _measure(chosen, fleet, manager, client, names, nodes.pid, pull)
            finally:
                nodes.terminate()
                nodes.wait(60)


def _commit_all(client: Client, edits: Sequence[Edit]) -> None:
    for at in range(0, len(edits), 2000):
        answer = client.commit(edits[at : at + 2000], f"files {at}…")
        assert answer.revision.revision, answer


def _start_nodes(
    chosen: Arguments, root: Path, manager: Manager, fleet: Fleet, names: Sequence[str]
) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.bench.config_nodes", str(min(chosen.processes, len(names)))]
    argv += [str(root / "nodes"), manager.address, str(fleet.root / "pki"), *names]
    return subprocess.Popen(argv, cwd=REPOSITORY)


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _cpu_s(processes: Sequence[int]) -> float:
    return sum(usage(process).cpu_s for process in processes)


def _measure(
    chosen: Arguments,
    fleet: Fleet,
    manager: Manager,
    client: Client,
    names: Sequence[str],
    nodes: int,
    pull: "Pull | None",
) -> None:
    applied = Applied(fleet, manager)
    applied.start()
    head = client.status().head.id
    start = time.monotonic()
    until(partial(_all_there, applied.at, head, len(names)), 600, "every node has the first view", interval_s=0.2)
    show("first", nodes=len(names), seconds=round(time.monotonic() - start, 2))
    taken: list[float] = []
    last: list[float] = []
    processes = _children(nodes)
    manager_s = nodes_s = 0.0
    for number in range(chosen.rounds):
        if pull is not None and len(pull.rounds) * chosen.rounds < number * chosen.pull_rounds:
            pull.round()
        time.sleep(chosen.pause_s)
        before = _cpu_s([manager.pid]), _cpu_s(processes)
        start = time.monotonic()
        answer = client.commit([Edit.put("global/now.toml", REGULAR, f"round = {number}\n".encode())], "one line")
        commit = answer.revision.id
        until(partial(_all_there, applied.at, commit, len(names)), 60, "all applied", interval_s=0.01)
        manager_s += _cpu_s([manager.pid]) - before[0]
        nodes_s += _cpu_s(processes) - before[1]
        times = [at - start for at in applied.at[commit].values()]
        taken += times
        last.append(max(times))
    applies = chosen.rounds * len(names)
    show(
        "fleet",
        nodes=len(names),
        files=chosen.files,
        rounds=chosen.rounds,
        p50_s=round(quantile(taken, 0.5), 3),
        p99_s=round(quantile(taken, 0.99), 3),
        last_median_s=round(statistics.median(last), 3),
        last_max_s=round(max(last), 3),
        load=round(os.getloadavg()[0], 1),
        manager_cpu_ms_an_apply=round(1000 * manager_s / applies, 2),
        node_cpu_ms_an_apply=round(1000 * nodes_s / applies, 2),
    )
    if pull is not None:
        pull.show()


# ---------------------------------------------------------------------- git pull, in a loop


class Pull:
    """Clones of one bare repository, each pulled again and again by as many loops as there are cores."""

    def __init__(self, home: Path, names: Sequence[str], files: int) -> None:
        """The same files, a clone for each name."""
        self.rounds: list[list[float]] = []  # seconds from a commit to each clone
        self._home, self._names, self._files = home, names, files
        self._work = home / "work"
        self._seen: dict[str, dict[str, float]] = {}
        self._work.mkdir(parents=True)
        _git(self._work, "init", "-q", "-b", "main")
        for edit in tree(names, files):
            path = self._work / edit.message.put.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(edit.read() if edit.read else b"")
        _git(self._work, "add", "-A")
        _git(self._work, "commit", "-q", "-m", "files")
        _git(home, "clone", "-q", "--bare", "work", "bare.git")
        _git(self._work, "remote", "add", "origin", str(home / "bare.git"))
        for name in names:
            _git(home, "clone", "-q", f"file://{home / 'bare.git'}", name)

    def round(self) -> None:
        """The loops run for one whole turn before the commit, and until everybody has it."""
        over = threading.Event()
        cores = os.cpu_count() or 1
        loops = [threading.Thread(target=self._loop, args=(self._names[core::cores], over)) for core in range(cores)]
        for loop in loops:
            loop.start()
        try:
            head = _git(self._work, "rev-parse", "HEAD").strip()
            until(partial(_all_there, self._seen, head, len(self._names)), 300, "a turn of the loops", interval_s=0.02)
            (self._work / "global" / "now.toml").write_text(f"round = {len(self.rounds)}\n")
            _git(self._work, "add", "-A")
            start = time.monotonic()
            _git(self._work, "commit", "-q", "-m", "one line")
            _git(self._work, "push", "-q", "origin", "main")
            commit = _git(self._work, "rev-parse", "HEAD").strip()
            until(partial(_all_there, self._seen, commit, len(self._names)), 300, "all pulled", interval_s=0.02)
            self.rounds.append([at - start for at in self._seen[commit].values()])
        finally:
            over.set()
            for loop in loops:
                loop.join()

    def _loop(self, names: Sequence[str], over: threading.Event) -> None:
        while not over.is_set():
            for name in names:
                if over.is_set():
                    return
                _git(self._home / name, "pull", "-q", "--ff-only")
                commit = (self._home / name / ".git" / "refs" / "heads" / "main").read_text().strip()
                self._seen.setdefault(commit, {}).setdefault(name, time.monotonic())

    def show(self) -> None:
        """Its line."""
        taken = [seconds for times in self.rounds for seconds in times]
        show(
            "pull",
            nodes=len(self._names),
            files=self._files,
            rounds=len(self.rounds),
            p50_s=round(quantile(taken, 0.5), 3),
            p99_s=round(quantile(taken, 0.99), 3),
            note=f"loops without a pause on all {os.cpu_count()} cores",
        )


def _git(directory: Path, *words: str) -> str:
    environment = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        **{f"GIT_{who}_{what}": "bench@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(["git", *words], cwd=directory, capture_output=True, check=True, env=environment)
    return done.stdout.decode()


# ---------------------------------------------------------------------- commits, a node that was away, a large one


def commits_part(chosen: Arguments, root: Path) -> None:
    """Commits in a row, and then one node that had missed them all."""
    with Fleet(root / "commits") as fleet:
        manager = fleet.manager("m1", config='writer = "m1"\n')
        node = fleet.node("n0000", [], [manager], config="")
        fleet.start()
        with client_of(fleet, manager) as client:
            _commit_all(client, tree(["n0000"], chosen.files))
            until(lambda: _runs(client, "n0000"), 120, "the node has the first view")
            node.stop()
            start = time.monotonic()
            for number in range(chosen.commits):
                client.commit([Edit.put("global/now.toml", REGULAR, f"round = {number}\n".encode())], "one line")
            took_s = time.monotonic() - start
            show(
                "commits",
                commits=chosen.commits,
                files=chosen.files,
                a_minute=round(60 * chosen.commits / took_s),
                ms_each=round(1000 * took_s / chosen.commits, 1),
            )
            start = time.monotonic()
            node.start()
            until(lambda: _runs(client, "n0000"), 120, "the node has caught up", interval_s=0.02)
            seconds = time.monotonic() - start
        fetched = [line for line in node.log.read_text(errors="replace").splitlines() if "fetched" in line]
        show("away", revisions=chosen.commits, seconds_with_start=round(seconds, 2), fetches=fetched[-1:])


def large_part(chosen: Arguments, root: Path) -> None:
    """Ten thousand files, all of them one node's: the first fetch, and what a line costs after it."""
    with Fleet(root / "large") as fleet:
        manager = fleet.manager("m1", config='writer = "m1"\n')
        node = fleet.node("n0000", [], [manager], config="")
        fleet.start()
        with client_of(fleet, manager) as client:
            _commit_all(client, large_tree("n0000", 10_000))
            start = time.monotonic()
            until(lambda: _runs(client, "n0000"), 300, "the node has the view", interval_s=0.05)
            first_s = time.monotonic() - start
            start = time.monotonic()
            client.commit([Edit.put("global/d0/g0.toml", REGULAR, b"serial = 1\n")], "one line")
            until(lambda: _runs(client, "n0000"), 60, "the node has the line", interval_s=0.01)
            second_s = time.monotonic() - start
        fetched = [line for line in node.log.read_text(errors="replace").splitlines() if "fetched" in line]
        show(
            "large",
            files=10_000,
            rest_of_first_s=round(first_s, 2),
            one_line_s=round(second_s, 3),
            fetches=fetched[-1:],
        )
    del chosen


def _runs(client: Client, name: str) -> bool:
    answer = client.nodes()
    return any(node.name == name and node.state == "applied" and node.id == answer.head.id for node in answer.nodes)


PARTS = {"fleet": fleet_part, "commits": commits_part, "large": large_part}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--pull-rounds", type=int, default=3)
    parser.add_argument("--pause-s", type=float, default=5.0)
    parser.add_argument("--part", action="append", choices=sorted(PARTS))
    chosen = parser.parse_args()
    work = Path(os.environ.get("BENCH_WORK", REPOSITORY / ".cache" / "bench"))
    root = work / f"config-{time.time_ns()}"
    try:
        for part in chosen.part or PARTS:
            PARTS[part](chosen, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
