"""Structured files keep their meaning through emit and parse; layers give what a plain model gives.

The long form with JLOGD_LONG=1.
"""

import datetime as dt
import os
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jlogd.confrepo import formats, layering
from jlogd.confrepo import model as m
from jlogd.confrepo.formats import Kind, Opaque, SyntaxFault
from jlogd.confrepo.formats.values import WrittenStr
from jlogd.confrepo.formats.yaml_text import floating, integer

LONG = 20 if os.environ.get("JLOGD_LONG") else 1


def examples(count: int) -> settings:
    """A machine with much else to do is no fault of the test."""
    return settings(max_examples=LONG * count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


FAST = examples(75)
UNSET: dict[str, object] = {m.UNSET_KEY: True}

CHARACTERS = st.characters(exclude_categories=["Cs"])
# Words that some reader takes for more than text, or that an emitter could trip over.
TRICKY = st.sampled_from([
    "", "y", "No", "on", "true", "NULL", "~", "null", ".inf", "nan", "1", "0644", "1_000", "0x1F", "12:30", "1e3",
    "2026-11-21", "2026-11-21 10:00:00", "<<", "=", "- a", "a: b", "a #b", "# a", "*a", "&a", "!a", "%a", "@a", "`a",
    "? a", "[", "{a}", "'", '"', " a", "a ", "a\nb", "a\nb\n", "a\n\nb\n\n", "\n", "\na", " a\nb", "a\n  b\n c",
    "a\n \nb", "a\n\t\nb", "a\tb", "\t", "a\r\nb", "a\x85b", "a\u2028b\nc", "\ufeff", "\ufeffa\nb", "---", "...",
    "--- a\nb", "a\n---\nb", "a\n...\n", "a\n# b", "$age:x", "/usr/bin/x -y", "a,b", "x:y", "x:", "\x00", "\x7f\x1b",
    "é", "日本\n語", "😀", "a" * 1100, "a b " * 400, "\U0010ffff", "\ufffe",
])  # fmt: skip
TEXT = TRICKY | st.text(CHARACTERS, max_size=12)
NUMBERS = st.integers() | st.sampled_from([0, -1, 2**63, -(2**80), 10**300])
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, 1e22, 1e-7, 5e-324, 1.5, 1e16, float("inf"), float("-inf")])
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
CLOCKS = st.times() | st.datetimes() | st.datetimes(timezones=ZONES)
TIMES = st.dates() | CLOCKS.map(lambda each: each.replace(fold=0))
WRITTEN = st.sampled_from([
    WrittenStr("yes"), WrittenStr("12:30"), WrittenStr("2026-11-21"), WrittenStr("2001-12-14 21:59:43.10 -5"),
    WrittenStr("1_000"), WrittenStr("="), integer("0644"), integer("+5"), integer("0x1F"), integer("0o17"),
    floating(1.1, "1.10"), floating(1000.0, "1e3"), floating(1.0, "1."),
])  # fmt: skip


def values(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any] = TEXT) -> st.SearchStrategy[Any]:
    """Maps of leaves, lists and maps."""
    inner = st.recursive(
        leaves,
        lambda each: st.lists(each, max_size=4) | st.dictionaries(keys, each, max_size=4),
        max_leaves=12,
    )
    return st.dictionaries(keys, inner, max_size=5)


TOML = values(TEXT | NUMBERS | FLOATS | st.booleans() | TIMES)
JSON = values(TEXT | NUMBERS | FINITE | st.booleans() | st.none())
YAML = values(TEXT | NUMBERS | FLOATS | st.booleans() | st.none() | WRITTEN, TEXT | st.integers(-5, 5000))


def assert_round_trip(kind: Kind, value: object) -> None:
    content = formats.emit(kind, value)
    again = formats.parse(kind, content)
    assert formats.same(again, value), content.decode()
    assert formats.emit(kind, again) == content
    lines = formats.locate(kind, content)
    last = content.count(b"\n")
    assert all(1 <= line <= last for line in lines.values())
    for key in _keys(value, ()):
        assert key in lines, (key, content.decode())


def _keys(value: object, place: formats.KeyPath) -> list[formats.KeyPath]:
    found: list[formats.KeyPath] = []
    for key, inner in formats.children(value):
        found += [(*place, key), *_keys(inner, (*place, key))]
    return found


@FAST
@given(TOML)
def test_toml_is_read_as_it_was_written(value: dict[str, object]) -> None:
    assert_round_trip("toml", value)


@FAST
@given(JSON)
def test_json_is_read_as_it_was_written(value: dict[str, object]) -> None:
    assert_round_trip("json", value)


@examples(150)
@given(YAML)
@example({"a": "x\n y\n", "b": [["p\nq"], {"k": "r\ns\n", "l": []}]})
def test_yaml_is_read_as_it_was_written(value: dict[str, object]) -> None:
    assert_round_trip("yaml", value)


@FAST
@given(YAML, TRICKY)
def test_a_single_yaml_scalar_is_read_as_it_was_written(value: dict[str, object], text: str) -> None:
    for top in (text, [text, [text]], {text: text}, [{text: [text, value]}]):
        assert formats.same(formats.parse("yaml", formats.emit("yaml", top)), top)


PIECES = st.sampled_from([
    "a", "b", ": ", ":", "\n", "\n  ", "\n\t", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "<<: ", "!!str ", "!x ",
    "'", '"', "\\", "|\n", ">-\n", "# ", "---\n", "...\n", "%YAML 1.2\n", "? ", "1", "=", "=1\n", "[a]\n", "[[a]]\n",
    '"""', "'''", ".", " ", "true", "null", "\r\n", "\x85", "é", "\\x41", "\\u0041", "\x00", "@", "`", "\\ud800",
])  # fmt: skip
TEXTS = st.lists(PIECES, max_size=14).map("".join).map(str.encode) | st.binary(max_size=20)


