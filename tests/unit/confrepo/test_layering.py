"""Which files a view is made of, what they make, where each value comes from, and what must not be committed."""

import shlex
import time

import pytest

from jlogd.confrepo import layering
from jlogd.confrepo import model as m
from jlogd.confrepo.formats import Kind
from jlogd.confrepo.layering import Explained
from jlogd.runtime.errors import RefusedError

LAYERS = ("global", "web/default", "web/web1")


def entry(number: int, mode: int = m.REGULAR) -> m.Entry:
    return m.Entry(mode, m.ObjectId(f"{number:040x}"))


def text(content: str, mode: int = m.REGULAR) -> m.File:
    return m.File(content.encode(), mode)


def stack(*contents: str | m.File) -> list[tuple[str, m.File]]:
    """One file in each of the layers, from the least specific on."""
    files = [content if isinstance(content, m.File) else text(content) for content in contents]
    return list(zip(LAYERS, files, strict=False))


# ---------------------------------------------------------------------- plan


def test_a_plan_names_every_entry_that_a_file_can_be_made_of() -> None:
    plan = layering.plan(
        [
            (
                "global",
                {"a.toml": entry(1), "b.txt": entry(2), "c.toml": entry(3), "d.json": entry(4), "e.yaml": entry(5)},
            ),
            ("web/default", {"a.toml": entry(6), "b.txt": entry(7), "c.toml": entry(8, m.SYMLINK)}),
            ("web/web1", {"a.toml": entry(9, m.EXECUTABLE), "c.toml": entry(10), "f": entry(11)}),
        ]
    )
    assert plan == {
        "a.toml": (("global", entry(1)), ("web/default", entry(6)), ("web/web1", entry(9, m.EXECUTABLE))),
        "b.txt": (("web/default", entry(7)),),
        "c.toml": (("web/web1", entry(10)),),
        "d.json": (("global", entry(4)),),
        "e.yaml": (("global", entry(5)),),
        "f": (("web/web1", entry(11)),),
    }


def test_a_plan_of_10000_files_takes_milliseconds() -> None:
    """30 ms on an idle machine; this bound is for one that is not."""
    names = [f"d{number % 100}/f{number}.toml" for number in range(10_000)]
    layers = [(layer, {name: entry(number) for number, name in enumerate(names)}) for layer in LAYERS]
    took = []
    for _ in range(5):
        started = time.monotonic()
        assert len(layering.plan(layers)) == 10_000
        took.append(time.monotonic() - started)
    assert min(took) < 0.3


def test_a_file_that_is_a_directory_in_another_layer_is_a_clash() -> None:
    assert layering.clashes(["a", "b/c", "b/d", "x.y/z"]) == []
    assert layering.clashes(["a", "a/b/c", "d/e", "d/e/f", "a.b"]) == ["a", "d/e"]


def test_a_view_has_every_file_in_order() -> None:
    contents = {entry(1).id: b"a = 1\n", entry(2).id: b"b = 2\n", entry(3).id: b"x"}
    layers = [("global", {"z": entry(3), "a.toml": entry(1)}), ("web/web1", {"a.toml": entry(2)})]
    assert [(file.path, file.content) for file in layering.view(layers, contents.__getitem__)] == [
        ("a.toml", b"a = 1\nb = 2\n"),
        ("z", b"x"),
    ]


# ---------------------------------------------------------------------- combine


@pytest.mark.parametrize(
    "content", ['# comment\n a=1 # {"$unset" = true}\n', "b = 'x'", 'a = "\\u0041"', "not = = toml"]
)
def test_a_file_of_one_layer_is_laid_out_byte_for_byte(content: str) -> None:
    made = layering.combine("x.toml", stack(content))
    assert (made.content, made.layers, made.secrets) == (content.encode(), ("global",), False)


