"""Edits: what each of them makes of a tree."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jlogd.confrepo import model
from jlogd.confrepo.model import EXECUTABLE, File, ObjectId
from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd import edits
from managerd.ecconfigd.candidate import Candidate, blob_id
from managerd.ecconfigd.edits import Copy, Delete, Edit, Put, Revert, Rollback
from tests.support.revisions import commit, put

BASE: dict[str, File | None] = {
    "global/app/a.toml": File(b"a = 1\n"),
    "global/app/b.sh": File(b"#!/bin/sh\n", EXECUTABLE),
    "web/default/app/a.toml": File(b"a = 2\n"),
    "web/default/only": File(b"here\n"),
}


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository.open(tmp_path / "r.git")
    commit(repository, BASE, "first")
    yield repository
    repository.close()


def made(repository: Repository, *wanted: Edit) -> tuple[dict[str, str | None], edits.Edited]:
    """What changed, as texts, and what was met."""
    candidate = Candidate(repository, repository.head())
    edited = edits.apply(wanted, candidate)
    return {path: file.content.decode() if file else None for path, file in candidate.changes.items()}, edited


def test_what_is_put_as_it_was_changes_nothing(repository: Repository) -> None:
    changes, _ = made(repository, Put("global/app/a.toml", File(b"a = 1\n")), Put("global/x", File(b"x")))
    assert changes == {"global/x": "x"}
    changes, _ = made(repository, Put("global/app/a.toml", File(b"a = 1\n", EXECUTABLE)))
    assert list(changes) == ["global/app/a.toml"]
    changes, _ = made(repository, Put("global/x", File(b"x")), Delete("global/x"))
    assert changes == {}


def test_delete_takes_a_file_or_everything_below_a_directory(repository: Repository) -> None:
    assert made(repository, Delete("web/default/only"))[0] == {"web/default/only": None}
    assert made(repository, Delete("global"))[0] == {"global/app/a.toml": None, "global/app/b.sh": None}


@pytest.mark.parametrize(
    "edit",
    [
        Delete("global/none"), Delete("glob"), Delete(""), Delete("/"), Delete("../x"), Copy("none", "x"),
        Copy("", "x"),
        Copy("global/app/a.toml", ""), Copy("global", "/abs"), Put("", File(b"")), Put("a//b", File(b"")),
        Put("a/../b", File(b"")), Put("\udc80", File(b"")), Copy("global/app/a.toml", "web/default"),
        Copy("global/app", "web/default/only"),
    ],
)  # fmt: skip
def test_edits_that_make_no_sense_are_faults_and_change_nothing(repository: Repository, edit: Edit) -> None:
    changes, edited = made(repository, edit)
    assert changes == {}
    assert edited.faults


def test_copies_replace_or_lie_over(repository: Repository) -> None:
    changes, edited = made(repository, Copy("global", "web/default"))
    assert changes == {
        "web/default/app/a.toml": "a = 1\n",
        "web/default/app/b.sh": "#!/bin/sh\n",
        "web/default/only": None,
    }
    assert set(edited.read) == {"global/app/a.toml", "global/app/b.sh"}
    changes, _ = made(repository, Copy("global", "web/default", overlay=True))
    assert set(changes) == {"web/default/app/a.toml", "web/default/app/b.sh"}
    candidate = Candidate(repository, repository.head())
    edits.apply([Copy("global/app/b.sh", "web/web1/c.sh")], candidate)
    assert candidate.file("web/web1/c.sh") == File(b"#!/bin/sh\n", EXECUTABLE)


def test_a_copy_into_itself_is_a_copy_of_what_was_there(repository: Repository) -> None:
    changes, _ = made(repository, Copy("web", "web/old"))
    assert changes == {"web/old/default/app/a.toml": "a = 2\n", "web/old/default/only": "here\n"}


def test_later_edits_see_earlier_ones(repository: Repository) -> None:
    changes, edited = made(
        repository,
        Put("web/web1/x", File(b"1")),
        Copy("web/web1", "web/web2"),
        Delete("web/web1"),
        Delete("web/default"),
    )
    assert changes == {"web/web2/x": "1", "web/default/app/a.toml": None, "web/default/only": None}
    assert edited.faults == ()


def test_revert_undoes_one_revision_and_keeps_what_came_later(repository: Repository) -> None:
    commit(repository, put("global/app/a.toml", "a = 1\nb = 2\n"), "second")
    commit(repository, {**put("global/app/a.toml", "a = 1\nb = 2\nc = 3\n"), **put("global/new", "n")}, "third")
    changes, edited = made(repository, Revert("r2"))
    assert edited.conflicts == ()
    assert changes == {"global/app/a.toml": "a = 1\nc = 3\n"}
    changes, _ = made(repository, Revert("r3"))
    assert changes == {"global/app/a.toml": "a = 1\nb = 2\n", "global/new": None}
    changes, _ = made(repository, Revert("r1"))
    assert changes["global/app/b.sh"] is None


def test_revert_of_what_changed_again_is_a_conflict(repository: Repository) -> None:
    commit(repository, put("global/app/a.toml", "a = 5\n"), "second")
    commit(repository, put("global/app/a.toml", "a = 6\n"), "third")
    _, edited = made(repository, Revert("r2"))
    assert [(conflict.path, conflict.keys) for conflict in edited.conflicts] == [("global/app/a.toml", ("a",))]


def test_rollback_brings_back_the_whole_tree(repository: Repository) -> None:
    commit(
        repository, {"global/app/a.toml": None, "db/db1/x": File(b"x"), "web/default/only": File(b"other")}, "second"
    )
    commit(repository, {"web/default/only": File(b"here\n")}, "third")
    changes, _ = made(repository, Put("global/y", File(b"y")), Rollback("r1"))
    assert changes == {"global/app/a.toml": "a = 1\n", "db/db1/x": None}


def test_a_revision_that_is_not_there_and_too_much_are_refused(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError):
        made(repository, Rollback("r9"))
    monkeypatch.setattr(edits, "CHANGED_FILES_MAX", 3)
    with pytest.raises(RefusedError, match="more than 3"):
        made(repository, Copy("global", "a"), Copy("web", "b"))


def test_names_follow_the_changes(repository: Repository) -> None:
    candidate = Candidate(repository, repository.head())
    assert candidate.names("web") == {"default": True}
    edits.apply([Put("web/web1/x/y", File(b"")), Delete("global"), Put("README", File(b""))], candidate)
    assert candidate.names() == {"web": True, "README": False}
    assert candidate.names("web") == {"default": True, "web1": True}
    assert candidate.names("web/web1") == {"x": True}
    assert candidate.names("global") == {}
    assert candidate.names("README") == {}
    assert candidate.below("web") == repository.files(repository.head(), "web") | {
        "web/web1/x/y": model.Entry(model.REGULAR, blob_id(b""))
    }


def test_a_file_and_a_directory_of_one_name_clash(repository: Repository) -> None:
    def clashes(*wanted: Edit) -> list[tuple[str, str]]:
        candidate = Candidate(repository, repository.head())
        edits.apply(wanted, candidate)
        return list(candidate.clashes())

    assert clashes(Put("global/app", File(b""))) == [("global/app", "global/app/a.toml")]
    assert clashes(Put("web/default/only/x", File(b""))) == [("web/default/only", "web/default/only/x")]
    assert clashes(Delete("global/app"), Put("global/app", File(b""))) == []
    assert clashes(Delete("web/default/only"), Put("web/default/only/x", File(b""))) == []
    assert clashes(Put("x/y/a", File(b"")), Put("x/y/a/b", File(b""))) == [("x/y/a", "x/y/a/b")]


def test_a_tree_from_nothing(tmp_path: Path) -> None:
    repository = Repository.open(tmp_path / "empty.git")
    candidate = Candidate(repository, None)
    assert candidate.names() == {}
    edits.apply([Put("global/x", File(b"1"))], candidate)
    assert candidate.names() == {"global": True}
    assert list(candidate.changes) == ["global/x"]
    repository.close()


def test_ids_are_git_ids() -> None:
    assert blob_id(b"") == ObjectId("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
