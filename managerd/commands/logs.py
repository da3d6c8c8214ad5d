"""``managerd logs ls | cat | tail | grep | verify``: the archive's files, beside a running manager or without."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from jlogd import render
from jlogd.journal import Damage, Gap
from jlogd.journal.select import lost_tail
from jlogd.journal.survey import survey
from jlogd.journal.verify import Report, verify
from jlogd.runtime.arguments import RecordRange, format_time, range_options
from jlogd.runtime.errors import DamageError, JlogdError
from managerd.archive.layout import Log, begun_incarnations, list_logs, select_logs
from managerd.archive.pattern import compile_pattern
from managerd.archive.reading import OpenLog, Part, open_log
from managerd.archive.search import Search
from managerd.archive.tail import Follower
from managerd.commands.manager import settings_option
from managerd.settings import DEFAULT_PATH, load

GREP_ERROR = 2  # as grep: 0 found, 1 nothing found, 2 an error of any kind

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _GrepCommand(click.Command):
    """``-c`` is grep's count and everybody's settings file: the latter when a file, or a .toml's name, follows it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give the settings file its own word."""
        words = list(args)
        for at, word in enumerate(words[:-1]):
            if word == "--":
                break
            if word == "-c" and (Path(words[at + 1]).is_file() or words[at + 1].endswith(".toml")):
                words[at] = "--settings"
        return super().parse_args(ctx, words)


def _record_options(command: _Command) -> _Command:
    """The options that ``cat``, ``tail`` and ``grep`` share."""
    for option in reversed(
        (
            range_options,
            click.option(
                "--source", metavar="PATH", help="Only records of this file: its whole path, as 'jlogd status' has it."
            ),
            click.option("--incarnation", metavar="ID", help="One incarnation, not the main line; see 'logs ls'."),
            click.option("--raw", is_flag=True, help="The source's exact bytes; with several sources, use --source."),
            click.option("--json", "as_json", is_flag=True, help="One JSON object a record."),
        )
    ):
        command = option(command)
    return command


@click.group()
def logs() -> None:
    """List, read, follow, search and verify the archived logs.

    A log is NODE/JOURNAL; globs work, quoted: 'web*/*'.

    \b
    Examples:
      managerd logs ls
      managerd logs cat web1/app --since 2026-11-21T08:00:00Z --until 2026-11-21T09:00:00Z
      managerd logs tail 'web*/app'
      managerd logs grep -i 'timed? ?out' 'web*/*' --since 1h
    """


@logs.command("ls")
@settings_option
@render.json_option
def list_all(settings_path: Path, *, as_json: bool) -> int:
    """Every log with its incarnations. Exit 5 when one cannot be read.

    \b
    Examples:
      managerd logs ls
      managerd logs ls --json | jq -r '.logs[] | "\\(.node)/\\(.journal)"'
    """
    documents: list[dict[str, Any]] = []
    broken = False
    for log in list_logs(load(settings_path).manager.data):
        try:
            incarnations = _incarnation_documents(log)
        except DamageError as error:
            render.note_damage(f"damage: {log}: {error}", as_json=as_json)
            broken = True
            continue
        if incarnations:
            documents.append({"node": log.node, "journal": log.journal, "incarnations": incarnations})
    if as_json:
        render.print_json({"logs": documents})
    else:
        columns = ("log", "incarnation", "first", "end", "records", "size", "oldest", "newest", "gaps")
        rows = [
            (
                f"{log['node']}/{log['journal']}", item["id"][:13], item["first"], item["end"], item["records"],
                render.format_bytes(item["bytes"]), item["oldest"], item["newest"], item["gaps"],
            )
            for log in documents
            for item in log["incarnations"]
        ]  # fmt: skip
        render.print_table(columns, rows)
    return DamageError.exit_code if broken else 0


def _incarnation_documents(log: Log) -> list[dict[str, Any]]:
    documents = []
    for incarnation in begun_incarnations(log.path):
        with open_log(log, incarnation.name) as opened:
            reader = opened.parts[0].reader
            found = survey(reader)
            documents.append(
                {
                    "id": incarnation.name,
                    "first": reader.first,
                    "end": reader.end,
                    "bytes": found.bytes,
                    "records": found.records,
                    "oldest": format_time(found.oldest_ns),
                    "newest": format_time(found.newest_ns),
                    "gaps": found.gaps,
                }
            )
    return documents


