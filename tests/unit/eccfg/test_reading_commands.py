"""``eccfg``'s reading commands against a real service: what people see, the JSON of the contract, exit codes."""

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jlogd.confrepo.model import SYMLINK, Commit, CommitId, File
from jlogd.confrepo.repository import SIDE, Repository
from managerd.eccfg.cli import cli
from managerd.eccfg.commands import nodes as nodes_module
from managerd.eccfg.commands import watching as watching_module
from managerd.eccfg.commands.nodes import Awaited
from managerd.v1 import config_pb2 as pb
from tests.support.commandline import Outcome, runner
from tests.support.config_service import Hosted, report

Eccfg = Callable[..., Outcome]

APP = {
    "global/app.toml": 'greeting = "hello"\n[server]\nport = 80\n',
    "web/default/app.toml": "[server]\nport = 8080\n",
    "web/web1/secret.toml": 'password = "$age:QUJD"\nuser = "x"\n',
    "global/motd": "welcome\n",
}


@pytest.fixture
def m1(tmp_path: Path) -> Iterator[Hosted]:
    with Hosted(tmp_path) as hosted:
        yield hosted


@pytest.fixture
def eccfg(
    m1: Hosted, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Eccfg:
    """The command line, talking to m1."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    run = runner(cli, capfdbinary)
    return lambda *words, at=m1.served.address: run("--insecure", "--manager", at, *words)


# ---------------------------------------------------------------------- history


def test_log(m1: Hosted, eccfg: Eccfg) -> None:
    """Newest first; a path and a number limit it; the JSON is the contract's."""
    m1.commit({"global/a": "1"}, "First\n\nWith more")
    second = m1.commit({"web/web1/b": "1"}, "Second", author="operator:bob", time_s=1_700_000_000)
    shown = eccfg("log")
    assert shown.code == 0
    lines = shown.out.decode().splitlines()
    assert lines[0].split() == ["revision", "id", "time", "author", "files", "message"]
    assert lines[1].split() == ["r2", second.id[:8], "2023-11-14T22:13:20Z", "operator:bob", "1", "Second"]
    assert "With more" not in lines[2]
    document = eccfg("log", "--json").json()
    assert document["schema"] == 1
    assert document["revisions"][0] == {
        "revision": 2, "id": second.id, "author": "operator:bob", "time": "2023-11-14T22:13:20.000000Z",
        "message": "Second", "paths": ["web/web1/b"], "path_count": 1, "signer": None, "confirmed": True,
    }  # fmt: skip
    assert [r["revision"] for r in eccfg("log", "global", "--json").json()["revisions"]] == [1]
    one = eccfg("log", "-n", "1")
    assert "--until r1" in one.err
    assert [r["revision"] for r in eccfg("log", "--until", "r1", "--json").json()["revisions"]] == [1]


def test_log_asks_for_page_after_page(m1: Hosted, eccfg: Eccfg, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the manager gives in one answer."""
    monkeypatch.setattr("managerd.ecconfigd.history.LIMIT", 2)
    for i in range(5):
        m1.commit({"global/a": str(i)})
    assert [r["revision"] for r in eccfg("log", "-n", "0", "--json").json()["revisions"]] == [5, 4, 3, 2, 1]
    three = eccfg("log", "-n", "3", "--json").json()
    assert ([r["revision"] for r in three["revisions"]], three["more"]) == ([5, 4, 3], True)


def test_an_empty_repository(eccfg: Eccfg) -> None:
    """No revisions is an answer; a revision that is not there is refused."""
    assert eccfg("log", "--json").json()["revisions"] == []
    assert eccfg("show").code == 6
    assert eccfg("nodes", "--json").json() == {"schema": 1, "head": None, "nodes": [], "silent": []}
    assert eccfg("wait").code == 6


def test_show_is_the_revision_and_its_diff_without_secrets(m1: Hosted, eccfg: Eccfg) -> None:
    """Added, changed and deleted files; encrypted values only as changed or not."""
    m1.commit(APP, "All of it")
    m1.commit(
        {"global/motd": "hello\n", "web/default/app.toml": None, "web/web1/secret.toml": 'password = "$age:WFla"\n'}
    )
    shown = eccfg("show", "r2").out.decode()
    assert shown.startswith("revision 2, ")
    for expected in ("-welcome", "+hello", "--- a/web/default/app.toml", "+++ /dev/null", "-user = "):
        assert expected in shown
    assert "QUJD" not in shown
    assert "WFla" not in shown
    assert "$age:" in shown
    first = eccfg("show", "HEAD~1", "--json").json()
    assert (first["revision"], {file["status"] for file in first["files"]}) == (1, {"added"})
    assert len(first["files"]) == len(APP)
    assert "QUJD" not in str(first["files"])


def test_show_of_a_side_branch_is_what_its_writer_took(m1: Hosted, eccfg: Eccfg) -> None:
    """The main line has a revision of the same number, which is another one."""
    first = m1.commit({"global/a": "before\n"})
    m1.commit({"global/a": "main\n"})

    def branch(repository: Repository) -> list[CommitId]:
        ids, parent = [], first
        for text in ("one\n", "two\n"):
            draft = repository.draft(
                parent, {"global/a": File(text.encode())}, author="operator:bob", message=text, time_s=1_700_000_100
            )
            made, sealed = repository.seal(draft.content)
            repository.store.add([*draft.objects, sealed])
            parent = repository.commit(made)
            ids.append(made)
        repository.advance({SIDE + "m2-r3": (None, ids[-1])})
        return ids

    one, two = m1.do(m1.served.parts.store.write(branch))
    for shown_id, before, after in ((one, "-before", "+one"), (two[:8], "-one", "+two")):
        shown = eccfg("show", shown_id).out.decode()
        assert before in shown
        assert after in shown
        assert "main" not in shown


# ---------------------------------------------------------------------- files


def test_cat_writes_exact_bytes(m1: Hosted, eccfg: Eccfg) -> None:
    """As at a revision, or of a node's view; a link's content is its target."""
    content = b"\xff\x00\r\nno newline"
    m1.commit({"global/a": content, "global/odd@name": "1", "global/link": File(b"a", SYMLINK), **APP})
    m1.commit({"global/a": "new"})
    assert eccfg("cat", "global/a@r1").out == content
    assert eccfg("cat", "global/a").out == b"new"
    assert eccfg("cat", "global/odd@name@HEAD").out == b"1"
    assert eccfg("cat", "global/link").out == b"a"
    assert b"port = 8080" in eccfg("cat", "app.toml", "--node", "web1").out
    document = eccfg("cat", "global/a@r1", "--json").json()
    assert (document["revision"], document["mode"], document["bytes"]) == (1, "100644", len(content))
    assert "base64" in document
    missing = eccfg("cat", "global/nothing")
    assert (missing.code, missing.out) == (6, b"")
    assert "global/nothing is not there in r2" in missing.err


def test_blame(m1: Hosted, eccfg: Eccfg) -> None:
    """A line a line; secrets masked for people."""
    m1.commit(APP)
    m1.commit({"web/web1/secret.toml": 'password = "$age:QUJD"\nuser = "y"\n'}, author="operator:bob")
    shown = eccfg("blame", "web/web1/secret.toml").out.decode().splitlines()
    assert [line.split()[:2] for line in shown] == [["r1", "operator:alice"], ["r2", "operator:bob"]]
    assert "QUJD" not in shown[0]
    lines = eccfg("blame", "web/web1/secret.toml@r2", "--json").json()["lines"]
    assert [(line["line"], line["revision"], line["author"]) for line in lines] == [
        (1, 1, "operator:alice"), (2, 2, "operator:bob"),
    ]  # fmt: skip


def test_explain(m1: Hosted, eccfg: Eccfg) -> None:
    """Key, value, layer, revision; the JSON is the contract's; a secret only says that it is set."""
    m1.commit(APP)
    m1.commit({"web/default/app.toml": "[server]\nport = 9090\n", "web/web1/x": ""})
    shown = eccfg("explain", "app.toml", "--node", "web1").out.decode().splitlines()
    assert [line.split() for line in shown] == [
        ["key", "value", "layer", "revision"],
        ["greeting", '"hello"', "global", "r1"],
        ["server.port", "9090", "web/default", "r2"],
    ]
    document = eccfg("explain", "app.toml", "server.port", "--node", "web1", "--json").json()
    assert document == {
        "schema": 1, "file": "app.toml", "node": "web1", "revision": 2,
        "keys": [{"key": "server.port", "value": 9090, "layer": "web/default", "revision": 2, "secret": False}],
    }  # fmt: skip
    secret = eccfg("explain", "secret.toml", "password", "--node", "web1")
    assert "set (secret)" in secret.out.decode()
    assert "QUJD" not in secret.out.decode()
    key = eccfg("explain", "secret.toml", "password", "--node", "web1", "--json").json()["keys"][0]
    assert (key["value"], key["secret"]) == (None, True)
    assert eccfg("explain", "app.toml", "server.nothing", "--node", "web1").code == 6
    assert eccfg("explain", "nothing", "--node", "web1").code == 6
    assert eccfg("explain", "app.toml").code == 2


def test_effective(m1: Hosted, eccfg: Eccfg) -> None:
    """Every file of the view, and its layers."""
    m1.commit(APP)
    document = eccfg("effective", "--node", "web1", "--json").json()
    assert {file["path"]: file["layers"] for file in document["files"]} == {
        "app.toml": ["global", "web/default"], "motd": ["global"], "secret.toml": ["web/web1"],
    }  # fmt: skip
    assert b"app.toml" in eccfg("effective", "--node", "web2").out


@pytest.mark.parametrize("words", [("explain", "app.toml"), ("effective",)])
def test_a_node_that_nobody_has_heard_of_is_shown_as_it_would_be(
    m1: Hosted, eccfg: Eccfg, words: tuple[str, ...]
) -> None:
    """With a note, as the name may be mistyped; one that has a directory, or attached once, is known."""
    m1.commit(APP)
    m1.node("web2")
    m1.do(gone(m1, "web2"))
    shown = eccfg(*words, "--node", "web9")
    assert (shown.code, shown.err) == (
        0, "note: never heard of node web9: shown as it would be in subcluster default\n",
    )  # fmt: skip
    assert "global" in shown.out.decode()
    assert eccfg(*words, "--node", "web9", "--json").err == shown.err
    assert [eccfg(*words, "--node", known).err for known in ("web1", "web2")] == ["", ""]


# ---------------------------------------------------------------------- nodes, wait, watch


def test_nodes(m1: Hosted, eccfg: Eccfg) -> None:
    """A table for people, the contract's JSON for scripts."""
    first = m1.commit(APP)
    m1.node("web1", report(1, commit_id=first.id, drift=("motd",), drift_count=1))
    m1.node("web2", report(0, "refused", commit_id=None, error="no space left", revision=1))  # type: ignore[arg-type]
    shown = eccfg("nodes")
    lines = [line.split() for line in shown.out.decode().splitlines()]
    assert lines[0] == ["name", "subcluster", "via", "revision", "state", "since", "drift", "error"]
    assert lines[1] == ["web1", "web", "m1", "r1", "applied", "2023-11-14T22:13:20Z", "1", "-"]
    assert lines[2][:5] == ["web2", "web", "m1", "-", "refused"]
    assert "no space left" in shown.out.decode()
    document = eccfg("nodes", "--json").json()
    assert (document["head"], document["silent"]) == (1, [])
    one, two = document["nodes"]
    assert (one["name"], one["revision"], one["id"], one["state"]) == ("web1", 1, first.id, "applied")
    assert (one["since"], one["drift"], one["error"]) == ("2023-11-14T22:13:20.000000Z", ["motd"], None)
    assert (two["revision"], two["state"], two["error"], two["about"]) == (None, "refused", "no space left", 1)
    assert one["via"] == ["m1"]


def test_wait_ends_when_every_attached_node_runs_it(m1: Hosted, eccfg: Eccfg) -> None:
    """Or something later; an offline one is named and not waited for."""
    first, second = m1.commit({"global/a": "1"}), m1.commit({"global/a": "2"})
    m1.node("web1", report(1, commit_id=first.id))
    m1.node("web2", report(1, commit_id=first.id))
    m1.node("web3")
    m1.do(gone(m1, "web3"))

    def applied() -> None:
        m1.watched()
        for name in ("web1", "web2"):
            m1.node(name, report(2, commit_id=second.id))

    later = threading.Thread(target=applied)
    later.start()
    waited = eccfg("wait", "r2", "--timeout", "20s")
    later.join()
    assert (waited.code, waited.out.decode()) == (0, f"r2 {second.id[:8]}: 2 nodes\n")
    assert "web3: offline" in waited.err
    older = eccfg("wait", "r1", "--node", "web1", "--json")
    assert older.json()["nodes"][0]["revision"] == 2


async def gone(m1: Hosted, name: str) -> None:
    m1.served.parts.registry.detached(name)


def test_wait_ends_with_7_and_says_who_is_missing(m1: Hosted, eccfg: Eccfg) -> None:
    """A node that was named counts even if nobody has ever seen it."""
    first = m1.commit({"global/a": "1"})
    m1.node("web1", report(1, commit_id=first.id))
    waited = eccfg("wait", "r1", "--timeout", "0.3", "--node", "web9", "--node", "web1")
    assert waited.code == 7
    assert "web9 did not get to r1 within 0.3" in waited.err
    assert eccfg("wait", "r1", "--timeout", "soon").code == 2


def test_a_node_that_is_named_must_be_attached_to_count(m1: Hosted, eccfg: Eccfg) -> None:
    """What it ran when it was last seen is not what it runs; it is named as offline, and counts when it is back."""
    first = m1.commit({"global/a": "1"})
    m1.node("web3", report(1, commit_id=first.id))
    m1.do(gone(m1, "web3"))
    waited = eccfg("wait", "r1", "--timeout", "0.3", "--node", "web3", "--node", "web9")
    assert waited.code == 7
    assert "note: not attached now, waiting until that changes: web3, web9\n" in waited.err
    assert "web3 offline, not seen to run r1 within 0.3; web9 did not get to r1 within 0.3: see" in waited.err

    def back() -> None:
        m1.watched()
        m1.node("web3", report(1, commit_id=first.id))

    later = threading.Thread(target=back)
    later.start()
    assert eccfg("wait", "r1", "--timeout", "20s", "--node", "web3").code == 0
    later.join()


@pytest.mark.parametrize("state", ["refused", "rolled_back"])
def test_wait_ends_with_6_when_a_node_will_not_take_it(m1: Hosted, eccfg: Eccfg, state: str) -> None:
    """At once, with the node's error; one about an older revision is another matter."""
    first, second = m1.commit({"global/a": "1"}), m1.commit({"global/a": "2"})
    m1.node("web1", report(1, state, commit_id=first.id, error="schema", revision=2))
    waited = eccfg("wait", "HEAD", "--timeout", "20s")
    assert waited.code == 6
    assert f"web1 {state.replace('_', ' ')} r2: schema" in waited.err
    m1.node("web1", report(1, "refused", commit_id=first.id, error="older", revision=1))

    def applied() -> None:
        m1.watched()
        m1.node("web1", report(2, commit_id=second.id))

    later = threading.Thread(target=applied)
    later.start()
    assert eccfg("wait", "r2", "--timeout", "20s").code == 0
    later.join()


def test_wait_survives_a_manager_that_goes_away(m1: Hosted, eccfg: Eccfg, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks again until its time is over."""
    monkeypatch.setattr(nodes_module, "RETRY_S", 0.05)
    first = m1.commit({"global/a": "1"})
    m1.node("web1")

    def interfere() -> None:
        m1.watched()
        m1.do(stop_watching(m1))
        m1.node("web1", report(1, commit_id=first.id))

    later = threading.Thread(target=interfere)
    later.start()
    assert eccfg("wait", "r1", "--timeout", "20s").code == 0
    later.join()


def node(revision: int, *, reported: str = "applied", about: int = 0, commit: str = "a" * 40) -> pb.Node:
    return pb.Node(name="web1", revision=revision, id=commit, reported=reported, about=about or revision)


@pytest.mark.parametrize(
    ("said", "missing", "failed"),
    [
        (node(4), True, False),
        (node(5), False, False),
        (node(6), False, False),
        (node(6, reported="rolled_back", about=7), False, False),  # an attempt at r7 went back to r6
        (node(5, reported="pending"), True, False),  # laid out, not confirmed: it may yet go back
        (node(5, commit="b" * 40), True, False),  # of the same number, but another one
        (node(4, reported="refused", about=5), True, True),
        (node(4, reported="rolled_back", about=6), True, True),
        (node(3, reported="refused", about=4), True, False),
    ],
)
def test_which_nodes_run_it(said: pb.Node, *, missing: bool, failed: bool) -> None:
    """By revision, by id where the number is the same, and by what its report is about."""
    awaited = Awaited(pb.Revision(revision=5, id="a" * 40), ["web1"])
    assert awaited.missing == ["web1"]
    awaited.take(said)
    awaited.take(pb.Node(name="other", revision=9))
    assert (bool(awaited.missing), bool(awaited.failures)) == (missing, failed)


def test_watch_tells_one_line_an_event(m1: Hosted, eccfg: Eccfg, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it happens; when nobody tells any more, that is an error."""
    monkeypatch.setattr(watching_module, "GIVE_UP_S", 0.0)
    m1.commit({"global/a": "1"}, "First")
    m1.node("web1")

    def happen() -> None:
        m1.watched()
        second = m1.commit({"global/a": "2"}, "Second", author="operator:bob")
        m1.told(2)
        m1.node("web1", report(2, commit_id=second.id))
        m1.node("web1", report(2, "refused", commit_id=second.id, error="no", revision=3))
        m1.do(stop_watching(m1))

    later = threading.Thread(target=happen)
    later.start()
    watched = eccfg("watch")
    later.join()
    assert watched.code == 1
    words = [line.split(maxsplit=1)[1] for line in watched.out.decode().splitlines()]
    assert [word.split(" ", 2)[-1] if word.startswith("r") else word for word in words] == [
        "operator:bob: Second", "node web1: applied r2",
        "node web1: refused r3, runs r2 - no",
    ]  # fmt: skip


def test_watch_goes_on_when_its_manager_is_back(m1: Hosted, eccfg: Eccfg, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and begins with how things are: what happened meanwhile is not lost."""
    monkeypatch.setattr(watching_module, "RETRY_S", 0.05)
    m1.commit({"global/a": "1"}, "First")

    def happen() -> None:
        m1.watched()
        m1.do(stop_watching(m1))
        m1.watched()
        m1.commit({"global/a": "2"}, "Second")
        m1.told(2)
        monkeypatch.setattr(watching_module, "GIVE_UP_S", 0.0)
        m1.do(stop_watching(m1))

    later = threading.Thread(target=happen)
    later.start()
    watched = eccfg("watch")
    later.join()
    assert watched.code == 1
    assert [line.split(": ")[-1] for line in watched.out.decode().splitlines()] == ["First", "Second"]
    assert "note: this manager is stopping: watch again; trying again\n" in watched.err
    assert f"note: {m1.served.address} answers: this is how things are now\n" in watched.err


def test_watch_goes_on_at_another_manager(
    tmp_path: Path, eccfg: Eccfg, m1: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first one dies; when none is left, it ends with 1."""
    monkeypatch.setattr(watching_module, "RETRY_S", 0.05)
    m1.commit({"global/a": "1"}, "Of the second manager")
    (tmp_path / "first").mkdir()
    first = contextlib.ExitStack()
    dies = first.enter_context(Hosted(tmp_path / "first"))

    def happen() -> None:
        dies.watched()
        first.close()
        m1.watched()
        monkeypatch.setattr(watching_module, "GIVE_UP_S", 0.0)
        m1.do(stop_watching(m1))

    later = threading.Thread(target=happen)
    later.start()
    watched = eccfg("--manager", m1.served.address, "watch", at=dies.served.address)
    later.join()
    assert watched.code == 1
    assert "Of the second manager" in watched.out.decode()
    assert f"note: {m1.served.address} answers" in watched.err


def test_watch_without_a_manager_ends_at_once(eccfg: Eccfg) -> None:
    """An address that is off is no manager that went away."""
    nobody = eccfg("watch", at="127.0.0.1:1")
    assert (nobody.code, nobody.out) == (1, b"")
    assert "trying again" not in nobody.err


async def stop_watching(m1: Hosted) -> None:
    await m1.served.service.end(1.0)
    await m1.served.service.begin()


# ---------------------------------------------------------------------- bundles


def test_export_is_a_bundle_that_git_clones(m1: Hosted, eccfg: Eccfg, tmp_path: Path) -> None:
    """The same history as the log's; nothing is overwritten unless that is asked for."""
    commits: list[Commit] = [m1.commit({"global/a": str(i)}) for i in range(3)]
    target = tmp_path / "fleet.bundle"
    assert eccfg("export", target).code == 0
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "-b", "main", target, clone], check=True, timeout=30)
    log = subprocess.run(
        ["git", "-C", clone, "log", "--format=%H"], check=True, timeout=30, capture_output=True, text=True
    )
    assert log.stdout.split() == [commit.id for commit in reversed(commits)]
    assert eccfg("export", target).code == 6
    assert eccfg("export", target, "--force", "--json").json()["bytes"] == target.stat().st_size
    assert eccfg("export", "-").out == target.read_bytes()
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_import_takes_what_export_wrote(m1: Hosted, eccfg: Eccfg, tmp_path: Path) -> None:
    """Into an empty repository, ids and all."""
    (tmp_path / "other").mkdir()
    with Hosted(tmp_path / "other") as other:
        commits = [other.commit({"global/a": str(i)}) for i in range(3)]
        assert eccfg("export", tmp_path / "x", at=other.served.address).code == 0
    imported = eccfg("import", tmp_path / "x")
    assert (imported.code, imported.out.decode()) == (0, f"r3 {commits[-1].id[:8]}: 3 revisions added\n")
    assert eccfg("import", tmp_path / "x", "--json").json()["added"] == 0
    assert eccfg("import", tmp_path / "nothing").code == 2
    (tmp_path / "bad").write_bytes(b"nonsense")
    assert eccfg("import", tmp_path / "bad").code in {5, 6}


# ---------------------------------------------------------------------- all of them


COMMANDS = ["log", "show", "cat", "blame", "explain", "effective", "nodes", "wait", "watch", "export", "import"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(capfdbinary: pytest.CaptureFixture[bytes], command: str) -> None:
    """And ``--json``."""
    shown = runner(cli, capfdbinary)(command, "--help").out.decode()
    assert f"eccfg {command}" in shown.replace("eccfg --manager new1:7440 import", "eccfg import")
    assert "Example" in shown
    assert "--json" in shown


def test_a_manager_that_is_not_there(eccfg: Eccfg) -> None:
    """Exit 1, one line; with --json one document."""
    gone_ = eccfg("nodes", "--json", at="127.0.0.1:1")
    assert gone_.code == 1
    assert '"reason": "unavailable"' in gone_.err
