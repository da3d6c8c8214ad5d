"""``jlogd journal ls | read | verify | repair``: a journal's files, whoever writes them."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import click

from jlogd import render
from jlogd.commands.agent import settings_option
from jlogd.journal import Damage, Reader, inspect
from jlogd.journal.repair import repair
from jlogd.journal.select import bounds
from jlogd.journal.verify import verify
from jlogd.runtime.arguments import RecordRange, range_options
from jlogd.runtime.clock import SYSTEM
from jlogd.runtime.errors import DamageError
from jlogd.settings import load
from jlogd.status import journals_directory, kept_journals

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def journal() -> None:
    """List, read, verify and repair journals.

    \b
    Examples:
      jlogd journal ls
      jlogd journal read /var/lib/jlogd/web1/journals/app --since 10m
      jlogd journal verify /var/lib/jlogd/web1/journals/app
    """


@journal.command("ls")
@settings_option
@render.json_option
def list_journals(settings_path: Path, *, as_json: bool) -> int:
    """The journals of this node. Exit 5 when one cannot be read.

    \b
    Examples:
      jlogd journal ls
      jlogd journal ls --json | jq -r '.journals[].dir'
    """
    settings = load(settings_path)
    directory = journals_directory(settings)
    views, broken = [], False
    for name in kept_journals(settings):
        try:
            views.append(inspect(directory / name, SYSTEM.wall_ns()))
        except DamageError as error:
            broken = True
            render.note_damage(f"damage: {error}", as_json=as_json)
    if as_json:
        documents = [
            {
                "name": view.name,
                "id": view.id,
                "dir": str(view.path),
                "first": view.first,
                "end": view.end,
                "bytes": view.bytes,
                "segments": view.segments,
            }
            for view in views
        ]
        render.print_json({"journals": documents})
    else:
        columns = ("journal", "first", "end", "size", "segments", "directory")
        rows = [(v.name, v.first, v.end, render.format_bytes(v.bytes), v.segments, v.path) for v in views]
        render.print_table(columns, rows)
    return DamageError.exit_code if broken else 0


@journal.command("read")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@range_options
@click.option("--source", metavar="PATH", help="Only records of this file: its whole path, as 'jlogd status' has it.")
@click.option("--follow", "-f", is_flag=True, help="Go on as records arrive, until Ctrl-C.")
@click.option("--raw", is_flag=True, help="The source's exact bytes; with several sources, use --source.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a record.")
def read(
    *, directory: Path, first: str | None, end: str | None, since: str | None, until: str | None,
    source: str | None, follow: bool, raw: bool, as_json: bool,
) -> int:  # fmt: skip
    """Write the records of the journal in DIR, one a line. Works beside a running agent.

    Gaps and damage are named on stderr; exit 5 when something is damaged.

    \b
    Examples:
      jlogd journal read /var/lib/jlogd/web1/journals/app --since 10m
      jlogd journal read /var/lib/jlogd/web1/journals/app --from 1000 --to 2000 --json
      jlogd journal read /var/lib/jlogd/web1/journals/app --source /var/log/app.log --raw > app.log
    """
    wanted = RecordRange.parse(first, end, since, until, source)
    damage: list[Damage] = []
    with Reader.open(directory) as reader, render.stdout_bytes() as out, _interruptible(follow=follow):
        writer = render.RecordWriter(out, render.mode_of(raw=raw, as_json=as_json))
        low, high = bounds(reader, wanted)
        damage += render.copy_records(reader, writer, wanted, first=low, end=high)
        while follow and not (wanted.end is not None and high >= wanted.end):
            writer.flush()
            time.sleep(render.FOLLOW_POLL_S)
            reader.refresh()
            low, high = high, max(high, min(reader.end, wanted.end or reader.end))
            if low < high:
                damage += render.copy_records(reader, writer, wanted, first=low, end=high)
    return DamageError.exit_code if damage else 0


@contextlib.contextmanager
def _interruptible(*, follow: bool) -> Iterator[None]:
    """Ctrl-C is how following ends, wherever it strikes."""
    try:
        yield
    except KeyboardInterrupt:
        if not follow:
            raise


@journal.command("verify")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@render.json_option
def verify_journal(directory: Path, *, as_json: bool) -> int:
    """Read everything in DIR and prove it: checksums, counts, chain, source positions. Exit 5 on damage.

    \b
    Example:
      jlogd journal verify /var/lib/jlogd/web1/journals/app
    """
    progress = render.Progress("verifying")
    try:
        report = verify(directory, on_frame=progress.add)
    finally:
        progress.close()
    return render.show_report(report, as_json=as_json)


@journal.command("repair")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@render.json_option
def repair_journal(directory: Path, *, as_json: bool) -> None:
    """Write damaged segments of the journal in DIR anew, with gaps for what is lost; originals are kept.

    Refuses (exit 4) while jlogd or managerd runs on it. Not needed for going on: readers step over damage.

    \b
    Example:
      systemctl stop jlogd && jlogd journal repair /var/lib/jlogd/web1/journals/app
    """
    done = repair(directory)
    if as_json:
        documents = [
            {
                "segment": str(item.segment),
                "original": str(item.original),
                "gaps": [render.gap_document(gap) for gap in item.gaps],
            }
            for item in done
        ]
        render.print_json({"repaired": documents})
        return
    for item in done:
        click.echo(f"{item.segment}: written anew, the damaged bytes are in {item.original.name}")
        for gap in item.gaps:
            click.echo(f"  {render.gap_line(gap)}")
    if not done:
        click.echo(f"{directory}: nothing is damaged")
