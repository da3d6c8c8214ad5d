"""Replication: what is confirmed is elsewhere, peers catch up, and nobody is disturbed by one that is away or lies."""

import asyncio
import shutil
import socket
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest

from jlogd.confrepo.model import CommitId, File, Revision
from jlogd.confrepo.repository import CONFIRMED, MAIN, ROLLOUT, SIDE, Repository
from jlogd.runtime.errors import UnavailableError
from managerd.ecconfigd import replication as replication_module
from managerd.ecconfigd.change import CommitRequest, Outcome
from managerd.ecconfigd.committer import JOINED
from managerd.ecconfigd.peer import Peer
from managerd.v1 import config_pb2 as pb
from managerd.v1 import config_pb2_grpc as pb_grpc
from tests.support.managers import Member, members, same_line, until
from tests.support.revisions import commit as commit_there
from tests.support.revisions import fsck
from tests.support.revisions import store as store_there
from tests.support.serving import run


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "HEARTBEAT_S", 0.5)
    monkeypatch.setattr(replication_module, "BACKOFF_MIN_S", 0.05)
    monkeypatch.setattr(replication_module, "BACKOFF_MAX_S", 0.2)
    monkeypatch.setattr(replication_module, "WRITER_WAIT_S", 0.3)


# ---------------------------------------------------------------------- confirmation


def test_a_confirmed_revision_is_on_a_second_disk(tmp_path: Path) -> None:
    """The writer's data may be thrown away as soon as it said so: the peer has it under its id, and gives it back."""

    async def test() -> None:
        async with members(tmp_path, 2, replicas_min=2) as (m1, m2):
            await m1.replication.wait_ready(5)
            made = await m1.made({"global/a": "1\n"})
            assert await m1.replication.wait_confirmed(made.revision, 5)
            there = Repository.open(m2.repository)  # what is on its disk, not what it has in memory
            assert there.ref(MAIN) == made.id
            there.close()
            await m1.end()
            shutil.rmtree(m1.home)
            await m1.begin()
            await m1.replication.wait_ready(5)
            assert m1.head() == made.id
            await same_line(m1, m2)
            for member in (m1, m2):
                fsck(member.repository)

    run(test())


def test_a_revision_is_confirmed_when_a_peer_returns(tmp_path: Path) -> None:
    """Until then it stays unconfirmed, and nobody gets it."""

    async def test() -> None:
        async with members(tmp_path, 2, replicas_min=2) as (m1, m2):
            await m1.replication.wait_ready(5)
            first = await m1.made({"global/a": "1"})
            assert await m1.replication.wait_confirmed(first.revision, 5)
            await m2.end()
            late = await m1.made({"global/a": "2"})
            assert not await m1.replication.wait_confirmed(late.revision, 0.2)
            assert m1.confirmed() == 1
            await m2.begin()
            assert await m1.replication.wait_confirmed(late.revision, 5)
            await same_line(m1, m2)

    run(test())


def test_a_revision_that_a_follower_has_counts_for_it_only_when_enough_have_it(tmp_path: Path) -> None:
    """Two of three are not enough for three: the one that has it knows that it is not confirmed."""

    async def test() -> None:
        async with members(tmp_path, 3, replicas_min=3) as (m1, m2, m3):
            await m1.replication.wait_ready(5)
            first = await m1.made({"global/a": "1"})
            assert await m1.replication.wait_confirmed(first.revision, 5)
            await m3.end()
            second = await m1.made({"global/a": "2"})
            await until(lambda: m2.head() == second.id, "m2 has it")
            assert not await m1.replication.wait_confirmed(second.revision, 0.1)
            assert (m1.confirmed(), m2.confirmed()) == (1, 1)
            await m3.begin()
            await same_line(m1, m2, m3)

    run(test())


