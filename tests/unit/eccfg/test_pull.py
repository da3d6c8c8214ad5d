"""pull and resolve: whole or not at all, whatever happens meanwhile; and nothing outside of the working copy."""

from pathlib import Path

import pytest

from jlogd.confrepo import model as m
from jlogd.runtime.fs import OS, FileSystem
from managerd.eccfg.connection import Connection, Options
from managerd.eccfg.index import Metadata
from managerd.eccfg.pulling import Choice, Pulled, pull
from managerd.eccfg.working import WorkingCopy
from managerd.v1 import config_pb2 as pb
from tests.support.config_server import ConfigServer
from tests.unit.eccfg.conftest import FIRST, Eccfg
from tests.unit.eccfg.test_working_copy import kinds

APP = "global/app.toml"
LINES = "global/lines.txt"


def lines(**changed: str) -> bytes:
    """The file of 20 lines with some replaced: ``l3="text"``."""
    return b"".join(f"{changed.get(f'l{i}', f'line {i}')}\n".encode() for i in range(20))


def test_what_changed_there_only_is_updated(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    server.add({APP: b"port = 81\n", "web/web1/only.json": None, "web/web2/new.toml": b"x = 1\n"})
    (copy / LINES).write_bytes(lines(l3="mine"))
    done = eccfg("pull")
    assert done.code == 0, done.err
    assert done.out.decode().splitlines()[-1] == f"at r2 {server.head().id[:8]}"
    assert (copy / APP).read_bytes() == b"port = 81\n"
    assert (copy / "web/web2/new.toml").read_bytes() == b"x = 1\n"
    assert not (copy / "web/web1").exists()
    assert kinds(eccfg) == {LINES: "modified"}
    again = eccfg("pull", "--json")
    assert again.json() == {
        "schema": 1, "revision": 2, "id": server.head().id, "updated": [], "merged": [], "kept": [], "conflicts": [],
    }  # fmt: skip


def test_both_sides_merge_per_key_and_per_line(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """The result is a local change on top of theirs."""
    (copy / APP).write_bytes(b'name = "mine"\nport = 80\n')
    (copy / LINES).write_bytes(lines(l2="mine"))
    server.add({APP: b'name = "all"\nport = 81\n', LINES: lines(l17="theirs")})
    done = eccfg("pull")
    assert done.code == 0, done.err
    assert (copy / APP).read_bytes() == b'name = "mine"\nport = 81\n'
    assert (copy / LINES).read_bytes() == lines(l2="mine", l17="theirs")
    assert kinds(eccfg) == {APP: "modified", LINES: "modified"}
    assert eccfg("commit", "-m", "m").code == 0
    assert server.files[LINES].content == lines(l2="mine", l17="theirs")


def test_the_same_change_on_both_sides_is_no_change(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """Whatever was staged: the same edit, the same new file, the same deletion."""
    (copy / APP).write_bytes(b"port = 81\n")
    (copy / "global/new").write_bytes(b"new\n")
    assert eccfg("add", "global/new").code == 0
    assert eccfg("rm", "web/web1/only.json").code == 0
    server.add({APP: b"port = 81\n", "global/new": b"new\n", "web/web1/only.json": None})
    assert eccfg("pull").code == 0
    assert kinds(eccfg) == {}


def test_a_conflict_refuses_the_whole_pull(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """Nothing at all changes, and both sides are shown."""
    (copy / APP).write_bytes(b'name = "all"\nport = 82\n')
    server.add({APP: b'name = "all"\nport = 83\n', "global/other": b"o\n"})
    refused = eccfg("pull")
    assert refused.code == 6
    assert "yours   82" in refused.err
    assert "theirs  83" in refused.err
    assert "--mine" in refused.err
    assert not (copy / "global/other").exists()
    assert (copy / APP).read_bytes() == b'name = "all"\nport = 82\n'
    assert eccfg("status", "--json").json()["revision"] == 1


@pytest.mark.parametrize(
    ("choice", "content", "kind"),
    [("--mine", b"port = 82\n", {APP: "modified"}), ("--theirs", b"port = 83\n", {})],
)
def test_a_side_can_be_chosen(
    copy: Path, eccfg: Eccfg, server: ConfigServer, choice: str, content: bytes, kind: dict[str, str]
) -> None:
    (copy / APP).write_bytes(b"port = 82\n")
    server.add({APP: b"port = 83\n", "global/other": b"o\n"})
    assert eccfg("pull", choice).code == 0
    assert (copy / APP).read_bytes() == content
    assert (copy / "global/other").exists()
    assert kinds(eccfg) == kind


@pytest.mark.parametrize("choice", ["--mine", "--theirs"])
@pytest.mark.parametrize("who", ["mine", "theirs"])
def test_deleted_here_changed_there_and_the_reverse(
    copy: Path, eccfg: Eccfg, server: ConfigServer, choice: str, who: str
) -> None:
    """A conflict; with a choice the file is there, or gone, as that side wants it, and a commit makes it so."""
    if who == "mine":
        assert eccfg("rm", APP).code == 0
        server.add({APP: b"port = 83\n"})
    else:
        (copy / APP).write_bytes(b"port = 82\n")
        server.add({APP: None})
    refused = eccfg("pull")
    assert refused.code == 6
    assert "deleted it" in refused.err
    assert eccfg("pull", choice).code == 0
    wanted = (choice == "--mine") != (who == "mine")
    assert (copy / APP).exists() == wanted
    assert eccfg("commit", "-m", "m").code == 0
    assert (APP in server.files) == wanted
    assert kinds(eccfg) == {}


def test_manual_leaves_both_to_edit(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """Lines that merge are merged; commit refuses until resolve; resolve refuses markers; then all is as usual."""
    (copy / LINES).write_bytes(lines(l2="mine", l10="mine"))
    server.add({LINES: lines(l2="theirs", l17="theirs")})
    assert eccfg("pull", "--manual").code == 0
    text = (copy / LINES).read_text()
    assert "<<<<<<< mine\nmine\n||||||| base\nline 2\n=======\ntheirs\n>>>>>>> theirs r2\n" in text
    assert text.count("<<<<<<<") == 1
    assert "line 9\nmine\nline 11" in text
    assert "line 16\ntheirs\nline 18" in text
    assert (copy / f"{LINES}.mine").read_bytes() == lines(l2="mine", l10="mine")
    assert (copy / f"{LINES}.theirs").read_bytes() == lines(l2="theirs", l17="theirs")
    assert (copy / f"{LINES}.base").read_bytes() == FIRST[LINES]
    shown = eccfg("status")
    assert b"conflicted  global/lines.txt\n" in shown.out
    assert b".mine" not in shown.out
    for words in (["commit", "--all", "-m", "m"], ["resolve", LINES], ["resolve", APP]):
        assert eccfg(*words).code == 6, words
    (copy / LINES).write_bytes(lines(l2="both", l10="mine", l17="theirs"))
    assert eccfg("resolve", LINES).code == 0
    assert sorted(path.name for path in (copy / "global").iterdir()) == ["app.toml", "lines.txt"]
    assert eccfg("commit", "-m", "Both").code == 0
    assert server.files[LINES].content == lines(l2="both", l10="mine", l17="theirs")


def test_restore_ends_a_conflict_with_theirs(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    (copy / APP).write_bytes(b"port = 82\n")
    server.add({APP: b"port = 83\n"})
    assert eccfg("pull", "--manual").code == 0
    assert eccfg("restore", APP).code == 0
    assert (copy / APP).read_bytes() == b"port = 83\n"
    assert kinds(eccfg) == {}
    assert eccfg("status", "--json").json()["conflicts"] == []
    assert not (copy / f"{APP}.mine").exists()


def test_files_of_mine_in_the_way_are_never_overwritten(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """An unknown file of the same name is a conflict; one where a directory must be, or below a new file, is named."""
    (copy / "global/new").write_bytes(b"mine")
    server.add({"global/new": b"theirs"})
    assert eccfg("pull").code == 6
    assert (copy / "global/new").read_bytes() == b"mine"
    (copy / "global/new").unlink()
    (copy / "global/new").mkdir()
    (copy / "global/new/inner").write_bytes(b"mine")
    refused = eccfg("pull")
    assert refused.code == 6
    assert "global/new/inner" in refused.err
    assert (copy / "global/new/inner").read_bytes() == b"mine"


def test_files_and_directories_change_places(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    server.add({"web/web1/only.json": None, "web/web1/only.json/inner": b"1", APP: b"x"})
    assert eccfg("pull").code == 0
    assert (copy / "web/web1/only.json/inner").read_bytes() == b"1"
    server.add({"web/web1/only.json": b"{}", "web/web1/only.json/inner": None})
    assert eccfg("pull").code == 0
    assert (copy / "web/web1/only.json").read_bytes() == b"{}"
    assert kinds(eccfg) == {}


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("../outside", m.File(b"")),
        ("/etc/outside", m.File(b"")),
        ("global/../../outside", m.File(b"")),
        (".eccfg/settings.json", m.File(b"")),
        ("global/.git/hooks/post-checkout", m.File(b"", m.EXECUTABLE)),
        ("global/link", m.File(b"../../outside", m.SYMLINK)),
        ("global/link", m.File(b"/etc/passwd", m.SYMLINK)),
        ("global/odd", m.File(b"", 0o104755)),
    ],
)
def test_a_manager_that_lies_writes_nothing_outside(
    copy: Path, eccfg: Eccfg, server: ConfigServer, path: str, file: m.File, tmp_path: Path
) -> None:
    server.add({path: file, "global/good": b""})
    before = sorted(tmp_path.rglob("*"))
    refused = eccfg("pull")
    assert refused.code == 6
    assert "not taken from the manager" in refused.err
    assert sorted(each for each in tmp_path.rglob("*") if each.name != "lock") == [
        x for x in before if x.name != "lock"
    ]


def test_nothing_is_written_through_a_symlink(copy: Path, eccfg: Eccfg, server: ConfigServer, tmp_path: Path) -> None:
    """A directory of the working copy that somebody replaced by a symlink, and one that the manager would make."""
    (tmp_path / "outside").mkdir()
    (copy / "web/web2").symlink_to(tmp_path / "outside")
    server.add({"web/web2/new": b"x"})
    refused = eccfg("pull")
    assert refused.code == 6
    assert "symlink" in refused.err
    server.revisions.pop()
    server.add({"global/a": m.File(b".", m.SYMLINK), "global/a/b": b"x"})
    assert eccfg("pull").code == 6
    assert list((tmp_path / "outside").iterdir()) == []


class Cut(BaseException):
    """As a kill: nothing catches it."""


class CuttingFs(FileSystem):
    """Ends at the N-th change, before it."""

    def __init__(self, at: int) -> None:
        self.left = at

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Cut

    def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
        self._count()
        super().rename(source, target, sync=sync)

    def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        self._count()
        super().unlink(path, missing_ok=missing_ok)

    def symlink(self, target: str | bytes, path: Path) -> None:
        self._count()
        super().symlink(target, path)

    def sync_all(self, path: Path) -> None:
        self._count()
        super().sync_all(path)


def copied(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".eccfg" not in path.parts
    }


def test_killed_anywhere_a_pull_is_finished_by_the_next(server: ConfigServer, eccfg: Eccfg, tmp_path: Path) -> None:
    """At each single step: every file is old or new, status works, the next pull ends where an undisturbed one does."""
    changes: dict[str, bytes | None] = {APP: b"port = 9\n", "web/web1/only.json": None, "global/sub/new": b"n\n"}
    wanted = {**FIRST, **changes, LINES: lines(l3="mine", l17="theirs")}
    wanted = {path: content for path, content in wanted.items() if content is not None}
    for at in range(1, 200):
        root = tmp_path / f"copy{at}"
        if len(server.revisions) > 1:
            server.revisions.pop()
        assert eccfg("clone", root, at=tmp_path).code == 0
        (root / LINES).write_bytes(lines(l3="mine"))
        server.add({**changes, LINES: lines(l17="theirs")})
        fs = CuttingFs(at)
        try:
            assert eccfg_pull(root, server, fs).conflicts == []
        except Cut:
            for path, content in copied(root).items():
                assert content in (FIRST.get(path), wanted.get(path), lines(l3="mine")), path
            assert eccfg("status", at=root).code == 0
            assert eccfg("pull", at=root).code == 0
        else:
            assert at > 20, "not one step for each"
            return
        assert copied(root) == wanted
        assert eccfg("status", "--json", at=root).json()["conflicts"] == []
        assert {each["path"] for each in eccfg("status", "--json", at=root).json()["changes"]} == {LINES}
        assert Metadata(root).read().revision == 2
    raise AssertionError("a pull of four files takes 200 steps")


def eccfg_pull(root: Path, server: ConfigServer, fs: FileSystem) -> Pulled:
    with Connection(Options((server.address,), insecure=True), root).connect() as client:
        return pull(WorkingCopy.open(root, fs=fs), client, Choice.REFUSE)


def test_an_edit_between_a_kill_and_the_next_pull_is_not_lost(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """It stays, and theirs stands beside it as a conflict."""
    server.add({APP: b"port = 9\n"})
    noted: list[bool] = []

    class StopAtRename(FileSystem):
        def rename(self, source: Path, target: Path, *, sync: bool = True) -> None:
            if target.name == "app.toml":
                noted.append(True)
                raise Cut
            super().rename(source, target, sync=sync)

    with pytest.raises(Cut):
        eccfg_pull(copy, server, StopAtRename())
    assert noted
    assert b"interrupted" in eccfg("status").out
    (copy / APP).write_bytes(b"port = 10\n")
    assert eccfg("pull").code == 0
    assert (copy / APP).read_bytes() == b"port = 10\n"
    assert (copy / f"{APP}.theirs").read_bytes() == b"port = 9\n"
    assert eccfg("status", "--json").json()["conflicts"] == [APP]


def test_a_cut_line_changes_nothing(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """Neither for a clone, which a pull in the directory then finishes."""
    server.add({f"global/new{i}": b"x" for i in range(10)})
    server.cut_after = 5
    before = copied(copy)
    assert eccfg("pull").code == 1
    assert copied(copy) == before
    assert eccfg("clone", "second", at=copy.parent).code == 1
    server.cut_after = 1 << 60
    assert eccfg("pull", at=copy.parent / "second").code == 0
    assert len(copied(copy.parent / "second")) == len(FIRST) + 10


def test_contents_that_nothing_needs_any_more_go(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    for i in range(5):
        server.add({APP: b"port = %d\n" % i})
        assert eccfg("pull").code == 0
    stored = [path for path in (copy / ".eccfg/base").rglob("*") if path.is_file()]
    assert len(stored) == len(FIRST)
    assert OS.list_dir(copy / ".eccfg/staged") == []


def test_side_branches_are_shown_and_settled(copy: Path, eccfg: Eccfg, server: ConfigServer) -> None:
    """They block nothing; settling one needs a message, and is one call."""
    server.side_branches = [pb.SideBranch(name="m2-r7", id="ab" * 20, paths=[APP])]
    shown = eccfg("status").out.decode()
    assert f"side branch m2-r7 has changes that could not be merged: {APP}" in shown
    assert "eccfg show abababab" in shown
    assert eccfg("status", "--json").json()["side_branches"] == [{"name": "m2-r7", "id": "ab" * 20, "paths": [APP]}]
    assert eccfg("resolve", "--side", "m2-r7").code == 2
    assert eccfg("resolve", "--side", "m2-r7", APP, "-m", "m").code == 2
    assert eccfg("resolve").code == 2
    done = eccfg("resolve", "--side", "m2-r7", "-m", "By hand")
    assert done.code == 0, done.err
    assert list(server.received[-1].settles) == ["m2-r7"]
    assert server.side_branches == []
