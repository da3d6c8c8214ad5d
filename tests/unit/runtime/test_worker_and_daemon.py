"""One signal stops cleanly, a second one forces, a dying worker stops the daemon, nothing hangs."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jlogd.runtime import systemd
from jlogd.runtime.worker import Worker

APP = """
import sys, threading, time
from jlogd.runtime import daemon, logs
from jlogd.runtime.errors import LockedError, SettingsError
from jlogd.runtime.worker import Worker

mode = sys.argv[1]
forever = threading.Event()

def say(word): print(word, flush=True)

def die(worker): raise LockedError("gone") if mode == "locked" else ValueError("odd")

class App:
    def start(self, fail):
        if mode == "bad-start": raise LockedError("held by n2")
        if mode == "slow-start": say("starting"); sys.stdin.readline()
        say("started")
        if mode in ("locked", "odd"): Worker("w", die, fail).start()
    def reload(self):
        say("reloaded")
        if mode == "odd-reload": raise ValueError("odd")
        if mode == "bad-reload": raise SettingsError(["f:1: a.b: wrong"])
    def stop(self, deadline_s):
        say("stopping")
        if mode in ("slow-stop", "deadline"): forever.wait()
        if mode == "bad-stop": raise ValueError("stop failed")
        say("stopped")

logs.setup()
try:
    code = daemon.run(App(), stop_timeout_s=0.2 if mode == "deadline" else 20)
except LockedError as error:
    say(error); code = error.exit_code
sys.exit(code)
"""

Launch = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def launch() -> Iterator[Launch]:
    started: list[subprocess.Popen[str]] = []

    def start(mode: str) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", APP, mode], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_is_a_clean_stop(launch: Launch, number: signal.Signals) -> None:
    process = launch("plain")
    assert line(process) == "started"
    process.send_signal(number)
    assert process.communicate(timeout=20)[0].split() == ["stopping", "stopped"]
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_forces(launch: Launch, number: signal.Signals) -> None:
    process = launch("slow-stop")
    assert line(process) == "started"
    process.send_signal(signal.SIGTERM)
    assert line(process) == "stopping"
    process.send_signal(number)
    assert process.wait(20) == 128 + number


def test_a_stop_has_a_deadline(launch: Launch) -> None:
    process = launch("deadline")
    assert line(process) == "started"
    process.terminate()
    assert process.wait(20) == 7


def test_a_signal_while_starting_stops_once_started(launch: Launch) -> None:
    process = launch("slow-start")
    assert line(process) == "starting"
    process.terminate()
    assert process.communicate("go on\n", timeout=20)[0].split() == ["started", "stopping", "stopped"]
    assert process.returncode == 0


@pytest.mark.parametrize(("mode", "code", "words"), [("locked", 4, "worker w died"), ("odd", 1, "ValueError: odd")])
def test_a_dying_worker_stops_the_daemon(launch: Launch, mode: str, code: int, words: str) -> None:
    process = launch(mode)
    out, err = process.communicate(timeout=20)
    assert out.split() == ["started", "stopping", "stopped"]
    assert words in err
    assert process.returncode == code


def test_a_start_that_fails_is_stopped_and_raised(launch: Launch) -> None:
    process = launch("bad-start")
    out, err = process.communicate(timeout=20)
    assert out.splitlines() == ["stopping", "stopped", "held by n2"]
    assert "Traceback" not in err
    assert process.returncode == 4


def test_a_stop_that_fails_is_not_a_success(launch: Launch) -> None:
    process = launch("bad-stop")
    assert line(process) == "started"
    process.terminate()
    assert "stop failed" in process.communicate(timeout=20)[1]
    assert process.returncode == 1


@pytest.mark.parametrize("mode", ["plain", "bad-reload"])
def test_hangup_reloads_and_goes_on(launch: Launch, mode: str) -> None:
    process = launch(mode)
    assert line(process) == "started"
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
        assert line(process) == "reloaded"
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert ("reload: f:1: a.b: wrong; everything stays as it was" in err) == (mode == "bad-reload")


def test_a_reload_that_breaks_stops_cleanly(launch: Launch) -> None:
    process = launch("odd-reload")
    assert line(process) == "started"
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=20)
    assert out.split() == ["reloaded", "stopping", "stopped"]
    assert "ValueError: odd" in err
    assert process.returncode == 1


def test_a_worker_keeps_and_tells_its_failure() -> None:
    told: list[BaseException] = []

    def body(_worker: Worker) -> None:
        raise ZeroDivisionError

    worker = Worker("w", body, told.append)
    worker.start()
    assert worker.join(10)
    assert [worker.failure] == told
    assert isinstance(worker.failure, ZeroDivisionError)


def test_a_worker_stops_when_asked() -> None:
    running = threading.Event()

    def body(worker: Worker) -> None:
        running.set()
        worker.stopping.wait(60)

    worker = Worker("w", body, lambda _error: None)
    assert worker.join(0)  # never started
    worker.start()
    assert running.wait(10)
    assert worker.alive
    worker.stop()
    assert worker.join(10)
    assert worker.failure is None


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@jlogd-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(10)
        listener.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        systemd.ready("fine")
        assert listener.recv(1000) == b"READY=1\nSTATUS=fine"
        systemd.reloading()
        assert listener.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert not systemd.notify("READY=1")  # nobody there any more: silent
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not systemd.notify("READY=1")


def test_the_watchdog_is_fed_twice_per_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert systemd.watchdog_interval_s() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_interval_s() is None
