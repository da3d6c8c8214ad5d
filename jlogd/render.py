"""What people and scripts see: records as text, exact bytes or JSON; tables; gaps and damage.

Records go to stdout and nothing else does. Gaps and damage are one line each on
stderr; damage decides the exit code (5), a gap does not. Text and raw output copy
blocks of lines; only JSON touches single records.
"""

import base64
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, Literal

import click

from jlogd.journal.frame import Framing
from jlogd.journal.model import Damage, Gap, GapKind, RunFlags
from jlogd.journal.reader import Reader
from jlogd.journal.segment import FrameView
from jlogd.journal.select import Slice, frame_damage, is_damage_gap, lost_tail, slice_records, slices
from jlogd.journal.verify import Report
from jlogd.runtime import command
from jlogd.runtime.arguments import RecordRange, format_time
from jlogd.runtime.errors import DamageError, UsageError

FOLLOW_POLL_S = 0.2  # a reader in another process looks at the writer's mark this often

Mode = Literal["text", "raw", "json"]

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")

printable = command.printable
_STEERING = re.compile("[\x80-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")  # C1 controls, directions, line ends
_FLAG_WORDS = ((RunFlags.CONTINUED, "continued"), (RunFlags.NO_NEWLINE, "no_newline"))


class RecordWriter:
    """Writes selected records to a byte stream in one mode; ``labels`` are added to each JSON object."""

    def __init__(self, out: BinaryIO, mode: Mode, labels: Mapping[str, Any] | None = None, prefix: bytes = b"") -> None:
        """Write to ``out``; ``prefix`` begins each line of text."""
        self.mode = mode
        self._labels = dict(labels or {})
        self._prefix = prefix if mode == "text" else b""
        self._out = out

    def write_slice(self, view: FrameView, body: bytes, part: Slice) -> None:
        """All records of ``part``. DamageError, OSError."""
        if self.mode == "json":
            records = slice_records(view, body, part)
            self._out.writelines(
                self._object(part.first + i, view.header.read_max_ns, part, record) for i, record in enumerate(records)
            )
        elif view.header.framing == Framing.LINES:
            self._write_lines(memoryview(body)[part.start : part.end], part.run.flags)
        else:
            self._out.writelines(self._prefix + record + b"\n" for record in slice_records(view, body, part))

    def write_gap(self, view: FrameView) -> None:
        """A gap as one JSON object; in the other modes stdout gets nothing."""
        gap = view.gap()
        if self.mode == "json" and gap is not None:
            header = view.header
            document = {
                **self._labels,
                "offset": header.first_offset,
                "time": format_time(header.read_max_ns),
                "source": decode_path(gap.source) if gap.source else None,
                "text": None,
                "flags": ["gap"],
                "gap": gap_document(gap),
            }
            self._out.write(json_line(document))

    def flush(self) -> None:
        """Hand everything to the kernel."""
        self._out.flush()

    def _write_lines(self, lines: memoryview, flags: RunFlags) -> None:
        if self.mode == "raw" and flags & (RunFlags.CONTINUED | RunFlags.NO_NEWLINE):
            self._out.write(bytes(lines).replace(b"\n", b""))  # these newlines are ours, not the source's
        elif self._prefix:
            self._out.write(self._prefix + bytes(lines[:-1]).replace(b"\n", b"\n" + self._prefix) + b"\n")
        else:
            self._out.write(lines)

    def _object(self, offset: int, time_ns: int, part: Slice, record: bytes) -> bytes:
        document: dict[str, Any] = {
            **self._labels,
            "offset": offset,
            "time": format_time(time_ns),
            "source": decode_path(part.run.source) if part.run.source else None,
        }
        try:
            document["text"] = record.decode()
        except UnicodeDecodeError:
            document["base64"] = base64.b64encode(record).decode()
        document["flags"] = [word for flag, word in _FLAG_WORDS if part.run.flags & flag]
        return json_line(document)


def copy_records(
    reader: Reader, writer: RecordWriter, wanted: RecordRange, *, first: int, end: int | None = None, where: str = ""
) -> list[Damage]:
    """Write the wanted records of ``[first, end)``; gaps and damage go to stderr. Returns the damage. OSError.

    In JSON a gap is an object of the stream, and stderr holds errors only.
    """
    known = len(reader.damage)
    damage: list[Damage] = []
    inside = replace(wanted, first=first, end=end)
    for view in reader.frames(first, end):
        gap = view.gap()
        if gap is not None:
            writer.write_gap(view)
            if writer.mode != "json" and not is_damage_gap(reader, gap) and _concerns(gap, wanted):
                note(gap_line(gap, where))
            continue
        try:
            body = view.body()
            for part in slices(view, body, inside):
                writer.write_slice(view, body, part)
        except DamageError as error:
            damage.append(frame_damage(reader, view, error))
    damage = reader.damage[known:] + damage
    if end is None or end >= reader.end:
        damage += lost_tail(reader)
    for item in damage:
        note_damage(damage_line(item), as_json=writer.mode == "json")
    return damage


def _concerns(gap: Gap, wanted: RecordRange) -> bool:
    return wanted.source is None or gap.kind is GapKind.OFFSETS or gap.source == wanted.source


