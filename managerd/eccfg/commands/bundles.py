"""``eccfg export | import``: the whole history as a git bundle, for backups and for moving to another fleet."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from jlogd.render import Progress, format_bytes, json_option, print_json, stdout_bytes
from jlogd.runtime.errors import ConflictError, StorageError, UsageError
from jlogd.runtime.fs import FileSystem
from managerd.eccfg.connection import Connection, pass_connection
from managerd.eccfg.outcome import short

PIECE_BYTES = 1 << 20


@click.command("export")
@click.argument("file", metavar="FILE")
@click.option("--revision", metavar="REV", default="", help="The history up to REV instead of HEAD.")
@click.option("--force", is_flag=True, help="Replace FILE when it exists.")
@json_option
@pass_connection
def export_(connection: Connection, *, file: str, revision: str, force: bool, as_json: bool) -> None:
    """Write the history to FILE ("-": stdout) as a git bundle: 'git clone FILE' reads it.

    Secrets stay encrypted. Needs the right to read everything. FILE is there when it is whole, or not at all.

    \b
    Examples:
      eccfg export fleet.bundle
      git clone -b main fleet.bundle fleet-history
      eccfg export - | ssh backup 'cat > fleet.bundle'
    """
    with connection.connect() as client:
        content = client.export(revision)
        if file == "-":
            with stdout_bytes() as out:
                out.writelines(content)
            return
        target = Path(file)
        if target.exists() and not force:
            raise ConflictError(f"{target} exists: choose another name, or use --force")
        size = _write(content, target, connection.fs)
    if as_json:
        print_json({"file": str(target), "bytes": size})
    else:
        click.echo(f"{target}: {format_bytes(size)}")


def _write(content: Iterator[bytes], target: Path, fs: FileSystem) -> int:
    """Beside the target first, renamed when it is on the disk. StorageError."""
    beside = target.with_name(f".{target.name}.new")
    progress, size = Progress("exported"), 0
    try:
        fs.unlink(beside, missing_ok=True)
        with fs.create(beside) as file:
            for piece in content:
                file.pwrite([piece], size)
                size += len(piece)
                progress.add(len(piece))
            file.datasync()
        fs.rename(beside, target)
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror or error}") from error
    finally:
        progress.close()
        with contextlib.suppress(OSError):
            fs.unlink(beside, missing_ok=True)
    return size


@click.command("import")
@click.argument("file", metavar="FILE")
@json_option
@pass_connection
def import_(connection: Connection, *, file: str, as_json: bool) -> None:
    """Take the history of a git bundle: into an empty repository, or where it continues the one that is there.

    Every revision keeps its id. Needs the right to commit everything; the result is validated as a commit is.

    \b
    Examples:
      eccfg import fleet.bundle
      eccfg --manager new1:7440 import fleet.bundle
    """
    with _opened(file) as source, connection.connect() as client:
        answer = client.import_bundle(_pieces(source))
    if as_json:
        print_json({"revision": answer.head.revision, "id": answer.head.id, "added": answer.added})
    else:
        click.echo(f"{short(answer.head)}: {answer.added} revision{'s' if answer.added != 1 else ''} added")


def _opened(file: str) -> BinaryIO:
    """Before the call begins: a file that is not there is the person's fault, not the manager's. UsageError."""
    if file == "-":
        return sys.stdin.buffer
    try:
        source = Path(file).open("rb")  # noqa: SIM115 - the caller's to close
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from error
    return source


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    progress = Progress("imported")
    try:
        while piece := source.read(PIECE_BYTES):
            progress.add(len(piece))
            yield piece
    finally:
        progress.close()
