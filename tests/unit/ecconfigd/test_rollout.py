"""Rollouts, the pure part: golden runs and their interruptions, boundaries, the document, stages, the policy."""

from dataclasses import replace
from pathlib import Path

import pytest

from jlogd.confrepo.model import Serial
from jlogd.runtime.errors import DamageError, FormatError, UsageError
from managerd.ecconfigd import rollout as core
from managerd.ecconfigd.rollout import Document, Held, Policy, Requirement, Rollout, check_stages, parse_policy
from managerd.ecconfigd.rollout.machine import rank
from managerd.ecconfigd.rollout.stages import node_counts
from tests.unit.ecconfigd.rollouts.world import Interrupted, World, point, run, runs, script


@pytest.mark.parametrize("path", runs(), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    """The core says what the run says; ``python -m tests.unit.ecconfigd.rollouts.world`` rewrites it on purpose."""
    assert run(path.read_text()) == path.read_text()


def end_of(world: World) -> tuple[str, int, dict[str, int]]:
    """What matters when everything is over: how it ended, and who should run what."""
    world.finish()
    rollout = world.document.rollout
    return rollout.state if rollout else "", world.baseline, {name: world.target(name) for name in world.all}


def play(text: str, budget: int) -> tuple[World, bool]:
    """The whole run; the manager dies after ``budget`` events and comes back, and people ask again."""
    world = World(budget)
    died = False
    for line in script(text):
        if not line.startswith("> "):
            continue
        try:
            world.command(line[2:].split())
        except Interrupted:
            died = True
            world.restart()
            world.command(line[2:].split())
    return world, died


@pytest.mark.parametrize("path", runs(), ids=lambda path: path.stem)
def test_every_interrupted_prefix(path: Path) -> None:
    """Whenever the manager dies, before each report and before each write: the end is the same."""
    text = path.read_text()
    expected = end_of(play(text, 1_000_000)[0])
    for budget in range(1000):
        world, died = play(text, budget)
        if not died:
            break
        assert end_of(world) == expected, f"dies after event {budget}"
    else:
        raise AssertionError("the run never ends")


def fleet_of(count: int, doomed: tuple[str, ...] = ()) -> World:
    world = World()
    world.command(["nodes", str(count)])
    for name in doomed:
        world.command(["doom", name, "no"])
    return world


def rollout_of(world: World) -> Rollout:
    assert world.document.rollout is not None
    return world.document.rollout


@pytest.mark.parametrize("stage", range(4))
def test_a_node_fails_in_its_stage_and_no_further_one_gets_it(stage: int) -> None:
    """Fifty nodes: whichever stage the bad node is in, only the nodes up to that stage ever had the revision."""
    order = sorted((f"n{number:02}" for number in range(1, 51)), key=lambda name: rank(1, name))
    ends = [1, 5, 25, 50]
    bad = order[ends[stage] - 1]
    world = fleet_of(50, (bad,))
    world.command(["start", "1,10%,50%,100%", "hold=10"])
    world.finish()
    assert rollout_of(world).state == "failed"
    assert list(rollout_of(world).failed) == [bad]
    assert world.had == set(order[: ends[stage]])
    assert all(node.running == 1 for node in world.all.values()), "everybody went back"
    assert world.baseline == 1
    assert world.document.held is not None, "and the revision stays held back"


@pytest.mark.parametrize(
    ("max_failed", "bad", "state"), [(0, 0, "done"), (0, 1, "failed"), (2, 2, "done"), (2, 3, "failed")]
)
def test_max_failed_is_how_many_may_fail(max_failed: int, bad: int, state: str) -> None:
    """As many as ``max_failed`` are suffered, one more ends it."""
    world = fleet_of(9, tuple(f"n{number:02}" for number in range(1, bad + 1)))
    world.command(["start", "3,100%", "hold=5", f"max_failed={max_failed}"])
    world.finish()
    assert rollout_of(world).state == state
    assert len(rollout_of(world).failed) == bad
    running = {name for name, node in world.all.items() if node.running == 2}
    assert len(running) == (9 - bad if state == "done" else 0)


def test_a_stage_that_lost_its_only_node_waits_for_one_that_is_well() -> None:
    """A tolerated failure proves nothing: somebody must have taken the revision before more do."""
    first = min((f"n{number:02}" for number in range(1, 5)), key=lambda name: rank(1, name))
    world = fleet_of(4, (first,))
    world.command(["start", "1,100%", "hold=10", "max_failed=1"])
    world.command(["obey"])
    assert rollout_of(world).stage == 0
    assert len(rollout_of(world).released - {first}) == 1
    world.command(["wait", "9"])
    assert rollout_of(world).stage == 0


def test_an_old_failure_of_the_same_revision_does_not_count() -> None:
    """A node reports again what it went back from in an earlier rollout: that is under a lower serial."""
    world = fleet_of(2, ("n01", "n02"))
    world.command(["start", "100%", "hold=10"])
    world.finish()
    assert rollout_of(world).state == "failed"
    for node in world.all.values():
        node.doomed = ""
    old = {name: node.report for name, node in world.all.items()}
    world.command(["start", "100%", "hold=10"])
    for name, report in old.items():
        assert report is not None
        world.fleet.reported(name, replace(report, state="rolled_back", id=point(2).id), world.now_s)
    world.look()
    assert rollout_of(world).state == "running"
    world.finish()
    assert rollout_of(world).state == "done"


def test_what_a_node_said_before_it_came_back_does_not_count() -> None:
    """It may run something else by now; its new session says."""
    world = fleet_of(1)
    world.command(["start", "100%", "hold=10"])
    world.command(["obey"])
    world.fleet.detached("n01", world.now_s)
    world.fleet.attached("n01", world.now_s)
    world.clock.advance(11)
    world.look()
    assert rollout_of(world).state == "running"


def test_each_rollout_begins_with_other_nodes() -> None:
    """No node is everybody's test rig for ever."""
    names = [f"n{number:02}" for number in range(100)]
    firsts = {min(names, key=lambda name: rank(number, name)) for number in range(1, 31)}
    assert len(firsts) > 20


def test_status_shows_who_is_where() -> None:
    """Released, applied, failed, offline; and how long the stage still holds, once all are well."""
    world = fleet_of(4, ("n03",))
    world.command(["start", "3,100%", "hold=60", "max_failed=4"])
    released = sorted(rollout_of(world).released)
    status = core.describe(rollout_of(world), world.fleet, world.now_s)
    assert (status.released, status.applied, status.nodes) == (tuple(released), (), 4)
    assert status.hold_left_s is None
    world.command(["obey"])
    world.command(["wait", "20"])
    status = core.describe(rollout_of(world), world.fleet, world.now_s)
    assert set(status.applied) == {"n01", "n02", "n04"} & rollout_of(world).released
    assert status.hold_left_s is not None
    assert 35 <= status.hold_left_s <= 45
    assert status.errors == ("no",) * len(status.failed)
    world.command(["offline", "n01", "n02", "n04"])
    status = core.describe(rollout_of(world), world.fleet, world.now_s)
    assert set(status.offline) == {"n01", "n02", "n04"} & rollout_of(world).released
    assert status.hold_left_s is None


# ---------------------------------------------------------------------- the document


def big_document() -> Document:
    names = [f"{number:05}" + "x" * 58 for number in range(10_000)]
    rollout = Rollout(
        number=1, state="running", target=point(2), baseline=point(1), stages=("100%",), counts=(None,), hold_s=1.5,
        health=("bin/ok", "-q"), max_failed=10_000, author="operator:alice", serial=Serial(7), since_ns=5,
        released=frozenset(names),
        failed={name: "w" * 200 if number < 100 else "" for number, name in enumerate(names[:5000])},
    )  # fmt: skip
    return Document(Held(point(2), point(1), ("web/**",), point(3)), rollout)


def test_ten_thousand_nodes_fit_into_a_mebibyte() -> None:
    """Names as long as they may be, half of them failed; and it is read back as it was."""
    content = core.to_bytes(big_document())
    assert len(content) < 1 << 20
    assert core.from_bytes(content) == big_document()
    assert core.to_bytes(core.from_bytes(content)) == content


def test_reasons_are_kept_for_the_first_who_fail() -> None:
    """However many fail, with however much to say."""
    world = World()
    world.command(["nodes", "300"])
    for name in world.all:
        world.command(["doom", name, "y" * 1900])
    world.command(["start", "100%", "max_failed=1000"])
    world.command(["obey"])
    assert len(rollout_of(world).failed) == 300
    assert len(core.to_bytes(world.document)) < 50_000


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"7", b"\xff", b'{"schema": 1}', b'{"schema": 1, "held": 7, "rollout": null}',
        b'{"schema": 1, "held": {"first": {"revision": -1, "id": "x"}}, "rollout": null}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_bad_bytes_are_damage(content: bytes) -> None:
    """One line that names the file; nothing is guessed."""
    with pytest.raises(DamageError, match=r"rollout\.json"):
        core.from_bytes(content)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"running"', b'"walking"'),
        (b'"stage": 0', b'"stage": 3'),
        (b'"number": 1', b'"number": true'),
        (b'"hold_s": 1.5', b'"hold_s": null'),
        (b'"patterns": [', b'"patterns": [7, '),
        (b'"released": [', b'"released": "x", "rest": ['),
        (b'"id": "0', b'"id": "z'),
    ],
)
def test_values_that_do_not_belong_there_are_damage(old: bytes, new: bytes) -> None:
    """No other type comes in, and no stage that there is not."""
    whole = big_document()
    assert whole.rollout is not None
    content = core.to_bytes(replace(whole, rollout=replace(whole.rollout, released=frozenset({"a"}), failed={})))
    assert old in content
    core.from_bytes(content)
    with pytest.raises(DamageError):
        core.from_bytes(content.replace(old, new, 1))


