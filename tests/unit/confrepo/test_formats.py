"""Values, lines and faults of TOML, YAML and JSON; the limits that make hostile files harmless."""

import datetime as dt
import time

import pytest

from jlogd.confrepo import formats
from jlogd.confrepo.formats import Kind, Opaque, SyntaxFault
from jlogd.confrepo.formats.values import WrittenStr
from jlogd.confrepo.formats.yaml_text import YAML_BYTES_MAX, integer
from jlogd.runtime.errors import UsageError

BOMB_S = 5  # far more than any refusal takes, far less than what a bomb would


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.toml", "toml"),
        ("x/a.b.yaml", "yaml"),
        ("a.yml", "yaml"),
        ("a.json", "json"),
        ("a.conf", None),
        ("toml", None),
        (".toml", None),
        ("a.toml/b", None),
        ("a.TOML", None),
    ],
)
def test_the_kind_is_the_ending(path: str, kind: Kind | None) -> None:
    assert formats.kind_of(path) == kind


@pytest.mark.parametrize(
    ("kind", "content", "line"),
    [
        ("toml", b"a = 1\nb = \n", 2),
        ("toml", b"a = 1\r\nb = \r\n", 2),
        ("toml", b"a = 1\nb = 2\na = 3\n", 3),
        ("toml", b"a = 1\na = [\n  1,\n  2,\n]\nb = 1\n", 2),
        ("toml", b"[t]\na = 1\n[t]\n", 3),
        ("toml", b'a = 1\nb = "x\n', 2),
        ("toml", b'a = 1\nb = "\xff"\n', 2),
        ("toml", b"\xef\xbb\xbfa = 1\n", 1),
        ("toml", b"a = 1\nb = 1" + b"0" * 5000, 2),
        ("toml", b"a = 1\nb = 0x1" + b"0" * 5000, 2),
        ("toml", b"a = [1,\n", 1),
        ("toml", b'a = 1\nb = """x\ny\n\nz\n', 2),
        ("toml", b"a = 1\nb = [\n  1,\n", 2),
        ("toml", b"a = 1\nb =", 2),
        ("json", b'{\n "a": 1,\n "b" 2\n}', 3),
        ("json", b'{\r\n "a": 1,\r\n}', 3),
        ("json", b'{\n "a": 1,\n "b": {"c": [1,\n 2], "c": 3}\n}', 4),
        ("json", b'{\n "NaN": "NaN",\n "a": NaN}', 3),
        ("json", b'{\n "a":\n-Infinity}', 3),
        ("json", b'{\n "a": 1e999}', 2),
        ("json", b'{\n "a": 1' + b"0" * 5000 + b"}", 2),
        ("json", b'{\n "a": [1,\n "\\ud800"]}', 3),
        ("json", b'{\n "\\udfff": 1}', 0),
        ("json", b"", 1),
        ("json", b"\xef\xbb\xbf{}", 1),
        ("json", b'{"a": 1}\n{}', 2),
        ("yaml", b"a: 1\nb: [1\nc: 2\n", 3),
        ("yaml", b"a: 1\nb: 'x\nc: 2\n", 2),
        ("yaml", b"a: 1\n\tb: 2\n", 2),
        ("yaml", b"a: 1\nb: 2\na: 3\n", 3),
        ("yaml", b"a:\n  b: 1\n  c: {d: 1,\n    d: 2}\n", 4),
        ("yaml", b"a: b: c\n", 1),
        ("yaml", b"a: 1\nb: *nothing\n", 2),
        ("yaml", b"a: 1\nb: &b\n  c: *b\n", 3),
        ("yaml", b"a: 1\nb: \x01\n", 2),
        ("yaml", b"a: 1\nb: \xff\n", 2),
        ("yaml", b'a: 1\nb: "\\ud800"\n', 2),
        ("yaml", b'a: 1\nb: "\\UFFFFFFFF"\n', 2),
        ("yaml", b"a: 1\n<<: 5\n", 2),
        ("yaml", b"a: 1\r\nb: [1\r\nc: 2\r\n", 3),
        ("yaml", b"a: 1\nb: 1" + b"0" * 5000, 2),
        ("yaml", b"a: 1\n---\nb: [\n", 3),
        ("yaml", b"a: !x 1\nb: [\n", 2),
        ("yaml", b"a: 1\nb: [1,\n  2,\n\n", 2),
        ("yaml", b"a: 1\nb: {\n  c: 'x\n\n", 3),
    ],
)
def test_a_fault_tells_its_line(kind: Kind, content: bytes, line: int) -> None:
    with pytest.raises(SyntaxFault) as caught:
        formats.parse(kind, content)
    assert caught.value.line == line, caught.value


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("json", b"[" * 100_000),
        ("json", b'{"a":' * 100_000),
        ("json", b"[" * 65 + b"1" + b"]" * 65),
        ("toml", b"a = " + b"[" * 100_000),
        ("toml", b"a = " + b"{a = " * 100_000),
        ("toml", b"a" + b".a" * 300_000 + b" = 1"),
        ("toml", b"[a" + b' . "a"' * 300_000 + b"]"),
        ("toml", b"x = {a" + b".a" * 300_000 + b" = 1}"),
        ("toml", b"a" + b".a" * 64 + b" = [1]"),
        ("yaml", b"[" * 100_000),
        ("yaml", b"a: " + b"{a: " * 5_000),
        ("yaml", b"- " * 5_000),
        ("yaml", b"".join(b" " * depth + b"a:\n" for depth in range(500))),
        (
            "yaml",
            b"".join(b"- &a%d [*a%d]\n" % (number, number - 1) if number else b"- &a0 [1]\n" for number in range(100)),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value[:12]),
)
def test_depth_bombs_are_refused_quickly(kind: Kind, content: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(SyntaxFault, match="nested more than 64 deep"):
        formats.parse(kind, content)
    assert time.monotonic() - started < BOMB_S


def test_what_is_64_deep_is_taken() -> None:
    for kind, content in (("json", b"[" * 64 + b"1" + b"]" * 64), ("yaml", b"[" * 64 + b"1" + b"]" * 64)):
        value = formats.parse(kind, content)  # type: ignore[arg-type]
        assert formats.same(formats.parse(kind, formats.emit(kind, value)), value)  # type: ignore[arg-type]
    formats.parse("toml", b"a" + b".a" * 63 + b" = 1")


@pytest.mark.parametrize(
    "content",
    [
        b"- &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"- &%c [%s]\n" % (name + 1, b",".join([b"*%c" % name] * 9)) for name in range(97, 107)),
        b"- &a {x: 1}\n" + b"".join(b"- &%c {l: *%c, r: *%c}\n" % (name + 1, name, name) for name in range(97, 121)),
        b"- &a {x: [%s]}\n" % b",".join([b"1"] * 1000) + b"- {<<: [%s]}\n" % b",".join([b"*a"] * 1000),
    ],
    ids=["lists", "maps", "merges"],
)
def test_alias_bombs_are_refused_quickly(content: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(SyntaxFault, match="aliases counted out"):
        formats.parse("yaml", content)
    assert time.monotonic() - started < BOMB_S


def test_many_values_and_long_yaml_are_refused() -> None:
    with pytest.raises(SyntaxFault, match="200,000 values"):
        formats.parse("json", b"[" + b"1," * 200_000 + b"1]")
    with pytest.raises(SyntaxFault, match="1 MiB"):
        formats.parse("yaml", b"#" * (YAML_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("kind", "content", "lines"),
    [
        (
            "toml",
            b'a = 1\r\n# x\r\nb.c = [\r\n  1,\r\n  2 ]\r\n[t]\r\n"d.e" = 1\r\n[[u]]\r\nf = 1\r\n[[u]]\r\nf = 2\r\n',
            {
                ("a",): 1,
                ("b",): 3,
                ("b", "c"): 3,
                ("b", "c", 0): 4,
                ("b", "c", 1): 5,
                ("t",): 6,
                ("t", "d.e"): 7,
                ("u",): 8,
                ("u", 0): 8,
                ("u", 0, "f"): 9,
                ("u", 1): 10,
                ("u", 1, "f"): 11,
            },
        ),
        (
            "json",
            b'{"a": "{[\\"",\n\t"b": [\n1, {"c\\u0041": [\n]}],\n\n"": {"d": null}}',
            {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 3, ("b", 1, "cA"): 3, ("",): 6, ("", "d"): 6},
        ),
        ("json", b"[1,\n[2,\n3]]", {(0,): 1, (1,): 2, (1, 0): 2, (1, 1): 3}),
        ("json", b"7", {}),
        (
            "yaml",
            b"# x\na: &x\n  b: 1\n  c: |\n    d: 1\n  e:\n    - 1\n    - f: 2\ng: *x\n80: {h: 1,\n  i: 2}\n",
            {
                ("a",): 2,
                ("a", "b"): 3,
                ("a", "c"): 4,
                ("a", "e"): 6,
                ("a", "e", 0): 7,
                ("a", "e", 1): 8,
                ("a", "e", 1, "f"): 8,
                ("g",): 9,
                (80,): 10,
                (80, "h"): 10,
                (80, "i"): 11,
            },
        ),
        (
            "yaml",
            b"a: &x {b: 1}\nc:\n  <<: *x\n  d: 1\n",
            {("a",): 1, ("a", "b"): 1, ("c",): 2, ("c", "b"): 3, ("c", "d"): 4},
        ),
    ],
)
def test_keys_have_their_lines(kind: Kind, content: bytes, lines: dict[formats.KeyPath, int]) -> None:
    assert formats.locate(kind, content) == lines


def test_a_key_without_a_line_has_that_of_the_map_around_it() -> None:
    lines = formats.locate("yaml", b"a: &x\n  b: 1\n\ng:\n  h: *x\n")
    assert formats.line_of(lines, ("g", "h", "b")) == 5
    assert formats.line_of(lines, ("z",)) == 0


@pytest.mark.parametrize("kind", ["toml", "yaml", "json"])
def test_locate_refuses_what_parse_refuses(kind: Kind) -> None:
    with pytest.raises(SyntaxFault):
        formats.locate(kind, b'{"a": [')


# ---------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    "content",
    [
        b"a: 1\n---\nb: 1\n",
        b"a: !vault x\n",
        b"%YAML 1.2\n---\na: 1\n",
        b"? [a]\n: 1\n",
        b"true: 1\n",
        b"1.5: 1\n",
        b"a: !!set {b}\n",
        b"a: !!int x\n",
    ],
)
def test_sound_yaml_that_plain_values_cannot_hold_is_opaque(content: bytes) -> None:
    assert isinstance(formats.parse("yaml", content), Opaque)


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"---\n", b"\xef\xbb\xbf"])
def test_yaml_without_a_value_is_an_empty_map(content: bytes) -> None:
    """A layer whose keys are all commented out sets nothing; it does not remove the file's keys."""
    assert formats.parse("yaml", content) == {}


