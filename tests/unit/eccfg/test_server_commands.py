"""bootstrap, put, delete, copy, overlay, rollback, subcluster, put-running: one revision each, on the server."""

import json
import os
from pathlib import Path

import pytest

from jlogd.confrepo import model as m
from jlogd.confrepo.manifest import Item, Manifest
from managerd.eccfg.cli import cli
from managerd.eccfg.index import Metadata
from managerd.v1 import config_pb2 as pb
from tests.support.commandline import runner
from tests.support.config_server import ConfigServer
from tests.unit.eccfg.conftest import FIRST, Eccfg


def contents(server: ConfigServer) -> dict[str, bytes]:
    return {path: file.content for path, file in server.files.items()}


# ---------------------------------------------------------------------- put and others


def test_put_takes_a_file_a_directory_or_stdin(
    server: ConfigServer, eccfg: Eccfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.toml").write_bytes(b"port = 1\n")
    (tmp_path / "conf/sub").mkdir(parents=True)
    (tmp_path / "conf/sub/run").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "conf/sub/run").chmod(0o755)
    (tmp_path / "conf/link").symlink_to("sub/run")
    done = eccfg("put", "app.toml", "web/web1/", "-m", "one", at=tmp_path)
    assert (done.code, done.out) == (0, f"r2 {server.head().id[:8]}\n".encode())
    assert contents(server)["web/web1/app.toml"] == b"port = 1\n"
    assert eccfg("put", "conf", "web/default", "-m", "many", at=tmp_path).code == 0
    assert server.files["web/default/sub/run"] == m.File(b"#!/bin/sh\n", m.EXECUTABLE)
    assert server.files["web/default/link"] == m.File(b"sub/run", m.SYMLINK)
    with (tmp_path / "app.toml").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert eccfg("put", "-", "global/hosts", "-m", "stdin", at=tmp_path).code == 0
    assert contents(server)["global/hosts"] == b"port = 1\n"
    again = eccfg("put", "app.toml", "web/web1/app.toml", "-m", "same", at=tmp_path)
    assert (again.code, again.out) == (0, b"Nothing to commit\n")
    assert len(server.revisions) == 4


