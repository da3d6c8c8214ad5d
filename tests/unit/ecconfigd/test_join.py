"""Two lines become one: nothing that either of two writers took is lost, and dying anywhere changes nothing of that."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from jlogd.confrepo.model import Commit, CommitId, File
from jlogd.confrepo.repository import CONFIRMED, MAIN, ROLLOUT, SIDE, Repository
from jlogd.runtime.errors import ConflictError, JlogdError, RefusedError
from jlogd.runtime.fs import OS, FileSystem
from managerd.ecconfigd import replication as replication_module
from managerd.ecconfigd.committer import JOINED
from managerd.ecconfigd.join import JOINING, gather
from managerd.ecconfigd.peer import Peer
from managerd.ecconfigd.store import Store
from tests.support.faulty_fs import FaultyFs
from tests.support.managers import Member, Texts, members, same_line, until
from tests.support.revisions import commit as commit_there
from tests.support.revisions import fsck
from tests.support.revisions import store as store_there
from tests.support.serving import run

LONG = os.environ.get("JLOGD_LONG") == "1"
FIRST = int(os.environ.get("JLOGD_SEED", os.getpid()))  # which operations fail first, in the short form
COMMON: Texts = {"global/a.toml": "x = 1\ny = 1\n", "global/b": "1\n", "global/c": "1\n", "global/keep": "1\n"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_module, "HEARTBEAT_S", 0.5)
    monkeypatch.setattr(replication_module, "BACKOFF_MIN_S", 0.05)
    monkeypatch.setattr(replication_module, "BACKOFF_MAX_S", 0.2)


async def diverge(m1: Member, m2: Member, ours: Sequence[Texts], theirs: Sequence[Texts]) -> None:
    """A common r1; then each of the two is writer, and cannot reach the other one. Both are down in the end."""
    await m1.begin()
    await m2.begin()
    await m1.made(COMMON, "begin")
    await same_line(m1, m2)
    for member, changes, author in ((m1, ours, "operator:alice"), (m2, theirs, "operator:bob")):
        for other in (m1, m2):
            await other.end()
        await member.again(writer=member.name, serving=False)
        for number, texts in enumerate(changes, 1):
            await member.made(texts, f"{member.name} {number}", author=author)
    await m2.end()


async def reunite(m1: Member, m2: Member, writer: str) -> None:
    for member in (m1, m2):
        await member.again(writer=writer)
    await same_line(m1, m2)


# ---------------------------------------------------------------------- what becomes of both lines


@pytest.mark.parametrize("writer", ["m1", "m2"])
def test_both_lines_are_kept_per_key(tmp_path: Path, writer: str) -> None:
    """Whoever is writer afterwards: authors and messages stay, every manager has one line, and git likes it."""

    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            ours: list[Texts] = [{"global/a.toml": "x = 2\ny = 1\n"}, {"global/mine": "1\n"}]
            theirs: list[Texts] = [{"global/a.toml": "x = 1\ny = 2\n", "global/c": None}, {"global/theirs": "1\n"}]
            await diverge(m1, m2, ours, theirs)
            await reunite(m1, m2, writer)
            assert await m1.texts() == {
                "global/a.toml": "x = 2\ny = 2\n", "global/b": "1\n", "global/keep": "1\n", "global/mine": "1\n",
                "global/theirs": "1\n",
            }  # fmt: skip
            line = await m1.line()
            said = [(commit.author, commit.message.splitlines()[0]) for commit in line]
            alice, bob = [("operator:alice", f"m1 {n}") for n in (1, 2)], [("operator:bob", f"m2 {n}") for n in (1, 2)]
            assert said == [("operator:alice", "begin"), *([*alice, *bob] if writer == "m1" else [*bob, *alice])]
            other = "m2" if writer == "m1" else "m1"
            assert f"Joined from manager {other}: r2 " in line[-2].message
            assert [commit.revision for commit in line] == [1, 2, 3, 4, 5]
            assert await m2.line() == line
            for member in (m1, m2):
                refs = await member.refs()
                assert refs[CONFIRMED] == refs[MAIN]
                assert sorted(refs) == sorted([MAIN, CONFIRMED, f"{JOINED}{other}-r3"])
                fsck(member.repository)

    run(test())


def test_what_cannot_be_merged_stays_on_a_side_branch_and_blocks_nothing(tmp_path: Path) -> None:
    """Both changed the same key, and one deleted what the other changed; the other file of that commit goes in."""

    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            ours: list[Texts] = [{"global/a.toml": "x = 2\ny = 1\n", "global/b": "2\n"}]
            theirs: list[Texts] = [{"global/a.toml": "x = 3\ny = 1\n", "global/c": "2\n"}, {"global/b": None}]
            await diverge(m1, m2, ours, theirs)
            tip = (await read_refs(m2))[MAIN]
            await reunite(m1, m2, "m1")
            assert await m1.texts() == {
                "global/a.toml": "x = 2\ny = 1\n", "global/b": "2\n", "global/c": "2\n", "global/keep": "1\n",
            }  # fmt: skip
            for member in (m1, m2):
                refs = await member.refs()
                assert refs[f"{SIDE}m2-r3"] == tip
                assert sorted(refs) == sorted([MAIN, CONFIRMED, f"{SIDE}m2-r3"])
                fsck(member.repository)
            await m1.made({"global/b": "3\n", "global/new": "1\n"})
            await same_line(m1, m2)

    run(test())


async def read_refs(member: Member) -> dict[str, CommitId]:
    """Of one that is down."""
    repository = Repository.open(member.repository)
    try:
        return repository.refs()
    finally:
        repository.close()


def test_steps_of_one_value_are_no_conflict_with_each_other(tmp_path: Path) -> None:
    """1, 2, 3 and back to 1: what was joined once is not joined again, whatever it would do now."""

    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            steps: list[Texts] = [{"global/b": f"{n}\n"} for n in (2, 3, 1)]
            await diverge(m1, m2, [{"global/mine": "1\n"}], steps)
            await reunite(m1, m2, "m1")
            assert (await m1.texts())["global/b"] == "1\n"
            assert [commit.message.splitlines()[0] for commit in await m1.line()][2:] == ["m2 1", "m2 2", "m2 3"]
            await reunite(m1, m2, "m1")
            assert len(await m1.line()) == 5

    run(test())


def test_a_file_that_does_not_pass_stays_on_a_side_branch(tmp_path: Path) -> None:
    """It was taken by a manager that did not know better; the rest of its revision goes in."""

    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            await diverge(m1, m2, [{"global/mine": "1\n"}], [])
            m2.lay({"global/bad.toml": File(b"x = = 1\n"), "global/good.toml": File(b"x = 1\n")})
            await reunite(m1, m2, "m1")
            texts = await m1.texts()
            assert "global/bad.toml" not in texts
            assert texts["global/good.toml"] == "x = 1\n"
            assert f"{SIDE}m2-r2" in await m2.refs()

    run(test())


def test_a_second_writer_that_goes_on_is_joined_from_where_it_was_joined_last(tmp_path: Path) -> None:
    """Its older revisions are not made a second time, though its line never became ours."""

    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            await diverge(m1, m2, [{"global/mine": "1\n"}], [{"global/b": "2\n"}, {"global/b": "1\n"}])
            shutil.copytree(m2.home, tmp_path / "old")
            await reunite(m1, m2, "m1")
            assert len(await m1.line()) == 4
            await m2.end()
            shutil.rmtree(m2.home)
            shutil.copytree(tmp_path / "old", m2.home)
            await m2.again(writer="m2", serving=False)
            await m2.made({"global/c": "3\n"}, "m2 3")
            await reunite(m1, m2, "m1")
            messages = [commit.message.splitlines()[0] for commit in await m1.line()]
            assert messages == ["begin", "m1 1", "m2 1", "m2 2", "m2 3"]
            refs = await m2.refs()
            assert {f"{JOINED}m2-r3", f"{JOINED}m2-r4"} <= refs.keys()

    run(test())


def test_those_that_followed_the_second_writer_leave_its_line_as_well(tmp_path: Path) -> None:
    """m3 has a part of m2's line: it is joined once."""

    async def test() -> None:
        async with members(tmp_path, 3, begin=False) as (m1, m2, m3):
            await diverge(m1, m2, [{"global/mine": "1\n"}], [{"global/b": "2\n"}, {"global/b": "3\n"}])
            m3.home.mkdir()
            shutil.copytree(m2.repository, m3.repository)
            repository = Repository.open(m3.repository)
            tip = repository.commit(repository.refs()[MAIN])
            repository.advance({MAIN: (tip.id, tip.parent), CONFIRMED: (tip.id, None)})
            repository.close()
            for member in (m1, m2, m3):
                await member.again(writer="m1")
            await same_line(m1, m2, m3)
            assert [commit.message.splitlines()[0] for commit in await m3.line()] == ["begin", "m1 1", "m2 1", "m2 2"]
            fsck(m3.repository)

    run(test())


