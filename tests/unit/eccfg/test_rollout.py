"""``eccfg rollout`` against a real ConfigService in this process."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jlogd.confrepo.model import File
from jlogd.runtime.clock import ManualClock
from managerd.eccfg.cli import cli
from managerd.eccfg.commands import rollout as command
from managerd.v1 import config_pb2 as pb
from tests.support.commandline import Outcome, runner
from tests.support.config_service import Hosted, report

Eccfg = Callable[..., Outcome]
POLICY = '[[require]]\npaths = ["web/**"]\nstages = ["1", "100%"]\nhold = "90s"\n'
NODES = ("web1", "web2", "web3", "web4")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def hosted(tmp_path: Path, clock: ManualClock) -> Iterator[Hosted]:
    """At r1, which asks for rollouts of web."""
    with Hosted(tmp_path / "m1", clock=clock) as made:
        made.commit({"global/rollout.toml": POLICY, "web/default/x": "1", "global/ok": File(b"#!/bin/sh\n", 0o100755)})
        made.do(made.served.settled(1))
        yield made


@pytest.fixture
def eccfg(
    hosted: Hosted, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Eccfg:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    run = runner(cli, capfdbinary)
    return lambda *words: run("--insecure", "--manager", hosted.served.address, *words)


@pytest.fixture
def held(hosted: Hosted, eccfg: Eccfg, tmp_path: Path) -> None:
    """r2 is held back; four nodes are attached."""
    (tmp_path / "x").write_text("2")
    done = eccfg("put", tmp_path / "x", "web/default/x", "-m", "two")
    assert done.code == 0, done.err
    assert "eccfg rollout start r2" in done.err
    for node in NODES:
        hosted.node(node)


def said(hosted: Hosted, node: str, state: str = "applied", error: str = "") -> None:
    """``node`` says that of r2."""

    async def target() -> str:
        async with asyncio.timeout(10):  # what nodes are told follows the rollout's commit a moment later
            while (found := hosted.served.parts.targets.target(node, "web")) is None or found.revision != 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return found.id

    hosted.node(node, report(2, state, commit_id=hosted.do(target()), error=error, serial=100))


def looked(hosted: Hosted) -> None:
    """The conductor saw everything that was said."""
    hosted.do(hosted.served.parts.conductor.look())


def test_none_yet(eccfg: Eccfg) -> None:
    """Not an error: there is just nothing to show."""
    done = eccfg("rollout", "status")
    assert (done.code, done.out, done.err) == (0, b"", "there was no rollout yet: eccfg rollout start REV begins one\n")
    assert json.loads(eccfg("rollout", "status", "--json").out) == {"schema": 1, "rollout": None}


@pytest.mark.usefixtures("held")
def test_a_rollout_from_the_command_line(hosted: Hosted, eccfg: Eccfg, clock: ManualClock) -> None:
    """Start, see the stages and groups, and how long the stage still holds; for scripts as well."""
    done = eccfg("rollout", "start", "r2", "--health", "ok --port '8 0'")
    assert done.code == 0, done.err
    shown = json.loads(eccfg("rollout", "status", "--json").out)["rollout"]
    (canary,) = shown["released"]
    assert done.out.decode().splitlines() == [
        "rollout 1: r2 on top of r1, running; by operator:local, hold 90s, at most 0 may fail, health ok --port '8 0'",
        "",
        "stage  nodes  state",
        "1      1      waits for its nodes",
        "100%   all    to come",
        "",
        "nodes are         count  names",
        "applied               0  -",
        f"pending               1  {canary}",
        "offline               0  -",
        "failed                0  -",
        "not yet released      3  -",
    ]
    said(hosted, canary)
    looked(hosted)
    clock.advance(30)
    looked(hosted)
    assert "1      1      holds for 1m more" in eccfg("rollout", "status").out.decode().splitlines()
    shown = json.loads(eccfg("rollout", "status", "--json").out)["rollout"]
    assert (shown["hold_left_s"], shown["applied"], shown["counts"], shown["health"]) == (
        60, [canary], [1, None], ["ok", "--port", "8 0"],
    )  # fmt: skip
    assert "paused (paused by operator:local)" in eccfg("rollout", "pause").out.decode()
    assert "1      1      paused" in eccfg("rollout", "status").out.decode()
    assert "running" in eccfg("rollout", "resume").out.decode()
    done = eccfg("rollout", "abort")
    assert "aborted (aborted by operator:local)" in done.out.decode()
    assert "1      1      ended here" in done.out.decode()
    assert "100%   all    never begun" in done.out.decode()


@pytest.mark.usefixtures("held")
def test_failures_are_named_with_their_reason(hosted: Hosted, eccfg: Eccfg, clock: ManualClock) -> None:
    """One line a node, below the tables."""
    eccfg("rollout", "start", "r2", "--stages", "100%", "--max-failed", "2", "--hold", "10m")
    for node in NODES[:2]:
        said(hosted, node, "rolled_back", "no answer\x1b on port 80")
    clock.advance(1)  # a state a second at most
    looked(hosted)
    done = eccfg("rollout", "status")
    assert "web1 failed: no answer\\x1b on port 80" in done.out.decode()
    assert json.loads(eccfg("rollout", "status", "--json").out)["rollout"]["errors"] == [
        {"node": node, "error": "no answer\x1b on port 80"} for node in NODES[:2]
    ]
    said(hosted, "web3", "refused", "disk full")
    looked(hosted)
    done = eccfg("rollout", "status")
    assert "failed (3 failed, at most 2 may; first web1: no answer" in done.out.decode()


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("start", "r1"), 6, "all nodes run r1 or get it"),
        (("start", "r9"), 6, "r9"),
        (("start", "r2", "--stages", "50%,10%"), 2, "stage 10% does not release more than 50%"),
        (("start", "r2", "--stages", "1,,100%"), 2, "--stages has an empty stage"),
        (("start", "r2", "--hold", "soon"), 2, "'soon' is not a duration"),
        (("start", "r2", "--health", "'x"), 2, "no command line"),
        (("start", "r2", "--health", "../x"), 2, "not a path in the view"),
        (("start", "r2", "--health", "absent"), 6, "r2 has no absent in the view of node web1"),
        (("start",), 2, "Missing argument"),
        (("pause",), 6, "no rollout"),
    ],
)
def test_what_is_refused(eccfg: Eccfg, words: tuple[str, ...], code: int, message: str) -> None:
    """With the exit code of its kind, and one line."""
    done = eccfg("rollout", *words)
    assert (done.code, done.out) == (code, b"")
    assert message in done.err


def test_long_groups_are_cut_in_the_table_and_whole_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten thousand names fit no terminal."""
    names = [f"node{number:05}" for number in range(10_000)]
    state = pb.RolloutState(
        number=1, state="running", revision=2, baseline=1, stages=["100%"], counts=[0], hold_ms=1000, nodes=10_000,
        released=names, applied=names[:9000], failed=names[9000:9500], errors=["no"] * 500,
    )  # fmt: skip
    command.show(state)
    shown = capsys.readouterr().out
    assert "and 8990 more" in shown
    assert "… and 490 more: eccfg rollout status --json" in shown
    assert max(map(len, shown.splitlines())) < 160
    assert len(command.document(state)["pending"]) == 500