@examples(300)
@given(TEXTS, st.sampled_from(["toml", "yaml", "json"]))
def test_any_bytes_are_a_value_or_a_fault_with_a_line_of_theirs(content: bytes, kind: Kind) -> None:
    try:
        value = formats.parse(kind, content)
    except SyntaxFault as caught:
        fault = caught
    else:
        formats.locate(kind, content)
        again = formats.parse(kind, formats.emit(kind, value)) if not isinstance(value, Opaque) else value
        assert formats.same(again, value) or again == value
        return
    assert 0 <= fault.line <= content.count(b"\n") + content.count(b"\r") + content.count("\x85".encode()) + 1
    assert fault.problem
    assert "\n" not in fault.problem


# ---------------------------------------------------------------------- layers

NAMES = st.sampled_from(["a", "b", "c", "d"])


def layer_maps() -> st.SearchStrategy[dict[str, object]]:
    leaves = (
        st.integers(0, 3) | st.just("$age:x") | st.lists(st.integers(0, 3), max_size=2) | st.builds(lambda: dict(UNSET))
    )
    inner = st.recursive(leaves, lambda each: st.dictionaries(NAMES, each, max_size=3), max_leaves=8)
    return st.dictionaries(NAMES, inner, max_size=4)


LAYERS = st.lists(layer_maps(), min_size=1, max_size=3)


def as_layers(kind: Kind, maps: list[dict[str, object]]) -> list[tuple[str, m.File]]:
    return [(f"layer{number}", m.File(formats.emit(kind, each))) for number, each in enumerate(maps)]


def paths_of(value: object, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """The model: a map as the set of its leaves; an empty map is one."""
    if isinstance(value, dict) and value and value != UNSET:
        return {path: leaf for key, inner in value.items() for path, leaf in paths_of(inner, (*place, key)).items()}
    return {place: value}


def model_of(maps: list[dict[str, object]]) -> dict[tuple[str, ...], tuple[object, int]]:
    """Leaves with the number of the layer; the layers are laid over each other leaf by leaf."""
    whole: dict[tuple[str, ...], tuple[object, int]] = {}
    for number, each in enumerate(maps):
        for path, leaf in paths_of(each).items():
            if path == ():
                continue
            for known in list(whole):
                covers = known[: len(path)] == path and (leaf != {} or known == path)
                if covers or path[: len(known)] == known:
                    removed = whole.pop(known)
                    if leaf == UNSET and removed[0] == {} and known != path:
                        whole[known] = removed  # the empty map around it stays
            if leaf == UNSET:
                continue
            if leaf == {} and any(known[: len(path)] == path for known in whole):
                continue
            whole[path] = leaf, number
    return whole


@examples(200)
@given(LAYERS, st.sampled_from(["toml", "yaml", "json"]))
def test_the_most_specific_layer_that_has_a_key_gives_it(maps: list[dict[str, object]], kind: Kind) -> None:
    """Every leaf of the model is in the result with its layer, no other leaf is but empty maps, and no $unset."""
    layers = as_layers(kind, maps)
    made = layering.combine(f"x.{kind}", layers)
    value = formats.parse(kind, made.content)
    wanted = {path: leaf for path, leaf in model_of(maps).items() if leaf[0] != {}}
    assert {path: leaf for path, leaf in paths_of(value).items() if leaf != {}} == {
        path: leaf for path, (leaf, _) in wanted.items()
    }
    explained = layering.explain(f"x.{kind}", layers)
    assert {each.key: each.layer for each in explained if each.value != {}} == {
        path: f"layer{number}" for path, (_, number) in wanted.items()
    }
    assert {each.key: each.value for each in explained} == {key: leaf for key, leaf in paths_of(value).items() if key}
    assert {each.key for each in explained if each.secret} == {
        key for key, leaf in paths_of(value).items() if leaf == "$age:x"
    }
    assert made.secrets == any(each.secret for each in explained)


@FAST
@given(LAYERS, st.sampled_from(["toml", "yaml", "json"]))
def test_nothing_is_left_to_undo(maps: list[dict[str, object]], kind: Kind) -> None:
    """The result has no $unset, combining it once more changes nothing, and the same inputs give the same bytes."""
    layers = as_layers(kind, maps)
    made = layering.combine(f"x.{kind}", layers)
    assert m.UNSET_KEY.encode() not in made.content
    assert layering.combine(f"x.{kind}", layers) == made
    assert layering.combine(f"x.{kind}", [("all", m.File(made.content))]).content == made.content


@FAST
@given(YAML | JSON, st.sampled_from(["yaml", "json"]))
def test_secrets_are_replaced_and_nothing_else(value: dict[str, object], kind: Kind) -> None:
    try:
        content = formats.emit(kind, value)
    except ValueError:
        return  # nan and infinities are no JSON
    found = dict(layering.secret_values(formats.parse(kind, content)))
    made = layering.replace_secrets(kind, content, lambda text: "plain " + text.removeprefix(m.SECRET_PREFIX))
    if not found:
        assert made == content
        return
    after = formats.parse(kind, made)
    assert not list(layering.secret_values(after))
    back = layering._replaced(after, (), lambda text: text)
    assert formats.same(back, after)
    assert sorted(map(str, _keys(after, ()))) == sorted(map(str, _keys(formats.parse(kind, content), ())))
