"""``eccfg clone | status | add | rm | restore``: the working copy, mostly without a manager."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from jlogd.render import json_option, note, print_json, printable
from jlogd.runtime.errors import JlogdError, RefusedError, UsageError
from managerd.eccfg.connection import Connection, pass_connection
from managerd.eccfg.held import reason_now
from managerd.eccfg.index import NAME, Metadata, find_root, open_metadata
from managerd.eccfg.lineage import strayed
from managerd.eccfg.outcome import ID_DIGITS
from managerd.eccfg.pulling import finish, pull
from managerd.eccfg.working import COMMITTABLE, Kind, Local, WorkingCopy
from managerd.v1 import config_pb2 as pb

STATUS_TIMEOUT_S = 5.0  # the working copy's own state is shown without a manager as well
_LETTERS = {
    Kind.MODIFIED: ("modified", "yellow"),
    Kind.ADDED: ("added", "green"),
    Kind.DELETED: ("deleted", "red"),
    Kind.MISSING: ("missing", "red"),
    Kind.UNKNOWN: ("unknown", "bright_black"),
    Kind.SPECIAL: ("special", "red"),
}
paths_argument = click.argument("paths", metavar="PATH...", nargs=-1, required=True)


def open_copy(connection: Connection) -> WorkingCopy:
    """The working copy that the command is run in. UsageError."""
    return WorkingCopy.open(connection.directory, fs=connection.fs)


@contextlib.contextmanager
def changing_copy(connection: Connection) -> Iterator[WorkingCopy]:
    """The working copy, locked, with an interrupted pull finished first. UsageError, LockedError."""
    metadata = open_metadata(connection.directory, fs=connection.fs)
    with metadata.locked():
        copy = WorkingCopy(metadata, fs=connection.fs)
        if finish(copy):
            note("an interrupted pull was finished first")
        yield copy


# ---------------------------------------------------------------------- clone


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@json_option
@pass_connection
def clone(connection: Connection, directory: Path, *, as_json: bool) -> None:
    """Make a working copy in DIR, which must be new or empty.

    It has the files that you may read, at HEAD, and remembers the manager. Killed in the middle, `eccfg pull` in DIR
    goes on.

    \b
    Example:
      eccfg --manager m1:7440 clone fleet && cd fleet
    """
    root = Path(os.path.realpath(connection.directory / directory))  # "../other" is not inside of where we are
    if find_root(root.parent) is not None:
        raise UsageError(f"{root.parent} is in a working copy already: choose another place")
    if root.exists() and not _is_free(root):
        raise RefusedError(f"{root} is there and not empty: choose a new directory")
    with connection.connect() as client:
        if not client.status().head.id:
            raise RefusedError(f"the repository of {client.address} has no revision yet: 'eccfg bootstrap' makes r1")
        metadata = Metadata.create(root, connection.manager, fs=connection.fs)
        with metadata.locked():
            pulled = pull(WorkingCopy(metadata, fs=connection.fs), Shown(client))
    if as_json:
        print_json({"directory": str(root), "revision": pulled.revision, "id": pulled.id, "files": len(pulled.updated)})
    else:
        click.echo(f"{directory}: {len(pulled.updated)} files of r{pulled.revision} {pulled.id[:ID_DIGITS]}")


def _is_free(root: Path) -> bool:
    """Empty, or with what a clone left that was killed before it was a working copy."""
    return root.is_dir() and all(
        place.name == NAME and not (place / "settings.json").exists() for place in root.iterdir()
    )


class Shown:
    """A client whose trees count their files on a terminal."""

    def __init__(self, client: Any) -> None:
        """Everything but ``tree`` is the client's."""
        self.commit = client.commit
        self._client = client

    def tree(self, revision: str = "", **wanted: Any) -> Any:
        """As the client's, with progress."""
        answer = self._client.tree(revision, **wanted)
        answer.changes = _counted(answer.changes)
        return answer


def _counted(changes: Iterable[Any]) -> Iterable[Any]:
    shown = sys.stderr.isatty()
    count = 0
    for count, change in enumerate(changes, 1):
        yield change
        if shown and count % 100 == 0:
            click.echo(f"\rreceived: {count} files", err=True, nl=False)
    if shown and count >= 100:
        click.echo("\r\x1b[K", err=True, nl=False)


# ---------------------------------------------------------------------- status


@click.command()
@json_option
@pass_connection
def status(connection: Connection, *, as_json: bool) -> None:
    """What differs here from the base revision, and how far the base is behind. Works without a manager.

    \b
    Examples:
      eccfg status
      eccfg status --json | jq -r '.changes[] | select(.kind == "unknown") | .path'
    """
    copy = open_copy(connection)
    scan = copy.files.scan()
    changes = copy.changes(scan)
    server: pb.StatusResponse | None = None
    problem = lost = held = ""
    try:
        with connection.connect() as client:
            server = client.status(timeout_s=STATUS_TIMEOUT_S)
            lost = strayed(client, copy.index, server.head)
            with contextlib.suppress(JlogdError):  # the rest is worth showing without it
                held = reason_now(client, server.head)
    except JlogdError as error:
        problem = str(error).splitlines()[0]
    if as_json:
        print_json(_status_document(copy, changes, server, problem, lost, held))
        return
    for line in _base_lines(copy, server, problem, lost):
        click.echo(line)
    _show_changes(copy, changes)
    for path in scan.odd:
        note(f"note: {printable(path)}: the name is not UTF-8; it cannot be committed")
    for line in _server_lines(server, held):
        click.echo(line)


