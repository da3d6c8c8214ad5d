"""The configuration service: nodes, watchers, side branches, bounds, signers."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from jlogd.confrepo import signing
from jlogd.confrepo.model import Commit, CommitId, File
from jlogd.confrepo.repository import MAIN, Repository
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import JlogdError, StorageError, UnavailableError
from jlogd.runtime.rpc import TlsFiles, call_error
from managerd import pki
from managerd.ecconfigd import seeing, watching, wire
from managerd.ecconfigd import signers as signers_module
from managerd.ecconfigd.history import History
from managerd.ecconfigd.sightings import Sighting
from managerd.ecconfigd.signers import Signers
from managerd.v1 import config_pb2 as pb
from tests.support import certificates
from tests.support.config_service import error_of, report, serving
from tests.support.serving import run

# ---------------------------------------------------------------------- the fleet


def test_nodes_tells_who_runs_what(tmp_path: Path) -> None:
    """What each said last, what it should run, and which revision its report is about."""

    async def ask() -> pb.NodesResponse:
        async with serving(tmp_path) as m1:
            first = await m1.commit({"global/a": "1"})
            await m1.commit({"global/a": "2"})
            registry = m1.parts.registry
            registry.attached("web1", "web", "age1qqq")
            registry.report("web1", report(1, commit_id=first.id, drift=("a",), drift_count=3))
            registry.attached("web2", "web")
            registry.report("web2", report(1, "refused", error="no space", revision=2))
            registry.detached("web2")
            await m1.settled(2)
            return await m1.stub.Nodes(pb.NodesRequest())  # type: ignore[no-any-return]

    answer = run(ask())
    assert answer.head.revision == 2
    one, two = answer.nodes
    assert (one.name, one.revision, one.state, one.drift_count, one.target, one.recipient) == (
        "web1", 1, "applied", 3, 2, "age1qqq",
    )  # fmt: skip
    assert (two.state, two.reported, two.about, two.revision, two.error) == ("offline", "refused", 2, 1, "no space")


def test_nodes_tells_via_whom_and_who_is_silent(tmp_path: Path) -> None:
    """A peer that was never heard is named by its address."""

    async def ask() -> pb.NodesResponse:
        async with serving(tmp_path, peers=("127.0.0.1:1",)) as m1:
            m1.parts.registry.attached("web1", "web")
            m1.parts.registry.seen("m2", "web1", Sighting("web"))
            m1.parts.registry.seen("m2", "web2", Sighting("web", "age1qqq", 1, report(1)))
            return await m1.stub.Nodes(pb.NodesRequest())  # type: ignore[no-any-return]

    answer = run(ask())
    assert [(node.name, node.state, list(node.via)) for node in answer.nodes] == [
        ("web1", "pending", ["m1", "m2"]),
        ("web2", "applied", ["m2"]),
    ]
    assert list(answer.silent) == ["127.0.0.1:1"]


def test_a_watcher_hears_of_revisions_and_nodes_in_order(tmp_path: Path) -> None:
    """The present state first when he asks for it; each revision once."""

    async def ask() -> list[str]:
        async with serving(tmp_path) as m1:
            await m1.commit({"global/a": "1"})
            m1.parts.registry.attached("web1", "web")
            watch = m1.stub.Watch(pb.WatchRequest(state=True))
            heard = [named(await watch.read()) for _ in range(2)]
            await m1.commit({"global/a": "2"}, "Second")
            heard.append(named(await watch.read()))
            m1.parts.registry.report("web1", report(2))
            heard.append(named(await watch.read()))
            watch.cancel()
            return heard

    assert run(ask()) == ["r1 ['global/a']", "web1 pending", "r2 ['global/a']", "web1 applied"]


def named(event: pb.WatchResponse) -> str:
    assert event.time_ns > 0
    if event.WhichOneof("event") == "revision":
        return f"r{event.revision.revision} {list(event.revision.paths)}"
    return f"{event.node.name} {event.node.state}"


def test_a_slow_watcher_is_told_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on, and the manager's memory stays what it is."""
    monkeypatch.setattr(watching, "QUEUE_MAX", 50)

    async def ask() -> JlogdError:
        async with serving(tmp_path) as m1:
            watch = m1.stub.Watch(pb.WatchRequest())
            await watch.initial_metadata()
            for i in range(100):  # without a turn of the loop nobody can read
                m1.parts.registry.attached(f"n{i}", "web")
            return await error_of(watch)

    error = run(ask())
    assert isinstance(error, UnavailableError)
    assert "watch again" in str(error)


def test_watchers_are_ended_when_the_manager_stops(tmp_path: Path) -> None:
    """Told so, not cut off; and their number is bounded."""

    async def ask() -> tuple[JlogdError, JlogdError]:
        async with serving(tmp_path) as m1:
            watch = m1.stub.Watch(pb.WatchRequest())
            await watch.initial_metadata()
            monkey = pytest.MonkeyPatch()
            monkey.setattr(watching, "WATCHERS_MAX", 1)
            refused = await error_of(m1.stub.Watch(pb.WatchRequest()))
            monkey.undo()
            await m1.service.end(1.0)
            await m1.service.begin()  # the harness ends it again
            return await error_of(watch), refused

    stopped, refused = run(ask())
    assert "stopping" in str(stopped)
    assert isinstance(refused, UnavailableError)