def test_maps_merge_and_everything_else_replaces() -> None:
    made = layering.combine(
        "x.toml",
        stack(
            'port = 80\nhosts = ["a", "b"]\n[log]\nlevel = 1\nfile = "x"\n[t]\na = 1\n',
            'hosts = ["c"]\nlog.level = 2\nt = 5\n',
            "user = 'u'\nlog.format = 'json'\nport.a = 1\n",
        ),
    )
    assert made.content.decode() == (
        'hosts = [\n    "c",\n]\nt = 5\nuser = "u"\n\n[port]\na = 1\n\n[log]\nlevel = 2\nfile = "x"\nformat = "json"\n'
    )
    assert made.layers == LAYERS


@pytest.mark.parametrize(
    ("contents", "made"),
    [
        (['{"a": 1, "b": 2}', '{"a": {"$unset": true}}'], '{\n  "b": 2\n}\n'),
        (['{"a": {"$unset": true}, "b": 2}'], '{\n  "b": 2\n}\n'),
        (['{"a": {"\\u0024unset": true}, "b": 2}'], '{\n  "b": 2\n}\n'),
        (
            ['{"m": {"a": 1, "b": {"c": 1}}}', '{"m": {"b": {"c": {"$unset": true}}}}'],
            '{\n  "m": {\n    "a": 1,\n    "b": {}\n  }\n}\n',
        ),
        (['{"a": 1}', '{"a": {"$unset": true}}', '{"a": 2}'], '{\n  "a": 2\n}\n'),
        (['{"m": {"a": 1}}', '{"m": {"$unset": true}}', '{"m": {"b": 2}}'], '{\n  "m": {\n    "b": 2\n  }\n}\n'),
        (['{"m": {"a": 1}}', '{"m": {"$unset": true, "b": 2}}'], '{\n  "m": {\n    "b": 2\n  }\n}\n'),
        (['{"m": {"a": 1}}', '{"m": {"$unset": false, "b": 2}}'], '{\n  "m": {\n    "a": 1,\n    "b": 2\n  }\n}\n'),
        (['{"a": 1}', '{"$unset": true, "b": 2}'], '{\n  "a": 1,\n  "b": 2\n}\n'),
        (['{"a": [1]}', '{"a": [{"$unset": true}, {"b": {"$unset": true}}]}'], '{\n  "a": [\n    {}\n  ]\n}\n'),
        (['{"n": {"x": {"$unset": true}}}', '{"n": {"y": 1}}'], '{\n  "n": {\n    "y": 1\n  }\n}\n'),
    ],
)
def test_unset_takes_an_inherited_key_away_and_is_never_left(contents: list[str], made: str) -> None:
    assert layering.combine("x.json", stack(*contents)).content.decode() == made


@pytest.mark.parametrize(
    ("path", "contents"),
    [
        ("x.txt", ["a = 1", "b = 2"]),
        ("x.json", ['{"a": 1}', "[1]"]),
        ("x.json", ["[1]", '{"a":  1}']),
        ("x.yaml", ["a: 1\n", "b: 1\n---\nc: 1\n"]),
        ("x.yaml", ["a: !tag 1\n", "b:   1\n"]),
        ("x.toml", ["a = 1", "b = = 1"]),
        ("x.toml", ["a = = 1", "b   = 1"]),
        ("x.toml", [m.File(b"y.toml", m.SYMLINK), "b   = 1"]),
        ("x.toml", ["b = 1", m.File(b"y.toml", m.SYMLINK)]),
        ("x.toml", ["a = 1", m.File(b"y.toml", m.SYMLINK), "b   = 1"]),
    ],
)
def test_what_does_not_merge_is_replaced_whole(path: str, contents: list[str | m.File]) -> None:
    layers = stack(*contents)
    made = layering.combine(path, layers)
    name, last = layers[-1]
    assert (made.content, made.mode, made.layers) == (last.content, last.mode, (name,))
    assert layering.explain(path, layers)[0].layer == name


