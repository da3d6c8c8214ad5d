r"""The unix socket behind ``status`` and ``subscriber``: one request and one response per connection.

    request     {"command": "status", "arguments": {…}}\n       at most 64 KiB
    response    {"result": {…}}\n  or  {"error": {"reason": "locked", "message": "…"}}\n      at most 64 MiB

The socket has mode 0600: whoever may open it may do everything it offers. Errors come
back as the class with the same ``reason``.
"""

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jlogd.runtime.errors import DamageError, DeadlineError, JlogdError, SettingsError, UnavailableError, UsageError
from jlogd.runtime.fs import OS
from jlogd.runtime.worker import OnFailure, Worker

CONTROL_SOCKET = "control.sock"
Handler = Callable[[dict[str, Any]], dict[str, Any]]

_REQUEST_BYTES_MAX = 64 << 10
_RESPONSE_BYTES_MAX = 64 << 20  # the status of thousands of nodes
_IO_TIMEOUT_S = 5.0  # both ends are on this machine
_CONNECTIONS_MAX = 16
_SOCKET_PATH_MAX = 100  # sun_path holds 107 bytes

_log = logging.getLogger(__name__)


class ControlServer:
    """Serves ``handlers`` on the socket ``path`` from ``start`` to ``stop``.

    Handlers run in threads of their own, at most 16 at a time; what they raise as
    ``JlogdError`` reaches the caller. The owner lock must be held: a socket file that
    is there already is stale and is replaced.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler], on_failure: OnFailure) -> None:
        """``on_failure`` hears of an unexpected end of the server."""
        self._path = path
        self._handlers = handlers
        self._slots = threading.BoundedSemaphore(_CONNECTIONS_MAX)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._worker = Worker("control", self._serve, on_failure)

    def start(self) -> None:
        """Listen; requests are answered when this returns. ``OSError``."""
        OS.unlink(self._path, missing_ok=True)
        os.fchmod(self._listener.fileno(), 0o600)  # before bind: the file never has another mode (Linux)
        with _address(self._path) as address:
            self._listener.bind(address)
        self._listener.listen(_CONNECTIONS_MAX)
        self._worker.start()

    def stop(self) -> None:
        """Accept no more requests and remove the socket; requests under way may still be answered."""
        self._worker.stop()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._worker.join(_IO_TIMEOUT_S)
        self._listener.close()
        OS.unlink(self._path, missing_ok=True)

    def _serve(self, worker: Worker) -> None:
        while not worker.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if worker.stopping.is_set():
                    return
                raise
            while not self._slots.acquire(timeout=0.2):
                if worker.stopping.is_set():
                    connection.close()
                    return
            threading.Thread(target=self._answer, args=(connection,), name="control-call", daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_IO_TIMEOUT_S)
                response = self._respond(connection)
                connection.sendall(json.dumps(response).encode() + b"\n")
        finally:
            self._slots.release()

    def _respond(self, connection: socket.socket) -> dict[str, Any]:
        try:
            request = _decode(_receive(connection, _REQUEST_BYTES_MAX))
            command, arguments = str(request.get("command")), request.get("arguments", {})
            if command in self._handlers and isinstance(arguments, dict):
                return {"result": self._handlers[command](arguments)}
            return {"error": {"reason": UsageError.reason, "message": f"unknown command {command!r}"}}
        except JlogdError as error:
            return {"error": {"reason": error.reason, "message": str(error)}}
        except TimeoutError:
            return {"error": {"reason": DeadlineError.reason, "message": "the request did not arrive in time"}}
        except Exception:  # noqa: BLE001 -- one bad request must not stop the daemon
            _log.exception("control request failed")
            return {
                "error": {"reason": JlogdError.reason, "message": "internal error; the daemon's log has the traceback"}
            }


def call(path: Path, command: str, /, *, timeout_s: float = 30.0, **arguments: Any) -> dict[str, Any]:
    """Ask the daemon behind the socket ``path``.

    Raises what the handler raised (by reason), ``UnavailableError`` when nobody listens,
    ``DeadlineError`` when the answer takes longer than ``timeout_s``.
    """
    request = json.dumps({"command": command, "arguments": arguments}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            with _address(path) as address:
                sock.connect(address)
            sock.sendall(request)
            response = _decode(_receive(sock, _RESPONSE_BYTES_MAX))
        except TimeoutError:
            raise DeadlineError(f"no answer from {path} within {timeout_s:g} s") from None
        except OSError as error:
            raise UnavailableError(f"no daemon answers at {path}: {error.strerror}") from None
    if "error" in response:
        raise _error_of(response["error"])
    result: dict[str, Any] = response["result"]
    return result


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits into a socket address, however deep the directory."""
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _receive(sock: socket.socket, bytes_max: int) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = sock.recv(min(1 << 16, bytes_max + 1 - len(line)))
        if not piece:
            raise UnavailableError("the other end of the control socket went away")
        line += piece
        if len(line) > bytes_max:
            raise UsageError(f"message of more than {bytes_max} bytes on the control socket")
    return bytes(line)


def _decode(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise DamageError("not a JSON object on the control socket")
    return message


def _error_of(error: Mapping[str, str]) -> JlogdError:
    message = error.get("message", "")
    kind = _classes().get(error.get("reason", ""), JlogdError)
    return SettingsError(message.split("\n")) if issubclass(kind, SettingsError) else kind(message)


def _classes() -> dict[str, type[JlogdError]]:
    found: dict[str, type[JlogdError]] = {}
    pending = [JlogdError]
    while pending:
        kind = pending.pop()
        found.setdefault(kind.reason, kind)
        pending.extend(kind.__subclasses__())
    return found
