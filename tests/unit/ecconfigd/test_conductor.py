"""The conductor on a real repository: what it asks for, keeps, goes on with; what it costs."""

import asyncio
from pathlib import Path

import pytest

from jlogd.attach.messages import Report, State
from jlogd.confrepo.model import Revision
from jlogd.confrepo.repository import ROLLOUT, Repository
from jlogd.runtime.errors import ConflictError, RefusedError, StorageError, UsageError
from managerd.ecconfigd import conductor as conductor_module
from managerd.ecconfigd import holding
from managerd.ecconfigd.conductor import StartRequest
from managerd.ecconfigd.rollout import Status, parse_policy
from managerd.ecconfigd.sightings import Sighting
from tests.support.faulty_fs import FaultyFs
from tests.support.revisions import fsck, git
from tests.support.rolling import ALICE, POLICY, Manager, managing, put
from tests.support.serving import run

NODES = ("web1", "web2", "web3", "web4")


async def held(manager: Manager, *nodes: str) -> None:
    """r1 is what everybody runs, r2 is held back, ``nodes`` are attached."""
    await manager.first()
    await manager.commit(put("web/default/x", "2"))
    manager.attach(*(nodes or NODES))
    for node in nodes or NODES:
        manager.report(node)


def on(manager: Manager, revision: int) -> set[str]:
    return {node for node in NODES if manager.told(node) == revision}


async def length(manager: Manager) -> int:
    """Commits of the rollout line."""

    def count(repository: Repository) -> int:
        tip = repository.ref(ROLLOUT)
        return repository.commit(tip).revision if tip else 0

    return await manager.store.read(count)


def status_of(manager: Manager) -> Status:
    status = manager.conductor.status()
    assert status is not None
    return status


# ---------------------------------------------------------------------- a whole run


def test_from_one_node_to_everybody(tmp_path: Path) -> None:
    """The defaults come from the policy; each step is one commit with its author; git reads it all."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            assert manager.conductor.status() is None
            await held(manager)
            told: list[Status] = []
            manager.conductor.subscribe(told.append)
            started = await manager.conductor.start(StartRequest("r2"), ALICE)
            await manager.settled()
            assert (started.state, started.stages, started.hold_s, started.max_failed) == (
                "running",
                ("1", "100%"),
                60,
                0,
            )
            (canary,) = on(manager, 2)
            assert started.released == (canary,)
            manager.report(canary)
            await manager.look(59)
            assert status_of(manager).hold_left_s == pytest.approx(1)
            await manager.look(1)
            assert on(manager, 2) == set(NODES)
            for node in NODES:
                manager.report(node)
            await manager.look(60)
            assert status_of(manager).state == "done"
            assert (await manager.commit(put("db/default/x", "3"))).held == "", "nothing is held any more"
            assert on(manager, 3) == set(NODES)
            assert [status.state for status in told] == ["running", "running", "done"]
        log = git(tmp_path / "config.git", "log", "--format=%an %s", ROLLOUT).splitlines()
        assert [line.partition(" ")[0] for line in reversed(log)] == ["alice", "alice", "m1", "m1"]
        fsck(tmp_path / "config.git")

    run(story())


def test_one_bad_node_takes_it_back_from_all(tmp_path: Path) -> None:
    """The running conductor does it by itself, as soon as the report is there."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await held(manager)
            await manager.conductor.start(StartRequest("r2", stages=["3", "100%"]), ALICE)
            await manager.settled()
            some, bad, *_ = sorted(on(manager, 2))
            manager.report(some)
            manager.clock.advance(5)
            manager.report(bad, "rolled_back", "health check ended with 1: no answer on port 80")
            await manager.until(lambda: status_of(manager).state == "failed")
            await manager.settled()
            assert on(manager, 1) == set(NODES)
            status = status_of(manager)
            assert (status.state, status.failed, status.errors) == (
                "failed", (bad,), ("health check ended with 1: no answer on port 80",),
            )  # fmt: skip
            assert "r3" in (await manager.commit(put("db/default/x", "3"))).held, "r2 stays held back"

    run(story())