def test_confirmed_never_goes_down_when_a_peer_loses_its_disk(tmp_path: Path) -> None:
    """It is filled again, with everything."""

    async def test() -> None:
        async with members(tmp_path, 2, replicas_min=2) as (m1, m2):
            await m1.replication.wait_ready(5)
            for n in range(3):
                made = await m1.made({"global/a": str(n)})
            assert await m1.replication.wait_confirmed(made.revision, 5)
            await m2.end()
            shutil.rmtree(m2.home)
            await m1.made({"global/b": "4"})
            assert m1.confirmed() == 3
            await m2.begin()
            await same_line(m1, m2)
            assert m1.confirmed() == 4
            fsck(m2.repository)

    run(test())


def test_what_was_confirmed_survives_a_change_of_the_writer(tmp_path: Path) -> None:
    """m1 dies for good; m2, that lacks what m1 and m3 had, becomes writer: it asks m3 before it takes anything."""

    async def test() -> None:
        async with members(tmp_path, 3, replicas_min=2) as (m1, m2, m3):
            await m1.replication.wait_ready(5)
            await same_line_of_first(m1, m2, m3)
            await m2.end()
            made = await m1.made({"global/a": "2"})
            assert await m1.replication.wait_confirmed(made.revision, 5)
            await m1.end()
            await m3.end()
            await m2.again(writer="m2")
            with pytest.raises(UnavailableError, match=r"must hear what 1 other"):
                await m2.replication.wait_ready(0.2)
            await m3.again(writer="m2")
            await m2.replication.wait_ready(5)
            assert m2.head() == made.id
            more = await m2.made({"global/b": "3"})
            assert await m2.replication.wait_confirmed(more.revision, 5)
            await m1.again(writer="m2")
            await same_line(m1, m2, m3)

    run(test())


async def same_line_of_first(m1: Member, *others: Member) -> None:
    await m1.made({"global/a": "1"})
    await same_line(m1, *others)


# ---------------------------------------------------------------------- readiness


def test_an_empty_writer_asks_before_it_begins_a_history_of_its_own(tmp_path: Path) -> None:
    """Its disk may have been replaced: with replicas_min > 1 somebody knows what was confirmed."""

    async def test() -> None:
        async with members(tmp_path, 2, replicas_min=2, begin=False) as (m1, m2):
            await m1.begin()
            with pytest.raises(UnavailableError, match="empty repository"):
                await m1.replication.wait_ready(0.2)
            await m2.begin()
            await m1.replication.wait_ready(5)

    run(test())


def test_a_writer_that_needs_nobody_does_not_wait_for_who_is_away(tmp_path: Path) -> None:
    """But whoever answers has told what it has, before the first commit: a copy that is older is noticed."""

    async def test() -> None:
        async with members(tmp_path, 3) as (m1, m2, m3):
            await same_line_of_first(m1, m2, m3)
            await m1.end()
            shutil.copytree(m1.home, tmp_path / "old")
            await m1.begin()
            made = await m1.made({"global/a": "2"})
            await same_line(m1, m2, m3)
            await m3.end()
            await m1.end()
            shutil.rmtree(m1.home)
            shutil.copytree(tmp_path / "old", m1.home)  # restored from an older copy
            await m1.begin()
            await m1.replication.wait_ready(5)
            assert m1.head() == made.id
            await m1.made({"global/a": "3"})
            await m3.begin()
            await same_line(m1, m2, m3)
            assert [commit.message for commit in await m1.line()] == ["a change"] * 3

    run(test())


# ---------------------------------------------------------------------- catching up


def test_a_peer_that_was_away_for_a_thousand_revisions_catches_up_with_one_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushes: list[int] = []
    push = Peer.push

    async def counting(self: Peer, header: object, pack: object) -> object:
        pushes.append(pack.size)  # type: ignore[attr-defined]
        return await push(self, header, pack)  # type: ignore[arg-type]

    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            m1.lay({"global/a": File(b"1")})
            shutil.copytree(m1.home, m2.home)
            m1.lay(*({f"global/f{n % 50}": File(b"%d" % n)} for n in range(1000)))
            monkeypatch.setattr(Peer, "push", counting)
            await m1.begin()
            await m2.begin()
            await same_line(m1, m2)
            assert m2.confirmed() == 1001
            assert len([size for size in pushes if size]) == 1
            fsck(m2.repository)

    run(test())


