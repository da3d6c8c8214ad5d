"""The ``jlogd`` command."""

from typing import NoReturn

import click

from jlogd import __version__
from jlogd.runtime import command

LAZY = {
    "run": "jlogd.commands.agent:run",
    "check": "jlogd.commands.agent:check",
    "status": "jlogd.commands.agent:show_status",
    "drain": "jlogd.commands.agent:drain",
    "journal": "jlogd.commands.journal:journal",
    "subscriber": "jlogd.commands.subscriber:subscriber",
}


@click.group(cls=command.LazyGroup, lazy=LAZY)
@click.version_option(__version__, prog_name="jlogd")
def cli() -> None:
    """The node log agent: follows files, keeps every line in a durable journal, delivers it exactly once.

    \b
    A first run:
      jlogd check -c jlogd.toml       are the settings right?
      jlogd run -c jlogd.toml         follow and deliver, in the foreground
      jlogd status -c jlogd.toml      what is read, held and delivered
    \b
    Exit codes: 0 ok, 1 failure, 2 usage, 3 settings, 4 spool locked, 5 damage found, 6 refused, 7 deadline.
    --debug anywhere shows the traceback of an error.
    """


def main() -> NoReturn:
    """Entry point."""
    command.run(cli, "jlogd")


if __name__ == "__main__":
    main()
