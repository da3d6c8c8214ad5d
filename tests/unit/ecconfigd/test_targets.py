"""What nodes are told, and may fetch: pictures, holds, packs."""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from jlogd.attach.messages import Gift
from jlogd.confrepo.model import CommitId, File, Revision, Scope
from jlogd.confrepo.repository import CONFIRMED, MAIN, ROLLOUT, Repository
from jlogd.runtime.errors import ConflictError, DamageError, RefusedError, StorageError
from managerd.ecconfigd import holding
from managerd.ecconfigd import packs as packs_module
from managerd.ecconfigd.conductor import StartRequest
from managerd.ecconfigd.edits import Delete, Revert
from managerd.ecconfigd.targets import take
from tests.support.faulty_fs import FaultyFs
from tests.support.revisions import fsck, store
from tests.support.rolling import ALICE, POLICY, Manager, managing, put
from tests.support.serving import run

LONG = bool(os.environ.get("JLOGD_LONG"))


def test_nobody_is_told_anything_while_the_repository_is_empty(tmp_path: Path) -> None:
    """And the first revision reaches everybody, whatever it says about rollouts."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            assert manager.targets.target("web1", "web") is None
            first = await manager.first()
            target = manager.targets.target("web1", "web")
            assert target is not None
            assert (target.revision, target.id, target.serial, target.repository) == (1, first.id, 1, first.id)
            assert (target.health, target.trial_s) == ((), 0.0)

    run(story())


def test_a_change_that_the_policy_names_is_held_back_and_what_follows_too(tmp_path: Path) -> None:
    """The answer says so and what to do; nodes keep what they have; another way round, nothing is held."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await manager.first()
            assert (await manager.commit(put("db/default/x", "2"))).held == ""
            assert manager.told("web1") == 2
            held = await manager.commit(put("web/default/x", "3"))
            assert held.held == "global/rollout.toml asks for a rollout of web/**: eccfg rollout start r3"
            assert "r4" in (await manager.commit(put("db/default/x", "4"))).held
            assert manager.told("web1") == 2
            assert manager.store.serial() == 4 + 1, "one state of the rollout line, not one a commit"
        fsck(tmp_path / "config.git")

    run(story())


def test_undoing_what_is_held_frees_what_follows(tmp_path: Path) -> None:
    """A revert brings nothing that asks for a rollout."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await manager.first()
            await manager.commit(put("web/default/x", "2"))
            await manager.commit(put("db/default/x", "3"))
            assert manager.told("web1") == 1
            assert (await manager.commit(Revert("r2"))).held == ""
            assert manager.told("web1") == 4
            assert (await manager.commit(put("web/default/x", "5"))).held
            assert manager.told("web1") == 4

    run(story())


def test_a_commit_cannot_excuse_itself(tmp_path: Path) -> None:
    """The policy before it decides; and what is held stays held when the policy goes."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await manager.first()
            held = await manager.commit(put("web/default/x", "2"), Delete("global/rollout.toml"))
            assert held.held
            assert (await manager.commit(put("web/default/x", "3"))).held, "it contains r2"
            assert manager.told("web1") == 1
            await manager.commit(put("web/default/x", "1"))
            assert manager.told("web1") == 4
            assert (await manager.commit(put("web/default/x", "5"))).held == ""
            assert manager.told("web1") == 5

    run(story())


def test_only_confirmed_revisions_are_told(tmp_path: Path) -> None:
    """Two managers must have it; until then the serial does not move either, and a free revision waits."""

    async def story() -> None:
        async with managing(tmp_path, replicas_min=2) as manager:
            await manager.first()
            assert manager.targets.target("web1", "web") is None
            await manager.store.confirm(Revision(1))
            await manager.commit(put("web/default/x", "2"))
            await manager.commit(put("web/default/x", "1"))  # 3: free, but not confirmed
            await manager.store.confirm(Revision(2))
            await manager.settled()
            assert manager.told("web1") == 1, "r2 is held back although r3 frees it"
            await manager.store.confirm(Revision(3))
            await manager.settled()
            assert manager.told("web1") == 3

    run(story())


