"""eccfg's reading commands against a real manager and a real node, with certificates, as scripts call them."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from managerd import pki
from tests.support.daemon import Result, until
from tests.support.fleet import ECCFG, REPOSITORY, Fleet, Node

Run = Callable[..., Result]

ACCESS = """
[[rule]]
who = ["operator:alice"]
paths = ["**"]
allow = ["read", "commit", "rollout"]

[[rule]]
who = ["operator:bob"]
paths = ["web/**"]
allow = ["read", "commit"]
"""
FILES = {
    "global/app.toml": 'greeting = "hello"\n[server]\nport = 80\n',
    "global/access.toml": ACCESS,
    "web/default/app.toml": "[server]\nport = 8080\n",
    "web/web1/only": "mine\n",
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One manager with a small repository, and a node that attaches to it."""
    home = tmp_path_factory.mktemp("fleet")
    with Fleet(home) as made:
        m1 = made.manager("m1", config='writer = "m1"\n')
        made.node("web1", [], [m1], subcluster="web", config="")
        m1.start()
        m1.ready()
        for path, text in FILES.items():
            (home / "first" / path).parent.mkdir(parents=True, exist_ok=True)
            (home / "first" / path).write_text(text)
        done = made.eccfg("bootstrap", "--from", home / "first", "-m", "First")
        assert done.code == 0, done.err
        yield made


@pytest.fixture
def run(fleet: Fleet) -> Run:
    """``run(*words)``, which must succeed unless ``code`` says otherwise."""

    def run(*words: object, code: int = 0, operator: str = "alice", stdin: bytes = b"") -> Result:
        done = fleet.eccfg(*words, operator=operator, stdin=stdin)
        assert done.code == code, (words, done)
        return done

    return run


def test_the_log_is_git_s_log(fleet: Fleet, run: Run) -> None:
    """The same ids in the same order; each signed by its author."""
    run("put", "-", "global/motd", "-m", "A greeting", stdin=b"hello\n")
    revisions = json.loads(run("log", "--json").out)["revisions"]
    argv = [
        "git",
        "-c",
        "safe.directory=*",
        "-C",
        str(fleet.managers["m1"].repository),
        "log",
        "--format=%H %an %s",
        "main",
    ]
    shown = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout
    assert [f"{r['id']} alice {r['message']}" for r in revisions] == shown.splitlines()
    assert {r["signer"] for r in revisions} == {"operator:alice"}
    assert b"+hello" in run("show", "HEAD").out


def test_files_and_where_their_values_come_from(run: Run) -> None:
    """cat, blame, explain, effective."""
    assert run("cat", "web/web1/only").out == b"mine\n"
    assert run("cat", "web/web1/only@r1").out == b"mine\n"
    assert [line["revision"] for line in json.loads(run("blame", "global/app.toml", "--json").out)["lines"]] == [
        1,
        1,
        1,
    ]
    (key,) = json.loads(run("explain", "app.toml", "server.port", "--node", "web1", "--json").out)["keys"]
    assert (key["value"], key["layer"], key["revision"]) == (8080, "web/default", 1)
    files = json.loads(run("effective", "--node", "web1", "--json").out)["files"]
    assert {"app.toml", "only"} <= {file["path"] for file in files}


def test_rights_end_where_the_rules_say(run: Run) -> None:
    """Exit 1, with the right and the path; lists are filtered."""
    assert run("cat", "web/web1/only", operator="bob").out == b"mine\n"
    denied = run("cat", "global/app.toml", operator="bob", code=1)
    assert "operator:bob may not read global/app.toml" in denied.err
    assert json.loads(run("cat", "global/app.toml", "--json", operator="bob", code=1).err)["error"]["reason"] == (
        "not_permitted"
    )
    first = json.loads(run("log", "--json", operator="bob").out)["revisions"][-1]
    assert set(first["paths"]) == {"web/default/app.toml", "web/web1/only"}
    run("export", "-", operator="bob", code=1)
    run("log", operator="nobody-in-the-rules")  # revisions, without paths
    run("cat", "web/web1/only", operator="nobody-in-the-rules", code=1)


