"""The configuration service's reading calls, over gRPC, on a real store."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from jlogd.confrepo import signing
from jlogd.confrepo.model import EXECUTABLE, REGULAR, SYMLINK, Commit, CommitId, File
from jlogd.confrepo.repository import MAIN, Repository
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import JlogdError, NotPermittedError, RefusedError, StorageError, UnavailableError
from jlogd.runtime.rpc import TlsFiles, call_error
from managerd import pki
from managerd.ecconfigd import seeing, watching, wire
from managerd.ecconfigd import signers as signers_module
from managerd.ecconfigd.history import History
from managerd.ecconfigd.signers import Signers
from managerd.v1 import config_pb2 as pb
from tests.support import certificates
from tests.support.config_service import report, serving
from tests.support.serving import run

RULES = """
[groups]
web = ["operator:alice"]

[[rule]]
who = ["@web"]
paths = ["web/**"]
allow = ["read", "commit"]

[[rule]]
who = ["operator:root"]
paths = ["**"]
allow = ["read", "commit", "rollout"]
"""


async def error_of(call: Any) -> JlogdError:
    """The error that a call ends with, whether it streams or not."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return call_error(error, "m1")
    raise AssertionError("the call did not fail")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    home = tmp_path_factory.mktemp("pki")
    pki.init(home)
    people = ["alice", "root"]
    for role, names in (("manager", ["m1"]), ("operator", people), ("node", ["web1", "web2"])):
        for name in names:
            pki.issue(role, name, home)  # type: ignore[arg-type]
    return {name: certificates.files(home, name) for name in ("m1", "web1", "web2", *people)}


# ---------------------------------------------------------------------- history


def test_the_log_has_every_revision_newest_first_with_its_paths(tmp_path: Path) -> None:
    """As git would show it."""

    async def ask() -> pb.LogResponse:
        async with serving(tmp_path) as m1:
            await m1.commit({"global/a": "1", "web/web1/b": "1"}, "First")
            await m1.commit({"global/a": "2"}, "Second\n\nMore", author="operator:bob", time_s=1_700_000_500)
            await m1.commit({"web/web1/b": None}, "Third")
            return await m1.stub.Log(pb.LogRequest())  # type: ignore[no-any-return]

    answer = run(ask())
    assert [(r.revision, r.message, list(r.paths)) for r in answer.revisions] == [
        (3, "Third", ["web/web1/b"]),
        (2, "Second\n\nMore", ["global/a"]),
        (1, "First", ["global/a", "web/web1/b"]),
    ]
    second = answer.revisions[1]
    assert (second.author, second.time_s, second.confirmed) == ("operator:bob", 1_700_000_500, True)
    assert not answer.more


def test_the_log_of_a_path_has_what_changed_it_page_by_page(tmp_path: Path) -> None:
    """Files and directories; `until` goes on where a page ended."""

    async def ask() -> list[list[int]]:
        async with serving(tmp_path) as m1:
            for i in range(6):
                await m1.commit({f"web/web{i % 2}/a": str(i)})

            async def page(**request: Any) -> pb.LogResponse:
                return await m1.stub.Log(pb.LogRequest(**request))  # type: ignore[no-any-return]

            first = await page(path="web/web1", limit=2)
            assert first.more
            second = await page(path="web/web1", limit=2, until=f"r{first.revisions[-1].revision - 1}")
            assert not second.more
            whole, file = await page(path="web"), await page(path="web/web0/a")
            return [[r.revision for r in answer.revisions] for answer in (first, second, whole, file)]

    assert run(ask()) == [[6, 4], [2], [6, 5, 4, 3, 2, 1], [5, 3, 1]]


