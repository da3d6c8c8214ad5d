"""``eccfg commit | check``: local changes become a revision, or would."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from jlogd.render import json_option, note, printable
from jlogd.runtime.errors import JlogdError, RefusedError
from managerd.eccfg import outcome
from managerd.eccfg.client import Client
from managerd.eccfg.commands.working import changing_copy
from managerd.eccfg.connection import Connection, pass_connection
from managerd.eccfg.lineage import base_explained
from managerd.eccfg.pulling import pull
from managerd.eccfg.working import COMMITTABLE, Kind, Local, Prepared, WorkingCopy
from managerd.v1 import config_pb2 as pb

NAMED_MAX = 10  # files that are left out, in messages
ARRIVAL_TRIES, ARRIVAL_PAUSE_S = 10, 0.2  # as long as a push to another manager takes, over slow lines too
_Command = TypeVar("_Command", bound=Callable[..., Any])


def committing_options(*, required: bool = True) -> Callable[[_Command], _Command]:
    """``-m``, ``--no-sign``, ``--json``, as (message, sign, as_json)."""

    def decorate(command: _Command) -> _Command:
        for option in (
            json_option,
            click.option("--no-sign", "sign", is_flag=True, flag_value=False, default=True, help="Do not sign it."),
            click.option("-m", "--message", metavar="MSG", required=required, help="Why, for the log."),
        ):
            command = option(command)
        return command

    return decorate


@click.command()
@committing_options()
@click.option("--all", "everything", is_flag=True, help="Also add unknown files and delete missing ones.")
@pass_connection
def commit(connection: Connection, message: str, *, sign: bool, everything: bool, as_json: bool) -> int:
    """Commit what was changed here: modified files, and what `add` and `rm` staged.

    Prints the revision and its id. What others committed meanwhile is merged where nothing overlaps. Exit 6:
    refused (each fault with file and line) or conflict, nothing is stored; 7: stored, but not yet on enough managers.

    \b
    Examples:
      eccfg commit -m "Longer timeouts for web1"
      eccfg commit --all -m "New node" --json | jq -r .id
    """
    with changing_copy(connection) as copy:
        prepared = copy.prepare(everything=everything)
        if not as_json:
            _name_left_out(prepared.left)
        if prepared.empty:
            return outcome.report(pb.CommitResponse(outcome=pb.CommitResponse.OUTCOME_NOTHING), as_json=as_json)
        with connection.connect() as client:
            with base_explained(client, copy.index):
                response = client.commit(copy.edits(prepared), message, base=copy.index.id, sign=sign)
            code = outcome.report(response, as_json=as_json)
            if outcome.is_stored(response):
                _move_on(copy, client, prepared, response)
            elif response.outcome == pb.CommitResponse.OUTCOME_NOTHING:
                _catch_up(copy, client, "")
    return code


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also with unknown files, and without missing ones.")
@json_option
@pass_connection
def check(connection: Connection, *, everything: bool, as_json: bool) -> int:
    """What the server would say to a commit: nothing is stored. Exit 6 when it would refuse.

    \b
    Example:
      eccfg check && eccfg commit -m "Ready"
    """
    with changing_copy(connection) as copy:
        prepared = copy.prepare(everything=everything)
        if not as_json:
            _name_left_out(prepared.left)
        with connection.connect() as client, base_explained(client, copy.index):
            response = client.commit(copy.edits(prepared), "check", base=copy.index.id, dry_run=True)
    return outcome.report(response, as_json=as_json)


def _name_left_out(left: list[Local]) -> None:
    for each in left[:NAMED_MAX]:
        if each.kind is Kind.SPECIAL:
            note(f"left out: {printable(each.path)} is {each.special}: {COMMITTABLE}")
            continue
        how = "eccfg add" if each.kind is Kind.UNKNOWN else "eccfg rm"
        note(f"left out: {each.kind} {printable(each.path)} ('{how}' it, or --all)")
    if len(left) > NAMED_MAX:
        note(f"left out: {len(left) - NAMED_MAX} more; see 'eccfg status'")


def _move_on(copy: WorkingCopy, client: Client, prepared: Prepared, response: pb.CommitResponse) -> None:
    revision = response.revision
    if not response.merged and revision.revision == copy.index.revision + 1:
        copy.moved_on(prepared, copy.index.revision + 1, revision.id)  # type: ignore[arg-type]
    else:
        _catch_up(copy, client, revision.id)


def _catch_up(copy: WorkingCopy, client: Client, revision: str) -> None:
    """Others' changes are in that revision too: the base moves as in a pull. What cannot be is left to the person."""
    try:
        _await_revision(client, revision)
        blocked = bool(pull(copy, client, revision=revision).conflicts)
    except JlogdError as error:
        note(f"note: {printable(str(error).splitlines()[0])}")
        blocked = True
    if blocked:
        note("note: the commit is in, but this working copy could not follow: 'eccfg pull'")


def _await_revision(client: Client, revision: str) -> None:
    """A manager that passed the commit on has the revision a moment later than the writer."""
    for _ in range(ARRIVAL_TRIES):
        try:
            client.log(until=revision, limit=1)
            return
        except RefusedError:
            time.sleep(ARRIVAL_PAUSE_S)
