"""HTTP for probes and Prometheus: small, bounded, read-only.

    /healthz    200 while the process serves at all
    /readyz     200 when the daemon does its work, else 503 with the reason
    /metrics    Prometheus text; over TLS only with a client certificate of our authority

Plain HTTP is for loopback addresses only. One request a connection, 16 connections at
a time, 15 seconds each: what is slower is cut. Import this module only when
``[http] listen`` is set: ``http.server`` costs memory.
"""

import contextlib
import hashlib
import http.server
import logging
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jlogd.runtime.addresses import Address
from jlogd.runtime.certificates import DenyList
from jlogd.runtime.errors import SettingsError, UnavailableError
from jlogd.runtime.worker import OnFailure, Worker

_CONNECTIONS_MAX = 16
_CONNECTION_S_MAX = 15.0
_POLL_S = 0.5  # how often slow connections are looked for

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Readiness:
    """What ``/readyz`` says; ``reason`` is one line for people."""

    ready: bool
    reason: str = "ready"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the server's side."""

    ca: Path
    cert: Path
    key: Path


class HealthServer:
    """Serves from ``start`` to ``stop``; ``address`` then holds the real port."""

    def __init__(
        self,
        address: Address,
        *,
        readiness: Callable[[], Readiness],
        metrics: Callable[[], bytes],
        on_failure: OnFailure,
        tls: TlsFiles | None = None,
        permitted: Callable[[bytes], bool] = lambda _certificate: True,
    ) -> None:
        """Without ``tls`` the address must be loopback (``SettingsError``).

        ``permitted`` is asked with the DER bytes of a client's verified certificate, for a deny list.
        """
        if tls is None and not address.loopback:
            raise SettingsError([f"http.listen: {address} is not a loopback address, and there is no TLS"])
        self.address = address
        self._context = _context(tls) if tls else None
        self._answers = _Answers(readiness, metrics, permitted)
        self._on_failure = on_failure
        self._running: tuple[_Server, Worker] | None = None

    def start(self) -> None:
        """Listen; requests are answered when this returns. ``OSError``."""
        server = _Server(self.address, self._context, self._answers)
        self.address = Address(self.address.host, server.server_address[1])
        worker = Worker("http", lambda _worker: server.serve_forever(_POLL_S), self._on_failure)
        worker.start()
        self._running = server, worker

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._running is None:
            return
        server, worker = self._running
        if worker.alive:
            server.shutdown()
        worker.join()
        server.server_close()
        server.cut_older_than(0.0)


def serve(
    address: Address,
    files: tuple[Path | None, Path | None, Path | None],
    deny: Path | None,
    *,
    readiness: Callable[[], Readiness],
    metrics: Callable[[], bytes],
    on_failure: OnFailure,
) -> HealthServer:
    """Start a server as ``[http]`` and ``[tls]`` say; ``files``: ca, cert, key, used unless the address is loopback."""
    ca, cert, key = files
    tls = TlsFiles(ca, cert, key) if ca and cert and key and not address.loopback else None
    denied = DenyList(deny)

    def permitted(certificate: bytes) -> bool:
        return not denied.denies(hashlib.sha256(certificate).hexdigest())

    server = HealthServer(
        address, readiness=readiness, metrics=metrics, on_failure=on_failure, tls=tls, permitted=permitted
    )
    try:
        server.start()
    except OSError as error:
        raise UnavailableError(f"http.listen: cannot listen on {address}: {error.strerror}") from error
    return server


@dataclass(frozen=True, slots=True)
class _Answers:
    readiness: Callable[[], Readiness]
    metrics: Callable[[], bytes]
    permitted: Callable[[bytes], bool]


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = _CONNECTIONS_MAX

    def __init__(self, address: Address, context: ssl.SSLContext | None, answers: _Answers) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.answers = answers
        self._context = context
        self._lock = threading.Lock()  # guards _open
        self._open: dict[socket.socket, float] = {}  # since when, monotonic
        super().__init__((address.host, address.port), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 -- socketserver's signature
        with self._lock:
            if len(self._open) >= _CONNECTIONS_MAX:
                return False
            self._open[request] = time.monotonic()
            return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a slow handshake holds up nobody else."""
        request.settimeout(_CONNECTION_S_MAX)
        with contextlib.suppress(OSError):  # includes ssl.SSLError: a peer that does not speak TLS, or goes away
            if self._context is None:
                _Handler(request, client_address, self)
                return
            with self._context.wrap_socket(request.dup(), server_side=True) as secure:
                _Handler(secure, client_address, self)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self.cut_older_than(_CONNECTION_S_MAX)

    def cut_older_than(self, seconds: float) -> None:
        now = time.monotonic()
        with self._lock:
            for request, since in self._open.items():
                if now - since >= seconds:
                    with contextlib.suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 -- as above
        _log.exception("http request failed")


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    server_version = "jlogd"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._answer(200, b"ok\n")
        elif path == "/readyz":
            readiness = self.server.answers.readiness()
            self._answer(200 if readiness.ready else 503, readiness.reason.encode() + b"\n")
        elif path != "/metrics":
            self._answer(404, b"not found\n")
        elif self._permitted():
            self._answer(200, self.server.answers.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        else:
            self._answer(403, b"a client certificate is needed\n")

    do_HEAD = do_GET  # noqa: N815 -- http.server's name

    def _permitted(self) -> bool:
        if not isinstance(self.connection, ssl.SSLSocket):
            return True
        certificate = self.connection.getpeercert(binary_form=True)
        return certificate is not None and self.server.answers.permitted(certificate)

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- http.server's name
        _log.debug("%s %s", self.address_string(), format % args)


def _context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL  # probes have none; one that is shown must be good
    context.load_cert_chain(tls.cert, tls.key)
    context.load_verify_locations(tls.ca)
    return context
