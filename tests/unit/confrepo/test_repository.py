"""Revisions on a line: what git and we see are the same; compare-and-set; trees; packs for nodes and managers."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dulwich.objects import Blob, ShaFile, Tree
from dulwich.objects import Commit as GitCommit

from jlogd.confrepo import line, scope, trees
from jlogd.confrepo.commits import compose, parse_commit, with_signature, without_signature
from jlogd.confrepo.model import EXECUTABLE, SYMLINK, Commit, CommitId, Entry, File, ObjectId, Revision, Scope
from jlogd.confrepo.objects import ObjectStore
from jlogd.confrepo.repository import CONFIRMED, MAIN, ROLLOUT, SIDE, Repository
from jlogd.confrepo.scope import check_scope, scope_objects
from jlogd.runtime.errors import ConflictError, DamageError, RefusedError
from tests.support.revisions import NOON, commit, fsck, git, put, store

LIMIT = 64 << 20
NOBODY = CommitId("1" * 40)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    repo = Repository.open(tmp_path / "config.git")
    yield repo
    repo.close()


@pytest.fixture
def three(repo: Repository) -> list[Commit]:
    """r1 to r3."""
    return [
        commit(repo, put("global/a.toml", "x = 1\n") | put("web/default/b", "b"), "first"),
        commit(repo, put("web/web1/c", "c"), "second"),
        commit(repo, put("global/a.toml", "x = 2\n"), "third\n\nwith a body\n\n"),
    ]


# ---------------------------------------------------------------------- what git sees


def test_a_new_repository_is_a_bare_one_that_git_can_clone(repo: Repository, tmp_path: Path) -> None:
    assert repo.head() is None
    assert (repo.root(), repo.refs(), repo.files(None), list(repo.log())) == (None, {}, {}, [])
    git(tmp_path, "clone", "-q", str(repo.path), "clone")
    assert git(repo.path, "rev-parse", "--is-bare-repository").strip() == "true"


def test_clone_and_log_show_our_history(repo: Repository, three: list[Commit], tmp_path: Path) -> None:
    fsck(repo.path)
    git(tmp_path, "clone", "-q", str(repo.path), "clone")
    log = git(tmp_path / "clone", "log", "--format=%H %an <%ae> %ct %P|%B")
    expected = [
        f"{found.id} alice <operator:alice@jlogd> {NOON} {found.parent or ''}|{found.message}\n\n"
        for found in repo.log()
    ]
    assert log == "".join(expected)
    assert [found.revision for found in repo.log()] == [3, 2, 1]
    assert (tmp_path / "clone" / "global" / "a.toml").read_text() == "x = 2\n"
    assert "jlogd-revision 3" in git(repo.path, "cat-file", "-p", "main")


def test_modes_and_links_come_out_as_they_went_in(repo: Repository, tmp_path: Path) -> None:
    changes = {"global/run": File(b"#!/bin/sh\n", EXECUTABLE), "global/link": File(b"run", SYMLINK)}
    head = commit(repo, changes)
    assert repo.file(head, "global/run") == changes["global/run"]
    assert repo.file(head, "global/link") == changes["global/link"]
    git(tmp_path, "clone", "-q", str(repo.path), "clone")
    assert (tmp_path / "clone/global/run").stat().st_mode & 0o111
    assert (tmp_path / "clone/global/link").readlink() == Path("run")


def test_git_cannot_push_into_it(repo: Repository, three: list[Commit], tmp_path: Path) -> None:
    """The owner keeps the refs in memory: nobody else may move them."""
    git(tmp_path, "clone", "-q", str(repo.path), "clone")
    git(tmp_path / "clone", "commit", "-q", "--allow-empty", "-m", "x")
    with pytest.raises(AssertionError, match="hidden ref"):
        git(tmp_path / "clone", "push", "-q", "origin", "HEAD")


def test_refs_that_git_packed_are_read_moved_and_deleted(repo: Repository, three: list[Commit]) -> None:
    repo.advance({CONFIRMED: (None, three[0].id), SIDE + "m2-r3": (None, three[1].id)})
    git(repo.path, "pack-refs", "--all", "--prune")
    assert not (repo.path / MAIN).exists()
    again = Repository.open(repo.path)
    assert again.refs() == repo.refs() == {MAIN: three[2].id, CONFIRMED: three[0].id, SIDE + "m2-r3": three[1].id}
    again.advance({CONFIRMED: (three[0].id, three[1].id), SIDE + "m2-r3": (three[1].id, None)})
    again.close()
    last = Repository.open(repo.path)
    assert last.refs() == {MAIN: three[2].id, CONFIRMED: three[1].id}
    last.close()
    fsck(repo.path)


def test_a_bundle_is_a_clone_and_comes_back(repo: Repository, three: list[Commit], tmp_path: Path) -> None:
    path = tmp_path / "all.bundle"
    path.write_bytes(b"".join(repo.bundle("r2")))
    git(tmp_path, "clone", "-q", "-b", "main", str(path), "clone")
    assert git(tmp_path / "clone", "rev-parse", "HEAD").strip() == three[1].id
    git(repo.path, "bundle", "verify", "-q", str(path))
    other = Repository.open(tmp_path / "other.git")
    assert other.read_bundle([path.read_bytes()[:50], path.read_bytes()[50:]], bytes_max=LIMIT) == three[1].id
    other.advance({MAIN: (None, three[1].id)})
    assert [found.id for found in other.log()] == [three[1].id, three[0].id]
    other.close()


# ---------------------------------------------------------------------- a plain git history


def plain_history(directory: Path) -> Path:
    """Four commits of Bob's, one of them a merge, as a bundle with deltas."""
    git(directory, "init", "-q", "-b", "main", "plain")
    work = directory / "plain"
    (work / "global").mkdir()
    for number in range(3):
        if number == 2:
            git(work, "checkout", "-q", "-b", "aside", "HEAD~1")
        (work / "global" / f"{number // 2}").write_text("".join(f"{line}\n" for line in range(number, 500)))
        git(work, "add", ".")
        git(work, "commit", "-q", "-m", f"number {number}")
    git(work, "checkout", "-q", "main")
    git(work, "merge", "-q", "--no-ff", "-m", "merged", "aside")
    git(work, "gc", "-q")
    git(work, "bundle", "create", "-q", "../plain.bundle", "main")
    return directory / "plain.bundle"