def test_status_names_the_writer_and_side_branches(tmp_path: Path) -> None:
    """And of a branch only the files whose changes are nowhere else."""

    async def ask() -> pb.StatusResponse:
        async with serving(tmp_path) as m1:
            await m1.commit({"global/a.toml": "x = 1\n", "global/b": "1\n", "global/c": "1\n"})
            side = await m1.commit({"global/a.toml": "x = 2\n", "global/b": "2\n", "global/c": "2\n"})
            first = side.parent

            def diverge(repository: Any) -> None:
                repository.advance({MAIN: (side.id, first)})

            await m1.parts.store.write(diverge)
            await m1.commit({"global/a.toml": "x = 3\n", "global/b": "2\n"})
            await m1.parts.store.write(
                lambda repository: repository.advance({"refs/heads/side/m2-r2": (None, CommitId(side.id))})
            )
            return await m1.stub.Status(pb.StatusRequest())  # type: ignore[no-any-return]

    answer = run(ask())
    assert (answer.manager, answer.writer, answer.head.revision, answer.confirmed) == ("m1", "m1", 2, 2)
    assert [(branch.name, list(branch.paths)) for branch in answer.side_branches] == [
        ("m2-r2", ["global/a.toml", "global/c"])
    ]


def test_answers_about_many_nodes_stay_within_a_message() -> None:
    """Drift goes first, then long errors."""
    nodes = [pb.Node(name=f"n{i}", drift=["x" * 1000] * 100, drift_count=100, error="e" * 2000) for i in range(100)]
    fitted = wire.fit(nodes)
    assert sum(node.ByteSize() for node in fitted) <= wire.ANSWER_BYTES
    assert {node.drift_count for node in fitted} == {100}


# ---------------------------------------------------------------------- bounds


def test_who_would_wait_behind_too_many_readers_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others get their answers."""
    monkeypatch.setattr(seeing, "WAITING_MAX", 2)

    async def ask() -> list[JlogdError | pb.LogResponse]:
        async with serving(tmp_path) as m1:
            await m1.commit({"global/a": "1"})
            go_on = threading.Event()
            real = History.log

            def slow(*arguments: Any) -> pb.LogResponse:
                assert go_on.wait(20)
                return real(*arguments)

            monkeypatch.setattr(History, "log", slow)
            asked = [asyncio.ensure_future(_answer(m1.stub.Log(pb.LogRequest()))) for _ in range(5)]
            done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 3:
                done, _ = await asyncio.wait(asked, timeout=0.05)
            go_on.set()
            return await asyncio.gather(*asked)

    answers = run(ask())
    assert sum(isinstance(answer, UnavailableError) for answer in answers) == 3
    assert sum(isinstance(answer, pb.LogResponse) for answer in answers) == 2


async def _answer(call: Any) -> JlogdError | pb.LogResponse:
    try:
        return await call  # type: ignore[no-any-return]
    except grpc.aio.AioRpcError as error:
        return call_error(error, "m1")


def test_watchers_are_told_when_a_revision_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are ended with the reason, and those who come later hear of what comes later."""

    async def ask() -> tuple[JlogdError, int]:
        async with serving(tmp_path) as m1:
            watch = m1.stub.Watch(pb.WatchRequest())
            await watch.initial_metadata()

            def broken(*_: Any) -> pb.Revision:
                raise StorageError("the disk does not answer")

            with monkeypatch.context() as patched:
                patched.setattr(History, "revision", broken)
                await m1.commit({"global/a": "1"})
                error = await error_of(watch)
            again = m1.stub.Watch(pb.WatchRequest())
            await again.initial_metadata()
            await m1.commit({"global/a": "2"})
            heard = await again.read()
            again.cancel()
            return error, heard.revision.revision

    error, heard = run(ask())
    assert "the disk does not answer" in str(error)
    assert heard == 2


# ---------------------------------------------------------------------- signatures


def test_a_signer_is_named_until_his_certificate_is_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was signed by nobody, badly, or by somebody denied, was signed by nobody."""
    home = tmp_path / "pki"
    pki.init(home)
    for name in ("alice", "bob"):
        pki.issue("operator", name, home)
    pki.issue("manager", "m1", home)
    alice, bob, m1 = (certificates.files(home, name) for name in ("alice", "bob", "m1"))
    clock = ManualClock()
    signers = Signers(m1, clock=clock)
    repository = Repository.open(tmp_path / "config.git")

    def signed(files: TlsFiles | None, *, good: bool = True) -> Commit:
        draft = repository.draft(
            repository.head(), {"global/a": File(str(time.monotonic_ns()).encode())}, author="operator:alice",
            message="x", time_s=int(time.time()),
        )  # fmt: skip
        signature = signing.sign(draft.content, files.cert.read_bytes(), files.key.read_bytes()) if files else b""
        commit_id, sealed = repository.seal(draft.content, signature if good else signature[:-8] + b"AAAAAAA=")
        repository.store.add([*draft.objects, sealed])
        repository.advance({MAIN: (draft.parent, commit_id)})
        return repository.commit(commit_id)

    mine = signed(alice)
    assert signers(repository, mine) == "operator:alice"
    assert [signers(repository, commit) for commit in (signed(None), signed(bob), signed(alice, good=False))] == [
        ""
    ] * 3
    assert Signers(None)(repository, mine) == ""
    pki.revoke("alice", home)
    clock.advance(signers_module.REMEMBER_S)
    assert signers(repository, mine) == ""
