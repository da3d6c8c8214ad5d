"""The highest epoch seen of each subscriber's manager: ``<spool>/<node>/epochs.json``, durable.

A manager whose epoch is lower than stored is an older copy of a data directory (a restored
disk that still runs, a second host on the same storage) and is refused.
"""

import json
import threading
from pathlib import Path

from jlogd.runtime.errors import DamageError, StorageError
from jlogd.runtime.fs import OS, FileSystem

_lock = threading.Lock()  # one process writes the file, several forwarders of it may want to


class EpochStore:
    """Read and raise epochs; every call reads the file, which is small. Any thread."""

    def __init__(self, path: Path, *, fs: FileSystem = OS) -> None:
        """Nothing is read yet."""
        self._path = path
        self._fs = fs

    def seen(self, subscriber: str) -> int:
        """The highest epoch stored, 0 when there is none. DamageError, StorageError."""
        with _lock:
            return self._read().get(subscriber, 0)

    def store(self, subscriber: str, epoch: int) -> None:
        """Durable on return; a lower epoch than the stored one changes nothing. DamageError, StorageError."""
        with _lock:
            known = self._read()
            if known.get(subscriber, 0) >= epoch:
                return
            known[subscriber] = epoch
            try:
                self._fs.replace_bytes(self._path, json.dumps(known, sort_keys=True).encode() + b"\n")
            except OSError as error:
                raise StorageError(f"{self._path}: cannot store the manager's epoch: {error.strerror}") from error

    def _read(self) -> dict[str, int]:
        try:
            with self._fs.open_read(self._path) as file:
                text = file.pread(1 << 20, 0)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error
        try:
            known = json.loads(text)
            return {str(name): int(epoch) for name, epoch in known.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise DamageError(
                f"{self._path} is damaged ({error}): remove it if every manager is the right one"
            ) from error