def test_nodes_of_other_managers_count_as_ours(tmp_path: Path) -> None:
    """Released, awaited, well for the whole hold, failed: whoever tells what they say; one that two tell of, once."""

    def say(manager: Manager, teller: str, node: str, state: State = "applied", session: int = 1) -> None:
        target = manager.targets.target(node, "web")
        assert target is not None
        said = Report(state, target.revision, target.id, target.revision, target.id, target.serial, error="m2 told it")
        manager.registry.seen(teller, node, Sighting("web", "", session, said))

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await manager.first()
            await manager.commit(put("web/default/x", "2"))
            manager.attach("web1")
            manager.report("web1")
            for teller, node in (("m2", "web2"), ("m3", "web2"), ("m2", "web3")):
                say(manager, teller, node)
            started = await manager.conductor.start(StartRequest("r2", stages=["100%"]), ALICE)
            assert (started.nodes, started.released) == (3, ("web1", "web2", "web3"))
            await manager.settled()
            manager.report("web1")
            say(manager, "m2", "web2")
            await manager.look(30)
            assert status_of(manager).applied == ("web1", "web2")
            say(manager, "m2", "web3")
            manager.registry.lost_but("m2")
            await manager.look(59)
            assert (status_of(manager).state, status_of(manager).offline) == ("running", ("web3",)), "web2 has m3"
            say(manager, "m2", "web3", session=2)
            say(manager, "m2", "web2", session=2)
            await manager.look(1)
            say(manager, "m3", "web2", "rolled_back")
            await manager.look()
            status = status_of(manager)
            assert (status.state, status.failed, status.errors) == ("failed", ("web2",), ("m2 told it",))

    run(story())


def test_what_a_node_said_in_an_earlier_session_does_not_count(tmp_path: Path) -> None:
    """Also when it had said so twice: it is awaited again."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await held(manager, "web1")
            await manager.conductor.start(StartRequest("r2", stages=["100%"]), ALICE)
            await manager.settled()
            for _ in range(2):
                manager.report("web1")
            manager.clock.advance(1)
            manager.attach("web1")
            await manager.look(600)
            assert (status_of(manager).state, status_of(manager).applied) == ("running", ())
            manager.report("web1")
            await manager.look()
            assert status_of(manager).state == "done"

    run(story())


def test_health_and_trial_are_told_to_those_who_try_it_only(tmp_path: Path) -> None:
    """The others are on what is known to be good."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await manager.first(put("global/bin/ok", "#!/bin/sh\n", program=True))
            await manager.commit(put("web/default/x", "2"))
            manager.attach(*NODES)
            await manager.conductor.start(StartRequest("HEAD", health=["bin/ok", "-q"], hold_s=7), ALICE)
            await manager.settled()
            for node in NODES:
                target = manager.targets.target(node, "web")
                assert target is not None
                tries = target.revision == 2
                assert (target.health, target.trial_s) == ((("bin/ok", "-q"), 7.0) if tries else ((), 0.0))

    run(story())


def test_pause_resume_abort(tmp_path: Path) -> None:
    """Each by its author, each durable, each refused where it makes no sense."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            conductor = manager.conductor
            with pytest.raises(RefusedError, match="no rollout yet"):
                await conductor.abort(ALICE)
            await held(manager)
            await conductor.start(StartRequest("r2"), ALICE)
            await manager.settled()
            (canary,) = on(manager, 2)
            manager.report(canary)
            assert (await conductor.pause("operator:bob")).reason == "paused by operator:bob"
            await manager.look(1000)
            assert on(manager, 2) == {canary}
            await conductor.resume(ALICE)
            await manager.look(59)
            assert on(manager, 2) == {canary}, "the hold starts over"
            await manager.look(1)
            assert on(manager, 2) == set(NODES)
            with pytest.raises(RefusedError, match="running: it cannot be resumed"):
                await conductor.resume(ALICE)
            assert (await conductor.abort(ALICE)).state == "aborted"
            await manager.settled()
            assert on(manager, 1) == set(NODES)
            with pytest.raises(RefusedError, match="aborted: it cannot be aborted"):
                await conductor.abort(ALICE)

    run(story())


# ---------------------------------------------------------------------- what is refused


def test_what_cannot_be_rolled_out(tmp_path: Path) -> None:
    """Each refusal says what to do instead."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            start = manager.conductor.start
            await manager.first()
            with pytest.raises(RefusedError, match="no revision is held back: all nodes get r1"):
                await start(StartRequest("r1"), ALICE)
            await manager.commit(put("web/default/x", "2"), put("web/default/plain", "x"))
            with pytest.raises(RefusedError, match="no node is attached"):
                await start(StartRequest("r2"), ALICE)
            manager.attach(*NODES)
            with pytest.raises(RefusedError, match=r"all nodes run r1 .*use `eccfg rollback r1`"):
                await start(StartRequest("r1"), ALICE)
            with pytest.raises(RefusedError, match="r7"):
                await start(StartRequest("r7"), ALICE)
            with pytest.raises(RefusedError, match="r2 has no bin/ok in the view of node web1"):
                await start(StartRequest("r2", health=["bin/ok"]), ALICE)
            with pytest.raises(RefusedError, match="plain in the view of node web1 is not a program"):
                await start(StartRequest("r2", health=["plain"]), ALICE)
            for wrong in (
                StartRequest("r2", stages=["x"]),
                StartRequest("r2", hold_s=-1),
                StartRequest("r2", hold_s=1e9),
                StartRequest("r2", max_failed=-1),
                StartRequest("r2", health=["/bin/true"]),
            ):
                with pytest.raises(UsageError):
                    await start(wrong, ALICE)
            assert await length(manager) == 1, "nothing of all this left a state"
            await start(StartRequest("r2"), ALICE)
            with pytest.raises(RefusedError, match="rollout 1 of r2 is running: abort it first"):
                await start(StartRequest("r2"), ALICE)

    run(story())