def gap_line(gap: Gap, where: str = "") -> str:
    """A gap for people."""
    prefix = f"gap in {where}: " if where else "gap: "
    if gap.kind is GapKind.OFFSETS:
        return printable(f"{prefix}offsets {gap.first} to {gap.end} are not here: {gap.reason}")
    return printable(f"{prefix}{decode_path(gap.source)}, bytes {gap.first} to {gap.end} were gone: {gap.reason}")


def damage_line(damage: Damage) -> str:
    """Damage for people."""
    return (
        f"damage: {damage.file} at byte {damage.position}: {damage.reason} "
        f"(offsets {damage.first} to {damage.end} cannot be read)"
    )


def gap_document(gap: Gap) -> dict[str, Any]:
    """A gap for scripts."""
    return {
        "kind": gap.kind.value,
        "first": gap.first,
        "end": gap.end,
        "lost_records": gap.lost_records,
        "lost_bytes": gap.lost_bytes,
        "reason": gap.reason,
    }


def damage_document(damage: Damage) -> dict[str, Any]:
    """Damage for scripts."""
    names = ("file", "position", "first", "end", "reason")
    return {name: getattr(damage, name) for name in names}


def decode_path(path: bytes) -> str:
    """A path as text; bytes that are not UTF-8 are escaped."""
    return path.decode(errors="backslashreplace")


def mode_of(*, raw: bool, as_json: bool) -> Mode:
    """The mode that the flags ask for. UsageError when they contradict."""
    if raw and as_json:
        raise UsageError("--raw and --json cannot both be: choose one")
    return "raw" if raw else "json" if as_json else "text"


def json_line(document: Mapping[str, Any]) -> bytes:
    """One JSON object and a newline."""
    return _json_text(document, (",", ":")).encode(errors="backslashreplace") + b"\n"


def note(text: str) -> None:
    """One line on stderr."""
    click.echo(text, err=True)


def note_damage(text: str, *, as_json: bool) -> None:
    """Damage on stderr: one line, or one JSON document."""
    if as_json:
        note_error(DamageError.reason, text)
    else:
        note(text)


def note_error(reason: str, message: str) -> None:
    """An error for scripts, on stderr."""
    click.echo(json.dumps({"error": {"reason": reason, "message": message}}), err=True)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout; ``schema`` is added."""
    click.echo(_json_text({"schema": 1, **document}, (", ", ": ")))


def _json_text(document: Mapping[str, Any], separators: tuple[str, str]) -> str:
    """JSON in which no character steers a terminal: JSON itself escapes the ASCII ones only."""
    text = json.dumps(document, ensure_ascii=False, separators=separators)
    return text if text.isascii() else _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: drawn by rich on a terminal, plain aligned columns elsewhere. Numbers stand right."""
    cells = [["-" if value is None else printable(str(value)) for value in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int) or row[i] is None for row in rows) for i in range(len(columns))]
    if sys.stdout.isatty():
        # rich takes 0.1 s to import, and only people at a terminal want it
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, header_style="bold", pad_edge=False)
        for i, column in enumerate(columns):
            table.add_column(column, justify="right" if right[i] else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        padded = (c.rjust(w) if right[i] else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        click.echo("  ".join(padded).rstrip())


def format_bytes(size: int | None) -> str | None:
    """A size for people, about three digits."""
    if size is None:
        return None
    scaled, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if scaled < 1024:
            break
        scaled, unit = scaled / 1024, larger
    return f"{size} B" if unit == "B" else f"{scaled:.1f} {unit}"


def show_report(report: Report, *, as_json: bool) -> int:
    """Print what verification found; returns the exit code."""
    if as_json:
        document: dict[str, Any] = {
            "ok": report.ok,
            "frames": report.frames,
            "records": report.records,
            "gaps": [{"dir": str(path), **gap_document(gap)} for path, gap in report.gaps],
            "damage": [damage_document(item) for item in report.damage],
        }
        print_json(document)
    else:
        for path, gap in report.gaps:
            click.echo(f"{path}: {gap_line(gap)}")
        sys.stdout.flush()
        for item in report.damage:
            note(damage_line(item))
        state = "all sound" if report.ok else f"{len(report.damage)} places are damaged"
        click.echo(f"{report.frames} frames, {report.records} records, {len(report.gaps)} gaps: {state}")
    return 0 if report.ok else DamageError.exit_code


class Progress:
    """One line on stderr that says how far a long job is; nothing when stderr is not a terminal."""

    def __init__(self, what: str) -> None:
        """``what`` begins the line."""
        self._what = what
        self._shown = False
        self._bytes = 0
        self._next = 0

    def add(self, count: int) -> None:
        """``count`` more bytes are done."""
        self._bytes += count
        if self._bytes >= self._next and sys.stderr.isatty():
            self._next = self._bytes + (64 << 20)
            self._shown = True
            click.echo(f"\r{self._what}: {self._bytes >> 20} MiB", err=True, nl=False)

    def close(self) -> None:
        """Wipe the line."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)


@contextlib.contextmanager
def stdout_bytes() -> Iterator[BinaryIO]:
    """Stdout as a byte stream. When its reader goes away (``| head``), the command ends quietly with 0."""
    out = sys.stdout.buffer
    try:
        yield out
        out.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            # whatever Python still flushes at exit must have somewhere to go
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
