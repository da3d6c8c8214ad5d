"""Runs a program of the operator's (the reload command, a health check): no shell, a time limit, output kept.

The program gets its own session, an empty stdin, no blocked signals (jlogd blocks some, and a daemon that is started
from here must not inherit that) and the view as its directory. When its time is over, or jlogd stops, its
whole process group is killed.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from jlogd.runtime.arguments import format_time
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import StorageError
from jlogd.runtime.fs import OS, FileSystem

OUTPUT_MAX: Final = 64 << 10  # the last bytes are kept
OUTPUT_MODE: Final = 0o600  # programs print secrets
SHOWN_MAX: Final = 300  # characters of the last line in a message
_LOOK_S: Final = 0.1  # how often a program that runs is asked about, at least
_READS_MAX: Final = 16  # one after the other: a program that never stops talking must not escape its time limit
# posix_spawn cannot change the directory; "$@" is not interpreted by the shell.
_IN_DIRECTORY: Final = ("/bin/sh", "-c", 'cd -- "$1" && shift && exec "$@"', "sh")
_ALL_SIGNALS: Final = signal.valid_signals()


@dataclass(frozen=True, slots=True)
class Ran:
    """How it went. ``code`` as subprocess has it (minus a signal's number); None: it was killed, see ``problem``."""

    argv: tuple[str, ...]
    code: int | None
    output: bytes
    seconds: float
    problem: str = ""

    @property
    def error(self) -> str:
        """One line; empty when it ended with 0."""
        if self.code == 0:
            return ""
        said = self.last_line
        code = self.code or 0
        how = self.problem or (f"signal {-code}" if code < 0 else f"exit {code}")
        return f"{self.argv[0]}: {how}{': ' + said if said else ''}"

    @property
    def last_line(self) -> str:
        """Of the output, for a message."""
        lines = self.output.decode(errors="backslashreplace").split("\n")
        return next((line.strip()[:SHOWN_MAX] for line in reversed(lines) if line.strip()), "")


def run(
    argv: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    stopping: threading.Event,
    *,
    clock: Clock = SYSTEM,
) -> Ran:
    """Run ``argv`` in ``directory`` and wait. Never raises for what the program does."""
    began_s = clock.monotonic_s()
    try:
        child, reading = _start(argv, directory, environment)
    except (OSError, ValueError) as error:
        return Ran(tuple(argv), None, b"", 0.0, f"cannot be started: {error}")
    with _Child(child, reading) as running:
        while (status := running.ended()) is None:
            problem = "ended, because jlogd stops" if stopping.is_set() else ""
            if clock.monotonic_s() - began_s >= timeout_s:
                problem = f"did not end within {timeout_s:g} s"
            if problem:
                running.kill()
                return Ran(tuple(argv), None, bytes(running.output), clock.monotonic_s() - began_s, problem)
            running.wait(_LOOK_S)
        running.wait(0.0)
        code = os.waitstatus_to_exitcode(status)
        return Ran(tuple(argv), code, bytes(running.output), clock.monotonic_s() - began_s)


class _Child:
    """A process of ours, and what it says."""

    def __init__(self, pid: int, reading: int) -> None:
        self.output = bytearray()
        self._pid = pid
        self._reading = reading
        self._poll = select.poll()
        self._poll.register(reading, select.POLLIN)
        self._end = -1
        os.set_blocking(reading, False)
        with contextlib.suppress(OSError):  # a kernel before 5.3: then it is asked often
            self._end = os.pidfd_open(pid)
            self._poll.register(self._end, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for fd in (self._reading, self._end):
            if fd >= 0:
                os.close(fd)

    def ended(self) -> int | None:
        """Its status, once."""
        found, status = os.waitpid(self._pid, os.WNOHANG)
        return status if found else None

    def kill(self) -> None:
        """It and all of its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)  # it leads a session, so a group, of its own
        os.waitpid(self._pid, 0)
        self._take()

    def wait(self, wait_s: float) -> None:
        """For output, or the end."""
        ready = [fd for fd, _ in self._poll.poll(wait_s * 1000)]
        if self._reading in ready:
            self._take()

    def _take(self) -> None:
        """What there is to read, in bounded time."""
        for _ in range(_READS_MAX):
            try:
                piece = os.read(self._reading, OUTPUT_MAX)
            except BlockingIOError:
                return
            if not piece:  # it closed its output: nothing more comes
                with contextlib.suppress(KeyError):
                    self._poll.unregister(self._reading)
                return
            self.output += piece
            del self.output[:-OUTPUT_MAX]


def _start(argv: Sequence[str], directory: Path, environment: Mapping[str, str]) -> tuple[int, int]:
    """The process, and where its output comes from."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        return _spawn(argv, directory, environment, writing), reading
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)


def _spawn(argv: Sequence[str], directory: Path, environment: Mapping[str, str], output: int) -> int:
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            _IN_DIRECTORY[0],
            [*_IN_DIRECTORY, str(directory), *argv],
            {**os.environ, **environment},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in ((null, 0), (output, 1), (output, 2))],
            setsid=True,
            setsigmask=[],
            setsigdef=_ALL_SIGNALS - {signal.SIGKILL, signal.SIGSTOP},
        )
    finally:
        os.close(null)


def keep_output(path: Path, ran: Ran, revision: int, *, fs: FileSystem = OS, clock: Clock = SYSTEM) -> None:
    """Write down how the last run went, over the one before. StorageError."""
    how = ran.problem or f"exit {ran.code}"
    head = f"# {format_time(clock.wall_ns())} r{revision} {how} after {ran.seconds:.1f} s: {' '.join(ran.argv)}\n"
    try:
        fs.replace_bytes(path, head.encode(errors="backslashreplace") + ran.output, OUTPUT_MODE)
    except OSError as error:
        raise StorageError(f"{path}: the output of the reload command is not kept: {error.strerror}") from error
