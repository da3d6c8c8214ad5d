"""Calls that change the repository: what a commit brings, what a bundle brings, passing calls on to the writer."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from jlogd.confrepo.model import FILE_BYTES_MAX, REGULAR
from jlogd.runtime.errors import (
    ConflictError,
    JlogdError,
    NotPermittedError,
    RefusedError,
    UnavailableError,
    UsageError,
)
from jlogd.runtime.rpc import TlsFiles
from managerd import pki
from managerd.ecconfigd import calls, committing
from managerd.ecconfigd.committing import Room
from managerd.v1 import config_pb2 as pb
from tests.support import certificates
from tests.support.config_service import error_of, serving
from tests.support.serving import run

Outcome = pb.CommitResponse


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    home = tmp_path_factory.mktemp("pki")
    pki.init(home)
    for role, name in (("manager", "m1"), ("manager", "m2"), ("operator", "alice"), ("node", "web1")):
        pki.issue(role, name, home)  # type: ignore[arg-type]
    return {name: certificates.files(home, name) for name in ("m1", "m2", "alice", "web1")}


def requests(texts: dict[str, bytes], *, sizes: dict[str, int] | None = None, piece: int = 1 << 20, **header: Any) \
        -> Iterator[pb.CommitRequest]:  # fmt: skip
    """What a client sends that puts these files."""
    puts = [
        pb.Edit(put=pb.Put(path=path, mode=REGULAR, size=(sizes or {}).get(path, len(content))))
        for path, content in texts.items()
    ]
    header.setdefault("message", "A change")
    yield pb.CommitRequest(header=pb.CommitHeader(edits=[*header.pop("edits", ()), *puts], **header))
    for content in texts.values():
        for at in range(0, len(content), piece):
            yield pb.CommitRequest(piece=content[at : at + piece])


async def put(stub: Any, texts: dict[str, bytes], **more: Any) -> pb.CommitResponse:
    return await stub.Commit(requests(texts, **more))  # type: ignore[no-any-return]


async def cat(stub: Any, path: str) -> bytes:
    return (await stub.Cat(pb.CatRequest(path=path))).content  # type: ignore[no-any-return]


# ---------------------------------------------------------------------- what a commit brings


def test_a_commit_s_contents_arrive_whole_and_in_order(tmp_path: Path) -> None:
    """In pieces that have nothing to do with the files; empty files have none."""
    texts = {"global/a": bytes(range(256)) * 8000, "global/empty": b"", "global/z": b"last\n"}

    async def ask() -> None:
        async with serving(tmp_path) as m1:
            answer = await put(m1.stub, texts, piece=99_991)
            assert answer.outcome == Outcome.OUTCOME_COMMITTED, answer
            assert (answer.revision.revision, answer.revision.author) == (1, "operator:local")
            assert answer.revision.confirmed
            assert {path: await cat(m1.stub, path) for path in texts} == texts

    run(ask())


@pytest.mark.parametrize(
    ("texts", "sizes", "said"),
    [
        ({"global/a": b"12345"}, {"global/a": 4}, "4 bytes were announced, and 5 sent"),
        ({"global/a": b"123"}, {"global/a": 4}, "4 bytes were announced, and 3 sent"),
        ({"global/a": b"12", "global/b": b"3"}, {"global/a": 3, "global/b": 3}, "global/b: 3 bytes were announced"),
        ({"global/a": b"1"}, {"global/a": 0}, "more content"),
    ],
)
def test_contents_that_are_not_as_announced_are_refused(
    tmp_path: Path, texts: dict[str, bytes], sizes: dict[str, int], said: str
) -> None:
    """Nothing is stored."""

    async def ask() -> None:
        async with serving(tmp_path) as m1:
            error = await error_of(m1.stub.Commit(requests(texts, sizes=sizes)))
            assert isinstance(error, UsageError)
            assert said in str(error)
            assert m1.parts.store.head() is None

    run(ask())


def test_a_stream_without_a_header_or_with_an_unknown_edit_is_refused(tmp_path: Path) -> None:
    """With words for people."""

    async def ask() -> None:
        async with serving(tmp_path) as m1:
            for stream, said in (
                ([], "header"),
                ([pb.CommitRequest(piece=b"x")], "header"),
                ([pb.CommitRequest(header=pb.CommitHeader(message="x", edits=[pb.Edit()]))], "does not know"),
            ):
                error = await error_of(m1.stub.Commit(iter(stream)))
                assert isinstance(error, UsageError), error
                assert said in str(error)

    run(ask())


def test_what_is_too_large_is_refused_before_a_byte_of_it_is_read(tmp_path: Path) -> None:
    """Each file by name; or all of them together."""

    async def ask() -> None:
        async with serving(tmp_path) as m1:
            large = await put(m1.stub, {"global/a": b""}, sizes={"global/a": FILE_BYTES_MAX + 1})
            assert large.outcome == Outcome.OUTCOME_REFUSED
            assert [fault.path for fault in large.faults] == ["global/a"]
            sizes = {f"global/f{i}": FILE_BYTES_MAX for i in range(129)}
            many = await put(m1.stub, dict.fromkeys(sizes, b""), sizes=sizes)
            assert many.outcome == Outcome.OUTCOME_REFUSED
            assert "in one commit" in many.faults[0].problem

    run(ask())


def test_commits_share_the_memory_and_wait_for_it() -> None:
    """First those that fit; who waits too long is sent away."""

    async def ask() -> list[str]:
        room, order = Room(10), []

        async def one(name: str, size: int, hold: asyncio.Event) -> None:
            async with room.taken(size):
                order.append(name)
                await hold.wait()

        first, second = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(one("a", 8, first)), asyncio.create_task(one("b", 5, second))]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(one("c", 2, second)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == ["a", "c"]
        first.set()
        await tasks[0]
        second.set()
        await asyncio.gather(*tasks)
        async with room.taken(10):  # all of it is free again
            pass
        return order

    assert run(ask()) == ["a", "c", "b"]


def test_who_waits_too_long_for_memory_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what he asked for stays free."""
    monkeypatch.setattr(committing, "ROOM_S", 0.05)

    async def ask() -> None:
        room = Room(10)
        async with room.taken(8):
            with pytest.raises(UnavailableError, match="try again"):
                async with room.taken(3):
                    pass
            async with room.taken(2):
                pass

    run(ask())