def test_layers_merge_down_to_the_first_that_is_no_map() -> None:
    made = layering.combine("x.json", stack('{"a": 1}', "[1]", '{"b": 1}'))
    assert made.content == b'{"b": 1}'
    made = layering.combine("x.json", stack("[1]", '{"a": 1}', '{"b": 1}'))
    assert (made.content, made.layers) == (b'{\n  "a": 1,\n  "b": 1\n}\n', LAYERS[1:])


def test_the_mode_is_that_of_the_most_specific_layer() -> None:
    made = layering.combine("x.toml", stack(text("a = 1", m.EXECUTABLE), text("b = 1", m.REGULAR)))
    assert made.mode == m.REGULAR
    made = layering.combine("x.toml", stack(text("a = 1", m.REGULAR), text("b = 1", m.EXECUTABLE)))
    assert made.mode == m.EXECUTABLE


def test_a_yaml_layer_of_comments_changes_nothing() -> None:
    assert layering.combine("x.yaml", stack("a: 1\n", "# b: 2\n")).content == b"a: 1\n"


def test_what_yaml_1_1_reads_otherwise_passes_through_layers() -> None:
    made = layering.combine("x.yaml", stack("mode: 0644\non: yes\n", "when: 12:30\nname: 'no'\n"))
    assert made.content == b'mode: 0644\non: yes\nwhen: 12:30\nname: "no"\n'


# ---------------------------------------------------------------------- explain


def test_explain_names_the_layer_of_each_leaf_in_the_order_of_the_result() -> None:
    layers = stack(
        'port = 80\nl = ["$age:x"]\ne = {}\n[log]\nlevel = 1\nfile = "x"\n[gone]\na = 1\n',
        'log.level = 2\nkey = "$age:y"\n',
        'log.file = {"$unset" = true}\ngone.a = {"$unset" = true}\n',
    )
    assert layering.explain("x.toml", layers) == [
        Explained(("port",), 80, "global", secret=False),
        Explained(("l",), ["$age:x"], "global", secret=True),
        Explained(("e",), {}, "global", secret=False),
        Explained(("log", "level"), 2, "web/default", secret=False),
        Explained(("gone",), {}, "web/web1", secret=False),
        Explained(("key",), "$age:y", "web/default", secret=True),
    ]


def test_an_empty_map_comes_from_the_most_specific_layer_that_has_it() -> None:
    assert [each.layer for each in layering.explain("x.json", stack('{"a": {}}', '{"a": {}}', '{"b": 1}'))] == [
        "web/default",
        "web/web1",
    ]


def test_a_file_without_keys_is_explained_as_a_whole() -> None:
    assert layering.explain("x.txt", stack("a", "b")) == [Explained((), None, "web/default", secret=False)]
    assert layering.explain("x.json", stack('["$age:x"]')) == [Explained((), None, "global", secret=True)]
    assert layering.explain("x.yaml", stack("")) == []


def test_keys_that_are_numbers_are_explained_as_text() -> None:
    assert [each.key for each in layering.explain("x.yaml", stack("ports:\n  80: http\n"))] == [("ports", "80")]


# ---------------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    ("kind", "content", "made"),
    [
        (
            "toml",
            'a = "$age:x"\nl = [1, "$age:y", ["$age:z"]]\n',
            'a = "X"\nl = [\n    1,\n    "Y",\n    [\n        "Z",\n    ],\n]\n',
        ),
        ("json", '{"a": "\\u0024age:x"}', '{\n  "a": "X"\n}\n'),
        ("yaml", "a: 0644\nb:\n  - c: $age:x\n", "a: 0644\nb:\n  - c: X\n"),
        ("yaml", "# $age: in a comment\na:   1\n", "# $age: in a comment\na:   1\n"),
        ("json", '{"$age:x":   "not $age:x"}', '{"$age:x":   "not $age:x"}'),
        ("toml", "nothing   = 1\n", "nothing   = 1\n"),
        ("yaml", "a: $age:x\n---\nb: 1\n", "a: $age:x\n---\nb: 1\n"),
    ],
)
def test_encrypted_values_are_replaced_and_nothing_else(kind: Kind, content: str, made: str) -> None:
    decrypted = layering.replace_secrets(kind, content.encode(), lambda value: value.removeprefix("$age:").upper())
    assert decrypted.decode() == made