def test_a_log_that_would_not_fit_a_message_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says that there is more."""
    monkeypatch.setattr("managerd.ecconfigd.history.ANSWER_BYTES", 1000)

    async def ask() -> pb.LogResponse:
        async with serving(tmp_path) as m1:
            for i in range(5):
                await m1.commit({"global/a": str(i)}, "x" * 400)
            return await m1.stub.Log(pb.LogRequest())  # type: ignore[no-any-return]

    answer = run(ask())
    assert (len(answer.revisions), answer.more) == (2, True)


def test_an_empty_repository_has_an_empty_log_and_refuses_the_rest(tmp_path: Path) -> None:
    """Not an internal error."""

    async def ask() -> tuple[pb.LogResponse, list[JlogdError]]:
        async with serving(tmp_path) as m1:
            calls = [
                m1.stub.Cat(pb.CatRequest(path="global/a")),
                m1.stub.Tree(pb.TreeRequest()),
                m1.stub.Effective(pb.EffectiveRequest(node="web1")),
                m1.stub.Explain(pb.ExplainRequest(path="a", node="web1")),
                m1.stub.Blame(pb.BlameRequest(path="global/a")),
                m1.stub.Export(pb.ExportRequest()),
                m1.stub.Cat(pb.CatRequest(path="global/a", revision="r7")),
            ]
            return await m1.stub.Log(pb.LogRequest()), [await error_of(call) for call in calls]

    log, errors = run(ask())
    assert not log.revisions
    assert {type(error) for error in errors} == {RefusedError}, errors


def test_what_a_revision_changed_is_found_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second log costs nothing; what is remembered is bounded by the number of paths."""
    compared: list[int] = []
    real = Repository.diff

    def counted(*arguments: Any) -> Any:
        compared.append(1)
        return real(*arguments)

    monkeypatch.setattr(Repository, "diff", counted)

    async def ask() -> list[int]:
        async with serving(tmp_path) as m1:
            for i in range(20):
                await m1.commit({"global/a": str(i), "global/b": str(i)})

            async def log() -> int:
                compared.clear()
                answer = await m1.stub.Log(pb.LogRequest())
                assert {len(revision.paths) for revision in answer.revisions} == {2}
                return len(compared)

            counts = [await log(), await log()]
            monkeypatch.setattr("managerd.ecconfigd.history.PATHS_KEPT", 10)
            await m1.commit({"global/a": "new", "global/b": "new"})
            return [*counts, await log()]

    first, again, bounded = run(ask())
    assert (first, again) == (20, 0)
    assert bounded > 10  # at most three are still known


# ---------------------------------------------------------------------- files


async def tree(stub: Any, **request: Any) -> tuple[pb.Revision, dict[str, tuple[int, bytes]]]:
    """A tree's revision and files: path → mode, content."""
    call = stub.Tree(pb.TreeRequest(**request))
    revision, files, at = pb.Revision(), {}, ""
    async for answer in call:
        kind = answer.WhichOneof("message")
        if kind == "revision":
            revision = answer.revision
        elif kind == "entry":
            at, size = answer.entry.path, answer.entry.size
            files[at] = (answer.entry.mode, b"")
            assert size == 0 or request.get("names_only") is None
        else:
            files[at] = (files[at][0], files[at][1] + answer.piece)
    return revision, files


def test_a_tree_has_every_file_with_its_mode_and_exact_bytes(tmp_path: Path) -> None:
    """Large ones in pieces, empty ones without any."""
    large = bytes(range(256)) * 10_000

    async def ask() -> tuple[pb.Revision, dict[str, tuple[int, bytes]]]:
        async with serving(tmp_path) as m1:
            await m1.commit(
                {
                    "global/a": large,
                    "global/empty": "",
                    "global/run": File(b"#!/bin/sh\n", EXECUTABLE),
                    "global/link": File(b"a", SYMLINK),
                }
            )
            return await tree(m1.stub)

    revision, files = run(ask())
    assert revision.revision == 1
    assert files == {
        "global/a": (REGULAR, large),
        "global/empty": (REGULAR, b""),
        "global/link": (SYMLINK, b"a"),
        "global/run": (EXECUTABLE, b"#!/bin/sh\n"),
    }