def test_null_as_a_whole_is_null() -> None:
    assert formats.parse("yaml", b"null\n") is None


def test_scalars_are_those_of_yaml_1_2() -> None:
    value = formats.parse(
        "yaml", b"[yes, 'true', true, 0o17, 0x1f, 0644, 12:30, 1_0, ~, 2026-11-21, !!str 1, !!int '7', .5, 1e3]"
    )
    assert value == ["yes", "true", True, 15, 31, 644, "12:30", "1_0", None, "2026-11-21", "1", 7, 0.5, 1000.0]


def test_own_keys_win_over_merged_ones_and_the_first_of_those() -> None:
    value = formats.parse("yaml", b"a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {z: 3, <<: [*a, *b], w: 3}\n'<<': 4\n")
    assert isinstance(value, dict)
    assert value["c"] == {"x": 1, "y": 1, "z": 3, "w": 3}
    assert value["<<"] == 4


@pytest.mark.parametrize("scalar", ["yes", "0644", "12:30", "1_000", "0x1F", "2026-11-21", "1.10", "1e3", "+5"])
def test_what_other_readers_take_for_something_else_is_written_as_it_was(scalar: str) -> None:
    """To a YAML 1.1 program ``mode: 0644`` is not ``mode: 644``, nor is ``on: yes`` ``on: "yes"``."""
    content = f'a: {scalar}\nb: "{scalar}"\n'.encode()
    assert formats.emit("yaml", formats.parse("yaml", content)) == content


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "NO",
        "on",
        "y",
        "null",
        "~",
        "true",
        "1",
        "1.5",
        "0644",
        "12:30",
        "2026-11-21",
        ".inf",
        "=",
        "<<",
        "",
        " a",
        "a: b",
        "a #b",
        "-",
        "*a",
    ],
)
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert formats.emit("yaml", {"a": text}) == f'a: "{text}"\n'.encode()


