"""Three-way merges: comments stay where they can, conflicts name their keys, trees stay trees."""

import time

import pytest

from jlogd.confrepo import model as m
from jlogd.confrepo.merge import ABSENT, diff_keys, merge_changes, merge_file
from jlogd.confrepo.merge.lines import EDITS_MAX, hunks, merge_text


def merged(path: str, base: str | None, mine: str | None, theirs: str | None) -> str | None:
    """The content of the merge, which has no conflict."""
    result = merge_file(path, *(m.File(side.encode()) if side is not None else None for side in (base, mine, theirs)))
    assert result.conflict is None
    return result.file.content.decode() if result.file is not None else None


def conflict(path: str, base: str | None, mine: str | None, theirs: str | None) -> tuple[str, ...]:
    """The keys of the conflict, which has both sides."""
    sides = [side.encode() if side is not None else None for side in (base, mine, theirs)]
    files = [m.File(side) if side is not None else None for side in sides]
    result = merge_file(path, *files)
    assert result.conflict is not None
    assert (result.conflict.base, result.conflict.mine, result.conflict.theirs) == tuple(sides)
    assert result.file == files[2]
    return result.conflict.keys


# ---------------------------------------------------------------------- text


def test_changes_of_different_lines_are_both_kept() -> None:
    assert merged("x.conf", "a\nb\nc\nd\n", "A\nb\nc\nd\n", "a\nb\nc\nD\ne\n") == "A\nb\nc\nD\ne\n"


@pytest.mark.parametrize(
    ("base", "mine", "theirs"),
    [
        ("a\nb\nc\n", "a\nB\nc\n", "a\nx\nc\n"),
        ("a\nb\nc\n", "A\nb\nc\n", "a\nB\nc\n"),
        ("a\nb\n", "a\nx\nb\n", "a\ny\nb\n"),
        ("a\nb\nc\n", "a\nx\nb\nc\n", "a\nB\nc\n"),
        ("a\nb\nc\nd\ne\n", "x\n", "a\nB\nc\nD\ne\n"),
        ("1\n2\n3\n4\n5\n6\n", "x\n6\n", "1\nB\n3\n4\nD\n6\n"),
        ("a\nb\n", None, "a\nB\n"),
        ("a\nb\n", "a\nB\n", None),
        (None, "a\n", "b\n"),
        ("a\n", "a\n\0", "a\nb\n"),
        ("a\nb\nc\nd", "a\nb\nc\nD", "a\nb\nc\nd\n"),
    ],
)
def test_changes_that_touch_are_a_conflict_of_the_whole_file(
    base: str | None, mine: str | None, theirs: str | None
) -> None:
    assert conflict("x.conf", base, mine, theirs) == ()
    assert conflict("x.conf", base, theirs, mine) == ()


@pytest.mark.parametrize("content", [b"\xff", b"a\0"])
def test_what_is_no_text_is_not_merged_by_lines(content: bytes) -> None:
    base = b"1\n2\n3\n4\n5\n" + content
    files = [m.File(base), m.File(base.replace(b"1", b"x")), m.File(base.replace(b"5", b"x"))]
    assert merge_file("x.conf", *files).conflict is not None


def test_the_same_change_of_both_is_made_once() -> None:
    assert merged("x.conf", "a\nb\nc\nd\n", "a\nx\nc\nd\n", "a\nx\nc\nD\n") == "a\nx\nc\nD\n"


def test_many_changes_take_no_longer_than_some() -> None:
    end = [b"end\n"] * 3
    base = [b"%d\n" % (number % 7) for number in range(20_000)] + end
    side = [b"%d\n" % (number % 5) for number in range(20_000)] + end
    started = time.monotonic()
    [hunk] = hunks(base, side)
    assert time.monotonic() - started < 5
    assert len(hunk.lines) > EDITS_MAX
    merged = merge_text(b"".join(base), b"".join(side), b"".join([*base, b"x\n"]))
    assert merged == b"".join([*side, b"x\n"])


def test_a_large_change_conflicts_with_each_small_one_inside_it() -> None:
    """Also with the second, which does not touch the first."""
    base = b"".join(b"%d\n" % number for number in range(8))
    assert merge_text(base, b"x\n7\n", base.replace(b"1\n", b"1\n!\n").replace(b"6\n", b"!\n")) is None
    assert (
        merge_text(
            base, base.replace(b"1\n2\n3\n4\n5\n", b"1\n5\n"), base.replace(b"2\n", b"!\n").replace(b"4\n", b"!\n")
        )
        is None
    )


# ---------------------------------------------------------------------- modes and kinds


def test_modes_merge_beside_contents() -> None:
    base, mine, theirs = m.File(b"a\nb\nc\n"), m.File(b"a\nb\nc\n", m.EXECUTABLE), m.File(b"a\nb\nC\n")
    assert merge_file("x", base, mine, theirs).file == m.File(b"a\nb\nC\n", m.EXECUTABLE)
    assert merge_file("x", base, theirs, mine).file == m.File(b"a\nb\nC\n", m.EXECUTABLE)


