"""The operator's own checks: programs of ``[config] checks`` that look at the tree that a commit would make.

Each gets a directory with the whole tree as its only argument and working directory. It runs as ``checks_user`` when
managerd runs as root, in a session of its own, with limits on time, memory for output, open files and file sizes; when
its time is over the session is killed. Status 0: nothing is wrong. Else each line ``path:line: problem`` that it wrote
is a fault, and the other lines together are one.
"""

import contextlib
import logging
import os
import pwd
import re
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from jlogd.confrepo.model import Fault
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import SettingsError, StorageError
from managerd.ecconfigd.candidate import Candidate
from managerd.ecconfigd.check_child import CANNOT_RUN
from managerd.ecconfigd.checkout import Checkout

log = logging.getLogger(__name__)

OUTPUT_MAX: Final = 64 << 10  # bytes of one check
TEXT_MAX: Final = 1000  # characters of one fault
CPU_SLACK_S: Final = 2.0  # above the time it has: by then it was killed

_CHILD: Final = Path(__file__).with_name("check_child.py")
_FAULT: Final = re.compile(r"(?P<path>[^:\n]+):(?P<line>[0-9]{1,9}): ?(?P<problem>.+)")


class Checks:
    """See the module. ``run`` from any thread, one at a time; ``close`` once."""

    def __init__(
        self,
        programs: Sequence[Path],
        *,
        user: str,
        timeout_s: float,
        clock: Clock = SYSTEM,
        scratch: Path | None = None,
    ) -> None:
        """``timeout_s``: of each program. ``scratch``: where the tree is laid out, the system's default for None.

        SettingsError for a user that is not there.
        """
        self._programs = tuple(programs)
        self._timeout_s = timeout_s
        self._clock = clock
        self._user = _user(user) if os.geteuid() == 0 else None
        self._lock = threading.Lock()  # guards the checkout; held while programs run, which is bounded
        self._checkout = Checkout(scratch, group=self._user.pw_gid if self._user is not None else None)

    def run(self, candidate: Candidate, *, author: str, message: str) -> list[Fault]:
        """What the programs say of ``candidate``. StorageError when they cannot be asked."""
        with self._lock:
            tree = self._checkout.lay_out(candidate)
            said = {"JLOGD_CHECK_AUTHOR": author, "JLOGD_CHECK_MESSAGE": message[:TEXT_MAX]}
            return sorted({fault for program in self._programs for fault in self._ask(program, tree, said)})

    def close(self) -> None:
        """Remove what was laid out."""
        with self._lock:
            self._checkout.close()

    def _ask(self, program: Path, tree: Path, said: Mapping[str, str]) -> list[Fault]:
        environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "JLOGD_CHECK_TREE": str(tree), **said}
        process = self._start(program, tree, environment)
        try:
            output, why = self._read(process)
        finally:
            _kill(process)
        if why:
            return [Fault("", 0, f"check {program.name}: {why}")]
        if process.returncode == CANNOT_RUN:
            why = output.decode(errors="replace").strip()[:TEXT_MAX] or "not found, or not permitted"
            raise StorageError(f"check {program} cannot be run: {why}")
        return faults_of(program.name, output, tree) if process.returncode else []

    def _start(self, program: Path, tree: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        user, cpu_s = self._user, int(self._timeout_s + CPU_SLACK_S)
        ids = (user.pw_uid, user.pw_gid) if user is not None else (-1, -1)
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", _CHILD, *map(str, ids), str(cpu_s), program, tree],
                cwd=tree, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except (OSError, ValueError) as error:  # ValueError: a NUL in the message
            raise StorageError(f"check {program} cannot be run: {error}") from error

    def _read(self, process: "subprocess.Popen[bytes]") -> tuple[bytes, str]:
        """What it wrote until it ended, and why it is to be ended otherwise; empty = it ended by itself."""
        assert process.stdout is not None
        end_s = self._clock.monotonic_s() + self._timeout_s
        late = f"did not end within {self._timeout_s:g} s ([config] check_timeout)"
        output = b""
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while (left_s := end_s - self._clock.monotonic_s()) > 0:
                if not ready.select(left_s):
                    return output, late
                piece = _piece(process.stdout)
                if not piece:
                    break
                output += piece
                if len(output) > OUTPUT_MAX:
                    return output, f"writes more than {OUTPUT_MAX} bytes"
            ready.unregister(process.stdout)
            with _ended(process) as ended:  # not reaped yet: until then its number, and its group's, is nobody else's
                ready.register(ended, selectors.EVENT_READ)
                return output, "" if ready.select(max(end_s - self._clock.monotonic_s(), 0)) else late


def faults_of(name: str, output: bytes, tree: Path) -> list[Fault]:
    """What the failed check ``name`` wrote as faults; at least one."""
    faults: list[Fault] = []
    rest: list[str] = []
    for line in output.decode(errors="replace").splitlines():
        text = line.removeprefix(f"{tree}/").removeprefix("./")
        found = _FAULT.fullmatch(text)
        if found is not None and not found["path"].startswith("/"):
            faults.append(Fault(found["path"], int(found["line"]), f"{found['problem'][:TEXT_MAX]} (check {name})"))
        elif line.strip():
            rest.append(line.strip())
    if rest or not faults:
        said = "; ".join(rest) or "it failed, and did not say why"
        faults.append(Fault("", 0, f"check {name}: {said[:TEXT_MAX]}"))
    return faults


@contextlib.contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[int]:
    """A descriptor that can be read once the process ended."""
    descriptor = os.pidfd_open(process.pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _piece(stream: IO[bytes]) -> bytes:
    return os.read(stream.fileno(), OUTPUT_MAX)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """It and whatever it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:  # closes the pipe and waits
        pass


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise SettingsError([f"[config] checks_user: there is no user {name!r} on this machine"]) from None