def test_a_plain_git_history_is_numbered_along_its_first_parents(repo: Repository, tmp_path: Path) -> None:
    head = repo.read_bundle([plain_history(tmp_path).read_bytes()], bytes_max=LIMIT)
    repo.advance({MAIN: (None, head)})
    assert [(found.revision, found.message) for found in repo.log()] == [
        (3, "merged"),
        (2, "number 1"),
        (1, "number 0"),
    ]
    assert repo.resolve("r3").author == "Bob <bob@example.org>"
    aside = repo.commit(CommitId(git(tmp_path / "plain", "rev-parse", "aside").strip()))
    assert (aside.revision, repo.on_main(aside.id)) == (2, False)
    ours = commit(repo, put("global/new", "1"))
    assert (ours.revision, ours.parent) == (4, head)
    fsck(repo.path)
    again = Repository.open(repo.path)
    assert again.at(Revision(4)) == ours
    replayed = repo.draft(ours, put("global/b", "1"), author="Bob <bob@example.org>", message="again", time_s=NOON)
    assert parse_commit(replayed.content).author == "Bob <bob@example.org>"
    again.close()


def test_a_bundle_that_continues_something_unknown_is_refused(repo: Repository, tmp_path: Path) -> None:
    plain_history(tmp_path)
    git(tmp_path / "plain", "bundle", "create", "-q", "../part.bundle", "main", "^main~1")
    with pytest.raises(RefusedError, match="continues commit"):
        repo.read_bundle([(tmp_path / "part.bundle").read_bytes()], bytes_max=LIMIT)


@pytest.mark.parametrize(
    "wire", [b"", b"# v2 git bundle\n", b"# v3 git bundle\n\nPACK", b"# v2 git bundle\nxyz\n\n", b"x" * (4 << 20)]
)
def test_what_is_not_a_bundle_is_refused(repo: Repository, wire: bytes) -> None:
    with pytest.raises(DamageError):
        repo.read_bundle([wire], bytes_max=LIMIT)


# ---------------------------------------------------------------------- revisions