@logs.command("cat")
@click.argument("patterns", metavar="NODE/JOURNAL...", nargs=-1, required=True)
@settings_option
@_record_options
def cat(
    *, patterns: tuple[str, ...], settings_path: Path, first: str | None, end: str | None, since: str | None,
    until: str | None, source: str | None, incarnation: str | None, raw: bool, as_json: bool,
) -> int:  # fmt: skip
    """Write the records of a log, one a line, oldest first.

    Gaps and damage are named on stderr; exit 5 when something is damaged.

    \b
    Examples:
      managerd logs cat web1/app --since 10m
      managerd logs cat web1/app --source /var/log/app.log --raw > app.log
      managerd logs cat 'web*/app' --from 1000 --to 2000 --json
    """
    wanted = RecordRange.parse(first, end, since, until, source)
    damage: list[Damage] = []
    chosen = select_logs(load(settings_path).manager.data, patterns)
    with render.stdout_bytes() as out:
        for log in chosen:
            with open_log(log, incarnation) as opened:
                for part in opened.parts:
                    _note_missing(opened, part)
                    low, high = part.range(wanted)
                    writer = _writer(out, part, render.mode_of(raw=raw, as_json=as_json))
                    damage += _copy(part, writer, wanted, low, high)
    return DamageError.exit_code if damage else 0


@logs.command("tail")
@click.argument("patterns", metavar="NODE/JOURNAL...", nargs=-1, required=True)
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=10, show_default=True, help="Begin with the last N records."
)
@click.option("--no-follow", is_flag=True, help="End after the last records.")
@settings_option
@_record_options
def tail(
    *, patterns: tuple[str, ...], lines: int, no_follow: bool, settings_path: Path, first: str | None, end: str | None,
    since: str | None, until: str | None, source: str | None, incarnation: str | None, raw: bool, as_json: bool,
) -> int:  # fmt: skip
    """Write the last records of each log, then more as they arrive, until Ctrl-C.

    Logs that begin later are not among them, also when a glob fits.

    \b
    Examples:
      managerd logs tail web1/app
      managerd logs tail -n 100 'web*/*' --json
    """
    wanted = RecordRange.parse(first, end, since, until, source)
    mode = render.mode_of(raw=raw, as_json=as_json)
    chosen = select_logs(load(settings_path).manager.data, patterns)
    followers = [Follower(log, wanted, lines, incarnation) for log in chosen]
    damage: list[Damage] = []
    shown: Log | None = None
    try:
        with render.stdout_bytes() as out:
            while True:
                for follower in followers:
                    for part, low, high in follower.news():
                        if len(chosen) > 1 and mode == "text" and shown != follower.log:
                            out.write(f"==> {follower.log} <==\n".encode())
                            shown = follower.log
                        writer = _writer(out, part, mode)
                        damage += render.copy_records(
                            part.reader, writer, wanted, first=low, end=high, where=str(part.log)
                        )
                out.flush()
                if no_follow or all(follower.done for follower in followers):
                    break
                time.sleep(render.FOLLOW_POLL_S)
    except KeyboardInterrupt:
        pass  # how a follower is meant to end
    finally:
        for follower in followers:
            follower.close()
    return DamageError.exit_code if damage else 0


@logs.command("grep", cls=_GrepCommand)
@click.option("-i", "--ignore-case", is_flag=True, help="Upper and lower case (ASCII) are the same.")
@click.option("-v", "--invert-match", "invert", is_flag=True, help="Records that do not match.")
@click.option("-F", "--fixed-strings", "fixed", is_flag=True, help="PATTERN is a string, not a regular expression.")
@click.option("-c", "--count", "count_only", is_flag=True, help="How many records match, for each log.")
@click.argument("pattern")
@click.argument("patterns", metavar="NODE/JOURNAL...", nargs=-1, required=True)
@click.option(
    "--settings",
    "settings_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=DEFAULT_PATH,
    show_default=True,
    help="The settings file; '-c FILE' as well.",
)
@_record_options
def grep(*, settings_path: Path, patterns: tuple[str, ...], **options: Any) -> int:
    """Write the records that match PATTERN (a Python regular expression).

    Exit 0: found; 1: nothing found; 2: an error, damage included. With several logs each
    line begins with its log. Pieces of a line longer than max_line are searched one by one.

    \b
    Examples:
      managerd logs grep -i 'connection (reset|refused)' 'web*/*' --since 1h
      managerd logs grep -F -c '[error]' web1/app
    """
    try:
        data = load(settings_path).manager.data
        return _grep(select_logs(data, patterns), options)
    except (JlogdError, OSError) as error:
        reason = error.reason if isinstance(error, JlogdError) else "storage"
        if options["as_json"]:
            render.note_error(reason, str(error))
        else:
            render.note(f"error: {error}")
        return GREP_ERROR


