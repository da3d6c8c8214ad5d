"""The bytes of one file, plain or compressed, addressed by position.

A plain file grows while it is read. A compressed one counts only when its stream
is whole (valid trailer); it is streamed forward with bounded memory, so reads
should go upwards: stepping back starts it again from 0.
"""

import bz2
import errno
import gzip
import lzma
import os
import zlib
from typing import IO, Protocol

from backports import zstd

from jlogd.tail.siblings import Compression

_STEP = 256 << 10
BROKEN = (EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError, gzip.BadGzipFile, ValueError)


class Content(Protocol):
    """What a generation is read from."""

    compressed: bool
    dev: int
    ino: int

    def read_into(self, view: memoryview, position: int) -> int:
        """Fill ``view`` from ``position``; fewer bytes at the end, and rarely before it."""
        ...

    def read(self, length: int, position: int) -> bytes:
        """Up to ``length`` bytes; fewer only at the end."""
        ...

    def size(self) -> int:
        """Bytes of content now; a compressed stream that is not whole raises one of ``BROKEN``."""
        ...

    def close(self) -> None:
        """Release the descriptor; further calls do nothing."""
        ...


class PlainContent:
    """A plain file by its descriptor, which this object owns."""

    compressed = False

    def __init__(self, fd: int, status: os.stat_result) -> None:
        """``status`` is the file's own fstat."""
        self.fd = fd
        self.dev, self.ino = status.st_dev, status.st_ino

    def read_into(self, view: memoryview, position: int) -> int:
        """See ``Content``."""
        # One call: between two the file may be copied, truncated and filled anew, and the second would give the
        # new content's middle as the old one's end.
        return os.preadv(self.fd, [view], position)

    def read(self, length: int, position: int) -> bytes:
        """See ``Content``."""
        view = memoryview(bytearray(length))
        got = 0
        while got < length and (more := self.read_into(view[got:], position + got)):
            got += more
        return bytes(view[:got])

    def status(self) -> os.stat_result:
        """The file's fstat now."""
        return os.fstat(self.fd)

    def size(self) -> int:
        """See ``Content``."""
        return self.status().st_size

    def first_text(self, position: int) -> int | None:
        """The first position from ``position`` on whose byte is not NUL; None when there is none yet."""
        try:
            position = max(position, os.lseek(self.fd, position, os.SEEK_DATA))
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole follows
                return None
        while piece := self.read(_STEP, position):
            text = piece.lstrip(b"\0")
            if text:
                return position + len(piece) - len(text)
            position += len(piece)
        return None

    def close(self) -> None:
        """See ``Content``."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


class CompressedContent:
    """A compressed file, decompressed on the way; owns the descriptor."""

    compressed = True

    def __init__(self, fd: int, status: os.stat_result, compression: Compression) -> None:
        """``status`` is the file's own fstat."""
        self.dev, self.ino = status.st_dev, status.st_ino
        self._raw = os.fdopen(fd, "rb")
        self._compression = compression
        self._stored_size = status.st_size
        self._stream = self._begin()
        self._position = 0
        self._size: int | None = None

    def _begin(self) -> IO[bytes]:
        self._raw.seek(0)
        match self._compression:
            case "gz":
                return gzip.GzipFile(fileobj=self._raw)  # type: ignore[return-value]  # GzipFile is an IO but for its stubs
            case "bz2":
                return bz2.BZ2File(self._raw)
            case "xz":
                return lzma.LZMAFile(self._raw)
            case "zst":
                return zstd.ZstdFile(self._raw)  # type: ignore[return-value]  # likewise

    def _seek(self, position: int) -> bool:
        """Stand at ``position``; False when the content ends before it."""
        if position < self._position:
            self._stream = self._begin()
            self._position = 0
        while self._position < position:
            piece = self._stream.read(min(_STEP, position - self._position))
            if not piece:
                return False
            self._position += len(piece)
        return True

    def read(self, length: int, position: int) -> bytes:
        """See ``Content``."""
        if not self._seek(position):
            return b""
        pieces, left = [], length
        while left and (piece := self._stream.read(min(_STEP, left))):
            pieces.append(piece)
            left -= len(piece)
            self._position += len(piece)
        return b"".join(pieces)

    def read_into(self, view: memoryview, position: int) -> int:
        """See ``Content``."""
        piece = self.read(view.nbytes, position)
        view[: len(piece)] = piece
        return len(piece)

    def size(self) -> int:
        """See ``Content``; the first call reads to the end, which checks the trailer."""
        if self._size is None:
            if not self._stored_size:
                raise EOFError("empty")
            while piece := self._stream.read(_STEP):
                self._position += len(piece)
            self._size = self._position
        return self._size

    def close(self) -> None:
        """See ``Content``."""
        self._raw.close()