@pytest.mark.parametrize(
    ("base", "mine", "theirs"),
    [
        (None, m.File(b"x", m.EXECUTABLE), m.File(b"x")),
        (m.File(b"x"), None, m.File(b"x", m.EXECUTABLE)),
        (m.File(b"x"), m.File(b"y", m.SYMLINK), m.File(b"z")),
        (m.File(b"x", m.SYMLINK), m.File(b"y", m.SYMLINK), m.File(b"z", m.SYMLINK)),
        (None, m.File(b"x", m.SYMLINK), m.File(b"x")),
    ],
)
def test_modes_and_kinds_that_differ_are_a_conflict(
    base: m.File | None, mine: m.File | None, theirs: m.File | None
) -> None:
    assert merge_file("x.toml", base, mine, theirs).conflict is not None
    assert merge_file("x.toml", base, theirs, mine).conflict is not None


# ---------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("path", "base", "mine", "theirs", "result"),
    [
        (
            "x.toml",
            "# top\na = 1\n\n\nb = 2\n",
            "# top\na = 5 # mine\n\n\nb = 2\n",
            "# top\na = 1\n\n\nb = 6 # theirs\n",
            "# top\na = 5 # mine\n\n\nb = 6 # theirs\n",
        ),
        (
            "x.toml",
            "a = 1 # one\nb = 2 # two\n",
            "a = 5 # one\nb = 2 # two\n",
            "a = 1 # one\nb = 6 # two\n",
            "a = 5 # one\nb = 6 # two\n",
        ),
        (
            "x.toml",
            "a = 1 # one\n",
            "a = 1 # one\nb = 2 # mine\n",
            "a = 1 # one\nc = 3 # theirs\n",
            "a = 1 # one\nc = 3 # theirs\nb = 2 # mine\n",
        ),
        ("x.yaml", "a: 1 # one\nb: 2\n", "a: 5 # one\nb: 2\n", "a: 1 # one\nb: 6\nc: 7\n", "a: 5 # one\nb: 6\nc: 7\n"),
        ("x.toml", "a = 1\n", "a = 2 # mine\n", "b = 3 # theirs\na = 2\n", "b = 3 # theirs\na = 2\n"),
        ("x.toml", None, "a = 1 # mine\n", "# theirs\nb = 1\n", "# theirs\nb = 1\na = 1 # mine\n"),
    ],
)
def test_comments_stay_where_the_text_of_both_says_the_same(
    path: str, base: str | None, mine: str, theirs: str, result: str
) -> None:
    assert merged(path, base, mine, theirs) == result


def test_keys_merge_where_no_text_does() -> None:
    assert merged("x.json", '{"a": 1, "b": 2}', '{"a": 5, "b": 2}', '{"a": 1, "b": 6}') == '{\n  "a": 5,\n  "b": 6\n}\n'
    assert merged("x.toml", "t = {a = 1, b = 2}\n", "t = {a = 5, b = 2}\n", "t = {a = 1}\n") == "[t]\na = 5\n"


def test_a_text_that_merges_but_says_something_else_is_not_taken() -> None:
    """Mine sets a top-level key at the end, theirs begins a table before it: by lines the key would be in the table."""
    base = "a = 1\n#\n#\n#\n"
    result = merged("x.toml", base, base + "b = 2\n", "a = 1\n[t]\nc = 1\n#\n#\n#\n")
    assert result == "a = 1\nb = 2\n\n[t]\nc = 1\n"


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "keys"),
    [
        ('{"a": 1}', '{"a": 2}', '{"a": 3}', ("a",)),
        ('{"a": 1, "b": 1}', '{"a": 2}', '{"a": 3, "b": 2}', ("a", "b")),
        ('{"s": {"a.b": 1}}', '{"s": {"a.b": 2}}', '{"s": {"a.b": 3}}', ('s."a.b"',)),
        ('{"s": {"a": 1}}', "{}", '{"s": {"a": 2}}', ("s",)),
        ('{"s": {"a": 1}}', "{}", '{"s": {"a": 1, "b": 1}}', ("s",)),
        ('{"l": [1]}', '{"l": [1, 2]}', '{"l": [0, 1]}', ("l",)),
        ('{"a": 1}', '{"a": {"b": 1}}', '{"a": 2}', ("a",)),
        (None, '{"a": 1, "b": 1}', '{"a": 2, "c": 1}', ("a",)),
        ('{"a": 1}', '{"a": true}', '{"a": 1.0}', ("a",)),
        ('{"a": 1}', '{"a": {"$unset": true}}', '{"a": {"b": 1}}', ("a",)),
        ('{"a": {"b": 1}}', '{"a": {"$unset": true}}', '{"a": {"b": 1, "c": 1}}', ("a",)),
    ],
)
def test_a_key_that_both_changed_is_named(base: str | None, mine: str, theirs: str, keys: tuple[str, ...]) -> None:
    assert conflict("x.json", base, mine, theirs) == keys
    assert conflict("x.json", base, theirs, mine) == keys


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "result"),
    [
        ('{"a": 1, "b": 1}', '{"b": 1}', '{"a": 1}', "{}"),
        ('{"a": {"x": 1, "y": 1}}', '{"a": {"y": 1}}', '{"a": {"x": 1}}', '{\n  "a": {}\n}'),
        ('{"a": 1}', '{"a": {"b": 1}}', '{"a": {"c": 1}}', '{\n  "a": {\n    "c": 1,\n    "b": 1\n  }\n}'),
        ('{"a": 1, "b": 1}', '{"a": 2, "b": 1}', '{"a": 2, "b": 2}', '{"a": 2, "b": 2}'),
    ],
)
def test_removals_and_additions_merge(base: str, mine: str, theirs: str, result: str) -> None:
    assert str(merged("x.json", base, mine, theirs)).strip() == result


