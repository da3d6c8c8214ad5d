"""``jlogd subscriber ls | add | set | remove``: through the running daemon, else on the files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from jlogd.commands.agent import SUBSCRIBER_COLUMNS, settings_option, subscriber_row
from jlogd.journal import Journal
from jlogd.render import json_option, print_table
from jlogd.runtime.control import CONTROL_SOCKET, call
from jlogd.runtime.errors import UsageError
from jlogd.settings import AgentSettings, load
from jlogd.spool.owner import Owner, read_owner
from jlogd.status import begun_journals, dump, journals_directory, status
from jlogd.subscribers import apply

journal_option = click.option("--journal", metavar="GLOB", default="*", show_default=True, help="Which journals.")
yes_option = click.option("--yes", is_flag=True, help="Do it; without this nothing is changed.")


@click.group()
def subscriber() -> None:
    """The named readers of this node's journals. Data is kept until every subscriber has it.

    \b
    PLACE (--at): begin, end, an OFFSET, a TIME (RFC 3339, or 10m ago), or like:NAME.
    \b
    Examples:
      jlogd subscriber ls
      jlogd subscriber add audit --journal 'mail*' --at end
      jlogd subscriber set m1 --at 2h --yes
      jlogd subscriber remove old-manager --yes
    """


@subscriber.command("ls")
@settings_option
@json_option
def list_subscribers(settings_path: Path, *, as_json: bool) -> None:
    """Every subscriber with its checkpoint and how far it is behind.

    \b
    Examples:
      jlogd subscriber ls
      jlogd subscriber ls --json | jq '.subscribers[] | select(.lag_s > 60) | .name'
    """
    found = status(load(settings_path))["subscribers"]
    if as_json:
        click.echo(dump({"schema": 1, "subscribers": found}))
        return
    print_table(SUBSCRIBER_COLUMNS, [subscriber_row(item) for item in found])


@subscriber.command()
@click.argument("name")
@journal_option
@click.option("--at", metavar="PLACE", default="begin", show_default=True, help="Where it begins.")
@settings_option
@json_option
def add(name: str, journal: str, at: str, settings_path: Path, *, as_json: bool) -> None:
    """Add a subscriber, in all journals or in those that --journal names.

    \b
    Examples:
      jlogd subscriber add m2                                  before its [[manager]] is written: keep everything
      jlogd subscriber add audit --journal 'mail*' --at end
      jlogd subscriber add m2 --at like:m1
    """
    _report("added", name, _change(load(settings_path), "add", name=name, journal=journal, at=at), as_json=as_json)


@subscriber.command("set")
@click.argument("name")
@journal_option
@click.option("--at", metavar="PLACE", required=True, help="The new place.")
@yes_option
@settings_option
@json_option
def move(name: str, journal: str, at: str, settings_path: Path, *, yes: bool, as_json: bool) -> None:
    """Move a subscriber: what is before the new place need not be kept for it any more.

    A manager goes on where its archive ends, whatever is set here: lines come neither twice nor with holes
    as long as they are kept. The place counts for a manager that has no archive of this journal.

    \b
    Examples:
      jlogd subscriber set m2 --at 2h --yes          m2 is new: let it begin two hours ago
      jlogd subscriber set audit --at end --yes      nothing is kept for it until now
    """
    if not yes:
        raise UsageError(f"this moves {name} to {at}, forwards or backwards: say --yes")
    _report("moved", name, _change(load(settings_path), "set", name=name, journal=journal, at=at), as_json=as_json)


@subscriber.command()
@click.argument("name")
@journal_option
@yes_option
@settings_option
@json_option
def remove(name: str, journal: str, settings_path: Path, *, yes: bool, as_json: bool) -> None:
    """Forget a subscriber; what only it still needed may go.

    \b
    Example (after its [[manager]] was taken out and jlogd reloaded):
      jlogd subscriber remove old-manager --yes
    """
    if not yes:
        raise UsageError(f"what only {name} still needs will be deleted: say --yes")
    _report("removed", name, _change(load(settings_path), "remove", name=name, journal=journal), as_json=as_json)


def _report(what: str, name: str, journals: list[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(dump({"schema": 1, "name": name, "changed": journals}))
    else:
        click.echo(f"{what} {name}: {', '.join(journals)}")


def _change(settings: AgentSettings, action: str, **arguments: Any) -> list[str]:
    if read_owner(settings.directory).locked:
        answer = call(settings.directory / CONTROL_SOCKET, "subscriber", action=action, **arguments)
        return list(answer["changed"])
    with _opened(settings) as journals:
        return apply(journals, action, arguments)


@contextlib.contextmanager
def _opened(settings: AgentSettings) -> Iterator[dict[str, Journal]]:
    """The journals of a stopped node, under its lock."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(Owner.acquire(settings.directory, settings.node.name))
        directory = journals_directory(settings)
        yield {
            name: stack.enter_context(Journal.open(directory / name, options=settings.journal_options(name)))
            for name in begun_journals(settings)
        }