def _grep(chosen: list[Log], options: dict[str, Any]) -> int:
    wanted = RecordRange.parse(*(options[name] for name in ("first", "end", "since", "until", "source")))
    needle = options["pattern"].encode(errors="surrogateescape")
    matcher = compile_pattern(needle, ignore_case=options["ignore_case"], fixed=options["fixed"])
    search = Search(matcher, wanted, options["invert"])
    mode = render.mode_of(raw=options["raw"], as_json=options["as_json"])
    progress = render.Progress("searched")
    with render.stdout_bytes() as out:
        for log in chosen:
            label = f"{log}:".encode() if len(chosen) > 1 else b""
            before = search.found
            with open_log(log, options["incarnation"]) as opened:
                for part in opened.parts:
                    _note_missing(opened, part)
                    writer = None if options["count_only"] else _writer(out, part, mode, label)
                    search.run(
                        part,
                        on_hits=writer.write_slice if writer is not None else None,
                        on_gap=partial(_note_gap, log),
                        on_frame=progress.add,
                    )
                    if part.end is None and wanted.end is None:
                        search.damage += lost_tail(part.reader)
            if options["count_only"]:
                out.write(_count(log, search.found - before, label, as_json=options["as_json"]))
    progress.close()
    for item in search.damage:
        render.note_damage(render.damage_line(item), as_json=options["as_json"])
    return GREP_ERROR if search.damage else int(search.found == 0)


def _note_gap(log: Log, gap: Gap) -> None:
    render.note(render.gap_line(gap, str(log)))


def _count(log: Log, found: int, label: bytes, *, as_json: bool) -> bytes:
    if as_json:
        return render.json_line({"node": log.node, "journal": log.journal, "count": found})
    return b"%s%d\n" % (label, found)


@logs.command("verify")
@click.argument("patterns", metavar="[NODE/JOURNAL]...", nargs=-1)
@settings_option
@click.option("--incarnation", metavar="ID", help="Only this incarnation; see 'logs ls'.")
@render.json_option
def verify_logs(settings_path: Path, patterns: tuple[str, ...], incarnation: str | None, *, as_json: bool) -> int:
    """Read the whole archive, or the given logs with all incarnations, and prove it. Exit 5 on damage.

    \b
    Examples:
      managerd logs verify
      managerd logs verify 'web1/*' --json | jq .damage
    """
    data = load(settings_path).manager.data
    report = Report()
    progress = render.Progress("verifying")
    try:
        for log in select_logs(data, patterns) if patterns else list_logs(data):
            paths = [item.path for item in begun_incarnations(log.path)]
            if incarnation is not None:
                with open_log(log, incarnation) as opened:
                    paths = [part.incarnation.path for part in opened.parts]
            for path in paths:
                report.add(verify(path, on_frame=progress.add))
    finally:
        progress.close()
    return render.show_report(report, as_json=as_json)


def _copy(part: Part, writer: render.RecordWriter, wanted: RecordRange, low: int, high: int) -> list[Damage]:
    return render.copy_records(part.reader, writer, wanted, first=low, end=high, where=str(part.log))


def _writer(out: BinaryIO, part: Part, mode: render.Mode, prefix: bytes = b"") -> render.RecordWriter:
    labels = {"node": part.log.node, "journal": part.log.journal, "incarnation": part.incarnation.name}
    return render.RecordWriter(out, mode, labels, prefix)


def _note_missing(opened: OpenLog, part: Part) -> None:
    missing = opened.missing_before(part)
    if missing is not None:
        render.note(f"gap in {opened.log}: offsets {missing[0]} to {missing[1]} never came to this archive")
