"""Who signed a revision, for people to see. Nodes decide by their own check, never by this one.

A verdict is remembered for ``REMEMBER_S``: a log shows a thousand revisions, and a certificate may be denied meanwhile.
"""

import threading
from typing import Final

from jlogd.confrepo import signing
from jlogd.confrepo.model import Commit, CommitId
from jlogd.confrepo.repository import Repository
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.clock import SYSTEM, Clock
from jlogd.runtime.errors import RefusedError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import TlsFiles

REMEMBER_S: Final = 30.0
KEPT: Final = 20_000
CA_BYTES_MAX: Final = 1 << 20


class Signers:
    """See the module. Thread-safe."""

    def __init__(self, tls: TlsFiles | None, *, fs: FileSystem = OS, clock: Clock = SYSTEM) -> None:
        """``tls`` None: nothing can be verified, so nobody signed."""
        self._tls = tls
        self._fs = fs
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows; held while a signature is checked, 0.3 ms
        self._deny = DenyList(tls.deny if tls is not None else None, fs=fs)
        self._verdicts: dict[CommitId, str] = {}
        self._until_s = 0.0

    def __call__(self, repository: Repository, commit: Commit) -> str:
        """The identity; empty: nobody, or the signature is not good. StorageError, DamageError."""
        if self._tls is None or not commit.signature:
            return ""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if now_s >= self._until_s or len(self._verdicts) >= KEPT:
                self._verdicts, self._until_s = {}, now_s + REMEMBER_S
                self._authority = self._read_authority(self._tls)
            if commit.id not in self._verdicts:
                self._verdicts[commit.id] = self._verify(repository, commit)
            return self._verdicts[commit.id]

    def _verify(self, repository: Repository, commit: Commit) -> str:
        try:
            return signing.verify(
                repository.store.signed_content(commit.id), commit.signature, ca_pem=self._authority,
                denied=self._deny.denies, author=commit.author, time_s=commit.time_s,
            )  # fmt: skip
        except RefusedError:
            return ""

    def _read_authority(self, tls: TlsFiles) -> bytes:
        with self._fs.open_read(tls.ca) as file:
            return file.pread(CA_BYTES_MAX, 0)
