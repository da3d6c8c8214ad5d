"""The ``managerd`` command."""

from typing import NoReturn

import click

from jlogd import __version__
from jlogd.runtime import command

LAZY = {
    "run": "managerd.commands.manager:run",
    "check": "managerd.commands.manager:check",
    "status": "managerd.commands.manager:show_status",
    "nodes": "managerd.commands.manager:nodes",
    "logs": "managerd.commands.logs:logs",
    "pki": "managerd.commands.pki:pki",
}


@click.group(cls=command.LazyGroup, lazy=LAZY)
@click.version_option(__version__, prog_name="managerd")
def cli() -> None:
    """The manager: takes in every node's journals, keeps them, searches them.

    \b
    A first run:
      managerd pki init ./pki                          a certificate authority
      managerd pki issue manager m1 --pki ./pki        a certificate for this manager
      managerd run -c managerd.toml                    take in, in the foreground
      managerd logs tail 'web1/*' -c managerd.toml     see lines arrive
    \b
    Exit codes: 0 ok, 1 failure, 2 usage, 3 settings, 4 archive locked, 5 damage found, 6 refused, 7 deadline.
    --debug anywhere shows the traceback of an error.
    """


def main() -> NoReturn:
    """Entry point."""
    command.run(cli, "managerd")


if __name__ == "__main__":
    main()
