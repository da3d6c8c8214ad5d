"""Two settings documents as one: the boot file's, and the overlay's over it.

``[node]``, ``[tls]``, ``[config]`` and the first ``[[manager]]`` are always the boot file's. The overlay's further
``[[manager]]`` entries replace the boot file's; its ``[[tail]]`` entries come beside the boot file's, so that no
revision makes a node stop following what it was told to follow where it stands. Everything else merges key by key.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jlogd.runtime import settings as base
from jlogd.runtime import toml
from jlogd.runtime.settings import Parsed, Placed

BOOT_ONLY = frozenset({"node", "tls", "config"})


class Overlaid:
    """Two documents as one, with the file and line of each place."""

    def __init__(self, boot: Parsed, over: Parsed, directory: Path) -> None:
        """``directory``: of the overlay's relative paths."""
        self._boot, self._over = boot, over
        self._lists: dict[str, list[tuple[Parsed, int]]] = {}  # of each entry: its document, its number there
        self.tables = dict(boot.tables)
        for name, value in Placed.all(over.tables, directory).items():
            under = boot.tables.get(name, [])
            if name in _LISTS and isinstance(value, list) and isinstance(under, list):
                first = under[:1] if name == "manager" else under
                self.tables[name] = self._merge_list(name, first, value, _LISTS[name])
            elif name not in BOOT_ONLY:
                self.tables[name] = _merge(self.tables.get(name), value)

    def where(self, place: toml.Path) -> tuple[str, int, toml.Path]:
        """See ``base.Where``."""
        if len(place) > 1 and place[0] in self._lists and isinstance(place[1], int):
            document, number = self._lists[str(place[0])][place[1]]
            return document.where((place[0], number, *place[2:]))
        over = bool(place) and place[0] not in BOOT_ONLY and self._is_over(place)
        return (self._over if over else self._boot).where(place)

    def _is_over(self, place: toml.Path) -> bool:
        """Whether the overlay decides about what stands there: by a value, or by a list that replaces it whole."""
        over: Any = self._over.tables
        boot: Any = self._boot.tables
        for part in place:
            if not isinstance(over, dict):
                return True
            boot = boot.get(part) if isinstance(boot, dict) else None
            if part not in over:
                return boot is None
            over = over[part]
        return True

    def _merge_list(self, name: str, boot: list[Any], over: list[Any], same: Callable[[Any, Any], bool]) -> list[Any]:
        """The boot file's entries, then the overlay's others."""
        kept = [number for number, entry in enumerate(over) if not any(same(each, entry) for each in boot)]
        self._lists[name] = [(self._boot, number) for number in range(len(boot))]
        self._lists[name] += [(self._over, number) for number in kept]
        return boot + [over[number] for number in kept]


def _merge(under: Any, over: Any) -> Any:
    """Tables key by key; anything else is the overlay's."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {**under, **{key: _merge(under.get(key), value) for key, value in over.items()}}


def _same_manager(one: Any, other: Any) -> bool:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return False
    return any(key in one and one[key] == other.get(key) for key in ("subscriber", "address"))


def _same_tail(one: Any, other: Any) -> bool:
    """Whether both follow the same into the same: whoever brings a tail to the repository need not remove it here."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return False
    return all(one.get(key) == other.get(key) for key in ("journal", "paths"))


# Lists whose entries come from both files, and when an entry of the overlay is one that the boot file has.
_LISTS: dict[str, Callable[[Any, Any], bool]] = {"manager": _same_manager, "tail": _same_tail}


def without_effect(overlay: Path) -> list[str]:
    """Sections of the overlay that never count, one note for each. ``SettingsError``."""
    return [
        f"[{name}] of {overlay.name} has no effect: the boot file's counts"
        for name in base.read(overlay).tables
        if name in BOOT_ONLY
    ]