def test_yaml_is_written_for_people() -> None:
    value = {
        "name": "web one",
        "script": "#!/bin/sh\nexit 0\n",
        "list": [{"a": 1, "b": [True, None]}, [], {}],
        "m": {"f": 1.0, "big": 1e22},
    }
    assert formats.emit("yaml", value).decode() == (
        "name: web one\nscript: |\n  #!/bin/sh\n  exit 0\n"
        "list:\n  - a: 1\n    b:\n      - true\n      - null\n  - []\n  - {}\n"
        "m:\n  f: 1.0\n  big: 1.0e+22\n"
    )


# ---------------------------------------------------------------------- values and keys


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, True, False),
        (1, 1.0, False),
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": True}, False),
        ([1, 2], [2, 1], False),
        ([1], [1, 1], False),
        (None, False, False),
        ("1", 1, False),
        ({}, [], False),
        (WrittenStr("yes"), "yes", False),
        (WrittenStr("yes"), WrittenStr("yes"), True),
        (integer("0644"), 644, False),
        (integer("0644"), integer("00644"), False),
        (
            dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC),
            dt.datetime(2026, 1, 1, 13, tzinfo=dt.timezone(dt.timedelta(hours=1))),
            False,
        ),
    ],
)
def test_values_are_the_same_when_every_reader_takes_them_so(one: object, other: object, same: bool) -> None:
    assert formats.same(one, other) is same
    assert formats.same(other, one) is same
    assert formats.same([{"a": one}], [{"a": other}]) is same


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ((), ""),
        (("a",), "a"),
        (("server", "a.b", "port"), 'server."a.b".port'),
        (("", 'q"u', "é"), '""."q\\"u"."é"'),
        (("a", "line\nbreak"), 'a."line\\nbreak"'),
    ],
)
def test_keys_are_written_as_in_toml_and_read_again(key: tuple[str, ...], text: str) -> None:
    assert formats.dotted(key) == text
    assert formats.split_key(text) == key


def test_indices_and_numbers_are_parts_of_keys() -> None:
    assert formats.dotted(("a", 0, "b")) == "a.0.b"


@pytest.mark.parametrize("text", [".", "a.", ".a", "a..b", 'a"b"', '"a', "a b", '"a"b', '"\\q"'])
def test_what_is_no_key_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        formats.split_key(text)


def test_toml_is_a_map() -> None:
    with pytest.raises(TypeError):
        formats.emit("toml", [])
