"""Sizes, durations, names, addresses; every fault of a file at once, each with its line."""

from pathlib import Path
from typing import Annotated, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from jlogd.runtime.addresses import Address, parse_address
from jlogd.runtime.errors import SettingsError
from jlogd.runtime.names import NAME_RULE
from jlogd.runtime.settings import (
    DirPath,
    Document,
    Duration,
    ListOf,
    Name,
    Section,
    SizeRange,
    check_name,
    format_duration,
    format_size,
    load,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [(0, 0), (7, 7), ("64MiB", 64 << 20), ("1 KiB", 1024), ("0.5GiB", 1 << 29), ("3B", 3), ("2TiB", 2 << 40)],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", [-1, True, 1.5, "64", "64MB", "0.3B", "MiB", "-1MiB", "1MiB ", None, ["1MiB"]])
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError, match=r"not a (size|whole)"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [(0, 0), (1.5, 1.5), ("20ms", 0.02), ("10s", 10), ("1h", 3600), ("2d", 172800), ("0.5m", 30)]
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [-1, True, "10", "1y", "s", float("nan"), float("inf"), None])
def test_no_durations(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(0, 1 << 50))
def test_sizes_read_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**9).map(lambda number: number / 1000))
def test_durations_read_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a b", "a/b", "a" * 64, "ä", "a\n"])
def test_no_names(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        check_name(name)


def test_addresses() -> None:
    assert parse_address("h:1") == Address("h", 1)
    assert parse_address("[::1]:7440") == Address("::1", 7440)
    assert str(Address("::1", 7440)) == "[::1]:7440"
    assert all(parse_address(text).loopback for text in ("localhost:1", "127.3.0.1:1", "[::1]:1"))
    assert not any(parse_address(text).loopback for text in ("10.0.0.1:1", "h:1", "[fe80::1]:1"))


@pytest.mark.parametrize("text", ["", "h", ":1", "h:", "h:99999", "::1:5", "[::1]", "[zz]:1", "a b:1", 7, "h:1\n"])
def test_no_addresses(text: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_address(text)


class Fruit(Section):
    unavailable: ClassVar[frozenset[str]] = frozenset({"peel"})
    name: Name
    weight: Annotated[int, SizeRange(16, 1 << 20)] = 1024
    ripe: bool = False
    wait: Duration = 1.0


class Bowl(Document):
    unavailable: ClassVar[frozenset[str]] = frozenset({"lid"})
    place: DirPath = Path("/")
    fruit: Annotated[tuple[Fruit, ...], ListOf] = ()
    named: dict[Name, Fruit] = Field(default_factory=dict)


def faults_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "f.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(Bowl, path)
    return [fault.removeprefix(f"{tmp_path}/") for fault in caught.value.faults]


def test_five_faults_and_more_at_once(tmp_path: Path) -> None:
    text = """\
place = 5
[[fruit]]
name = "Pear"
weight = "1B"
rype = true
[[fruit]]
ripe = "yes"
peel = 1
wait = "soon"
[named.Big]
name = "x"
wieght = 3
[named.ok]
weight = 16
[lid]
[zzz]
"""
    assert faults_of(tmp_path, text) == [
        "f.toml:1: place: not a path: 5",
        "f.toml:3: fruit[0].name: not a name: 'Pear'; " + NAME_RULE,
        "f.toml:4: fruit[0].weight: must be 16B to 1MiB, not '1B'",
        "f.toml:5: fruit[0].rype: unknown key (did you mean 'ripe'?)",
        "f.toml:6: fruit[1].name: is required",
        "f.toml:7: fruit[1].ripe: must be boolean, not 'yes'",
        "f.toml:8: fruit[1].peel: is not available in this version",
        "f.toml:9: fruit[1].wait: not a duration: 'soon'; give seconds or a text such as \"10s\" (ms, s, m, h, d)",
        "f.toml:10: named.Big: not a name: 'Big'; " + NAME_RULE,
        "f.toml:12: named.Big.wieght: unknown key (did you mean 'weight'?)",
        "f.toml:13: named.ok.name: is required",
        "f.toml:15: lid: is not available in this version",
        "f.toml:16: zzz: unknown key",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = \n", "f.toml:1: file: not TOML: Invalid value (at line 1, column 5)"),
        ('x = 1\ny = """\n', "f.toml:2: file: not TOML: "),
        ("fruit = 3\n", "f.toml:1: fruit: must be an array, not 3"),
        ("fruit = [3]\n", "f.toml:1: fruit[0]: must be a table, not 3"),
        ("[fruit]\n", "f.toml:1: fruit: must be an array, not {}"),
    ],
)
def test_one_fault(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = faults_of(tmp_path, text)
    assert found.startswith(fault)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none.toml:1: file: cannot be read: No such file"):
        load(Bowl, tmp_path / "none.toml")
    (tmp_path / "latin1").write_bytes(b"a = 1\nb = '\xe4'\n")
    with pytest.raises(SettingsError, match="latin1:2: file: not UTF-8"):
        load(Bowl, tmp_path / "latin1")


def test_sound_settings_are_frozen_and_paths_absolute(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text('place = "a/../b"\n[[fruit]]\nname = "pear"\nweight = "1KiB"\n')
    bowl = load(Bowl, path)
    assert bowl.place == tmp_path / "b"
    assert bowl.fruit[0].weight == 1024
    with pytest.raises(ValueError, match="frozen"):
        bowl.fruit[0].weight = 3