def test_a_tree_since_a_revision_has_only_what_differs(tmp_path: Path) -> None:
    """Deleted files with mode zero; a path limits it; names come without contents."""

    async def ask() -> list[dict[str, tuple[int, bytes]]]:
        async with serving(tmp_path) as m1:
            await m1.commit({"global/a": "1", "global/b": "1", "web/web1/c": "1"})
            await m1.commit({"global/a": "2", "global/b": None, "web/web1/c": "2"})
            requests: list[dict[str, Any]] = [
                {"since": "r1"}, {"since": "r1", "path": "web"}, {"names_only": True}, {"since": "HEAD"},
                {"revision": "r1", "since": "r2", "path": "global/b"},
            ]  # fmt: skip
            return [(await tree(m1.stub, **request))[1] for request in requests]

    assert run(ask()) == [
        {"global/a": (REGULAR, b"2"), "global/b": (0, b""), "web/web1/c": (REGULAR, b"2")},
        {"web/web1/c": (REGULAR, b"2")},
        {"global/a": (REGULAR, b""), "web/web1/c": (REGULAR, b"")},
        {},
        {"global/b": (REGULAR, b"1")},
    ]


def test_many_files_come_in_several_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None twice, none missing."""
    monkeypatch.setattr("managerd.ecconfigd.reading.BATCH_FILES", 7)

    async def ask() -> dict[str, tuple[int, bytes]]:
        async with serving(tmp_path) as m1:
            await m1.commit({f"global/f{i}": str(i) for i in range(50)})
            return (await tree(m1.stub))[1]

    assert run(ask()) == {f"global/f{i}": (REGULAR, str(i).encode()) for i in range(50)}


def test_cat_gives_a_file_as_at_a_revision(tmp_path: Path) -> None:
    """By number, HEAD~N, or the beginning of an id."""

    async def ask() -> list[bytes]:
        async with serving(tmp_path) as m1:
            first = await m1.commit({"global/a": "1"})
            await m1.commit({"global/a": "2"})
            found = [
                (await m1.stub.Cat(pb.CatRequest(path="global/a", revision=rev))).content
                for rev in ("", "r1", "HEAD~1", first.id[:10])
            ]
            for path, said in (("global/b", "not there"), ("global", "a directory")):
                error = await error_of(m1.stub.Cat(pb.CatRequest(path=path)))
                assert isinstance(error, RefusedError)
                assert said in str(error)
            return found

    assert run(ask()) == [b"2", b"1", b"1", b"1"]


def test_blame_tells_each_line_s_revision(tmp_path: Path) -> None:
    """With author and time."""

    async def ask() -> list[tuple[int, str, bytes]]:
        async with serving(tmp_path) as m1:
            await m1.commit({"global/a": "one\ntwo\n"})
            await m1.commit({"global/a": "one\n2\n"}, author="operator:bob")
            answer = await m1.stub.Blame(pb.BlameRequest(path="global/a"))
            return [(line.revision, line.author, line.text) for line in answer.lines]

    assert run(ask()) == [(1, "operator:alice", b"one\n"), (2, "operator:bob", b"2\n")]


# ---------------------------------------------------------------------- views


LAYERS = {
    "global/app.toml": 'greeting = "hello"\n[server]\nport = 80\nname = "all"\n',
    "web/default/app.toml": "[server]\nport = 8080\n",
    "web/web1/app.toml": '[server]\nname = "one"\n',
    "global/motd": "welcome\n",
    "web/web1/only": "mine\n",
}


def test_effective_is_the_view_with_the_layers_of_each_file(tmp_path: Path) -> None:
    """Merged key by key; a file of one layer as it is."""

    async def ask() -> dict[str, tuple[list[str], bytes]]:
        async with serving(tmp_path) as m1:
            await m1.commit(LAYERS)
            found: dict[str, tuple[list[str], bytes]] = {}
            at = ""
            async for answer in m1.stub.Effective(pb.EffectiveRequest(node="web1")):
                kind = answer.WhichOneof("message")
                if kind == "file":
                    at = answer.file.path
                    found[at] = (list(answer.file.layers), b"")
                elif kind == "piece":
                    found[at] = (found[at][0], found[at][1] + answer.piece)
            cat = await m1.stub.Cat(pb.CatRequest(path="app.toml", node="web1"))
            assert cat.content == found["app.toml"][1]
            return found

    found = run(ask())
    assert {path: layers for path, (layers, _) in found.items()} == {
        "app.toml": ["global", "web/default", "web/web1"],
        "motd": ["global"],
        "only": ["web/web1"],
    }
    assert found["motd"][1] == b"welcome\n"
    assert b"port = 8080" in found["app.toml"][1]


def test_explain_names_the_layer_and_the_revision_of_each_value(tmp_path: Path) -> None:
    """The revision in which the layer's file got this value, not the last one that touched the file."""

    async def ask() -> list[list[tuple[str, str, str, int]]]:
        async with serving(tmp_path) as m1:
            await m1.commit(LAYERS)
            await m1.commit({"web/default/app.toml": "[server]\nport = 9090\n"})
            await m1.commit({"web/default/app.toml": "# a comment\n[server]\nport = 9090\n"})
            await m1.commit({"global/app.toml": str(LAYERS["global/app.toml"]) + "threads = 4\n"})
            found = []
            for request in ({"path": "app.toml"}, {"path": "app.toml", "key": "server.name"}, {"path": "motd"}):
                answer = await m1.stub.Explain(pb.ExplainRequest(node="web1", **request))
                found.append([(key.key, key.value, key.layer, key.revision) for key in answer.keys])
            return found

    whole, one, plain = run(ask())
    assert sorted(whole) == [
        ("greeting", '"hello"', "global", 1),
        ("server.name", '"one"', "web/web1", 1),
        ("server.port", "9090", "web/default", 2),
        ("server.threads", "4", "global", 4),
    ]
    assert one == [("server.name", '"one"', "web/web1", 1)]
    assert plain == [("", "", "global", 1)]