def test_a_revoked_certificate_reads_nothing_more(fleet: Fleet, tmp_path: Path) -> None:
    """Without a restart of the manager: it runs with a deny list."""
    with Fleet(tmp_path / "fleet") as other:
        m1 = other.manager("m1", config='writer = "m1"\n')
        deny = other.root / "pki" / "deny"
        m1.settings.write_text(m1.settings.read_text().replace("[tls]\n", f'[tls]\ndeny = "{deny}"\n'))
        m1.start()
        m1.ready()
        other.operator("mallory")
        assert other.eccfg("log", operator="mallory").code == 0
        pki.revoke("mallory", other.root / "pki")
        denied = other.eccfg("log", operator="mallory")
        assert denied.code == 1
        assert "denied" in denied.err


def test_a_history_is_exported_and_imported(fleet: Fleet, run: Run, tmp_path: Path) -> None:
    """Into another fleet's empty repository, which then shows the same log."""
    run("export", tmp_path / "fleet.bundle")
    with Fleet(tmp_path / "other") as other:
        m1 = other.manager("m1", config='writer = "m1"\n')
        m1.start()
        m1.ready()
        done = other.eccfg("import", tmp_path / "fleet.bundle")
        assert done.code == 0, done.err
        logs = [json.loads(each.eccfg("log", "--json").out)["revisions"] for each in (fleet, other)]
        assert [revision["id"] for revision in logs[0]] == [revision["id"] for revision in logs[1]]


# ---------------------------------------------------------------------- a node


@pytest.fixture(scope="module")
def web1(fleet: Fleet) -> Node:
    """The node, attached."""
    node = fleet.nodes["web1"]
    node.start()
    node.ready()
    until(lambda: attached(fleet), 30, "web1 is attached", interval_s=0.2)
    return node


def attached(fleet: Fleet) -> bool:
    nodes = json.loads(fleet.eccfg("nodes", "--json").out)["nodes"]
    return any(node["name"] == "web1" and node["state"] != "offline" for node in nodes)


def test_wait_ends_when_the_node_runs_it(run: Run, web1: Node) -> None:
    """Commit, wait, look: the new value is in the node's view, and `nodes` says so."""
    done = run("put", "-", "web/web1/fresh", "-m", "For web1", stdin=b"new\n").out.decode().split()
    waited = run("wait", done[0], "--timeout", "30s")
    assert waited.out.decode().startswith(f"{done[0]} {done[1]}")
    assert (web1.view / "fresh").read_bytes() == b"new\n"
    (node,) = json.loads(run("nodes", "--json").out)["nodes"]
    assert (node["name"], node["subcluster"], node["state"], node["error"]) == ("web1", "web", "applied", None)
    assert f"r{node['revision']}" == done[0]
    late = run("wait", done[0], "--timeout", "0.5s", "--node", "web9", code=7)
    assert "web9" in late.err


def test_watch_shows_the_commit_and_the_node_and_ends_with_ctrl_c(fleet: Fleet, run: Run, web1: Node) -> None:
    """One object a line, flushed as it happens; Ctrl-C is how it is meant to end."""
    assert web1.running
    tls, at = fleet.operator("alice"), fleet.managers["m1"]
    argv = [*ECCFG, "--manager", at.address, "--ca", tls.ca, "--cert", tls.cert, "--key", tls.key]
    watching = subprocess.Popen(
        [*map(str, argv), "watch", "--state", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=REPOSITORY, text=True,
    )  # fmt: skip
    try:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["event"] == "revision"
        assert json.loads(watching.stdout.readline())["node"]["name"] == "web1"
        revision = int(run("put", "-", "web/web1/fresh", "-m", "Again", stdin=b"newer\n").out.split()[0][1:])
        seen: list[str] = []
        for line in watching.stdout:
            event = json.loads(line)
            seen.append(event["event"])
            if event["event"] == "node" and (event["node"]["revision"], event["node"]["state"]) == (
                revision,
                "applied",
            ):
                break
        assert "revision" in seen
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=30)
        assert (watching.returncode, err) == (0, "")
    finally:
        watching.kill()
        watching.wait()
