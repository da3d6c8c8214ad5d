"""This manager's signature, and its judgement of others': by the files of ``[tls]``, read anew each time."""

from jlogd.confrepo import signing
from jlogd.confrepo.commits import parse_commit
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import RefusedError, StorageError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import TlsFiles


class Signer:
    """See the module. Owned by one thread; ``sign`` from any."""

    def __init__(self, tls: TlsFiles | None, *, fs: FileSystem = OS) -> None:
        """``tls`` None: signs nothing, and no signature is good."""
        self._tls = tls
        self._deny = DenyList(tls.deny if tls else None, fs=fs)

    def sign(self, content: bytes) -> bytes:
        """The signature of a commit's content; empty without TLS. StorageError, RefusedError."""
        if self._tls is None:
            return b""
        try:
            cert, key = self._tls.cert.read_bytes(), self._tls.key.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot sign: {error.filename}: {error.strerror}") from error
        return signing.sign(content, cert, key)

    def check(self, content: bytes, signature: bytes, author: str) -> None:
        """RefusedError unless ``author`` himself signed the commit of that ``content``."""
        if self._tls is None:
            raise RefusedError("this manager runs without TLS: it knows no authority to check signatures with")
        try:
            ca = self._tls.ca.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot check signatures: {error.filename}: {error.strerror}") from error
        time_s = parse_commit(content).time_s
        signer = signing.verify(content, signature, ca_pem=ca, denied=self._deny.denies, author=author, time_s=time_s)
        if signer != author:
            raise RefusedError(f"the commit is {author}'s, and {signer} signed it")
