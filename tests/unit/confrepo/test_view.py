"""Views on the disk: whole, linked to each other, and kept right while people change files in them."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from jlogd.confrepo.layout import SYNCED_ONE_BY_ONE
from jlogd.confrepo.manifest import Item, Manifest
from jlogd.confrepo.model import EXECUTABLE, SYMLINK, Changes, Commit, CommitId, File, Revision
from jlogd.confrepo.replica import LocalChangesError, Replica
from jlogd.confrepo.secrets import encrypt
from jlogd.runtime.errors import DamageError, RefusedError
from tests.support.faulty_fs import FaultyFs
from tests.support.replicas import Origin, bring, content, open_replica, run
from tests.support.revisions import put

FIRST: Changes = {
    "global/app.toml": File(b"# ours\nport = 80\nname = 'x'\n"),
    "web/default/app.toml": File(b"port = 81\n"),
    "global/plain.conf": File(b"plain\n"),
    "global/bin/check": File(b"#!/bin/sh\nexit 0\n", EXECUTABLE),
    "global/etc/link": File(b"../plain.conf", SYMLINK),
    "web/web1/etc/own": File(b"own\n"),
    "web/web2/etc/other": File(b"not for web1\n"),
    "mail/default/x": File(b"not for web\n"),
}
WANTED = {
    "app.toml": b'port = 81\nname = "x"\n',
    "plain.conf": b"plain\n",
    "bin/check": b"#!/bin/sh\nexit 0\n",
    "etc/link": b"../plain.conf",
    "etc/own": b"own\n",
}


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path)


def begin(tmp_path: Path, origin: Origin, **policy: Any) -> tuple[Replica, Commit, Path]:
    """A replica that runs the first revision."""
    replica = open_replica(tmp_path / "config", **policy)
    first = origin.commit(FIRST)
    return replica, first, run(replica, origin, first)


def test_a_view_has_the_node_s_own_layers_with_their_modes(tmp_path: Path, origin: Origin) -> None:
    replica, first, view = begin(tmp_path, origin)
    assert content(view) == WANTED
    assert content(tmp_path / "config/current") == WANTED
    modes = {path: stat.S_IMODE((view / path).lstat().st_mode) for path in WANTED if path != "etc/link"}
    assert modes == {"app.toml": 0o644, "plain.conf": 0o644, "bin/check": 0o755, "etc/own": 0o644}
    assert os.readlink(tmp_path / "config/current") == f"revisions/{first.id}"
    assert replica.views.current() == first.id
    assert replica.look(full=True) == {}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_are_what_the_repository_says_whatever_the_umask(tmp_path: Path, origin: Origin, umask: int) -> None:
    before = os.umask(umask)
    try:
        _, _, view = begin(tmp_path, origin)
    finally:
        os.umask(before)
    assert stat.S_IMODE((view / "bin/check").stat().st_mode) == 0o755
    assert stat.S_IMODE((view / "plain.conf").stat().st_mode) == 0o644


def test_unchanged_files_are_links_and_changed_ones_are_not(tmp_path: Path, origin: Origin) -> None:
    """Also symlinks and merged files; the older view stays as it was."""
    replica, _, old = begin(tmp_path, origin)
    new = run(replica, origin, origin.put("global/plain.conf", "other\n"))
    same = {path for path in WANTED if (old / path).lstat().st_ino == (new / path).lstat().st_ino}
    assert same == WANTED.keys() - {"plain.conf"}
    assert content(old) == WANTED
    assert content(new) == WANTED | {"plain.conf": b"other\n"}
    assert replica.look(full=True) == {}


def test_files_come_and_go_and_become_directories(tmp_path: Path, origin: Origin) -> None:
    replica, _, _ = begin(tmp_path, origin)
    changes: Changes = {"global/plain.conf": None, "global/plain.conf/inner": File(b"in"), "web/web1/etc/own": None}
    view = run(replica, origin, origin.commit(changes))
    wanted = {**WANTED, "plain.conf/inner": b"in"}
    del wanted["plain.conf"], wanted["etc/own"]
    assert content(view) == wanted


def test_many_new_files_are_synced_at_once(tmp_path: Path, origin: Origin) -> None:
    fs = FaultyFs()
    replica = open_replica(tmp_path / "config", fs)
    many: Changes = {f"global/f{number}": File(b"x") for number in range(SYNCED_ONE_BY_ONE + 1)}
    revision = origin.commit(many)
    replica.receive(revision.id, origin.pack(revision.id), [])
    fs.log.clear()
    replica.prepare(revision.id, revision.revision)
    assert f"sync_all .new-{revision.id}" in fs.log
    few = origin.put("global/f1", "y")
    replica.receive(few.id, origin.pack(few.id, [revision.id]), [revision.id])
    fs.log.clear()
    replica.views.swap(revision.id)
    replica.prepare(few.id, few.revision)
    assert fs.log.count("create f1") == fs.log.count("datasync f1") == 1
    assert not [line for line in fs.log if line.startswith("sync_all")]
    assert fs.log.index(f"sync_dir .new-{few.id}") < fs.log.index(f"rename {few.id}")


def test_secrets_are_decrypted_when_laid_out_for_their_owner_only(tmp_path: Path, origin: Origin) -> None:
    replica = open_replica(tmp_path / "config")
    secret = encrypt("hunter2", [replica.recipient])
    view = run(replica, origin, origin.put("web/web1/db.toml", f'user = "a"\npassword = "{secret}"\n'))
    assert b"hunter2" in (view / "db.toml").read_bytes()
    assert stat.S_IMODE((view / "db.toml").stat().st_mode) == 0o600
    manifest = replica.views.manifest(replica.views.current() or CommitId(""))
    assert manifest is not None
    assert manifest.files["db.toml"].secret
    assert b"hunter2" not in b"".join(path.read_bytes() for path in (tmp_path / "config/objects").rglob("*/*"))
    other = encrypt("x", [open_replica(tmp_path / "other").recipient])
    with pytest.raises(RefusedError, match=r"^db\.toml: "):
        run(replica, origin, origin.put("web/web1/db.toml", f'password = "{other}"\n'))
    assert replica.views.path(replica.views.current() or CommitId("")) == view


def test_a_file_that_is_a_directory_in_another_layer_is_refused(tmp_path: Path, origin: Origin) -> None:
    replica, first, _ = begin(tmp_path, origin)
    with pytest.raises(RefusedError, match=r"plain\.conf is a file in one layer and a directory in another"):
        run(replica, origin, origin.put("web/web1/plain.conf/inner", "x"))
    assert replica.views.current() == first.id


def test_where_links_are_not_possible_files_are_written(tmp_path: Path, origin: Origin) -> None:
    fs = FaultyFs(error=errno.EMLINK, only={"link"}, sticky=True)
    replica = open_replica(tmp_path / "config", fs)
    run(replica, origin, origin.commit(FIRST))
    fs.fail_at = 1
    view = run(replica, origin, origin.put("global/plain.conf", "other\n"))
    assert content(view) == WANTED | {"plain.conf": b"other\n"}
    assert replica.look(full=True) == {}


# ---------------------------------------------------------------------- changes on this machine


def change(view: Path) -> dict[str, str]:
    """Every kind of change, and what each counts as."""
    (view / "plain.conf").write_bytes(b"local\n")  # in place: the inode of older views as well
    (view / "bin/check").chmod(0o700)
    (view / "etc/own").unlink()
    (view / "etc/new").write_bytes(b"new\n")
    (view / "etc/link").unlink()
    (view / "etc/link").symlink_to("own")
    (view / "more").mkdir(exist_ok=True)
    (view / "more/deep").write_bytes(b"deep\n")
    os.mkfifo(view / "fifo")
    return {
        "plain.conf": "changed",
        "bin/check": "changed",
        "etc/own": "removed",
        "etc/new": "added",
        "etc/link": "changed",
        "more/deep": "added",
        "fifo": "added",
    }


def test_every_change_is_noticed(tmp_path: Path, origin: Origin) -> None:
    replica, _, view = begin(tmp_path, origin)
    assert replica.look(full=False) == {}
    assert change(view) == replica.look(full=False) == replica.look(full=True)


def test_a_touched_file_is_no_drift_and_a_disguised_one_is(tmp_path: Path, origin: Origin) -> None:
    replica, _, view = begin(tmp_path, origin)
    os.utime(view / "plain.conf")
    assert replica.look(full=False) == {}
    before = (view / "etc/own").stat()
    (view / "etc/own").write_bytes(b"OWN\n")
    os.utime(view / "etc/own", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert replica.look(full=False) == {}
    assert replica.look(full=True) == {"etc/own": "changed"}
    new = run(replica, origin, origin.put("global/plain.conf", "other\n"))
    assert content(new)["plain.conf"] == b"other\n"
    os.utime(new / "app.toml")
    assert replica.look(full=False) == {}
    newer = run(replica, origin, origin.put("global/plain.conf", "again\n"))
    assert (newer / "app.toml").stat().st_ino == (new / "app.toml").stat().st_ino


def test_keep_local_changes_go_into_the_next_view_and_stay_reported(tmp_path: Path, origin: Origin) -> None:
    """Local wins over a file that the new revision changes or deletes as well."""
    replica, _, view = begin(tmp_path, origin)
    changes = change(view)
    changes.pop("fifo")
    told = put("global/plain.conf", "theirs\n") | put("web/web1/etc/new", "theirs\n") | {"global/bin/check": None}
    new = run(replica, origin, origin.commit(told))
    wanted = {**WANTED, "plain.conf": b"local\n", "etc/new": b"new\n", "etc/link": b"own", "more/deep": b"deep\n"}
    del wanted["etc/own"]
    assert content(new) == wanted
    assert stat.S_IMODE((new / "bin/check").stat().st_mode) == 0o700
    assert replica.look(full=True) == changes | {"etc/new": "changed", "bin/check": "added"}
    newer = run(replica, origin, origin.put("global/plain.conf", "theirs again\n"))
    assert content(newer) == wanted


def test_a_change_made_here_and_in_the_repository_is_no_drift_any_more(tmp_path: Path, origin: Origin) -> None:
    replica, _, view = begin(tmp_path, origin)
    (view / "plain.conf").write_bytes(b"same\n")
    (view / "etc/own").write_bytes(b"back\n")
    new = run(replica, origin, origin.put("global/plain.conf", "same\n"))
    assert replica.look(full=True) == {"etc/own": "changed"}
    (new / "etc/own").write_bytes(b"own\n")
    assert replica.look(full=True) == {}
    run(replica, origin, origin.put("global/plain.conf", "newer\n"))
    assert replica.look(full=True) == {}


def test_local_files_and_directories_win_over_what_clashes_with_them(tmp_path: Path, origin: Origin) -> None:
    replica, _, view = begin(tmp_path, origin)
    (view / "etc/own").unlink()
    (view / "etc/link").unlink()
    (view / "etc").rmdir()
    (view / "etc").symlink_to("/somewhere")
    (view / "later").mkdir()
    (view / "later/x").write_bytes(b"local")
    new = run(replica, origin, origin.commit(put("global/etc/added", "x") | put("global/later", "a file")))
    assert content(new)["etc"] == b"/somewhere"
    assert content(new)["later/x"] == b"local"
    gone = {"etc/added": "removed", "etc/own": "removed", "etc/link": "removed", "later": "removed"}
    assert replica.look(full=True) == {**gone, "etc": "added", "later/x": "added"}


def test_theirs_brings_the_repository_s_files_back(tmp_path: Path, origin: Origin) -> None:
    replica, _, view = begin(tmp_path, origin, local="theirs")
    change(view)
    (view / "etc/own").mkdir()
    (view / "etc/own/inside").write_bytes(b"x")
    (view / "app.toml").unlink()
    (view / "bin/check").unlink()
    (view / "bin").rmdir()
    (view / "bin").symlink_to("etc")
    replica.restore(replica.look(full=False))
    assert replica.look(full=True) == {}
    assert content(view) == WANTED
    change(view)
    new = run(replica, origin, origin.put("global/x", "x"))
    assert content(new) == WANTED | {"x": b"x"}


def test_refuse_takes_nothing_new_until_the_change_is_undone(tmp_path: Path, origin: Origin) -> None:
    replica, first, view = begin(tmp_path, origin, local="refuse")
    (view / "etc/new").write_bytes(b"x")
    second = origin.put("global/x", "x")
    with pytest.raises(LocalChangesError, match=r"etc/new changed on this machine"):
        run(replica, origin, second)
    assert replica.views.current() == first.id
    (view / "etc/new").unlink()
    assert content(run(replica, origin, second)) == WANTED | {"x": b"x"}


def test_going_back_brings_the_old_view_as_it_was(tmp_path: Path, origin: Origin) -> None:
    replica, first, view = begin(tmp_path, origin)
    (view / "etc/new").write_bytes(b"local")
    run(replica, origin, origin.put("global/plain.conf", "other\n"))
    replica.prepare_again(first.id, first.revision)
    replica.views.swap(first.id)
    assert content(tmp_path / "config/current") == WANTED | {"etc/new": b"local"}
    (view / "etc/own").unlink()  # not whole any more: laid out again, from the objects
    replica.prepare_again(first.id, first.revision)
    assert content(view) == WANTED


def test_an_older_revision_that_is_intact_is_used_again_and_another_is_not(tmp_path: Path, origin: Origin) -> None:
    replica, first, view = begin(tmp_path, origin)
    inode = view.stat().st_ino
    second = origin.put("global/plain.conf", "other\n")
    run(replica, origin, second)
    assert run(replica, origin, first).stat().st_ino == inode
    run(replica, origin, second)
    (view / "etc/own").write_bytes(b"spoilt")  # in the second view as well: one inode
    again = run(replica, origin, first)
    assert again.stat().st_ino != inode
    assert content(again)["etc/own"] == b"spoilt"  # a local change of what ran: kept


# ---------------------------------------------------------------------- current


def test_whatever_stands_in_the_place_of_current_is_not_lost(tmp_path: Path, origin: Origin) -> None:
    replica, first, _ = begin(tmp_path, origin)
    current = tmp_path / "config/current"
    current.unlink()
    assert replica.views.current() is None
    current.symlink_to("revisions/nowhere")
    assert replica.views.current() is None
    replica.views.swap(first.id)
    assert content(current) == WANTED
    for number in range(2):
        current.unlink()
        current.mkdir()
        (current / "mine").write_bytes(b"%d" % number)
        assert replica.views.current() is None
        replica.views.swap(first.id)
        assert content(current) == WANTED
        assert (tmp_path / f"config/current.local-{number}/mine").read_bytes() == b"%d" % number
    replica.views.swap(None)
    assert not os.path.lexists(current)
    replica.views.swap(None)


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path: Path, origin: Origin) -> None:
    _, first, view = begin(tmp_path, origin)
    revisions = view.parent
    other = "f" * 40
    for name in (f".new-{other}", f".old-{other}", other):
        (revisions / name / "d").mkdir(parents=True)
        (revisions / name / "d/f").write_bytes(b"x")
    (revisions / f"{'e' * 40}.json").write_bytes(b"{}")
    (revisions / f".new-{other}.json").write_bytes(b"{}")
    (tmp_path / "config/.new-current").symlink_to("x")
    replica = open_replica(tmp_path / "config")
    assert sorted(os.listdir(revisions)) == sorted([first.id, f"{first.id}.json"])
    assert not os.path.lexists(tmp_path / "config/.new-current")
    assert content(replica.views.path(first.id)) == WANTED


@pytest.mark.parametrize("keep", [1, 3])
def test_old_revisions_go_but_never_those_that_are_needed(tmp_path: Path, origin: Origin, keep: int) -> None:
    replica = open_replica(tmp_path / "config", keep_revisions=keep)
    made = [origin.put("global/f", str(number)) for number in range(7)]
    for revision in made:
        run(replica, origin, revision)
    replica.views.swap(made[1].id)
    replica.tidy([made[0].id])
    assert set(replica.views.kept()) == {made[0].id, made[1].id, *(revision.id for revision in made[-keep:])}
    replica.tidy([], thorough=True)
    assert set(replica.views.kept()) == {made[1].id, *(revision.id for revision in made[-keep:])}
    assert {name for name in os.listdir(tmp_path / "config/revisions") if name.startswith(".")} == set()
    held = {path.name for path in (tmp_path / "config/objects").glob("??/*")}
    assert made[0].id[2:] not in held
    assert replica.has(made[1].id)
    replica.prepare_again(made[1].id, made[1].revision)


def test_a_removed_view_is_durably_without_a_name_before_its_files_go(tmp_path: Path, origin: Origin) -> None:
    """Else a power cut could bring its name and manifest back, and not all of its files."""
    fs = FaultyFs()
    replica = open_replica(tmp_path / "config", fs, keep_revisions=1)
    made = [origin.put("global/f", str(number)) for number in range(2)]
    for revision in made:
        run(replica, origin, revision)
    replica.close()
    fs.log.clear()
    replica.tidy([])
    old = made[0].id
    assert fs.log == [f"rename .old-{old}", f"unlink {old}.json", "sync_dir revisions", f"remove_tree .old-{old}"]


# ---------------------------------------------------------------------- manifests


def test_a_manifest_reads_back(tmp_path: Path) -> None:
    items = {"a/ü": Item(0o100644, 3, 1_700_000_000_123_456_789, "ff", "100644:00"), "b": Item(0o100600, 0, -1, "", "")}
    manifest = Manifest(CommitId("a" * 40), Revision(7), items)
    assert Manifest.decode(manifest.encode()) == manifest


GOOD_HEAD = b'{"schema": 1, "id": "' + b"a" * 40 + b'", "revision": 1, "files": '


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"schema": 2, "id": "", "revision": 1, "files": {}}',
        b'{"schema": 1, "id": "x", "revision": 1, "files": {}}',
        GOOD_HEAD + b'{"a": []}}',
        GOOD_HEAD + b'{"a": "abcde"}}',
        GOOD_HEAD + b'{"a": [1, 2, 3, 4, 5]}}',
    ],
)
def test_bad_manifests_are_damage(text: bytes) -> None:
    with pytest.raises(DamageError):
        Manifest.decode(text)


def test_a_view_without_its_manifest_is_laid_out_again(tmp_path: Path, origin: Origin) -> None:
    _, first, view = begin(tmp_path, origin)
    (view.parent / f"{first.id}.json").write_bytes(b"{}")
    replica = open_replica(tmp_path / "config")
    assert replica.views.manifest(first.id) is None
    assert replica.look(full=True) == {}
    bring(replica, origin, first)
    assert content(tmp_path / "config/current") == WANTED
    assert replica.views.manifest(first.id) is not None
