"""Does an archive hold what was written? Byte for byte, per source and generation, in order.

``extract`` turns a journal into one file per (source, generation), checking on the way that positions
go on without a hole; ``compare_source`` sets these files against a writer's truth. Late lines of an
old generation may stand between lines of the next one, so order is checked inside generations.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jlogd.journal import Gap, Reader, Run, RunFlags
from tests.support import lines

_CHUNK = 1 << 20
_AROUND = 80  # bytes shown on either side of a difference


@dataclass(slots=True)
class Extract:
    """What a journal holds, as files: ``generations[source][generation]``, and all that should not be there."""

    directory: Path
    generations: dict[str, dict[int, Path]] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    records: int = 0
    raw_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of one source, as the source had them; ``first`` is where they stood in it."""

    source: str
    generation: int
    first: int
    text: bytes


def pieces(journal: Path, gaps: list[Gap], faults: list[str]) -> Iterator[Piece]:
    """The source bytes of a journal in offset order; gaps and damage are added to the lists."""
    with Reader.open(journal) as reader:
        expected = 0
        for view in reader.frames(0):
            header = view.header
            if header.first_offset != expected:
                faults.append(f"{journal}: offset {header.first_offset} follows {expected}")
            expected = header.end
            gap = view.gap()
            if gap is not None:
                gaps.append(gap)
                continue
            body = view.body()
            at = 0
            for run in view.runs():
                text = _source_bytes(run, body[at : at + run.raw_length])
                at += run.raw_length
                yield Piece(run.source.decode(errors="surrogateescape"), run.generation, run.position - len(text), text)
        faults.extend(f"{damage.file}: {damage.reason} at {damage.position}" for damage in reader.damage)


def _source_bytes(run: Run, body: bytes) -> bytes:
    """Without the newlines that are ours: pieces of a long line and unfinished lines have none of their own."""
    return body.replace(b"\n", b"") if run.flags & (RunFlags.CONTINUED | RunFlags.NO_NEWLINE) else body


def extract(journal: Path, directory: Path, *, contiguous: bool = True) -> Extract:
    """Write what ``journal`` holds below ``directory``; ``contiguous``: a position that jumps is a fault."""
    directory.mkdir(parents=True, exist_ok=True)
    found = Extract(directory)
    ends: dict[tuple[str, int], int] = {}
    files = {}
    try:
        for piece in pieces(journal, found.gaps, found.faults):
            key = (piece.source, piece.generation)
            if key not in files:
                path = directory / f"{Path(piece.source).name}.{piece.generation:04d}"
                found.generations.setdefault(piece.source, {})[piece.generation] = path
                files[key] = path.open("wb")
            if contiguous and piece.first != ends.get(key, 0):
                found.faults.append(
                    f"{piece.source} generation {piece.generation}: bytes from {piece.first} follow {ends.get(key, 0)}"
                )
            ends[key] = piece.first + len(piece.text)
            files[key].write(piece.text)
            found.raw_bytes += len(piece.text)
            found.records += piece.text.count(b"\n")
    finally:
        for file in files.values():
            file.close()
    return found


def truth_generations(truth: Path) -> list[Path]:
    """A writer's generations that are not empty, oldest first."""
    return [path for path in sorted(truth.glob("[0-9][0-9][0-9][0-9]")) if path.stat().st_size]


def compare_source(found: Extract, source: Path, truth: Path) -> list[str]:
    """Every difference between what was archived of ``source`` and what its writer wrote; empty when none."""
    archived = found.generations.get(str(source), {})
    have = [archived[generation] for generation in sorted(archived) if archived[generation].stat().st_size]
    want = truth_generations(truth)
    faults = []
    if len(have) != len(want):
        faults.append(f"{source}: {len(have)} generations archived, {len(want)} written")
    for got, written in zip(have, want, strict=False):
        difference = first_difference(got, written)
        if difference:
            faults.append(f"{source}: archived {got} differs from written {written}: {difference}")
    return faults


def first_difference(got: Path, want: Path, length: int | None = None) -> str:
    """Empty when the files are equal (in their first ``length`` bytes, when given); else where and how they differ."""
    position = 0
    with got.open("rb") as left, want.open("rb") as right:
        while True:
            count = _CHUNK if length is None else min(_CHUNK, length - position)
            a, b = left.read(count), right.read(count)
            if a != b:
                same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
                return _describe(got, want, position + same)
            if not a:
                return ""
            position += len(a)


def _describe(got: Path, want: Path, position: int) -> str:
    with got.open("rb") as left, want.open("rb") as right:
        shown = []
        for name, file in (("archive", left), ("written", right)):
            file.seek(max(position - _AROUND, 0))
            before = file.read(min(position, _AROUND))
            after = file.read(_AROUND)
            there = repr(after) if after else "ends here"
            shown.append(f"  {name}: …{before!r} >>> {there}…")
    sizes = f"{got.stat().st_size} bytes archived, {want.stat().st_size} written"
    return f"first difference at byte {position} ({sizes})\n" + "\n".join(shown)


def compare_after_cuts(found: Extract, source: Path, truth: Path) -> list[str]:
    """As ``compare_source`` when power cuts took bytes from the source itself.

    With lines told apart by their numbers: (1) every line that the source still has stands exactly
    once and in its order, (2) a line that a cut took stands at most once, whole, (3) nothing else stands.
    """
    archived = found.generations.get(str(source), {})
    have = [line for generation in sorted(archived) for line in _lines(archived[generation])]
    want = [line for path in truth_generations(truth) for line in _lines(path)]
    written = set(_lines(truth / "written"))
    return _judge(source, have, want, written)


def _lines(path: Path) -> list[bytes]:
    """Each with its newline, the last one perhaps without (``bytes.splitlines`` would split at carriage returns)."""
    *whole, rest = path.read_bytes().split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def _judge(source: Path, have: list[bytes], want: list[bytes], written: set[bytes]) -> list[str]:
    still = set(want)
    taken = [line for line in have if line not in still]
    kept = [line for line in have if line in still]
    faults = [f"{source}: not a line of the source: {line!r}" for line in taken if line not in written]
    faults += [f"{source}: line {lines.number(a)} stands twice" for a, b in _repeats(taken + kept)]
    if kept != want:
        at = next((i for i, (a, b) in enumerate(zip(kept, want, strict=False)) if a != b), min(len(kept), len(want)))
        expected, got = want[at : at + 1], kept[at : at + 1]
        faults.append(f"{source}: line {at} of {len(want)} in the source is {expected}, the archive has {got}")
    return faults


def _repeats(all_lines: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    ordered = sorted(all_lines)
    return ((a, b) for a, b in itertools.pairwise(ordered) if a == b)


def compare_whole(journal: Path, source: Path) -> str:
    """Empty when ``journal`` holds exactly ``source``, one generation, no gap; else the first difference."""
    gaps: list[Gap] = []
    faults: list[str] = []
    position = 0
    with source.open("rb") as file:
        for piece in pieces(journal, gaps, faults):
            if piece.first != position or file.read(len(piece.text)) != piece.text:
                return f"{journal}: the bytes from {position} on are not those of {source} (piece at {piece.first})"
            position += len(piece.text)
        if file.read(1):
            return f"{journal}: ends at byte {position} of {source.stat().st_size}"
    return "; ".join(faults + [str(gap) for gap in gaps])
