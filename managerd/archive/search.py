"""Searching a log frame by frame: a frame without a hit costs its checksums, its decompression and one search."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from jlogd.journal.frame import Framing
from jlogd.journal.model import Damage, Gap
from jlogd.journal.segment import FrameView
from jlogd.journal.select import Slice, frame_damage, is_damage_gap, slices
from jlogd.runtime.arguments import RecordRange
from jlogd.runtime.errors import DamageError
from managerd.archive.pattern import Matcher
from managerd.archive.reading import Part

OnHits = Callable[[FrameView, bytes, Slice], None]


@dataclass(slots=True)
class Search:
    """One search. ``found`` counts records, ``damage`` is what could not be read; both grow with each ``run``."""

    matcher: Matcher
    wanted: RecordRange
    invert: bool = False  # records that do not match
    found: int = 0
    damage: list[Damage] = field(default_factory=list)

    def run(
        self,
        part: Part,
        *,
        on_hits: OnHits | None = None,
        on_gap: Callable[[Gap], None] = lambda _: None,
        on_frame: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Search one part of a log. ``on_frame`` gets the raw bytes of each frame. OSError."""
        known = len(part.reader.damage)
        first, end = part.range(self.wanted)
        inside = replace(self.wanted, first=first, end=end)
        for view in part.reader.frames(first, end):
            gap = view.gap()
            if gap is None:
                self._frame(part, view, inside, on_hits)
                on_frame(view.header.raw_length)
            elif not is_damage_gap(part.reader, gap):
                on_gap(gap)
        self.damage += part.reader.damage[known:]

    def _frame(self, part: Part, view: FrameView, inside: RecordRange, on_hits: OnHits | None) -> None:
        try:
            body = view.body()
            if not self.invert and not self.matcher.may_match(body):
                return
            for piece in slices(view, body, inside):
                for hit in hits(view, body, piece, self.matcher, invert=self.invert):
                    self.found += hit.records
                    if on_hits is not None:
                        on_hits(view, body, hit)
        except DamageError as error:
            self.damage.append(frame_damage(part.reader, view, error))


def hits(view: FrameView, body: bytes, piece: Slice, matcher: Matcher, *, invert: bool) -> Iterator[Slice]:
    """The records of ``piece`` that match (or, inverted, that do not), as slices of one or more records."""
    if view.header.framing != Framing.LINES:
        yield from _record_hits(body, piece, matcher, invert=invert)
        return
    at, offset = piece.start, piece.first
    for start, stop in matcher.lines(body, piece.start, piece.end):
        skipped = body.count(b"\n", at, start)
        if invert and skipped:
            yield Slice(piece.run, offset, skipped, at, start)
        if not invert:
            yield Slice(piece.run, offset + skipped, 1, start, stop + 1)
        at, offset = stop + 1, offset + skipped + 1
    rest = piece.first + piece.records - offset
    if invert and rest:
        yield Slice(piece.run, offset, rest, at, piece.end)


def _record_hits(body: bytes, piece: Slice, matcher: Matcher, *, invert: bool) -> Iterator[Slice]:
    at = piece.start
    for offset in range(piece.first, piece.first + piece.records):
        begin = at + 4
        end = begin + int.from_bytes(body[at:begin], "little")
        if matcher.matches(body[begin:end]) != invert:
            yield Slice(piece.run, offset, 1, at, end)
        at = end
