"""``eccfg pull | resolve``: what others committed comes in; conflicts are solved by hand."""

import click

from jlogd.render import json_option, note, print_json, printable
from jlogd.runtime.errors import ConflictError, UsageError
from managerd.eccfg import outcome
from managerd.eccfg.commands.committing import committing_options
from managerd.eccfg.commands.working import Shown, changing_copy
from managerd.eccfg.connection import Connection, pass_connection
from managerd.eccfg.lineage import base_explained
from managerd.eccfg.outcome import ID_DIGITS
from managerd.eccfg.pulling import Choice, Pulled
from managerd.eccfg.pulling import pull as pull_changes
from managerd.eccfg.pulling import resolve as resolve_conflicts
from managerd.v1 import config_pb2 as pb


@click.command()
@click.option("--mine", "choice", flag_value=Choice.MINE, type=Choice, help="Where both changed a file: keep mine.")
@click.option("--theirs", "choice", flag_value=Choice.THEIRS, type=Choice, help="Take theirs; mine is lost.")
@click.option("--manual", "choice", flag_value=Choice.MANUAL, type=Choice, help="Leave both in the file, to edit.")
@json_option
@pass_connection
def pull(connection: Connection, choice: Choice | None, *, as_json: bool) -> int:
    """Take in what others committed; all of it, or nothing.

    What both sides changed is merged, per key in TOML, YAML and JSON, else per line. Where that cannot be done the
    pull is refused (exit 6) unless you choose: --mine, --theirs, or --manual, which writes both between
    markers and FILE.mine, FILE.base, FILE.theirs beside it; edit FILE, then `eccfg resolve FILE`.

    \b
    Examples:
      eccfg pull
      eccfg pull --manual
    """
    with changing_copy(connection) as copy, connection.connect() as client, base_explained(client, copy.index):
        pulled = pull_changes(copy, Shown(client), choice or Choice.REFUSE)
    if pulled.conflicts:
        return _refused(pulled, as_json=as_json)
    if as_json:
        print_json(
            {
                "revision": pulled.revision,
                "id": pulled.id,
                "updated": pulled.updated,
                "merged": pulled.merged,
                "kept": pulled.kept,
                "conflicts": pulled.manual,
            }
        )
        return 0
    for word, paths in (("updated", pulled.updated), ("merged", pulled.merged), ("kept mine", pulled.kept)):
        for path in paths:
            click.echo(f"{word:10} {printable(path)}")
    for path in pulled.manual:
        click.echo(f"conflicted {printable(path)}")
    if pulled.manual:
        note("edit what is conflicted, then 'eccfg resolve' it")
    click.echo(f"at r{pulled.revision} {pulled.id[:ID_DIGITS]}")
    return 0


def _refused(pulled: Pulled, *, as_json: bool) -> int:
    response = pb.CommitResponse(
        outcome=pb.CommitResponse.OUTCOME_CONFLICT,
        conflicts=[
            pb.Conflict(path=each.path, keys=each.keys, base=each.base, mine=each.mine, theirs=each.theirs)
            for each in pulled.conflicts
        ],
    )
    if as_json:
        return outcome.report(response, as_json=True)
    for conflict in response.conflicts:
        for line in outcome.conflict_lines(conflict):
            note(line)
    note("nothing was changed: choose with 'eccfg pull --mine', '--theirs' or '--manual'")
    return ConflictError.exit_code


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1)
@click.option(
    "--side", "sides", metavar="NAME", multiple=True, help="A side branch that is settled; see 'eccfg status'."
)
@committing_options(required=False)
@pass_connection
def resolve(
    connection: Connection, paths: tuple[str, ...], sides: tuple[str, ...], message: str | None, *, sign: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Say that a conflict is solved: the file is as you want it.

    After `pull --manual`: takes FILE.mine, FILE.base, FILE.theirs away, and the file can be committed.
    With --side: what two managers took at the same time and could not merge is settled; its branch goes.

    \b
    Examples:
      eccfg resolve global/app.toml
      eccfg resolve --side m2-r17 -m "Took over by hand"
    """
    if bool(paths) == bool(sides):
        raise UsageError("name files, or side branches with --side")
    if sides:
        if message is None:
            raise UsageError("--side makes a change for everybody: say why with -m")
        with connection.connect() as client:
            return outcome.report(client.commit([], message, sign=sign, settles=sides), as_json=as_json)
    with changing_copy(connection) as copy:
        done = resolve_conflicts(copy, copy.local_paths(paths, connection.directory))
    if as_json:
        print_json({"paths": done})
    else:
        for path in done:
            click.echo(f"resolved {printable(path)}")
    return 0
