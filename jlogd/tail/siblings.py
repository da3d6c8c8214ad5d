"""Names of rotated generations: which path they belong to and in which order they came.

Styles, each optionally with ``.gz``, ``.zst``, ``.xz`` or ``.bz2``::

    numbered    app.log.1        app.1.log (logrotate "extension")
    dated       app.log-20260101  app.log-20260101-1200  app.log.2026-01-01  app-20260101.log  app.2026-01-01_12.log

Pure: names in, verdicts out.
"""

import re
from dataclasses import dataclass
from typing import Literal

COMPRESSED = {b".gz": "gz", b".zst": "zst", b".xz": "xz", b".bz2": "bz2"}
Compression = Literal["gz", "zst", "xz", "bz2"]

_DATE = rb"(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{10})(?:[-_.T]?\d{2,6}(?:[-:]\d{2}){0,2})?(?:[-.]\d{1,10})?"
_DATED_END = re.compile(rb"^(?P<base>.+?)[-._](?P<date>" + _DATE + rb")$", re.DOTALL)
_DATED_INSIDE = re.compile(rb"^(?P<stem>.+?)[-._](?P<date>" + _DATE + rb")(?P<ext>\.[A-Za-z][A-Za-z0-9]*)$", re.DOTALL)
_NUMBER_END = re.compile(rb"^(?P<base>.+)\.(?P<number>\d{1,6})$", re.DOTALL)
_NUMBER_INSIDE = re.compile(rb"^(?P<stem>.+)[.-](?P<number>\d{1,6})(?P<ext>\.[A-Za-z][A-Za-z0-9]*)$", re.DOTALL)

Style = Literal["number", "date"]


@dataclass(frozen=True, slots=True)
class RotatedName:
    """One reading of a file name as a rotated generation of ``base`` (names without directory)."""

    base: bytes
    slot: bytes  # the name without its compression suffix: a plain file and its compressed form share it
    style: Style
    rank: int  # number: 1 is the newest; date: its digits, the largest is the newest
    compression: Compression | None
    certain: bool  # a trailing number after the whole name; the other styles need their base to be known


def split_compression(name: bytes) -> tuple[bytes, Compression | None]:
    """``app.log.1.gz`` → (``app.log.1``, ``gz``)."""
    for suffix, kind in COMPRESSED.items():
        if name.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], kind  # type: ignore[return-value]  # the table's values are the literal's
    return name, None


def readings(name: bytes) -> list[RotatedName]:
    """Every way to read ``name`` as a rotated generation; usually none or one."""
    slot, compression = split_compression(name)
    found = []
    if match := _NUMBER_END.match(slot):
        found.append(RotatedName(match["base"], slot, "number", int(match["number"]), compression, certain=True))
    if match := _DATED_END.match(slot):
        found.append(RotatedName(match["base"], slot, "date", _date_rank(match["date"]), compression, certain=False))
    if match := _DATED_INSIDE.match(slot):
        base = match["stem"] + match["ext"]
        found.append(RotatedName(base, slot, "date", _date_rank(match["date"]), compression, certain=False))
    if match := _NUMBER_INSIDE.match(slot):
        base = match["stem"] + match["ext"]
        found.append(RotatedName(base, slot, "number", int(match["number"]), compression, certain=False))
    if compression and not found:  # app.log.gz: compressed in place
        found.append(RotatedName(slot, slot, "number", 0, compression, certain=False))
    return found


def reading_of(name: bytes, base: bytes) -> RotatedName | None:
    """``name`` read as a rotated generation of ``base``, or None."""
    return next((reading for reading in readings(name) if reading.base == base), None)


def _date_rank(date: bytes) -> int:
    """Digits of the date, padded so that ``20260101`` < ``20260101-12`` < ``20260102``."""
    digits = re.sub(rb"\D", b"", date)[:24]
    return int(digits.ljust(24, b"0"))


def newest_first(found: list[tuple[RotatedName, int]]) -> list[int]:
    """Indices of ``(name, mtime_ns)`` pairs ordered newest → oldest.

    One style: by its number or date, the modification time breaks ties. Mixed
    styles have no common scale: by modification time alone.
    """
    styles = {name.style for name, _ in found}

    def key(index: int) -> tuple[int, int, bytes]:
        name, mtime_ns = found[index]
        if len(styles) > 1:
            return (0, -mtime_ns, name.slot)
        return (name.rank if name.style == "number" else -name.rank, -mtime_ns, name.slot)

    return sorted(range(len(found)), key=key)
