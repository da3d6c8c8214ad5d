"""``eccfg cat | blame | explain | effective``: files of the repository, and of the view that a node gets."""

import json
import sys
from typing import Any

import click

from jlogd.confrepo import model as m
from jlogd.render import format_bytes, json_option, note, print_json, print_table, printable, stdout_bytes
from jlogd.runtime.arguments import format_time
from jlogd.runtime.errors import RefusedError
from managerd.eccfg import difference
from managerd.eccfg.commands.history import seconds
from managerd.eccfg.connection import Connection, pass_connection
from managerd.v1 import config_pb2 as pb

VALUE_MAX = 80  # characters of a value in a table

node_option = click.option("--node", metavar="NODE", required=True, help="Whose view.")
revision_option = click.option("--revision", metavar="REV", default="", help="As at REV instead of HEAD.")


def split(word: str) -> tuple[str, str]:
    """``FILE@REV``, at the last @: a file whose name has one is always named with a revision behind it."""
    path, at, rev = word.rpartition("@")
    return (path, rev) if at and path else (word, "")


@click.command()
@click.argument("file", metavar="FILE[@REV]")
@click.option("--node", metavar="NODE", default="", help="As this node gets it: FILE is its path in the view.")
@json_option
@pass_connection
def cat(connection: Connection, *, file: str, node: str, as_json: bool) -> None:
    """A file's exact bytes. Encrypted values come as they are stored.

    \b
    Examples:
      eccfg cat global/app.toml
      eccfg cat web/web1/app.toml@r12 > old.toml
      eccfg cat app.toml --node web1
      eccfg cat odd@name@HEAD            a path with an @ needs its revision
    """
    path, revision = split(file)
    with connection.connect() as client:
        found = client.cat(path, revision=revision, node=node)
    if as_json:
        print_json(_content_document(path, node, found))
        return
    with stdout_bytes() as out:
        out.write(found.content)
        if found.mode == m.SYMLINK and sys.stdout.isatty():
            out.write(b"\n")


def _content_document(path: str, node: str, found: pb.CatResponse) -> dict[str, Any]:
    document: dict[str, Any] = {
        "file": path,
        "node": node or None,
        "revision": found.revision.revision,
        "id": found.revision.id,
        "mode": f"{found.mode:06o}",
        "bytes": len(found.content),
    }
    try:
        document["text"] = found.content.decode()
    except UnicodeDecodeError:
        import base64  # noqa: PLC0415 - few files are not text

        document["base64"] = base64.b64encode(found.content).decode()
    return document


@click.command()
@click.argument("file", metavar="FILE[@REV]")
@json_option
@pass_connection
def blame(connection: Connection, *, file: str, as_json: bool) -> None:
    """Which revision last changed each line. A line older than what was looked through has no revision.

    \b
    Examples:
      eccfg blame global/app.toml
      eccfg blame global/app.toml@r12 --json
    """
    path, revision = split(file)
    with connection.connect() as client:
        lines = client.blame(path, revision=revision).lines
    if as_json:
        print_json({"file": path, "lines": [_line_document(number, line) for number, line in enumerate(lines, 1)]})
        return
    width = max((len(line.author) for line in lines), default=0)
    with stdout_bytes() as out:
        for number, line in enumerate(lines, 1):
            who = f"r{line.revision}" if line.revision else "-"
            when = seconds(line.time_s)[:10] if line.revision else "-"
            text = difference.masked(line.text.decode(errors="backslashreplace").rstrip("\n"))
            shown = f"{who:>7}  {line.author or '-':{width}}  {when:10}  {number:>5}  "
            out.write((shown + "\t".join(map(printable, text.split("\t")))).encode() + b"\n")


def _line_document(number: int, line: pb.BlameLine) -> dict[str, Any]:
    known = bool(line.revision)
    return {
        "line": number,
        "revision": line.revision or None,
        "id": line.id or None,
        "author": line.author or None,
        "time": format_time(line.time_s * 10**9) if known else None,
        "text": line.text.decode(errors="backslashreplace").rstrip("\n"),
    }


@click.command()
@click.argument("file")
@click.argument("key", default="")
@node_option
@revision_option
@json_option
@pass_connection
def explain(connection: Connection, *, file: str, key: str, node: str, revision: str, as_json: bool) -> None:
    """Where each value of a file comes from, for one node: its layer, and the revision that last set it.

    FILE is the path in the node's view, without a layer. KEY is dotted; of a map all keys in it are shown.

    \b
    Examples:
      eccfg explain app.toml --node web1
      eccfg explain app.toml server.port --node web1 --json | jq -r '.keys[0].layer'
    """
    with connection.connect() as client:
        found = client.explain(file, key, node=node, revision=revision)
    _note_unheard_of(node, found)
    if key and not found.keys:
        raise RefusedError(f"{file} of node {node} has no key {key}")
    if as_json:
        keys = [
            {
                "key": each.key,
                "value": json.loads(each.value) if each.value else None,
                "layer": each.layer,
                "revision": each.revision or None,
                "secret": each.secret,
            }
            for each in found.keys
        ]
        print_json({"file": file, "node": node, "revision": found.revision.revision, "keys": keys})
        return
    rows = [
        (each.key or "(whole file)", _value(each), each.layer, f"r{each.revision}" if each.revision else None)
        for each in found.keys
    ]
    print_table(("key", "value", "layer", "revision"), rows)


def _note_unheard_of(node: str, answer: pb.ExplainResponse | pb.EffectiveResponse) -> None:
    """Its name may be mistyped; it may also be a node that is still to come."""
    if answer.unheard_of:
        note(f"note: never heard of node {node}: shown as it would be in subcluster {m.DEFAULT}")


def _value(key: pb.ExplainedKey) -> str | None:
    if key.secret:
        return "set (secret)"
    if not key.value:
        return None
    return key.value if len(key.value) <= VALUE_MAX else key.value[: VALUE_MAX - 1] + "…"


@click.command()
@node_option
@revision_option
@json_option
@pass_connection
def effective(connection: Connection, *, node: str, revision: str, as_json: bool) -> None:
    """Every file that a node gets, and the layers that it comes from. 'eccfg cat FILE --node NODE' has its content.

    \b
    Examples:
      eccfg effective --node web1
      eccfg effective --node web1 --revision r12 --json | jq -r '.files[].path'
    """
    with connection.connect() as client:
        first, files = client.effective(node, revision=revision)
        listed = [(file.path, file.mode, len(file.content), file.layers) for file in files]
    _note_unheard_of(node, first)
    at = first.revision
    if as_json:
        documents = [
            {"path": path, "mode": f"{mode:06o}", "bytes": size, "layers": list(layers)}
            for path, mode, size, layers in listed
        ]
        print_json({"node": node, "revision": at.revision, "id": at.id, "files": documents})
        return
    rows = [(path, f"{mode:06o}", format_bytes(size), ", ".join(layers)) for path, mode, size, layers in listed]
    print_table(("path", "mode", "size", "layers"), rows)
