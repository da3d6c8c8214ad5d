"""The ``jlogd`` command."""

from typing import NoReturn

import click

from jlogd import __version__
from jlogd.commands.agent import check, drain, run, show_status
from jlogd.commands.journal import journal
from jlogd.commands.subscriber import subscriber
from jlogd.runtime import command


@click.group()
@click.version_option(__version__, prog_name="jlogd")
def cli() -> None:
    r"""The node log agent: follows files, keeps every line in a durable journal, delivers it exactly once.

    \b
    A first run:
      jlogd check -c jlogd.toml       are the settings right?
      jlogd run -c jlogd.toml         follow and deliver, in the foreground
      jlogd status -c jlogd.toml      what is read, held and delivered
    \b
    Exit codes: 0 ok, 1 failure, 2 usage, 3 settings, 4 spool locked, 5 damage found, 6 refused, 7 deadline.
    --debug anywhere shows the traceback of an error.
    """


for _command in (run, check, show_status, drain, journal, subscriber):
    cli.add_command(_command)


def main() -> NoReturn:
    """Entry point."""
    command.run(cli, "jlogd")


if __name__ == "__main__":
    main()