def test_a_caller_who_stops_sending_frees_what_he_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """His commit is ended, the next one goes through."""
    monkeypatch.setattr(calls, "SILENT_S", 0.1)

    async def ask() -> None:
        async with serving(tmp_path) as m1:

            async def stalled() -> AsyncIterator[pb.CommitRequest]:
                yield next(requests({"global/a": b""}, sizes={"global/a": 100}))
                await asyncio.Event().wait()

            error = await error_of(m1.stub.Commit(stalled()))
            assert error.reason == "deadline"
            assert (await put(m1.stub, {"global/a": b"1"})).outcome == Outcome.OUTCOME_COMMITTED

    run(ask())


def test_a_commit_that_too_few_managers_have_is_unconfirmed(tmp_path: Path) -> None:
    """It stays, and counts later."""

    async def ask() -> pb.CommitResponse:
        async with serving(tmp_path, replicas_min=2, push_timeout_s=0.05, peers=("127.0.0.1:1",)) as m1:
            monkey = pytest.MonkeyPatch()
            monkey.setattr(m1.parts.replication, "wait_ready", _nothing)
            try:
                return await put(m1.stub, {"global/a": b"1"})
            finally:
                monkey.undo()

    answer = run(ask())
    assert (answer.outcome, answer.revision.revision) == (Outcome.OUTCOME_UNCONFIRMED, 1)
    assert not answer.revision.confirmed


async def _nothing(_timeout_s: float) -> None:
    return None


# ---------------------------------------------------------------------- passing on


def test_another_manager_passes_a_commit_on_in_the_caller_s_name(tmp_path: Path, files: dict[str, TlsFiles]) -> None:
    """Through and through: contents, author, outcome; and errors with their reason."""
    large = bytes(3 << 20)

    async def ask() -> None:
        (tmp_path / "1").mkdir()
        (tmp_path / "2").mkdir()
        async with (
            serving(tmp_path / "1", tls=files["m1"], who=files["alice"]) as m1,
            serving(
                tmp_path / "2", tls=files["m2"], who=files["alice"], manager="m2", writer="m1", peers=(m1.address,)
            ) as m2,
        ):
            answer = await put(m2.stub, {"global/a": large, "global/b": b"2"})
            assert (answer.outcome, answer.revision.author) == (Outcome.OUTCOME_COMMITTED, "operator:alice")
            assert await cat(m1.stub, "global/a") == large
            error = await error_of(m2.stub.Commit(requests({"global/a": b"123"}, sizes={"global/a": 4})))
            assert isinstance(error, UsageError)
            assert "announced" in str(error)
            refused = await put(m2.stub, {"global/c": b""}, sizes={"global/c": FILE_BYTES_MAX + 1})
            assert refused.outcome == Outcome.OUTCOME_REFUSED
            async with m2.as_(files["web1"]) as node:
                denied = await error_of(node.Commit(requests({"global/a": b"1"})))
                assert isinstance(denied, NotPermittedError)
                assert "node:web1" in str(denied)

    run(ask())


