"""Certificates as people meet them: why does a handshake fail, who is denied.

gRPC says only "handshake failed"; ``diagnose`` repeats the handshake with the standard
library and gives one clear line. It is for messages, never for decisions.
"""

import logging
import socket
import ssl
from pathlib import Path

from jlogd.runtime.fs import OS, FileSystem
from jlogd.runtime.rpc import MANAGER_SERVER_NAME, TlsFiles, split_address

log = logging.getLogger(__name__)

DIAGNOSE_TIMEOUT_S = 3.0
_EXPIRED, _NOT_YET, _HOST = 10, 9, 62  # X509_V_ERR_* of openssl
_FOREIGN = (18, 19, 20, 21)


def diagnose(address: str, tls: TlsFiles | None, *, timeout_s: float = DIAGNOSE_TIMEOUT_S) -> tuple[str, str] | None:
    """Why ``address`` cannot be reached: (reason, one line); None when everything works from here.

    The reason is ``certificate`` when a person must act, else ``unavailable``. Blocks at most twice ``timeout_s``.
    """
    host, port = split_address(address)
    try:
        with socket.create_connection((host, port), timeout_s) as plain:
            return _diagnose_tls(address, plain, tls) if tls is not None else None
    except ConnectionRefusedError:
        return "unavailable", f"{address} refuses connections: nothing listens there"
    except socket.gaierror as error:
        return "unavailable", f"{address}: the name cannot be resolved: {error.strerror}"
    except TimeoutError:
        return "unavailable", f"{address} does not answer within {timeout_s:g} s"
    except OSError as error:
        return "unavailable", f"{address}: {error.strerror or error}"


def _diagnose_tls(address: str, plain: socket.socket, tls: TlsFiles) -> tuple[str, str] | None:
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        return "certificate", f"{tls.cert}, {tls.key}: not a usable pair: {error}"
    context.set_alpn_protocols(["h2"])
    plain.getpeername()  # wrapping one that was reset already leaks it (CPython 3.11)
    try:
        with context.wrap_socket(plain, server_hostname=MANAGER_SERVER_NAME) as secure:
            # TLS 1.3: what the server thinks of our certificate comes after the handshake.
            if not secure.recv(1):
                return _closed(address, tls)
    except ssl.SSLCertVerificationError as error:
        return "certificate", _verification(address, error, tls)
    except ssl.SSLEOFError:
        return _closed(address, tls)
    except ssl.SSLError as error:
        word = (error.reason or str(error)).lower().replace("_", " ")
        if "alert" in word:
            return (
                "certificate",
                f"{address} does not accept our certificate {tls.cert} ({word}): see its expiry and authority",
            )
        return "certificate", f"{address}: TLS handshake failed: {word}"
    except ConnectionResetError:
        return _closed(address, tls)
    return None


def _closed(address: str, tls: TlsFiles) -> tuple[str, str]:
    """Either it does not like us, or it is just stopping: not for a person yet, it may go away by itself."""
    return "unavailable", f"{address} closed the TLS handshake: it stops, or does not accept our certificate {tls.cert}"


def _verification(address: str, error: ssl.SSLCertVerificationError, tls: TlsFiles) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return f"the certificate of {address} has expired: issue the manager a new one"
    if code == _NOT_YET:
        return f"the certificate of {address} is not valid yet: compare the clocks"
    if code == _HOST:
        return f"the certificate of {address} is not a manager's (it lacks {MANAGER_SERVER_NAME})"
    if code in _FOREIGN:
        return f"the certificate of {address} was not issued by our authority {tls.ca}"
    return f"the certificate of {address} does not verify: {error.verify_message}"


class DenyList:
    """Fingerprints (SHA-256 of the DER, hex) that are refused: one a line, ``#`` begins a comment.

    Read again whenever the file changes. One that went away or cannot be read keeps what was known,
    with a warning: who was refused stays refused. To deny nobody, empty the file. For one thread.
    """

    def __init__(self, path: Path | None, *, fs: FileSystem = OS) -> None:
        """Nothing is read yet."""
        self._path = path
        self._fs = fs
        self._stamp: tuple[int, int, int] | None = None
        self._denied: frozenset[str] = frozenset()
        self._unreadable = False  # said once

    def denies(self, fingerprint: str) -> bool:
        """Whether the file, as it is now, lists ``fingerprint``."""
        self._refresh()
        return bool(fingerprint) and fingerprint.lower() in self._denied

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp and not self._unreadable:
                return
            with self._fs.open_read(self._path) as file:
                text = file.pread(16 << 20, 0).decode(errors="replace")
        except OSError as error:
            if not self._unreadable:
                log.warning("%s cannot be read (%s): the deny list stays as it was", self._path, error.strerror)
            self._unreadable = True
            return
        self._unreadable = False
        words = (line.split("#")[0].strip().lower().replace(":", "") for line in text.splitlines())
        self._stamp, self._denied = stamp, frozenset(word for word in words if word)
