"""Runs a click command as the process would, in this one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import pytest

from jlogd.runtime import command


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: bytes
    err: str

    def json(self) -> Any:
        """Stdout as one JSON document."""
        return json.loads(self.out)

    def objects(self) -> list[Any]:
        """Stdout as one JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Outcome]


def runner(group: click.Command, capture: pytest.CaptureFixture[bytes]) -> Run:
    """A function that runs ``group`` with the given words."""

    def run(*words: object) -> Outcome:
        capture.readouterr()
        with pytest.raises(SystemExit) as left:
            command.run(group, "test", [str(word) for word in words])
        written = capture.readouterr()
        code = left.value.code
        assert isinstance(code, int)
        return Outcome(code, written.out, written.err.decode())

    return run