def test_ten_thousand_files_pass_within_the_limits_of_a_message(tmp_path: Path) -> None:
    """One revision of 10,000 files and 20 MB, to an empty peer."""

    async def test() -> None:
        async with members(tmp_path, 2, replicas_min=2) as (m1, m2):
            files: dict[str, File | None] = {
                f"global/d{n % 100}/f{n}": File((f"{n} ".encode() * 400)[:2000]) for n in range(10_000)
            }
            files["global/large"] = File(bytes(range(256)) * 16_000)
            made = await m1.store.write(lambda repository: commit_there(repository, files))
            assert await m1.replication.wait_confirmed(made.revision, 20)
            assert len(await m2.store.read(lambda repository: repository.files(repository.head()))) == 10_001

    run(test())


def test_a_history_that_is_too_large_for_one_pack_goes_in_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To an empty peer, and back to a writer that lost its disk; no part counts as confirmed before the last one."""
    for module in ("pushing", "fetching"):
        monkeypatch.setattr(f"managerd.ecconfigd.{module}.STEP_BYTES", 60_000)

    def content(n: int) -> bytes:
        return b"".join(b"%d\n" % (n * i * 7919 % 999_983) for i in range(3000))  # about 9 kB of a pack

    async def test() -> None:
        async with members(tmp_path, 2, replicas_min=2, begin=False) as (m1, m2):
            m1.lay(*({"global/a": File(content(n))} for n in range(1, 31)))
            await m1.begin()
            await m2.begin()
            await same_line(m1, m2)
            await m1.end()
            shutil.rmtree(m1.home)
            await m1.begin()
            await same_line(m1, m2)
            assert len(await m1.line()) == 30
            for member in (m1, m2):
                fsck(member.repository)

    run(test())


def test_a_peer_that_is_not_the_same_when_it_is_pushed_to_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was restarted between question and push, and lost its disk, or is a writer of its own now."""
    push = Peer.push
    between: list[str] = []

    async def test() -> None:
        async with members(tmp_path, 2) as (m1, m2):
            await same_line_of_first(m1, m2)

            async def first(self: Peer, header: object, pack: object) -> object:
                if between:
                    what = between.pop()
                    await m2.end()
                    if what == "lost":
                        shutil.rmtree(m2.home)
                    await m2.again(writer="m2" if what == "writer" else "m1")
                return await push(self, header, pack)  # type: ignore[arg-type]

            monkeypatch.setattr(Peer, "push", first)
            for what in ("lost", "same"):
                between.append(what)
                await m1.made({"global/a": what})
                await same_line(m1, m2)
                assert not between
            between.append("writer")
            await m1.made({"global/a": "writer"})
            await until(lambda: "takes itself for the writer" in m1.replication.peers()[0].error, "refused")
            assert m2.confirmed() == 3
            await m2.again(writer="m1")
            await same_line(m1, m2)
            fsck(m2.repository)

    run(test())


def test_commits_of_many_at_once_reach_everybody(tmp_path: Path) -> None:
    """Refs move while a push is under way: the next one follows, and each commit hears when it is confirmed."""

    async def test() -> None:
        async with members(tmp_path, 3, replicas_min=3) as (m1, m2, m3):
            await m1.replication.wait_ready(5)

            async def commits(key: int) -> None:
                for n in range(10):
                    made = await m1.made({f"global/{key}": str(n)})
                    assert await m1.replication.wait_confirmed(made.revision, 10)
                    assert (await m2.store.read(partial(Repository.commit, commit_id=made.id))) == made

            await asyncio.gather(*(commits(key) for key in range(4)))
            await same_line(m1, m2, m3)
            assert m1.confirmed() == 40

    run(test())


# ---------------------------------------------------------------------- who is there


def test_followers_find_the_writer(tmp_path: Path) -> None:
    """By its name, at whatever address; and say so when it is away, and when it is back."""

    async def test() -> None:
        async with members(tmp_path, 3) as (m1, m2, m3):
            channel = await m2.replication.writer_channel()
            assert channel is m2.peer("m1").peer.channel()
            await m1.end()
            await until(lambda: m2.peer("m1").state == "unreachable", "m2 noticed")
            with pytest.raises(UnavailableError, match="the writer m1 does not answer"):
                await m2.replication.writer_channel()
            await m1.begin()
            await m2.replication.writer_channel()
            await m3.replication.writer_channel()

    run(test())


