"""``eccfg subcluster ls | create | copy | rm``: the groups of nodes, as directories of the repository."""

from pathlib import Path
from typing import Any

import click

from jlogd.confrepo import model as m
from jlogd.render import json_option, print_json, print_table
from jlogd.runtime.arguments import check_name
from jlogd.runtime.errors import RefusedError, UsageError
from managerd.eccfg import outcome, templates
from managerd.eccfg.client import Client, Edit
from managerd.eccfg.commands.committing import committing_options
from managerd.eccfg.commands.server import copy_edit, put_edits
from managerd.eccfg.connection import Connection, pass_connection


@click.group()
def subcluster() -> None:
    """List, create, copy and remove subclusters.

    A node belongs to one by [node] subcluster in its jlogd.toml; it gets global/, then SUBCLUSTER/default/, then
    SUBCLUSTER/NODE/.

    \b
    Examples:
      eccfg subcluster ls
      eccfg subcluster create web -m "Web servers"
      eccfg subcluster copy test web -m "Promote what was tested"
    """


@subcluster.command("ls")
@json_option
@pass_connection
def list_all(connection: Connection, *, as_json: bool) -> None:
    """Every subcluster at HEAD: files of all its nodes, nodes with a directory, nodes that ever attached.

    \b
    Example:
      eccfg subcluster ls --json | jq -r '.subclusters[].name'
    """
    with connection.connect() as client:
        documents = _documents(client)
    if as_json:
        print_json({"subclusters": documents})
        return
    rows = [(d["name"], d["default_files"], len(d["directories"]), len(d["nodes"])) for d in documents]
    print_table(("subcluster", "default files", "node directories", "nodes"), rows)


def _documents(client: Client) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        return found.setdefault(name, {"name": name, "default_files": 0, "directories": set(), "nodes": set()})

    for change in client.tree(names_only=True).changes:
        parts = change.path.split("/")
        if len(parts) < 3 or parts[0] in m.RESERVED:
            continue
        if parts[1] == m.DEFAULT:
            of(parts[0])["default_files"] += 1
        else:
            of(parts[0])["directories"].add(parts[1])
    for node in client.nodes().nodes:
        of(node.subcluster)["nodes"].add(node.name)
    lists = ({name: sorted(v) if isinstance(v, set) else v for name, v in each.items()} for each in found.values())
    return sorted(lists, key=lambda each: str(each["name"]))


@subcluster.command()
@click.argument("name")
@click.option(
    "--from", "source", metavar="DIR", type=click.Path(path_type=Path), help="A local directory: becomes NAME/default."
)
@committing_options()
@pass_connection
def create(connection: Connection, name: str, source: Path | None, message: str, *, sign: bool, as_json: bool) -> int:
    """Make a subcluster: NAME/default/ with a file that explains it, or with what is in DIR.

    \b
    Examples:
      eccfg subcluster create web -m "Web servers"
      eccfg subcluster create db --from ./db-settings -m "Databases"
    """
    _check_subcluster(name)
    target = f"{name}/{m.DEFAULT}"
    with connection.connect() as client:
        if _has(client, name):
            raise RefusedError(f"subcluster {name} is there already; see 'eccfg subcluster ls'")
        if source is not None:
            edits = list(put_edits(str(source), target, connection.directory))
        else:
            edits = [Edit.put(path, m.REGULAR, content) for path, content in templates.subcluster(name).items()]
        return outcome.report(client.commit(edits, message, sign=sign), as_json=as_json)


@subcluster.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--node-dirs", is_flag=True, help="The nodes' own directories as well.")
@committing_options()
@pass_connection
def copy(
    connection: Connection, source: str, target: str, message: str, *, node_dirs: bool, sign: bool, as_json: bool
) -> int:
    """Replace what DST's nodes have in common by SRC's; DST is created when it is not there.

    \b
    Examples:
      eccfg subcluster copy test web -m "Promote what was tested"
      eccfg subcluster copy web web-west --node-dirs -m "Second site"
    """
    _check_subcluster(target)
    tail = "" if node_dirs else f"/{m.DEFAULT}"
    edit = copy_edit(source + tail, target + tail, overlay=False)
    with connection.connect() as client:
        return outcome.report(client.commit([edit], message, sign=sign), as_json=as_json)


@subcluster.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Really.")
@committing_options()
@pass_connection
def rm(connection: Connection, name: str, message: str, *, yes: bool, sign: bool, as_json: bool) -> int:
    """Remove a subcluster with all its nodes' directories. `eccfg revert` brings it back.

    \b
    Example:
      eccfg subcluster rm test --yes -m "The test machines are gone"
    """
    _check_subcluster(name)
    if not yes:
        raise UsageError(f"this takes {name}/default and every directory of its nodes away: add --yes")
    with connection.connect() as client:
        return outcome.report(client.commit([Edit.delete(name)], message, sign=sign), as_json=as_json)


def _check_subcluster(name: str) -> None:
    check_name("subcluster", name)
    if name in m.RESERVED:
        raise UsageError(f"{name} is no subcluster: that directory has another meaning")


def _has(client: Client, name: str) -> bool:
    return any(True for _ in client.tree(names_only=True, path=name).changes)