def test_a_death_between_the_hold_and_main_holds_nothing(tmp_path: Path) -> None:
    """The commit that was never made is not waited for; another one with its number goes out."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            await manager.first()

            def die(repository: Repository) -> None:
                commit = repository.commit(store(repository, {"web/default/x": None}, parent=repository.head()))
                assert manager.targets.hold(repository, commit, ["web/default/x"])

            await manager.store.write(die)
            await manager.settled()
            assert manager.told("web1") == 1
            assert (await manager.commit(put("db/default/x", "2"))).held == ""
            assert manager.told("web1") == 2

    run(story())


def test_every_failing_write_of_a_held_commit_leaves_nodes_with_what_they_have(tmp_path: Path) -> None:
    """Fail the N-th file operation, for every N (short: every fifth): what is held reaches nobody, ever."""

    def change(repository: Repository, text: str) -> None:
        head = repository.head()
        commit_id = store(repository, {"web/default/x": File(text.encode())}, parent=head)
        assert head is not None
        assert holding.hold(repository, repository.commit(commit_id), ["web/default/x"])
        repository.advance({MAIN: (head.id, commit_id)})
        repository.advance({CONFIRMED: (head.id, commit_id)})

    def baseline(repository: Repository) -> Revision:
        picture = take(repository)
        assert picture is not None
        return picture.baseline.revision

    fresh = Repository.open(tmp_path / "fresh")
    first = store(fresh, {"global/rollout.toml": File(POLICY.encode()), "web/default/x": File(b"1")}, parent=None)
    fresh.advance({MAIN: (None, first), CONFIRMED: (None, first)})
    fresh.close()
    for number in range(1, 300, 1 if LONG else 5):
        home = tmp_path / str(number)
        shutil.copytree(tmp_path / "fresh", home)
        fs = FaultyFs()
        repository = Repository.open(home, fs=fs)
        fs.fail_at = fs.operations + number
        with contextlib.suppress(StorageError):
            change(repository, "2")
        reached, fs.fail_at = fs.operations >= fs.fail_at, 0
        assert baseline(repository) == 1
        repository.close()
        repository = Repository.open(home)
        assert baseline(repository) == 1
        with contextlib.suppress(ConflictError):  # main moved, and only the confirmation failed
            change(repository, "3")
        assert baseline(repository) == 1
        repository.close()
        if not reached:
            assert number > 20
            return
    raise AssertionError("it never ends")


def test_a_damaged_line_tells_nobody_anything_new(tmp_path: Path) -> None:
    """What may be held back is not given out; the last picture counts."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            first = await manager.first()

            def damage(repository: Repository) -> None:
                commit = store(repository, {"rollout.json": File(b"{")}, parent=None)
                repository.advance({ROLLOUT: (None, commit)})

            await manager.store.write(damage)
            with pytest.raises(DamageError, match=r"rollout\.json"):
                await manager.store.read(take)
            with pytest.raises(DamageError, match=r"rollout\.json"):
                await manager.commit(put("db/default/x", "2"))
            target = manager.targets.target("web1", "web")
            assert target is not None
            assert target.id == first.id

    run(story())


def test_the_same_refs_give_the_same_picture_elsewhere(tmp_path: Path) -> None:
    """A manager that only has the objects and refs tells the same targets under the same serial."""

    async def story() -> None:
        async with managing(tmp_path / "a") as writer, managing(tmp_path / "b", writing=False) as other:
            await writer.first()
            await writer.commit(put("web/default/x", "2"))
            writer.attach("web1", "web2")
            await writer.conductor.start(StartRequest("r2"), ALICE)
            await writer.settled()
            refs = await writer.store.read(lambda repository: repository.refs())
            pieces = await writer.store.read(lambda repository: list(repository.pack(list(refs.values()), [])))

            def copy(repository: Repository) -> None:
                repository.receive(pieces, bytes_max=1 << 20)
                repository.advance({name: (None, refs[name]) for name in (ROLLOUT, MAIN, CONFIRMED)})

            await other.store.write(copy)
            await other.settled()
            assert other.targets.picture == writer.targets.picture
            assert {other.told(node) for node in ("web1", "web2")} == {1, 2}
            assert [other.told(node) for node in ("web1", "web2")] == [writer.told(node) for node in ("web1", "web2")]

    run(story())