def test_a_newer_schema_is_named() -> None:
    """A manager that was not upgraded says so, and does not guess."""
    with pytest.raises(FormatError, match="schema 2, this version knows 1: upgrade"):
        core.from_bytes(b'{"schema": 2}')


def test_a_document_that_does_not_fit_the_main_line_does_not_count() -> None:
    """The process died after it wrote the hold and before main moved; another commit took the number."""
    document = Document(Held(point(2), point(1), ("web/**",)))
    ids = {point(1).revision: point(1).id, point(2).revision: point(5).id}
    assert document.in_force(ids.get, point(2).revision) is None
    ids[point(2).revision] = point(2).id
    assert document.in_force(ids.get, point(2).revision) == document.held


# ---------------------------------------------------------------------- stages


@pytest.mark.parametrize(
    ("stages", "nodes", "counts"),
    [
        (("1", "10%", "50%", "100%"), 50, (1, 5, 25, None)),
        (("1", "10%", "100%"), 3, (1, 1, None)),
        (("0.1%",), 50, (1, None)),
        (("10%",), 11, (2, None)),
        (("5", "10%"), 10, (5, 5, None)),
        (("100%",), 0, (None,)),
        ((), 5, (None,)),
    ],
)
def test_stages_become_numbers(stages: tuple[str, ...], nodes: int, counts: tuple[int | None, ...]) -> None:
    """At least one node, rounded up, never fewer than before, everyone at the end."""
    assert node_counts(check_stages(stages), nodes) == counts


