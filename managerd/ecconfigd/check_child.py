"""Becomes one of the operator's checks: limits, another user, no way back, then the program. Run by ``checks.Checks``.

    check_child.py UID GID CPU_S PROGRAM TREE     (UID and GID -1: as we are)

A script on its own. The manager itself cannot do this between fork and exec: a process full of gRPC's threads must not
fork (its handlers end the child now and then), and Python does without fork only where it changes nothing but files.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Final

FILES_MAX: Final = 1024  # open at once
FILE_BYTES_MAX: Final = 64 << 20  # of a file that a check writes
CANNOT_RUN: Final = 127  # as sh(1) says it

_PR_SET_NO_NEW_PRIVS: Final = 38  # prctl(2): set-user-ID programs bring nothing any more


def become(uid: int, gid: int, cpu_s: int, program: str, tree: str) -> None:
    """Never returns. OSError."""
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_NOFILE, FILES_MAX),
        (resource.RLIMIT_FSIZE, FILE_BYTES_MAX),
    ):
        _, hard = resource.getrlimit(limit)
        ours = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (ours, ours))
    if uid >= 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
        signal.signal(ignored, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())  # a daemon of ours blocks some
    os.execv(program, [program, tree])  # noqa: S606 - what we are for


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    uid, gid, cpu_s, program, tree = arguments
    try:
        become(int(uid), int(gid), int(cpu_s), program, tree)
    except OSError as error:
        os.write(2, f"{error.strerror}\n".encode())
    return CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
