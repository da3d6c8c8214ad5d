"""clone, status, add, rm, restore, commit: what a person does all day."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from jlogd.confrepo import model as m
from jlogd.runtime.fs import File, FileSystem
from managerd.eccfg import files
from managerd.eccfg.index import RACY_NS, Metadata
from managerd.eccfg.working import WorkingCopy
from managerd.v1 import config_pb2 as pb
from tests.support.config_server import ConfigServer
from tests.support.daemon import until
from tests.unit.eccfg.conftest import FIRST, Eccfg


def kinds(eccfg: Eccfg) -> dict[str, str]:
    shown = eccfg("status", "--json")
    assert shown.code == 0, shown.err
    return {each["path"]: each["kind"] for each in shown.json()["changes"]}


def test_a_clone_has_the_files_and_nothing_differs(copy: Path, eccfg: Eccfg) -> None:
    found = {
        str(p.relative_to(copy)): p.read_bytes() for p in copy.rglob("*") if p.is_file() and ".eccfg" not in p.parts
    }
    assert found == FIRST
    assert kinds(eccfg) == {}
    assert b"up to date" in eccfg("status").out


def test_modes_and_symlinks_arrive(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    """Executables are executable, symlinks are symlinks, and neither counts as a change."""
    server.add({"global/run.sh": m.File(b"#!/bin/sh\n", m.EXECUTABLE), "global/link": m.File(b"app.toml", m.SYMLINK)})
    assert eccfg("clone", "copy", at=tmp_path).code == 0
    assert os.access(tmp_path / "copy/global/run.sh", os.X_OK)
    assert (tmp_path / "copy/global/link").readlink() == Path("app.toml")
    assert kinds(eccfg) == {}


def test_clone_leaves_alone_what_is_there(eccfg: Eccfg, tmp_path: Path, copy: Path) -> None:
    assert eccfg("clone", "copy", at=tmp_path).code == 6
    inside = eccfg("clone", "inner")
    assert inside.code == 2
    assert "working copy already" in inside.err


def test_clone_beside_a_working_copy_from_inside_of_it(eccfg: Eccfg, tmp_path: Path, copy: Path) -> None:
    """``..`` leads out of it; -C with one as well; into it by a link is inside."""
    beside = eccfg("clone", "../beside", "--json")
    assert (beside.code, beside.err) == (0, "")
    assert beside.json()["directory"] == str(tmp_path / "beside")
    assert (tmp_path / "beside" / "global/app.toml").exists()
    assert eccfg("status", at=copy / "..").code == 2
    (tmp_path / "link").symlink_to(copy)
    inside = eccfg("clone", "link/inner", at=tmp_path)
    assert inside.code == 2
    assert "is in a working copy already" in inside.err


def test_clone_of_an_empty_repository_says_what_to_do(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    server.revisions.clear()
    refused = eccfg("clone", "copy", at=tmp_path)
    assert refused.code == 6
    assert "bootstrap" in refused.err
    assert not (tmp_path / "copy").exists()


def test_status_tells_each_kind(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """Also from a subdirectory, and how far the base is behind."""
    (copy / "global/app.toml").write_bytes(b"port = 81\n")
    (copy / "web/web1/new.toml").write_bytes(b"x = 1\n")
    (copy / "web/web1/staged.toml").write_bytes(b"x = 1\n")
    (copy / "web/default/app.toml").unlink()
    assert eccfg("add", "staged.toml", at=copy / "web/web1").code == 0
    assert eccfg("rm", "web/web1/only.json").code == 0
    assert not (copy / "web/web1/only.json").exists()
    server.add({"global/other.toml": b""})
    assert kinds(eccfg) == {
        "global/app.toml": "modified",
        "web/default/app.toml": "missing",
        "web/web1/new.toml": "unknown",
        "web/web1/only.json": "deleted",
        "web/web1/staged.toml": "added",
    }
    text = eccfg("status", at=copy / "web").out.decode()
    assert "1 behind r2" in text
    assert eccfg("status", "--json").json()["behind"] == 1


def test_a_changed_mode_is_a_change(copy: Path, eccfg: Eccfg) -> None:
    (copy / "global/app.toml").chmod(0o755)
    assert kinds(eccfg) == {"global/app.toml": "modified"}


def test_an_edit_within_the_clocks_tick_is_seen(copy: Path, eccfg: Eccfg) -> None:
    """Same size, and the times set back to what they were: the content is read all the same."""
    path = copy / "global/app.toml"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"80", b"81"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kinds(eccfg) == {"global/app.toml": "modified"}


def test_status_works_without_a_manager(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    (copy / "global/app.toml").write_bytes(b"port = 81\n")
    server.__exit__(None, None, None)
    shown = eccfg("status")
    assert shown.code == 0
    assert b"modified    global/app.toml" in shown.out
    assert b"the manager was not asked" in shown.out


def test_commit_takes_what_is_staged_or_modified(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """Unknown and missing files are named and left; the base moves on; nothing is left to commit."""
    (copy / "global/app.toml").write_bytes(b"port = 81\n")
    (copy / "web/web1/new.toml").write_bytes(b"x = 1\n")
    (copy / "web/default/app.toml").unlink()
    (copy / "web/web1/run").write_bytes(b"#!/bin/sh\n")
    (copy / "web/web1/run").chmod(0o755)
    assert eccfg("add", "web/web1/run").code == 0
    done = eccfg("commit", "-m", "Port 81")
    assert done.code == 0, done.err
    assert done.out.decode() == f"r2 {server.head().id[:8]}\n"
    assert "unknown web/web1/new.toml" in done.err
    assert "missing web/default/app.toml" in done.err
    assert server.files["global/app.toml"] == m.File(b"port = 81\n")
    assert server.files["web/web1/run"] == m.File(b"#!/bin/sh\n", m.EXECUTABLE)
    assert "web/default/app.toml" in server.files
    assert server.received[-1].base == server._revision(1).id
    assert kinds(eccfg) == {"web/web1/new.toml": "unknown", "web/default/app.toml": "missing"}
    nothing = eccfg("commit", "-m", "again")
    assert (nothing.code, nothing.out) == (0, b"Nothing to commit\n")
    assert len(server.revisions) == 2


def test_commit_all_takes_unknown_and_missing_files(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    (copy / "web/web1/new.toml").write_bytes(b"x = 1\n")
    (copy / "web/default/app.toml").unlink()
    done = eccfg("commit", "--all", "-m", "All", "--json")
    assert done.code == 0
    assert done.json()["revision"] == 2
    assert done.json()["id"] == server.head().id
    assert server.files["web/web1/new.toml"].content == b"x = 1\n"
    assert "web/default/app.toml" not in server.files
    assert kinds(eccfg) == {}


@pytest.mark.parametrize("path", ["global/fifo", "global/app.toml"])
def test_what_is_no_file_is_named_and_never_committed(
    copy: Path, eccfg: Eccfg, server: ConfigServer, path: str
) -> None:
    """New, or in a file's place: a plain commit leaves it out, --all and add refuse it, and nothing is deleted."""
    (copy / path).unlink(missing_ok=True)
    os.mkfifo(copy / path)
    (copy / "global/lines.txt").write_bytes(b"x\n")
    assert kinds(eccfg)[path] == "special"
    shown = eccfg("status").out.decode()
    assert f"  special     {path} (a FIFO)\n" in shown
    assert "only regular files, directories and symlinks can be committed" in shown
    for words in (["commit", "--all", "-m", "m"], ["check", "--all"]):
        refused = eccfg(*words)
        assert refused.code == 6
        assert refused.err == (
            f"error: {path} is a FIFO: only regular files, directories and symlinks can be committed; move that away\n"
        )
    assert server.received == []
    added = eccfg("add", ".")
    assert (added.code, "a FIFO" in added.err) == (6, True)
    done = eccfg("commit", "-m", "m")
    assert done.code == 0
    assert f"left out: {path} is a FIFO" in done.err
    assert server.files["global/app.toml"].content == FIRST["global/app.toml"]
    (copy / path).unlink()
    assert eccfg("restore", ".").code == 0
    assert kinds(eccfg) == {}


