"""diff: the working copy, revisions, what a node gets; lines, keys; secrets never."""

from pathlib import Path

import pytest

from jlogd.confrepo import model as m
from managerd.eccfg.difference import Difference, changed_keys, masked, unified
from tests.support.config_server import ConfigServer
from tests.unit.eccfg.conftest import Eccfg

APP = "global/app.toml"


def test_local_changes_against_the_base(copy: Path, eccfg: Eccfg) -> None:
    """Paths choose among them; unknown files are no change yet."""
    (copy / APP).write_bytes(b'name = "all"\nport = 81\n')
    (copy / "web/web1/new").write_bytes(b"new\n")
    (copy / "web/default/app.toml").unlink()
    shown = eccfg("diff").out.decode().splitlines()
    assert shown == [
        "--- a/global/app.toml", "+++ b/global/app.toml", "@@ -1,2 +1,2 @@",
        ' name = "all"', "-port = 80", "+port = 81",
        "--- a/web/default/app.toml", "+++ /dev/null", "@@ -1 +0,0 @@", "-port = 8080",
    ]  # fmt: skip
    assert eccfg("diff", "default", at=copy / "web").out.decode().splitlines() == shown[6:]
    assert eccfg("diff", "--keys", APP).out.decode() == "global/app.toml: modified\n  port: 80 → 81\n"
    assert eccfg("add", ".").code == 0
    assert b"+++ b/web/web1/new" in eccfg("diff").out


def test_two_revisions(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    """In either order, without a working copy; one revision is compared with HEAD."""
    server.add({APP: b"port = 81\n", "global/new": b"new\n", "web/web1/only.json": None})
    shown = eccfg("diff", "r1", "r2", "--json", at=tmp_path).json()["differences"]
    assert [(each["path"], each["status"]) for each in shown] == [
        (APP, "modified"), ("global/new", "added"), ("web/web1/only.json", "deleted"),
    ]  # fmt: skip
    assert shown[0]["keys"] == [
        {"key": "name", "before": '"all"', "after": None},
        {"key": "port", "before": "80", "after": "81"},
    ]
    assert shown[1]["keys"] is None
    assert eccfg("diff", "HEAD~1", "--json", at=tmp_path).json()["differences"] == shown
    back = eccfg("diff", "r2", "r1", "--json", at=tmp_path).json()["differences"]
    assert [each["status"] for each in back] == ["modified", "deleted", "added"]
    assert eccfg("diff", "r1", "r2", "global/new", at=tmp_path).out.decode().count("+++") == 1
    assert eccfg("diff", "r1", "r9", at=tmp_path).code == 6


def test_a_revision_against_the_working_copy(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """What was committed since, and what was edited here."""
    server.add({APP: b"port = 81\n", "global/other": b"o\n"})
    (copy / APP).write_bytes(b"port = 82\n")
    shown = eccfg("diff", "r2", "--json").json()["differences"]
    assert [(each["path"], each["status"]) for each in shown] == [(APP, "modified"), ("global/other", "deleted")]
    assert "-port = 81" in shown[0]["lines"]
    assert "+port = 82" in shown[0]["lines"]


def test_a_file_named_like_a_revision(copy: Path, eccfg: Eccfg) -> None:
    (copy / "r1").mkdir()
    assert eccfg("diff", "r1").code == 0


def test_what_a_node_gets_of_two_revisions(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    server.add({APP: b"port = 81\n"})
    server.views = {("web1", 1): {"app.toml": m.File(b"port = 1\n")}, ("web1", 2): {"app.toml": m.File(b"port = 2\n")}}
    shown = eccfg("diff", "r1", "r2", "--node", "web1", at=tmp_path).out.decode()
    assert "--- a/app.toml" in shown
    assert "+port = 2" in shown
    assert eccfg("diff", "r1", "--node", "web1", at=tmp_path).out.decode() == shown


def test_what_local_edits_change_for_a_node(copy: Path, eccfg: Eccfg) -> None:
    """Through its layers: what a more specific layer sets is no change for the node."""
    (copy / APP).write_bytes(b'name = "new"\nport = 81\n')
    assert eccfg("diff", "--node", "web1", "--keys").out.decode() == 'app.toml: modified\n  name: "all" → "new"\n'
    unknown = eccfg("diff", "--node", "nobody")
    assert unknown.code == 2
    assert "no node 'nobody'" in unknown.err


def test_secrets_are_masked_and_their_change_is_seen() -> None:
    before = m.File(b'password = "$age:QUJDRA=="\n')
    after = m.File(b'password = "$age:RUZHSA=="\n')
    difference = Difference("global/a.toml", before, after)
    lines = "\n".join(unified(difference))
    assert "QUJD" not in lines
    assert "RUZH" not in lines
    assert lines.count("$age:(") == 2
    [key] = changed_keys(difference) or []
    assert key.before != key.after
    assert "QUJD" not in (key.before or "")
    assert masked("plain") == "plain"


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (m.File(b"\xff\x00"), m.File(b"\xff"), "binary: 2 bytes → 1 bytes"),
        (m.File(b"a\n"), m.File(b"a\n", m.EXECUTABLE), "mode 100644 → 100755"),
        (m.File(b"a\n"), m.File(b"a"), "+a (no newline at the end)"),
        (m.File(b"a\n"), m.File(b"a\x1b[31m\n"), "+a\\x1b[31m"),
        (None, m.File(b"-- x\n"), "+-- x"),
        (m.File(b"-- x\n"), m.File(b"y\n"), "--- x"),
        (m.File(b"-- \n"), m.File(b"y\n"), "--- "),
    ],
)
def test_lines_of_a_diff(before: m.File | None, after: m.File | None, line: str) -> None:
    """Binary files are not shown, control characters steer no terminal, and a removed line may look like a header."""
    assert line in list(unified(Difference("global/a", before, after)))