def test_commits_that_come_while_lines_are_joined_are_merged_as_well(tmp_path: Path) -> None:
    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            theirs: list[Texts] = [{f"global/t{n}": "1\n"} for n in range(10)]
            await diverge(m1, m2, [{"global/mine": "1\n"}], theirs)
            await m2.again(writer="m1")
            await m1.again(writer="m1")
            for n in range(10):
                await m1.made({f"global/o{n}": "1\n"}, f"meanwhile {n}")
            await same_line(m1, m2)
            assert len(await m1.line()) == 22
            assert len(await m1.texts()) == 4 + 1 + 20

    run(test())


def test_the_confirmed_revision_is_never_of_the_line_that_was_left(tmp_path: Path) -> None:
    """With replicas_min 2 the joined line counts when both have it; until then m2 tells nodes nothing new."""

    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            await diverge(m1, m2, [{"global/mine": "1\n"}], [{"global/b": "2\n"}])
            seen: list[tuple[int, bool]] = []

            def look() -> None:
                confirmed = m2.store.confirmed()
                assert confirmed is None or m2.store._repository.on_main(confirmed.id)
                seen.append((m2.confirmed(), confirmed is not None))

            m1.replicas_min = m2.replicas_min = 2
            await m2.again(writer="m1")
            m2.store.on_change.append(look)
            await m1.again(writer="m1")
            await same_line(m1, m2)
            assert seen[-1] == (3, True)

    run(test())


