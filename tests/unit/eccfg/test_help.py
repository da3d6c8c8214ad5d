"""Every command can be loaded, says what it does, and shows an example; the reference names it."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from managerd.eccfg.cli import LAZY, cli

REFERENCE = (Path(__file__).parents[3] / "docs/eccfg.md").read_text()


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


@pytest.mark.parametrize("name", LAZY)
def test_a_command_explains_itself(name: str) -> None:
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    found = dict(commands(command, f"{name} ")) if isinstance(command, click.Group) else {name: command}
    for words, each in found.items():
        text = each.help or ""
        assert "Example" in text, words
        assert re.search(rf"eccfg .*{words}", text), words
        assert f"eccfg {words}" in REFERENCE or f"rollout {words.split()[-1]}" in REFERENCE, words
