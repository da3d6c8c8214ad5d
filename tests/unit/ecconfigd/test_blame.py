"""Blame: each line's revision is the one that brought it, bounds are kept, nothing is guessed."""

import itertools
import random
from pathlib import Path

import pytest

from jlogd.confrepo.repository import Repository
from jlogd.runtime.clock import ManualClock
from jlogd.runtime.errors import RefusedError
from managerd.ecconfigd import blame as module
from managerd.ecconfigd.blame import _same, blame
from tests.support.config_service import commit


def owners(repository: Repository, path: str = "global/a", rev: str = "HEAD", **more: ManualClock) -> list[int]:
    """The revision of each line; 0: nobody."""
    return [owner.revision if owner else 0 for owner, _ in blame(repository, repository.resolve(rev), path, **more)]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.open(tmp_path / "config.git")


def test_each_line_is_its_revision_s(repository: Repository) -> None:
    """Insertions, changes, deletions, and a revision that did not touch the file."""
    commit(repository, {"global/a": "one\ntwo\nthree\n"})
    commit(repository, {"global/a": "one\nTWO\nthree\n"})
    commit(repository, {"global/b": "aside\n"})
    commit(repository, {"global/a": "zero\none\nTWO\nthree"})
    assert owners(repository) == [4, 1, 2, 4]  # the last line lost its newline: it is another one
    assert owners(repository, rev="r2") == [1, 2, 1]
    lines = blame(repository, repository.resolve("HEAD"), "global/a")
    assert b"".join(text for _, text in lines) == b"zero\none\nTWO\nthree"


def test_a_file_that_came_back_is_that_revision_s(repository: Repository) -> None:
    """What was before it was deleted is another file."""
    commit(repository, {"global/a": "one\n", "global/b": ""})
    commit(repository, {"global/a": None})
    commit(repository, {"global/a": "one\n"})
    assert owners(repository) == [3]


def test_a_line_that_moves_keeps_what_a_line_by_line_comparison_keeps(repository: Repository) -> None:
    """As git: of lines that changed places one counts as new."""
    commit(repository, {"global/a": "one\ntwo\n"})
    commit(repository, {"global/a": "two\none\n"})
    assert sorted(owners(repository)) == [1, 2]


def test_an_older_version_that_is_binary_has_no_lines(repository: Repository) -> None:
    """All lines are the first readable version's."""
    commit(repository, {"global/a": b"one\n\0"})
    commit(repository, {"global/a": "one\n"})
    assert owners(repository) == [2]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a\0b", "binary"), (bytes(module.CONTENT_MAX + 1), "larger"), (b"\n" * (module.LINES_MAX + 1), "lines")],
    ids=["binary", "large", "lines"],
)
def test_what_cannot_be_blamed_is_refused(repository: Repository, content: bytes, said: str) -> None:
    """With the reason."""
    commit(repository, {"global/a": content})
    with pytest.raises(RefusedError, match=said):
        owners(repository)


def test_what_is_not_there_is_refused(repository: Repository) -> None:
    """A directory is no file either."""
    commit(repository, {"global/a": "one\n"})
    for path in ("global/b", "global", "global/a/b"):
        with pytest.raises(RefusedError, match="is not in r1"):
            owners(repository, path)


def test_beyond_the_bounds_nobody_owns_a_line(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many revisions: what they did not decide stays open."""
    monkeypatch.setattr(module, "REVISIONS_MAX", 2)
    lines = [f"line {i}\n" for i in range(5)]
    for i in range(5):
        commit(repository, {"global/a": "".join(lines[: i + 1])})
    assert owners(repository) == [0, 0, 0, 4, 5]


def test_when_time_is_over_the_rest_is_open(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is looked at after each revision."""
    clock = ManualClock()
    real = module._same

    def slow(*arguments: object) -> object:
        clock.advance(module.BLAME_S + 1)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_same", slow)
    commit(repository, {"global/a": "one\n"})
    commit(repository, {"global/a": "one\ntwo\n"})
    commit(repository, {"global/a": "one\ntwo\nthree\n"})
    assert owners(repository, clock=clock) == [0, 0, 3]


def test_pairs_of_equal_lines_are_equal_and_in_order() -> None:
    """Whatever the lines: each pair is the same text, both sides only grow, equal ends are never lost."""
    dice = random.Random(7)
    for _ in range(300):
        here = [dice.choice([b"a\n", b"b\n", b"c\n"]) for _ in range(dice.randrange(12))]
        before = [dice.choice([b"a\n", b"b\n", b"c\n"]) for _ in range(dice.randrange(12))]
        pairs = sorted(_same(here, before))
        assert all(here[i] == before[j] for i, j in pairs)
        assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(pairs))
        if here == before:
            assert len(pairs) == len(here)
