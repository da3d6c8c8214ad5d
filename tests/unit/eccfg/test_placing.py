"""A value is put into a file with as little change as possible."""

import pytest

from jlogd.confrepo.formats import parse, split_key
from jlogd.runtime.errors import RefusedError
from managerd.eccfg.placing import place

TOML = b"# ours\nname = 'a' # why\n\n[db]\n# the database\nhost = 'x'\npassword = 'old'\n"


@pytest.mark.parametrize(
    ("kind", "before", "key", "after"),
    [
        ("toml", TOML, "db.password", TOML.replace(b"'old'", b'"new"')),
        ("toml", TOML, "db.token", TOML.replace(b"[db]\n", b'[db]\ntoken = "new"\n')),
        ("toml", TOML, "token", b'token = "new"\n' + TOML),
        ("yaml", b"# ours\na: 1\nb: 2 # c\n", "b", b'# ours\na: 1\nb: "new"\n'),
        ("yaml", b"# ours\na: 1\n", "b", b'# ours\na: 1\nb: "new"\n'),
        ("toml", b"", "a", b'a = "new"\n'),
    ],
)
def test_comments_and_order_stay(kind: str, before: bytes, key: str, after: bytes) -> None:
    """Only the line of the key is changed or added."""
    assert place(kind, before, split_key(key), "new") == (after, False)  # type: ignore[arg-type]


def test_what_cannot_be_done_in_place_is_written_anew() -> None:
    """The value is right all the same, and it is said that comments are gone."""
    changed, lost = place("toml", b"# c\na = { b = 1 }\n", ("a", "c"), "new")
    assert parse("toml", changed) == {"a": {"b": 1, "c": "new"}}
    assert lost


def test_a_scalar_is_no_map() -> None:
    """A key below a scalar is refused: the scalar would be lost."""
    with pytest.raises(RefusedError, match="no map"):
        place("json", b'{"a": 1}', ("a", "b"), "new")
