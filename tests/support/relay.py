"""What stands between a node and its manager, and may let go of both."""

import contextlib
import socket
import threading


class Relay:
    """A TCP relay that can cut every connection through it."""

    def __init__(self, target: str, port: int = 0) -> None:
        """Listen on loopback (port 0: any free one) and connect each caller to ``target``."""
        host, there = target.rsplit(":", 1)
        self._target = (host, int(there))
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, as a router that forgets."""
        pairs, self._pairs = self._pairs, []
        for one in pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """No more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # else the accept that is under way takes one more
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
                there = socket.create_connection(self._target)
            except OSError:
                return
            self._pairs += [caller, there]
            for source, target in ((caller, there), (there, caller)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(1 << 16):
            target.sendall(piece)
    except OSError:
        pass