def test_encrypted_values_are_never_shown_in_a_view(tmp_path: Path) -> None:
    """Explain says that there is one, effective puts a word in its place."""

    async def ask() -> tuple[bytes, list[tuple[str, str, bool]]]:
        async with serving(tmp_path) as m1:
            await m1.commit({"global/app.toml": 'password = "$age:AAAA"\nuser = "x"\n'})
            content = b""
            async for answer in m1.stub.Effective(pb.EffectiveRequest(node="web1")):
                content += answer.piece
            explained = await m1.stub.Explain(pb.ExplainRequest(path="app.toml", node="web1"))
            return content, [(key.key, key.value, key.secret) for key in explained.keys]

    content, keys = run(ask())
    assert b"$age:" not in content
    assert b"(secret)" in content
    assert sorted(keys) == [("password", "", True), ("user", '"x"', False)]


def test_a_node_s_subcluster_is_what_it_said_else_where_its_directory_is(tmp_path: Path) -> None:
    """Else "default"; a node with directories in two subclusters must have said it."""

    async def ask() -> tuple[list[bytes], JlogdError]:
        async with serving(tmp_path) as m1:
            await m1.commit(
                {f"{sub}/default/a": sub for sub in ("web", "db", "default")}
                | {"web/one/b": "", "web/two/b": "", "db/two/b": ""}
            )

            async def cat(node: str) -> bytes:
                return (await m1.stub.Cat(pb.CatRequest(path="a", node=node))).content  # type: ignore[no-any-return]

            ambiguous = await error_of(m1.stub.Cat(pb.CatRequest(path="a", node="two")))
            m1.parts.registry.attached("two", "db")
            return [await cat("one"), await cat("nobody"), await cat("two")], ambiguous

    found, ambiguous = run(ask())
    assert found == [b"web", b"default", b"db"]
    assert isinstance(ambiguous, RefusedError)
    assert "several subclusters" in str(ambiguous)


# ---------------------------------------------------------------------- rights


