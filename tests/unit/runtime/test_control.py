"""Requests reach their handlers, errors come back as what they were, bad callers harm nobody."""

import json
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jlogd.runtime.control import ControlServer, call
from jlogd.runtime.errors import (
    DeadlineError,
    JlogdError,
    LockedError,
    SettingsError,
    StorageError,
    UnavailableError,
    UsageError,
)

RAISED = [LockedError("held"), SettingsError(["a:1: x", "b:2: y"]), StorageError("full"), UsageError("no")]


def fail(arguments: dict[str, Any]) -> dict[str, Any]:
    raise RAISED[arguments["number"]]


def crash(arguments: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("secret detail")


release = threading.Event()


def wait(arguments: dict[str, Any]) -> dict[str, Any]:
    release.wait(60)
    return {}


@pytest.fixture(params=["short", "long" * 30])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    directory = tmp_path / request.param
    directory.mkdir()
    path = directory / "control.sock"
    path.touch()  # stale
    failures: list[BaseException] = []
    release.clear()
    handlers = {"echo": lambda arguments: {"got": arguments}, "fail": fail, "crash": crash, "wait": wait}
    server = ControlServer(path, handlers, failures.append)
    server.start()
    yield path
    release.set()
    server.stop()
    assert not path.exists()
    assert failures == []


def test_round_trip(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert call(path, "echo", name="x", number=3) == {"got": {"name": "x", "number": 3}}
    assert call(path, "echo", text="y" * 60_000)["got"]["text"] == "y" * 60_000


@pytest.mark.parametrize("number", range(len(RAISED)))
def test_errors_come_back_by_reason(path: Path, number: int) -> None:
    with pytest.raises(type(RAISED[number])) as caught:
        call(path, "fail", number=number)
    assert str(caught.value) == str(RAISED[number])


def test_what_is_not_expected_stays_inside(path: Path) -> None:
    with pytest.raises(JlogdError, match="internal error") as caught:
        call(path, "crash")
    assert type(caught.value) is JlogdError
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="unknown command 'nothing'"):
        call(path, "nothing")


@pytest.mark.parametrize(
    "request_line", [b"", b"\n", b"[]\n", b"{\n", b'{"command": 3}\n', b"[" * 60_000 + b"\n", b"x" * 70_000]
)
def test_bad_requests(path: Path, monkeypatch: pytest.MonkeyPatch, request_line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        monkeypatch.chdir(path.parent)  # the whole path may not fit into a socket address
        sock.connect(path.name)
        sock.sendall(request_line)
        sock.shutdown(socket.SHUT_WR)
        assert json.loads(sock.makefile().readline())["error"]["reason"] in {"usage", "damage", "unavailable"}
    assert call(path, "echo") == {"got": {}}


def test_many_callers_at_a_time_and_a_deadline(path: Path) -> None:
    with pytest.raises(DeadlineError, match=r"within 0.05 s"):
        call(path, "wait", timeout_s=0.05)
    assert call(path, "echo") == {"got": {}}


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no daemon answers"):
        call(tmp_path / "control.sock", "status")
    (tmp_path / "control.sock").touch()
    with pytest.raises(UnavailableError, match="no daemon answers"):
        call(tmp_path / "control.sock", "status")