def test_revisions_are_found_by_every_name(repo: Repository, three: list[Commit]) -> None:
    r1, r2, r3 = three
    assert [found.revision for found in three] == [1, 2, 3]
    assert (repo.head(), repo.root()) == (r3, r1.id)
    assert [repo.resolve(rev) for rev in ("", "HEAD", "r3", "HEAD~0", r3.id, r3.id[:8])] == [r3] * 6
    assert [repo.resolve(rev) for rev in ("r1", "HEAD~2", r1.id[:6])] == [r1] * 3
    assert repo.at(Revision(2)) == r2
    assert repo.on_main(r1.id)
    assert not repo.on_main(NOBODY)


@pytest.mark.parametrize(
    "rev", ["r0", "r4", "HEAD~3", "head", "main", "r", "r-1", "abc", "f" * 40, "HEAD~", "r1 ", "ffffffff", "HEAD^"]
)
def test_no_such_revision_is_refused(repo: Repository, three: list[Commit], rev: str) -> None:
    with pytest.raises(RefusedError, match="no revision"):
        repo.resolve(rev)


def test_an_empty_repository_says_so(repo: Repository) -> None:
    with pytest.raises(RefusedError, match="empty"):
        repo.resolve("HEAD")
    with pytest.raises(RefusedError, match="r1"):
        repo.at(Revision(1))


def test_an_ambiguous_prefix_is_refused(repo: Repository) -> None:
    begins: dict[str, str] = {}
    for number in range(2000):  # 16 bits of an id: a pair is there long before
        found = store(repo, {}, f"{number}", parent=None)
        if found[:4] in begins:
            repo.advance({SIDE + "a": (None, found), SIDE + "b": (None, CommitId(begins[found[:4]]))})
            with pytest.raises(RefusedError, match="begins the ids of 2 revisions"):
                repo.resolve(found[:4])
            assert repo.resolve(found[:12]).id == found
            return
        begins[found[:4]] = found
    pytest.fail("no two ids begin alike")


def test_log_of_a_path_shows_what_changed_it(repo: Repository, three: list[Commit]) -> None:
    r1, r2, r3 = three
    assert list(repo.log("global/a.toml")) == [r3, r1]
    assert list(repo.log("web")) == [r2, r1]
    assert list(repo.log("web/web1/")) == [r2]
    assert list(repo.log("nothing")) == []
    assert list(repo.log(until=r2.id)) == [r2, r1]