def test_an_unconfirmed_revision_waits(tmp_path: Path) -> None:
    """Enough managers must have what nodes are to try."""

    async def story() -> None:
        async with managing(tmp_path, replicas_min=2) as manager:
            await manager.first()
            await manager.store.confirm(Revision(1))
            await manager.commit(put("web/default/x", "2"))
            manager.attach("web1")
            with pytest.raises(RefusedError, match="r2 is not on enough managers yet"):
                await manager.conductor.start(StartRequest("r2"), ALICE)

    run(story())


def test_another_manager_shows_and_does_not_conduct(tmp_path: Path) -> None:
    """Only the writer changes the line."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await held(manager)
            await manager.conductor.start(StartRequest("r2"), ALICE)
        async with managing(tmp_path, writing=False) as other:
            assert status_of(other).state == "running"
            with pytest.raises(RefusedError, match="not the writer"):
                await other.conductor.abort(ALICE)

    run(story())


# ---------------------------------------------------------------------- restarts, newer revisions, trouble


def test_a_restart_goes_on_and_the_hold_starts_over(tmp_path: Path) -> None:
    """Even in the middle of the last second."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await held(manager)
            await manager.conductor.start(StartRequest("r2"), ALICE)
            await manager.settled()
            (canary,) = on(manager, 2)
            manager.report(canary)
            await manager.look(59)
        async with managing(tmp_path) as manager:
            await manager.settled()
            assert on(manager, 2) == {canary}
            await manager.look(30)
            assert status_of(manager).offline == (canary,)
            manager.attach(*NODES)
            manager.report(canary)
            await manager.look(59)
            assert on(manager, 2) == {canary}
            await manager.look(1)
            assert on(manager, 2) == set(NODES)

    run(story())


@pytest.mark.parametrize("needs", [True, False])
def test_a_revision_that_came_meanwhile(tmp_path: Path, needs: bool) -> None:
    """Held while the rollout runs; then, if it asks for a rollout of its own, still; else it is everybody's."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await held(manager)
            await manager.conductor.start(StartRequest("r2", stages=["100%"], hold_s=1), ALICE)
            await manager.settled()
            answer = await manager.commit(put("web/default/x" if needs else "db/default/x", "3"))
            assert answer.held == "rollout 1 of r2 is running, and r3 contains its changes"
            for node in NODES:
                manager.report(node)
            await manager.look(1)
            assert status_of(manager).state == "done"
            assert on(manager, 2 if needs else 3) == set(NODES)
            if needs:
                assert (await manager.conductor.start(StartRequest("r3"), ALICE)).baseline == 2

    run(story())


def test_a_commit_that_is_held_back_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """The line moved between the decision and its write: it is decided again."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await held(manager)
            conductor, writes = manager.conductor, 0
            write = conductor._write

            async def late(line: object, *rest: object) -> None:
                nonlocal writes
                writes += 1
                if writes == 1:
                    await manager.store.write(_another_state)
                await write(line, *rest)  # type: ignore[arg-type]

            conductor._write = late  # type: ignore[method-assign,assignment]
            await conductor.start(StartRequest("r2"), ALICE)
            assert writes == 2
            assert await length(manager) == 3

    def _another_state(repository: Repository) -> None:
        line = holding.load(repository, repository.ref(ROLLOUT))
        holding.save(repository, line, line.document, author=ALICE, message="x", time_s=1)

    run(story())