# ---------------------------------------------------------------------- rollouts


def document(number: int) -> dict[str, File | None]:
    return {"rollout.json": File(b'{"schema": 1, "held": null, "rollout": null}' + b"\n" * number)}


@pytest.mark.parametrize("writer", ["m1", "m2"])
def test_of_two_rollout_lines_the_writer_s_wins(tmp_path: Path, writer: str) -> None:
    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            await diverge(m1, m2, [{"global/mine": "1\n"}], [{"global/theirs": "2\n"}])
            tips = {}
            for member, number in ((m1, 1), (m2, 2)):
                repository = Repository.open(member.repository)
                tips[member.name] = commit_there(repository, document(number), ref=ROLLOUT).id
                repository.close()
            await reunite(m1, m2, writer)
            assert (await m1.refs())[ROLLOUT] == (await m2.refs())[ROLLOUT] == tips[writer]

    run(test())


def test_what_was_held_back_stays_so_when_a_peer_s_revisions_are_taken_over(tmp_path: Path) -> None:
    """Ids and rollouts come as they are: nothing is decided again. Where rollouts differ, it is."""

    async def test(*, differ: bool) -> None:
        home = tmp_path / str(differ)
        home.mkdir()
        async with members(home, 2, begin=False) as (m1, m2):
            await diverge(m1, m2, [], [{"global/b": "2\n"}, {"global/b": "3\n"}])
            repository = Repository.open(m2.repository)
            commit_there(repository, document(1), ref=ROLLOUT)
            tip = commit_there(repository, document(2), ref=ROLLOUT).id
            repository.close()
            if differ:
                repository = Repository.open(m1.repository)
                tip = commit_there(repository, document(3), ref=ROLLOUT).id
                repository.close()
            held: list[Sequence[str]] = []

            def hold(_repository: Repository, _commit: Commit, paths: Sequence[str]) -> None:
                held.append(paths)

            await m2.again(writer="m1")
            await m1.begin(hold=hold)
            await same_line(m1, m2)
            assert held == ([["global/b"]] if differ else [])
            assert (await m1.refs())[ROLLOUT] == (await m2.refs())[ROLLOUT] == tip
            assert [commit.message for commit in await m1.line()] == ["begin", "m2 1", "m2 2"]

    run(test(differ=False))
    run(test(differ=True))


# ---------------------------------------------------------------------- what is refused


def test_two_writers_at_once_go_on_by_themselves_and_say_so(tmp_path: Path) -> None:
    """Nothing passes between them, not even what could be merged; it does when one gives in."""

    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            await diverge(m1, m2, [{"global/mine": "1\n"}], [{"global/theirs": "2\n"}])
            await m1.again(writer="m1")
            await m2.again(writer="m2")
            for one, other in ((m1, "m2"), (m2, "m1")):
                await until(lambda one=one: one.replication.peers()[0].state == "refused", "refused")  # type: ignore[misc]
                error = one.peer(other).error
                assert f"manager {other} takes itself for the writer" in error
                assert "same [config] writer" in error
            await m1.made({"global/mine": "2\n"}, "m1 2")
            await m2.made({"global/theirs": "3\n"}, "m2 2")
            assert len(await m1.line()) == len(await m2.line()) == 3
            assert not any(name.startswith((SIDE, JOINED, JOINING)) for name in await m1.refs())
            await m2.again(writer="m1")
            await same_line(m1, m2)
            assert len(await m1.line()) == 5

    run(test())