def test_a_channel_that_waits_out_its_back_off_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call was passed on while the writer was away; the writer is back, and the next call must find it."""

    async def test() -> None:
        async with members(tmp_path, 2) as (m1, m2):
            await m2.replication.writer_channel()
            monkeypatch.setattr(replication_module, "HEARTBEAT_S", 60.0)
            monkeypatch.setattr(replication_module, "REDIAL_S", 0.5)
            await asyncio.sleep(1)  # the short heartbeat that is under way
            await m1.end()
            for _ in range(5):  # its back-off grows
                channel = await m2.replication.writer_channel()
                assert channel.get_state() != grpc.ChannelConnectivity.READY
                with pytest.raises(grpc.aio.AioRpcError):
                    await pb_grpc.ReplicaServiceStub(channel).Refs(pb.RefsRequest(), timeout=2)
            await m1.begin()
            monkeypatch.setattr(replication_module, "REDIAL_S", 5.0)
            channel = await m2.replication.writer_channel()
            assert channel.get_state() == grpc.ChannelConnectivity.READY

    run(test())


def test_a_channel_that_is_given_up_while_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer was just killed, and the heartbeat finds that out meanwhile: whoever waits is told, in our words."""

    async def test() -> None:
        async with members(tmp_path, 2) as (m1, m2):
            await m2.replication.writer_channel()
            before = m2.peer("m1").peer
            await m1.end()
            asking = asyncio.create_task(m2.replication.writer_channel())
            await until(lambda: m2.peer("m1").peer is not before, "it dials again")
            m2.replication.kick()
            with pytest.raises(UnavailableError, match="the writer m1"):
                await asking

    monkeypatch.setattr(replication_module, "HEARTBEAT_S", 60.0)
    run(test())


def test_the_writer_notices_who_is_away_and_who_is_behind(tmp_path: Path) -> None:
    """Without a commit, by its heartbeat."""

    async def test() -> None:
        async with members(tmp_path, 2) as (m1, m2):
            await same_line_of_first(m1, m2)
            await until(lambda: m1.peer("m2").state == "connected", "connected")
            assert m1.peer("m2").revision == 1
            await m2.end()
            await until(lambda: m1.peer("m2").state == "unreachable", "noticed")
            assert "cannot be reached" in m1.peer("m2").error
            await m2.begin()
            await until(lambda: m1.peer("m2").state == "connected", "connected again")

    run(test())


def test_a_manager_among_its_own_peers_and_one_that_stands_there_twice_are_named(tmp_path: Path) -> None:
    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            m1.peers = [m1.address, m2.address, m2.address.replace("127.0.0.1", "localhost")]
            await m2.begin()
            await m1.begin()
            await until(lambda: all(state.tried for state in m1.replication.peers()), "all asked")
            await until(lambda: "manager itself" in m1.replication.peers()[0].error, "itself")
            await until(lambda: any("are both manager m2" in s.error for s in m1.replication.peers()), "twice")
            await m1.made({"global/a": "1"})
            await same_line(m1, m2)

    run(test())


