"""Values that only their recipients can read: ``$age:`` and base64 of an age file.

A node's identity is one file, mode 0600, written once and never changed. pyrage is loaded when it is needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from jlogd.confrepo.model import SECRET_PREFIX
from jlogd.runtime.fs import OS, FileSystem


def is_secret(value: object) -> bool:
    """Whether ``value`` is an encrypted one."""
    return isinstance(value, str) and value.startswith(SECRET_PREFIX)


def encrypt(text: str, recipients: Sequence[str]) -> str:
    """``$age:…``, readable by each of the recipients (``age1…``). RefusedError."""
    raise NotImplementedError


class Identity:
    """A node's own key."""

    recipient: str

    @classmethod
    def load_or_create(cls, path: Path, fs: FileSystem = OS) -> Self:
        """Read ``path``, or make it, durably. DamageError, StorageError."""
        raise NotImplementedError

    def decrypt(self, value: str) -> str:
        """The text of a secret. RefusedError."""
        raise NotImplementedError