def test_a_line_that_never_rests_is_a_conflict(tmp_path: Path) -> None:
    """The tries have an end."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await held(manager)
            tries = 0

            async def never(*_: object) -> None:
                nonlocal tries
                tries += 1
                raise ConflictError("moved")

            manager.conductor._write = never  # type: ignore[method-assign,assignment]
            with pytest.raises(ConflictError):
                await manager.conductor.start(StartRequest("r2"), ALICE)
            assert tries == conductor_module.TRIES_MAX

    run(story())


def test_a_full_disk_stops_the_rollout_not_the_manager(tmp_path: Path) -> None:
    """What could not be written did not happen; when there is room again it goes on."""

    async def story() -> None:
        fs = FaultyFs(sticky=True)
        async with managing(tmp_path, fs=fs) as manager:
            await held(manager)
            await manager.conductor.start(StartRequest("r2"), ALICE)
            await manager.settled()
            (canary,) = on(manager, 2)
            manager.report(canary)
            await manager.look()
            fs.fail_at = fs.operations + 1
            with pytest.raises(StorageError):
                await manager.look(60)
            assert on(manager, 2) == {canary}
            with pytest.raises(StorageError):
                await manager.conductor.pause(ALICE)
            assert status_of(manager).state == "running"
            fs.heal()
            await manager.until(lambda: on(manager, 2) == set(NODES))

    run(story())


def test_many_reports_are_few_commits(tmp_path: Path) -> None:
    """A thousand nodes fail one after the other within two seconds: a state a second, not one a node."""

    async def story() -> None:
        names = tuple(f"n{number}" for number in range(1000))
        async with managing(tmp_path) as manager:
            await held(manager, *names)
            request = StartRequest("r2", stages=["100%"], max_failed=5000)
            await manager.conductor.start(request, ALICE)
            await manager.settled()
            before = await length(manager)
            for at, name in enumerate(names):
                manager.report(name, "refused", "no")
                if at % 100 == 0:
                    await manager.look(0.2)
            await manager.look(1)
            assert len(status_of(manager).failed) == 1000
            assert 1 <= await length(manager) - before <= 4

    run(story())


def test_nodes_that_say_the_same_cost_nothing(tmp_path: Path) -> None:
    """Reports without news leave no state."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await held(manager)
            await manager.conductor.start(StartRequest("r2"), ALICE)
            await manager.settled()
            before = await length(manager)
            for _ in range(20):
                for node in on(manager, 2):
                    manager.report(node)
                await manager.look(1)
            assert await length(manager) == before

    run(story())


def test_a_rollout_whose_revision_is_not_held_any_more_is_void(tmp_path: Path) -> None:
    """The line names commits that main does not have: it decides nothing, and says so."""

    async def story() -> None:
        async with managing(tmp_path / "a") as manager:
            await held(manager)
            await manager.conductor.start(StartRequest("r2"), ALICE)
            refs = await manager.store.read(lambda repository: repository.refs())
            pieces = await manager.store.read(lambda repository: list(repository.pack([refs[ROLLOUT]], [])))
        async with managing(tmp_path / "b") as other:
            await other.first(put("web/default/y", "another history"))

            def copy(repository: Repository) -> None:
                repository.receive(pieces, bytes_max=1 << 20)
                repository.advance({ROLLOUT: (None, refs[ROLLOUT])})

            await other.store.write(copy)
            await other.until(lambda: status_of_or_none(other) == "aborted")
            assert status_of(other).reason == "r2 is not held back on the main line any more"
            assert {other.told(node) for node in NODES} == {1}

    run(story())


def status_of_or_none(manager: Manager) -> str:
    status = manager.conductor.status()
    return status.state if status is not None else ""


def test_shares_are_of_the_nodes_that_there_are(tmp_path: Path) -> None:
    """A retired node counts no more; one that is away does."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            names = tuple(f"n{number}" for number in range(10))
            await held(manager, *names)
            for name in names[:6]:
                manager.registry.detached(name)
            assert all(manager.registry.remove(name) for name in names[:4])
            started = await manager.conductor.start(StartRequest("r2", stages=["50%"]), ALICE)
            assert (started.nodes, started.counts, len(started.released)) == (6, (3, None), 3)

    run(story())


def test_the_conductor_outlives_what_nobody_expected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in a look is logged, and the next look comes."""
    monkeypatch.setattr(conductor_module, "IDLE_S", 0.01)

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await held(manager)
            looked = asyncio.Event()

            async def broken() -> float:
                manager.conductor.look = good  # type: ignore[method-assign]
                raise ValueError("nobody expected this")

            async def good() -> float:
                looked.set()
                return 5.0

            manager.conductor.look = broken  # type: ignore[method-assign]
            async with asyncio.timeout(10):
                await looked.wait()
        assert "nobody expected this" in caplog.text

    run(story())


def test_policy_of_the_tests_is_sound() -> None:
    """Else the defaults above would prove nothing."""
    assert parse_policy(POLICY.encode())[1] == []
