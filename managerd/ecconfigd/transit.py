"""A pack on its way between two managers: in memory while it is small, else in a file that has no name.

Its size is known before it is sent, and bounded while it is received. Nothing of it outlives the process.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from jlogd.runtime.errors import DamageError, StorageError

PIECE_BYTES: Final = 1 << 20  # of one message
MEMORY_BYTES: Final = 4 << 20  # what most pushes are far below
PACK_BYTES_MAX: Final = 1 << 30  # of one revision: the largest tree that a commit may bring, and what stands around it
STEP_BYTES: Final = 128 << 20  # of several revisions: more go in several packs
INFLATED_BYTES_MAX: Final = 8 << 30  # what one pack may hold: versions of one file pack well


class TooLargeError(DamageError):
    """More bytes than were announced, or than may be."""


class Transit:
    """See the module. One thread at a time; ``close`` once."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        """``directory``: where there is room for it."""
        self.size = 0
        self._bytes_max = bytes_max
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES, dir=str(directory))  # noqa: SIM115 - see ``close``

    def close(self) -> None:
        """Forget it."""
        self._file.close()

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Forget it."""
        self.close()

    def add(self, piece: bytes) -> None:
        """The next piece. TooLargeError; DamageError for an empty one: those have no end; StorageError."""
        if not piece:
            raise DamageError("a pack has a piece without a byte")
        if self.size + len(piece) > self._bytes_max:
            raise TooLargeError(f"a pack of more than {self._bytes_max} bytes")
        try:
            self._file.write(piece)
        except OSError as error:
            raise StorageError(f"a pack cannot be kept until it is whole: {error.strerror}") from error
        self.size += len(piece)

    def fill(self, pieces: Iterable[bytes], bytes_max: int) -> None:
        """``pieces`` and nothing else. TooLargeError, StorageError."""
        self._file.seek(0)
        self._file.truncate()
        self.size, self._bytes_max = 0, bytes_max
        for piece in pieces:
            self.add(piece)

    def pieces(self) -> Iterator[bytes]:
        """From its beginning. StorageError."""
        try:
            self._file.seek(0)
            while piece := self._file.read(PIECE_BYTES):
                yield piece
        except OSError as error:
            raise StorageError(f"a pack cannot be read again: {error.strerror}") from error
