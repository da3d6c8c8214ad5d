"""The ``eccfg`` command: the options of the connection, and which module has which command."""

from pathlib import Path
from typing import NoReturn

import click

from jlogd import __version__
from jlogd.runtime import command
from managerd.eccfg.connection import Connection, Options

LAZY = {
    "bootstrap": "managerd.eccfg.commands.bootstrap:bootstrap",
    "clone": "managerd.eccfg.commands.working:clone",
    "status": "managerd.eccfg.commands.working:status",
    "diff": "managerd.eccfg.commands.comparing:diff",
    "add": "managerd.eccfg.commands.working:add",
    "rm": "managerd.eccfg.commands.working:rm",
    "restore": "managerd.eccfg.commands.working:restore",
    "check": "managerd.eccfg.commands.committing:check",
    "commit": "managerd.eccfg.commands.committing:commit",
    "pull": "managerd.eccfg.commands.pulling:pull",
    "resolve": "managerd.eccfg.commands.pulling:resolve",
    "put": "managerd.eccfg.commands.server:put",
    "delete": "managerd.eccfg.commands.server:delete",
    "copy": "managerd.eccfg.commands.server:copy",
    "overlay": "managerd.eccfg.commands.server:overlay",
    "revert": "managerd.eccfg.commands.server:revert",
    "rollback": "managerd.eccfg.commands.server:rollback",
    "put-running": "managerd.eccfg.commands.running:put_running",
    "subcluster": "managerd.eccfg.commands.subcluster:subcluster",
    "secret": "managerd.eccfg.commands.secret:secret",
    "log": "managerd.eccfg.commands.history:log",
    "show": "managerd.eccfg.commands.history:show",
    "cat": "managerd.eccfg.commands.reading:cat",
    "blame": "managerd.eccfg.commands.reading:blame",
    "explain": "managerd.eccfg.commands.reading:explain",
    "effective": "managerd.eccfg.commands.reading:effective",
    "nodes": "managerd.eccfg.commands.nodes:nodes",
    "wait": "managerd.eccfg.commands.nodes:wait",
    "watch": "managerd.eccfg.commands.watching:watch",
    "rollout": "managerd.eccfg.commands.rollout:rollout",
    "export": "managerd.eccfg.commands.bundles:export_",
    "import": "managerd.eccfg.commands.bundles:import_",
}


@click.group(cls=command.LazyGroup, lazy=LAZY)
@click.version_option(__version__, prog_name="eccfg")
@click.option(
    "-C", "directory", metavar="DIR", type=click.Path(path_type=Path), default=Path(),
    help="Work there, as if it were the current directory.",
)  # fmt: skip
@click.option("--manager", "managers", metavar="HOST:PORT", multiple=True, help="Several: the first that answers.")
@click.option("--cert", metavar="FILE", type=click.Path(path_type=Path), help="Your certificate.")
@click.option("--key", metavar="FILE", type=click.Path(path_type=Path), help="Its key.")
@click.option("--ca", metavar="FILE", type=click.Path(path_type=Path), help="The certificate authority.")
@click.option("--insecure", is_flag=True, help="No TLS; loopback addresses only.")
@click.pass_context
def cli(
    context: click.Context, directory: Path, managers: tuple[str, ...], cert: Path | None, key: Path | None,
    ca: Path | None, *, insecure: bool,
) -> None:  # fmt: skip
    """Configuration of a fleet: commit it, see it arrive on every node.

    \b
    A first run:
      eccfg --manager m1:7440 --ca ca.crt --cert alice.crt --key alice.key bootstrap
      eccfg clone fleet && cd fleet          a working copy; the connection is remembered
      $EDITOR global/example.toml
      eccfg diff                             what changed here
      eccfg commit -m "Greet everybody"      prints r2 and its id
      eccfg wait r2                          until every node runs it
      eccfg explain example.toml --node web1 which layer gives each value
    \b
    The connection is --manager, --cert, --key, --ca; what is not given is taken from
    ~/.config/eccfg.toml, and what is not there either from ECCFG_MANAGER, ECCFG_CERT, ECCFG_KEY, ECCFG_CA.
    REV is rN, HEAD, HEAD~N, or the beginning of an id.
    \b
    Exit codes: 0 ok, 1 failure (also unreachable, not permitted), 2 usage, 3 settings, 5 damage found,
    6 refused or conflict, 7 deadline passed (a commit: stored, but not yet on enough managers).
    --debug anywhere shows the traceback of an error. Completion: eval "$(_ECCFG_COMPLETE=bash_source eccfg)"
    """
    context.obj = Connection(Options(managers, cert, key, ca, insecure), directory)


def main() -> NoReturn:
    """Entry point."""
    command.run(cli, "eccfg")


if __name__ == "__main__":
    main()
