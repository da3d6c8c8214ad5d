"""Three-way merges keep what each side changed, whatever the sides are.

The long form with JLOGD_LONG=1.
"""

import os
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jlogd.confrepo import formats
from jlogd.confrepo import model as m
from jlogd.confrepo.formats import Kind
from jlogd.confrepo.merge import ABSENT, diff_keys, merge_changes, merge_file
from jlogd.confrepo.merge.keys import merge_maps
from jlogd.confrepo.merge.lines import hunks, merge_text

LONG = 20 if os.environ.get("JLOGD_LONG") else 1


def examples(count: int) -> settings:
    """A machine with much else to do is no fault of the test."""
    return settings(max_examples=LONG * count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


KINDS = st.sampled_from(["toml", "yaml", "json"])
KEYS = st.sampled_from(["a", "b", "c", "d", "e.f"])
LEAVES = st.integers(0, 2) | st.booleans() | st.sampled_from(["x", "1", 1.0]) | st.lists(st.integers(0, 2), max_size=2)
INNER = st.recursive(LEAVES, lambda each: st.dictionaries(KEYS, each, max_size=3), max_leaves=6)
MAPS = st.dictionaries(KEYS, INNER, max_size=4)
LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n"]), max_size=7).map(b"".join)
MODES = st.sampled_from([m.REGULAR, m.EXECUTABLE, m.SYMLINK])


@st.composite
def trios(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A base and two sides that have most of it."""
    base = draw(MAPS)
    return base, *({**base, **draw(MAPS)} if draw(st.booleans()) else draw(MAPS) for _ in range(2))  # type: ignore[return-value]


def file(kind: Kind, value: object, mode: int = m.REGULAR) -> m.File:
    return m.File(formats.emit(kind, value), mode)


def files() -> st.SearchStrategy[m.File | None]:
    return st.none() | st.builds(m.File, LINES | st.just(b"\xff"), MODES) | st.builds(file, st.just("toml"), MAPS)


def value_of(kind: Kind, made: m.File | None) -> object:
    assert made is not None
    return formats.parse(kind, made.content)


def leaves(value: object, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """The model: a map as the set of its leaves."""
    if isinstance(value, dict) and (value or not place):
        return {path: leaf for key, inner in value.items() for path, leaf in leaves(inner, (*place, key)).items()}
    return {place: value}


@examples(100)
@given(files(), files(), st.sampled_from(["x.toml", "x.yaml", "x.txt"]))
def test_a_side_that_changed_nothing_gives_way(base: m.File | None, side: m.File | None, path: str) -> None:
    for mine, theirs in ((side, base), (base, side), (side, side)):
        assert merge_file(path, base, mine, theirs).file == side
        assert merge_file(path, base, mine, theirs).conflict is None


@examples(150)
@given(files(), files(), files(), st.sampled_from(["x.toml", "x.yaml", "x.json", "x.txt"]))
def test_sides_can_be_swapped(base: m.File | None, mine: m.File | None, theirs: m.File | None, path: str) -> None:
    """The same conflicts with the sides swapped, or the same values."""
    one, other = merge_file(path, base, mine, theirs), merge_file(path, base, theirs, mine)
    if one.conflict is None or other.conflict is None:
        assert one.conflict is other.conflict
        assert (one.file is None) == (other.file is None)
        if one.file is None or other.file is None:
            return
        assert one.file.mode == other.file.mode
        kind = formats.kind_of(path)
        if kind is None or one.file.content == other.file.content:
            assert one.file.content == other.file.content
        else:
            assert formats.same(value_of(kind, one.file), value_of(kind, other.file))
        return
    assert sorted(one.conflict.keys) == sorted(other.conflict.keys)
    assert (one.conflict.base, one.conflict.mine, one.conflict.theirs) == (
        other.conflict.base,
        other.conflict.theirs,
        other.conflict.mine,
    )
    assert (one.file, other.file) == (theirs, mine)


@examples(200)
@given(trios(), KINDS)
@example(({"a": 1}, {"a": True}, {"a": 1, "b": 1}), "json")
@example(({"a": 0}, {"a": {"b": 1}}, {"a": {"c": 1}}), "toml")
def test_every_change_of_either_side_is_in_the_result_or_in_conflict(
    trio: tuple[dict[str, Any], dict[str, Any], dict[str, Any]], kind: Kind
) -> None:
    """A leaf that one side set is there, one that a side removed is not, and nothing is that no side has."""
    base, mine, theirs = (leaves(each) for each in trio)
    merged = merge_file(f"x.{kind}", *(file(kind, each) for each in trio))
    if merged.conflict is not None:
        assert merged.conflict.keys
        for key in merged.conflict.keys:
            path = formats.split_key(key)
            changes = [_below(side, path) != _below(base, path) for side in (mine, theirs)]
            assert changes == [True, True], key
        return
    result = leaves(value_of(kind, merged.file))
    for side in (mine, theirs):
        for path in side.keys() | base.keys():
            if _exact(side.get(path, ABSENT)) == _exact(base.get(path, ABSENT)):
                continue
            if path in side and side[path] != {}:
                assert _exact(result.get(path, ABSENT)) == _exact(side[path])
            elif path not in side and base[path] != {}:
                assert path not in result
    assert {path for path, leaf in result.items() if leaf != {}} <= mine.keys() | theirs.keys()


def _below(value: dict[tuple[str, ...], object], path: tuple[str, ...]) -> str:
    return repr(sorted((key, leaf) for key, leaf in value.items() if key[: len(path)] == path))


def _exact(value: object) -> str:
    return repr(value)


@examples(100)
@given(MAPS, st.data(), KINDS)
def test_changes_of_different_keys_always_merge(base: dict[str, Any], draw: st.DataObject, kind: Kind) -> None:
    """Each side owns some of the keys, sets or removes them as it likes: both sides' keys are as they left them."""
    owned = draw.draw(st.sets(KEYS))
    sides = []
    for is_mine in (True, False):
        wanted = draw.draw(MAPS)
        side = {key: value for key, value in base.items() if (key in owned) != is_mine}
        sides.append(side | {key: value for key, value in wanted.items() if (key in owned) == is_mine})
    merged = merge_file(f"x.{kind}", file(kind, base), *(file(kind, side) for side in sides))
    assert merged.conflict is None
    whole = {
        key: sides[0 if key in owned else 1][key]
        for key in ["a", "b", "c", "d", "e.f"]
        if key in sides[0 if key in owned else 1]
    }
    assert formats.same(value_of(kind, merged.file), whole)


@examples(150)
@given(LINES, LINES)
def test_hunks_make_the_side_from_the_base(base: bytes, side: bytes) -> None:
    old, new = base.splitlines(keepends=True), side.splitlines(keepends=True)
    made: list[bytes] = []
    at = 0
    for hunk in hunks(old, new):
        assert at < hunk.start or (at == hunk.start == 0), "two hunks have a line between them"
        made += [*old[at : hunk.start], *hunk.lines]
        at = hunk.end
    assert made + old[at:] == new


@examples(150)
@given(st.data())
def test_lines_that_do_not_touch_merge(draw: st.DataObject) -> None:
    """Each side changes some lines, never neighbours of the other's: all changes are in the result."""
    count = 24
    marks = draw.draw(
        st.lists(st.sampled_from(["", "", "mine", "theirs", "both"]), min_size=count // 3, max_size=count // 3)
    )
    base = [b"%d\n" % number for number in range(count)]
    sides = {"mine": list(base), "theirs": list(base)}
    whole = list(base)
    for index, mark in enumerate(marks):
        if not mark:
            continue
        at = index * 3 + 1
        change = draw.draw(st.sampled_from([b"", b"changed\n", b"%d\nadded\n" % at]))
        for name, side in sides.items():
            if mark in {name, "both"}:
                side[at] = change
        whole[at] = change
    texts = [b"".join(lines) for lines in (base, sides["mine"], sides["theirs"])]
    assert merge_text(*texts) == b"".join(whole)


@examples(100)
@given(trios(), KINDS)
def test_what_differs_makes_one_of_the_other(
    trio: tuple[dict[str, Any], dict[str, Any], dict[str, Any]], kind: Kind
) -> None:
    """Applied to the old leaves, the differences give the new ones."""
    old, new, _ = trio
    found = diff_keys(kind, formats.emit(kind, old), formats.emit(kind, new))
    assert found is not None
    assert all(not formats.same(before, after) for _, before, after in found)
    result = {path: leaf for path, leaf in leaves(old).items() if leaf != {}}
    for key, before, after in found:
        for path in leaves(before, key):
            result.pop(path, None)
        if after is not ABSENT:
            result.update((path, leaf) for path, leaf in leaves(after, key).items() if leaf != {})
    assert _below(result, ()) == _below({path: leaf for path, leaf in leaves(new).items() if leaf != {}}, ())


TREES = st.dictionaries(
    st.sampled_from(["a", "a/b", "a/c", "b", "b/a", "b/a/x"]), st.sampled_from([b"1\n", b"2\n"]), max_size=4
)


def _is_tree(tree: dict[str, bytes]) -> bool:
    return not any(other.startswith(path + "/") for path in tree for other in tree)


@examples(200)
@given(TREES.filter(_is_tree), TREES.filter(_is_tree), TREES.filter(_is_tree))
def test_merged_trees_are_trees(base: dict[str, bytes], mine: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    """No path is a file and a directory, and each change of mine is there or in conflict."""

    def look(tree: dict[str, bytes], path: str) -> m.File | None:
        return m.File(tree[path]) if path in tree else None

    changed = {path: look(mine, path) for path in base.keys() | mine.keys() if base.get(path) != mine.get(path)}
    changes, conflicts = merge_changes(
        changed, lambda path: look(base, path), lambda path: look(theirs, path), lambda _: theirs
    )
    whole = dict(theirs)
    for path, made in changes.items():
        whole.pop(path, None)
        if made is not None:
            whole[path] = made.content
    assert _is_tree(whole)
    told = {conflict.path for conflict in conflicts}
    assert not told & changes.keys()
    for path, wanted in changed.items():
        assert path in told or whole.get(path) == (wanted.content if wanted is not None else None)


def test_merge_maps_names_the_innermost_key() -> None:
    merged, conflicts = merge_maps({"a": {"b": 1}}, {"a": {"b": 2, "c": 1}}, {"a": {"b": 3}})
    assert conflicts == [("a", "b")]
    assert merged == {"a": {"b": 3, "c": 1}}