def test_nobody_sees_what_the_rules_do_not_give_him(tmp_path: Path, files: dict[str, TlsFiles]) -> None:
    """Lists are filtered; a file is refused by right and path."""

    async def ask() -> None:
        async with serving(tmp_path, tls=files["m1"], who=files["root"]) as m1:
            await m1.commit({"global/access.toml": RULES, **LAYERS, "web/web2/x": "2"})
            await m1.commit({"global/app.toml": "a = 1\n", "web/web1/only": "other\n"})
            async with m1.as_(files["alice"]) as alice:
                await restricted(alice, {"web/default/app.toml", "web/web1/app.toml", "web/web1/only", "web/web2/x"})
                log = await alice.Log(pb.LogRequest())
                assert [list(revision.paths) for revision in log.revisions] == [["web/web1/only"], sorted(
                    ["web/default/app.toml", "web/web1/app.toml", "web/web1/only", "web/web2/x"]
                )]  # fmt: skip
                assert [r.path_count for r in log.revisions] == [1, 4]
                assert (await alice.Log(pb.LogRequest(path="global"))).revisions == []
            async with m1.as_(files["web1"]) as node:
                m1.parts.registry.attached("web1", "web")
                await restricted(
                    node,
                    {"global/access.toml", "global/app.toml", "global/motd", "web/default/app.toml"}
                    | {"web/web1/app.toml", "web/web1/only"},
                    denied="web/web2/x",
                )
            _, everything = await tree(m1.stub)
            assert len(everything) == len(LAYERS) + 2

    async def restricted(stub: Any, seen: set[str], denied: str = "global/app.toml") -> None:
        assert set((await tree(stub))[1]) == seen
        for call in (
            stub.Cat(pb.CatRequest(path=denied)),
            stub.Blame(pb.BlameRequest(path=denied)),
            stub.Log(pb.LogRequest(path=denied)),
        ):
            error = await error_of(call)
            assert isinstance(error, NotPermittedError)
            assert denied in str(error)
        assert isinstance(await error_of(stub.Export(pb.ExportRequest())), NotPermittedError)

    run(ask())


def test_a_view_is_refused_to_whoever_may_not_read_one_of_its_layers(
    tmp_path: Path, files: dict[str, TlsFiles]
) -> None:
    """Its values are those of the layer."""

    async def ask() -> list[JlogdError]:
        async with serving(tmp_path, tls=files["m1"], who=files["alice"]) as m1:
            await m1.commit({"global/access.toml": RULES, **LAYERS})
            only = await m1.stub.Cat(pb.CatRequest(path="only", node="web1"))
            assert only.content == b"mine\n"
            return [
                await error_of(m1.stub.Cat(pb.CatRequest(path="app.toml", node="web1"))),
                await error_of(m1.stub.Explain(pb.ExplainRequest(path="app.toml", node="web1"))),
                await error_of(m1.stub.Effective(pb.EffectiveRequest(node="web1"))),
            ]

    for error in run(ask()):
        assert isinstance(error, NotPermittedError)
        assert "global/" in str(error)


def test_a_node_sees_itself_only(tmp_path: Path, files: dict[str, TlsFiles]) -> None:
    """Neither other nodes nor rollouts."""

    async def ask() -> None:
        async with serving(tmp_path, tls=files["m1"], who=files["web1"]) as m1:
            await m1.commit({"global/a": "1", "web/web2/a": "2"})
            for name in ("web1", "web2"):
                m1.parts.registry.attached(name, "web")
            nodes = await m1.stub.Nodes(pb.NodesRequest())
            assert [node.name for node in nodes.nodes] == ["web1"]
            rollout = pb.RolloutRequest(action=pb.RolloutRequest.ACTION_STATUS)
            assert isinstance(await error_of(m1.stub.Rollout(rollout)), NotPermittedError)
            other = await error_of(m1.stub.Cat(pb.CatRequest(path="a", node="web2")))
            assert isinstance(other, NotPermittedError)
            assert "web/web2/a" in str(other)

    run(ask())


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