NO_STAGES = [
    ("0",), ("x",), ("101%",), ("50%", "10%"), ("5", "5"), ("100%", "7"), ("-1",), ("0%",), ("1e3",), ("",),
    ("1",) * 101,
]  # fmt: skip


@pytest.mark.parametrize("stages", NO_STAGES)
def test_stages_that_are_none(stages: tuple[str, ...]) -> None:
    """Each is refused with the word that is wrong."""
    with pytest.raises(UsageError, match="stage"):
        check_stages(stages)


# ---------------------------------------------------------------------- the policy

GOOD = b"""
[[require]]
paths = ["web/**", "global/nginx/*.conf"]
stages = ["1", "50%"]
hold = "2m"
health = ["bin/ok", "-q"]
max_failed = 3

[[require]]
paths = ["**/firewall.toml"]
"""


def test_a_policy_names_the_patterns_that_ask() -> None:
    """Only those that match; also of an older hold."""
    policy, faults = parse_policy(GOOD)
    assert faults == []
    assert policy.required(["db/default/my.cnf", "global/nginx/a/b.conf"]) == ()
    assert policy.required(["web/web1/x"]) == ("web/**",)
    assert policy.required(["global/nginx/a.conf", "db/db1/firewall.toml"]) == (
        "**/firewall.toml",
        "global/nginx/*.conf",
    )
    assert policy.required(["db/db1/x"], ["db/**"]) == ("db/**",)
    assert policy.defaults(["web/**"]) == Requirement(
        ("web/**", "global/nginx/*.conf"), ("1", "50%", "100%"), 120.0, ("bin/ok", "-q"), 3
    )
    assert policy.defaults(["**/firewall.toml"]).stages is None
    assert policy.defaults(["gone/**"]) == Requirement(())


def test_no_policy_asks_for_nothing() -> None:
    """No file, or one with faults."""
    assert parse_policy(None) == (Policy(), [])
    assert Policy().required(["web/x"]) == ()
    assert parse_policy(b"[[require]]\npaths = 7\n")[0] == Policy()


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"\n[[require]\n", 2, "not TOML"),
        (b"\xff", 0, "not TOML"),
        (b"\nnope = 1\n", 2, "nope: unknown"),
        (b"require = 7\n", 1, r"write \[\[require\]\]"),
        (b"\n\n[[require]]\n", 3, "paths: at least one"),
        (b"[[require]]\npaths = []\n", 2, "paths: at least one"),
        (b'[[require]]\npaths = ["a/**",\n "/etc"]\n', 3, "paths: '/etc'"),
        (b'[[require]]\npaths = ["a/**b"]\n', 2, r"paths: 'a/\*\*b'"),
        (b'[[require]]\npaths = ["a"]\nstages = ["50%", "10%"]\n', 3, "stages: stage 10%"),
        (b'[[require]]\npaths = ["a"]\nstages = "1"\n', 3, "stages: write a list"),
        (b'[[require]]\npaths = ["a"]\nhold = "soon"\n', 3, "hold: not a duration"),
        (b'[[require]]\npaths = ["a"]\nhold = true\n', 3, "hold: not a duration"),
        (b'[[require]]\npaths = ["a"]\nhealth = ["/bin/true"]\n', 3, "health: '/bin/true' is not a path in the view"),
        (b'[[require]]\npaths = ["a"]\nhealth = ["../x"]\n', 3, "health: '../x' is not a path"),
        (b'[[require]]\npaths = ["a"]\nmax_failed = -1\n', 3, "max_failed: write a number"),
        (b'[[require]]\npaths = ["a"]\nhealt = ["x"]\n', 3, "healt: unknown; known are paths"),
    ],
)  # fmt: skip
def test_faults_of_a_policy_have_their_line(content: bytes, line: int, words: str) -> None:
    """So that a commit is refused with a place to look at."""
    policy, faults = parse_policy(content)
    assert policy == Policy()
    assert [found for found, _ in faults] == [line]
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(faults[0][1])
