"""``eccfg diff``: of the working copy, of revisions, of what a node gets; as lines, as keys, as JSON."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from jlogd.confrepo import model as m
from jlogd.render import json_option, print_json, printable
from jlogd.runtime.errors import UsageError
from managerd.eccfg.client import Client
from managerd.eccfg.commands.working import in_copy
from managerd.eccfg.connection import Connection, pass_connection
from managerd.eccfg.difference import Difference, changed_keys, echo_lines, key_lines, unified
from managerd.eccfg.lineage import base_explained
from managerd.eccfg.local_view import local_views
from managerd.eccfg.working import WorkingCopy

_REV = re.compile(r"r[0-9]+|HEAD(~[0-9]*)?|[0-9a-f]{4,40}")
Files = dict[str, m.File]


@click.command()
@click.argument("words", metavar="[REV [REV]] [PATH...]", nargs=-1)
@click.option("--node", metavar="NODE", help="What changes for this node: its view, all layers merged.")
@click.option("--keys", "by_key", is_flag=True, help="Of TOML, YAML and JSON only the keys that changed.")
@json_option
@pass_connection
def diff(connection: Connection, words: tuple[str, ...], node: str | None, *, by_key: bool, as_json: bool) -> None:
    """Show what differs.

    Without REV: the working copy against its base. One REV: that against the working copy (outside of one: against
    HEAD). Two: the first against the second. Encrypted values are shown as a short hash.

    \b
    Examples:
      eccfg diff
      eccfg diff global/app.toml
      eccfg diff r11 r12 --keys
      eccfg diff HEAD~1 HEAD --node web1      what the last revision changed for web1
      eccfg diff --node web1                  what a commit would change for web1
    """
    copy = in_copy(connection)
    revisions, paths = _split(words, copy)
    if node is not None:
        differences = _of_views(connection, copy, node, revisions)
    elif len(revisions) == 2:
        differences = _of_revisions(connection, revisions[0], revisions[1])
    elif copy is not None:
        local = copy.local_paths(paths, connection.directory)
        differences = _of_copy(connection, copy, revisions, local)
        paths = ()
    elif revisions:
        differences = _of_revisions(connection, revisions[0], "")
    else:
        raise UsageError("this is no working copy: give two revisions, as 'eccfg diff r11 r12', or use -C DIR")
    wanted = [path.strip("/") for path in paths]
    _show([each for each in differences if _is_wanted(each.path, wanted)], by_key=by_key, as_json=as_json)


def _split(words: Sequence[str], copy: WorkingCopy | None) -> tuple[list[str], tuple[str, ...]]:
    """Revisions first, then paths; a file that is named like a revision is meant when it is there."""
    count = 0
    while count < min(len(words), 2) and _REV.fullmatch(words[count]):
        if copy is not None and (copy.root / words[count]).exists():
            break
        count += 1
    return list(words[:count]), tuple(words[count:])


def _is_wanted(path: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(path == each or path.startswith(each + "/") for each in wanted)


# ---------------------------------------------------------------------- the two sides


def _of_revisions(connection: Connection, before: str, after: str) -> list[Difference]:
    with connection.connect() as client:
        new = dict(_files_of(client, after, since=before))
        old = dict(_files_of(client, before, since=after or "HEAD"))
    return [Difference(path, old.get(path), new.get(path)) for path in sorted({*old, *new})]


def _files_of(client: Client, revision: str, *, since: str) -> Iterator[tuple[str, m.File | None]]:
    for change in client.tree(revision, since=since).changes:
        yield change.path, m.File(change.content or b"", change.mode) if change.mode else None


def _of_copy(
    connection: Connection, copy: WorkingCopy, revisions: Sequence[str], paths: Sequence[str]
) -> Iterable[Difference]:
    if not revisions:
        yield from copy.differences(paths)
        return
    with connection.connect() as client, base_explained(client, copy.index):
        there = dict(_files_of(client, revisions[0], since=copy.index.id))
    here = {each.path: each.after for each in copy.differences()}
    for path in sorted({*there, *here}):
        before = there[path] if path in there else copy.base_file(path)
        after = here[path] if path in here else copy.base_file(path)
        if before != after and _is_wanted(path, [each for each in paths if each]):
            yield Difference(path, before, after)


def _of_views(
    connection: Connection, copy: WorkingCopy | None, node: str, revisions: Sequence[str]
) -> Iterable[Difference]:
    if not revisions and copy is None:
        raise UsageError("this is no working copy: give two revisions, as 'eccfg diff r11 r12 --node N', or use -C DIR")
    if not revisions and copy is not None:
        before, after = local_views(connection, copy, node)
    else:
        with connection.connect() as client:
            first, second = (*revisions, "HEAD")[:2]
            before, after = _view(client, node, first), _view(client, node, second)
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            yield Difference(path, before.get(path), after.get(path))


def _view(client: Client, node: str, revision: str) -> Files:
    _, files = client.effective(node, revision=revision)
    return {file.path: m.File(file.content, file.mode) for file in files}


# ---------------------------------------------------------------------- showing


def _show(differences: Sequence[Difference], *, by_key: bool, as_json: bool) -> None:
    if as_json:
        print_json({"differences": [_document(each) for each in differences]})
        return
    for each in differences:
        keys = changed_keys(each) if by_key else None
        if keys is None:
            echo_lines(unified(each))
            continue
        click.echo(f"{printable(each.path)}: {each.status}")
        for line in key_lines(keys):
            click.echo(f"  {line}")


def _document(each: Difference) -> dict[str, Any]:
    keys = changed_keys(each)
    return {
        "path": each.path,
        "status": each.status,
        "keys": [asdict(key) for key in keys] if keys is not None else None,
        "lines": list(unified(each)),
    }
