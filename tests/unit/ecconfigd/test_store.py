"""The store: what a commit must pass, what it leaves, who hears of it."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from jlogd.confrepo import objects, signing
from jlogd.confrepo.model import ACCESS_FILE, Commit, CommitId, File, Revision, Scope
from jlogd.confrepo.repository import CONFIRMED, MAIN, ROLLOUT, SIDE, Repository
from jlogd.runtime.errors import ConflictError, NotPermittedError, RefusedError, StorageError, UnavailableError
from jlogd.runtime.fs import FileSystem
from jlogd.runtime.rpc import TlsFiles
from managerd import pki
from managerd.ecconfigd import store as store_module
from managerd.ecconfigd.committer import JOINED
from managerd.ecconfigd.edits import Copy, Delete, Edit, Put, Revert, Rollback
from managerd.ecconfigd.store import CommitRequest, NotWriterError, Outcome, Result, Store
from tests.support import certificates
from tests.support.faulty_fs import FaultyFs
from tests.support.managers import HastyFs, until
from tests.support.revisions import commit as commit_there
from tests.support.revisions import fsck, git
from tests.support.revisions import store as store_there
from tests.support.serving import run

ALICE = "operator:alice"


def put(path: str, text: str) -> Put:
    return Put(path, File(text.encode()))


@contextlib.asynccontextmanager
async def opened(home: Path, **more: Any) -> AsyncIterator[Store]:
    store = Store(home / "config.git", manager="m1", **more)
    await store.begin()
    try:
        yield store
    finally:
        await store.end()


async def make(store: Store, *edits: Edit, base: str = "", author: str = ALICE, **more: Any) -> Result:
    return await store.commit(CommitRequest("a change", edits, base, **more), author)


async def texts(store: Store) -> dict[str, str]:
    def read(repository: Repository) -> dict[str, str]:
        found = repository.files(repository.head())
        return {path: repository.content(entry).decode() for path, entry in found.items()}

    return await store.read(read)


# ---------------------------------------------------------------------- commits


def test_a_commit_is_a_revision_that_git_reads(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            assert store.head() is None
            first = await make(store, put("global/a", "1\n"))
            second = await make(store, put("web/web1/b", "2\n"), Delete("global/a"))
            assert [first.outcome, second.outcome] == [Outcome.COMMITTED] * 2
            assert second.paths == ("global/a", "web/web1/b")
            head = store.head()
            assert head == second.commit
            assert head is not None
            assert first.commit is not None
            assert (head.revision, head.author, head.parent) == (2, ALICE, first.commit.id)
            assert store.confirmed() == head
            assert store.serial() == 2
            assert await texts(store) == {"web/web1/b": "2\n"}
        assert (
            git(tmp_path / "config.git", "log", "--format=%an <%ae> %s", "main").splitlines()
            == ["alice <operator:alice@jlogd> a change"] * 2
        )
        fsck(tmp_path / "config.git")

    run(test())


def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            made = await make(store, put("global/a", "1\n"))
        async with opened(tmp_path) as store:
            assert store.head() == made.commit == store.confirmed()
            assert (await make(store, put("global/a", "1\n"))).outcome is Outcome.NOTHING

    run(test())


def test_a_commit_on_an_old_base_is_merged_per_key(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            await make(store, put("global/a.toml", "x = 1\ny = 1\n"))
            await make(store, put("global/a.toml", "x = 2\ny = 1\n"), put("global/other", "o"))
            merged = await make(store, put("global/a.toml", "x = 1\ny = 3\n"), base="r1")
            assert (merged.outcome, merged.merged, merged.paths) == (Outcome.COMMITTED, True, ("global/a.toml",))
            assert await texts(store) == {"global/a.toml": "x = 2\ny = 3\n", "global/other": "o"}
            late = await make(store, put("global/a.toml", "x = 5\ny = 1\n"), base="r1")
            assert late.outcome is Outcome.CONFLICT
            (conflict,) = late.conflicts
            assert (conflict.path, conflict.keys) == ("global/a.toml", ("x",))
            assert (conflict.mine, conflict.theirs) == (b"x = 5\ny = 1\n", b"x = 2\ny = 3\n")
            same = await make(store, put("global/a.toml", "x = 2\ny = 1\n"), base="r1")
            assert same.outcome is Outcome.NOTHING
            head = store.head()
            assert head is not None
            assert head.revision == 3

    run(test())


def test_copy_revert_and_rollback_are_revisions(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            await make(store, put("web/web1/a.toml", "x = 1\n"))
            await make(store, put("web/web1/a.toml", "x = 1\ny = 2\n"))
            await make(store, Copy("web/web1", "web/web2"))
            await make(store, Revert("r2"))
            assert await texts(store) == {"web/web1/a.toml": "x = 1\n", "web/web2/a.toml": "x = 1\ny = 2\n"}
            await make(store, Rollback("r1"))
            assert await texts(store) == {"web/web1/a.toml": "x = 1\n"}
            head = store.head()
            assert head is not None
            assert head.revision == 5

    run(test())


@pytest.mark.parametrize(
    ("edit", "path", "word"),
    [
        (put("nowhere/x", "1"), "nowhere/x", "layer"),
        (put("global/.git/x", "1"), "global/.git/x", "git"),
        (put("global/../x", "1"), "global/../x", ".."),
        (put("global/A", "1"), "global/A", "case"),
        (put("global/a/b", "1"), "global/a/b", "directory"),
        (put("global/b.toml", "x = \n"), "global/b.toml", ""),
        (put(ACCESS_FILE, "rule = 1\n"), ACCESS_FILE, "tables"),
        (Delete("global/none"), "global/none", "not there"),
        (Put("global/c", File(b"", 0o100600)), "global/c", "mode"),
        (Put("global/l", File(b"../../etc/passwd", 0o120000)), "global/l", ""),
    ],
)
def test_what_is_refused_names_the_file_and_leaves_nothing(tmp_path: Path, edit: Edit, path: str, word: str) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            made = await make(store, put("global/a", "1"))
            refused = await make(store, edit, put("global/good", "1"))
            assert refused.outcome is Outcome.REFUSED
            assert [fault.path for fault in refused.faults] == [path]
            assert word in refused.faults[0].problem
            assert store.head() == made.commit
            assert (await make(store, edit, dry_run=True)).outcome is Outcome.REFUSED

    run(test())


def test_a_dry_run_stores_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            good = await store.commit(CommitRequest("", [put("global/a", "1")], dry_run=True), ALICE)
            assert (good.outcome, good.paths) == (Outcome.GOOD, ("global/a",))
            assert store.head() is None
            assert (await make(store, Copy("x", "y"), dry_run=True)).outcome is Outcome.REFUSED

    run(test())
    assert not list((tmp_path / "config.git" / "objects").glob("??/*"))


def test_words_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            await make(store, put("global/a", "1"))
            for message in ("", "  \n", "x" * 17_000, "\0"):
                with pytest.raises(RefusedError):
                    await store.commit(CommitRequest(message, [put("global/a", "2")]), ALICE)
            for base in ("r7", "nonsense", "00000000"):
                with pytest.raises(RefusedError):
                    await make(store, put("global/a", "2"), base=base)
            assert (await make(store)).outcome is Outcome.NOTHING
        async with opened(tmp_path, writer=False) as store:
            with pytest.raises(NotWriterError):
                await make(store, put("global/a", "2"))

    run(test())


# ---------------------------------------------------------------------- rights


RULES = """
[[rule]]
who = ["operator:alice"]
paths = ["**"]
allow = ["read", "commit"]
[[rule]]
who = ["operator:bob"]
paths = ["web/**"]
allow = ["commit"]
"""


def test_rights_of_head_decide_about_each_changed_path(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            await make(
                store, put("global/a.toml", "x = 1\n"), put("web/default/b.toml", "x = 1\n"), author="operator:bob"
            )
            await make(store, put(ACCESS_FILE, RULES))
            assert (await make(store, put("web/web1/x", "1"), author="operator:bob")).outcome is Outcome.COMMITTED
            for edits in (
                [put("global/a.toml", "x = 2\n")],
                [put("web/web1/x", "2"), put(ACCESS_FILE, RULES.replace("web/", ""))],
                [Delete(ACCESS_FILE)],
                [Copy("global/a.toml", "web/web1/a.toml")],  # would let him read it
                [Copy("web/web1/x", "global/x")],
                [Revert("r1")],
                [Rollback("r1")],
            ):
                with pytest.raises(NotPermittedError, match=r"operator:bob may not \w+ "):
                    await make(store, *edits, author="operator:bob")
            await make(store, put("web/default/b.toml", "x = 3\n"))
            with pytest.raises(NotPermittedError, match="may not read web/default/b"):  # both sides would be shown
                await make(store, put("web/default/b.toml", "x = 2\n"), base="r1", author="operator:bob")
            with pytest.raises(NotPermittedError, match="operator:carol"):
                await make(store, put("web/web1/x", "3"), author="operator:carol")
            locked_out = await make(store, put(ACCESS_FILE, RULES.replace('"**"', '"web/**"')))
            assert locked_out.outcome is Outcome.REFUSED

    run(test())


def test_faults_tell_nothing_of_files_that_one_may_not_read(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            rules = RULES.replace('paths = ["web/**"]', 'paths = ["web/**", "schemas/**"]')
            await make(store, put("web/web1/a.toml", 'hidden = "value"\n'), put(ACCESS_FILE, rules))
            strict = put("schemas/a.toml.json", '{"properties": {"hidden": {"type": "integer"}}}')
            seen = await make(store, strict, dry_run=True)
            assert [fault.line for fault in seen.faults] == [1]
            assert "value" in seen.faults[0].problem
            veiled = await make(store, strict, author="operator:bob")
            assert [(fault.path, fault.line) for fault in veiled.faults] == [("web/web1/a.toml", 1)]
            assert "value" not in veiled.faults[0].problem

    run(test())


def test_a_node_commits_what_it_runs_and_nothing_else(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            scope = Scope("web", "web1")
            request = CommitRequest("what I run", [put("running/web1/broken.toml", "not = = toml")])
            assert (await store.commit(request, "node:web1", scope)).outcome is Outcome.COMMITTED
            for path in ("running/web2/a", "web/web1/a", "global/a"):
                with pytest.raises(NotPermittedError):
                    await store.commit(CommitRequest("mine", [put(path, "1")]), "node:web1", scope)

    run(test())


# ---------------------------------------------------------------------- signed commits


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    home = tmp_path_factory.mktemp("pki")
    pki.init(home)
    pki.issue("manager", "m1", home)
    for name in ("alice", "bob"):
        pki.issue("operator", name, home)
    return {name: certificates.files(home, name) for name in ("m1", "alice", "bob")}


def signed(content: bytes, files: TlsFiles) -> bytes:
    return signing.sign(content, files.cert.read_bytes(), files.key.read_bytes())


def test_what_was_prepared_is_published_with_its_author_signature(tmp_path: Path, people: dict[str, TlsFiles]) -> None:
    async def test() -> None:
        async with opened(tmp_path, tls=people["m1"]) as store:
            prepared = await make(store, put("global/a", "1"), prepare=True)
            assert prepared.outcome is Outcome.PREPARED
            assert store.head() is None
            content = prepared.prepared
            for signature in (b"", b"AAAA", signed(content, people["bob"]), signed(content + b"x", people["alice"])):
                with pytest.raises(RefusedError):
                    await store.publish(content, signature, ALICE)
            with pytest.raises(NotPermittedError):
                await store.publish(content, signed(content, people["bob"]), "operator:bob")
            good = signed(content, people["alice"])
            published = await store.publish(content, good, ALICE)
            assert published.outcome is Outcome.COMMITTED
            head = store.head()
            assert head is not None
            assert head.signature == good
            with pytest.raises(ConflictError):  # it is not a second time
                await store.publish(content, good, ALICE)

    run(test())
    fsck(tmp_path / "config.git")


def test_what_was_prepared_on_another_head_is_prepared_again(tmp_path: Path, people: dict[str, TlsFiles]) -> None:
    async def test() -> None:
        async with opened(tmp_path, tls=people["m1"]) as store:
            prepared = await make(store, put("global/a", "1"), prepare=True)
            await make(store, put("global/b", "1"))
            with pytest.raises(ConflictError, match="prepare it again"):
                await store.publish(prepared.prepared, signed(prepared.prepared, people["alice"]), ALICE)
        async with opened(tmp_path) as store:
            with pytest.raises(ConflictError):
                await store.publish(b"tree ", b"x", ALICE)
            assert store.sign_own(b"anything") == b""

    run(test())


# ---------------------------------------------------------------------- who hears of it


def test_whoever_listens_is_told_before_the_answer_and_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            seen: list[int] = []
            store.on_change.append(lambda: seen.append(store.serial()))
            await make(store, put("global/a", "1"))
            assert seen == [1]
            await make(store, put("global/a", "1"))
            await store.write(lambda _: None)
            assert seen == [1]
            await store.write(lambda repository: commit_there(repository, {"rollout.json": File(b"{}")}, ref=ROLLOUT))
            assert seen == [1, 2]

    run(test())


def test_what_is_held_is_decided_before_it_is_visible(tmp_path: Path) -> None:
    async def test() -> None:
        asked: list[tuple[int, list[str], Commit | None, bool]] = []

        def hold(repository: Repository, new: Commit, paths: Any) -> str:
            asked.append((new.revision, list(paths), repository.head(), new.id in repository.store))
            return "it waits"

        store = Store(tmp_path / "config.git", manager="m1")
        store.hold = hold
        await store.begin()
        try:
            made = await make(store, put("global/a", "1"))
            assert made.held == "it waits"
            assert asked == [(1, ["global/a"], None, True)]
            await make(store, put("global/b", "1"), dry_run=True)
            assert len(asked) == 1
        finally:
            await store.end()

    run(test())


def test_many_writers_are_in_line_and_the_line_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WAITING_MAX", 5)

    async def test() -> None:
        async with opened(tmp_path) as store:
            gate = threading.Event()
            waiting = asyncio.create_task(store.write(lambda _: gate.wait(20)))
            await asyncio.sleep(0)
            commits = [asyncio.create_task(make(store, put(f"global/{n}", "1"))) for n in range(4)]
            await asyncio.sleep(0)
            with pytest.raises(UnavailableError):
                await make(store, put("global/late", "1"))
            gate.set()
            results = await asyncio.gather(*commits)
            await waiting
            assert sorted(result.commit.revision for result in results if result.commit) == [1, 2, 3, 4]
            assert (await make(store, put("global/late", "1"))).outcome is Outcome.COMMITTED

    run(test())


def test_a_caller_that_goes_away_does_not_keep_others_from_hearing(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            heard = asyncio.Event()
            store.on_change.append(heard.set)
            going = threading.Event()
            go = threading.Event()

            def slow(repository: Repository) -> None:
                going.set()
                go.wait(20)
                commit_there(repository, {"global/a": File(b"1")})

            task = asyncio.create_task(store.write(slow))
            await asyncio.to_thread(going.wait, 20)
            task.cancel()
            go.set()
            await asyncio.wait_for(heard.wait(), 20)
            head = store.head()
            assert head is not None
            assert head.revision == 1

    run(test())


# ---------------------------------------------------------------------- other managers


def test_with_other_managers_a_revision_counts_when_they_have_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path, replicas_min=2) as store:
            for n in range(3):
                await make(store, put("global/a", str(n)))
            assert store.confirmed() is None
            await store.confirm(Revision(2))
            await store.confirm(Revision(1))
            confirmed = store.confirmed()
            assert confirmed is not None
            assert (confirmed.revision, store.serial()) == (2, 2)
        async with opened(tmp_path, replicas_min=2) as store:
            confirmed = store.confirmed()
            assert confirmed is not None
            assert confirmed.revision == 2
            await store.confirm(Revision(9))
            assert store.confirmed() == store.head()

    run(test())


def test_a_follower_shows_what_the_writer_says_and_not_more_than_it_has(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path, writer=False) as store:
            await store.refresh(Revision(5))
            assert store.confirmed() is None
            first = await store.write(lambda repository: commit_there(repository, {"global/a": File(b"1")}))
            await store.refresh(Revision(5))
            assert store.confirmed() == first
            other = await store.write(lambda repository: store_there(repository, {"global/b": File(b"")}, parent=None))
            await store.write(lambda repository: repository.advance({MAIN: (first.id, other)}))
            assert store.confirmed() is None, "what was confirmed is not of this line"
            await store.refresh(Revision(1))
            confirmed = store.confirmed()
            assert confirmed is not None
            assert confirmed.id == other

    run(test())


def loose(home: Path) -> int:
    """How many objects are files of their own."""
    return sum(1 for _ in (home / "config.git/objects").glob("[0-9a-f][0-9a-f]/*"))


def test_a_follower_packs_what_the_writer_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It commits nothing itself, and gets three objects a revision all the same."""
    monkeypatch.setattr(objects, "LOOSE_MAX", 60)
    monkeypatch.setattr(store_module, "QUIET_S", 0.0)

    def take(repository: Repository) -> None:
        head = repository.head()
        commit_there(repository, {"global/a": File(b"%d" % (head.revision if head else 0))})

    async def test() -> None:
        async with opened(tmp_path, writer=False, fs=HastyFs()) as store:
            for number in range(1, 61):
                await store.refresh(Revision(number), take)
            await until(lambda: loose(tmp_path) <= 60, "loose objects are packed")
            head = store.head()
            assert head is not None
            assert head.revision == 60
        fsck(tmp_path / "config.git")

    run(test())


