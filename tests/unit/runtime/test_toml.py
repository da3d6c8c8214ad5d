"""Every key of a TOML document gets the line it stands on."""

import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jlogd.runtime.toml import Path, locate

EXAMPLE = '''# comment with [brackets] and "quotes"
top = """
[not.a.table]
key = 1
"""
[node]
name = 'a' # = 2
dotted . "quo\\u0074ed.key" = 1

[[tail]]
paths = [ "a", # ]
  'b',
  [ { x = 1, y = [
     2 ] } ],
]
[tail.sub]
k = 1985-05-01
[[tail]]
paths = []
[[tail.deep]]
[[tail.deep]]
z = """a""""
'''


def test_example() -> None:
    lines = locate(EXAMPLE)
    assert lines["top",] == 2
    assert lines["node",] == 6
    assert lines["node", "dotted", "quoted.key"] == 8
    assert lines["tail", 0] == 10
    assert lines["tail", 0, "paths", 1] == 12
    assert lines["tail", 0, "paths", 2, 0, "y", 0] == 14
    assert lines["tail", 0, "sub", "k"] == 17
    assert lines["tail", 1] == 18
    assert lines["tail", 1, "deep", 1, "z"] == 22


def test_a_table_stands_at_its_own_header() -> None:
    assert locate("[a.b]\n[a]\nx = 1\n") == {("a", "b"): 1, ("a",): 2, ("a", "x"): 3}


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, number))
    else:
        yield path, value


# Documents whose every number is the line that it stands on: "@" becomes that line.
names = st.sampled_from(["a", "b-c", "9", '"q.x"', "'l # ['", '"esc\\"\\\\ \\u00e9"', "d . e", 'f."g h"'])
noise = st.sampled_from(
    [
        "",
        "  # [x] = {",
        '"""k = 1\n[y]\\""" # """',
        "'''\n''\n\\'''",
        '"a\\"]"',
        "'\\'",
        "1979-05-27T07:32:00Z",
        "true",
        '"""""x"""""',
    ]
)
scalars = st.just("@") | noise.filter(lambda text: bool(text) and not text.lstrip().startswith("#"))
gaps = st.sampled_from(["", " ", "\n", " # c ] }\n", "\n\n\t"])


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    element = st.tuples(gaps, inner, gaps).map("".join)
    return st.lists(element, max_size=4).map(lambda items: "[" + ",".join(items) + "]")


def inline_tables(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(names, inner), max_size=3, unique_by=lambda pair: pair[0].split(".")[0].strip())
    return pairs.map(lambda items: "{ " + ", ".join(f"{name} = {value}" for name, value in items) + " }")


values = st.recursive(scalars, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=8)
pairs = st.tuples(names, values, st.sampled_from(["", " # [[t]]", "\n"])).map(lambda p: f"{p[0]}={p[1]}{p[2]}")
headers = st.builds(lambda name, array: f"[[{name}]]" if array else f"[ {name} ]", names, st.booleans())
documents = st.lists(pairs | headers, max_size=14)


@given(documents, st.booleans())
def test_agrees_with_tomllib(statements: list[str], crlf: bool) -> None:
    accepted: list[str] = []
    for statement in statements:  # keep what tomllib accepts after what came before
        try:
            tomllib.loads("\n".join([*accepted, statement]).replace("@", "0"))
        except tomllib.TOMLDecodeError:
            continue
        accepted.append(statement)
    text = "\n".join(line.replace("@", str(number)) for number, line in enumerate("\n".join(accepted).split("\n"), 1))
    if crlf:
        text = text.replace("\n", "\r\n")
    lines = locate(text)
    for path, value in leaves(tomllib.loads(text)):
        if type(value) is int:
            assert lines[path] == value
        assert all(path[:depth] in lines for depth in range(1, len(path) + 1))