def test_another_repository_is_never_mixed_with_ours(tmp_path: Path) -> None:
    """Both have an r1 of their own: refused, with what to do; and it goes on when that was done."""

    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            m1.lay({"global/a": File(b"1")})
            m2.lay({"global/a": File(b"2")}, {"global/a": File(b"3")})
            was = await read_refs(m2)
            await m1.begin()
            await m2.begin()
            await until(lambda: "another repository" in m1.replication.peers()[0].error, "refused")
            assert m1.peer("m2").state == "refused"
            assert "keep one of them" in m1.peer("m2").error
            assert await m2.refs() == was
            await m2.end()
            shutil.rmtree(m2.home)
            await m2.begin()
            await same_line(m1, m2)

    run(test())


def test_a_line_with_a_name_that_no_commit_brings_is_refused(tmp_path: Path) -> None:
    """A manager that was changed by hand, or lies: what git itself would stumble over does not come in."""

    async def test(*, ahead: bool) -> None:
        home = tmp_path / str(ahead)
        home.mkdir()
        async with members(home, 2, begin=False) as (m1, m2):
            await diverge(m1, m2, [] if ahead else [{"global/mine": "1\n"}], [])
            m2.lay({"global/.git/hooks": File(b"x")})
            await m1.again(writer="m1")
            was = await m1.refs()
            await m2.begin_as("m1")
            await until(lambda: ".git" in m1.replication.peers()[0].error, "refused")
            assert m1.peer("m2").state == "refused"
            assert await m1.refs() == was

    run(test(ahead=True))
    run(test(ahead=False))


# ---------------------------------------------------------------------- dying in between


@dataclass(frozen=True)
class State:
    """What must be the same however the join went. Ids of what was committed again have its time in them."""

    files: dict[str, str]
    line: list[tuple[int, str, str]]
    kept: dict[str, str]

    @classmethod
    def of(cls, repository: Repository) -> "State":
        head = repository.head()
        entries = repository.files(head)
        return cls(
            {path: repository.content(entry).decode() for path, entry in entries.items()},
            [(commit.revision, commit.author, commit.message) for commit in repository.log()],
            {name: tip for name, tip in repository.refs().items() if name not in {MAIN, CONFIRMED}},
        )


@contextlib.asynccontextmanager
async def a_writer(home: Path, fs: FileSystem) -> AsyncIterator[Store]:
    store = Store(home / "config.git", manager="m1", fs=fs)
    await store.begin()
    try:
        yield store
    finally:
        await store.end()


async def gather_all(store: Store, peer: Peer) -> None:
    await gather(store, peer, await peer.refs(), asyncio.Lock())


@contextlib.asynccontextmanager
async def a_diverged_peer(tmp_path: Path) -> AsyncIterator[tuple[Path, Peer]]:
    """m1's data while it is down, and m2, which has revisions that merge, that conflict, that change nothing."""
    async with members(tmp_path, 2, begin=False) as (m1, m2):
        ours: list[Texts] = [{"global/a.toml": "x = 2\ny = 1\n", "global/b": "2\n", "global/same": "1\n"}]
        theirs: list[Texts] = [
            {"global/a.toml": "x = 1\ny = 2\n"},
            {"global/a.toml": "x = 1\ny = 3\n", "global/b": "3\n"},
            {"global/same": "1\n"},
            {"global/c": "2\n"},
            {"global/c": "1\n"},
        ]
        await diverge(m1, m2, ours, theirs)
        await m1.end()
        await m2.begin_as("m1")
        peer = Peer(m2.address, None)
        try:
            yield m1.home, peer
        finally:
            await peer.close()


