"""Why a manager cannot be reached: said from a connection of its own, of which nothing is left."""

import gc
import select
import socket
import struct
import threading
from pathlib import Path

import pytest

from jlogd.runtime import certificates
from managerd import pki
from tests.support.certificates import files


def test_a_connection_that_was_reset_before_its_handshake_leaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager that is killed just then: unavailable, and no socket is left to the garbage collector."""
    pki.init(tmp_path)
    pki.issue("operator", "alice", tmp_path)

    def accept(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def connect(address: tuple[str, int], timeout_s: float) -> socket.socket:
        connection = dial(address, timeout_s)
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        assert poll.poll(timeout_s * 1000), "it knows of the reset"
        return connection

    dial = socket.create_connection
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, args=(server,))
        thread.start()
        monkeypatch.setattr(socket, "create_connection", connect)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        found = certificates.diagnose(address, files(tmp_path, "alice"))
        thread.join(10)
    gc.collect()
    assert found is not None
    assert found[0] == "unavailable"
