"""Who we are by our certificate, and our signature under what a manager prepared for us.

A manager could prepare something else than it was asked for; what can be checked without the tree is: whose
commit it says it is, and its message. The tree is the manager's word.
"""

from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from jlogd.confrepo.commits import parse_commit
from jlogd.confrepo.signing import sign
from jlogd.runtime.errors import RefusedError, SettingsError
from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import TlsFiles, parse_identity

FILE_BYTES_MAX = 1 << 20  # of a PEM file


def of_certificate(pem: bytes, where: str) -> tuple[str, str]:
    """(role, name) of a certificate; empty for one of another purpose. SettingsError."""
    try:
        extensions = x509.load_pem_x509_certificate(pem).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "", ""
    except ValueError as error:
        raise SettingsError([f"cert: {where} is not a PEM certificate: {error}"]) from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return next((found for found in map(parse_identity, uris) if found[0]), ("", ""))


def signer(tls: TlsFiles, message: str, *, fs: FileSystem = OS) -> Callable[[bytes], bytes] | None:
    """How ``tls.key`` signs a prepared commit; None unless the certificate is an operator's: nobody checks others'."""
    cert = _read(tls.cert, fs)
    role, name = of_certificate(cert, str(tls.cert))
    if role != "operator":
        return None
    key = _read(tls.key, fs)

    def signed(prepared: bytes) -> bytes:
        commit = parse_commit(prepared)
        if commit.author != f"{role}:{name}" or commit.message.rstrip() != message.rstrip():
            raise RefusedError(
                f"the manager prepared a commit by {commit.author}, {commit.message[:60]!r}, "
                f"not ours: nothing was signed"
            )
        return sign(prepared, cert, key)

    return signed


def _read(path: Path, fs: FileSystem) -> bytes:
    with fs.open_read(path) as file:
        return file.pread(FILE_BYTES_MAX, 0)
