"""Three-way merge of files: per key where they are structured, else per line.

Invariant: a change that only one side made is in the result, a change that both made differently is a conflict; nothing is
lost silently but the comments and the layout of one side, where no text holds both sides' keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from jlogd.confrepo import model as m
from jlogd.confrepo.formats import Kind

Lookup = Callable[[str], m.File | None]  # path → file


class _Absent:
    """A key that is not there, which differs from one that is null."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Merged:
    """The result, None = deleted; or the conflict, and then ``file`` is theirs."""

    file: m.File | None
    conflict: m.Conflict | None


def merge_file(path: str, base: m.File | None, mine: m.File | None, theirs: m.File | None) -> Merged:
    """One file. None = it is not there."""
    raise NotImplementedError


def merge_changes(
    mine: m.Changes, base: Lookup, theirs: Lookup, is_directory: Callable[[str], bool] | None = None
) -> tuple[dict[str, m.File | None], list[m.Conflict]]:
    """What is left to do on ``theirs`` so that it has the changes ``mine`` made to ``base``, and what cannot be merged.

    A path that is in conflict is not in the changes. ``is_directory`` tells whether theirs has files below a path.
    """
    raise NotImplementedError


def diff_keys(kind: Kind, old: bytes | None, new: bytes | None) -> list[tuple[tuple[str, ...], object, object]] | None:
    """Keys that differ, with both values (``ABSENT`` when not there); None when a side is no map. For display."""
    raise NotImplementedError