def test_a_signed_commit_is_prepared_and_published_through_another_manager(
    tmp_path: Path, files: dict[str, TlsFiles]
) -> None:
    """Publish is passed on as well: by whom it was prepared counts, not by which way it came."""

    async def ask() -> None:
        (tmp_path / "1").mkdir()
        (tmp_path / "2").mkdir()
        async with (
            serving(tmp_path / "1", tls=files["m1"], who=files["alice"]) as m1,
            serving(
                tmp_path / "2", tls=files["m2"], who=files["alice"], manager="m2", writer="m1", peers=(m1.address,)
            ) as m2,
        ):
            prepared = await put(m2.stub, {"global/a": b"1"}, prepare=True)
            assert prepared.outcome == Outcome.OUTCOME_PREPARED
            assert m1.parts.store.head() is None
            stolen = pb.PublishRequest(prepared=prepared.prepared)
            async with m1.as_(files["web1"]) as node:
                assert isinstance(await error_of(node.Publish(stolen)), JlogdError)
            from jlogd.confrepo import signing  # noqa: PLC0415 - cryptography only where a signature is made

            signature = signing.sign(
                prepared.prepared, files["alice"].cert.read_bytes(), files["alice"].key.read_bytes()
            )
            request = pb.PublishRequest(prepared=prepared.prepared, signature=signature)
            result = (await m2.stub.Publish(request)).result
            assert (result.outcome, result.revision.revision) == (Outcome.OUTCOME_COMMITTED, 1)
            log = await m1.stub.Log(pb.LogRequest())
            assert log.revisions[0].signer == "operator:alice"

    run(ask())


def test_a_call_is_passed_on_once(tmp_path: Path, files: dict[str, TlsFiles]) -> None:
    """Two managers that take each other for the writer refuse, and say what to do."""

    async def ask() -> JlogdError:
        async with serving(tmp_path, tls=files["m2"], who=files["m1"], manager="m2", writer="m3") as m2:
            return await error_of(m2.stub.Commit(requests({"global/a": b"1"}, on_behalf_of="operator:alice")))

    error = run(ask())
    assert isinstance(error, RefusedError)
    assert "same [config] writer" in str(error)


def test_without_the_writer_a_commit_is_unavailable_and_names_him(tmp_path: Path) -> None:
    """Reading goes on."""

    async def ask() -> tuple[JlogdError, pb.StatusResponse]:
        async with serving(tmp_path, manager="m2", writer="m1") as m2:
            monkey = pytest.MonkeyPatch()
            monkey.setattr("managerd.ecconfigd.replication.WRITER_WAIT_S", 0.05)
            error = await error_of(m2.stub.Commit(requests({"global/a": b"1"})))
            monkey.undo()
            return error, await m2.stub.Status(pb.StatusRequest())

    error, status = run(ask())
    assert isinstance(error, UnavailableError)
    assert "m1" in str(error)
    assert status.writer == "m1"


# ---------------------------------------------------------------------- rollouts


RULES = """
[[rule]]
who = ["operator:alice"]
paths = ["**"]
allow = ["read", "commit"]

[[rule]]
who = ["operator:alice"]
paths = ["web/**"]
allow = ["rollout"]

[[rule]]
who = ["operator:root"]
paths = ["**"]
allow = ["read", "commit", "rollout"]
"""


def rollout(action: int, **more: Any) -> pb.RolloutRequest:
    return pb.RolloutRequest(action=action, **more)  # type: ignore[arg-type]


