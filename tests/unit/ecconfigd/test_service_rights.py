"""The configuration service: views of nodes, and what a caller may see."""

from pathlib import Path
from typing import Any

import pytest

from jlogd.runtime.errors import JlogdError, NotPermittedError, RefusedError
from jlogd.runtime.rpc import TlsFiles
from managerd import pki
from managerd.v1 import config_pb2 as pb
from tests.support import certificates
from tests.support.config_service import error_of, serving, tree
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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    home = tmp_path_factory.mktemp("pki")
    pki.init(home)
    people = ["alice", "root"]
    for role, names in (("manager", ["m1"]), ("operator", people), ("node", ["web1", "web2"])):
        for name in names:
            pki.issue(role, name, home)  # type: ignore[arg-type]
    return {name: certificates.files(home, name) for name in ("m1", "web1", "web2", *people)}


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


def test_who_made_a_revision_and_why_is_for_those_who_may_read_of_it(
    tmp_path: Path, files: dict[str, TlsFiles]
) -> None:
    """Number, id and time are everybody's; one's own words as well, and nobody else's where nothing can be read."""

    async def ask() -> None:
        async with serving(tmp_path, tls=files["m1"], who=files["root"]) as m1:
            await m1.commit({"global/access.toml": RULES}, "rights", "operator:root")
            await m1.commit({"db/default/a": "1", "web/default/a": "1"}, "both", "operator:root")
            await m1.commit({"running/web1/a": "1"}, "mine", "node:web1")
            db = await m1.commit({"db/default/a": "2"}, "db: new password is hunter2", "operator:root")
            m1.parts.registry.attached("web1", "web")
            hidden: dict[str, set[int]] = {"alice": {1, 3, 4}, "web1": {4}, "root": set()}
            for who, numbers in hidden.items():
                async with m1.as_(files[who]) as stub:
                    log = (await stub.Log(pb.LogRequest())).revisions
                    assert [each.revision for each in log] == [4, 3, 2, 1]
                    assert all(each.id and each.time_s for each in log)
                    assert {each.revision for each in log if not each.author} == numbers
                    assert {each.revision for each in log if not each.message} == numbers
                    assert [list(each.paths) for each in log if each.revision in numbers] == [[]] * len(numbers)
                    assert (await stub.Log(pb.LogRequest(until="HEAD~1"))).revisions[0].revision == 3
                    await nothing_elsewhere(stub, db.id, hidden=who != "root")

    async def nothing_elsewhere(stub: Any, head: str, *, hidden: bool) -> None:
        shown, _ = await tree(stub)
        assert (shown.id, bool(shown.author), bool(shown.message)) == (head, not hidden, not hidden)
        watch = stub.Watch(pb.WatchRequest(state=True))
        event = await watch.read()
        assert (event.revision.id, bool(event.revision.author)) == (head, not hidden)
        watch.cancel()
        cat = await stub.Cat(pb.CatRequest(path="a", node="web1"))
        for brief in (
            (await stub.Status(pb.StatusRequest())).head,
            (await stub.Nodes(pb.NodesRequest())).head,
            cat.revision,
        ):
            assert (brief.id, brief.author, brief.message) == (head, "", "")

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
