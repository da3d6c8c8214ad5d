"""What ``eccfg status``, ``nodes`` and ``wait`` say of a revision that is held back: by what, and what goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jlogd.runtime.clock import ManualClock
from managerd.eccfg.cli import cli
from managerd.eccfg.held import reason
from managerd.v1 import config_pb2 as pb
from tests.support.commandline import Outcome, runner
from tests.support.config_service import Hosted, report

Eccfg = Callable[..., Outcome]
POLICY = '[[require]]\npaths = ["web/**"]\nstages = ["1", "100%"]\nhold = "90s"\n'
BEGINS = "r3 is held back, nodes are told to run r1: "
START, REVERT = "'eccfg rollout start r3'", "'eccfg revert r2 -m MSG' undoes what was held first"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def hosted(tmp_path: Path, clock: ManualClock) -> Iterator[Hosted]:
    """At r1, which asks for rollouts of web; two nodes run it."""
    with Hosted(tmp_path / "m1", clock=clock) as made:
        first = made.commit({"global/rollout.toml": POLICY, "web/default/x": "1"})
        made.do(made.served.settled(1))
        for node in ("web1", "web2"):
            made.node(node, report(1, commit_id=first.id))
        yield made


@pytest.fixture
def eccfg(
    hosted: Hosted, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Eccfg:
    """In a working copy that is up to date."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    run = runner(cli, capfdbinary)

    def eccfg(*words: object, at: Path = tmp_path / "copy") -> Outcome:
        return run("--insecure", "--manager", hosted.served.address, "-C", at, *words)

    assert eccfg("clone", "copy", at=tmp_path).code == 0
    return eccfg


@pytest.fixture
def commit(eccfg: Eccfg, tmp_path: Path) -> Callable[[str, str], None]:
    """``commit(path, text)``."""

    def commit(path: str, text: str) -> None:
        (tmp_path / "text").write_text(text)
        done = eccfg("put", tmp_path / "text", path, "-m", text)
        assert done.code == 0, done.err

    return commit


def told(eccfg: Eccfg) -> str:
    """What all three say, which is the same."""
    held = eccfg("status", "--json").json()["held"]
    waited = eccfg("wait", "HEAD", "--timeout", "0.2s")
    assert waited.code == 7
    late = "did not get to r3 within 0.2s"
    assert f"note: {held}\n" in waited.err
    assert f"{late}: {held}\n" in waited.err
    assert f"\n{held}\n" in eccfg("status").out.decode()
    assert f"note: {held}\n" in eccfg("nodes").err
    quiet = eccfg("wait", "HEAD", "--timeout", "0.2s", "--json")
    assert quiet.err.startswith("{"), quiet.err
    assert late in quiet.err
    assert isinstance(held, str)
    return held


def test_what_is_held_and_what_goes_on(
    hosted: Hosted, eccfg: Eccfg, commit: Callable[[str, str], None], clock: ManualClock
) -> None:
    """From the commit that asks for a rollout, over a rollout that runs, pauses and is aborted, to the end."""
    commit("web/default/x", "2")
    commit("global/other", "on top of it")
    assert told(eccfg) == f"{BEGINS}global/rollout.toml asks for a rollout; {START} begins it, {REVERT}"
    assert eccfg("rollout", "start", "r2").code == 0
    begins = "r3 is held back, nodes are told to run r1 or r2: rollout 1 of r2 is"
    waits = "(stage 1 of 2), and r3 waits until it is over"
    goes_on = "it goes on by itself, 'eccfg rollout status' shows how far"
    assert told(eccfg) == f"{begins} running {waits}; {goes_on}"
    assert eccfg("rollout", "pause").code == 0
    assert told(eccfg).startswith(f"{begins} paused {waits}; 'eccfg rollout resume' goes on, ")
    assert eccfg("rollout", "abort").code == 0
    aborted = f"{BEGINS}rollout 1 of r2 aborted (aborted by operator:local); {START} tries again, {REVERT}"
    assert told(eccfg) == aborted
    assert eccfg("rollout", "start", "r3", "--stages", "100%").code == 0
    clock.advance(2)
    hosted.do(hosted.served.parts.conductor.look())
    assert eccfg("status", "--json").json()["held"] is None
    assert "held back" not in eccfg("status").out.decode() + eccfg("nodes").err


def test_nothing_is_held(eccfg: Eccfg, commit: Callable[[str, str], None]) -> None:
    """A revision that nodes are told to run is not held back from them because they do not run it yet."""
    commit("global/other", "2")
    assert eccfg("status", "--json").json()["held"] is None
    assert b"held" not in eccfg("status").out
    assert "held" not in eccfg("nodes").err
    waited = eccfg("wait", "HEAD", "--timeout", "0.2s")
    assert (waited.code, waited.err) == (
        7, "error: web1, web2 did not get to r2 within 0.2s: see 'eccfg nodes'\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"state": "failed", "revision": 3, "reason": "2 failed"}, f"rollout 4 of r3 failed (2 failed); {START} tries"),
        (
            {"state": "running", "revision": 3, "stages": ["1", "100%"], "stage": 1},
            "is running (stage 2 of 2); it goes",
        ),
        ({"state": "done", "revision": 1}, f"asks for a rollout; {START} begins it"),
        ({"state": "failed", "revision": 1}, f"asks for a rollout; {START} begins it"),
    ],
)
def test_a_rollout_that_is_over_for_older_revisions_says_nothing_of_this_one(
    state: dict[str, object], says: str
) -> None:
    rollout = pb.RolloutState(number=4, baseline=1, **state)  # type: ignore[arg-type]
    assert says in reason(3, [1], rollout)