def test_sockets_and_devices_are_told_apart(copy: Path, eccfg: Eccfg, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(copy)  # a socket's path may have 107 characters
        listening.bind("global/socket")
        assert "global/socket (a socket)" in eccfg("status").out.decode()
    assert [files.seen_of(Path(name).stat()).special for name in ("/dev/null", "/dev")] == ["a device", ""]


def test_a_pull_over_what_is_no_file_changes_nothing(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """Whatever is chosen: it is named, and stays."""
    os.mkfifo(copy / "global/fifo")
    server.add({"global/fifo": b"x\n", "global/other": b"y\n"})
    for choice in ([], ["--mine"], ["--theirs"], ["--manual"]):
        refused = eccfg("pull", *choice)
        assert refused.code == 6
        assert "global/fifo cannot be put: a FIFO is in the way" in refused.err
    assert not (copy / "global/other").exists()
    (copy / "global/fifo").unlink()
    assert eccfg("pull").code == 0
    assert kinds(eccfg) == {}


def test_a_directory_takes_the_place_of_a_file(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    (copy / "web/web1/only.json").unlink()
    (copy / "web/web1/only.json").mkdir()
    (copy / "web/web1/only.json/inner").write_bytes(b"1\n")
    assert eccfg("commit", "--all", "-m", "m").code == 0
    assert "web/web1/only.json" not in server.files
    assert server.files["web/web1/only.json/inner"].content == b"1\n"
    assert kinds(eccfg) == {}


def test_a_refused_commit_changes_nothing_here(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    server.faults = [pb.Fault(path="global/app.toml", line=2, problem="not TOML: expected '='")]
    (copy / "global/app.toml").write_bytes(b"port\n")
    refused = eccfg("commit", "-m", "broken")
    assert refused.code == 6
    assert refused.out == b""
    assert "global/app.toml:2: not TOML: expected '='" in refused.err.splitlines()
    assert kinds(eccfg) == {"global/app.toml": "modified"}
    as_json = eccfg("commit", "-m", "broken", "--json")
    assert as_json.code == 6
    assert json.loads(as_json.err)["error"]["faults"] == [
        {"path": "global/app.toml", "line": 2, "problem": "not TOML: expected '='"}
    ]


def test_check_says_what_the_server_would_say(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    (copy / "global/app.toml").write_bytes(b"port = 82\n")
    good = eccfg("check")
    assert good.code == 0
    assert b"good" in good.out
    server.faults = [pb.Fault(path="global/app.toml", line=1, problem="no")]
    assert eccfg("check").code == 6
    assert len(server.revisions) == 1
    assert all(header.dry_run for header in server.received)


def test_unconfirmed_is_seven_and_held_is_a_note(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """Stored all the same: the base moves on."""
    server.unconfirmed, server.held = True, "global/rollout.toml asks for a rollout of global/"
    (copy / "global/app.toml").write_bytes(b"port = 82\n")
    done = eccfg("commit", "-m", "m")
    assert done.code == 7
    assert done.out.startswith(b"r2 ")
    assert "asks for a rollout" in done.err
    assert kinds(eccfg) == {}


def test_a_merged_commit_brings_the_others_changes(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """Somebody commits another file first: ours is merged, theirs is here afterwards."""
    (copy / "global/app.toml").write_bytes(b"port = 82\n")
    server.add({"global/other.toml": b"o = 1\n", "web/web1/only.json": None})
    done = eccfg("commit", "-m", "m")
    assert done.code == 0
    assert done.out.startswith(b"r3 ")
    assert (copy / "global/other.toml").read_bytes() == b"o = 1\n"
    assert not (copy / "web/web1").exists()
    assert kinds(eccfg) == {}
    assert b"up to date" in eccfg("status").out


def test_a_conflict_shows_both_sides(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    (copy / "global/app.toml").write_bytes(b"port = 82\n")
    server.add({"global/app.toml": b"port = 83\n"})
    refused = eccfg("commit", "-m", "m")
    assert refused.code == 6
    assert "+port = 82" in refused.err
    assert "+port = 83" in refused.err
    assert kinds(eccfg) == {"global/app.toml": "modified"}


def test_rm_does_not_throw_edits_away(copy: Path, eccfg: Eccfg) -> None:
    (copy / "global/app.toml").write_bytes(b"port = 82\n")
    refused = eccfg("rm", "global")
    assert refused.code == 6
    assert (copy / "global/app.toml").exists()
    assert eccfg("rm", "--force", "global").code == 0
    assert kinds(eccfg) == {"global/app.toml": "deleted", "global/lines.txt": "deleted"}


def test_restore_undoes_edits_and_deletions(copy: Path, eccfg: Eccfg) -> None:
    """What was added stays, unknown."""
    (copy / "global/app.toml").write_bytes(b"port = 82\n")
    (copy / "global/new").write_bytes(b"new")
    assert eccfg("add", "global/new").code == 0
    assert eccfg("rm", "web/web1").code == 0
    (copy / "web/default/app.toml").unlink()
    done = eccfg("restore", ".")
    assert done.code == 0
    assert kinds(eccfg) == {"global/new": "unknown"}
    assert (copy / "web/web1/only.json").read_bytes() == FIRST["web/web1/only.json"]


@pytest.mark.parametrize(
    ("path", "says"),
    [("stray.toml", "in no layer"), ("web/web1/a\\b", "a\\b"), ("web/web1/pipe", "pipe is a FIFO: only")],
)
def test_add_refuses_what_no_repository_takes(copy: Path, eccfg: Eccfg, path: str, says: str) -> None:
    if path.endswith("pipe"):
        os.mkfifo(copy / path)
    else:
        (copy / path).write_bytes(b"")
    refused = eccfg("add", path)
    assert refused.code == 6
    assert says in refused.err
    assert eccfg("add", "nowhere").code == 2
    assert eccfg("add", "../outside").code == 2


def test_outside_of_a_working_copy_the_commands_say_so(eccfg: Eccfg, tmp_path: Path) -> None:
    for words in (["status"], ["add", "."], ["commit", "-m", "m"], ["pull"], ["diff"]):
        refused = eccfg(*words, at=tmp_path)
        assert refused.code == 2, words
        assert "working copy" in refused.err


def test_two_at_once_do_not_mix(copy: Path, eccfg: Eccfg) -> None:
    with Metadata(copy).locked():
        refused = eccfg("add", "global")
    assert refused.code == 4
    assert "another eccfg" in refused.err


def test_a_damaged_index_is_named(copy: Path, eccfg: Eccfg) -> None:
    (copy / ".eccfg/index.json").write_bytes(b'{"schema": 1, "revision"')
    refused = eccfg("status")
    assert refused.code == 5
    assert "index.json" in refused.err


class CountingFs(FileSystem):
    """Counts the files that are read."""

    def __init__(self) -> None:
        self.reads: list[Path] = []

    def open_read(self, path: Path) -> File:
        self.reads.append(path)
        return super().open_read(path)


def test_unchanged_files_are_not_read(tmp_path: Path, server: ConfigServer, eccfg: Eccfg) -> None:
    """However many there are: 10,000 in the long form, where status and commit must take less than a second each."""
    count = 10_000 if os.environ.get("JLOGD_LONG") else 500
    server.add({f"web/web{i % 50}/file{i}.toml": b"value = %d\n" % i for i in range(count)})
    assert eccfg("clone", "copy", at=tmp_path).code == 0
    root = tmp_path / "copy"
    metadata = Metadata(root)
    metadata.write(metadata.read())  # as later: not within a clock's tick of the clone
    until(lambda: time.time_ns() > metadata.read().written_ns + RACY_NS, 5, "a tick")
    metadata.write(metadata.read())
    (root / "web/web1/file1.toml").write_bytes(b"value = 2\n")
    fs = CountingFs()
    begin_s = time.monotonic()
    found = WorkingCopy.open(root, fs=fs).changes()
    status_s = time.monotonic() - begin_s
    assert [each.path for each in found] == ["web/web1/file1.toml"]
    assert [path for path in fs.reads if ".eccfg" not in path.parts] == [root / "web/web1/file1.toml"]
    begin_s = time.monotonic()
    assert eccfg("commit", "-m", "m").code == 0
    commit_s = time.monotonic() - begin_s
    if count == 10_000:
        assert (status_s < 1, commit_s < 1) == (True, True), (status_s, commit_s)
