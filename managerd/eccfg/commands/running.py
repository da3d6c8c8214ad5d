"""``eccfg put-running``: what a node really runs, local edits included, is kept in the repository.

Files that hold decrypted secrets are never sent: the manifest of the view says which these are, and without a manifest
nothing is sent. ``running/`` is in no view: what is saved there goes to no node.
"""

from collections.abc import Mapping
from pathlib import Path

import click

from jlogd.confrepo import model as m
from jlogd.confrepo.manifest import Manifest
from jlogd.render import note, printable
from jlogd.runtime.errors import DamageError, RefusedError, UsageError
from jlogd.settings import DEFAULT_PATH, AgentSettings, load
from managerd.eccfg import outcome
from managerd.eccfg.client import Client, Edit
from managerd.eccfg.commands.committing import committing_options
from managerd.eccfg.connection import Connection, EccfgSettings, pass_connection
from managerd.eccfg.files import read_file, scan_directory
from managerd.eccfg.index import blob_id
from managerd.v1 import config_pb2 as pb

MANIFEST_BYTES_MAX = 64 << 20


@click.command("put-running")
@click.option(
    "-c", "settings_path", metavar="FILE", type=click.Path(path_type=Path), default=DEFAULT_PATH, show_default=True,
    help="The node's settings: where its view is, whose certificate is used, which managers are called.",
)  # fmt: skip
@click.option("--node", metavar="NODE", help="Another node of the same spool.")
@committing_options()
@pass_connection
def put_running(
    connection: Connection, settings_path: Path, node: str | None, message: str, *, sign: bool, as_json: bool
) -> int:
    """Save the configuration that this node runs, with local edits, to running/NODE/ in the repository.

    Run it on the node, by cron for example: uncommitted edits survive the loss of its disk. Nothing is committed when
    nothing changed. Files with decrypted secrets are left out. It calls as the node itself: of the connection only
    options before the command count (--manager, --cert with --key, --ca), no eccfg.toml and no ECCFG_ variable.

    \b
    Examples:
      eccfg put-running -m "Every five minutes"
      eccfg diff HEAD~1 HEAD running/web1
    """
    settings = load(settings_path)
    name = node or settings.node.name
    files = running_files(settings.node.spool / name / "config", name)
    with _as_node(connection, settings, settings_path).connect() as client:
        edits, base = _edits(client, name, files)
        if not edits:
            return outcome.report(pb.CommitResponse(outcome=pb.CommitResponse.OUTCOME_NOTHING), as_json=as_json)
        return outcome.report(client.commit(edits, message, base=base, sign=sign), as_json=as_json)


def _as_node(connection: Connection, settings: AgentSettings, path: Path) -> Connection:
    """With the node's own certificate and managers, where no option says otherwise: whoever runs it, the node saves."""
    tls = settings.tls
    cert, key = (None, None) if connection.options.cert or connection.options.key else (tls.cert, tls.key)  # a pair
    managers = tuple(str(link.address) for link in settings.manager)
    own = EccfgSettings(manager=managers, ca=tls.ca, cert=cert, key=key, insecure=tls.insecure)
    return connection.with_settings(own, path.absolute())


def running_files(config: Path, node: str) -> dict[str, m.File]:
    """The view that is laid out now without its secrets, by path. RefusedError, DamageError, UsageError."""
    current = config / "current"
    try:
        view = current.resolve(strict=True)
    except OSError as error:
        raise UsageError(f"{current}: node {node} has no configuration laid out here: {error.strerror}") from None
    secret = _secrets(view.with_name(f"{view.name}.json"))
    files = {}
    for path, seen in scan_directory(view).files.items():
        if secret.get(path, _is_private(view / path)):
            note(f"left out: {printable(path)} (it holds decrypted secrets, or only its owner may read it)")
        elif seen.mode == 0:
            note(f"left out: {printable(path)} (neither a file nor a symlink)")
        else:
            files[path] = read_file(view / path, path)
    return files


def _is_private(place: Path) -> bool:
    return not place.is_symlink() and place.stat().st_mode & 0o044 == 0


def _secrets(path: Path) -> dict[str, bool]:
    """Paths that were laid out, and whether with decrypted values."""
    try:
        with path.open("rb") as file:
            manifest = Manifest.decode(file.read(MANIFEST_BYTES_MAX))
    except OSError as error:
        raise RefusedError(
            f"{path}: {error.strerror}: which files hold secrets is not known, nothing is sent"
        ) from None
    except DamageError as error:
        raise DamageError(f"{path}: {error}: nothing is sent; it is made anew with the next revision") from error
    return {name: item.secret for name, item in manifest.files.items()}


def _edits(client: Client, node: str, files: Mapping[str, m.File]) -> tuple[list[Edit], str]:
    """What makes running/NODE equal to ``files``, and the revision that it was compared with."""
    directory = f"{m.RUNNING}/{node}"
    there: dict[str, tuple[int, str]] = {}
    base = ""
    if client.status().head.id:
        answer = client.tree(names_only=True, path=directory)
        base = answer.revision.id
        there = {change.path: (change.mode, change.id) for change in answer.changes}
    here = {f"{directory}/{path}": file for path, file in files.items()}
    deletes = [Edit.delete(path) for path in sorted(there.keys() - here.keys())]
    puts = [
        Edit.put(path, file.mode, file.content)
        for path, file in here.items()
        if there.get(path) != (file.mode, blob_id(file.content))
    ]
    return deletes + puts, base
