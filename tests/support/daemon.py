"""One real daemon as a child process: start, stop, kill -9, start again; its status, its cost, its last words.

The child dies with the test that started it (PR_SET_PDEATHSIG), so an aborted run
leaves nothing behind, unless ``leave_running`` says otherwise.
"""

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.usage import Usage, usage

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

START_S = 30.0  # a loaded machine starts Python slowly
STOP_S = 30.0


def until(condition: Callable[[], object], timeout_s: float, what: str, *, interval_s: float = 0.05) -> None:
    """Return when ``condition`` is true; AssertionError naming ``what`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(interval_s)


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished command said."""

    code: int
    out: bytes
    err: str

    def json(self) -> Any:
        """Its standard output as one document."""
        return json.loads(self.out)


def run_command(
    argv: Sequence[str],
    *,
    timeout_s: float = 60.0,
    cwd: Path | None = None,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run to the end; AssertionError when it does not end in time. ``environment`` is added to ours."""
    env = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(
            list(argv), capture_output=True, timeout=timeout_s, check=False, cwd=cwd, input=stdin, env=env
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"still running after {timeout_s:g} s: {' '.join(argv)}") from error
    return Result(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def die_with_parent() -> None:
    """For ``preexec_fn``: the kernel kills this process when the one that started it is gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@dataclass
class Daemon:
    """A daemon that can be started any number of times. Not thread-safe."""

    name: str
    argv: list[str]
    directory: Path  # working directory and home of its log, ``NAME.log``
    leave_running: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    starts: int = 0
    kills: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Everything it ever wrote to stdout and stderr, all starts after each other."""
        return self.directory / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Process id; AssertionError when it was never started."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; returns at once."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C is for the one who started it
                preexec_fn=None if self.leave_running else die_with_parent,  # noqa: PLW1509 -- one libc call
            )
        self.starts += 1

    def kill(self) -> None:
        """``kill -9``; returns when it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_S)
        self.kills += 1

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Exit code, as a shell tells it (128 + n for a signal); AssertionError when it does not end in time."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{self.name} still runs after {timeout_s:g} s\n{self.tail()}") from error
        return 128 - code if code < 0 else code

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Clean stop by SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def close(self) -> None:
        """Make sure that it is gone."""
        if self.running and not self.leave_running:
            assert self._process is not None
            self._process.kill()
            self._process.wait(STOP_S)

    def usage(self) -> Usage:
        """CPU and memory of the running process."""
        return usage(self.pid)

    def ended(self) -> str:
        """For messages: that it ended unasked, how, and its last words."""
        code = self._process.poll() if self._process is not None else None
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        return f"{self.name} {how}, and nobody here asked it to\n{self.tail()}"

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log, for messages."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"--- last lines of {self.log} ---\n" + "\n".join(text.splitlines()[-lines:])
