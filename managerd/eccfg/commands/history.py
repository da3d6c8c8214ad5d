"""``eccfg log | show``: revisions, and what one changed."""

from collections.abc import Iterator
from typing import Any

import click

from jlogd.confrepo import model as m
from jlogd.render import json_option, note, print_json, print_table, printable
from jlogd.runtime.arguments import format_time
from managerd.eccfg import difference
from managerd.eccfg.client import Client
from managerd.eccfg.connection import Connection, pass_connection
from managerd.eccfg.outcome import ID_DIGITS
from managerd.v1 import config_pb2 as pb

SHOWN = 1000  # revisions unless -n says otherwise
SUBJECT_MAX = 100  # characters of a message in a table
UNREADABLE = "(you may read nothing of what it changed)"  # then managers leave out author and message


@click.command()
@click.argument("path", default="")
@click.option("-n", "count", metavar="N", type=click.IntRange(min=0), default=SHOWN, show_default=True,
              help="At most so many, the newest; 0 = all.")  # fmt: skip
@click.option("--until", metavar="REV", default="", help="Begin with this revision instead of HEAD.")
@json_option
@pass_connection
def log(connection: Connection, *, path: str, count: int, until: str, as_json: bool) -> None:
    """Revisions, newest first; with PATH those that changed this file or directory.

    \b
    Examples:
      eccfg log
      eccfg log web/web1 -n 10
      eccfg log --json | jq -r '.revisions[] | "r\\(.revision) \\(.author) \\(.message)"'
    """
    with connection.connect() as client:
        revisions, more = fetch(client, path, until, count)
    if as_json:
        print_json({"revisions": [document(revision) for revision in revisions], "more": more})
        return
    columns = ("revision", "id", "time", "author", "files", "message")
    print_table(columns, [_row(revision) for revision in revisions])
    if more:
        note(f"note: there are older ones: eccfg log --until r{revisions[-1].revision - 1}, or -n 0 for all")


def fetch(client: Client, path: str, until: str, count: int) -> tuple[list[pb.Revision], bool]:
    """At most ``count`` revisions (0: all), asked for page by page; and whether there are more."""
    revisions: list[pb.Revision] = []
    while True:
        answer = client.log(path, until=until, limit=min(count - len(revisions), SHOWN) if count else SHOWN)
        revisions += answer.revisions
        if not answer.more or not answer.revisions or (count and len(revisions) >= count):
            return revisions, answer.more
        until = f"r{revisions[-1].revision - 1}"


def document(revision: pb.Revision) -> dict[str, Any]:
    """A revision for scripts."""
    return {
        "revision": revision.revision,
        "id": revision.id,
        "author": revision.author or None,
        "time": format_time(revision.time_s * 10**9),
        "message": revision.message if revision.author else None,
        "paths": list(revision.paths),
        "path_count": revision.path_count,
        "signer": revision.signer or None,
        "confirmed": revision.confirmed,
    }


def _row(revision: pb.Revision) -> tuple[object, ...]:
    subject = revision.message.partition("\n")[0] if revision.author else UNREADABLE
    return (
        f"r{revision.revision}",
        revision.id[:ID_DIGITS],
        seconds(revision.time_s),
        revision.author or "-",
        revision.path_count,
        (subject if len(subject) <= SUBJECT_MAX else subject[: SUBJECT_MAX - 1] + "…")
        + ("" if revision.confirmed else " (not confirmed yet)"),
    )


def seconds(time_s: int) -> str:
    """RFC 3339 without a fraction: commits have none."""
    return (format_time(time_s * 10**9) or "").partition(".")[0] + "Z"


# ---------------------------------------------------------------------- one revision


@click.command()
@click.argument("rev", default="HEAD")
@json_option
@pass_connection
def show(connection: Connection, *, rev: str, as_json: bool) -> None:
    """Who made REV, when, why, and what it changed. Encrypted values are not shown.

    \b
    Examples:
      eccfg show
      eccfg show r12
      eccfg show HEAD~3 --json | jq -r '.files[].diff'
    """
    with connection.connect() as client:
        revision, changed = changes(client, rev)
        if as_json:
            files = [
                {
                    "path": each.path,
                    "status": each.status,
                    "mode": f"{each.after.mode:06o}" if each.after is not None else None,
                    "diff": "\n".join(difference.unified(each)),
                }
                for each in changed
            ]
            print_json({**document(revision), "files": files})
            return
        difference.echo_lines(_header(revision))
        for each in changed:
            difference.echo_lines(difference.unified(each))


def changes(client: Client, rev: str) -> tuple[pb.Revision, Iterator[difference.Difference]]:
    """The revision, and each file that it changed: old contents first, then the new ones as they come.

    By ids: a side branch has revisions of the same numbers as the main line.
    """
    found = client.log(until=rev, limit=2)
    revision = found.revisions[0] if found.revisions else client.tree(rev, names_only=True).revision
    before = f"r{revision.revision - 1}" if revision.revision > 1 else ""
    if len(found.revisions) > 1:
        before = found.revisions[1].id
    old: dict[str, m.File] = {}
    if before:
        for change in client.tree(before, since=revision.id).changes:
            if change.content is not None:
                old[change.path] = m.File(change.content, change.mode)
    return revision, _differences(client, revision.id, before, old)


def _differences(client: Client, this: str, before: str, old: dict[str, m.File]) -> Iterator[difference.Difference]:
    for change in client.tree(this, since=before).changes:
        after = m.File(change.content, change.mode) if change.content is not None else None
        yield difference.Difference(change.path, old.get(change.path), after)


def _header(revision: pb.Revision) -> Iterator[str]:
    yield f"revision {revision.revision}, {revision.id}"
    yield f"author   {printable(revision.author) or '-'}"
    yield f"time     {seconds(revision.time_s)}"
    yield f"signed   {printable(revision.signer) if revision.signer else 'no'}"
    if not revision.confirmed:
        yield "state    not confirmed: nodes get it once enough managers have it"
    yield ""
    message = revision.message if revision.author else UNREADABLE
    yield from (f"    {printable(line)}" for line in message.splitlines())
    yield ""