def test_a_rollout_is_for_whoever_has_the_right_on_all_that_it_changes(
    tmp_path: Path, files: dict[str, TlsFiles]
) -> None:
    """Asked through another manager; its state is told by both."""
    act = pb.RolloutRequest

    async def ask() -> None:
        (tmp_path / "1").mkdir()
        (tmp_path / "2").mkdir()
        async with (
            serving(tmp_path / "1", tls=files["m1"], who=files["alice"]) as m1,
            serving(
                tmp_path / "2", tls=files["m2"], who=files["alice"], manager="m2", writer="m1", peers=(m1.address,)
            ) as m2,
        ):
            assert not (await m1.stub.Rollout(rollout(act.ACTION_STATUS))).HasField("rollout")
            none = await error_of(m2.stub.Rollout(rollout(act.ACTION_PAUSE)))
            assert isinstance(none, RefusedError)
            policy = b'[[require]]\npaths = ["web/**", "global/app*"]\n'
            await put(m1.stub, {"global/access.toml": RULES.encode(), "global/rollout.toml": policy})
            await m1.settled(1)
            held = await put(m1.stub, {"web/web1/a": b"1"})
            assert held.held
            m1.parts.registry.attached("web1", "web")
            started = await m2.stub.Rollout(rollout(act.ACTION_START, revision="HEAD", stages=["100%"], hold_ms=60_000))
            assert (started.rollout.state, started.rollout.revision, started.rollout.author) == (
                "running", 2, "operator:alice",
            )  # fmt: skip
            paused = await m2.stub.Rollout(rollout(act.ACTION_PAUSE))
            assert paused.rollout.state == "paused"
            assert (await m1.stub.Rollout(rollout(act.ACTION_STATUS))).rollout.state == "paused"
            aborted = await m2.stub.Rollout(rollout(act.ACTION_ABORT))
            assert aborted.rollout.state == "aborted"
            await put(m1.stub, {"global/app.toml": b"a = 1\n"})
            denied = await error_of(m2.stub.Rollout(rollout(act.ACTION_START, revision="HEAD")))
            assert isinstance(denied, NotPermittedError)
            assert "rollout global/app.toml" in str(denied)
            assert isinstance(await error_of(m1.stub.Rollout(rollout(99))), UsageError)

    run(ask())


# ---------------------------------------------------------------------- bundles


async def exported(stub: Any) -> list[bytes]:
    return [answer.piece async for answer in stub.Export(pb.ExportRequest())]


def imports(pieces: list[bytes]) -> list[pb.ImportRequest]:
    return [pb.ImportRequest(piece=piece) for piece in pieces]


def test_a_history_moves_in_a_bundle(tmp_path: Path) -> None:
    """Every revision keeps its id; once more, what was added since; a third time, nothing."""

    async def ask() -> None:
        (tmp_path / "1").mkdir()
        (tmp_path / "2").mkdir()
        async with serving(tmp_path / "1") as one, serving(tmp_path / "2") as two:
            for i in range(3):
                await put(one.stub, {"global/a": str(i).encode()})
            answer = await two.stub.Import(imports(await exported(one.stub)))
            assert answer.added == 3
            await put(one.stub, {"global/a": b"4"})
            assert (await two.stub.Import(imports(await exported(one.stub)))).added == 1
            assert (await two.stub.Import(imports(await exported(one.stub)))).added == 0
            logs = [await served.stub.Log(pb.LogRequest()) for served in (one, two)]
            assert [r.id for r in logs[0].revisions] == [r.id for r in logs[1].revisions]
            await put(two.stub, {"global/a": b"5"})
            await put(one.stub, {"global/a": b"6"})
            error = await error_of(two.stub.Import(imports(await exported(one.stub))))
            assert isinstance(error, ConflictError | RefusedError)
            assert await cat(two.stub, "global/a") == b"5"

    run(ask())


def test_what_is_no_bundle_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that is too large."""

    async def ask() -> None:
        async with serving(tmp_path) as m1:
            for content in (b"", b"# v2 git bundle\nxx\n", b"nonsense"):
                assert isinstance(await error_of(m1.stub.Import(imports([content]))), JlogdError)
            monkeypatch.setattr(committing, "BUNDLE_BYTES_MAX", 100)
            error = await error_of(m1.stub.Import(imports([bytes(101)])))
            assert isinstance(error, RefusedError)
            assert m1.parts.store.head() is None

    run(ask())


def test_only_operators_who_may_commit_everything_import(tmp_path: Path, files: dict[str, TlsFiles]) -> None:
    """A node may not, a manager for itself may not."""

    async def ask() -> list[JlogdError]:
        async with serving(tmp_path, tls=files["m1"], who=files["web1"]) as m1, m1.as_(files["m2"]) as manager:
            return [await error_of(stub.Import(imports([b"x"]))) for stub in (m1.stub, manager)]

    for error in run(ask()):
        assert isinstance(error, NotPermittedError)
