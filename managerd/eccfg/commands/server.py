"""``eccfg put | delete | copy | overlay | revert | rollback``: on the server, one revision each, no working copy."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from jlogd.confrepo import model as m
from jlogd.runtime.errors import UsageError
from managerd.eccfg import outcome
from managerd.eccfg.client import Edit
from managerd.eccfg.commands.committing import committing_options
from managerd.eccfg.connection import Connection, pass_connection
from managerd.eccfg.files import read_file, scan_directory, seen_of
from managerd.v1 import config_pb2 as pb

base_option = click.option(
    "--base",
    metavar="REV",
    default="",
    help="The revision that you have seen: what changed since is merged, or refused.",
)


def server_path(word: str) -> str:
    """A path in the repository as people type it: a slash at its end or beginning is no part of it. UsageError."""
    path = word.strip("/").removeprefix("./")
    if not path or path == ".":
        raise UsageError("the whole repository cannot be named: name a file or directory in it")
    return path


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@committing_options()
@base_option
@pass_connection
def put(connection: Connection, source: str, target: str, message: str, base: str, *, sign: bool, as_json: bool) -> int:
    """Put a local file, or a directory with everything in it, to DST in the repository.

    SRC - is stdin. With a / at its end DST is the directory to put it in. Nothing is committed when nothing differs.

    \b
    Examples:
      eccfg put app.toml web/web1/app.toml -m "Settings of web1"
      eccfg put conf/ web/default -m "As on the old machine"
      generate | eccfg put - global/hosts -m "Hosts of today"
    """
    edits = list(put_edits(source, target, connection.directory))
    return _commit(connection, edits, message, base, sign=sign, as_json=as_json)


def put_edits(source: str, target: str, directory: Path) -> Iterator[Edit]:
    """What puts ``source`` to ``target``. UsageError, OSError."""
    path = server_path(target)
    if source == "-":
        if target.endswith("/"):
            raise UsageError("stdin has no name: give DST as a file")
        yield Edit.put(path, m.REGULAR, sys.stdin.buffer.read(m.FILE_BYTES_MAX + 1))
        return
    place = directory / source
    if not place.exists() and not place.is_symlink():
        raise UsageError(f"{place} is not there")
    if place.is_dir() and not place.is_symlink():
        for inner in scan_directory(place).files:
            yield _edit(place / inner, f"{path}/{inner}")
    else:
        yield _edit(place, f"{path}/{place.name}" if target.endswith("/") else path)


def _edit(place: Path, path: str) -> Edit:
    found = seen_of(place.lstat())
    if found.mode == 0 or found.size > m.FILE_BYTES_MAX:
        read_file(place, str(place))  # says what is wrong with it
    return Edit.put_later(path, found.mode, found.size, lambda: read_file(place, str(place)).content)


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@committing_options()
@base_option
@pass_connection
def delete(
    connection: Connection, paths: tuple[str, ...], message: str, base: str, *, sign: bool, as_json: bool
) -> int:
    """Delete files or whole directories in the repository.

    \b
    Example:
      eccfg delete web/web9 -m "web9 is gone"
    """
    edits = [Edit.delete(server_path(path)) for path in paths]
    return _commit(connection, edits, message, base, sign=sign, as_json=as_json)


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@committing_options()
@base_option
@pass_connection
def copy(
    connection: Connection, source: str, target: str, message: str, base: str, *, sign: bool, as_json: bool
) -> int:
    """Replace DST by a copy of SRC, both in the repository; what was only in DST goes.

    \b
    Example:
      eccfg copy web/web1 web/web2 -m "web2 as web1"
    """
    edits = [copy_edit(source, target, overlay=False)]
    return _commit(connection, edits, message, base, sign=sign, as_json=as_json)


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@committing_options()
@base_option
@pass_connection
def overlay(
    connection: Connection, source: str, target: str, message: str, base: str, *, sign: bool, as_json: bool
) -> int:
    """Copy SRC over DST, both in the repository; what is only in DST stays.

    \b
    Example:
      eccfg overlay test/default web/default -m "What was tested"
    """
    edits = [copy_edit(source, target, overlay=True)]
    return _commit(connection, edits, message, base, sign=sign, as_json=as_json)


def copy_edit(source: str, target: str, *, overlay: bool) -> Edit:
    """One copy inside the repository. UsageError."""
    source, target = server_path(source), server_path(target)
    if source == target:
        raise UsageError(f"{source} is source and target: name two places")
    return Edit(pb.Edit(copy=pb.Copy(source=source, target=target, overlay=overlay)))


@click.command()
@click.argument("rev", metavar="REV")
@committing_options()
@pass_connection
def revert(connection: Connection, rev: str, message: str, *, sign: bool, as_json: bool) -> int:
    """Undo what one revision changed; what came after it stays. A new revision does that.

    \b
    Example:
      eccfg revert r12 -m "r12 broke the login"
    """
    return _commit(connection, [Edit(pb.Edit(revert=rev))], message, "", sign=sign, as_json=as_json)


@click.command()
@click.argument("rev", metavar="REV")
@committing_options()
@pass_connection
def rollback(connection: Connection, rev: str, message: str, *, sign: bool, as_json: bool) -> int:
    """Make everything as it was at REV. A new revision does that; none is lost.

    \b
    Examples:
      eccfg rollback r11 -m "Back to before the change of today"
      eccfg rollback HEAD~1 -m "Undo the last one"
    """
    return _commit(connection, [Edit(pb.Edit(rollback=rev))], message, "", sign=sign, as_json=as_json)


def _commit(
    connection: Connection, edits: list[Edit], message: str, base: str, *, sign: bool, as_json: bool
) -> int:  # fmt: skip
    if not edits:
        raise UsageError("there is no file to put")
    with connection.connect() as client:
        answer = client.commit(edits, message, base=base, sign=sign)
        return outcome.report(answer, as_json=as_json, conflict_hint=outcome.ON_THE_SERVER)
