"""The frame around every command line: errors become one line and an exit code, tracebacks only with ``--debug``.

With ``--json`` among the arguments an error is one JSON document on stderr:
``{"error": {"reason", "message"}}``.
"""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from jlogd.runtime.errors import JlogdError, UsageError


class LazyGroup(click.Group):
    """A group whose sub-commands are imported when they are named: a daemon does not load what it never runs."""

    def __init__(self, *args: Any, lazy: Mapping[str, str], **kwargs: Any) -> None:
        """``lazy``: sub-command → ``module:attribute``."""
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order given, not by the alphabet: the first run first."""
        return [*super().list_commands(ctx), *self._lazy]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        place = self._lazy.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        return command if isinstance(command, click.Command) else None


def run(command: click.Command, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``command`` with the process's arguments and leave with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    as_json = "--json" in words
    try:
        result = command.main([word for word in words if word != "--debug"], prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        if as_json:
            _complain(UsageError.reason, error.format_message(), as_json=True)
        else:
            error.show()
        sys.exit(UsageError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except JlogdError as error:
        if debug:
            raise
        _complain(error.reason, str(error), as_json=as_json)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _complain("storage", f"{where}{error.strerror or error}", as_json=as_json)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


def printable(text: str) -> str:
    """``text`` with control characters escaped: what others named must not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _complain(reason: str, message: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": {"reason": reason, "message": message}}), err=True)
    else:
        for line in message.split("\n") if message else [reason]:
            click.echo(f"error: {printable(line)}", err=True)