def test_a_structured_file_that_is_no_map_is_merged_as_text() -> None:
    assert merged(
        "x.yaml", "a: 1\n---\nb: 1\n---\nc: 1\n", "a: 2\n---\nb: 1\n---\nc: 1\n", "a: 1\n---\nb: 1\n---\nc: 2\n"
    ) == ("a: 2\n---\nb: 1\n---\nc: 2\n")
    assert conflict("x.json", "[1]", "[1, 2]", "[0, 1]") == ()


# ---------------------------------------------------------------------- many files


def changes(
    base: dict[str, bytes], mine: dict[str, bytes | None], theirs: dict[str, bytes], *, below: bool = True
) -> tuple[dict[str, bytes | None], list[str]]:
    """What ``merge_changes`` says, with contents only."""

    def look(tree: dict[str, bytes], path: str) -> m.File | None:
        return m.File(tree[path]) if path in tree else None

    made, conflicts = merge_changes(
        {path: m.File(content) if content is not None else None for path, content in mine.items()},
        lambda path: look(base, path),
        lambda path: look(theirs, path),
        (lambda path: [each for each in theirs if each == path or each.startswith(path + "/")]) if below else None,
    )
    contents = {path: file.content if file is not None else None for path, file in made.items()}
    return contents, [conflict.path for conflict in conflicts]


def test_only_what_theirs_has_not_is_left_to_change() -> None:
    base = {"a": b"1", "b": b"1", "c": b"1"}
    made = changes(base, {"a": b"2", "b": b"2", "c": None, "d": b"1"}, {"a": b"2", "b": b"1", "e": b"1"})
    assert made == ({"b": b"2", "d": b"1"}, [])


def test_conflicts_block_nothing_else() -> None:
    made = changes({"a": b"1"}, {"a": b"2", "b": b"1"}, {"a": b"3"})
    assert made == ({"b": b"1"}, ["a"])


def test_a_file_below_a_file_of_theirs_is_a_conflict() -> None:
    assert changes({}, {"x/y/z": b"1", "b": b"1"}, {"x": b"1"}, below=False) == ({"b": b"1"}, ["x/y/z"])


def test_a_file_where_theirs_has_a_directory_is_a_conflict() -> None:
    assert changes({}, {"x": b"1"}, {"x/y": b"1"}) == ({}, ["x"])


def test_a_directory_that_became_a_file_stays_when_theirs_put_something_into_it() -> None:
    """The deletions that made room are held back as well: half of the change would be neither side's."""
    base = {"x/a": b"1", "x/b": b"1"}
    made = changes(base, {"x/a": None, "x/b": None, "x": b"1", "y": b"1"}, {**base, "x/c": b"1"})
    assert made == ({"y": b"1"}, ["x", "x/a", "x/b"])
    assert changes(base, {"x/a": None, "x/b": None, "x": b"1"}, base) == ({"x/a": None, "x/b": None, "x": b"1"}, [])


# ---------------------------------------------------------------------- differences


def test_differences_are_told_by_key() -> None:
    old, new = b"a = 1\nb = {c = 1, d = [1]}\ne = 1\nf = {}\n", b"a = 1\nb = {c = true, d = [1, 2]}\ng = {h = 1}\n"
    assert diff_keys("toml", old, new) == [
        (("b", "c"), 1, True),
        (("b", "d"), [1], [1, 2]),
        (("e",), 1, ABSENT),
        (("f",), {}, ABSENT),
        (("g", "h"), ABSENT, 1),
    ]


def test_a_new_file_has_all_its_keys_new() -> None:
    assert diff_keys("json", None, b'{"a": {"b": null}}') == [(("a", "b"), ABSENT, None)]
    assert diff_keys("json", b"{}", b'{"a": {}}') == [(("a",), ABSENT, {})]


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff"])
def test_what_is_no_map_has_no_keys(content: bytes) -> None:
    assert diff_keys("json", b"{}", content) is None
    assert diff_keys("json", content, None) is None
