"""``eccfg secret set``: a value that only the nodes meant can read, encrypted here, never sent in the clear."""

import sys
from pathlib import Path

import click

from jlogd.confrepo import formats, secrets
from jlogd.confrepo import model as m
from jlogd.render import note
from jlogd.runtime.errors import RefusedError, UsageError
from managerd.eccfg import outcome
from managerd.eccfg.client import Client, Edit
from managerd.eccfg.commands.committing import committing_options
from managerd.eccfg.connection import Connection, pass_connection
from managerd.eccfg.placing import place


@click.group()
def secret() -> None:
    """Values that only one node, or the nodes of a subcluster, can read.

    They are encrypted before they leave this machine and decrypted only where a node lays out its view.
    """


@secret.command("set")
@click.argument("file")
@click.argument("key")
@click.option("--node", metavar="N", help="For this node: FILE in its own layer.")
@click.option("--subcluster", metavar="S", help="For every node known in it: FILE in its default layer.")
@click.option("--value-file", type=click.Path(path_type=Path), help="Read the value from here, as it is.")
@committing_options()
@pass_connection
def set_(
    connection: Connection,
    file: str,
    key: str,
    node: str | None,
    subcluster: str | None,
    value_file: Path | None,
    message: str,
    *,
    sign: bool,
    as_json: bool,
) -> int:
    """Set KEY of FILE (TOML, YAML or JSON) to a secret value.

    FILE is a path in the view and goes to the layer of N, or of S; one that begins with a layer (global/, web/default/,
    web/web1/) goes there.

    The value is asked for on a terminal, else read from stdin, without its last newline. It is never an argument: other
    users could see it there. Nodes that join a subcluster later cannot read what was set before: set it again.

    \b
    Examples:
      eccfg secret set app.toml database.password --node web1 -m "Password of the new database"
      pass show relay | eccfg secret set relay.yaml auth.password --subcluster mail -m "Relay"
    """
    if (node is None) == (subcluster is None):
        raise UsageError("for whom is it: give --node N, or --subcluster S")
    kind = formats.kind_of(file)
    if kind is None:
        raise UsageError(f"{file} is not TOML, YAML or JSON by its name: secrets are values of keys")
    text = _value(value_file)
    with connection.connect() as client:
        group, recipients = _recipients(client, node, subcluster)
        path = _path(file, group, node or m.DEFAULT)
        head = client.status().head.id
        content, mode = _present(client, path, head)
        try:
            changed, lost = place(kind, content, formats.split_key(key), secrets.encrypt(text, recipients))
        except formats.SyntaxFault as fault:
            raise RefusedError(f"{path}:{fault.line}: {fault.problem}") from None
        if lost:
            note(f"note: {path} was written anew: its comments are gone")
        answer = client.commit([Edit.put(path, mode, changed)], message, base=head, sign=sign)
    return outcome.report(answer, as_json=as_json)


def _value(file: Path | None) -> str:
    if file is not None:
        return file.read_text(encoding="utf-8").removesuffix("\n")
    if sys.stdin.isatty():
        return str(click.prompt("Value", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.read(secrets.TEXT_BYTES_MAX + 2).removesuffix("\n")


def _path(file: str, group: str, node: str) -> str:
    """In the repository: as it was named, when that begins with a layer of those who are to read it."""
    file = file.strip("/")
    if file.startswith(tuple(layer + "/" for layer in m.Scope(group, node).layers)):
        return file
    return f"{group}/{node}/{file}"


def _recipients(client: Client, node: str | None, subcluster: str | None) -> tuple[str, list[str]]:
    """The subcluster, and the keys of everybody who is to read it. RefusedError names who has none."""
    known = client.nodes().nodes
    chosen = [each for each in known if (each.name == node if node else each.subcluster == subcluster)]
    if not chosen:
        who = f"node {node}" if node else f"a node of {subcluster}"
        raise RefusedError(f"the manager never heard of {who}: a node tells its key when it first attaches")
    without = [each.name for each in chosen if not each.recipient]
    if without:
        raise RefusedError(f"no key is known of {', '.join(without)}: it tells it when it attaches")
    return chosen[0].subcluster, [each.recipient for each in chosen]


def _present(client: Client, path: str, revision: str) -> tuple[bytes, int]:
    """Content and mode of the file; of a new one where there is none yet."""
    try:
        answer = client.cat(path, revision=revision)
    except RefusedError:
        return b"", m.REGULAR
    return answer.content, answer.mode