def test_the_line_is_the_same_with_without_and_with_an_old_or_broken_file(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``jlogd-line`` only saves time."""
    monkeypatch.setattr(line, "UNSAVED_MAX", 0)
    expected = [commit(repo, put("global/a", f"{number}")).id for number in range(5)]
    path = repo.path / "jlogd-line"
    repo.close()
    whole = path.read_bytes()
    assert len(whole) == 20 + 5 * 20 + 32
    expected += [commit(repo, put("global/b", f"{number}")).id for number in range(3)]
    for content in (whole, b"", whole[:-1], whole[:30] + b"\xff" + whole[31:], bytes(200)):
        path.write_bytes(content)
        again = Repository.open(repo.path)
        assert [again.at(Revision(number)).id for number in range(1, 9)] == expected
    path.unlink()
    again = Repository.open(repo.path)
    assert [again.at(Revision(number)).id for number in range(1, 9)] == expected


# ---------------------------------------------------------------------- trees


def test_files_entries_names(repo: Repository, three: list[Commit]) -> None:
    head = three[2]
    assert sorted(repo.files(head)) == ["global/a.toml", "web/default/b", "web/web1/c"]
    assert sorted(repo.files(head, "web")) == sorted(repo.files(head, "web/")) == ["web/default/b", "web/web1/c"]
    assert repo.files(head, "web/web1/c") == repo.files(head, "missing") == {}
    assert repo.names(head) == {"global": True, "web": True}
    assert repo.names(head, "web/web1") == {"c": False}
    assert repo.names(head, "web/web1/c") == repo.names(None) == {}
    assert repo.entry(head, "global") is None
    assert repo.entry(head, "global/a.toml/x") is None
    assert repo.file(head, "global/a.toml") == File(b"x = 2\n")
    assert repo.file(None, "global/a.toml") is None


def test_diff_is_in_the_order_of_paths_and_shows_both_sides(repo: Repository) -> None:
    r1 = commit(repo, put("global/a", "1") | put("global/a-b", "1") | put("global/d/x", "1") | put("global/e", "1"))
    r2 = commit(
        repo,
        {"global/a": None, "global/d/x": None}
        | put("global/a/deep/er", "2")
        | put("global/a.b", "2")
        | put("global/d", "2"),
    )
    found = {path: (old and repo.content(old), new and repo.content(new)) for path, old, new in repo.diff(r1, r2)}
    assert found == {
        "global/a": (b"1", None),
        "global/a.b": (None, b"2"),
        "global/a/deep/er": (None, b"2"),
        "global/d": (None, b"2"),
        "global/d/x": (b"1", None),
    }
    paths = [path for path, _, _ in repo.diff(None, r2)]
    assert paths == sorted(repo.files(r2))
    assert [path for path, _, _ in repo.diff(r2, None)] == paths
    assert list(repo.diff(r2, r2)) == list(repo.diff(None, None)) == []
    fsck(repo.path)


def test_directories_end_with_their_last_file(repo: Repository, three: list[Commit]) -> None:
    head = commit(repo, {"web/web1/c": None, "web/default/b": None, "nothing/here": None})
    assert repo.names(head) == {"global": True}
    head = commit(repo, {"global/a.toml": None})
    assert repo.files(head) == {}
    fsck(repo.path)


def test_deleting_a_directory_or_nothing_is_no_change(repo: Repository, three: list[Commit]) -> None:
    for changes in (
        {},
        {"web": None},
        {"web/web1": None, "x": None},
        {"global/a.toml/x": None},
        put("global/a.toml", "x = 2\n"),
    ):
        assert repo.draft(three[2], changes, author="operator:a", message="", time_s=NOON).empty
    assert repo.draft(None, {}, author="operator:a", message="", time_s=NOON).empty


@pytest.mark.parametrize(
    "changes",
    [
        put("web", "a file"),
        put("global/a.toml/x", "below a file"),
        put("global/x", "1") | put("global/x/y", "2"),
        put("global//x", "1"),
        put("global/../x", "1"),
        put("", "1"),
        put("global/\0", "1"),
        put("global/\ud800", "1"),
        {"global/x": File(b"", 0o100664)},
    ],
)
def test_what_cannot_be_a_tree_is_refused(repo: Repository, three: list[Commit], changes: dict[str, File]) -> None:
    with pytest.raises(RefusedError):
        repo.draft(three[2], changes, author="operator:a", message="x", time_s=NOON)


def test_a_draft_brings_what_is_along_the_changed_paths_and_stores_nothing(
    repo: Repository, three: list[Commit]
) -> None:
    before = sorted(path for path in repo.path.rglob("*") if path.is_file())
    draft = repo.draft(three[2], put("global/new", "n"), author="operator:bob", message="m", time_s=NOON)
    assert sorted(item.type_name for item in draft.objects) == [b"blob", b"tree", b"tree"]
    assert (draft.revision, draft.parent, draft.empty) == (4, three[2].id, False)
    assert repo.head() == three[2]
    assert sorted(path for path in repo.path.rglob("*") if path.is_file()) == before


def test_what_git_pruned_is_stored_again(repo: Repository, three: list[Commit]) -> None:
    """Objects that no ref reached went with ``git gc``; the same change must not count on them."""
    store(repo, put("global/n", "1"), parent=three[2])
    git(repo.path, "repack", "-a", "-d", "-k", "-q")
    assert repo.draft(three[2], put("global/n", "1"), author="operator:a", message="", time_s=NOON).tree in repo.store
    git(repo.path, "gc", "-q", "--prune=now")
    commit(repo, put("global/n", "1"))
    fsck(repo.path)


# ---------------------------------------------------------------------- commit objects


@pytest.mark.parametrize(
    "author", ["", "alice", "operator:", "operator:a b", "operator:a<b", "Bob <b@x\n>", "a\0 <b>", "x:y:z"]
)
def test_an_author_that_git_cannot_read_back_is_refused(author: str) -> None:
    with pytest.raises(RefusedError, match="author"):
        compose(ObjectId("1" * 40), None, author, NOON, "x")


@pytest.mark.parametrize("message", ["a\0b", "x" * 20_000, "\ud800"])
def test_a_message_that_git_cannot_keep_is_refused(message: str) -> None:
    with pytest.raises(RefusedError, match="message"):
        compose(ObjectId("1" * 40), None, "operator:alice", NOON, message)


@pytest.mark.parametrize("message", ["", "one", "two\n\nparts", "  indented", "jlogd-revision 9\n\nauthor x"])
def test_messages_come_back(message: str) -> None:
    found = parse_commit(compose(ObjectId("1" * 40), None, "operator:alice", NOON, message + "\n\n"))
    assert (found.message, found.revision, found.author, found.time_s) == (message, 1, "operator:alice", NOON)


@pytest.mark.parametrize("signature", [b"QQ==", b"A" * 76, b"A" * 77, b"A" * 1000])
def test_a_signature_is_folded_and_taken_out_again(repo: Repository, signature: bytes) -> None:
    draft = repo.draft(None, put("global/a", "1"), author="operator:alice", message=" x\n\n y", time_s=NOON)
    commit_id, sealed = repo.seal(draft.content, signature)
    repo.store.add([*draft.objects, sealed])
    repo.advance({MAIN: (None, commit_id)})
    assert repo.commit(commit_id).signature == signature
    assert repo.store.signed_content(commit_id) == draft.content
    fsck(repo.path)
    with pytest.raises(RefusedError, match="signed already"):
        repo.seal(sealed.as_raw_string(), b"QQ==")


@pytest.mark.parametrize("signature", [b"a b", b"a\nb", b"\n\nmessage", b"A" * 20_000])
def test_what_is_not_base64_is_no_signature(signature: bytes) -> None:
    with pytest.raises(RefusedError, match="base64"):
        with_signature(compose(ObjectId("1" * 40), None, "operator:alice", NOON, "x"), signature)


def test_two_signatures_or_numbers_are_damage() -> None:
    """What is checked must be what is shown."""
    content = with_signature(compose(ObjectId("1" * 40), None, "operator:alice", NOON, "x"), b"QQ==")
    for header in (b"jlogd-signature QUFB", b"jlogd-revision 7", b"author x <operator:x@jlogd> 1 +0000"):
        with pytest.raises(DamageError, match="two headers"):
            parse_commit(content.replace(b"\n\n", b"\n" + header + b"\n\n", 1))
    assert without_signature(content) == compose(ObjectId("1" * 40), None, "operator:alice", NOON, "x")


@pytest.mark.parametrize(
    "content", [b"", b"tree", b"not a commit", b"tree x\nauthor y\n\n", b"tree " + b"1" * 40 + b"\n\nx", b"\n\n"]
)
def test_what_is_not_a_commit_cannot_be_sealed(content: bytes) -> None:
    with pytest.raises(RefusedError, match="not a commit"):
        Repository.seal(content)


# ---------------------------------------------------------------------- advancing


def test_compare_and_set(repo: Repository, three: list[Commit]) -> None:
    new = store(repo, put("global/n", "1"), parent=three[2])
    for expected in (None, three[1].id, new):
        with pytest.raises(ConflictError, match=three[2].id):
            repo.advance({MAIN: (expected, new)})
    with pytest.raises(ConflictError, match="not there"):
        repo.advance({ROLLOUT: (new, new)})
    assert repo.head() == three[2]
    repo.advance({MAIN: (three[2].id, new)})
    assert repo.ref(MAIN) == new


def test_all_refs_are_compared_before_one_is_moved(repo: Repository, three: list[Commit]) -> None:
    new = store(repo, put("global/n", "1"), parent=three[2])
    with pytest.raises(ConflictError):
        repo.advance({MAIN: (three[2].id, new), CONFIRMED: (three[0].id, new)})
    assert repo.refs() == {MAIN: three[2].id}
    again = Repository.open(repo.path)
    assert again.refs() == {MAIN: three[2].id}
    again.close()


def test_one_of_many_wins(repo: Repository, three: list[Commit]) -> None:
    """Eight threads advance the same head at the same time."""
    new = [store(repo, put("global/n", f"{number}"), parent=three[2]) for number in range(8)]
    won: list[CommitId] = []
    barrier = threading.Barrier(8)

    def advance(commit_id: CommitId) -> None:
        barrier.wait(10)
        try:
            repo.advance({MAIN: (three[2].id, commit_id)})
        except ConflictError:
            return
        won.append(commit_id)

    threads = [threading.Thread(target=advance, args=(commit_id,)) for commit_id in new]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert won == [repo.ref(MAIN)]


def test_a_ref_never_points_to_what_is_not_whole(repo: Repository, three: list[Commit]) -> None:
    draft = repo.draft(three[2], put("global/deep/er/x", "new"), author="operator:a", message="m", time_s=NOON)
    commit_id, sealed = repo.seal(draft.content)
    with pytest.raises(DamageError, match="is not here"):
        repo.advance({MAIN: (three[2].id, commit_id)})
    repo.store.add([sealed])
    for missing in draft.objects:
        repo.store.add([item for item in draft.objects if item is not missing])
        with pytest.raises(DamageError, match="missing"):
            repo.advance({MAIN: (three[2].id, commit_id)})
        repo.store.keep_only(
            {name for found in three for name in scope_objects(repo.store, found.id, None)} | {commit_id}
        )
    repo.store.add(draft.objects)
    repo.advance({MAIN: (three[2].id, commit_id)})


def test_a_commit_with_a_wrong_number_is_damage(repo: Repository, three: list[Commit]) -> None:
    content = compose(three[2].tree, three[0], "operator:a", NOON, "m").replace(
        three[0].id.encode(), three[2].id.encode()
    )
    commit_id, sealed = repo.seal(content)
    repo.store.add([sealed])
    with pytest.raises(DamageError, match="says that it is r2, but it is the 4th"):
        repo.advance({MAIN: (three[2].id, commit_id)})
    assert repo.head() == three[2]


def test_main_may_move_to_another_line(repo: Repository, three: list[Commit]) -> None:
    """A peer takes over the writer's: numbers follow, what was left is not on main any more."""
    other = store(repo, put("global/o", "1"), parent=three[0])
    repo.advance({SIDE + "m2-r2": (None, three[2].id), MAIN: (three[2].id, other)})
    assert [found.id for found in repo.log()] == [other, three[0].id]
    assert [repo.on_main(found.id) for found in three] == [True, False, False]
    with pytest.raises(RefusedError):
        repo.at(Revision(3))
    again = Repository.open(repo.path)
    assert again.at(Revision(2)).id == other
    assert again.commit(three[2].id).revision == 3
    again.close()


@pytest.mark.parametrize(
    "name",
    [
        "main",
        "refs/heads",
        "refs/../x",
        "refs/heads/../../HEAD",
        "refs/heads/a.lock",
        "refs/heads/.a",
        "refs/heads/a..b",
        "refs/heads/a b",
        "refs//a",
        "refs/heads/a\n",
        "/refs/heads/a",
    ],
)
def test_bad_ref_names_are_refused(repo: Repository, three: list[Commit], name: str) -> None:
    with pytest.raises(RefusedError, match="name of a ref"):
        repo.advance({name: (None, three[0].id)})


@pytest.mark.parametrize("content", [b"", b"\0" * 41, b"abc\n", b"ref: refs/heads/other\n"])
def test_a_ref_that_is_not_an_id_is_damage(repo: Repository, three: list[Commit], content: bytes) -> None:
    (repo.path / MAIN).write_bytes(content)
    with pytest.raises(DamageError, match=MAIN):
        Repository.open(repo.path)


# ---------------------------------------------------------------------- packs for others


@pytest.fixture
def fleet(repo: Repository) -> list[Commit]:
    """Two nodes; then a change for all, for one, for the other."""
    first = {
        f"{layer}/{number}.toml": File(f"{layer} {number}\n".encode())
        for layer in ("global", "web/default", "web/web1", "web/web2", "db/default", "schemas")
        for number in range(20)
    }
    return [
        commit(repo, first),
        commit(repo, put("global/1.toml", "for all")),
        commit(repo, put("web/web1/2.toml", "for web1")),
        commit(repo, put("web/web2/2.toml", "for web2")),
    ]


WEB1 = Scope("web", "web1")


def own_files(repo: Repository, commit: Commit, scope: Scope) -> dict[str, Entry]:
    return {path: entry for path, entry in repo.files(commit).items() if scope.covers(path)}


def test_a_node_gets_its_own_layers_and_nothing_else(repo: Repository, fleet: list[Commit], tmp_path: Path) -> None:
    node = ObjectStore.open(tmp_path / "node")
    node.receive(repo.pack([fleet[3].id], [], WEB1), bytes_max=LIMIT)
    check_scope(node, fleet[3].id, WEB1)
    for path, entry in repo.files(fleet[3]).items():
        assert (entry.id in node) == WEB1.covers(path), path
    assert fleet[2].id not in node


def test_a_change_costs_a_node_only_what_is_new_to_it(repo: Repository, fleet: list[Commit], tmp_path: Path) -> None:
    """Commit, trees on the way, the changed file; without the file when it is another node's."""
    node = ObjectStore.open(tmp_path / "node")
    node.receive(repo.pack([fleet[0].id], [], WEB1), bytes_max=LIMIT)
    have: list[CommitId] = [fleet[0].id]
    for number, count in ((1, 4), (2, 5), (3, 3)):
        ids = node.receive(repo.pack([fleet[number].id], have, WEB1), bytes_max=LIMIT)
        assert len(ids) == count
        check_scope(node, fleet[number].id, WEB1)
        check_scope(node, fleet[number].id, WEB1, have)
        have.append(fleet[number].id)
    assert scope_objects(repo.store, fleet[3].id, WEB1, [*have, NOBODY]) == []
    assert len(scope_objects(repo.store, fleet[3].id, WEB1, [NOBODY])) == 1 + 2 + 3 + 60


def test_a_missing_or_wrong_object_is_noticed_by_the_node(
    repo: Repository, fleet: list[Commit], tmp_path: Path
) -> None:
    """Each of them: nothing that is missing counts as fetched."""
    needed = scope_objects(repo.store, fleet[3].id, WEB1)
    for missing in needed[:6] + needed[-2:]:
        node = ObjectStore.open(tmp_path / missing)
        node.receive(repo.store.write_pack([name for name in needed if name != missing]), bytes_max=LIMIT)
        with pytest.raises(DamageError, match=missing):
            check_scope(node, fleet[3].id, WEB1)


def test_a_scope_that_is_not_there_is_the_way_only(repo: Repository, fleet: list[Commit]) -> None:
    assert len(scope_objects(repo.store, fleet[3].id, Scope("new", "new1"))) == 1 + 1 + 21
    assert len(scope_objects(repo.store, fleet[3].id, Scope("web", "web9"))) == 1 + 2 + 21 + 21


def test_a_manager_gets_everything_that_it_lacks(repo: Repository, fleet: list[Commit], tmp_path: Path) -> None:
    other = Repository.open(tmp_path / "other.git")
    had: list[CommitId] = []
    for new in (fleet[1], fleet[3]):
        ids = other.receive(repo.pack([new.id], had), bytes_max=LIMIT)
        other.advance({MAIN: (had[-1] if had else None, new.id)})
        had.append(new.id)
    assert len(ids) == 2 * 5  # two commits, each with three trees and a file
    assert list(other.log()) == list(repo.log())
    fsck(other.path)
    other.close()


def test_histories_that_parted_exchange_what_is_theirs(repo: Repository, tmp_path: Path) -> None:
    for number in range(30):
        commit(repo, put("global/a", f"{number}"))
    head, fork = repo.resolve("HEAD"), repo.resolve("r20")
    here = fork
    for number in range(3):
        here = repo.commit(store(repo, put("global/b", f"other {number}"), parent=here))
    wanted = set(scope_objects(repo.store, here.id, None, [head.id]))
    assert {found.id for found in [here, *list(repo.log(until=here.id))[1:3]]} <= wanted
    assert len(wanted) == 3 * 4  # commit, two trees, file
    back = set(scope_objects(repo.store, head.id, None, [here.id, NOBODY]))
    assert len(back) == 10 * 4


def test_unknown_wants_are_refused(repo: Repository, three: list[Commit]) -> None:
    for want in (NOBODY, CommitId("x")):
        with pytest.raises(RefusedError, match="no revision"):
            repo.pack([want], [])


def test_a_tree_that_names_itself_again_and_again_is_refused(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """2^60 files in 60 small objects: counted, not walked."""
    monkeypatch.setattr(scope, "_OBJECTS_MAX", 5_000)
    monkeypatch.setattr(trees, "_FILES_MAX", 5_000)
    blob = Blob.from_string(b"x")
    here, mode, made = blob.id, 0o100644, list[ShaFile]([blob])
    for _ in range(60):
        tree = Tree()
        tree.add(b"a", mode, here)
        tree.add(b"b", mode, here)
        here, mode = tree.id, 0o40000
        made.append(tree)
    bomb = GitCommit.from_string(compose(ObjectId(here.decode()), None, "operator:a", NOON, "x"))
    repo.store.add([*made, bomb])
    with pytest.raises(DamageError, match="more than"):
        repo.advance({MAIN: (None, CommitId(bomb.id.decode()))})
    with pytest.raises(DamageError, match="more than"):
        repo.files(repo.commit(CommitId(bomb.id.decode())))
