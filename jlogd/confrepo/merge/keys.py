"""Three-way merge of maps, key by key, and what differs between two of them.

Invariant: a key that only one side changed has that side's value, or is gone when that side removed it; lists and
scalars are changed as a whole, and so is a map with ``$unset``. Which side is which matters for the order of keys only.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from jlogd.confrepo import formats
from jlogd.confrepo import model as m
from jlogd.confrepo.formats import KeyPath, Kind, SyntaxFault


class _Absent:
    """A key that is not there, which differs from one that is null."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


def merge_maps(
    base: Mapping[Any, object], mine: Mapping[Any, object], theirs: Mapping[Any, object]
) -> tuple[dict[Any, object], list[KeyPath]]:
    """The merged map, in the order of theirs, then of mine; and the keys that both changed, which are theirs in it."""
    conflicts: list[KeyPath] = []
    return _maps(base, mine, theirs, (), conflicts), conflicts


def _maps(
    base: Mapping[Any, object],
    mine: Mapping[Any, object],
    theirs: Mapping[Any, object],
    place: KeyPath,
    conflicts: list[KeyPath],
) -> dict[Any, object]:
    merged: dict[Any, object] = {}
    for key in dict.fromkeys([*theirs, *mine]):
        sides = base.get(key, ABSENT), mine.get(key, ABSENT), theirs.get(key, ABSENT)
        value = _values(*sides, (*place, key), conflicts)
        if value is not ABSENT:
            merged[key] = value
    return merged


def _values(base: object, mine: object, theirs: object, place: KeyPath, conflicts: list[KeyPath]) -> object:
    if formats.same(mine, theirs) or formats.same(mine, base):
        return theirs
    if formats.same(theirs, base):
        return mine
    if _is_map(mine) and _is_map(theirs):
        return _maps(base if _is_map(base) else {}, mine, theirs, place, conflicts)  # type: ignore[arg-type]
    conflicts.append(place)
    return theirs


def _is_map(value: object) -> bool:
    return isinstance(value, dict) and m.UNSET_KEY not in value


# ---------------------------------------------------------------------- two maps


def diff_keys(kind: Kind, old: bytes | None, new: bytes | None) -> list[tuple[tuple[str, ...], object, object]] | None:
    """Keys that differ, with both values (``ABSENT`` when not there); None when a side is no map. For display."""
    try:
        before, after = ({} if side is None else formats.parse(kind, side) for side in (old, new))
    except SyntaxFault:
        return None
    if not isinstance(before, dict) or not isinstance(after, dict):
        return None
    return list(_differences(before, after, ()))


def _differences(old: object, new: object, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object, object]]:
    """Inner maps are followed where one side has a map and the other a map or nothing."""
    before, after = _inner(old), _inner(new)
    if before is None or after is None or (place and not before and not after):
        if not formats.same(old, new):
            yield place, old, new
        return
    for key in dict.fromkeys([*before, *after]):
        yield from _differences(before.get(key, ABSENT), after.get(key, ABSENT), (*place, str(key)))


def _inner(value: object) -> dict[Any, object] | None:
    if value is ABSENT:
        return {}
    return value if isinstance(value, dict) else None