def test_a_conflict_on_the_server_says_what_helps_there(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    """A pull would merge nothing: there is no working copy."""
    server.add({"global/app.toml": b"port = 81\n"})
    (tmp_path / "app.toml").write_bytes(b"port = 82\n")
    refused = eccfg("put", "app.toml", "global/app.toml", "--base", "r1", "-m", "m", at=tmp_path)
    assert refused.code == 6
    assert "conflict: nothing was stored; later revisions changed the same ('eccfg log PATH')" in refused.err
    assert "eccfg pull" not in refused.err


def test_delete_copy_overlay_and_rollback(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    server.add({"test/default/app.toml": b"port = 7\n", "web/default/extra": b""})
    assert eccfg("overlay", "test/default", "web/default", "-m", "m", at=tmp_path).code == 0
    assert contents(server)["web/default/app.toml"] == b"port = 7\n"
    assert "web/default/extra" in server.files
    assert eccfg("copy", "test/default/", "web/default/", "-m", "m", at=tmp_path).code == 0
    assert "web/default/extra" not in server.files
    assert eccfg("delete", "web", "-m", "m", at=tmp_path).code == 0
    assert sorted(server.files) == ["README.md", "global/app.toml", "global/lines.txt", "test/default/app.toml"]
    assert eccfg("rollback", "r1", "-m", "m", at=tmp_path).code == 0
    assert contents(server) == FIRST
    edits = [edit for header in server.received for edit in header.edits]
    assert edits == [
        pb.Edit(copy=pb.Copy(source="test/default", target="web/default", overlay=True)),
        pb.Edit(copy=pb.Copy(source="test/default", target="web/default")),
        pb.Edit(delete="web"),
        pb.Edit(rollback="r1"),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["put", "nowhere", "web/web1/x", "-m", "m"],
        ["put", "app.toml", "/", "-m", "m"],
        ["put", "-", "web/web1/", "-m", "m"],
        ["put", "app.toml", "web/web1/x"],
        ["delete", "-m", "m"],
        ["delete", ".", "-m", "m"],
        ["copy", "web", "web/", "-m", "m"],
        ["subcluster", "create", "global", "-m", "m"],
        ["subcluster", "create", "No Name", "-m", "m"],
        ["subcluster", "rm", "web", "-m", "m"],
    ],
)
def test_words_that_make_no_sense_reach_no_manager(
    server: ConfigServer, eccfg: Eccfg, tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "app.toml").write_bytes(b"")
    refused = eccfg(*words, at=tmp_path)
    assert refused.code == 2, refused
    assert server.received == []


def test_a_refusal_comes_back_by_its_reason(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    refused = eccfg("rollback", "r99", "-m", "m", at=tmp_path)
    assert (refused.code, refused.err) == (6, "error: no revision r99\n")


# ---------------------------------------------------------------------- bootstrap


def test_bootstrap_makes_the_first_revision_and_remembers(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    """Once: the second time it says what is there, and leaves the settings alone."""
    server.revisions.clear()
    done = eccfg("bootstrap", at=tmp_path)
    assert done.code == 0, done.err
    assert done.out.startswith(b"r1 ")
    assert {"README.md", "global/example.toml", "default/default/example.toml"} < server.files.keys()
    assert json.loads(server.files["schemas/example.toml.json"].content)
    written = (tmp_path / "xdg/eccfg.toml").read_text()
    assert written == f'manager = "{server.address}"\ninsecure = true\n'
    again = eccfg("bootstrap", at=tmp_path)
    assert again.code == 6
    assert "eccfg clone" in again.err
    assert (tmp_path / "xdg/eccfg.toml").read_text() == written


@pytest.mark.parametrize("there", [None, 'manager = "elsewhere:1"\n'])
def test_a_bootstrap_that_is_refused_leaves_no_connection_behind(
    server: ConfigServer, eccfg: Eccfg, tmp_path: Path, there: str | None
) -> None:
    """By the manager's rules, or because there is a repository; a settings file that was there stays as it was."""
    settings = tmp_path / "xdg/eccfg.toml"
    if there is not None:
        settings.parent.mkdir()
        settings.write_text(there)
    refused = eccfg("bootstrap", at=tmp_path)
    assert (refused.code, "has a repository already" in refused.err) == (6, True)
    server.revisions.clear()
    server.faults = [pb.Fault(path="global/example.toml", line=1, problem="no")]
    refused = eccfg("bootstrap", at=tmp_path)
    assert (refused.code, "nothing was stored" in refused.err) == (6, True)
    assert settings.exists() == (there is not None)
    server.faults = []
    assert eccfg("bootstrap", at=tmp_path).code == 0
    assert settings.read_text() == (there or f'manager = "{server.address}"\ninsecure = true\n')


def test_a_connection_that_cannot_be_remembered_is_no_failure(
    server: ConfigServer, eccfg: Eccfg, tmp_path: Path
) -> None:
    """The first revision is there; the person is told."""
    server.revisions.clear()
    (tmp_path / "xdg").write_text("a file where the directory should be")
    done = eccfg("bootstrap", at=tmp_path)
    assert done.code == 0, done.err
    assert "was not written" in done.err


def test_bootstrap_from_a_directory(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    server.revisions.clear()
    (tmp_path / "old/global").mkdir(parents=True)
    (tmp_path / "old/global/app.toml").write_bytes(b"x = 1\n")
    (tmp_path / "old/.git").mkdir()
    (tmp_path / "old/.git/config").write_bytes(b"")
    assert eccfg("bootstrap", "--from", "nowhere", at=tmp_path).code == 2
    assert eccfg("bootstrap", "--from", "old", "-m", "As it was", at=tmp_path).code == 0
    assert contents(server) == {"global/app.toml": b"x = 1\n"}
    assert server.revisions[0].message == "As it was"


# ---------------------------------------------------------------------- subclusters


def test_subclusters(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    server.nodes = [pb.Node(name="web7", subcluster="web"), pb.Node(name="db1", subcluster="db")]
    listed = eccfg("subcluster", "ls", "--json", at=tmp_path).json()["subclusters"]
    assert listed == [
        {"name": "db", "default_files": 0, "directories": [], "nodes": ["db1"]},
        {"name": "web", "default_files": 1, "directories": ["web1"], "nodes": ["web7"]},
    ]
    assert eccfg("subcluster", "create", "web", "-m", "m", at=tmp_path).code == 6
    assert eccfg("subcluster", "create", "db", "-m", "m", at=tmp_path).code == 0
    assert "db/default/README.db" in server.files
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_bytes(b"a")
    assert eccfg("subcluster", "create", "mail", "--from", "files", "-m", "m", at=tmp_path).code == 0
    assert contents(server)["mail/default/a"] == b"a"
    assert eccfg("subcluster", "copy", "web", "west", "-m", "m", at=tmp_path).code == 0
    assert [path for path in server.files if path.startswith("west/")] == ["west/default/app.toml"]
    assert eccfg("subcluster", "copy", "web", "east", "--node-dirs", "-m", "m", at=tmp_path).code == 0
    assert "east/web1/only.json" in server.files
    assert eccfg("subcluster", "rm", "web", "--yes", "-m", "m", at=tmp_path).code == 0
    assert not [path for path in server.files if path.startswith("web/")]


# ---------------------------------------------------------------------- put-running


@pytest.fixture
def node_settings(tmp_path: Path, server: ConfigServer) -> Path:
    """A node's settings and its laid-out view: three files, one with secrets."""
    revisions = tmp_path / "spool/web1/config/revisions"
    (revisions / "abc/sub").mkdir(parents=True)
    (revisions / "abc/app.toml").write_bytes(b"port = 80\n")
    (revisions / "abc/sub/run").write_bytes(b"#!/bin/sh\n")
    (revisions / "abc/sub/run").chmod(0o755)
    (revisions / "abc/secret.toml").write_bytes(b'password = "hunter2"\n')
    (revisions / "abc/secret.toml").chmod(0o600)
    files = {
        "app.toml": Item(0o100644, 10, 0, "", ""),
        "sub/run": Item(0o100755, 10, 0, "", ""),
        "secret.toml": Item(0o100600, 10, 0, "", ""),
    }
    manifest = Manifest(m.CommitId("abc".ljust(40, "0")), m.Revision(1), files)
    (revisions / "abc.json").write_bytes(manifest.encode())
    (revisions.parent / "current").symlink_to("revisions/abc")
    settings = tmp_path / "jlogd.toml"
    settings.write_text(
        f'[node]\nname = "web1"\nspool = "spool"\n[tls]\ninsecure = true\n'
        f'[[manager]]\naddress = "{server.address}"\nsubscriber = "m1"\n'
    )
    return settings


def test_put_running_saves_the_view_without_secrets(
    server: ConfigServer, eccfg: Eccfg, tmp_path: Path, node_settings: Path
) -> None:
    """Local edits included; what vanished goes; nothing changed, nothing committed."""
    words = ("put-running", "-c", node_settings, "-m", "running")
    view = tmp_path / "spool/web1/config/current"
    (view / "secret.toml").chmod(0o644)  # the manifest knows better
    (view / "local.key").write_bytes(b"private")
    (view / "local.key").chmod(0o600)
    done = eccfg(*words, at=tmp_path)
    assert done.code == 0, done.err
    assert "secret.toml" in done.err
    assert "local.key" in done.err
    saved = {path: file for path, file in server.files.items() if path.startswith("running/")}
    assert saved == {
        "running/web1/app.toml": m.File(b"port = 80\n"),
        "running/web1/sub/run": m.File(b"#!/bin/sh\n", m.EXECUTABLE),
    }
    assert eccfg(*words, at=tmp_path).out == b"Nothing to commit\n"
    (view / "app.toml").write_bytes(b"port = 81\n")
    (view / "sub/run").unlink()
    (view / "local").write_bytes(b"x")
    assert eccfg(*words, at=tmp_path).code == 0
    assert [str(edit).split()[0] for edit in server.received[-1].edits] == ["delete:", "put", "put"]
    assert sorted(path for path in server.files if path.startswith("running/")) == [
        "running/web1/app.toml", "running/web1/local",
    ]  # fmt: skip
    assert len(server.revisions) == 3


def test_put_running_calls_as_the_node(
    server: ConfigServer, tmp_path: Path, node_settings: Path, capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With what its jlogd.toml has, not as who runs it would call from there; an option counts, here to nowhere."""
    (tmp_path / "xdg").mkdir()
    (tmp_path / "xdg/eccfg.toml").write_text('manager = "127.0.0.1:1"\nca = "a"\ncert = "b"\nkey = "c"\n')
    Metadata.create(tmp_path / "copy", "127.0.0.1:1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("ECCFG_MANAGER", "127.0.0.1:1")
    monkeypatch.setenv("ECCFG_CERT", "nowhere")
    monkeypatch.chdir(tmp_path / "copy")
    run = runner(cli, capfdbinary)
    words = ("put-running", "-c", node_settings, "-m", "running")
    done = run(*words)
    assert done.code == 0, done.err
    assert server.files["running/web1/app.toml"].content == b"port = 80\n"
    assert "--manager" in run("--manager", "127.0.0.1:1", *words).err


def test_put_running_sends_nothing_when_it_cannot_tell_secrets(
    server: ConfigServer, eccfg: Eccfg, tmp_path: Path, node_settings: Path
) -> None:
    manifest = tmp_path / "spool/web1/config/revisions/abc.json"
    for content, code in ((b'{"files": [1]}', 5), (b"", 5), (None, 6)):
        if content is None:
            manifest.unlink()
        else:
            manifest.write_bytes(content)
        assert eccfg("put-running", "-c", node_settings, "-m", "m", at=tmp_path).code == code
    os.unlink(tmp_path / "spool/web1/config/current")
    assert eccfg("put-running", "-c", node_settings, "-m", "m", at=tmp_path).code == 2
    assert server.received == []