@pytest.mark.parametrize("sticky", [False, True])
def test_a_join_that_ends_anywhere_ends_in_the_same_state_when_it_is_done_again(
    tmp_path: Path, *, sticky: bool
) -> None:
    """A file operation fails, once, or this one and all after it and then the process dies; at every N-th place."""

    async def test() -> None:
        async with a_diverged_peer(tmp_path) as (home, peer):
            wanted, operations = await whole(home, peer)
            assert len(wanted.line) == 2 + 4, "one of the five changes nothing"
            assert [name for name in wanted.kept if name.startswith(SIDE)] == [f"{SIDE}m2-r6"]
            assert len(wanted.kept) == 1
            step = max(1, operations // (operations if LONG else 6))
            for fail_at in range(1 + FIRST % step, operations + 1, step):
                assert await broken(home, peer, fail_at) == wanted, f"operation {fail_at} of {operations}"

    async def whole(home: Path, peer: Peer) -> tuple[State, int]:
        fs = FaultyFs()
        copy = tmp_path / "whole"
        shutil.copytree(home, copy)
        async with a_writer(copy, fs) as store:
            before = fs.operations
            await gather_all(store, peer)
            operations = fs.operations - before
            return await store.read(State.of), operations

    async def broken(home: Path, peer: Peer, fail_at: int) -> State:
        copy = tmp_path / f"broken-{fail_at}"
        shutil.copytree(home, copy)
        fs = FaultyFs(sticky=sticky)
        async with a_writer(copy, fs) as store:
            fs.fail_at = fs.operations + fail_at
            with contextlib.suppress(JlogdError):  # none when CONFIRMED could not be moved: that is made up for
                await gather_all(store, peer)
            if not sticky:
                await gather_all(store, peer)
        async with a_writer(copy, OS) as store:
            await gather_all(store, peer)
            state = await store.read(State.of)
        fsck(copy / "config.git")
        shutil.rmtree(copy)
        return state

    run(test(), 600.0 if LONG else 60.0)


def test_a_join_that_another_line_follows_keeps_what_it_did(tmp_path: Path) -> None:
    """The peer's disk is replaced in the middle of a join: its first line stays reachable, its second one is joined."""

    async def test() -> None:
        async with members(tmp_path, 2, begin=False) as (m1, m2):
            await diverge(m1, m2, [{"global/b": "2\n"}], [{"global/c": "2\n"}, {"global/b": "3\n"}])
            repository = Repository.open(m2.repository)
            refs = repository.refs()
            first = repository.at(repository.commit(refs[MAIN]).revision).parent  # m2's r2
            repository.close()
            await m1.end()
            await m2.begin_as("m1")
            peer = Peer(m2.address, None)
            async with a_writer(m1.home, OS) as store:
                replay = store.replay
                replayed: list[CommitId] = []

                async def once(commit: CommitId, *args: object, **more: object) -> object:
                    if replayed:
                        raise ConflictError("enough")
                    replayed.append(commit)
                    return await replay(commit, *args, **more)  # type: ignore[arg-type]

                store.replay = once  # type: ignore[method-assign,assignment]
                with pytest.raises(ConflictError):
                    await gather_all(store, peer)
                assert replayed == [first]
                assert (await store.read(Repository.refs))[f"{JOINING}m2-done"] == first
            await peer.close()
            await m2.end()
            repository = Repository.open(m2.repository)
            root = repository.at(1)  # type: ignore[arg-type]
            other = store_there(repository, {"global/keep": File(b"2\n")}, "another", parent=root)
            repository.advance({MAIN: (refs[MAIN], other), CONFIRMED: (refs[CONFIRMED], None)})
            repository.close()
            await reunite(m1, m2, "m1")
            refs = await m1.refs()
            assert refs[f"{JOINED}m2-r2"] == first
            assert refs[f"{JOINED}m2-r2-{other[:8]}"] == other
            assert not any(name.startswith(JOINING) for name in refs)
            texts = await m1.texts()
            assert (texts["global/c"], texts["global/keep"], texts["global/b"]) == ("2\n", "2\n", "2\n")

    run(test())


def test_gathering_from_an_equal_peer_does_nothing(tmp_path: Path) -> None:
    """No fetch, no write: it is done after every question."""

    async def test() -> None:
        async with a_diverged_peer(tmp_path) as (home, peer):
            fs = FaultyFs()
            async with a_writer(home, fs) as store:
                await gather_all(store, peer)
                before = fs.operations
                await gather_all(store, peer)
                assert fs.operations == before

    run(test())


def test_a_line_of_too_many_revisions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("managerd.ecconfigd.lineage.BESIDE_MAX", 3)

    async def test() -> None:
        async with a_diverged_peer(tmp_path) as (home, peer), a_writer(home, OS) as store:
            was = await store.read(Repository.refs)
            with pytest.raises(RefusedError, match="more than 3 revisions"):
                await gather_all(store, peer)
            assert await store.read(Repository.refs) == was

    run(test())
