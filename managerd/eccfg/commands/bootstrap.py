"""``eccfg bootstrap``: the first revision of a new repository, and the connection kept for next time."""

from pathlib import Path

import click
import tomli_w

from jlogd.confrepo import model as m
from jlogd.render import note
from jlogd.runtime.errors import RefusedError, UsageError
from managerd.eccfg import outcome, templates
from managerd.eccfg.client import Edit
from managerd.eccfg.commands.committing import committing_options
from managerd.eccfg.connection import Connection, pass_connection
from managerd.eccfg.files import read_file, scan_directory

DEFAULT_MESSAGE = "First revision"


@click.command()
@click.option(
    "--from", "source", metavar="DIR", type=click.Path(path_type=Path),
    help="Begin with the files of this directory, which has global/, SUBCLUSTER/default/, … in it.",
)  # fmt: skip
@committing_options(required=False)
@pass_connection
def bootstrap(
    connection: Connection, source: Path | None, message: str | None, *, sign: bool, as_json: bool
) -> int:  # fmt: skip
    """Begin here: make revision 1 of a new repository, and remember the connection.

    What --manager, --cert, --key and --ca say is then written to ~/.config/eccfg.toml, unless that file is there.
    The first revision has a README and a small example, or with --from the files of DIR.

    \b
    Examples:
      eccfg --manager m1:7440 --ca ca.crt --cert alice.crt --key alice.key bootstrap
      eccfg bootstrap --from ./old-configuration -m "As it was"
    """
    if source is not None and not (connection.directory / source).is_dir():
        raise UsageError(f"{connection.directory / source} is not a directory")
    with connection.connect() as client:
        head = client.status().head
        if head.id:
            raise RefusedError(
                f"{client.address} has a repository already, at {outcome.short(head)}: 'eccfg clone DIR' gets it"
            )
        edits = _edits(connection.directory / source if source is not None else None)
        response = client.commit(edits, message or DEFAULT_MESSAGE, sign=sign)
        code = outcome.report(response, as_json=as_json)
    if not outcome.is_stored(response):
        return code
    _remember(connection)
    if not as_json:
        note("next: 'eccfg clone fleet', edit a file in it, 'eccfg commit -m WHY', 'eccfg nodes'")
    return code


def _edits(source: Path | None) -> list[Edit]:
    if source is None:
        return [Edit.put(path, m.REGULAR, content) for path, content in templates.repository().items()]
    files = ((path, read_file(source / path, str(source / path))) for path in scan_directory(source).files)
    edits = [Edit.put(path, file.mode, file.content) for path, file in files]
    if not edits:
        raise RefusedError(f"{source} has no files: nothing to begin with")
    return edits


def _remember(connection: Connection) -> None:
    """Write the settings file from the options; one that is there stays as it is. Revision 1 is there by now."""
    options, path = connection.options, connection.settings_file
    given = {"cert": options.cert, "key": options.key, "ca": options.ca}
    if not options.managers or not (options.insecure or all(given.values())):
        return
    if path.exists():
        note(f"{path} is there already: it stays as it is")
        return
    document: dict[str, object] = {"manager": options.managers[0] if len(options.managers) == 1 else options.managers}
    document |= {name: str(file.expanduser().absolute()) for name, file in given.items() if file is not None}
    if options.insecure:
        document["insecure"] = True
    try:
        connection.fs.make_dirs(path.parent)
        connection.fs.replace_bytes(path, tomli_w.dumps(document).encode(), 0o600)
    except OSError as error:
        note(f"note: {path} was not written ({error.strerror}): give the options with each command")
        return
    note(f"wrote {path}: from now on 'eccfg' needs no options")