def test_a_view_file_tells_whether_it_has_secrets() -> None:
    assert layering.combine("x.toml", stack('a = "$age:x"')).secrets
    assert layering.combine("x.toml", stack('a = "$age:x"', "b = 1")).secrets
    assert not layering.combine("x.toml", stack('a = "$age:x"', "a = 1")).secrets
    assert not layering.combine("x.txt", stack("$age:x")).secrets


@pytest.mark.parametrize(
    ("content", "key"),
    [("a = '$age:x'", "a"), ("[a.\"b c\"]\nd = [1, {e = '$age:x'}]", 'a."b c".d.1.e')],
)
def test_a_value_that_cannot_be_decrypted_is_named_by_its_key_and_what_to_do(content: str, key: str) -> None:
    def refuse(_: str) -> str:
        raise RefusedError("not for this node")

    with pytest.raises(RefusedError) as caught:
        layering.replace_secrets("toml", content.encode(), refuse)
    assert str(caught.value).startswith(f"{key}: not for this node: set it again, eccfg secret set FILE ")
    assert shlex.quote(key) in str(caught.value)


def test_secrets_are_found_with_their_keys() -> None:
    value = {"a": ["x", "$age:1"], "b": {"c": "$age:2"}, "$age:3": "y"}
    assert list(layering.secret_values(value)) == [(("a", 1), "$age:1"), (("b", "c"), "$age:2")]


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("path", "content", "faults"),
    [
        ("global/x.toml", "a = 1\n", []),
        ("global/x.toml", 'a = {"$unset" = true}\n', []),
        ("global/x.txt", "a = = {$unset", []),
        ("global/x.toml", "a = 1\nb = =\n", [(2, "Invalid value")]),
        ("global/x.toml", 'a = 1\n[b]\nc = 1\n"$unset" = true\n', [(4, "stands alone: b has other keys")]),
        ("global/x.json", '{"a": 1,\n"$unset": true}', [(2, "stands in a key")]),
        ("global/x.json", '{"a":\n {"$unset": 1}}', [(2, "true or not there")]),
        ("global/x.json", '{"a": [1,\n{"$unset": true}]}', [(2, "stands in a key")]),
        (
            "global/x.json",
            '{"a": [{"b":\n{"$unset": true}}],\n"c": {"$unset": true, "d": 1}}',
            [(2, "stands in a key"), (3, "stands alone: c")],
        ),
        ("global/x.json", '[{"$unset": true}]', [(1, "stands in a key")]),
        ("global/x.yaml", "a: 1\n---\nb: $age:x\n", [(3, "several YAML documents")]),
        ("global/x.yaml", "a: !x 1\nb: {$unset: true}\n", [(2, "the tag !x")]),
        ("global/x.yaml", "a: !x 1\n", []),
    ],
)
def test_faults_of_a_file_have_lines(path: str, content: str, faults: list[tuple[int, str]]) -> None:
    found = layering.file_faults(path, text(content))
    assert [fault.line for fault in found] == [line for line, _ in faults]
    assert all(
        problem in fault.problem and fault.path == path for fault, (_, problem) in zip(found, faults, strict=True)
    )


def test_a_symlink_has_no_syntax() -> None:
    assert layering.file_faults("global/x.toml", m.File(b"= =", m.SYMLINK)) == []


def test_unset_faults_have_key_paths() -> None:
    value = {"a": {"$unset": True}, "b": {"c": {"$unset": True, "d": 1}}, "l": [{"$unset": True}]}
    assert [key for key, _ in layering.unset_faults(value)] == [("b", "c", "$unset"), ("l", 0, "$unset")]
