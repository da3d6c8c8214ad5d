"""What a person reads when something is in the way, of real daemons: what happened, and what to do next."""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Result, run_command, until
from tests.support.fleet import ECCFG, REPOSITORY, Fleet, Manager, free_port

DEADLINE_S = 30.0
POLICY = '[[require]]\npaths = ["web/**"]\nstages = ["1", "100%"]\nhold = "10m"\n'
RAW = ("UNKNOWN", "ipv4", "ipv6", "last error", "failed to connect", "Socket closed", "StatusCode", "Traceback")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One manager with an empty repository and one node. The tests stand in the order of a first day."""
    with Fleet(tmp_path_factory.mktemp("one")) as made:
        m1 = made.manager("m1", config='writer = "m1"\n')
        made.node("web1", [], [m1], subcluster="web", config="")
        made.start()
        yield made


def test_a_refused_bootstrap_remembers_nothing(fleet: Fleet) -> None:
    """What is remembered is a connection to a repository."""
    first = fleet.root / "first"
    for path, text in {"global/rollout.toml": POLICY, "web/default/app.toml": "a =\n"}.items():
        (first / path).parent.mkdir(parents=True, exist_ok=True)
        (first / path).write_text(text)
    refused = fleet.eccfg("bootstrap", "--from", first)
    assert (refused.code, "web/default/app.toml:1: " in refused.err) == (6, True)
    assert not (fleet.root / "xdg").exists()
    (first / "web/default/app.toml").write_text("a = 1\n")
    done = fleet.eccfg("bootstrap", "--from", first)
    assert done.code == 0, done.err
    assert "alice.key" in (fleet.root / "xdg/eccfg.toml").read_text()
    until((fleet.nodes["web1"].view / "app.toml").exists, DEADLINE_S, "web1 runs r1")


def test_put_running_is_the_nodes_own(fleet: Fleet) -> None:
    """Although who runs it has an eccfg.toml and stands in a working copy."""
    assert fleet.eccfg("clone", "copy").code == 0
    argv = [*ECCFG, "put-running", "-c", str(fleet.nodes["web1"].settings), "-m", "As it runs"]
    environment = {"PYTHONPATH": str(REPOSITORY), "XDG_CONFIG_HOME": str(fleet.root / "xdg")}
    done = run_command(argv, cwd=fleet.root / "copy", environment=environment)
    assert done.code == 0, done.err
    [newest] = fleet.eccfg("log", "-n", "1", "--json").json()["revisions"]
    assert (newest["author"], newest["paths"][0].startswith("running/web1/")) == ("node:web1", True)
    cert = ["--cert", str(fleet.operator("alice").cert), "--key", str(fleet.operator("alice").key)]
    (fleet.nodes["web1"].view / "app.toml").write_text("a = 2\n")
    done = run_command([*ECCFG, *cert, *argv[len(ECCFG) :]], cwd=fleet.root, environment=environment)
    assert done.code == 0, done.err
    assert fleet.eccfg("log", "-n", "1", "--json").json()["revisions"][0]["author"] == "operator:alice"


def test_a_fifo_is_named(fleet: Fleet) -> None:
    copy = fleet.root / "copy"
    assert fleet.eccfg("pull", directory=copy).code == 0
    os.mkfifo(copy / "web/default/pipe")
    assert b"  special     web/default/pipe (a FIFO)\n" in fleet.eccfg("status", directory=copy).out
    refused = fleet.eccfg("commit", "--all", "-m", "All", directory=copy)
    assert refused.code == 6
    assert "web/default/pipe is a FIFO: only regular files, directories and symlinks can be committed" in refused.err
    (copy / "web/default/pipe").unlink()


def test_a_held_revision_says_what_goes_on(fleet: Fleet) -> None:
    """By itself, and on top of it another one."""
    copy = fleet.root / "copy"
    (copy / "web/default/app.toml").write_text("a = 3\n")
    assert fleet.eccfg("commit", "-m", "Asks for a rollout", directory=copy).code == 0
    (copy / "global/motd").write_text("hello\n")
    done = fleet.eccfg("commit", "--all", "-m", "On top of it", directory=copy)
    assert done.code == 0, done.err
    head = done.out.decode().split()[0]
    start = f"'eccfg rollout start {head}' begins it"
    late = fleet.eccfg("wait", head, "--timeout", "1s", directory=copy)
    assert late.code == 7
    for said in (fleet.eccfg("status", directory=copy).out.decode(), late.err):
        assert f"{head} is held back, nodes are told to run r" in said
        assert start in said
    assert fleet.eccfg("rollout", "start", head).code == 0
    waited = fleet.eccfg("wait", head, "--timeout", "20s", directory=copy)
    assert (waited.code, "held" in waited.err) == (0, False)
    assert "held" not in fleet.eccfg("status", directory=copy).out.decode()


def test_an_older_history_was_restored(fleet: Fleet) -> None:
    """Each command says so, and a clone goes on."""
    m1, copy = fleet.managers["m1"], fleet.root / "copy"
    m1.stop()
    shutil.copytree(m1.repository, fleet.root / "backup")
    m1.start()
    m1.ready()
    (copy / "global/motd").write_text("lost\n")
    assert fleet.eccfg("commit", "-m", "After the backup", directory=copy).code == 0
    m1.stop()
    shutil.rmtree(m1.repository)
    (fleet.root / "backup").rename(m1.repository)
    m1.start()
    m1.ready()
    (copy / "global/motd").write_text("mine\n")
    base = fleet.eccfg("status", "--json", directory=copy).json()
    says = f"the manager is at r{base['head']} and does not have r{base['revision']} {base['id'][:8]}"
    assert says in fleet.eccfg("status", directory=copy).out.decode()
    for words in (["pull"], ["commit", "-m", "m"], ["check"], ["diff", "HEAD"]):
        refused = fleet.eccfg(*words, directory=copy)
        assert (refused.code, says in refused.err, "'eccfg clone' anew" in refused.err) == (6, True, True), refused
        assert len(refused.err.splitlines()) == 1
    assert fleet.eccfg("clone", "anew").code == 0


# ---------------------------------------------------------------------- managers that go away


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """m1 writes, m2 passes on; a third, which every revision waits for, never runs. At r1."""
    with Fleet(tmp_path_factory.mktemp("pair")) as made:
        ports = [free_port() for _ in range(3)]
        for at, name in enumerate(("m1", "m2")):
            others = ", ".join(f'"127.0.0.1:{port}"' for port in ports if port != ports[at])
            config = f'writer = "m1"\npeers = [{others}]\nreplicas_min = 3\npush_timeout = "5s"\n'
            made.manager(name, port=ports[at], config=config)
        made.start()
        with committing(made, made.managers["m1"], "bootstrap") as answer:
            until(lambda: head(made.managers["m2"]) != "", DEADLINE_S, "r1 is on both")
        assert answer[0].code == 7, answer
        yield made


@contextlib.contextmanager
def committing(fleet: Fleet, at: Manager, *words: str) -> Iterator[list[Result]]:
    """An eccfg that waits for its answer in the block; after it the answer is there."""
    answer: list[Result] = []
    thread = threading.Thread(target=lambda: answer.append(fleet.eccfg(*words, manager=at, stdin=b"x\n")))
    thread.start()
    try:
        yield answer
    finally:
        thread.join(DEADLINE_S * 2)


def head(manager: Manager) -> str:
    """The id of its newest revision."""
    argv = ["git", "-c", "safe.directory=*", "-C", str(manager.repository), "rev-parse", "--verify", "-q", "main"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout.strip()


@pytest.mark.parametrize("asked", ["m1", "m2"])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_a_writer_that_is_killed_over_a_commit(pair: Fleet, asked: str, *, signed: bool) -> None:
    """It is stored, and nobody heard of it: the error says that this is not known, and what tells."""
    m1, before = pair.managers["m1"], head(pair.managers["m1"])
    words = ["put", "-", f"global/{asked}{signed}", "-m", f"Was it stored? {asked} {signed}"]
    with committing(pair, pair.managers[asked], *words, *([] if signed else ["--no-sign"])) as answer:
        until(lambda: head(m1) != before, DEADLINE_S, "the writer has stored it")
        m1.kill()
    [said] = answer
    assert (said.code, said.out) == (1, b""), said
    assert said.err.startswith("error: whether "), said
    assert "is not known, 'eccfg log -n 3' shows it if it was: " in said.err
    assert len(said.err.splitlines()) == 1
    assert not [raw for raw in RAW if raw in said.err], said
    m1.start()
    m1.ready()
    assert words[-1] in pair.eccfg("log", "-n", "3").out.decode()


def test_managers_that_are_away_are_told_of_in_plain_words(pair: Fleet, tmp_path: Path) -> None:
    """By themselves, as peers in ``status``, and as the writer behind another manager."""
    m1, m2, copy = pair.managers["m1"], pair.managers["m2"], tmp_path / "copy"
    assert pair.eccfg("clone", copy).code == 0
    shown = pair.eccfg("status", directory=copy)
    assert b"unreachable: manager at 127.0.0.1:" in shown.out
    assert b"cannot be reached: it refuses connections, nothing listens there\n" in shown.out
    said = [shown.out.decode()]
    m1.kill()
    for at, words in ((m1, ["log"]), (m1, ["pull"]), (m2, ["put", "-", "global/x", "-m", "m"])):
        refused = pair.eccfg(*words, manager=at, directory=copy, stdin=b"x\n")
        assert refused.code == 1
        assert len(refused.err.splitlines()) == 1
        assert refused.err.endswith("(the address is from --manager)\n") == (at is m1), refused.err
        said.append(refused.err)
    m2.kill()
    said.append(pair.eccfg("status", manager=m2, directory=copy).out.decode())
    for text in said:
        assert not [raw for raw in RAW if raw in text], text