def test_where_a_node_belongs(tmp_path: Path) -> None:
    """The one subcluster with a directory for it; nobody guesses between two. Where it has one, it may be."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            assert manager.targets.subcluster_of("web1") is None
            await manager.first(put("web/web1/x", "1"), put("web/both/x", "1"), put("db/both/x", "1"))
            found = {name: manager.targets.subcluster_of(name) for name in ("web1", "both", "default", "nobody", "x")}
            assert found == {"web1": "web", "both": None, "default": None, "nobody": None, "x": None}
            assert manager.targets.may_be_of("nobody", "db")
            rule = '[[rule]]\nwho = ["role:operator"]\npaths = ["**"]\nallow = ["read", "commit"]\n'
            await manager.commit(put("global/access.toml", f'{rule}[members]\ndb = ["nobody"]\n'))
            asked = [("nobody", "db"), ("both", "web"), ("both", "db"), ("web1", "web"), ("web1", "db"), ("x", "web")]
            assert [each for each in asked if manager.targets.may_be_of(*each)] == asked[:4]

    run(story())


# ---------------------------------------------------------------------- packs


async def pieces(manager: Manager, node: str, want: CommitId, have: Sequence[CommitId] = ()) -> list[bytes]:
    made = await manager.targets.pack(Scope("web", node), want, have)
    return list(made) if isinstance(made, Sequence) else [piece async for piece in made]


def test_a_node_gets_what_it_is_told_and_nothing_else(tmp_path: Path) -> None:
    """Not what is held back from it; what it was told a moment ago still."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            first = await manager.first()
            second = (await manager.commit(put("db/default/x", "2"))).commit
            held = (await manager.commit(put("web/default/x", "3"))).commit
            assert second is not None
            assert held is not None
            for commit in (first, second):
                assert await pieces(manager, "web1", commit.id)
            for unknown in (held.id, CommitId("f" * 40)):
                with pytest.raises(RefusedError, match=f"web1 was not told to run {unknown[:8]}"):
                    await pieces(manager, "web1", unknown)

    run(story())


def test_nodes_that_need_the_same_objects_share_a_pack(tmp_path: Path) -> None:
    """A change in global is one pack for all; each node's first one is its own."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            first = await manager.first(put("web/web1/x", "1"), put("web/web2/x", "2"))
            assert await pieces(manager, "web1", first.id) != await pieces(manager, "web2", first.id)
            second = (await manager.commit(put("global/y", "2"))).commit
            assert second is not None
            one, two = [await manager.targets.pack(Scope("web", n), second.id, [first.id]) for n in ("web1", "web2")]
            assert one is two
            assert b"".join(one).startswith(b"PACK")  # type: ignore[arg-type]

    run(story())


def test_small_packs_go_out_beside_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as a fetch brings; nothing where much is needed, or what a node says it runs is not known here."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            first = await manager.first()
            second = (await manager.commit(put("global/x", "2"))).commit
            assert second is not None
            scopes = [Scope("web", name) for name in ("web1", "web2")]
            one, two, nothing = await manager.targets.gifts(
                [(scopes[0], second.id, first.id), (scopes[1], second.id, first.id), (scopes[0], second.id, second.id)]
            )
            fetched = await manager.targets.pack(scopes[0], second.id, [first.id])
            assert isinstance(fetched, Sequence)
            assert one is not None
            assert one == two == Gift(first.id, b"".join(fetched))
            assert nothing is None
            unknown = CommitId("0" * 40)
            (whole,) = await manager.targets.gifts([(scopes[0], second.id, unknown)])
            assert whole is not None
            assert len(whole.pack) > len(one.pack)
            monkeypatch.setattr(packs_module, "GIFT_MAX", len(one.pack))
            assert await manager.targets.gifts([(scopes[0], second.id, unknown)]) == [None]
            monkeypatch.setattr(packs_module, "GIFT_OBJECTS_MAX", 1)
            assert await manager.targets.gifts([(scopes[0], second.id, first.id)]) == [None]
            assert await manager.targets.gifts([(scopes[0], unknown, first.id)]) == [None]

    run(story())


def test_large_packs_are_read_while_they_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes, and none of them kept."""

    async def story() -> None:
        async with managing(tmp_path) as manager:
            first = await manager.first(put("web/web1/x", "1" * 10_000))
            small = await pieces(manager, "web1", first.id)
            monkeypatch.setattr(packs_module, "PACK_KEPT_MAX", 10)
            manager.targets._packs._kept.clear()
            assert not isinstance(await manager.targets.pack(Scope("web", "web1"), first.id, []), Sequence)
            assert b"".join(await pieces(manager, "web1", first.id)) == b"".join(small)

    run(story())


def test_kept_packs_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go."""

    async def story() -> None:
        monkeypatch.setattr(packs_module, "KEPT_BYTES_MAX", 3000)
        async with managing(tmp_path) as manager:
            first = await manager.first(*(put(f"web/web{number}/x", str(number)) for number in range(20)))
            for number in range(20):
                await pieces(manager, f"web{number}", first.id)
            packs = manager.targets._packs
            assert packs._kept_bytes == sum(len(piece) for kept in packs._kept.values() for piece in kept) <= 3000
            assert packs._kept

    run(story())