def test_a_store_that_opens_packs_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was killed again and again had no quiet moment for it."""
    with contextlib.closing(Repository.open(tmp_path / "config.git", fs=HastyFs())) as repository:
        for number in range(30):
            commit_there(repository, {"global/a": File(b"%d" % number)})
    assert loose(tmp_path) > 60
    monkeypatch.setattr(objects, "LOOSE_MAX", 60)

    async def test() -> None:
        async with opened(tmp_path, writer=False, fs=HastyFs()) as store:
            await until(lambda: loose(tmp_path) == 0, "loose objects are packed")
            assert await texts(store) == {"global/a": "29"}
        fsck(tmp_path / "config.git")

    run(test())


async def beside(store: Store, *changes: dict[str, File | None]) -> list[CommitId]:
    """A line of revisions after head that main does not have."""

    def write(repository: Repository) -> list[CommitId]:
        made: list[CommitId] = []
        for each in changes:
            parent = repository.commit(made[-1]) if made else repository.head()
            made.append(store_there(repository, each, "theirs", parent=parent, author="operator:bob"))
        return made

    return await store.write(write)


def test_a_replayed_revision_keeps_author_and_message(tmp_path: Path, people: dict[str, TlsFiles]) -> None:
    async def test() -> None:
        async with opened(tmp_path, tls=people["m1"]) as store:
            await make(store, put("global/a.toml", "x = 1\ny = 1\n"), put("global/b", "1"))
            (theirs,) = await beside(store, {"global/a.toml": File(b"x = 1\ny = 2\n"), "global/b": File(b"2")})
            await make(store, put("global/a.toml", "x = 2\ny = 1\n"), put("global/b", "3"))
            conflict = await store.replay(theirs, set(), note="Joined from manager m2")
            assert [each.path for each in conflict.conflicts] == ["global/b"]
            joined = await store.replay(theirs, {"global/b"}, note="Joined from manager m2")
            assert joined.outcome is Outcome.COMMITTED
            assert joined.commit is not None
            assert joined.commit.author == "operator:bob"
            assert joined.commit.message == f"theirs\n\nJoined from manager m2: r2 {theirs}"
            assert joined.commit.signature
            assert await texts(store) == {"global/a.toml": "x = 2\ny = 2\n", "global/b": "3"}
            again = await store.replay(theirs, {"global/b"}, note="Joined from manager m2")
            assert again.outcome is Outcome.NOTHING

    run(test())


def test_a_line_that_continues_head_is_adopted_after_validation(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            await make(store, put("global/a", "1"))
            one, two = await beside(store, {"global/b": File(b"1")}, {"global/c": File(b"1")})
            (bad,) = await beside(store, {"global/d.toml": File(b"=")})
            (deep,) = await beside(store, {"/".join(["global", *"x" * 40]): File(b"")})
            assert [(await store.adopt(tip)).outcome for tip in (bad, deep)] == [Outcome.REFUSED] * 2
            adopted = await store.adopt(two)
            assert (adopted.outcome, adopted.paths) == (Outcome.COMMITTED, ("global/b", "global/c"))
            assert (await store.adopt(two)).outcome is Outcome.NOTHING
            for tip in (one, bad):
                with pytest.raises(RefusedError, match="does not continue"):
                    await store.adopt(tip)

    run(test())


def test_side_branches_are_settled_and_stay_reachable(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as store:
            await make(store, put("web/web1/a", "1"))
            (tip,) = await beside(store, {"web/web1/a": File(b"2")})
            await store.write(lambda repository: repository.advance({SIDE + "m2-r2": (None, tip)}))
            await make(store, put(ACCESS_FILE, RULES.replace("web/", "db/")))
            with pytest.raises(NotPermittedError, match="may not commit web/web1/a"):
                await make(store, author="operator:bob", settles=["m2-r2"])
            with pytest.raises(RefusedError, match="no side branch"):
                await make(store, settles=["other"])
            assert (await make(store, settles=["m2-r2"], dry_run=True)).outcome is Outcome.GOOD
            settled = await make(store, settles=["m2-r2"])
            assert (settled.outcome, settled.commit) == (Outcome.COMMITTED, store.head())
            refs = await store.read(Repository.refs)
            assert SIDE + "m2-r2" not in refs
            assert refs[JOINED + "m2-r2"] == tip
            (other,) = await beside(store, {"web/web1/a": File(b"3")})
            await store.write(lambda repository: repository.advance({SIDE + "m2-r2": (None, other)}))
            both = await make(store, put("web/web1/a", "3"), settles=["m2-r2"])
            assert both.paths == ("web/web1/a",)
            refs = await store.read(Repository.refs)
            assert {tip, other} <= set(refs.values())
            assert SIDE + "m2-r2" not in refs

    run(test())


# ---------------------------------------------------------------------- faults


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """At whatever operation the disk fails: the answer is an error or a revision, and what is said stays true."""

    async def attempt(home: Path, fs: FileSystem) -> bool:
        try:
            async with opened(home, fs=fs) as store:
                return (await make(store, put("global/b", "2\n"))).outcome is Outcome.COMMITTED
        except StorageError:
            return False

    async def prepare(home: Path) -> None:
        async with opened(home) as store:
            await make(store, put("global/a", "1\n"))

    def check(home: Path, acknowledged: bool) -> None:
        async def after() -> None:
            async with opened(home) as store:
                head = store.head()
                assert head is not None
                assert head.revision == 2 if acknowledged else head.revision in {1, 2}
                assert store.confirmed() == head
                again = await make(store, put("global/b", "2\n"))
                assert again.outcome in {Outcome.COMMITTED, Outcome.NOTHING}
                assert await texts(store) == {"global/a": "1\n", "global/b": "2\n"}

        run(after())
        fsck(home / "config.git")

    def one(number: int, home: Path) -> int:
        run(prepare(home))
        fs = FaultyFs(number, torn=0.5)
        check(home, run(attempt(home, fs)))
        return fs.operations

    total = one(0, tmp_path / "0")
    assert total > 5
    for number in range(1, total + 1, 1 if os.environ.get("JLOGD_LONG") else 3):
        one(number, tmp_path / str(number))


def test_confirmed_is_said_by_git_as_well(tmp_path: Path) -> None:
    async def test() -> Commit | None:
        async with opened(tmp_path) as store:
            return (await make(store, put("global/a", "1"))).commit

    made = run(test())
    assert made is not None
    assert git(tmp_path / "config.git", "rev-parse", MAIN, CONFIRMED).split() == [made.id] * 2


def test_callers_hear_of_damage(tmp_path: Path) -> None:
    async def test(check: Callable[[Store], Any]) -> None:
        async with opened(tmp_path) as store:
            await check(store)

    async def raises(store: Store) -> None:
        def broken(_: Repository) -> None:
            raise StorageError("disk")

        with pytest.raises(StorageError, match="disk"):
            await store.write(broken)
        with pytest.raises(StorageError, match="disk"):
            await store.read(broken)
        assert (await make(store, put("global/a", "1"))).outcome is Outcome.COMMITTED

    run(test(raises))
