"""Values that only their recipients can read: ``$age:`` and base64 of an age file (X25519).

A node's identity is one file, mode 0600, written once and never changed or overwritten; it never leaves the node.
pyrage is loaded when it is needed.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from jlogd.confrepo.model import SECRET_PREFIX
from jlogd.runtime.errors import DamageError, RefusedError, StorageError
from jlogd.runtime.fs import OS, FileSystem

TEXT_BYTES_MAX: Final = 256 << 10  # a key with its chain of certificates, and room
RECIPIENTS_MAX: Final = 1_000  # nodes of a subcluster; each adds about 100 bytes
_VALUE_CHARS_MAX: Final = 2 * (TEXT_BYTES_MAX + 200 * RECIPIENTS_MAX)
_MODE: Final = 0o600
_OTHERS: Final = 0o077
_FILE_BYTES_MAX: Final = 4096
_KEY: Final = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]{58}")


def is_secret(value: object) -> bool:
    """Whether ``value`` is an encrypted one."""
    return isinstance(value, str) and value.startswith(SECRET_PREFIX)


def encrypt(text: str, recipients: Sequence[str]) -> str:
    """``$age:…``, readable by each of the recipients (``age1…``). RefusedError."""
    age = _age()
    content = _encoded(text)
    if not 0 < len(recipients) <= RECIPIENTS_MAX:
        raise RefusedError(f"a secret needs 1 to {RECIPIENTS_MAX} recipients, not {len(recipients)}")
    keys = []
    for recipient in dict.fromkeys(recipients):
        try:
            keys.append(age.x25519.Recipient.from_str(recipient))
        except age.RecipientError as error:
            raise RefusedError(f"{recipient[:80]!r} is not an age recipient (age1…): {error}") from error
    return SECRET_PREFIX + base64.b64encode(age.encrypt(content, keys)).decode()


def _encoded(text: str) -> bytes:
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise RefusedError("a secret must be Unicode text") from error
    if len(content) > TEXT_BYTES_MAX:
        raise RefusedError(f"a secret has at most {TEXT_BYTES_MAX} bytes, this one has {len(content)}")
    return content


class Identity:
    """A node's own key. Any thread."""

    def __init__(self, key: str) -> None:
        """Of ``AGE-SECRET-KEY-1…``. ValueError."""
        self._age = age = _age()
        try:
            self._identity = age.x25519.Identity.from_str(key)
        except age.IdentityError as error:
            raise ValueError(str(error)) from error
        self.recipient = str(self._identity.to_public())

    @classmethod
    def load_or_create(cls, path: Path, fs: FileSystem = OS) -> Self:
        """Read ``path``, or make it, durably. DamageError, StorageError; RefusedError when others can read it."""
        try:
            if not path.exists():
                fs.make_dirs(path.parent)
                fs.replace_bytes(path, _new_key(), _MODE)
            fs.sync_dir(path.parent)  # an earlier start may have failed just here; the key must outlive what it opens
            with fs.open_read(path) as file:
                text = file.pread(_FILE_BYTES_MAX, 0).decode(errors="replace")
            mode = path.stat().st_mode
        except OSError as error:
            raise StorageError(f"{error.filename or path}: {error.strerror or error}") from error
        if mode & _OTHERS:
            raise RefusedError(f"{path}: others can read this node's key: chmod 600 it")
        found = _KEY.search(text)
        if found is None:
            raise DamageError(
                f"{path}: no age identity in it: restore it, or remove it and set this node's secrets again"
            )
        try:
            return cls(found[0])
        except ValueError as error:
            raise DamageError(f"{path}: its age identity is damaged: {error}") from error

    def decrypt(self, value: str) -> str:
        """The text of a secret. RefusedError says whom it is not for."""
        if not is_secret(value) or len(value) > _VALUE_CHARS_MAX:
            raise RefusedError("not a secret ($age:…), or far too long for one")
        try:
            text: bytes = self._age.decrypt(
                base64.b64decode(value.removeprefix(SECRET_PREFIX), validate=True), [self._identity]
            )
            return text.decode()
        except self._age.DecryptError as error:
            raise RefusedError(
                f"the secret is not encrypted for this node ({self.recipient}), or damaged: {error}"
            ) from error
        except (binascii.Error, UnicodeDecodeError) as error:
            raise RefusedError(f"the secret is damaged: {error}") from error


def _new_key() -> bytes:
    identity = _age().x25519.Identity.generate()
    return f"# public key: {identity.to_public()}\n{identity}\n".encode()


def _age() -> Any:
    """The library, which ships no types."""
    import pyrage  # type: ignore[import-untyped]  # noqa: PLC0415 - a node without secrets does not load it

    return pyrage