def test_a_peer_that_is_away_is_not_dialled_in_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits in a row wake the task of each peer; the back-off holds all the same."""
    monkeypatch.setattr(replication_module, "BACKOFF_MIN_S", 0.2)
    monkeypatch.setattr(replication_module, "HURRY_S", 0.4)
    monkeypatch.setattr(replication_module, "BACKOFF_MAX_S", 2.0)
    asked: list[float] = []
    refs = Peer.refs

    async def counting(self: Peer) -> object:
        asked.append(asyncio.get_running_loop().time())
        return await refs(self)

    async def test() -> None:
        monkeypatch.setattr(Peer, "refs", counting)
        async with members(tmp_path, 2, begin=False) as (m1, _):
            await m1.begin()
            end_s = asyncio.get_running_loop().time() + 1.0
            n = 0
            while asyncio.get_running_loop().time() < end_s:
                n += 1
                await m1.made({"global/a": str(n)})
            assert n > 10
            assert len(asked) <= 5, asked

    run(test())


def test_ending_while_everything_is_under_way_leaves_nothing(tmp_path: Path) -> None:
    """Also while a peer is asked that does not answer: no task, no warning, and the next begin goes on."""

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            await end_again_and_again(f"127.0.0.1:{silent.getsockname()[1]}")

    async def end_again_and_again(silent: str) -> None:
        async with members(tmp_path, 2, replicas_min=2) as (m1, m2):
            m1.peers = [*m1.peers, silent]
            for _ in range(4):
                before = asyncio.all_tasks()
                await m1.again()
                waiting = asyncio.create_task(m1.replication.wait_confirmed(Revision(99), 60))
                commits = [asyncio.create_task(m1.commit({"global/a": str(n)})) for n in range(3)]
                await asyncio.gather(*commits)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                await m1.end()
                left = {task for task in asyncio.all_tasks() - before if "replication" in repr(task.get_coro())}
                assert not left
            await m1.begin()
            await same_line(m1, m2)

    run(test())


# ---------------------------------------------------------------------- other refs


def test_rollouts_and_side_branches_are_the_same_everywhere(tmp_path: Path) -> None:
    """A side branch that is settled disappears on the peers as well, and stays reachable."""

    async def test() -> None:
        async with members(tmp_path, 2) as (m1, m2):
            await same_line_of_first(m1, m2)

            def branch(repository: Repository) -> CommitId:
                tip = store_there(repository, {"global/a": File(b"theirs")}, parent=repository.head())
                repository.advance({SIDE + "m9-r2": (None, tip)})
                commit_there(repository, {"rollout.json": File(b"{}")}, ref=ROLLOUT)
                return tip

            tip = await m1.store.write(branch)
            await until(lambda: m2.shared_refs().get(SIDE + "m9-r2") == tip, "the branch is there")
            assert (await m2.refs())[ROLLOUT] == (await m1.refs())[ROLLOUT]
            request = CommitRequest("settled", (), "", settles=("m9-r2",))
            assert (await m1.store.commit(request, "operator:alice")).outcome is Outcome.COMMITTED
            await until(lambda: SIDE + "m9-r2" not in m2.shared_refs(), "the branch is gone")
            assert (await m2.refs())[JOINED + "m9-r2"] == tip
            assert (await m2.refs())[CONFIRMED] == m1.head()
            fsck(m2.repository)

    run(test())


def test_what_only_a_peer_has_is_taken_up_when_the_writer_is_older(tmp_path: Path) -> None:
    """Main, rollouts, side branches, and which of them were settled; ids are kept."""

    async def test() -> None:
        async with members(tmp_path, 2) as (m1, m2):
            await same_line_of_first(m1, m2)

            def first(repository: Repository) -> None:
                for n in (1, 2):
                    tip = store_there(repository, {"global/a": File(b"side %d" % n)}, parent=repository.head())
                    repository.advance({f"{SIDE}m9-r{n}": (None, tip)})
                commit_there(repository, {"rollout.json": ROLLED}, ref=ROLLOUT)

            await m1.store.write(first)
            await m1.end()
            shutil.copytree(m1.home, tmp_path / "old")
            await m1.begin()
            await m1.store.commit(CommitRequest("settled", (), "", settles=("m9-r1",)), "operator:alice")
            await m1.store.write(lambda repository: commit_there(repository, {"n": File(b"2")}, ref=ROLLOUT))
            await m1.made({"global/b": "2"})
            await same_line(m1, m2)
            await until(lambda: SIDE + "m9-r1" not in m2.shared_refs(), "settled there")
            was = await m2.refs()
            await m1.end()
            shutil.rmtree(m1.home)
            shutil.copytree(tmp_path / "old", m1.home)
            await m1.begin()
            await m1.replication.wait_ready(5)
            await same_line(m1, m2)
            assert await m1.refs() == was
            assert await m2.refs() == was

    run(test())


ROLLED = File(b'{"schema": 1, "held": null, "rollout": null}\n')
