"""What a commit says when it takes a node's directory to where the node does not look for it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jlogd.confrepo import signing
from jlogd.confrepo.model import ACCESS_FILE, REGULAR, File, Scope
from managerd import pki
from managerd.ecconfigd import placement
from managerd.ecconfigd.edits import Copy, Delete, Edit, Put
from managerd.ecconfigd.store import CommitRequest, Outcome, Result, Store
from managerd.v1 import config_pb2 as pb
from tests.support import certificates
from tests.support.config_service import serving
from tests.support.serving import run

ALICE = "operator:alice"
RULES = b"""
[[rule]]
who = ["node:web1"]
paths = ["db/**"]
allow = ["commit"]

[[rule]]
who = ["role:operator"]
paths = ["**"]
allow = ["read", "commit"]
"""
KNOWN = (Scope("default", "web3"), Scope("web", "web1"))


def put(path: str) -> Put:
    return Put(path, File(b"1"))


@contextlib.asynccontextmanager
async def opened(home: Path, **more: Any) -> AsyncIterator[Store]:
    store = Store(home / "config.git", manager="m1", nodes=lambda: KNOWN, **more)
    await store.begin()
    try:
        yield store
    finally:
        await store.end()


async def make(store: Store, *edits: Edit, dry_run: bool = False) -> Result:
    return await store.commit(CommitRequest("a change", edits, dry_run=dry_run), ALICE)


def test_a_directory_where_the_node_does_not_say_that_it_is_gets_a_note(tmp_path: Path) -> None:
    """Stored all the same; a check says it too; a later commit that does not touch the node says nothing."""

    async def test() -> None:
        async with opened(tmp_path) as store:
            for dry_run in (True, False):
                made = await make(store, put("defualt/web3/z"), dry_run=dry_run)
                assert made.outcome is (Outcome.GOOD if dry_run else Outcome.COMMITTED)
                (note,) = made.notes
                assert note.startswith("node web3 says that it is of subcluster default: with only defualt/web3 it")
            assert (await make(store, put("global/a"))).notes == ()
            assert (await make(store, Delete("defualt"), put("default/web3/z"))).notes == ()

    run(test())


def test_the_last_directory_of_its_own_goes(tmp_path: Path) -> None:
    """With one in two subclusters either is taken; without its own the node is refused."""

    async def test() -> None:
        async with opened(tmp_path) as store:
            await make(store, put("web/web1/z"))
            (note,) = (await make(store, Copy("web/web1", "db/web1"))).notes
            assert "node web1 has directories in 2 subclusters: db/web1, web/web1" in note
            (note,) = (await make(store, Delete("web/web1"))).notes
            assert "says that it is of subcluster web: with only db/web1" in note
            assert (await make(store, Delete("db/web1"))).notes == ()

    run(test())


def test_who_is_nobody_s_node_gets_no_note(tmp_path: Path) -> None:
    """A node that never came, layers of nobody in particular, what a node saved of itself, files beside directories."""

    async def test() -> None:
        async with opened(tmp_path) as store:
            paths = "db/db1/z", "db/default/z", "running/web3/z", "global/web3/z", "db/web3"
            assert (await make(store, *map(put, paths))).notes == ()

    run(test())


def test_a_commit_of_many_nodes_has_not_more_notes_than_people_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one counts the rest."""
    monkeypatch.setattr(placement, "NOTES_MAX", 2)
    assert placement.shortened([str(number) for number in range(2)]) == ("0", "1")
    assert placement.shortened([str(number) for number in range(5)]) == ("0", "1", "and 3 more nodes like these")


def test_a_signed_commit_says_it_when_it_is_published(tmp_path: Path) -> None:
    """What was found when it was prepared is kept until then."""
    home = tmp_path / "pki"
    pki.init(home)
    pki.issue("manager", "m1", home)
    pki.issue("operator", "alice", home)
    alice = certificates.files(home, "alice")

    async def test() -> None:
        async with opened(tmp_path, tls=certificates.files(home, "m1")) as store:
            made = await store.commit(CommitRequest("a change", (put("defualt/web3/z"),), prepare=True), ALICE)
            signature = signing.sign(made.prepared, alice.cert.read_bytes(), alice.key.read_bytes())
            published = await store.publish(made.prepared, signature, ALICE)
            assert published.outcome is Outcome.COMMITTED
            assert "node web3 says" in published.notes[0]

    run(test())


def test_a_node_hears_nothing_of_others(tmp_path: Path) -> None:
    """Whoever let it commit elsewhere did not let it read there."""

    async def test() -> None:
        async with opened(tmp_path) as store:
            await make(store, Put(ACCESS_FILE, File(RULES)))
            request = CommitRequest("a change", (put("db/web3/z"),))
            made = await store.commit(request, "node:web1", Scope("web", "web1"))
            assert (made.outcome, made.notes) == (Outcome.COMMITTED, ())

    run(test())


def test_the_service_passes_notes_on(tmp_path: Path) -> None:
    """Of a node that was attached once, in the answer to whoever commits."""

    async def test() -> None:
        async with serving(tmp_path) as m1:
            m1.parts.registry.attached("web3", "default")
            m1.parts.registry.detached("web3")
            edit = pb.Edit(put=pb.Put(path="defualt/web3/z", mode=REGULAR, size=0))
            header = pb.CommitHeader(message="A change", edits=[edit])
            answer = await m1.stub.Commit(iter([pb.CommitRequest(header=header)]))
            assert ["node web3 says" in note for note in answer.notes] == [True]

    run(test())
