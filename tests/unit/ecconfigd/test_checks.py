"""The operator's checks: what they see, who they are, what they say, and that none of them outlives its time."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jlogd.confrepo.model import EXECUTABLE, SYMLINK, Fault, File
from jlogd.confrepo.repository import Repository
from jlogd.runtime.errors import SettingsError, StorageError
from managerd.ecconfigd import check_child
from managerd.ecconfigd.candidate import Candidate
from managerd.ecconfigd.checks import Checks, faults_of
from tests.support.revisions import commit

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
Make = Callable[..., Checks]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can look into, unlike tmp_path."""
    found = Path(tempfile.mkdtemp(prefix="jlogd-test-"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository.open(tmp_path / "r.git")
    yield repository
    repository.close()


@pytest.fixture
def make(place: Path) -> Iterator[Make]:
    made: list[Checks] = []

    def new(*scripts: str, timeout_s: float = 20.0, user: str = "nobody") -> Checks:
        programs = []
        for number, text in enumerate(scripts):
            path = place / f"check{number}.sh"
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
            programs.append(path)
        made.append(Checks(programs, user=user, timeout_s=timeout_s, scratch=place))
        return made[-1]

    yield new
    for each in made:
        each.close()
    assert list(place.glob("jlogd-check-*")) == []


def candidate(repository: Repository, **texts: str) -> Candidate:
    return Candidate(repository, None, {path: File(text.encode()) for path, text in texts.items()})


def run(checks: Checks, tree: Candidate) -> list[Fault]:
    return checks.run(tree, author="operator:alice", message="why")


def test_a_check_sees_the_whole_tree_as_it_would_be(repository: Repository, make: Make) -> None:
    head = commit(repository, {"global/a": File(b"1"), "global/gone": File(b"1"), "web/web1/kept": File(b"k")})
    tree = Candidate(
        repository,
        head,
        {"global/a": File(b"2", EXECUTABLE), "global/gone": None, "web/web1/l": File(b"kept", SYMLINK)},
    )
    script = 'test "$PWD" = "$1" && find . -type f | sort && cat global/a web/web1/l; ls -l global/a; exit 1'
    (fault,) = run(make(script), tree)
    assert fault.path == ""
    assert fault.problem.startswith("check check0.sh: ./global/a; ./web/web1/kept; 2k-rwxr-xr-x")


def test_lines_become_faults(repository: Repository, make: Make) -> None:
    bad = "echo global/a:3: no good; echo $1/web/b:1:neither; echo ./c:2: x; exit 3"
    said = make(bad, "exit 0", "echo fine; exit 0", "exit 1")
    assert run(said, candidate(repository)) == [
        Fault("", 0, "check check3.sh: it failed, and did not say why"),
        Fault("c", 2, "x (check check0.sh)"),
        Fault("global/a", 3, "no good (check check0.sh)"),
        Fault("web/b", 1, "neither (check check0.sh)"),
    ]


def test_other_lines_are_one_fault() -> None:
    output = b"/etc/passwd:1: outside\n\nsomething\xff odd\na:b: c\n"
    assert faults_of("lint", output, Path("/x")) == [
        Fault("", 0, "check lint: /etc/passwd:1: outside; something\ufffd odd; a:b: c")
    ]


def test_the_environment_says_who_and_nothing_of_ours(
    repository: Repository, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "1")
    (fault,) = run(make("env | sort | grep -v ^_= ; exit 1"), candidate(repository))
    names = {part.partition("=")[0] for part in fault.problem.removeprefix("check check0.sh: ").split("; ")}
    assert names == {"JLOGD_CHECK_AUTHOR", "JLOGD_CHECK_MESSAGE", "JLOGD_CHECK_TREE", "LANG", "PATH", "PWD"}


@needs_root
def test_checks_are_nobody_and_cannot_change_the_tree(repository: Repository, make: Make) -> None:
    tree = candidate(repository, **{"global/a": "1"})
    script = "id -un; id -G; cat global/a; touch global/b 2>/dev/null && echo wrote; exit 1"
    (fault,) = run(make(script), tree)
    said = fault.problem.removeprefix("check check0.sh: ").split("; ")
    assert said[0] == "nobody"
    assert "0" not in said[1].split()
    assert said[2] == "1"
    assert len(said) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root looks the user up")
def test_a_user_that_is_not_there_is_a_fault_of_the_settings(make: Make) -> None:
    with pytest.raises(SettingsError, match="no user 'nosuchuser'"):
        make("exit 0", user="nosuchuser")


def test_a_check_that_does_not_end_is_killed_with_its_children(repository: Repository, make: Make, place: Path) -> None:
    alive = place / "alive"
    alive.mkdir(mode=0o777)
    alive.chmod(0o777)
    begin = time.monotonic()
    (fault,) = run(make(f"sleep 100 & echo $! > {alive}/pid; wait", timeout_s=1.0), candidate(repository))
    assert fault == Fault("", 0, "check check0.sh: did not end within 1 s ([config] check_timeout)")
    assert time.monotonic() - begin < 15
    _is_gone(int((alive / "pid").read_text()))


def test_a_child_that_stays_does_not_keep_the_commit(repository: Repository, make: Make, place: Path) -> None:
    alive = place / "alive"
    alive.mkdir()
    alive.chmod(0o777)
    assert run(make(f"sleep 100 >/dev/null 2>&1 & echo $! > {alive}/pid; exit 0"), candidate(repository)) == []
    _is_gone(int((alive / "pid").read_text()))


def _is_gone(pid: int) -> None:
    """Dead, or a zombie that nobody reaped yet."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} runs still")


def test_a_check_that_writes_too_much_is_ended(repository: Repository, make: Make) -> None:
    (fault,) = run(make("yes"), candidate(repository))
    assert fault.problem == "check check0.sh: writes more than 65536 bytes"


def test_a_check_that_eats_is_limited(repository: Repository, make: Make, place: Path) -> None:
    room = place / "room"
    room.mkdir()
    room.chmod(0o777)
    run(make(f"dd if=/dev/zero of={room}/big bs=1M count=80 2>/dev/null; exit 0"), candidate(repository))
    assert (room / "big").stat().st_size <= check_child.FILE_BYTES_MAX


def test_a_program_that_is_not_there_is_no_fault_of_the_commit(repository: Repository, make: Make, place: Path) -> None:
    checks = make("exit 0")
    (place / "check0.sh").unlink()
    with pytest.raises(StorageError, match=r"check0\.sh"):
        run(checks, candidate(repository))


def test_from_tree_to_tree_only_what_differs_is_written(repository: Repository, make: Make, place: Path) -> None:
    head = commit(repository, {f"global/d{n % 10}/{n}": File(b"1") for n in range(200)})
    checks = make("find . -type f | sort | xargs cat | cksum; exit 1")

    def said(*changes: dict[str, File | None]) -> str:
        return run(checks, Candidate(repository, head, changes[0] if changes else None))[0].problem

    plain = said()
    (root,) = place.glob("jlogd-check-*")
    before = {path: path.stat().st_ino for path in root.rglob("*")}
    other = said({"global/d1/1": File(b"2"), "global/d2/2": None, "x/y/z": File(b"3")})
    assert other != plain
    assert said() == plain, "what an earlier candidate changed is taken back"
    after = {path: path.stat().st_ino for path in root.rglob("*")}
    assert after.keys() == before.keys()
    assert {path.name for path in after if after[path] != before[path]} <= {"1", "2"}


def test_a_file_becomes_a_directory_and_back(repository: Repository, make: Make) -> None:
    checks = make("find . -type f; exit 1")
    assert "./a/b" in run(checks, candidate(repository, **{"a/b": "1"}))[0].problem
    assert run(checks, candidate(repository, a="1"))[0].problem.endswith("./a")
    assert "./a/b" in run(checks, candidate(repository, **{"a/b": "1"}))[0].problem


def test_what_a_check_changed_in_the_tree_is_noticed(repository: Repository, make: Make, place: Path) -> None:
    head = commit(repository, {"global/a": File(b"1"), "global/b": File(b"1")})
    checks = make("find . -type f | sort; cat global/a; exit 1")
    first = run(checks, Candidate(repository, head))
    (tree,) = place.glob("jlogd-check-*/tree")
    (tree / "global/a").write_bytes(b"9")
    (tree / "global/extra").write_bytes(b"")
    assert run(checks, Candidate(repository, head)) == first
    (tree,) = place.glob("jlogd-check-*/tree")
    shutil.rmtree(tree)
    assert run(checks, Candidate(repository, head)) == first
    shutil.rmtree(tree.parent)
    assert run(checks, Candidate(repository, head)) == first


def test_thousands_of_files_are_laid_out_once(repository: Repository, make: Make) -> None:
    head = commit(repository, {f"global/d{n % 100}/{n}": File(b"%d" % n) for n in range(3000)})
    checks = make("exit 0")
    assert run(checks, Candidate(repository, head)) == []
    begin = time.monotonic()
    assert run(checks, Candidate(repository, head, {"global/d1/1": File(b"x")})) == []
    assert time.monotonic() - begin < 1.0
