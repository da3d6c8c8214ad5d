"""How source files are looked at: stat, list, open for reading. Tests subclass it to fail.

Source files are not ours: nothing here writes, and nothing blocks on a FIFO.
Thread-safe. Errors are ``OSError``.
"""

import os
import stat


class SourceFs:
    """The machine's files as a follower sees them."""

    def stat(self, path: bytes) -> os.stat_result:
        """Follow links; ``FileNotFoundError`` when nothing is there."""
        return os.stat(path)

    def names(self, directory: bytes) -> list[bytes]:
        """Names in ``directory``, unordered."""
        return os.listdir(directory)

    def open(self, path: bytes) -> int:
        """Open for reading without ever blocking or taking a terminal; the caller closes the descriptor."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)

    def fstat(self, fd: int) -> os.stat_result:
        """Of an open file."""
        return os.fstat(fd)


SOURCE_FS = SourceFs()


def refusal(mode: int) -> str | None:
    """Why a file of this mode cannot be followed; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
    }
    return f"is {kinds.get(stat.S_IFMT(mode), 'not a regular file')}, not a regular file"