def _base_lines(copy: WorkingCopy, server: pb.StatusResponse | None, problem: str, lost: str) -> Iterable[str]:
    index = copy.index
    base = f"r{index.revision} {index.id[:ID_DIGITS]}" if index.id else "nothing"
    where = ""
    if server is not None:
        behind = server.head.revision - index.revision
        where = f", {behind} behind r{server.head.revision}: 'eccfg pull'" if behind > 0 else ", up to date"
    yield f"based on {base}" + (f": {lost}" if lost else where)
    if problem:
        yield f"the manager was not asked: {printable(problem)}"
    if copy.metadata.read_pull() is not None:
        yield "a pull was interrupted: 'eccfg pull' finishes it"


def _show_changes(copy: WorkingCopy, changes: list[Local]) -> None:
    colour = sys.stdout.isatty()
    for path in sorted(copy.index.conflicts):
        text = f"  conflicted  {printable(path)}"
        click.echo(click.style(text, fg="magenta") if colour else text)
    for each in changes:
        if each.path in copy.index.conflicts:
            continue
        word, tint = _LETTERS[each.kind]
        text = f"  {word:10}  {printable(each.path)}" + (f" ({each.special})" if each.special else "")
        click.echo(click.style(text, fg=tint) if colour else text)
    if copy.index.conflicts:
        click.echo("edit what is conflicted, then 'eccfg resolve' it; 'eccfg restore' takes theirs")
    left = {each.kind for each in changes}
    if Kind.UNKNOWN in left:
        click.echo("unknown files are not committed: 'eccfg add' them, or use 'eccfg commit --all'")
    if Kind.MISSING in left:
        click.echo("missing files are not deleted: 'eccfg rm' them, or use --all; 'eccfg restore' brings them back")
    if Kind.SPECIAL in left:
        click.echo(f"{COMMITTABLE}: move what is special away")
    if not changes:
        click.echo("nothing changed here")


def _server_lines(server: pb.StatusResponse | None, held: str) -> Iterable[str]:
    if server is None:
        return
    if server.confirmed < server.head.revision:
        first, last = server.confirmed + 1, server.head.revision
        which, them = (f"r{last} is", "it") if first == last else (f"r{first} to r{last} are", "them")
        yield f"{which} stored, but not on {server.replicas_min} managers yet: nodes do not get {them}"
    if held:
        yield printable(held)
    for peer in server.peers:
        if peer.state != "connected":
            known = f", last seen at r{peer.revision}" if peer.revision else ""
            why = f": {peer.error}" if peer.error else ""
            yield printable(f"manager {peer.name or peer.address}: {peer.state}{known}{why}")
    for side in server.side_branches:
        paths = ", ".join(side.paths[:5])
        yield printable(f"side branch {side.name} has changes that could not be merged: {paths}")
        yield printable(
            f"  see 'eccfg show {side.id[:ID_DIGITS]}'; when it is settled: eccfg resolve --side {side.name} -m MSG"
        )


def _status_document(
    copy: WorkingCopy, changes: list[Local], server: pb.StatusResponse | None, problem: str, lost: str, held: str
) -> dict[str, Any]:
    index = copy.index
    return {
        "root": str(copy.root),
        "revision": index.revision,
        "id": index.id or None,
        "head": server.head.revision if server is not None else None,
        "confirmed": server.confirmed if server is not None else None,
        "behind": max(server.head.revision - index.revision, 0) if server is not None and not lost else None,
        "held": held or None,
        "interrupted": copy.metadata.read_pull() is not None,
        "changes": [{"path": each.path, "kind": str(each.kind), "staged": each.staged} for each in changes],
        "conflicts": sorted(index.conflicts),
        "side_branches": [
            {"name": side.name, "id": side.id, "paths": list(side.paths)}
            for side in (server.side_branches if server is not None else ())
        ],
        "error": problem or lost or None,
    }


# ---------------------------------------------------------------------- staging


@click.command()
@paths_argument
@json_option
@pass_connection
def add(connection: Connection, paths: tuple[str, ...], *, as_json: bool) -> None:
    """Have the next commit take new files; of a directory everything in it.

    \b
    Examples:
      eccfg add web/web1/app.toml
      eccfg add .
    """
    with changing_copy(connection) as copy:
        _show_paths("added", copy.add(copy.local_paths(paths, connection.directory)), as_json=as_json)


@click.command()
@paths_argument
@click.option("--force", is_flag=True, help="Also when the file was changed here; the changes are lost.")
@json_option
@pass_connection
def rm(connection: Connection, paths: tuple[str, ...], *, force: bool, as_json: bool) -> None:
    """Remove files here, and have the next commit delete them; of a directory everything in it.

    \b
    Example:
      eccfg rm web/web1/old.toml && eccfg commit -m "Drop the old settings"
    """
    with changing_copy(connection) as copy:
        chosen = copy.remove(copy.local_paths(paths, connection.directory), force=force)
        _show_paths("deleted", chosen, as_json=as_json)


@click.command()
@paths_argument
@json_option
@pass_connection
def restore(connection: Connection, paths: tuple[str, ...], *, as_json: bool) -> None:
    """Undo local edits and deletions: files are as in the base revision again.

    A file that was added stays and is unknown again. A conflicted file becomes theirs.

    \b
    Examples:
      eccfg restore global/app.toml
      eccfg restore .
    """
    with changing_copy(connection) as copy:
        _show_paths("restored", copy.restore(copy.local_paths(paths, connection.directory)), as_json=as_json)


def _show_paths(what: str, paths: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"paths": paths})
        return
    for path in paths:
        click.echo(f"{what} {printable(path)}")
    if not paths:
        click.echo(f"nothing {what}")


def in_copy(connection: Connection) -> WorkingCopy | None:
    """The working copy around, or None."""
    with contextlib.suppress(UsageError):
        return open_copy(connection)
    return None
